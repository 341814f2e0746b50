// Tree rollouts: segments, advantages where replies part, gradients of shared stems, and runs that branch.
#include "trainers/language/tree.h"

#include <ATen/ATen.h>

#include <gtest/gtest.h>

#include "core/checkpoint.h"
#include "core/error.h"
#include "core/random.h"
#include "trainers/language/group_options.h"
#include "trainers/language/scorer.h"
#include "trainers/language/test_support.h"

namespace trimtab {
namespace {

std::vector<int32_t> tokens(int64_t n, Draws& draws) {
  std::vector<int32_t> out(n);
  for (int32_t& t : out) t = static_cast<int32_t>(draws.below(20));
  return out;
}

// Replies in depth-first order: each begins as the one before it does, for a random number of tokens (all of them: an early end).
struct Tree {
  std::vector<std::vector<int32_t>> replies;
  std::vector<int64_t> shared;
};
Tree random_tree(uint32_t round) {
  Draws draws(test_seed(), Stream::kTest, round, 77);
  Tree out;
  for (uint32_t r = 0, n = 1 + draws.below(9); r < n; ++r) {
    std::vector<int32_t> reply;
    const uint32_t longest = r == 0 ? 0 : static_cast<uint32_t>(out.replies.back().size());
    const int64_t shared = r == 0 ? 0 : draws.below(longest + 1);
    if (shared > 0) reply.assign(out.replies.back().begin(), out.replies.back().begin() + shared);
    const std::vector<int32_t> more = tokens(shared > 0 && draws.below(3) == 0 ? 0 : 1 + draws.below(6), draws);
    reply.insert(reply.end(), more.begin(), more.end());
    out.replies.push_back(reply), out.shared.push_back(shared);
  }
  return out;
}

TEST(Tree, SegmentsMakeUpEveryReply) {
  for (uint32_t round = 0; round < 50; ++round) {
    const Tree tree = random_tree(round);
    std::vector<SharedReply> replies;
    for (size_t i = 0; i < tree.replies.size(); ++i) replies.push_back({static_cast<int64_t>(tree.replies[i].size()), tree.shared[i]});
    std::vector<int64_t> told(replies.size(), 0);
    int64_t stored = 0, wanted = 0;
    const std::vector<TreeSegment> segments = tree_segments(replies);
    for (const TreeSegment& s : segments) {
      EXPECT_LT(s.begin, s.end);
      if (s.parent >= 0) {
        EXPECT_EQ(segments[s.parent].end, s.begin);
      }
      for (int64_t i = s.first; i < s.last; ++i) {
        EXPECT_EQ(told[i], s.begin);
        told[i] = s.end;
      }
      stored += s.end - s.begin;
    }
    for (size_t i = 0; i < replies.size(); ++i) {
      EXPECT_EQ(told[i], replies[i].length);
      wanted += replies[i].length - (i > 0 ? replies[i].shared : 0);
    }
    EXPECT_EQ(stored, wanted);   // what is shared is there once
  }
}

TEST(Tree, SiblingAdvantagesCompareWhatPartsAtOnePoint) {
  // Two stems of 3 tokens with two branches each; rewards 1, 0 | 0, 0.
  const std::vector<SharedReply> replies = {{5, 0}, {6, 3}, {5, 0}, {4, 3}};
  const std::vector<double> rewards = {1, 0, 0, 0};
  std::vector<std::vector<double>> got;
  for (const SharedReply& r : replies) got.emplace_back(r.length, 99.0);
  sibling_advantages(replies, rewards, GroupBaseline::kMean, 0, [&](int64_t reply, int64_t begin, int64_t end, double a) {
    std::fill(got[reply].begin() + begin, got[reply].begin() + end, a);
  });
  EXPECT_EQ(got[0], (std::vector<double>{.25, .25, .25, .5, .5}));
  EXPECT_EQ(got[1], (std::vector<double>{.25, .25, .25, -.5, -.5, -.5}));
  EXPECT_EQ(got[2], (std::vector<double>{-.25, -.25, -.25, 0, 0}));
  EXPECT_EQ(got[3], (std::vector<double>{-.25, -.25, -.25, 0}));
}

TEST(Tree, ALoneSegmentHasNothingToBeComparedWith) {
  const std::vector<SharedReply> replies = {{3, 0}, {4, 2}};
  const std::vector<double> rewards = {1, 0};
  for (const auto kind : {GroupBaseline::kMean, GroupBaseline::kMeanStd, GroupBaseline::kLeaveOneOut})
    sibling_advantages(replies, rewards, kind, 1e-6, [&](int64_t, int64_t begin, int64_t, double a) { EXPECT_TRUE(begin > 0 || a == 0); });
}

struct Outcome {
  std::vector<float> logp;
  at::Tensor gradient;
  int64_t computed = 0;
};

// Every row's loss is its log-probability times a weight and an advantage of its own reply, and a little entropy.
Outcome gradient_of(const Transformer& model, const std::vector<PackedGroup>& groups, int64_t rows, const PackingOptions& options) {
  Outcome out{std::vector<float>(rows, 1), {}, 0};
  Pool pool(2);
  Scorer scorer(model, {.shards = 2});
  model.flat_gradient().zero_();
  const std::vector<MicroBatch> batches = pack(groups, options);
  for (const MicroBatch& b : batches) out.computed += b.tokens.numel();
  scorer.backward(batches, 0.9, [&](int64_t, const Scorer::Rows& r) {
    for (size_t k = 0; k < r.row.size(); ++k) {
      EXPECT_EQ(out.logp[r.row[k]], 1) << "row " << r.row[k] << " came twice";
      out.logp[r.row[k]] = r.logp[k], r.d_logp[k] = 0.1f * static_cast<float>(r.row[k] % 7) - 0.3f, r.d_entropy[k] = 0.05f;
    }
  }, pool);
  out.gradient = model.flat_gradient().clone();
  return out;
}

TEST(Tree, AStemsGradientIsThatOfItsRepliesPackedApart) {
  TransformerConfig c;
  c.vocab_size = 20, c.hidden_size = 16, c.num_layers = 2, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 8, c.intermediate_size = 24;
  const Transformer model(c, 7, at::kFloat, {0.3, 0.3});
  for (uint32_t round = 0; round < 20; ++round) {
    const std::vector<int32_t> prompt = {1, 2, 3};
    const Tree trees[] = {random_tree(2 * round), random_tree(2 * round + 1)};
    std::vector<PackedGroup> groups, apart;
    int64_t rows = 0;
    for (const Tree& tree : trees) {
      groups.push_back({prompt, {}}), apart.push_back({prompt, {}});
      for (size_t i = 0; i < tree.replies.size(); ++i) {
        const auto n = static_cast<int64_t>(tree.replies[i].size());
        const int64_t end = (round + i) % 5 == 4 ? 0 : n;   // now and then one is left out
        groups.back().replies.push_back({tree.replies[i], rows, 0, end, tree.shared[i]});
        apart.back().replies.push_back({tree.replies[i], rows, 0, end});
        rows += n;
      }
    }
    const Outcome independent = gradient_of(model, apart, rows, {.token_budget = 1 << 20, .shared_prefix = false});
    for (const PackingOptions& options : {PackingOptions{.token_budget = 1 << 20}, PackingOptions{.token_budget = 14}, PackingOptions{.token_budget = 1 << 20, .at_least = 3}}) {
      const Outcome shared = gradient_of(model, groups, rows, options);
      for (int64_t i = 0; i < rows; ++i) ASSERT_NEAR(independent.logp[i], shared.logp[i], 2e-5) << "round " << round << ", row " << i;
      ASSERT_TRUE(at::allclose(independent.gradient, shared.gradient, 1e-3, 2e-5)) << "round " << round;
      EXPECT_LE(shared.computed, independent.computed);
    }
  }
}

const std::string kTree = "steps: 4, prompts: 4, group_size: 4, minibatches: 2, lr: 1e-3, token_budget: 128, patience: 1000, sampling: {max_tokens: 12}, "
                          "reward: {overlong_cache: 11}, dynamic_sampling: 0, verify_shared_prefix: always, ";

std::vector<uint8_t> parameters(const std::filesystem::path& run) {
  return CheckpointFolder(run / "checkpoints").load("latest").state.at("parameters").bytes;
}

TEST(TreeRun, StemsAreSharedAndTheRepeatedForwardTrainsAlike) {
  for (const std::string more : {"tree: {depth: 1, at: [4]}", "tree: {depth: 2, advantage: sibling}", "preset: gspo, tree: {depth: 1, branches: 4, at: [0.5]}"}) {
    SCOPED_TRACE(more);
    TemporaryFolder a, b;
    const std::string yaml = tiny_run((more.starts_with("preset") ? "" : "preset: grpo, ") + kTree + more);
    const MetricLines shared = train_in(a.path(), yaml), repeated = train_in(b.path(), yaml, {"trainer.shared_prefix=false", "run.threads=1"});
    ASSERT_EQ(shared.size(), repeated.size());
    double gradient = 0;
    for (size_t i = 0; i < shared.size(); ++i) {
      if (!shared[i].contains("train/grad_norm")) continue;
      EXPECT_GT(shared[i].at("train/tree_shared"), 0.1);
      EXPECT_LT(shared[i].at("train/mismatch_max"), 1e-3);
      EXPECT_NEAR(shared[i].at("train/grad_norm"), repeated[i].at("train/grad_norm"), 1e-3 * (1 + shared[i].at("train/grad_norm")));
      gradient += shared[i].at("train/grad_norm");
    }
    EXPECT_GT(gradient, 0);
  }
}

TEST(TreeRun, AStoppedAndResumedRunEqualsTheWholeOne) {
  const std::string yaml = tiny_run("preset: grpo, " + kTree + "tree: {depth: 2, advantage: sibling}");
  TemporaryFolder whole, cut;
  train_in(whole.path(), yaml);
  train_in(cut.path(), yaml);
  for (const char* step : {"step-000003", "step-000004"}) std::filesystem::remove_all(cut.path() / "checkpoints" / step);
  std::filesystem::remove(cut.path() / "checkpoints" / "latest");
  EXPECT_EQ(train_in(cut.path(), yaml).front().at("step"), 3);
  EXPECT_EQ(parameters(whole.path()), parameters(cut.path()));
}

TEST(TreeRun, OptionsThatDoNotFitAreToldWithACure) {
  const auto refused = [](auto change, const std::string& part) {
    GroupOptions options;
    options.tree.depth = 1;
    change(options);
    try {
      options.tree.validate();
      options.validate();
      ADD_FAILURE() << "taken: " << part;
    } catch (const ConfigError& e) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  };
  refused([](GroupOptions& o) { o.group_size = 9; }, "group_size 9");
  refused([](GroupOptions& o) { o.carry_over.tokens = 100; }, "carry_over");
  refused([](GroupOptions& o) { o.tree.at = {4, 8}; }, "2 numbers for depth 1");
  refused([](GroupOptions& o) { o.tree.depth = 2, o.tree.at = {0.5, 0.25}; }, "rising");
  refused([](GroupOptions& o) { o.tree.depth = 2, o.tree.at = {0.5, 25}; }, "one kind");
  refused([](GroupOptions& o) { o.tree.at = {4000}; }, "max_tokens");
  refused([](GroupOptions& o) { o.tree.advantage = "sibling", o.seams.advantage = "smooth"; }, "smooth");
}

}  // namespace
}  // namespace trimtab
