// Budgets of tree nodes: replay is what decoding beside the text would do, costs are the model's, and what is known is worth what it says.
#include "envs/draft_length/trees/draft_tree.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/random.h"
#include "core/recording.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

// Texts in which a few phrases come again and again.
std::vector<TokenText> texts_of(int64_t count, uint32_t index) {
  Draws d(test_seed(), Stream::kTest, index);
  std::vector<std::vector<int32_t>> phrases(5);
  for (auto& p : phrases)
    for (uint32_t n = 3 + d.below(5); n > 0; --n) p.push_back(static_cast<int32_t>(d.below(12)));
  std::vector<TokenText> out(count);
  for (TokenText& t : out) {
    while (t.tokens.size() < 60) {
      const auto& p = phrases[d.below(5)];
      t.tokens.insert(t.tokens.end(), p.begin(), p.end());
      if (d.below(3) == 0) t.tokens.push_back(static_cast<int32_t>(d.below(12)));
    }
    t.entropy.assign(t.tokens.size(), 0.5f);
  }
  return out;
}

// A drafter that is asked beside the text, token by token, as a decoder would.
TEST(tree_table, is_what_a_drafter_says_beside_the_text) {
  const auto texts = texts_of(6, 1);
  const DraftTreeOptions o;
  const std::vector<int64_t> budgets = {0, 1, 4, 16};
  const TreeTable table(texts, o.drafter, budgets);
  const auto drafter = make_drafter(o.drafter);
  int64_t accepted = 0;
  for (int64_t t = 0; t < table.texts(); ++t) {
    const auto& tokens = texts[t].tokens;
    drafter->begin(t, {});
    for (size_t p = 0; p < tokens.size(); ++p) {
      for (size_t b = 0; b < budgets.size(); ++b) {
        const TreeOutcome& said = table.at(t, static_cast<int64_t>(p))[b];
        const DraftTree tree = budgets[b] > 0 ? drafter->draft(t, budgets[b]) : DraftTree{};
        ASSERT_EQ(said.nodes, tree.size());
        ASSERT_LE(said.nodes, budgets[b]);
        // The longest path from the top that spells the text, over all nodes.
        int64_t longest = 0;
        for (int64_t node = 0; node < tree.size(); ++node) {
          std::vector<int32_t> path;
          for (int64_t n = node; n >= 0; n = tree.parents[n]) path.insert(path.begin(), tree.tokens[n]);
          if (p + path.size() <= tokens.size() && std::equal(path.begin(), path.end(), tokens.begin() + static_cast<std::ptrdiff_t>(p))) longest = std::max<int64_t>(longest, path.size());
        }
        ASSERT_EQ(said.accepted, longest);
        accepted += longest;
      }
      drafter->append(t, std::span(tokens).subspan(p, 1));
    }
    drafter->finish(t);
  }
  EXPECT_GT(accepted, 200);
}

TEST(draft_tree, a_text_is_committed_whole_and_time_is_the_cost_models) {
  DraftTreeOptions o;
  o.cost.verify_least = 0;
  const DraftTreeBudget env(o, texts_of(5, 2));
  Draws d(test_seed(), Stream::kTest, 3);
  for (uint64_t episode = 0; episode < 20; ++episode) {
    DraftTreeBudget::State s;
    env.reset(s, {test_seed(), episode});
    double tokens = 0, ms = 0, reward = 0, priced = 0;
    for (bool over = false; !over;) {
      const float action = static_cast<float>(d.below(static_cast<uint32_t>(env.budgets().size())));
      const TreeOutcome o2 = env.table().at(s.text, s.position)[static_cast<size_t>(action)];
      const int64_t batch = s.batch;
      float terms[2];
      env.act(s, 0, &action);
      over = env.step(s, terms).terminated;
      const double round = (o2.nodes > 0 ? o.cost.draft : 0) + o.cost.verify + o.cost.verify_token * static_cast<double>(batch * (o2.nodes + 1));
      tokens += terms[0], ms += round, reward += terms[1], priced += round * env.reference_rate(batch);
    }
    EXPECT_EQ(tokens, static_cast<double>(env.table().length(s.text)));
    EXPECT_NEAR(s.episode_ms, ms, 1e-9);
    EXPECT_NEAR(-reward / priced, 1, 0.15);   // lambda is still near where it began
  }
}

// More nodes accept more, over all positions (at one of them another match may be taken); in a large batch they cost more than they bring.
TEST(draft_tree, more_nodes_accept_more_and_a_large_batch_wants_none) {
  DraftTreeOptions o;
  o.high_batch = 1024;
  const DraftTreeBudget env(o, texts_of(12, 4));
  std::vector<int64_t> accepted(env.budgets().size());
  for (int64_t t = 0; t < env.table().texts(); ++t)
    for (int64_t p = 0; p < env.table().length(t); ++p)
      for (size_t b = 0; b < accepted.size(); ++b) accepted[b] += env.table().at(t, p)[b].accepted;
  for (size_t b = 1; b < accepted.size(); ++b) EXPECT_GE(accepted[b], accepted[b - 1]) << b;
  EXPECT_GT(env.budgets()[env.best_fixed(1)], 4);
  EXPECT_EQ(env.budgets()[env.best_fixed(1024)], 0);
}

// Who knows what will be accepted is ahead of every fixed budget, and a label is what that one does.
TEST(draft_tree, knowing_is_worth_most) {
  const DraftTreeBudget env({}, texts_of(12, 5));
  for (const int64_t batch : {1, 8, 64}) {
    double tokens = 0, ms = 0;
    for (int64_t t = 0; t < env.table().texts(); ++t) {
      DraftTreeBudget::State s;
      env.begin(s, {}, t, batch);
      for (DraftTreeBudget::Round r; !r.over; tokens += static_cast<double>(r.tokens), ms += r.ms) {
        EXPECT_EQ(env.label(s, 0), env.best_budget(s, env.reference_rate(batch), true));
        r = env.round(s, env.label(s, 0));
      }
    }
    EXPECT_GE(tokens / ms, env.reference_rate(batch)) << batch;
  }
}

TEST(draft_tree, refuses_what_it_cannot_replay) {
  const auto says = [](const std::string& yaml) -> std::string {
    try {
      draft_tree_options(Config::parse(yaml, "env.yaml"));
      read_token_texts({});
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(says("{drafter: {method: token_recycling}}").find("suffix"), std::string::npos);
  EXPECT_NE(says("{low_batch: 8, high_batch: 4}").find("below"), std::string::npos);
  EXPECT_NE(says("{cost: {payload_bits: 8}}").find("draft_length"), std::string::npos);
  EXPECT_NE(says("{}").find("trimtab record"), std::string::npos);
  DraftTreeOptions o;
  o.budgets = "4,2";
  EXPECT_THROW(DraftTreeBudget(o, texts_of(1, 6)), ConfigError);
}

}  // namespace
}  // namespace trimtab
