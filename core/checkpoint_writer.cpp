#include "core/checkpoint_writer.h"

#include <cstdio>
#include <utility>

#include "core/error.h"

namespace trimtab {

CheckpointWriter::~CheckpointWriter() {
  try {
    finish();
  } catch (const std::exception& error) {
    fmt::print(stderr, "trimtab: {}\n", error.what());
  }
}

void CheckpointWriter::finish() {
  if (writing_.valid()) writing_.get();
}

void CheckpointWriter::save(Checkpoint checkpoint, int64_t keep, bool best, std::function<void()> before) {
  finish();
  writing_ = std::async(std::launch::async, [this, keep, best, checkpoint = std::move(checkpoint), before = std::move(before)] {
    if (before) before();
    folder_.save(checkpoint, keep);
    if (best) folder_.mark_best(checkpoint.step);
  });
}

}  // namespace trimtab
