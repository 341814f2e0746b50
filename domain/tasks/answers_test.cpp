#include "domain/tasks/answers.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "core/random.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

using Found = std::optional<std::string>;

TEST(HashAnswer, IsWhatFollowsTheLastMark) {
  EXPECT_EQ(hash_answer("She has 9 * 2 = $<<9*2=18>>18.\n#### 18"), Found("18"));
  EXPECT_EQ(hash_answer("#### 1\nno\n####  2,000 \nbye"), Found("2,000"));
  EXPECT_EQ(hash_answer("####-5"), Found("-5"));
  EXPECT_EQ(hash_answer("#### "), std::nullopt);
  EXPECT_EQ(hash_answer("### 5"), std::nullopt);
  EXPECT_EQ(hash_answer("#### 7\r\n"), Found("7"));
}

TEST(BoxedAnswer, MatchesBraces) {
  EXPECT_EQ(boxed_answer("so \\boxed{5}."), Found("5"));
  EXPECT_EQ(boxed_answer("\\boxed{\\frac{1}{2}}"), Found("\\frac{1}{2}"));
  EXPECT_EQ(boxed_answer("\\boxed{1} then \\boxed{ \\sqrt{2 + \\sqrt{3}} }"), Found("\\sqrt{2 + \\sqrt{3}}"));
  EXPECT_EQ(boxed_answer("\\boxed{\\{1, 2\\}}"), Found("\\{1, 2\\}"));
  EXPECT_EQ(boxed_answer("\\boxed{\\left\\{1\\right.}"), Found("\\left\\{1\\right."));
  EXPECT_EQ(boxed_answer("\\fbox{3}"), Found("3"));
  EXPECT_EQ(boxed_answer("\\boxed{1} and \\boxed{\\frac{1}{"), std::nullopt);  // cut off
  EXPECT_EQ(boxed_answer("\\boxed 5"), std::nullopt);
  EXPECT_EQ(boxed_answer("5"), std::nullopt);
}

TEST(LastNumber, IsTakenWhole) {
  const std::pair<const char*, const char*> cases[] = {
      {"it is 5", "5"},
      {"it is 5.", "5"},
      {"1 then 1,234.50 dollars.", "1,234.50"},
      {"a total of $1,234", "$1,234"},
      {"the answer is -3.", "-3"},
      {"x = -3", "-3"},
      {"8-3", "3"},
      {"8 - 3", "3"},
      {"n-3", "3"},
      {"n - 3", "3"},
      {"8 -3", "3"},
      {"(2)-3", "3"},
      {"it is 3/4 of it", "3/4"},
      {"it is \\frac{3}{4}.", "\\frac{3}{4}"},
      {"-\\frac{3}{4}", "-\\frac{3}{4}"},
      {"about 50% of them", "50%"},
      {"12 apples and x2 or y_3", "12"},
      {"version 1.2.3", "1.2"},
      {".5 of it", ".5"},
      {"from 3\u20135", "5"},
      {"\u22127 degrees", "\u22127"},
      {"2 1/2 cups", "2 1/2"},
  };
  for (const auto& [text, number] : cases) EXPECT_EQ(last_number(text), Found(number)) << text;
  for (const char* none : {"", "none", "x2", "-", "$", "\\frac", "."})
    EXPECT_EQ(last_number(none), std::nullopt);
}

TEST(FindAnswer, PrefersBoxedThenHash) {
  EXPECT_EQ(find_answer("\\boxed{1} #### 2\n3"), Found("1"));
  EXPECT_EQ(find_answer("#### 2\n3"), Found("2"));
  EXPECT_EQ(find_answer("so 3"), Found("3"));
  EXPECT_EQ(find_answer("so"), std::nullopt);
}

TEST(AnswersEqual, SameValueInAnotherForm) {
  const std::pair<const char*, const char*> cases[] = {
      {"5", "5.0"},
      {"5", "5."},
      {"5", "+5"},
      {"5", " 5 "},
      {"05", "5"},
      {"1,234", "1234"},
      {"1{,}234", "1234"},
      {"1,234,567.5", "1234567.50"},
      {"-3", "- 3"},
      {"-3", "\u22123"},
      {"-0", "0"},
      {".5", "0.5"},
      {"0.5", "1/2"},
      {"0.50", "\\frac{1}{2}"},
      {"\\frac12", "\\dfrac{2}{4}"},
      {"-\\frac{1}{2}", "\\frac{-1}{2}"},
      {"\\frac{-1}{-2}", "0.5"},
      {"4/2", "2"},
      {"2 1/2", "2.5"},
      {"2\\frac{1}{2}", "5/2"},
      {"$5", "5"},
      {"\\$5", "5"},
      {"$-5", "-$5"},
      {"$5$", "5"},
      {"$\\frac{1}{2}$", "0.5"},
      {"\\(5\\)", "5"},
      {"50%", "50"},
      {"50\\%", "0.5"},
      {"50%", "1/2"},
      {"50 %", "50%"},
      {"50 percent", "50%"},
      {"12 cm", "12"},
      {"12 cm^2", "12"},
      {"12 apples", "12"},
      {"5 dollars per hour", "$5"},
      {"12\\text{ cm}", "12"},
      {"12 \\text{ cm}^2", "12"},
      {"90^\\circ", "90"},
      {"90^{\\circ}", "90 degrees"},
      {"90\u00b0", "90"},
      {"3 m", "3"},
      {"x = 5", "5"},
      {"\\text{Yes}", "yes"},
      {"Yes.", "yes"},
      {"(1, 2)", "(1,2)"},
      {"\\left(1,2\\right)", "(1,2)"},
      {"x + 1", "x+1"},
      {"x=y+1", "y + 1"},
      {"0.1", "0.10"},
      {"\u20ac1,000", "1000"},
      {"123456789012345678901234567890", "123,456,789,012,345,678,901,234,567,890"},
  };
  for (const auto& [a, b] : cases) {
    EXPECT_TRUE(answers_equal(a, b)) << a << " and " << b;
    EXPECT_TRUE(answers_equal(b, a)) << b << " and " << a;
  }
}

TEST(AnswersEqual, AnotherValue) {
  const std::pair<const char*, const char*> cases[] = {
      {"5", "6"},
      {"5", "-5"},
      {"5", "5.01"},
      {"5", "50"},
      {"1/3", "0.333"},
      {"1/3", "0.3333333333333333"},
      {"1,23", "123"},
      {"1,2345", "12345"},
      {"12,34,567", "1234567"},
      {"0,5", "5"},
      {"1/0", "0"},
      {"1/2", "2/1"},
      {"5", ""},
      {"", "0"},
      {"5 x", "5"},
      {"5x", "5"},
      {"12 or 13", "12"},
      {"12 13", "12"},
      {"5cm", "5.1"},
      {"50%", "5"},
      {"50%", "0.05"},
      {"0.5", "50"},
      {"50%", "60%"},
      {"x", "y"},
      {"A", "B"},
      {"A", "a"},
      {"(1,2)", "(2,1)"},
      {"(1,2)", "12"},
      {"10^5", "10"},
      {"10^5", "105"},
      {"\\sqrt{2}", "2"},
      {"\\frac{x}{2}", "2"},
      {"\\frac{1}{0}", "0"},
      {"3:30", "3"},
      {"--5", "5"},
      {"yes", "no"},
      {"5/", "5"},
      {"1e3", "1000"},
      {"2 3/2", "3.5"},
      {"1234567890123456789012345678901", "1234567890123456789012345678902"},
  };
  for (const auto& [a, b] : cases) {
    EXPECT_FALSE(answers_equal(a, b)) << a << " and " << b;
    EXPECT_FALSE(answers_equal(b, a)) << b << " and " << a;
  }
}

TEST(AnswersEqual, AFractionInEveryFormEqualsItself) {
  Draws draws(test_seed(), Stream::kTest);
  for (int i = 0; i < 500; ++i) {
    const int top = static_cast<int>(draws.below(20000)) - 10000, scale = draws.below(2) == 0 ? 8 : 125;
    const int common = 1 + static_cast<int>(draws.below(9));
    const std::string plain = fmt::format("{}/{}", top, scale),
                      latex = fmt::format("\\frac{{{}}}{{{}}}", top * common, scale * common);
    const std::string decimal = fmt::format("{:.3f}", static_cast<double>(top) / scale),
                      off = fmt::format("{}/{}", top + 1, scale);
    EXPECT_TRUE(answers_equal(plain, latex)) << plain << latex;
    EXPECT_TRUE(answers_equal(plain, decimal)) << plain << decimal;
    EXPECT_FALSE(answers_equal(off, decimal)) << off << decimal;
  }
}

// Replies come from models: any bytes at all must be read without harm.
TEST(Answers, AnyTextIsRead) {
  const std::string pieces[] = {"\\boxed",
                                "\\frac",
                                "{",
                                "}",
                                "\\",
                                "$",
                                "1",
                                "23",
                                ",",
                                ".",
                                "-",
                                "/",
                                "%",
                                "####",
                                " ",
                                "\\text{",
                                "^",
                                "\xe2",
                                "\x88",
                                "\x92",
                                "x",
                                "=",
                                "\n",
                                "99999999999999999999999999999",
                                std::string(1, '\0')};
  Draws draws(test_seed(), Stream::kTest, 1);
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (uint32_t n = draws.below(12); n > 0; --n) text += pieces[draws.below(std::size(pieces))];
    const Found found = find_answer(text);
    EXPECT_TRUE(answers_equal(text, text)) << text;
    const Found number = last_number(text);
    EXPECT_TRUE(!number || parse_number(*number)) << text << ": " << *number;
    if (found) answers_equal(*found, text);
  }
}

}  // namespace
}  // namespace trimtab
