#include "engine/multi_lora/shared_forward.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/two_piece_attention/two_piece_attention.h"

namespace trimtab {
namespace {

constexpr int64_t kQueries = 32;   // that attention_lora takes through a cache together

// What one query sees in keys [blocks][head_dim][16] and values [keys, stride].
struct OwnPiece {
  int64_t keys = 0, head_dim = 0;
  const float *key = nullptr, *value = nullptr;
  int64_t stride = 0;
};

// out = softmax(q K^T) V; returns the logarithm of what the weights were divided by. `weights` [blocks * 16]: scratch.
float attend_piece(const OwnPiece& p, const float* q, float* weights, float* out) {
  float most = -std::numeric_limits<float>::infinity();
  for (int64_t first = 0; first < p.keys; first += kKeyBlock) {
    float* scores = weights + first;
    const float* key = p.key + first * p.head_dim;
    std::fill_n(scores, kKeyBlock, 0.0f);
    for (int64_t i = 0; i < p.head_dim; ++i)
      for (int64_t j = 0; j < kKeyBlock; ++j) scores[j] += q[i] * key[i * kKeyBlock + j];
    for (int64_t j = 0; j < std::min(kKeyBlock, p.keys - first); ++j) most = std::max(most, scores[j]);
  }
  float sum = 0;
  std::fill_n(out, p.head_dim, 0.0f);
  for (int64_t j = 0; j < p.keys; ++j) {
    const float weight = std::exp(weights[j] - most);
    sum += weight;
    for (int64_t i = 0; i < p.head_dim; ++i) out[i] += weight * p.value[j * p.stride + i];
  }
  for (int64_t i = 0; i < p.head_dim; ++i) out[i] /= sum;
  return most + std::log(sum);
}

}  // namespace

SharedForward::SharedForward(const LoraForwardInputs& in, SharedCache& cache)
    : LoraForward(in), cache_(cache), group_(config().num_heads / config().num_kv_heads), step_(std::max<int64_t>(1, kQueries / group_)), scratch_(in.threads) {
  const int64_t queries = step_ * group_;
  for (Scratch& s : scratch_) {
    s.queries.resize(queries * cache.head_numbers()), s.results.resize(queries * cache.head_numbers()), s.own.resize(queries * config().head_dim);
    s.weights.resize(key_blocks_of(in.own_keys) * kKeyBlock), s.calls.resize(queries);
  }
}

void SharedForward::place(int64_t layer, const Part& part) {
  const int64_t rows = static_cast<int64_t>(block().size()), first = part.first(rows), end = part.end(rows);
  for (int64_t r = first; r < end; ++r) {
    const LoraRow& row = block()[r];
    prepare_queries(layer, r);
    for (int64_t h = 0; h < config().num_kv_heads; ++h) {
      const float *key = prepare_key(layer, r, h), *value = key + config().num_kv_heads * head_stride();
      if (row.to_shared) cache_.write(layer, h, row.shared_keys - 1, key, value);
      else write_key_value(row.own_keys - 1, config().head_dim, key, value, own_keys(row.own, layer, h), own_values(row.own, layer, h));
    }
  }
  if (first < end && block()[first].to_shared) cache_.write_low_rank(layer, block()[first].shared_keys - 1, end - first, normed(first), hidden_stride());
}

void SharedForward::attend(int64_t layer, const Part& part) {
  const int64_t rows = static_cast<int64_t>(block().size()), steps = (rows + step_ - 1) / step_;
  for (int64_t u = part.rank; u < steps * config().num_kv_heads; u += part.size) {
    const int64_t first = u / config().num_kv_heads * step_;
    attend_rows(layer, u % config().num_kv_heads, first, std::min(rows, first + step_), scratch_[part.rank]);
  }
}

void SharedForward::attend_rows(int64_t layer, int64_t kv_head, int64_t first, int64_t end, Scratch& s) {
  const int64_t d = config().head_dim, wide = cache_.head_numbers();
  const LoraCache cache = cache_.view(layer, kv_head);
  for (int64_t i = 0; i < (end - first) * group_; ++i) {
    const LoraRow& row = block()[first + i / group_];
    const float* q = query(first + i / group_, kv_head * group_ + i % group_);
    float* wider = s.queries.data() + i * wide;
    std::copy_n(q, d, wider);
    wider[d] = 0;
    s.calls[i] = {.keys = row.shared_keys, .q = wider, .out = s.results.data() + i * wide};
    if (row.to_shared) continue;
    attend_own(layer, kv_head, row, q, s, wider + d, s.own.data() + i * d);
    s.calls[i].keys += 1;   // the mark
    cache_.adapt(layer, kv_head, row.adapter, s.calls[i]);
  }
  attention_lora({wide, &cache, s.calls.data(), (end - first) * group_});
  for (int64_t i = 0; i < (end - first) * group_; ++i) {
    const float *result = s.results.data() + i * wide, *own = s.own.data() + i * d;
    float* out = mixed(first + i / group_, kv_head * group_ + i % group_);
    std::copy_n(result, d, out);
    for (int64_t k = 0; k < d && !block()[first + i / group_].to_shared; ++k) out[k] += result[d] * own[k];
  }
}

void SharedForward::attend_own(int64_t layer, int64_t kv_head, const LoraRow& row, const float* query, Scratch& s, float* log_sum, float* out) const {
  const OwnPiece piece{row.own_keys, config().head_dim, own_keys(row.own, layer, kv_head), own_values(row.own, layer, kv_head), head_stride()};
  *log_sum = attend_piece(piece, query, s.weights.data(), out);
}

}  // namespace trimtab
