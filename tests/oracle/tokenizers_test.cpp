// Our tokenizers against PyPI tokenizers, id for id, on tokenizers of the shapes of GPT-2, Qwen2 and Llama-3
// and one with every flag of an added token: on the small golden set in golden/tokenizers, and with
// .deps/oracle on 10,000 hostile texts drawn from TRIMTAB_TEST_SEED and on every code point. Both are made by
// make_tokenizers.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/test_support.h"
#include "policies/tokenizer/pretokenize.h"
#include "policies/tokenizer/tokenizer.h"
#include "policies/tokenizer/unicode.h"
#include "tests/oracle/python.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int32_t>;

json read_json(const fs::path& file) { return json::parse(read_file(file)); }

Ids joined(const std::vector<Ids>& parts) {
  Ids all;
  for (const Ids& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// Compares on every text of a folder that make_tokenizers.py wrote; stops at the first difference per
// tokenizer.
void expect_equal_to_oracle(const fs::path& folder) {
  const json texts = read_json(folder / "texts.json").at("texts");
  ASSERT_GE(texts.size(), 100u);
  for (const char* name : {"gpt2", "qwen2", "llama3", "flags"}) {
    const auto tokenizer = load_tokenizer(folder / (std::string(name) + ".json"));
    const json expected = read_json(folder / (std::string(name) + ".expected.json"));
    const Ids before = expected["before"], after = expected["after"];
    ASSERT_EQ(expected["rows"].size(), texts.size());
    for (size_t i = 0; i < texts.size() && !testing::Test::HasFailure(); ++i) {
      SCOPED_TRACE(fmt::format("{}, text {}: {}", name, i, texts[i].dump(-1, ' ', true)));
      const json& row = expected["rows"][i];
      const std::string text = texts[i];
      const Ids ids = tokenizer->encode(text), wanted = row[0];
      EXPECT_EQ(ids, wanted);
      EXPECT_EQ(tokenizer->encode(text, {.add_special_tokens = true}), joined({before, wanted, after}));
      EXPECT_EQ(tokenizer->encode(text, {.allow_special = false}),
                row[1].is_null() ? wanted : row[1].get<Ids>());
      EXPECT_EQ(tokenizer->decode(ids), row[2].is_null() ? text : row[2].get<std::string>());
    }
  }
}

TEST(TokenizersGolden, SameIds) {
  expect_equal_to_oracle(TRIMTAB_SOURCE_DIR "/tests/oracle/golden/tokenizers");
}

class TokenizersOracle : public testing::Test {
 protected:
  void SetUp() override {
    if (!oracle_has("tokenizers"))
      GTEST_SKIP() << ".deps/oracle has no tokenizers: run scripts/setup --oracle";
  }
  // Runs make_tokenizers.py; returns where its files are.
  fs::path make(const char* options) const {
    const std::string command = fmt::format("'{}' '{}' '{}' --seed {} {}", oracle_python().string(),
                                            TRIMTAB_SOURCE_DIR "/tests/oracle/make_tokenizers.py",
                                            folder_.path().string(), test_seed(), options);
    TT_CHECK(std::system(command.c_str()) == 0, "{}", command);
    return folder_.path();
  }
  TemporaryFolder folder_;
};

TEST_F(TokenizersOracle, SameIdsOnHostileTexts) {
  SCOPED_TRACE(fmt::format("TRIMTAB_TEST_SEED={}", test_seed()));
  expect_equal_to_oracle(make(""));
}

// Lengths in code points.
std::vector<size_t> word_lengths(const PreTokenizer& pre_tokenizer, const std::string& text) {
  PreTokenizer::Words words;
  pre_tokenizer.split(text, words);
  std::vector<size_t> lengths;
  for (const std::string_view word : words.views)
    lengths.push_back(std::count_if(word.begin(), word.end(),
                                    [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
  return lengths;
}

TEST_F(TokenizersOracle, EveryCodePointIsCutAndNormalisedAlike) {
  const fs::path folder = make("--texts 1 --vocabulary 300 --code-points");
  const json llama3 = read_json(folder / "llama3.json");
  PreTokenizer pre_tokenizer;
  pre_tokenizer.add_split(llama3["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].get<std::string>());
  for (const json& row : read_json(folder / "code_points.json")) {
    const auto& text = row[0].get_ref<const std::string&>();
    SCOPED_TRACE("the block that starts with " + code_point_name(first_code_point(text.substr(1)).value));
    EXPECT_EQ(word_lengths(pre_tokenizer, text), row[1].get<std::vector<size_t>>());
    EXPECT_EQ(normalise_nfc(row[2].get_ref<const std::string&>()), row[3].get_ref<const std::string&>());
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace trimtab
