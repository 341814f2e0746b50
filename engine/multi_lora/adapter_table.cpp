#include "engine/multi_lora/adapter_table.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace trimtab {

LoraExtent lora_extent(const TransformerConfig& c, LoraTarget target) {
  switch (target) {
    case LoraTarget::kQuery: return {c.hidden_size, c.num_heads * c.head_dim};
    case LoraTarget::kKey:
    case LoraTarget::kValue: return {c.hidden_size, c.num_kv_heads * c.head_dim};
    case LoraTarget::kOutput: return {c.num_heads * c.head_dim, c.hidden_size};
    case LoraTarget::kGate:
    case LoraTarget::kUp: return {c.hidden_size, c.intermediate_size};
    case LoraTarget::kDown: return {c.intermediate_size, c.hidden_size};
  }
  TT_CHECK(false, "target {}", static_cast<int>(target));
  return {};
}

const char* lora_target_name(LoraTarget target) {
  static constexpr const char* kNames[kLoraTargets] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  return kNames[static_cast<int>(target)];
}

void check_adapter(const AdapterWeights& adapter, const TransformerConfig& config) {
  const int64_t entries = static_cast<int64_t>(adapter.matrices.size());
  if (entries != config.num_layers * kLoraTargets)
    throw DataError(fmt::format("adapter '{}' has matrices for {} linear layers, but the model has {} layers of {}: it belongs to another model",
                                adapter.name, entries, config.num_layers, kLoraTargets));
  int64_t needed = 0;
  for (int64_t i = 0; i < entries; ++i) {
    const LoraAdapter& m = adapter.matrices[i];
    const auto target = static_cast<LoraTarget>(i % kLoraTargets);
    const auto fail = [&](const std::string& why) {
      throw DataError(fmt::format("adapter '{}': layer {}, {}: {}", adapter.name, i / kLoraTargets, lora_target_name(target), why));
    };
    if (m.rank < 0) fail(fmt::format("rank {}, but it must be 0 (unchanged) or above", m.rank));
    if (m.rank == 0) continue;
    if (m.a == nullptr || m.b == nullptr) fail("a matrix is missing: was the adapter evicted while in use?");
    if (!std::isfinite(m.scale)) fail("its scale is not finite");
    const LoraExtent e = lora_extent(config, target);
    needed += m.rank * (e.in + e.out) * (m.numbers == LoraNumbers::kFloat ? 4 : 2);
  }
  if (adapter.bytes < needed)
    throw DataError(fmt::format("adapter '{}' holds {} bytes, but its ranks take {} in this model: it belongs to a smaller one", adapter.name,
                                adapter.bytes, needed));
}

AdapterTable::AdapterTable(std::span<const AdapterWeights* const> adapters, const TransformerConfig& config) {
  for (const AdapterWeights* a : adapters) {
    if (a == nullptr || std::ranges::find(known_, a) != known_.end()) continue;
    check_adapter(*a, config);
    known_.push_back(a);
  }
  for (int64_t i = 0; i < config.num_layers * kLoraTargets; ++i) {
    changes_.push_back(0);
    for (const AdapterWeights* a : known_) {
      const LoraAdapter& m = table_.emplace_back(a->matrices[i]);
      if (m.rank > 0) changes_.back() = 1;
      most_rank_ = std::max<int64_t>(most_rank_, m.rank);
    }
  }
}

int32_t AdapterTable::index(const AdapterWeights* adapter) const {
  if (adapter == nullptr) return -1;
  const auto at = std::ranges::find(known_, adapter);
  TT_CHECK(at != known_.end(), "adapter '{}' is not in the table", adapter->name);
  return static_cast<int32_t>(at - known_.begin());
}

}  // namespace trimtab
