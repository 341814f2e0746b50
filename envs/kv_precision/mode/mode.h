// The modes of kv_precision, by the key `mode` of its block: each is an environment of its own with its own options, all of them about
// the widths of a KV cache. A mode registers itself: TT_REGISTER(KvPrecisionMode, layers, {.name = "layers", ...}).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/spec.h"
#include "domain/kv_precision/sensitivity.h"
#include "envs/environment.h"
#include "envs/evaluation.h"

namespace trimtab {

struct KvPrecisionMode {
  std::string name, doc;
  // As in EnvironmentEntry and EvaluatorEntry.
  std::function<std::unique_ptr<BatchEnvironment>(const Config& config, const EnvironmentData& data, int64_t size)> make;
  std::function<std::unique_ptr<Evaluator>(const Config& config, const std::string& file)> make_evaluator;
  std::function<std::vector<FieldLine>()> help;
  std::function<std::string(const Config& config)> resolved;
};

// What every mode shows of a pair of widths for a unit, and how it is worked out.
//   key_bits, value_bits, bits, bits_over, log10_kl, price_gap
std::vector<Feature> kv_pair_features();
struct KvPairView {
  const KvSensitivity& table;
  int64_t unit = 0;
  double price = 0;        // KL that a byte of a unit's page is worth
  double bits_left = 0;    // what `bits_over` is measured from
  double mean_kl = 1;      // KL of a unit where the budget is spent well: what gaps are measured in
};
constexpr double kLeastKl = 1e-9;   // nats: below, differences mean nothing
constexpr double kWidestGap = 20;
double unit_bits(const KvSensitivity& table, int64_t bytes);   // bytes of a unit's page as bits per number
// [pairs][features of kv_pair_features], rows `stride` floats apart.
void show_pairs(const KvPairView& view, float* items, int64_t stride);

}  // namespace trimtab
