// Rollouts beside learning: bit-equal whatever the threads do, resumable, never older than allowed.
#include "trainers/language/async_rollouts.h"

#include <gtest/gtest.h>

#include "core/checkpoint.h"
#include "core/thread_ranks.h"
#include "trainers/language/test_support.h"

namespace trimtab {
namespace {

std::string run_of(int staleness, const std::string& more = "") {
  return tiny_run(fmt::format("preset: grpo, steps: 6, prompts: 4, group_size: 4, minibatches: 2, lr: 1e-2, patience: 1000, sampling: {{max_tokens: 12}}, "
                              "reward: {{overlong_cache: 11}}, mismatch: {{kind: icepop}}, async: {{staleness: {}}}{}", staleness, more));
}

std::string state(const std::filesystem::path& folder) {
  const Checkpoint c = CheckpointFolder(folder / "checkpoints").load("latest");
  return serialise_safetensors(c.state) + c.counters.dump();
}

TEST(AsyncRollouts, SampleWithWeightsOfSoManyUpdatesAgo) {
  for (const int staleness : {1, 3}) {
    TemporaryFolder folder;
    const MetricLines lines = train_in(folder.path(), run_of(staleness));
    ASSERT_EQ(lines.size(), 6u);
    for (size_t update = 0; update < lines.size(); ++update)
      EXPECT_EQ(lines[update].at("train/staleness"), std::min<double>(static_cast<double>(update), staleness));
    EXPECT_LT(lines[0].at("train/mismatch_max"), 1e-3);      // its weights are those that sampled
    EXPECT_GT(lines.back().at("train/mismatch_max"), 1e-3);
  }
}

TEST(AsyncRollouts, ThreadsDoNotChangeABitAndAResumedRunEqualsTheWhole) {
  TemporaryFolder whole, threads, cut;
  train_in(whole.path(), run_of(2));
  train_in(threads.path(), run_of(2), {"run.threads=1", "trainer.async.threads=3"});
  train_in(cut.path(), run_of(2));
  for (const char* later : {"step-000004", "step-000005", "step-000006"}) std::filesystem::remove_all(cut.path() / "checkpoints" / later);
  std::filesystem::remove(cut.path() / "checkpoints" / "latest");
  train_in(cut.path(), run_of(2));
  EXPECT_TRUE(state(whole.path()) == state(threads.path()));
  EXPECT_TRUE(state(whole.path()) == state(cut.path()));
}

TEST(AsyncRollouts, AreAnotherRunThanInTurn) {
  TemporaryFolder a, b;
  train_in(a.path(), run_of(0));
  train_in(b.path(), run_of(1));
  EXPECT_NE(CheckpointFolder(a.path() / "checkpoints").load("latest").state.at("parameters").bytes,
            CheckpointFolder(b.path() / "checkpoints").load("latest").state.at("parameters").bytes);
}

TEST(AsyncRollouts, NeedAMaskForWhatIsTooFarOff) {
  TemporaryFolder folder;
  try {
    train_in(folder.path(), run_of(1), {"trainer.mismatch.kind=none"});
    FAIL() << "trained";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("mismatch.kind"), std::string::npos) << error.what();
  }
}

TEST(AsyncRollouts, AreForOneProcess) {
  TemporaryFolder folder;
  const Config config = Config::parse(run_of(1), "async.yaml");
  EXPECT_THROW(on_ranks(2, [&](Ranks& ranks) { train(config, {.run_folder = folder.path(), .progress = false, .score = {}, .on_start = {}, .on_metrics = {}, .ranks = &ranks}); }), ConfigError);
}

// An environment that cannot judge a reply: the error arrives at the learner.
TEST(AsyncRollouts, AnErrorOfTheWorkerStopsTheRun) {
  TemporaryFolder folder;
  EXPECT_THROW(train_in(folder.path(), run_of(1), {"trainer.dynamic_sampling=1"}), RunError);   // no group of a new model has a right reply
}

}  // namespace
}  // namespace trimtab
