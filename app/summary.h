// From what every policy did in every episode to the figures of an evaluation: means with intervals, paired
// ratios and differences, frontiers, plots, as the document that evaluation.h describes. Controllers and
// language models share it.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/statistics.h"
#include "envs/evaluation.h"

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

struct EvaluatedData {
  std::string file, sha256, split;  // split: "held-out", "validation", "unchecked"
};

// `data` in the order of gathered.episodes. num_seeds: training seeds, the rows of learned policies; 0: none.
nlohmann::json summarise(const std::string& environment, const std::vector<EvaluatedData>& data,
                         const Gathered& gathered, int64_t num_seeds);

}  // namespace trimtab
