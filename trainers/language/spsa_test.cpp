// Trainer `spsa`: its byte, convergence on a quadratic, ranks that exchange bytes alone, and language models whose weights come back
// bit-equal from the log, from a checkpoint and on any number of threads.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/test_support.h"
#include "core/thread_ranks.h"
#include "trainers/language/job.h"
#include "trainers/language/spsa.h"
#include "trainers/language/test_environment.h"

namespace trimtab {
namespace {

TEST(ProjectionCode, IsNearMonotoneAndSaturates) {
  EXPECT_EQ(projection_value(projection_code(0)), 0);
  EXPECT_EQ(projection_value(projection_code(1)), 1);
  EXPECT_EQ(projection_value(projection_code(-1)), -1);
  EXPECT_EQ(projection_value(projection_code(1e9)), projection_value(127));
  EXPECT_EQ(projection_value(projection_code(-1e9)), projection_value(255));
  EXPECT_EQ(projection_value(projection_code(1e-9)), 0);
  EXPECT_NEAR(projection_value(1), std::exp2(-8), 1e-9);
  EXPECT_NEAR(projection_value(127), std::exp2(7.75), 1e-4);
  for (double p = std::exp2(-8); p < std::exp2(7.75); p *= 1.003) {
    EXPECT_NEAR(projection_value(projection_code(p)) / p, 1, 0.045) << p;
    EXPECT_EQ(projection_value(projection_code(-p)), -projection_value(projection_code(p)));
  }
  for (int code = 0; code < 256; ++code) {
    if (code == 128) continue;   // a second zero, never written
    EXPECT_EQ(projection_code(projection_value(static_cast<uint8_t>(code))), code);
    if (code % 128 > 0 && code % 128 < 127) {
      EXPECT_LT(std::abs(projection_value(code)), std::abs(projection_value(code + 1)));
    }
  }
}

constexpr int64_t kSize = 300;   // not a multiple of a block

std::vector<float> start() {
  Draws draws(7, Stream::kTest);
  std::vector<float> out(kSize);
  for (float& x : out) x = draws.normal();
  return out;
}
// Curvatures from 0.1 to 1, least at 1.
double quadratic(std::span<const float> x) {
  double sum = 0;
  for (int64_t i = 0; i < kSize; ++i) sum += 0.5 * (0.1 + 0.9 * static_cast<double>(i) / kSize) * (x[i] - 1.0) * (x[i] - 1.0);
  return sum / kSize;
}

TEST(Spsa, FindsTheLeastOfAQuadraticAndReplaysToTheBit) {
  for (const std::string direction : {"sign", "normal"}) {
    SCOPED_TRACE(direction);
    Pool pool(2), one(1);
    std::vector<float> x = start();
    const double before = quadratic(x);
    Spsa spsa(x, {.lr = 1.5, .epsilon = 1e-2, .decay = 3000, .directions = 2, .direction = direction}, {.seed = 5, .phase = 2}, one_process(), pool);
    for (int step = 0; step < 3000; ++step) spsa.step([&](int64_t) { return quadratic(x); });
    EXPECT_LT(quadratic(x), 0.02 * before);
    std::vector<float> again = start();
    replay_spsa(again, spsa.log(), one);
    EXPECT_EQ(x, again);
    EXPECT_EQ(spsa.steps(), 3000);
    EXPECT_THROW(replay_spsa(again, "nonsense", one), DataError);
    EXPECT_THROW(replay_spsa(std::span(again).first(9), spsa.log(), one), DataError);
    EXPECT_THROW(replay_spsa(again, spsa.log() + "x", one), DataError);
  }
}

TEST(Spsa, EvaluationsLeaveNoTrace) {
  Pool pool(1);
  std::vector<float> x = start();
  Spsa still(x, {.lr = 0, .epsilon = 0.3}, {}, one_process(), pool);
  for (int step = 0; step < 20; ++step) still.step([&](int64_t) { return quadratic(x); });
  EXPECT_EQ(x, start());
  EXPECT_THROW(still.step([](int64_t) { return std::nan(""); }), RunError);
  EXPECT_EQ(x, start());
  EXPECT_EQ(still.steps(), 20);
}

TEST(Spsa, ALogOfOtherOptionsIsRefused) {
  Pool pool(1);
  std::vector<float> x = start();
  Spsa a(x, {.lr = 0.1}, {.seed = 1}, one_process(), pool), b(x, {.lr = 0.2}, {.seed = 1}, one_process(), pool);
  EXPECT_THROW(b.restore(a.log()), CheckpointError);
}

TEST(Spsa, RanksThatExchangeBytesStayEqual) {
  constexpr int kSteps = 1500;
  std::vector<float> x[2] = {start(), start()};
  std::string logs[2];
  on_ranks(2, [&](Ranks& ranks) {
    Pool pool(1);
    const int rank = ranks.rank();
    Spsa spsa(x[rank], {.lr = 1.5, .epsilon = 1e-2, .decay = 2000, .directions = 2}, {.seed = 5}, ranks, pool);
    // Each direction sees one half of the loss, as if it had half the examples.
    for (int step = 0; step < kSteps; ++step)
      spsa.step([&](int64_t k) {
        EXPECT_EQ(k, rank);
        double sum = 0;
        for (int64_t i = k; i < kSize; i += 2) sum += (x[rank][i] - 1.0) * (x[rank][i] - 1.0);
        return sum / kSize;
      });
    logs[rank] = spsa.log();
    EXPECT_EQ(ranks.bytes_sent(), kSteps);   // one per step, to the other rank
  });
  EXPECT_EQ(x[0], x[1]);
  EXPECT_EQ(logs[0], logs[1]);
  EXPECT_LT(quadratic(x[0]), 0.05 * quadratic(start()));
  Pool pool(1);
  std::vector<float> again = start();
  replay_spsa(again, logs[0], pool);
  EXPECT_EQ(x[0], again);
}

TEST(Spsa, RanksWithoutADirectionAreRefused) {
  std::vector<float> x[2] = {start(), start()};
  EXPECT_THROW(on_ranks(2, [&](Ranks& ranks) {
    Pool pool(1);
    Spsa(x[ranks.rank()], {.directions = 1}, {.seed = 5}, ranks, pool);
  }), ConfigError);
}

// The reward is the share of a reply's characters that are digits below 5: even a new model gets some.
class LowDigits final : public OtherVerdicts {
 public:
  using OtherVerdicts::OtherVerdicts;
  std::vector<int32_t> stop_ids(const Tokenizer&) const override { return {}; }
  std::vector<std::string> stop_strings() const override { return {}; }
  std::vector<Verdict> score(std::span<const Problem>, std::span<const std::string> replies) override {
    std::vector<Verdict> out;
    for (const std::string& r : replies) {
      const auto low = std::count_if(r.begin(), r.end(), [](char c) { return c >= '0' && c < '5'; });
      out.push_back({.outcome = broken ? NAN : static_cast<double>(low) / static_cast<double>(std::max<size_t>(r.size(), 1)), .well_formed = true});
    }
    return out;
  }
  bool broken = false;
};

// A model of a few thousand parameters on the easiest chains.
class LanguageSpsa : public testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(1); }
  struct Learning {
    std::unique_ptr<LanguageJob> job;
    LanguageModel model;
    std::unique_ptr<LowDigits> environment;
    std::unique_ptr<Pool> pool;
    std::unique_ptr<LanguageLearner> learner;
    std::vector<double> losses;

    std::vector<float> parameters() const {
      const at::Tensor& flat = model.transformer->trainable();
      return {flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel()};
    }
    void go(int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) losses.push_back(learner->update(i, 0)[0].second);
    }
  };
  static std::unique_ptr<Learning> begin(const std::string& trainer, const std::filesystem::path& folder, int threads = 2,
                                         const std::string& policy = "") {
    auto out = std::make_unique<Learning>();
    out->job = std::make_unique<LanguageJob>(Config::parse(
        "run: {name: tiny, seed: 3}\nenv: {type: reasoning, suite: {type: chained_arithmetic, tiers: [1, 2]}}\n"
        "policy: {" + policy + "architecture: {hidden_size: 16, num_layers: 2, num_heads: 2, intermediate_size: 32, max_positions: 128, init_std: 0.1}}\n"
        "trainer: {preset: spsa, steps: 9, " + trainer + "}\n", "tiny"));
    const LanguagePhase& phase = out->job->phases[0];
    out->model = out->job->make_model();
    out->environment = std::make_unique<LowDigits>(out->job->make_environment(phase.env));
    out->pool = std::make_unique<Pool>(threads);
    out->learner = learner_of(phase.trainer).make(phase.trainer, {.model = &out->model, .environment = out->environment.get(),
                                                                  .pool = out->pool.get(), .seed = 3, .phase = 0, .run_folder = folder, .load_start = {}});
    return out;
  }
};

const std::string kLoss = "rows: 4, lr: 1e-3, epsilon: 1e-3, directions: 2";
const std::string kReward = "objective: reward, rows: 4, samples: 2, sampling: {temperature: 1, max_tokens: 8}, lr: 1e-3, epsilon: 1e-2";

TEST_F(LanguageSpsa, TheLogReplaysToTheBitAndThreadsChangeNothing) {
  for (const std::string& trainer : {kLoss, kReward, kLoss + ", direction: normal"}) {
    SCOPED_TRACE(trainer);
    const TemporaryFolder folder;
    const auto run = begin(trainer, folder.path()), other = begin(trainer, {}, 1);
    std::vector<float> again = run->parameters();
    run->go(0, 5), other->go(0, 5);
    EXPECT_EQ(run->parameters(), other->parameters());
    EXPECT_NE(run->parameters(), again);
    replay_spsa(again, read_file(folder.path() / "spsa.bytes"), *run->pool);
    EXPECT_EQ(run->parameters(), again);
  }
}

TEST_F(LanguageSpsa, AResumedRunEqualsTheWholeOne) {
  const TemporaryFolder folder;
  const auto whole = begin(kLoss, folder.path());
  Checkpoint checkpoint;
  whole->go(0, 3);
  const std::vector<float> third = whole->parameters();
  whole->learner->save(checkpoint);
  whole->go(3, 6);
  const std::string log = read_file(folder.path() / "spsa.bytes");
  const auto rest = begin(kLoss, folder.path());   // over the file of a run that got further
  std::copy(third.begin(), third.end(), rest->model.transformer->trainable().data_ptr<float>());
  rest->learner->load(checkpoint);
  rest->go(3, 6);
  EXPECT_EQ(whole->parameters(), rest->parameters());
  EXPECT_EQ(log, read_file(folder.path() / "spsa.bytes"));
}

TEST_F(LanguageSpsa, ALogThatCannotGrowEndsTheRun) {
  const TemporaryFolder folder;
  const auto run = begin(kLoss, folder.path());
  run->go(0, 2);
  const std::filesystem::path log = folder.path() / "spsa.bytes";
  std::filesystem::remove(log);
  std::filesystem::create_symlink("/dev/full", log);   // takes no byte, as a full disk
  try {
    run->go(2, 3);
    FAIL() << "the log has lost an update";
  } catch (const RunError& e) {
    EXPECT_EQ(std::string(e.what()), log.string() + ": cannot write it: No space left on device; free some space and resume the run");
  }
}

// A weight or a reward that is no number: the run ends, or goes on without the directions that met it.
TEST_F(LanguageSpsa, NumbersThatAreNoneEndItOrAreLeftOut) {
  for (const bool reward : {false, true}) {
    SCOPED_TRACE(reward);
    const TemporaryFolder folder;
    const auto stops = begin(reward ? kReward : kLoss, folder.path()), skips = begin((reward ? kReward : kLoss) + ", guard: {non_finite: skip}", folder.path());
    for (Learning* run : {stops.get(), skips.get()}) {
      run->go(0, 2);
      run->environment->broken = reward;
      if (!reward) run->model.transformer->trainable().data_ptr<float>()[0] = NAN;
    }
    const std::string dumped = (folder.path() / (reward ? "nonfinite.json" : "nonfinite.safetensors")).string();
    try {
      stops->go(2, 3);
      FAIL() << "trained";
    } catch (const RunError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find(" is nan at direction 0 of update 2"), std::string::npos) << message;
      EXPECT_NE(message.find(dumped), std::string::npos) << message;
    }
    EXPECT_TRUE(std::filesystem::exists(dumped));
    const std::vector<float> before = skips->parameters();
    const LanguageLearner::Metrics metrics = skips->learner->update(2, 0);
    EXPECT_EQ(metrics.back(), (std::pair<std::string, double>{"guard/not_finite", reward ? 1 : 2}));   // directions
    EXPECT_EQ(std::memcmp(before.data(), skips->parameters().data(), before.size() * sizeof(float)), 0);
    EXPECT_EQ(read_file(folder.path() / "spsa.bytes").back(), '\0');
  }
}

TEST_F(LanguageSpsa, ASpikeIsNothingItKnows) {
  try {
    begin(kLoss + ", guard: {spike: 3}", {});
    FAIL() << "made";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("guard.spike"), std::string::npos) << error.what();
  }
}

TEST_F(LanguageSpsa, WithAnAdapterItAloneLearns) {
  const TemporaryFolder folder;
  const std::filesystem::path start = folder.path() / "start";
  begin(kLoss, {})->model.save(start);
  const auto run = begin(kLoss, folder.path(), 2, "model: " + start.string() + ", lora: {rank: 2}, ");
  const at::Tensor base = run->model.transformer->flat().clone();
  std::vector<float> again = run->parameters();
  EXPECT_LT(static_cast<int64_t>(again.size()), base.numel());
  run->go(0, 5);
  EXPECT_TRUE(at::equal(base, run->model.transformer->flat()));
  EXPECT_NE(run->parameters(), again);
  replay_spsa(again, read_file(folder.path() / "spsa.bytes"), *run->pool);
  EXPECT_EQ(run->parameters(), again);
}

TEST_F(LanguageSpsa, TheRewardRises) {
  const auto run = begin("objective: reward, rows: 16, samples: 2, sampling: {temperature: 1, max_tokens: 8}, lr: 3e-3, epsilon: 1e-2, directions: 4", {});
  run->go(0, 150);
  const auto mean = [&](size_t first) { double sum = 0; for (size_t i = 0; i < 20; ++i) sum += run->losses[first + i] / 20; return sum; };
  EXPECT_GT(mean(130), mean(0) + 0.05) << mean(0);
}

TEST_F(LanguageSpsa, TheLossFalls) {
  const auto run = begin("rows: 8, lr: 3e-3, epsilon: 1e-3, directions: 4", {});
  run->go(0, 300);
  const auto mean = [&](size_t first) { double sum = 0; for (size_t i = 0; i < 20; ++i) sum += run->losses[first + i] / 20; return sum; };
  EXPECT_LT(mean(280), mean(0) - 0.5) << mean(0);
}

}  // namespace
}  // namespace trimtab
