// What controllers are shown of tokens and places; confidences and distances are checked where they are used (traces_test.cpp, strategy_features_test.cpp).
#include "envs/token_commit/features.h"

#include <gtest/gtest.h>

#include <cmath>

namespace trimtab {
namespace {

constexpr int64_t kCodes = 6, kPlaces = 3;
using Row = std::vector<float>;

// Codes and places of the proposals, in the artefact's order.
struct Seen {
  std::vector<Row> codes, places;
};
Seen seen(const std::vector<MaskedPosition>& masked) {
  const CommitView view({.items = 8, .codes = kCodes, .places = kPlaces});
  const int width = view.spec().item_size(), first = CommitView({.items = 8}).spec().item_size();
  EXPECT_EQ(width, first + kCodes + 2 * kPlaces);
  const std::vector<int32_t> tokens(64, -1);
  CommitState s;
  s.length = 64, s.window = {0, 64}, s.window_masks = 64, s.tokens = tokens, s.masked = masked;
  std::vector<float> context(view.spec().context_size()), items(8 * width);
  std::vector<uint8_t> mask(8);
  view.show(s, {context.data(), items.data(), mask.data()});
  Seen out;
  for (size_t i = 0; i < masked.size(); ++i) {
    const auto at = items.begin() + static_cast<std::ptrdiff_t>(i * width + first);
    out.codes.emplace_back(at, at + kCodes), out.places.emplace_back(at + kCodes, at + kCodes + 2 * kPlaces);
  }
  return out;
}
double dot(const Row& a, const Row& b) {
  double out = 0;
  for (size_t i = 0; i < a.size(); ++i) out += double{a[i]} * b[i];
  return out;
}

TEST(commit_view, a_token_has_one_code_wherever_it_is_proposed) {
  const Seen s = seen({{.position = 0, .token = 7}, {.position = 3, .token = 9}, {.position = 40, .token = 7}});
  EXPECT_EQ(s.codes[0], s.codes[2]);
  EXPECT_NE(s.codes[0], s.codes[1]);
  EXPECT_GT(dot(s.codes[0], s.codes[0]), 0.1);
}

// cos(a) cos(b) + sin(a) sin(b) = cos(a - b): how two places relate depends on their distance alone, by periods of 4, 8 and 16 tokens.
TEST(commit_view, places_tell_distances) {
  const std::vector<MaskedPosition> masked = {{.position = 0}, {.position = 1}, {.position = 5}, {.position = 21}, {.position = 37}};
  const Seen s = seen(masked);
  for (size_t i = 0; i < masked.size(); ++i) {
    for (size_t j = 0; j < masked.size(); ++j) {
      const double distance = masked[i].position - masked[j].position;
      double expected = 0;
      for (const double period : {4.0, 8.0, 16.0}) expected += std::cos(2 * M_PI * distance / period);
      EXPECT_NEAR(dot(s.places[i], s.places[j]), expected, 1e-5) << i << " " << j;
    }
  }
}

TEST(commit_view, names_say_what_is_shown) {
  const CommitView view({.items = 4, .projected = 1, .hidden_size = 2, .codes = 1, .places = 1});
  const auto& items = view.spec().item;
  std::vector<std::string> last;
  for (size_t i = items.size() - 4; i < items.size(); ++i) last.push_back(items[i].name);
  EXPECT_EQ(last, (std::vector<std::string>{"hidden0", "code0", "sine0", "cosine0"}));
}

// Of committed tokens 0, 1, 2, 6 and 9 around masks 4 and 5 the three nearest, behind the masks and by rising position; they are seen and not chosen.
TEST(commit_view, committed_tokens_are_seen_behind_the_masks) {
  const CommitView view({.items = 4, .codes = 2, .committed = 3});
  const int width = view.spec().item_size();
  EXPECT_EQ(view.spec().item.back().name, "settled");
  ASSERT_EQ(view.spec().max_items, 7);
  std::vector<int32_t> tokens = {11, 12, 13, -1, -1, -1, 14, -1, -1, 15};
  const std::vector<MaskedPosition> masked = {{.position = 4, .token = 14}, {.position = 5, .token = 20}};
  CommitState s;
  s.length = 10, s.window = {4, 6}, s.window_masks = 2, s.tokens = tokens, s.masked = masked;
  std::vector<float> context(view.spec().context_size()), items(7 * width, -5.0f);
  std::vector<uint8_t> mask(7, 9);
  view.show(s, {context.data(), items.data(), mask.data()});
  EXPECT_EQ(mask, (std::vector<uint8_t>{kPresent, kPresent, kAbsent, kAbsent, kSeen, kSeen, kSeen}));
  const auto code = [&](int item) { return Row(items.begin() + (item + 1) * width - 3, items.begin() + (item + 1) * width - 1); };
  const auto settled = [&](int item) { return items[(item + 1) * width - 1]; };
  for (int item = 0; item < 7; ++item) EXPECT_EQ(settled(item), item >= 4 ? 1 : 0);
  EXPECT_EQ(code(6), code(0)) << "position 6 holds the token proposed at 4";
  EXPECT_NE(code(4), code(5)) << "positions 1 and 2";
  s.tokens = std::span(tokens).first(10);
  tokens[1] = 13;
  view.show(s, {context.data(), items.data(), mask.data()});
  EXPECT_EQ(code(4), code(5)) << "the same token now";
}

}  // namespace
}  // namespace trimtab
