// What tests of language runs share: a tiny run, and its metrics.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/test_support.h"
#include "trainers/train.h"

namespace trimtab {

using MetricLines = std::vector<std::map<std::string, double>>;

// A model of a few thousand parameters on the easiest chains.
inline std::string tiny_run(const std::string& trainer, const std::string& more = "") {
  return "run: {name: tiny, seed: 3, threads: 2}\n"
         "env: {type: reasoning, suite: {type: chained_arithmetic, tiers: [1, 2]}}\n"
         "policy: {architecture: {hidden_size: 16, num_layers: 2, num_heads: 2, intermediate_size: 32, max_positions: 128, init_std: 0.3}}\n"
         "trainer: {" + trainer + "}\n"
         "eval: {every: 2, episodes: 4, max_tokens: 16}\ncheckpoint: {every: 1, keep: 9}\n" + more;
}

inline MetricLines train_in(const std::filesystem::path& folder, const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  std::filesystem::create_directories(folder);
  Config config = Config::parse(yaml, "tiny");
  for (const std::string& text : overrides) config.apply(text);
  MetricLines lines;
  TrainHooks hooks{.run_folder = folder, .progress = false, .score = {}, .on_start = {}, .on_metrics = {}};
  hooks.on_metrics = [&](int64_t step, const std::vector<std::pair<std::string, double>>& metrics) {
    lines.emplace_back(metrics.begin(), metrics.end());
    lines.back()["step"] = static_cast<double>(step);
  };
  train(config, hooks);
  return lines;
}

// Sum of a metric over the updates that logged it.
inline double total(const MetricLines& lines, const std::string& name) {
  double sum = 0;
  for (const auto& line : lines) sum += line.contains(name) ? line.at(name) : 0;
  return sum;
}

}  // namespace trimtab
