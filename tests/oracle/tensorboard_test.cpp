// Our hand-written event files, read back by TensorBoard itself (PyPI tensorboard).
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/run_folder.h"
#include "core/test_support.h"
#include "tests/oracle/python.h"

namespace trimtab {
namespace {

class TensorboardOracle : public testing::Test {
 protected:
  void SetUp() override {
    if (!oracle_has("tensorboard")) GTEST_SKIP() << ".deps/oracle has no tensorboard: run scripts/setup";
  }

  // {tag: [[step, value as text, wall time], ...]} and the number of event files.
  nlohmann::json read_back() const {
    return nlohmann::json::parse(run_oracle(R"(
import glob, json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
events.Reload()
out = {tag: [[e.step, repr(e.value), e.wall_time] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
out["files"] = len(glob.glob(sys.argv[1] + "/events.out.tfevents.*.trimtab"))
print(json.dumps(out))
)",
                                            folder_.path()));
  }
  TemporaryFolder folder_;
};

TEST_F(TensorboardOracle, ReadsEveryScalar) {
  {
    Metrics metrics(folder_.path(), 0);
    metrics.log(1, {{"loss/policy", 0.5}, {"reward", -2.25}});
    metrics.log(int64_t{1} << 40, {{"loss/policy", 1e30}, {"reward", std::nan("")}});
    metrics.log((int64_t{1} << 40) + 1, {{"reward", std::numeric_limits<double>::infinity()}});
  }
  const nlohmann::json read = read_back();
  EXPECT_EQ(read["files"], 1);
  ASSERT_EQ(read["loss/policy"].size(), 2u);
  EXPECT_EQ(read["loss/policy"][0][0], 1);
  EXPECT_EQ(std::stod(read["loss/policy"][0][1].get<std::string>()), 0.5);
  EXPECT_EQ(read["loss/policy"][1][0], int64_t{1} << 40);
  EXPECT_EQ(static_cast<float>(std::stod(read["loss/policy"][1][1].get<std::string>())), 1e30f);
  EXPECT_GT(read["loss/policy"][0][2].get<double>(), 1.7e9);
  ASSERT_EQ(read["reward"].size(), 3u);
  EXPECT_EQ(std::stod(read["reward"][0][1].get<std::string>()), -2.25);
  EXPECT_EQ(read["reward"][1][1], "nan");
  EXPECT_EQ(read["reward"][2][1], "inf");
}

TEST_F(TensorboardOracle, AResumedRunShowsEveryStepOnce) {
  {
    Metrics metrics(folder_.path(), 0);
    for (int step = 1; step <= 10; ++step) metrics.log(step, {{"loss", step}});
  }
  {
    Metrics metrics(folder_.path(), 6);
    for (int step = 7; step <= 9; ++step) metrics.log(step, {{"loss", 100 + step}});
  }
  const nlohmann::json read = read_back();
  EXPECT_EQ(read["files"], 1);
  ASSERT_EQ(read["loss"].size(), 9u);
  for (int step = 1; step <= 9; ++step) {
    EXPECT_EQ(read["loss"][step - 1][0], step);
    EXPECT_EQ(std::stod(read["loss"][step - 1][1].get<std::string>()), step <= 6 ? step : 100 + step);
  }
}

}  // namespace
}  // namespace trimtab
