// Replay: figures counted by hand on a trace of three passes, and controls that know.
#include "envs/token_commit/replay.h"

#include <gtest/gtest.h>

#include <functional>

#include "core/test_support.h"
#include "envs/token_commit/rules.h"
#include "envs/token_commit/traced_worlds.h"

namespace trimtab {
namespace {

class Control final : public CommitControl {
 public:
  explicit Control(std::function<void(const CommitState&, std::vector<int32_t>&)> choose) : choose_(std::move(choose)) {}
  void choose(const CommitState& s, std::vector<int32_t>& picks) override { choose_(s, picks); }

 private:
  std::function<void(const CommitState&, std::vector<int32_t>&)> choose_;
};
Control picking(std::vector<int32_t> picks) {
  return Control([picks](const CommitState&, std::vector<int32_t>& out) { out = picks; });
}

// An answer of four: words 5 and 6, then endings; the last mask is left. Pass 0 proposes 5, 9 (wrong) and waiting endings and commits the first.
std::string written(const TemporaryFolder& folder) {
  CommitTraces traces;
  traces.begin(0, {});
  std::vector<int32_t> tokens(4, -1);
  CommitState s;
  s.length = 4, s.window = {0, 4}, s.window_masks = 4, s.tokens = tokens;
  const auto pass = [&](std::vector<MaskedPosition> masked, std::vector<int32_t> picks) {
    s.masked = masked;
    traces.see(s, picks, false);
    for (const int32_t i : picks) tokens[masked[i].position] = masked[i].token, s.ended |= masked[i].ends;
    ++s.pass, ++s.window_pass;
  };
  const auto word = [](int32_t p, int32_t token, float confidence) { return MaskedPosition{.position = p, .token = token, .confidence = confidence}; };
  const auto ending = [](int32_t p, bool waits) { return MaskedPosition{.position = p, .token = 0, .confidence = 0.99f, .ends = true, .waits = waits}; };
  pass({word(0, 5, 0.6f), word(1, 9, 0.7f), ending(2, true), ending(3, true)}, {0});
  pass({word(1, 6, 0.8f), ending(2, true), ending(3, true)}, {0});
  pass({ending(2, false), ending(3, true)}, {0});
  traces.end(0, tokens);
  write_recording(folder.path() / "t.safetensors", traces.recording({}));
  return folder.path() / "t.safetensors";
}

TEST(replay, counts_what_would_have_been_committed) {
  const TemporaryFolder folder;
  const CommitTraceReader traces({written(folder)});
  // The first of each pass: all stable. Words alone: two of two stable ones, in passes 0 and 1.
  Control first = picking({0});
  ReplayFigures f = replay(first, traces);
  EXPECT_EQ(f.passes, 3);
  EXPECT_EQ(f.forced, 0);
  EXPECT_DOUBLE_EQ(f.scores.precision, 1);
  EXPECT_DOUBLE_EQ(f.scores.recall, 1);
  EXPECT_DOUBLE_EQ(f.premature, 0);
  EXPECT_DOUBLE_EQ(f.commits_per_pass, 1);
  // Everything: words 5, 9, 6, of which 9 is wrong. Endings left of which all is picked go with it; the one at position 3 is of unknown stability.
  Control all([](const CommitState& s, std::vector<int32_t>& out) {
    out.clear();
    for (int32_t i = 0; i < std::ssize(s.masked); ++i) out.insert(out.begin(), i);
  });
  f = replay(all, traces);
  EXPECT_DOUBLE_EQ(f.scores.precision, 2.0 / 3);
  EXPECT_DOUBLE_EQ(f.scores.recall, 1);
  EXPECT_DOUBLE_EQ(f.premature, 1.0 / 6);   // of 5, 9, ending; 6, ending; ending
  EXPECT_DOUBLE_EQ(f.commits_per_pass, 3);
}

TEST(replay, guards_endings_and_forces_a_commit_where_none_is_left) {
  const TemporaryFolder folder;
  const CommitTraceReader traces({written(folder)});
  // The second of each pass: the wrong word, then an ending that waits (the most confident word is forced), then one that waits for the first.
  Control second = picking({1});
  const ReplayFigures f = replay(second, traces);
  EXPECT_EQ(f.forced, 2);
  EXPECT_DOUBLE_EQ(f.scores.precision, 0);
  EXPECT_DOUBLE_EQ(f.premature, 1.0 / 3);
  EXPECT_DOUBLE_EQ(f.commits_per_pass, 1);
  Control none = picking({});
  EXPECT_EQ(replay(none, traces).forced, 3);
}

TEST(replay, of_one_who_knows_is_perfect) {
  const TemporaryFolder folder;
  const CommitTraceReader traces({write_world(folder.path() / "t.safetensors", {.block = 7}, 30, test_seed())});
  int64_t next = 0;
  TracedPass p;
  Control knows([&](const CommitState& s, std::vector<int32_t>& out) {
    traces.look(next++, p);
    ASSERT_EQ(p.state.pass, s.pass);
    out.clear();
    for (size_t i = 0; i < s.masked.size(); ++i)
      if (p.final_tokens[i] == s.masked[i].token) out.push_back(static_cast<int32_t>(i));
  });
  const ReplayFigures f = replay(knows, traces), top = replay(*make_commit_rule("top1"), traces);
  EXPECT_DOUBLE_EQ(f.scores.f05, 1);
  EXPECT_DOUBLE_EQ(f.premature, 0);
  EXPECT_DOUBLE_EQ(top.commits_per_pass, 1);
  EXPECT_GT(f.commits_per_pass, 1);
  const std::string table = replay_table({{"knows", f}, {"top1", top}});
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 3);
  EXPECT_NE(table.find("1.0000"), std::string::npos);
}

}  // namespace
}  // namespace trimtab
