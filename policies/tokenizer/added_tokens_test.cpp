#include "policies/tokenizer/added_tokens.h"

#include "policies/tokenizer/tokenizer_test_support.h"

namespace trimtab {
namespace {

// "text", "[7:token]"
std::string pieces_of(const AddedTokens& tokens, std::string_view text, bool allow_special = true) {
  std::vector<AddedTokens::Piece> pieces;
  tokens.split(text, allow_special, pieces);
  std::string out;
  for (const auto& piece : pieces)
    out += piece.id < 0 ? fmt::format("({})", piece.text) : fmt::format("[{}:{}]", piece.id, piece.text);
  return out;
}

TEST(AddedTokens, LeftmostThenLongest) {
  const AddedTokens tokens({{.id = 1, .content = "<a"},
                            {.id = 2, .content = "<a><b>"},
                            {.id = 3, .content = "a>"},
                            {.id = 4, .content = "<"}});
  EXPECT_EQ(pieces_of(tokens, "x<a><b>y"), "(x)[2:<a><b>](y)");
  EXPECT_EQ(pieces_of(tokens, "<a><c"), "[1:<a](>)[4:<](c)");
  EXPECT_EQ(pieces_of(tokens, "<<a><b"), "[4:<][1:<a](>)[4:<](b)");
  EXPECT_EQ(pieces_of(tokens, ""), "");
}

TEST(AddedTokens, TakeWhiteSpaceAlong) {
  const AddedTokens tokens(
      {{.id = 1, .content = "<l>", .lstrip = true}, {.id = 2, .content = "<r>", .rstrip = true}});
  EXPECT_EQ(pieces_of(tokens, "a \u3000<l> b"), "(a)[1: \u3000<l>]( b)");
  EXPECT_EQ(pieces_of(tokens, "a <r>\n\u0085b"), "(a )[2:<r>\n\u0085](b)");
  EXPECT_EQ(pieces_of(tokens, "<r>  <l>"), "[2:<r>  ][1:<l>]");
}

TEST(AddedTokens, SingleWordsStandAlone) {
  const AddedTokens tokens({{.id = 1, .content = "cat", .single_word = true}});
  EXPECT_EQ(pieces_of(tokens, "cat"), "[1:cat]");
  EXPECT_EQ(pieces_of(tokens, "a cat, cats _cat 1cat cat\u0301"), "(a )[1:cat](, cats _cat 1cat cat\u0301)");
}

TEST(AddedTokens, SpecialOnesCanBeText) {
  const AddedTokens tokens({{.id = 1, .content = "<s>", .special = true}, {.id = 2, .content = "<t>"}});
  EXPECT_EQ(pieces_of(tokens, "<s><t>"), "[1:<s>][2:<t>]");
  EXPECT_EQ(pieces_of(tokens, "<s><t>", false), "(<s>)[2:<t>]");
}

}  // namespace
}  // namespace trimtab
