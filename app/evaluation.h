// An evaluation: policies of one environment on matched worlds, summarised with intervals (statistics.h), as
// one JSON document that `trimtab eval --json` writes, the console table and the report read.
//
//   {"data": [{"file", "sha256", "split", "episodes"}],          both "synthetic", and no hash, where env.mode is
//    "policies": [{"name", "kind", "file", "metrics": {NAME: {"mean", "low", "high", "n", "unit"}}}],
//    "paired": [{"policy", "against", "metric", "file", "ratio": {...}, "difference": {...}}],
//    "frontier": [{"policy", "frontier", "file", "x", "y", "ratio": {...}, "clamped"}],
//    "environment", "reference", "seeds", "metrics": [{"name", "unit", "higher_is_better"}], "plots": {...}}
//
// `file` is "" in rows over all files. A frontier row is the policy's y over the frontier's y at the policy's
// x; `clamped` is the share of resamples in which the policy lay outside the frontier's range, so that its
// end point had to serve.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/config.h"
#include "envs/evaluation.h"

namespace trimtab {

constexpr const char* kSynthetic = "synthetic";   // stands for a file where the environment makes its data itself

struct EvaluationRequest {
  std::string environment;            // name of the evaluator
  Config config = Config::empty("");  // the env block
  std::vector<std::string> files;    // or kSynthetic alone
  std::vector<std::string> splits;   // of each file: "held-out", "validation", "unchecked", "synthetic"
  std::vector<AgentFactory> agents;  // one per training seed; empty: baselines only
  int64_t episodes = 0;              // of each file; 0: all it has
  int64_t threads = 0;               // 0: one per core
  uint64_t seed = 1;                 // of the worlds' draws; equal for every policy
};

// Runs every policy in every episode and summarises. Shows progress. Throws what the environment throws,
// Interrupted.
nlohmann::json evaluate(const EvaluationRequest& request);

// The table people read: per file and over all.
std::string evaluation_table(const nlohmann::json& evaluation);

}  // namespace trimtab
