#include "policies/tokenizer/pattern.h"

#include "policies/tokenizer/pretokenize.h"
#include "policies/tokenizer/tokenizer_test_support.h"

namespace trimtab {
namespace {

std::vector<std::string> cut(std::string_view pattern, std::string_view text) {
  PreTokenizer pre_tokenizer;
  pre_tokenizer.add_split(pattern);
  PreTokenizer::Words words;
  pre_tokenizer.split(text, words);
  return {words.views.begin(), words.views.end()};
}
using Words = std::vector<std::string>;

TEST(Pattern, CutsAsGpt2) {
  EXPECT_EQ(cut(kByteLevelPattern, "Hello  world's 12 ok!\n"),
            (Words{"Hello", " ", " world", "'s", " 12", " ok", "!", "\n"}));
}

TEST(Pattern, WhiteSpaceIsUnicodes) {
  EXPECT_EQ(cut("\\s+", "a\u0085\u00A0\u2028\u3000b"), (Words{"a", "\u0085\u00A0\u2028\u3000", "b"}));
  EXPECT_EQ(cut("\\s+", "a\u180Eb\u200Bc"), (Words{"a\u180Eb\u200Bc"}));
  EXPECT_EQ(cut("[^\\s]+", "a\u3000b"), (Words{"a", "\u3000", "b"}));
  EXPECT_EQ(cut("\\S+", "a\u3000b"), (Words{"a", "\u3000", "b"}));
}

TEST(Pattern, KnowsLettersAndDigitsNewerThanPcre2) {
  EXPECT_EQ(cut("\\p{L}+", "1\U00031350\U0001E030z1"), (Words{"1", "\U00031350\U0001E030z", "1"}));
  EXPECT_EQ(cut("[\\p{N}]{1,3}", "\U00011F50\U00011F5112"), (Words{"\U00011F50\U00011F511", "2"}));
}

TEST(Pattern, FoldsCaseAsOniguruma) {
  EXPECT_EQ(cut("(?i:'s|'ll)", "a'\u017Fb'Ll"), (Words{"a", "'\u017F", "b", "'Ll"}));
}

TEST(Pattern, RefusesWhatTheTwoReadDifferently) {
  for (const char* pattern : {"\\d+",    "\\w",      "\\p{Lu}", "\\P{L}", "\\p{^L}",
                              "\\x41",   "\\h",      "\\b",     "\\1",    "\\",
                              "a.b",     "^a",       "a$",      "[a",     "[[:alpha:]]",
                              "[a&&b]",  "[]a]",     "[a\\S]",  "(?i)a",  "(?i:stra\u00DFe)",
                              "(?i:ss)", "(?i:a.)",  "(?i:a",   "(?>a)",  "(?<n>a)",
                              "(*ANY)a", "(?#x)a",   "a{,3}",   "{",      "a{1,2}+",
                              "a{x}",    "a{1,2,3}", "a{1"}) {
    const std::string message = message_of<DataError>([&] { translate_pattern(pattern); });
    EXPECT_TRUE(message.starts_with("character ")) << pattern << ": " << message;
  }
}

TEST(Pattern, RefusesWhatDoesNotCompileOrMatchesNothing) {
  for (const char* pattern : {"(a", "a)", "*a", "[z-a]", "a{9,1}", "\\s*", "a|", "", "(?=a)"})
    EXPECT_THROW(Pattern{translate_pattern(pattern)}, DataError) << pattern;
}

TEST(Pattern, SaysWhenAPatternTakesForEver) {
  const std::string message = message_of<DataError>([] { cut("(?:a+a+)+[bc]", std::string(5000, 'a')); });
  EXPECT_NE(message.find("the tokenizer's pattern cannot be matched"), std::string::npos);
}

TEST(Unicode, ReplacesOnePerMaximalPart) {
  // Unicode 15, table 3-8 and the paragraphs around it.
  const std::string r = "\uFFFD";
  EXPECT_EQ(replace_ill_formed("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(replace_ill_formed("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(replace_ill_formed("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(replace_ill_formed("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_EQ(replace_ill_formed("\xE2\x82\xAC\xF0\x9F\x98\x80\xC3"), "€😀" + r);
}

TEST(Unicode, Composes) {
  EXPECT_EQ(normalise_nfc("e\u0301"), "é");
  EXPECT_EQ(normalise_nfc("a\u0301\u0323"), "\u1EA1\u0301");
  EXPECT_EQ(normalise_nfc("\u1112\u1161\u11AB"), "한");
  EXPECT_EQ(normalise_nfc("\u212B\uF900\u0958"), "\u00C5\u8C48\u0915\u093C");
  EXPECT_EQ(normalise_nfc(std::string("a\0e\u0301", 5)), std::string("a\0\u00E9", 4));
  EXPECT_EQ(normalise_nfc("x\u0301\U0001E08F\u0323"),
            "x\u0301\U0001E08F\u0323");  // newer than Hugging Face's tables
}

TEST(Unicode, ComposingTwiceChangesNothing) {
  for (uint32_t round = 0; round < 500; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    const std::string once = normalise_nfc(random_text(draws));
    ASSERT_EQ(normalise_nfc(once), once) << "TRIMTAB_TEST_SEED=" << test_seed() << " round " << round;
  }
}

}  // namespace
}  // namespace trimtab
