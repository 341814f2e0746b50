// Sources of quality: the synthetic truth is linear and bounded, recorded tables are replayed as they are, and others are refused.
#include "envs/adapter_route/tables.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>

#include "core/error.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

TEST(SyntheticQualities, ContextsAreUnitVectorsWithAConstantFeature) {
  const auto source = synthetic_qualities({});
  Prompt a, again, other;
  for (int64_t i = 0; i < 50; ++i) {
    source->prompt(test_seed(), i, i % 15, a), source->prompt(test_seed(), i, i % 15, again), source->prompt(test_seed() + 1, i, i % 15, other);
    double square = 0;
    for (const float v : a.x) square += static_cast<double>(v) * v;
    EXPECT_NEAR(square, 1, 1e-5);
    EXPECT_FLOAT_EQ(a.x.back(), std::sqrt(0.5f));
    EXPECT_EQ(std::ssize(a.x), source->dimension());
    EXPECT_EQ(a.x, again.x);
    EXPECT_NE(a.x, other.x);
  }
}

// q = middle + reach cos: linear in x, at most middle + reach, and known for the base model.
TEST(SyntheticQualities, AreLinearWithKnownBounds) {
  const SyntheticQualityOptions options;
  const auto source = synthetic_qualities(options);
  Prompt a, b, mean;
  for (int64_t i = 0; i < 50; ++i) {
    source->prompt(1, i, i % 15, a), source->prompt(2, i, (i + 3) % 15, b);
    mean = a;
    for (size_t k = 0; k < mean.x.size(); ++k) mean.x[k] = (a.x[k] + b.x[k]) / 2;
    for (int64_t m = 0; m <= source->adapters(); ++m) {
      EXPECT_NEAR(source->quality(mean, m), (source->quality(a, m) + source->quality(b, m)) / 2, 1e-6);
      EXPECT_LE(std::abs(source->quality(a, m) - options.middle), options.reach + 1e-6);
    }
    EXPECT_NEAR(source->quality(a, source->adapters()), options.base, 1e-6);
  }
}

TEST(SyntheticQualities, AnAdapterIsBestAtHome) {
  const auto source = synthetic_qualities({.spread = 0.1, .mismatch = 0.1});
  for (int64_t task = 0; task < source->tasks(); ++task) {
    EXPECT_EQ(source->home(task), task);
    Prompt p;
    source->prompt(test_seed(), task, task, p);
    for (int64_t a = 0; a <= source->adapters(); ++a) EXPECT_LE(source->quality(p, a), source->quality(p, task));
  }
}

// Three prompts of task "code", two of "poems"; two adapters and the base model.
Recording example() {
  Recording out;
  out.environment = "adapter_route";
  out.facts = {{"producer", "a test"}};
  out.episodes = {{0, 3, {{"task", "code"}}}, {3, 2, {{"task", "poems"}}}};
  out.columns["embedding"].values = Tensor::f32({5, 2}, std::vector<float>{1, 0, 2, 0, 0.5f, 0.1f, 0, 3, 0.1f, 1});
  out.columns["quality"].values = Tensor::f32({5, 3}, std::vector<float>{1, 0, 0.5f, 0.9f, 0, 0.5f, 0.8f, 0.1f, 0.5f, 0, 1, 0.5f, 0.2f, 0.9f, 0.5f});
  return out;
}

class QualityTables : public testing::Test {
 protected:
  std::string put(const Recording& recording, const std::string& name = "table.safetensors") const {
    const fs::path file = folder_.path() / name;
    write_recording(file, recording);
    return file.string();
  }
  void expect_refused(const std::function<void(Recording&)>& fault, const std::string& expected) const {
    Recording recording = example();
    fault(recording);
    const std::string file = put(recording);
    try {
      recorded_qualities({file});
      ADD_FAILURE() << "accepted: " << expected;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(file), std::string::npos) << "does not name the file: " << error.what();
    }
  }
  TemporaryFolder folder_;
};

TEST_F(QualityTables, AreReplayedAsTheyAre) {
  const auto source = recorded_qualities({put(example())});
  EXPECT_EQ(source->adapters(), 2);
  EXPECT_EQ(source->tasks(), 2);
  EXPECT_EQ(source->dimension(), 3);
  EXPECT_EQ(source->noise(), 0);
  EXPECT_EQ(source->home(0), 0);
  EXPECT_EQ(source->home(1), 1);
  const Recording table = example();
  const std::span<const float> quality = table.f32("quality", 3);
  std::set<int64_t> seen;
  for (int64_t i = 0; i < 200; ++i) {
    Prompt p;
    source->prompt(test_seed(), i, i % 2, p);
    seen.insert(p.row);
    EXPECT_EQ(p.row >= 3, i % 2 == 1);
    for (int64_t a = 0; a < 3; ++a) EXPECT_EQ(source->quality(p, a), quality[p.row * 3 + a]);
    EXPECT_NEAR(p.x[0] * p.x[0] + p.x[1] * p.x[1], 0.5, 1e-6);
  }
  EXPECT_EQ(seen.size(), 5u);
}

TEST_F(QualityTables, FilesOfTheSameTasksAreOne) {
  Recording second = example();
  second.episodes = {{0, 5, {{"task", "poems"}}}};
  const auto source = recorded_qualities({put(example()), put(second, "second.safetensors")});
  EXPECT_EQ(source->tasks(), 2);
  std::set<int64_t> rows;
  Prompt p;
  for (int64_t i = 0; i < 200; ++i) source->prompt(test_seed(), i, 1, p), rows.insert(p.row);
  EXPECT_EQ(rows, (std::set<int64_t>{3, 4, 5, 6, 7, 8, 9}));
}

// The column is read as it is, and told of no table that has none; files have it all or none.
TEST_F(QualityTables, TellTheFormOfAnswersWhereItWasRecorded) {
  Recording formed = example();
  std::vector<float> share{1, 0, 0.5f, 1, 0.25f, 1, 0.9f, 0.5f, 0.75f, 0, 1, 1, 0.5f, 1, 0.5f};
  formed.columns["well_formed"].values = Tensor::f32({5, 3}, share);
  const std::string with = put(formed, "with.safetensors"), without = put(example());
  const auto source = recorded_qualities({with});
  EXPECT_TRUE(source->tells_form());
  Prompt p;
  for (int64_t i = 0; i < 50; ++i) {
    source->prompt(test_seed(), i, i % 2, p);
    for (int64_t a = 0; a < 3; ++a) EXPECT_EQ(source->well_formed(p, a), share[p.row * 3 + a]);
  }
  const auto silent = recorded_qualities({without});
  EXPECT_FALSE(silent->tells_form());
  EXPECT_EQ(silent->well_formed(p, 0), 1);
  EXPECT_TRUE(recorded_qualities({with, with})->tells_form());
  EXPECT_THROW(recorded_qualities({with, without}), DataError);
  EXPECT_THROW(recorded_qualities({without, with}), DataError);
}

TEST_F(QualityTables, TellTheRanksOfTheirAdapters) {
  EXPECT_TRUE(recorded_qualities({put(example())})->ranks().empty());
  Recording ranked = example();
  ranked.facts["ranks"] = "4 64";
  const std::string file = put(ranked, "ranked.safetensors");
  const auto source = recorded_qualities({file, file});
  EXPECT_EQ(std::vector<int64_t>(source->ranks().begin(), source->ranks().end()), (std::vector<int64_t>{4, 64}));
  ranked.facts["ranks"] = "64 4";
  for (const std::string& other : {put(ranked, "turned.safetensors"), put(example(), "silent.safetensors")}) EXPECT_THROW(recorded_qualities({file, other}), DataError) << other;
  for (const char* wrong : {"", "4", "4 8 16", "4 0", "4 -8", "4 8.5", "4 eight", "4  8", "4 5000"})
    expect_refused([&](Recording& r) { r.facts["ranks"] = wrong; }, fmt::format("fact 'ranks' is '{}': give a number from 1 to 4096 for each of its 2 adapters", wrong));
}

// A row that counts w times is the row seen w times.
TEST_F(QualityTables, FitLinearModelsToEveryRow) {
  const std::string file = put(example());
  const QualityPrior prior = fit_qualities({file}, 0.2, 2, 2, false);
  const std::vector<RidgeModel> once = fit_qualities({file, file}, 0.2, 1, 0, false).models, twice = prior.models;
  const auto source = recorded_qualities({file});
  ASSERT_EQ(once.size(), 3u);
  ASSERT_EQ(prior.rows.size(), 2u);
  EXPECT_EQ(prior.rows[0].size(), 3u);
  EXPECT_EQ(fit_qualities({file}, 0.2, 1, 99, false).rows.size(), 5u);
  Prompt p;
  for (int64_t i = 0; i < 20; ++i) {
    source->prompt(test_seed(), i, i % 2, p);
    for (int a = 0; a < 3; ++a) {
      EXPECT_NEAR(once[a].mean(p.x), twice[a].mean(p.x), 1e-5);
      EXPECT_NEAR(once[a].width(p.x), twice[a].width(p.x), 1e-5);
    }
    EXPECT_GT(once[i % 2].mean(p.x), once[1 - i % 2].mean(p.x)) << "each task's own adapter is the better one";
  }
  Recording wider = example();
  wider.columns["embedding"].values = Tensor::f32({5, 3}, std::vector<float>(15, 1.0f));
  EXPECT_THROW(fit_qualities({file, put(wider, "wider.safetensors")}, 0.2, 1, 0, false), DataError);
}

// By task a model is the task's mean quality, drawn towards 0 by the ridge; a context belongs to the nearest centroid.
TEST_F(QualityTables, FitMeansOfTasks) {
  const std::string file = put(example());
  const QualityPrior prior = fit_qualities({file}, 0.5, 1, 5, true);
  ASSERT_EQ(prior.centroids.size(), 2u);
  for (int r = 0; r < 5; ++r) EXPECT_EQ(prior.rows[r], (r < 3 ? std::vector<float>{1, 0} : std::vector<float>{0, 1})) << r;
  EXPECT_NEAR(prior.models[0].mean(prior.rows[0]), (1 + 0.9 + 0.8) / 3.5, 1e-6);
  EXPECT_NEAR(prior.models[1].mean(prior.rows[4]), (1 + 0.9) / 2.5, 1e-6);
  EXPECT_NEAR(prior.models[2].width(prior.rows[4]), std::sqrt(1 / 2.5), 1e-6);
}

TEST_F(QualityTables, ThatAreNoTablesAreRefused) {
  expect_refused([](Recording& r) { r.columns.erase("quality"); }, "column 'quality' is missing");
  expect_refused([](Recording& r) { r.columns.erase("embedding"); }, "column 'embedding' is missing");
  expect_refused([](Recording& r) { r.columns["quality"].values = Tensor::f32({5, 1}, std::vector<float>(5, 0.5f)); }, "one number in a row");
  expect_refused([](Recording& r) { r.columns["quality"].values = Tensor::i64({5, 3}, std::vector<int64_t>(15, 1)); }, "quality");
  expect_refused([](Recording& r) { r.columns["quality"].values = Tensor::f32({5, 3}, std::vector<float>(15, 1.5f)); }, "row 0: 1.5 is not in [0, 1]");
  expect_refused([](Recording& r) { r.columns["well_formed"].values = Tensor::f32({5, 3}, std::vector<float>(15, 0.95f)); }, "row 0: 0.95 is not between the quality 1 and 1");
  expect_refused([](Recording& r) { r.columns["well_formed"].values = Tensor::f32({5, 3}, std::vector<float>(15, 1.5f)); }, "row 0: 1.5 is not between");
  expect_refused([](Recording& r) { r.columns["well_formed"].values = Tensor::f32({5, 2}, std::vector<float>(10, 1.0f)); }, "well_formed");
  expect_refused([](Recording& r) { r.columns["embedding"].values = Tensor::f32({5, 2}, std::vector<float>{1, 0, 0, 1, 0, 0, 1, 1, 1, 1}); }, "row 2: its length is 0");
  expect_refused([](Recording& r) { r.columns["embedding"].values = Tensor::f32({5, 2}, std::vector<float>(10, 3e37f)); }, "has no direction");
  expect_refused([](Recording& r) { r.episodes[1].labels.clear(); }, "rows 3 to 4 have no label 'task'");
  expect_refused([](Recording& r) { r.episodes[0].labels["task"] = ""; }, "no label 'task'");
  expect_refused([](Recording& r) { r.environment = "draft_length"; }, "draft_length");
}

TEST_F(QualityTables, ThatDifferInShapeAreRefusedTogether) {
  Recording wider = example();
  wider.columns["embedding"].values = Tensor::f32({5, 3}, std::vector<float>(15, 1.0f));
  EXPECT_THROW(recorded_qualities({put(example()), put(wider, "wider.safetensors")}), DataError);
  EXPECT_THROW(recorded_qualities({}), ConfigError);
}

}  // namespace
}  // namespace trimtab
