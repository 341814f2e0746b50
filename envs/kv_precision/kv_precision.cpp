// Registration of kv_precision: its `mode` says which environment is meant.
#include <algorithm>
#include <cmath>

#include "envs/kv_precision/layers.h"
#include "envs/kv_precision/mode.h"

namespace trimtab {
namespace {

const KvPrecisionMode& mode_of(const Config& config) {
  const std::string name = config.text("mode", "layers");
  const auto& modes = Registry<KvPrecisionMode>::instance();
  if (name == "pages" && !modes.has(name))
    throw ConfigError("env.mode: pages runs a language model, which this build leaves out; build with LibTorch (cmake -DTRIMTAB_TORCH=ON), or use layers");
  return modes.get(name, "mode of kv_precision");
}

// The keys of all modes, each with the mode it belongs to.
std::vector<FieldLine> help_of_modes() {
  std::vector<FieldLine> out;
  for (const std::string& name : Registry<KvPrecisionMode>::instance().names()) {
    const KvPrecisionMode& mode = Registry<KvPrecisionMode>::instance().get(name, "mode");
    for (FieldLine line : mode.help()) {
      if (line.path != "mode") line.doc = fmt::format("mode {}: {}", name, line.doc);
      out.push_back(std::move(line));
    }
  }
  return out;
}

TT_REGISTER(KvPrecisionMode, layers,
            {.name = "layers",
             .doc = "widths for every layer or KV head, once",
             .make = [](const Config& config, const EnvironmentData& data, int64_t size) -> std::unique_ptr<BatchEnvironment> {
               return std::make_unique<LightBatch<KvLayers>>(std::make_shared<KvLayers>(kv_layers_options(config), open_sensitivities(data.files)), size);
             },
             .make_evaluator = make_layers_evaluator,
             .help = [] { return help_of<KvLayersOptions>(); },
             .resolved = [](const Config& config) { return yaml_of(kv_layers_options(config)); }});

}  // namespace

KvLayersOptions kv_layers_options(const Config& config) {
  KvLayersOptions options;
  config.read(options, {"type"});
  return options;
}

std::vector<KvSensitivity> open_sensitivities(const std::vector<std::string>& files) {
  if (files.empty()) throw ConfigError("kv_precision needs tables of sensitivities: name them under data: {train: [...]}; `trimtab measure` makes them");
  std::vector<KvSensitivity> out;
  for (const std::string& file : files) out.push_back(read_sensitivity(file));
  return out;
}

std::vector<Feature> kv_pair_features() {
  return {{"key_bits", "bit", 0, 16}, {"value_bits", "bit", 0, 16}, {"bits", "bit", 0, 17}, {"bits_over", "bit", -17, 17},
          {"log10_kl", "lg(nat)", -9, 3}, {"price_gap", "", -kWidestGap, 0}};
}

double unit_bits(const KvSensitivity& t, int64_t bytes) {
  return 8 * static_cast<double>(bytes) / static_cast<double>(2 * t.heads_per_unit() * t.head_dim * t.page_tokens);
}

void show_pairs(const KvPairView& v, float* items, int64_t stride) {
  const KvSensitivity& t = v.table;
  const int64_t pairs = static_cast<int64_t>(t.pairs.size());
  const auto priced = [&](int64_t p) { return t.kl[v.unit][p] + v.price * static_cast<double>(t.unit_bytes(p)); };
  double least = INFINITY;
  for (int64_t p = 0; p < pairs; ++p) least = std::min(least, priced(p));
  for (int64_t p = 0; p < pairs; ++p) {
    const double bits = unit_bits(t, t.unit_bytes(p));
    const float features[] = {static_cast<float>(t.pairs[p].key), static_cast<float>(t.pairs[p].value), static_cast<float>(bits),
                              static_cast<float>(std::clamp(bits - v.bits_left, -17.0, 17.0)), static_cast<float>(std::log10(std::max(kLeastKl, t.kl[v.unit][p]))),
                              static_cast<float>(std::max(-kWidestGap, (least - priced(p)) / v.mean_kl))};
    std::copy(std::begin(features), std::end(features), items + p * stride);
  }
}

TT_REGISTER(EnvironmentEntry, kv_precision,
            {.name = "kv_precision",
             .doc = "widths of a KV cache's keys and values under a budget of bytes",
             .make = [](const Config& config, const EnvironmentData& data, int64_t size) { return mode_of(config).make(config, data, size); },
             .help = help_of_modes,
             .resolved = [](const Config& config) { return mode_of(config).resolved(config); },
             .preferred_batch = 64});

TT_REGISTER(EvaluatorEntry, kv_precision_evaluator,
            {.name = "kv_precision", .make = [](const Config& config, const std::string& file) { return mode_of(config).make_evaluator(config, file); }});

}  // namespace trimtab
