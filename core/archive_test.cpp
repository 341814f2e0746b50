#include "core/archive.h"

#include <gtest/gtest.h>

namespace trimtab {
namespace {

struct Inner {
  int32_t a = 0;
  std::vector<float> values;
  void serialise(Archive& archive) { archive(a), archive(values); }
  bool operator==(const Inner&) const = default;
};
struct Outer {
  double x = 0;
  std::vector<Inner> inner;
  std::vector<uint8_t> bytes;
  bool flag = false;
  void serialise(Archive& archive) { archive(x), archive(inner), archive(bytes), archive(flag); }
  bool operator==(const Outer&) const = default;
};

Outer sample() {
  return {.x = 0.1, .inner = {{1, {1.5f, -2.0f}}, {2, {}}}, .bytes = {7, 8, 9}, .flag = true};
}

std::string saved(Outer value) {
  Archive archive = Archive::writer();
  archive(value);
  return archive.bytes();
}

TEST(Archive, RestoresWhatItSaved) {
  Archive archive = Archive::reader(saved(sample()));
  Outer restored;
  archive(restored);
  EXPECT_EQ(restored, sample());
  EXPECT_TRUE(archive.at_end());
}

TEST(Archive, EveryTruncationIsAnError) {
  const std::string bytes = saved(sample());
  for (size_t length = 0; length < bytes.size(); ++length) {
    Archive archive = Archive::reader(bytes.substr(0, length));
    Outer restored;
    EXPECT_THROW(archive(restored), CheckpointError) << length;
  }
}

TEST(Archive, AHugeSizeAllocatesNothing) {
  std::string bytes(sizeof(uint64_t), '\xff');
  std::vector<double> values;
  Archive archive = Archive::reader(bytes);
  EXPECT_THROW(archive(values), CheckpointError);
  // More elements than bytes are left, though the count itself is not absurd.
  uint64_t count = 4;
  bytes.assign(reinterpret_cast<const char*>(&count), sizeof(count));
  bytes += std::string(5, 'x');
  Archive second = Archive::reader(bytes);
  EXPECT_THROW(second(values), CheckpointError);
}

}  // namespace
}  // namespace trimtab
