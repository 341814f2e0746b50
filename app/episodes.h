// The episodes of an evaluation: every policy, training seed, file and episode, run on threads, gathered in a
// fixed order.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "app/evaluation.h"
#include "app/statistics.h"

namespace trimtab {

struct GatheredPolicy {
  EvaluatedPolicy policy;
  std::vector<Values> metrics;       // in the order of `metrics` below; columns: files one after the other
  std::vector<double> samples = {};  // of all episodes, for distribution plots
  std::map<std::string, std::vector<float>> series =
      {};  // of the first episode of the first file; few policies have it
};
struct Gathered {
  std::vector<MetricInfo> metrics;
  std::vector<int64_t> episodes = {};  // per file
  std::vector<GatheredPolicy> policies = {};
  std::vector<Evaluator::Frontier> frontiers;
  std::string reference;
};

Gathered gather(const EvaluationRequest& request);

}  // namespace trimtab
