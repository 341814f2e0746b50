#include "engine/multi_lora/shared_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/error.h"

namespace trimtab {
namespace {

void check_agents(const TransformerConfig& config, const AdapterTable& adapters) {
  if (config.head_dim + 1 > kLoraMostHead)
    throw ConfigError(fmt::format("heads of {} numbers: agents share a cache of heads up to {}", config.head_dim, kLoraMostHead - 1));
  for (int64_t layer = 0; layer < config.num_layers; ++layer)
    for (int t = 0; t < kLoraTargets; ++t)
      for (int64_t i = 0; i < adapters.count(); ++i) {
        const auto target = static_cast<LoraTarget>(t);
        const int64_t rank = adapters.of(layer, target)[i].rank;
        if (rank == 0) continue;
        if (target != LoraTarget::kQuery && target != LoraTarget::kValue)
          throw DataError(fmt::format("adapter '{}' changes {} of layer {}, but agents that share a cache may change q_proj and v_proj alone: "
                                      "train it with those targets, or serve it with MultiLoraGenerator",
                                      adapters.name(i), lora_target_name(target), layer));
        if (target == LoraTarget::kValue && rank > kLoraMostRank)
          throw DataError(fmt::format("adapter '{}' has rank {} on v_proj of layer {}, but attention takes {} at most: train it with a smaller one",
                                      adapters.name(i), rank, layer, kLoraMostRank));
      }
}

bool same_matrix(const LoraAdapter& a, const LoraAdapter& b, int64_t in) {
  if (a.rank != b.rank || a.numbers != b.numbers) return false;
  return a.a == b.a || std::memcmp(a.a, b.a, static_cast<size_t>(in * a.rank) * (a.numbers == LoraNumbers::kFloat ? 4 : 2)) == 0;
}

float number_at(const void* matrix, LoraNumbers numbers, int64_t i) {
  if (numbers == LoraNumbers::kFloat) return static_cast<const float*>(matrix)[i];
  return std::bit_cast<float>(uint32_t{static_cast<const uint16_t*>(matrix)[i]} << 16);
}

}  // namespace

SharedCache::SharedCache(const TransformerConfig& config, const AdapterTable& adapters, int64_t most_tokens)
    : kv_heads_(config.num_kv_heads), head_(config.head_dim + 1), most_tokens_(most_tokens),
      capacity_((most_tokens + kLoraKeyBlock) / kLoraKeyBlock * kLoraKeyBlock), hidden_(config.hidden_size), layers_(config.num_layers) {
  check_agents(config, adapters);
  int64_t numbers = config.num_layers * kv_heads_ * 2 * capacity_ * head_;
  for (int64_t l = 0; l < config.num_layers; ++l) {
    for (const LoraAdapter& a : adapters.of(l, LoraTarget::kValue)) add_adapter(layers_[l], a, config);
    for (const LowRank& s : layers_[l].sets) numbers += capacity_ * s.a.rank;
  }
  memory_.reserve(numbers);
  float* at = keys(config.num_layers, 0);
  for (Layer& layer : layers_)
    for (LowRank& s : layer.sets) s.z = at, at += capacity_ * s.a.rank;
}

void SharedCache::add_adapter(Layer& layer, const LoraAdapter& adapter, const TransformerConfig& config) {
  Value& v = layer.values.emplace_back();
  if (adapter.rank == 0) return;
  const auto known = std::ranges::find_if(layer.sets, [&](const LowRank& s) { return same_matrix(s.a, adapter, hidden_); });
  v.set = known - layer.sets.begin(), v.scale = adapter.scale;
  if (known == layer.sets.end()) layer.sets.push_back({adapter});
  const int64_t d = config.head_dim, columns = kv_heads_ * d;
  v.b.resize(adapter.rank * kv_heads_ * head_);
  for (int64_t k = 0; k < adapter.rank; ++k)
    for (int64_t c = 0; c < columns; ++c) v.b[(k * kv_heads_ + c / d) * head_ + c % d] = number_at(adapter.b, adapter.numbers, k * columns + c);
}

void SharedCache::write(int64_t layer, int64_t kv_head, int64_t index, const float* key, const float* value) {
  float* k = keys(layer, kv_head) + index / kLoraKeyBlock * kLoraKeyBlock * head_ + index % kLoraKeyBlock;
  float* v = values(layer, kv_head) + index * head_;
  for (int64_t i = 0; i < head_ - 1; ++i) k[i * kLoraKeyBlock] = key[i], v[i] = value[i];
  k[(head_ - 1) * kLoraKeyBlock] = v[head_ - 1] = 0;
}

void SharedCache::write_low_rank(int64_t layer, int64_t first, int64_t rows, const float* x, int64_t x_stride) {
  const int32_t start[2] = {0, static_cast<int32_t>(rows)}, adapter = 0;
  for (const LowRank& s : layers_[layer].sets)
    lora_shrink({{&s.a, 1, &adapter, start, 1, 0, rows}, hidden_, x, x_stride, s.z + first * s.a.rank, s.a.rank});
}

void SharedCache::mark(int64_t index) {
  const std::vector<float> zeros(head_ - 1);
  for (int64_t l = 0; l < static_cast<int64_t>(layers_.size()); ++l) {
    for (int64_t h = 0; h < kv_heads_; ++h) {
      write(l, h, index, zeros.data(), zeros.data());
      keys(l, h)[index / kLoraKeyBlock * kLoraKeyBlock * head_ + (head_ - 1) * kLoraKeyBlock + index % kLoraKeyBlock] = 1;
      values(l, h)[index * head_ + head_ - 1] = 1;
    }
    for (const LowRank& s : layers_[l].sets) std::fill_n(s.z + index * s.a.rank, s.a.rank, 0.0f);
  }
}

void SharedCache::adapt(int64_t layer, int64_t kv_head, int32_t adapter, LoraQuery& query) const {
  if (adapter < 0 || layers_[layer].values[adapter].set < 0) return;
  const Value& v = layers_[layer].values[adapter];
  const LowRank& s = layers_[layer].sets[v.set];
  query.rank = s.a.rank, query.z = s.z, query.z_stride = s.a.rank;
  query.b = v.b.data() + kv_head * head_, query.b_stride = kv_heads_ * head_, query.scale = v.scale;
}

int64_t SharedCache::low_rank_bytes() const {
  int64_t numbers = 0;
  for (const Layer& layer : layers_)
    for (const LowRank& s : layer.sets) numbers += s.a.rank;
  return numbers * static_cast<int64_t>(sizeof(float));
}

int64_t SharedCache::token_bytes() const {
  return static_cast<int64_t>(layers_.size() * sizeof(float)) * kv_heads_ * 2 * head_ + low_rank_bytes();
}

}  // namespace trimtab
