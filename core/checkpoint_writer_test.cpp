#include "core/checkpoint_writer.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

Checkpoint of_step(int64_t step) {
  Checkpoint out;
  out.step = step;
  const std::vector<float> values(1000, static_cast<float>(step));
  out.state.tensors["w"] = Tensor::f32({1000}, values);
  out.counters = {{"step", step}};
  return out;
}

TEST(CheckpointWriter, WritesInOrderAndMarksTheBest) {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path() / "checkpoints");
  int others = 0;
  {
    CheckpointWriter writer(checkpoints);
    for (int64_t step = 1; step <= 5; ++step) writer.save(of_step(step), 2, step == 3, [&] { ++others; });
  }
  EXPECT_EQ(others, 5);
  EXPECT_EQ(checkpoints.steps(), (std::vector<int64_t>{3, 4, 5}));
  EXPECT_EQ(checkpoints.load("best").step, 3);
  EXPECT_EQ(checkpoints.load("latest").state.at("w").as_f32()[7], 5);
}

TEST(CheckpointWriter, AnErrorArrivesAtTheNextCallAndTheOldOneStays) {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path() / "checkpoints");
  CheckpointWriter writer(checkpoints);
  writer.save(of_step(1), 3, false);
  writer.finish();
  writer.save(of_step(2), 3, false, [] { throw CheckpointError("no room"); });
  EXPECT_THROW(writer.save(of_step(3), 3, false), CheckpointError);
  EXPECT_EQ(checkpoints.steps(), (std::vector<int64_t>{1}));
  writer.save(of_step(4), 3, false);
  writer.finish();
  EXPECT_EQ(checkpoints.steps(), (std::vector<int64_t>{1, 4}));
}

}  // namespace
}  // namespace trimtab
