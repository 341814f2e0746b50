// Who records traces (traces.h): a model that decodes problems, in builds that have one (live/).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/recording.h"
#include "core/registry.h"
#include "envs/evaluation.h"
#include "envs/token_commit/options.h"
#include "envs/token_commit/traces.h"

namespace trimtab {

// Every answer is decoded by the rule, or by the agents where there are some, for a drawn number of its passes, and from there on with care (top1,
// one token a pass): those passes are what is learned from, so that labels say what becomes of a proposal in a state that the rule or controller comes to.
struct CommitRecordOrder {
  TokenCommitOptions options;
  std::vector<std::string> files;            // problems
  std::string rule = "threshold_80";         // rules.h
  AgentFactory agents = {};                  // a controller in its place
  std::string controller = {};               // its name, for the recording's facts
  CommitTraceOptions traces = {};
};

struct CommitRecorderEntry {
  std::string name, doc;
  std::function<Recording(const CommitRecordOrder& order)> record;   // shows progress
};

// ConfigError in builds without LibTorch.
Recording record_commitment(const CommitRecordOrder& order);

}  // namespace trimtab
