// Learn2PD's filter: what it sees, where its fit ends, what it commits, and its file.
#include "envs/token_commit/learn2pd.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/safetensors.h"
#include "core/test_support.h"
#include "envs/token_commit/replay.h"
#include "envs/token_commit/rules.h"
#include "envs/token_commit/traced_worlds.h"

namespace trimtab {
namespace {

// Blocks of 4 from position 2 on, in an answer of 9: three of them, the last reaches one position behind the window and three behind the answer.
TEST(block_confidences, are_those_of_masks_and_1_of_all_that_is_settled) {
  const std::vector<int32_t> tokens = {7, 7, -1, 7, -1, 7, 7, -1, -1};
  const std::vector<MaskedPosition> masked = {{.position = 2, .confidence = 0.25f}, {.position = 4, .confidence = 0.5f}, {.position = 7, .confidence = 0.75f}};
  CommitState s;
  s.length = 9, s.window = {2, 8}, s.tokens = tokens, s.masked = masked;
  EXPECT_EQ(block_confidences(s, 4), (std::vector<float>{0.25f, 1, 0.5f, 1, 1, 0.75f, 0, 1}));
  EXPECT_EQ(block_confidences(s, 6), (std::vector<float>{0.25f, 1, 0.5f, 1, 1, 0.75f}));
  EXPECT_EQ(block_confidences(s, 8), (std::vector<float>{0.25f, 1, 0.5f, 1, 1, 0.75f, 0, 1}));
}

Learn2PdFilter drawn(int64_t block) {
  Learn2PdFilter f{block, std::vector<float>(block * block), std::vector<float>(block)};
  Draws d(test_seed(), Stream::kTest, static_cast<uint32_t>(block), 7);
  for (float& x : f.weight) x = d.normal();
  for (float& x : f.bias) x = d.normal();
  return f;
}

TEST(learn2pd, judges_block_by_block_from_the_windows_begin) {
  const auto filter = std::make_shared<const Learn2PdFilter>(drawn(4));
  const std::vector<int32_t> tokens = {7, -1, -1, -1, -1, -1, -1, -1};
  std::vector<MaskedPosition> masked;
  for (int32_t p = 1; p < 8; ++p) masked.push_back({.position = p, .confidence = 0.1f * static_cast<float>(p)});
  CommitState s;
  s.length = 8, s.window = {1, 8}, s.tokens = tokens, s.masked = masked;
  for (const double threshold : {0.2, 0.5, 0.8}) {
    std::vector<int32_t> expected, picks;
    for (int64_t i = 0; i < 7; ++i) {
      double logit = filter->bias[i % 4];
      for (int64_t j = 0; j < 4; ++j) {
        const int64_t other = i / 4 * 4 + j;
        logit += (other < 7 ? masked[other].confidence : 1.0f) * filter->weight[j * 4 + i % 4];
      }
      if (1 / (1 + std::exp(-logit)) >= threshold) expected.push_back(static_cast<int32_t>(i));
    }
    make_learn2pd(filter, threshold)->choose(s, picks);
    if (!expected.empty()) {
      EXPECT_EQ(picks, expected) << threshold;
    }
    EXPECT_FALSE(picks.empty());
  }
}

TEST(learn2pd, commits_the_likeliest_that_does_not_wait_where_nothing_reaches_the_threshold) {
  const auto filter = std::make_shared<const Learn2PdFilter>(Learn2PdFilter{2, {4, 0, 0, 4}, {-3, -3}});
  const std::vector<int32_t> tokens = {-1, -1, -1};
  const std::vector<MaskedPosition> masked = {{.position = 0, .confidence = 0.3f}, {.position = 1, .confidence = 0.4f},
                                              {.position = 2, .confidence = 0.9f, .ends = true, .waits = true}};
  CommitState s;
  s.length = 3, s.window = {0, 3}, s.tokens = tokens, s.masked = masked;
  std::vector<int32_t> picks;
  make_learn2pd(filter, 0.999)->choose(s, picks);
  EXPECT_EQ(picks, std::vector<int32_t>{1});
  EXPECT_THROW(make_learn2pd(filter, 1.5), ConfigError);
}

struct Traces {
  TemporaryFolder folder;
  CommitTraceReader train, validation;
  explicit Traces(const TracedWorld& world)
      : train({write_world(folder.path() / "t.safetensors", world, 80, test_seed())}),
        validation({write_world(folder.path() / "v.safetensors", world, 40, test_seed() + 1000)}) {}
};

// A world of chances: a proposal of confidence c is stable where c is above 0.7, a token's confidence is drawn.
TracedWorld world_of_confidence() {
  TracedWorld world;
  world.stable = [](const MaskedPosition& m, bool) { return m.entropy < 1; };
  world.confidence = [](bool stable, Draws& d) { return stable ? d.uniform(0.7f, 1) : d.uniform(0.2f, 0.7f); };
  return world;
}

TEST(fit_learn2pd, learns_where_confidence_tells) {
  const Traces traces(world_of_confidence());
  std::vector<Learn2PdEpoch> epochs;
  const auto filter = std::make_shared<const Learn2PdFilter>(
      fit_learn2pd(traces.train, traces.validation, {.block = 8, .epochs = 3000, .learning_rate = 0.02}, [&](const Learn2PdEpoch& e) { epochs.push_back(e); }));
  ASSERT_GE(epochs.size(), 10u);
  EXPECT_EQ(epochs.back().epoch, 3000);
  EXPECT_LT(epochs.back().validation, 0.35 * std::log(2.0));
  const ReplayFigures half = replay(*make_learn2pd(filter, 0.5), traces.validation), sure = replay(*make_learn2pd(filter), traces.validation);
  EXPECT_GT(half.scores.f05, 0.9);
  EXPECT_GT(sure.scores.precision, half.scores.precision);
  EXPECT_LT(sure.scores.recall, half.scores.recall);
}

TEST(fit_learn2pd, equal_files_and_options_give_equal_filters) {
  const Traces traces({});
  const auto fitted = [&] { return fit_learn2pd(traces.train, traces.validation, {.block = 5, .epochs = 30}); };
  EXPECT_EQ(fitted().weight, fitted().weight);
  EXPECT_THROW(fit_learn2pd(traces.train, traces.validation, {.block = 0}), ConfigError);
  EXPECT_THROW(fit_learn2pd(traces.train, traces.validation, {.epochs = 0}), ConfigError);
}

TEST(learn2pd_filter, is_read_as_it_was_written_and_refused_when_spoilt) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "f.safetensors";
  const Learn2PdFilter filter = drawn(3);
  filter.save(file);
  const Learn2PdFilter again = Learn2PdFilter::load(file);
  EXPECT_EQ(again.block, 3);
  EXPECT_EQ(again.weight, filter.weight);
  EXPECT_EQ(again.bias, filter.bias);
  const TensorFile good = read_safetensors(file);
  const auto refusal = [&](const std::function<void(TensorFile&)>& spoil) {
    TensorFile bad = good;
    spoil(bad);
    write_safetensors(file, bad);
    try {
      Learn2PdFilter::load(file);
    } catch (const DataError& error) {
      const std::string said = error.what();
      EXPECT_NE(said.find("f.safetensors"), std::string::npos) << said;
      EXPECT_NE(said.find("trimtab fit learn2pd"), std::string::npos) << said;
      return said;
    }
    return std::string();
  };
  const auto expect = [&](const char* what, const std::function<void(TensorFile&)>& spoil) {
    const std::string said = refusal(spoil);
    EXPECT_NE(said.find(what), std::string::npos) << what << " / " << said;
  };
  expect("no filter", [](TensorFile& f) { f.metadata.clear(); });
  expect("version", [](TensorFile& f) { f.metadata["learn2pd"] = "2"; });
  expect("version", [](TensorFile& f) { f.metadata["more"] = "2"; });
  for (const char* block : {"0", "-3", "x", "3 ", "99999999999999999999"}) expect("whole number", [&](TensorFile& f) { f.metadata["block"] = block; });
  expect("expected F32 [4, 4]", [](TensorFile& f) { f.metadata["block"] = "4"; });
  expect("'bias' is missing", [](TensorFile& f) { f.tensors.erase("bias"); });
  expect("finite", [](TensorFile& f) { f.tensors["bias"] = Tensor::f32({3}, std::vector<float>{0, NAN, 0}); });
  expect("beside", [](TensorFile& f) { f.tensors["more"] = Tensor::f32({1}, std::vector<float>{0}); });
  EXPECT_THROW(Learn2PdFilter::load(folder.path() / "nothing"), DataError);
}

}  // namespace
}  // namespace trimtab
