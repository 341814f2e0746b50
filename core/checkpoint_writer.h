// Checkpoints written beside training: the loop hands over a copy of its state and goes on, and hashing, writing and flushing happen in a
// thread of their own. One at a time: the next one waits for the one before. A kill in between leaves the checkpoint before, as ever.
#pragma once

#include <functional>
#include <future>

#include "core/checkpoint.h"

namespace trimtab {

class CheckpointWriter {
 public:
  explicit CheckpointWriter(CheckpointFolder folder) : folder_(std::move(folder)) {}
  ~CheckpointWriter();   // waits; an error that nobody asked for is told on standard error
  // Writes `checkpoint`, calls `before` (other files that belong to it) first, and marks it `best` where asked. Throws what the one before
  // threw (CheckpointError).
  void save(Checkpoint checkpoint, int64_t keep, bool best, std::function<void()> before = {});
  void finish();   // waits for what is under way; throws what it threw

 private:
  CheckpointFolder folder_;
  std::future<void> writing_;
};

}  // namespace trimtab
