// Where the passes of token_commit come from: a model that decodes (live/), or a made-up one (synthetic.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/registry.h"
#include "engine/diffusion/commit_control.h"
#include "envs/environment.h"
#include "envs/token_commit/options.h"

namespace trimtab {

struct CommitOutcome {   // of an answer that is over
  double correct = 0;
  int64_t passes = 0, refused = 0, forced = 0, tokens = 0;   // forced: passes whose commit the control did not choose; tokens: committed
};

// Answers in slots, decoded pass by pass. What happens in a slot follows from its key and the decisions there alone.
class CommitSource {
 public:
  virtual ~CommitSource() = default;
  virtual int64_t slots() const = 0;
  virtual int64_t hidden_size() const { return 0; }      // of MaskedPosition::hidden; 0: not given
  virtual void begin(int64_t slot, WorldKey key) = 0;    // the key says which problem
  virtual void pass(std::span<const int64_t> slots) = 0; // of answers that are not over
  virtual bool opens(int64_t slot) const = 0;            // the last pass opened a window: open() is to be called
  virtual CommitState state(int64_t slot) const = 0;     // after a pass; of all that was proposed until open() is called where a window opens
  virtual void open(int64_t slot, CommitControl& control) = 0;
  virtual void decide(int64_t slot, CommitControl& control) = 0;
  virtual bool over(int64_t slot) const = 0;
  virtual CommitOutcome outcome(int64_t slot) const = 0;
  // The answer that one token a pass leads to, -1 where it leaves masks: what a stable proposal is measured by. Asked for only where rewards need it.
  virtual std::span<const int32_t> careful(int64_t slot) = 0;
};

struct CommitSourceEntry {
  std::string name, doc;   // name: the mode
  std::function<std::unique_ptr<CommitSource>(const TokenCommitOptions& options, const std::vector<std::string>& files, int64_t slots)> make;
};

// ConfigError for a mode that this build does not have, DataError for files that cannot be used.
std::unique_ptr<CommitSource> open_commit_source(const TokenCommitOptions& options, const std::vector<std::string>& files, int64_t slots);

}  // namespace trimtab
