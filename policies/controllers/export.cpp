// Artefact writer; the format is described in runtime/README.md.
#include "policies/controllers/export.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "trimtab/runtime.h"

namespace trimtab {
namespace {

using Json = nlohmann::ordered_json;
constexpr float kUnbounded = 1e30f;   // stands for an infinite range: JSON has no infinity
constexpr float kDeviations = 3.0f, kUnnormalisedRange = 3.0f;
constexpr float kSmallestMargin = 1e-4f;   // of test vectors: closer logits may change places by rounding
constexpr int kMostDraws = 100;
constexpr const char* kChecksumPlace = "0000000000000000";

// Tensors and operations of one agent as they are collected.
class AgentWriter {
 public:
  AgentWriter(const ExportedAgent& agent, TensorFile& file) : agent_(agent), file_(file), prefix_(agent.spec.name + ".") {}

  Json operations() {
    normalise();
    const std::vector<Controller::Layer> layers = agent_.policy->layers();
    for (size_t l = 0; l < layers.size(); ++l) {
      linear(layers[l], "layer" + std::to_string(l));
      if (l + 1 < layers.size()) add({{"op", agent_.policy->options().activation}});
      if (layers[l].attention.heads > 0) attention(layers[l], "layer" + std::to_string(l) + ".attention.");
    }
    const Controller::Residual residual = agent_.policy->residual();
    if (residual.item_feature >= 0)
      add({{"op", "residual"}, {"feature", residual.item_feature}, {"coefficient", residual.coefficient}});
    head();
    return operations_;
  }

  std::string tensor(const std::string& name, std::vector<int64_t> shape, std::span<const float> values) {
    file_.tensors[prefix_ + name] = Tensor::f32(std::move(shape), values);
    return prefix_ + name;
  }

 private:
  void add(Json operation) { operations_.push_back(std::move(operation)); }

  void normalise() {
    const Controller::Normaliser n = agent_.policy->normaliser();
    if (!std::isfinite(n.clip)) return;
    const auto one = [&](const char* of, std::span<const float> mean, std::span<const float> scale, const std::string& name) {
      const int64_t size = static_cast<int64_t>(mean.size());
      if (size == 0) return;
      add({{"op", "normalise"}, {"of", of}, {"mean", tensor(name + ".mean", {size}, mean)},
           {"scale", tensor(name + ".scale", {size}, scale)}, {"clip", n.clip}});
    };
    const bool set = agent_.spec.observation.item_size() > 0;
    one(set ? "context" : "rows", n.context_mean, n.context_scale, "normalise.context");
    if (set) one("rows", n.item_mean, n.item_scale, "normalise.item");
  }

  void linear(const Controller::Layer& a, const std::string& name) {
    if (a.pooled > 0) add({{"op", "pool"}});
    const bool decision = agent_.spec.observation.item_size() == 0 || a.in == 0;
    Json op = {{"op", "linear"}, {"out", a.out}, {"to", decision ? "decision" : "rows"}};
    const auto weight = [&](const char* part, const float* values, int64_t in) {
      if (in > 0) op[part] = tensor(name + "." + part, {in, a.out}, {values, static_cast<size_t>(in * a.out)});
    };
    weight("rows", a.item, a.in);
    weight("context", a.ctx, a.context);
    weight("pooled", a.ctx + a.context * a.out, a.pooled);
    op["bias"] = tensor(name + ".bias", {a.out}, {a.bias, static_cast<size_t>(a.out)});
    add(std::move(op));
  }

  void attention(const Controller::Layer& layer, const std::string& name) {
    const Controller::Layer::Attention& a = layer.attention;
    const auto weight = [&](const char* part, const float* values) {
      return tensor(name + part, {layer.out, layer.out}, {values, static_cast<size_t>(layer.out * layer.out)});
    };
    add({{"op", "attention"}, {"heads", a.heads}, {"query", weight("query", a.query)}, {"key", weight("key", a.key)},
         {"value", weight("value", a.value)}, {"out", weight("out", a.mix)}});
  }

  void head() {
    const HeadSpec& spec = agent_.spec.head;
    if (spec.kind == HeadKind::kSubset) add({{"op", "sigmoid"}});
    if (spec.kind == HeadKind::kOrder) add({{"op", "order"}, {"picks", spec.picks}});
    if (spec.is_index()) add({{"op", "argmax"}});
    if (spec.kind == HeadKind::kGaussian) add({{"op", "clip"}, {"low", spec.low}, {"high", spec.high}});
    if (spec.kind == HeadKind::kSimplex)
      add({{"op", agent_.policy->options().head == "dirichlet" ? "dirichlet_mean" : "softmax"}});
  }

  const ExportedAgent& agent_;
  TensorFile& file_;
  std::string prefix_;
  Json operations_ = Json::array();
};

Json features_json(const std::vector<Feature>& features) {
  Json out = Json::array();
  for (const Feature& f : features)
    out.push_back({{"name", f.name}, {"unit", f.unit}, {"low", std::max(f.low, -kUnbounded)}, {"high", std::min(f.high, kUnbounded)}});
  return out;
}

Json fallback_json(const ExportedAgent& agent) {
  const HeadSpec& head = agent.spec.head;
  if (head.kind == HeadKind::kSimplex) return "uniform";
  if (head.kind == HeadKind::kSubset || head.kind == HeadKind::kOrder) return "none";
  if (!agent.fallback.empty()) return agent.fallback;
  if (head.is_index()) return Json::array({0});
  return std::vector<float>(head.size, 0.5f * (head.low + head.high));
}

Json self_test_json(const ExportedAgent& agent, const ExportInfo& info, AgentWriter& writer, TensorFile& file) {
  const TestVectors v = make_test_vectors(agent, info.num_self_tests, info.seed);
  const ObservationSpec& view = agent.spec.observation;
  Json out = {{"count", v.count}};
  out["action"] = writer.tensor("self_test.action", {v.count, agent.spec.head.width()}, v.actions);
  if (view.context_size() > 0)
    out["context"] = writer.tensor("self_test.context", {v.count, view.context_size()}, v.context);
  if (view.item_size() > 0) {
    out["items"] = writer.tensor("self_test.items", {v.count, view.max_items, view.item_size()}, v.items);
    const std::string mask = agent.spec.name + ".self_test.mask";
    file.tensors[mask] = Tensor::u8({v.count, view.max_items}, v.mask);
    out["mask"] = mask;
  }
  return out;
}

Json agent_json(const ExportedAgent& agent, const ExportInfo& info, TensorFile& file) {
  static constexpr const char* kKinds[] = {"categorical", "gaussian", "simplex", "categorical", "subset", "order"};   // a choice is an index, too
  const HeadSpec& head = agent.spec.head;
  const ObservationSpec& view = agent.spec.observation;
  AgentWriter writer(agent, file);
  Json out = {{"name", agent.spec.name}, {"max_items", view.item_size() > 0 ? view.max_items : 0}, {"deadline_us", agent.deadline_us},
              {"context", features_json(view.context)}, {"item", features_json(view.item)}};
  out["action"] = {{"kind", kKinds[static_cast<int>(head.kind)]}, {"size", head.kind == HeadKind::kOrder ? head.picks : head.size}, {"low", head.low}, {"high", head.high},
                   {"meaning", agent.meaning}};
  out["fallback"] = fallback_json(agent);
  out["operations"] = writer.operations();
  out["self_test"] = self_test_json(agent, info, writer, file);
  return out;
}

// FNV-1a over the whole file with the checksum's own digits as zeros, written into their place.
void write_checksum(std::string& bytes) {
  const std::string key = "\"trimtab.checksum\":\"" + std::string(kChecksumPlace) + "\"";
  const size_t at = bytes.find(key);
  TT_CHECK(at != std::string::npos, "the checksum's place is not in the header");
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  bytes.replace(at + key.size() - 17, 16, fmt::format("{:016x}", hash));
}

void ask_the_runtime(const std::string& bytes) {
  char why[256] = "";
  tt_controller* controller = nullptr;
  const tt_open_options options = TT_OPEN_OPTIONS_INIT;
  const tt_status status = tt_open_memory(bytes.data(), bytes.size(), &options, &controller, why, sizeof why);
  tt_close(controller);
  if (status != TT_OK) throw CheckpointError(fmt::format("export: the runtime does not give the policy's answers: {}", why));
}

// Where a feature is drawn from.
struct Range { float low, high; };
std::vector<Range> sampled_ranges(const std::vector<Feature>& features, std::span<const float> mean, std::span<const float> scale,
                                  bool normalised) {
  std::vector<Range> out;
  for (size_t j = 0; j < features.size(); ++j) {
    Range r{std::max(features[j].low, -kUnnormalisedRange), std::min(features[j].high, kUnnormalisedRange)};
    if (normalised && scale[j] > 0) {
      r.low = std::max(features[j].low, mean[j] - kDeviations / scale[j]);
      r.high = std::min(features[j].high, mean[j] + kDeviations / scale[j]);
    }
    if (!(r.low <= r.high)) r = {features[j].low, features[j].low};
    out.push_back(r);
  }
  return out;
}

// How far apart the logits are that decide the answer of a choice or an order, as a part of the largest; infinite for the
// other heads. Scratch is `logits` [max_items].
float margin_of(const ExportedAgent& agent, const ObservationBatch& one, ControllerWorkspace& workspace, std::vector<float>& logits) {
  const HeadSpec& head = agent.spec.head;
  if (head.kind != HeadKind::kChoice && head.kind != HeadKind::kOrder) return INFINITY;
  logits.resize(head.size);
  agent.policy->scores(one, logits.data(), workspace);
  size_t present = 0;
  for (int k = 0; k < head.size; ++k)
    if (one.mask[k]) logits[present++] = logits[k];
  const size_t decided = std::min<size_t>(present, head.kind == HeadKind::kOrder ? head.picks + 1 : 2);
  std::partial_sort(logits.begin(), logits.begin() + decided, logits.begin() + present, std::greater<float>());
  float margin = INFINITY;
  for (size_t j = 1; j < decided; ++j)
    margin = std::min(margin, (logits[j - 1] - logits[j]) / std::max(std::abs(logits[0]), std::abs(logits[decided - 1])));
  return margin;
}

}  // namespace

TestVectors make_test_vectors(const ExportedAgent& agent, int64_t count, uint64_t seed) {
  const ObservationSpec& view = agent.spec.observation;
  const int64_t num_items = view.item_size() > 0 ? view.max_items : 0;
  const Controller::Normaliser n = agent.policy->normaliser();
  const bool normalised = std::isfinite(n.clip);
  const auto context = sampled_ranges(view.context, n.context_mean, n.context_scale, normalised);
  const auto item = sampled_ranges(view.item, n.item_mean, n.item_scale, normalised);
  std::mt19937_64 random(seed);
  const auto draw = [&](Range r) {   // by hand: distributions differ between standard libraries
    return r.low + (r.high - r.low) * static_cast<float>(random() >> 40) * 0x1p-24f;
  };
  TestVectors v;
  v.count = count;
  const auto draw_one = [&](int64_t i) {
    v.context.resize(i * context.size());
    v.items.resize(i * num_items * item.size());
    v.mask.resize(i * num_items);
    for (const Range& r : context) v.context.push_back(draw(r));
    const int64_t kept = num_items > 0 ? static_cast<int64_t>(random() % num_items) : 0;
    for (int64_t k = 0; k < num_items; ++k) {
      const bool present = i % 4 != 3 || k == kept || random() % 2 == 0;
      v.mask.push_back(present);
      for (const Range& r : item) v.items.push_back(present ? draw(r) : 0.0f);
    }
  };
  const auto alone = agent.policy->workspace(1);
  std::vector<float> logits;
  for (int64_t i = 0; i < count; ++i) {
    for (int attempt = 0; attempt < kMostDraws; ++attempt) {
      draw_one(i);
      const ObservationBatch one = {.size = 1, .context = v.context.data() + i * context.size(),
                                    .items = v.items.data() + i * num_items * item.size(), .mask = v.mask.data() + i * num_items};
      if (margin_of(agent, one, *alone, logits) >= kSmallestMargin) break;
    }
  }
  v.actions.resize(count * agent.spec.head.width());
  const auto workspace = agent.policy->workspace(count);
  agent.policy->mode({.size = count, .context = v.context.data(), .items = v.items.data(), .mask = v.mask.data()}, v.actions.data(),
                     *workspace);
  return v;
}

std::string artefact_bytes(const std::vector<ExportedAgent>& agents, const ExportInfo& info) {
  TensorFile file;
  Json spec = {{"schema", TT_SCHEMA_VERSION}, {"abi", TT_ABI_VERSION}, {"producer", "trimtab " TRIMTAB_VERSION},
               {"environment", info.environment}, {"config", info.config}, {"training_data_hash", info.training_data_hash},
               {"glue", info.glue}, {"agents", Json::array()}};
  for (const ExportedAgent& agent : agents) spec["agents"].push_back(agent_json(agent, info, file));
  file.metadata["trimtab.controller"] = spec.dump();
  file.metadata["trimtab.checksum"] = kChecksumPlace;
  std::string bytes = serialise_safetensors(file);
  write_checksum(bytes);
  ask_the_runtime(bytes);
  return bytes;
}

void export_artefact(const std::filesystem::path& file, const std::vector<ExportedAgent>& agents, const ExportInfo& info) {
  write_file_atomically(file, artefact_bytes(agents, info));
}

void export_header(const std::filesystem::path& file, const std::vector<ExportedAgent>& agents, const ExportInfo& info) {
  write_file_atomically(file, header_text(agents, info));
}

}  // namespace trimtab
