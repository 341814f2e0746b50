#include "core/files.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "core/test_support.h"
#include "core/text.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

TEST(Files, WritesWholeAndReplaces) {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "x";
  write_file_atomically(file, "one");
  EXPECT_EQ(read_file(file), "one");
  const std::string large(3 << 20, 'z');
  write_file_atomically(file, large);
  EXPECT_EQ(read_file(file), large);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1)
      << "something was left beside the file";
}

TEST(Files, ErrorsNameTheFileAndTheCause) {
  const TemporaryFolder folder;
  try {
    write_file_atomically(folder.path() / "absent" / "x", "one");
    FAIL() << "wrote into a folder that is not there";
  } catch (const CheckpointError& error) {
    EXPECT_NE(std::string(error.what()).find("absent/x.tmp: cannot write it: No such file"),
              std::string::npos)
        << error.what();
  }
  EXPECT_THROW(read_file(folder.path() / "absent"), DataError);
  EXPECT_THROW(read_file(folder.path()), DataError);
  EXPECT_THROW(hash_file(folder.path() / "absent"), DataError);
}

TEST(FilesDeathTest, AFullDiskLeavesTheOldFile) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto fill = [] {
    const TemporaryFolder folder;
    const fs::path file = folder.path() / "x";
    write_file_atomically(file, "old");
    limit_file_size(1000);
    try {
      write_file_atomically(file, std::string(5000, 'n'));
    } catch (const CheckpointError& error) {
      const bool alone = std::distance(fs::directory_iterator(folder.path()), {}) == 1;
      std::fprintf(stderr, "%s\n", error.what());
      std::exit(read_file(file) == "old" && alone ? 0 : 1);
    }
    std::exit(2);
  };
  EXPECT_EXIT(fill(), testing::ExitedWithCode(0), "cannot write it: File too large; free some space");
}

TEST(Hashes, MatchPublishedVectors) {
  const TemporaryFolder folder;
  const auto sha = [&](const std::string& text) {
    std::ofstream(folder.path() / "x", std::ios::binary) << text;
    return sha256_file(folder.path() / "x");
  };
  // NIST's examples for FIPS 180-4; at 56 bytes the padding needs a second block.
  EXPECT_EQ(sha(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(hash_bytes(""), "99aa06d3014798d86001c324468d497f");  // xxh128sum of an empty file
}

TEST(Hashes, AFileAndItsBytesAgree) {
  const TemporaryFolder folder;
  const std::string text((2 << 20) + 17, 'q');  // several pieces and a rest
  std::ofstream(folder.path() / "x", std::ios::binary) << text;
  EXPECT_EQ(hash_file(folder.path() / "x"), hash_bytes(text));
  EXPECT_NE(hash_bytes(text), hash_bytes(text + "q"));
}

TEST(Text, KnowsUtf8) {
  for (const char* good :
       {"", "a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf"}) {
    EXPECT_TRUE(is_utf8(good)) << good;
  }
  for (const char* bad : {"\x80", "\xc0\x80", "\xc3", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "a\xff"}) {
    EXPECT_FALSE(is_utf8(bad)) << bad;
  }
}

TEST(Text, SplitsAndJoins) {
  EXPECT_EQ(split("", '.'), std::vector<std::string>{});
  EXPECT_EQ(split("a.b.", '.'), (std::vector<std::string>{"a", "b", ""}));
  EXPECT_EQ(join({"a", "b"}, ", "), "a, b");
  EXPECT_EQ(join({}, ", "), "");
}

}  // namespace
}  // namespace trimtab
