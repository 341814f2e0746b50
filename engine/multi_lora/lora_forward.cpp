#include "engine/multi_lora/lora_forward.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/random.h"
#include "kernels/packed_linear/packed_linear.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/two_piece_attention/two_piece_attention.h"

namespace trimtab {
namespace {

constexpr int64_t kQueries = 16;                // that one call of the attention kernel gets
constexpr int64_t kGroupRows = 8;               // rows with one shared piece that attend together
constexpr int64_t kLogits = int64_t{1} << 22;   // numbers of logits held at a time
constexpr int64_t kLongRun = 4;                 // rows of one adapter, on average, from which on segments are told
constexpr int64_t kHalf = kPackedPanel / 2;     // gates, or values, of a panel

}  // namespace

void add_drawn(const DrawnToken& drawn, Completion& to) {
  if (drawn.token < 0)
    throw RunError(fmt::format("request {}, sample {}: the logits of token {} are not finite: are the adapter's numbers finite, has training diverged?",
                               to.request, to.sample, to.tokens.size()));
  to.tokens.push_back(drawn.token), to.logprobs.push_back(drawn.logprob);
}

LoraForward::LoraForward(const LoraForwardInputs& in) : in_(in), config_(in.model.config()), head_stride_(in.model.head_stride()),
                                                        group_(config_.num_heads / config_.num_kv_heads) {
  const PackedLayer& layer = in.model.layers().front();
  hidden_stride_ = packed_panels(config_.hidden_size) * kPackedPanel;
  qkv_stride_ = layer.qkv.panels * kPackedPanel;
  mixed_stride_ = config_.num_heads * head_stride_;
  gate_up_stride_ = layer.gate_up.panels * kPackedPanel;
  middle_stride_ = layer.gate_up.panels * kHalf;
  logits_stride_ = TokenDraw::padded(in.model.head().panels * kPackedPanel);
  low_stride_ = std::max<int64_t>(1, in.adapters.most_rank());
  delta_stride_ = std::max({mixed_stride_, config_.intermediate_size, config_.hidden_size});
  // Rows of buffers start on different cache sets: a power of two between them would let few of them stay.
  for (int64_t* stride : {&hidden_stride_, &qkv_stride_, &mixed_stride_, &gate_up_stride_, &middle_stride_, &logits_stride_, &delta_stride_}) *stride += 16;
  logits_rows_ = std::clamp<int64_t>(kLogits / logits_stride_, 14, kMostRows);
  score_stride_ = attention_scores(in.shared_keys, in.own_keys);
  for (auto [buffer, stride] : {std::pair{&x_, hidden_stride_}, {&normed_, hidden_stride_}, {&qkv_, qkv_stride_}, {&mixed_, mixed_stride_},
                                {&gate_up_, gate_up_stride_}, {&middle_, middle_stride_}, {&low_, low_stride_}, {&delta_, delta_stride_}})
    buffer->resize(kMostRows * stride);
  logits_.resize(logits_rows_ * logits_stride_), scores_.resize(in.threads * kQueries * score_stride_);
  for (int t = 0; t < in.threads; ++t) draws_.emplace_back(config_.vocab_size, in.sampling);
}

void LoraForward::run(std::span<const LoraRow> rows, Team& team) {
  while (!rows.empty()) {
    const size_t n = std::min<size_t>(rows.size(), kMostRows);
    take_block(rows.first(n));
    const int size = std::min(team.size(), in_.threads);
    team.work(size, [&](int rank) { run_block({rank, size}, team); });
    rows = rows.subspan(n);
  }
}

// Who has which adapter, row by row and in runs.
void LoraForward::take_block(std::span<const LoraRow> rows) {
  block_ = rows, any_adapter_ = false;
  row_adapter_.clear(), start_.clear(), segment_adapter_.clear();
  for (size_t r = 0; r < rows.size(); ++r) {
    const int32_t adapter = rows[r].adapter;
    if (r == 0 || adapter != row_adapter_.back()) start_.push_back(static_cast<int32_t>(r)), segment_adapter_.push_back(adapter);
    row_adapter_.push_back(adapter);
    any_adapter_ = any_adapter_ || adapter >= 0;
  }
  start_.push_back(static_cast<int32_t>(rows.size()));
  by_segments_ = segment_adapter_.size() * kLongRun <= rows.size();
}

void LoraForward::run_block(const Part& part, Team& team) {
  const int64_t rows = static_cast<int64_t>(block_.size());
  const size_t bytes = config_.hidden_size * sizeof(float);
  for (int64_t r = part.first(rows); r < part.end(rows); ++r) std::memcpy(x_.data() + r * hidden_stride_, in_.model.embedding(block_[r].token), bytes);
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) run_layer(layer, part, team);
  norm_rows(in_.model.final_norm(), part);
  for (int64_t r = part.first(rows); r < part.end(rows); ++r)
    if (block_[r].hidden != nullptr) std::memcpy(block_[r].hidden, normed(r), bytes);
}

// Begins and ends with the part's own rows of x_.
void LoraForward::run_layer(int64_t layer, const Part& part, Team& team) {
  const PackedLayer& l = in_.model.layers()[layer];
  norm_rows(l.input_norm, part);
  team.barrier();
  multiply({l.qkv, normed_.data(), hidden_stride_, PackedFinish::kStore, qkv_.data(), qkv_stride_}, part);
  team.barrier();
  add_attention(layer, part);
  place(layer, part);
  team.barrier();
  attend(layer, part);
  team.barrier();
  multiply({l.out, mixed_.data(), mixed_stride_, PackedFinish::kAdd, x_.data(), hidden_stride_}, part);
  team.barrier();
  add_output(layer, part);
  run_mlp(layer, part, team);
}

void LoraForward::run_mlp(int64_t layer, const Part& part, Team& team) {
  const PackedLayer& l = in_.model.layers()[layer];
  const bool apart = adapted(layer, LoraTarget::kGate) || adapted(layer, LoraTarget::kUp);
  norm_rows(l.post_norm, part);
  team.barrier();
  if (!apart) {
    multiply({l.gate_up, normed_.data(), hidden_stride_, PackedFinish::kSiluProduct, middle_.data(), middle_stride_}, part);
  } else {
    multiply({l.gate_up, normed_.data(), hidden_stride_, PackedFinish::kStore, gate_up_.data(), gate_up_stride_}, part);
    team.barrier();
    add_low_rank(layer, LoraTarget::kGate, normed_.data(), hidden_stride_, {gate_up_.data(), gate_up_stride_, kHalf, kPackedPanel}, part);
    add_low_rank(layer, LoraTarget::kUp, normed_.data(), hidden_stride_, {gate_up_.data() + kHalf, gate_up_stride_, kHalf, kPackedPanel}, part);
    const int64_t rows = static_cast<int64_t>(block_.size());
    for (int64_t r = part.first(rows); r < part.end(rows); ++r)   // a product without inputs: what is finished are the biases
      packed_linear({.rows = 1, .bias = gate_up_.data() + r * gate_up_stride_, .last_panel = l.gate_up.panels, .finish = PackedFinish::kSiluProduct,
                     .y = middle_.data() + r * middle_stride_});
  }
  team.barrier();
  multiply({l.down, middle_.data(), middle_stride_, PackedFinish::kAdd, x_.data(), hidden_stride_}, part);
  team.barrier();
  add_low_rank(layer, LoraTarget::kDown, middle_.data(), middle_stride_, {x_.data(), hidden_stride_, config_.hidden_size, 0}, part);
}

void LoraForward::multiply(const PackedProduct& p, const Part& part) {
  multiply_panels(p, static_cast<int64_t>(block_.size()), part.first(p.matrix.panels), part.end(p.matrix.panels));
}

void LoraForward::norm_rows(const float* weight, const Part& part) {
  const int64_t rows = static_cast<int64_t>(block_.size()), first = part.first(rows);
  rms_norm(RmsNorm<float>{part.end(rows) - first, config_.hidden_size, x_.data() + first * hidden_stride_, hidden_stride_, weight, config_.norm_eps,
                          normed_.data() + first * hidden_stride_, hidden_stride_});
}

void LoraForward::add_attention(int64_t layer, const Part& part) {
  const int64_t d = config_.head_dim, keys = config_.num_heads * head_stride_, values = keys + config_.num_kv_heads * head_stride_;
  add_low_rank(layer, LoraTarget::kQuery, normed_.data(), hidden_stride_, {qkv_.data(), qkv_stride_, d, head_stride_}, part);
  add_low_rank(layer, LoraTarget::kKey, normed_.data(), hidden_stride_, {qkv_.data() + keys, qkv_stride_, d, head_stride_}, part);
  add_low_rank(layer, LoraTarget::kValue, normed_.data(), hidden_stride_, {qkv_.data() + values, qkv_stride_, d, head_stride_}, part);
}

// A reads the heads without the padding between them.
void LoraForward::add_output(int64_t layer, const Part& part) {
  if (!adapted(layer, LoraTarget::kOutput)) return;
  const int64_t rows = static_cast<int64_t>(block_.size()), d = config_.head_dim;
  for (int64_t r = part.first(rows); r < part.end(rows) && d != head_stride_; ++r)
    for (int64_t h = 1; h < config_.num_heads; ++h) std::memmove(mixed(r, 0) + h * d, mixed(r, h), d * sizeof(float));
  add_low_rank(layer, LoraTarget::kOutput, mixed_.data(), mixed_stride_, {x_.data(), hidden_stride_, config_.hidden_size, 0}, part);
}

// y += scale (x A) B of the part's rows. Outputs that do not lie together are made elsewhere and added from there.
void LoraForward::add_low_rank(int64_t layer, LoraTarget target, const float* x, int64_t x_stride, const Output& to, const Part& part) {
  const int64_t rows = static_cast<int64_t>(block_.size()), first = part.first(rows), end = part.end(rows);
  if (!adapted(layer, target) || first == end) return;
  const auto [in, out] = lora_extent(config_, target);
  const std::span<const LoraAdapter> adapters = in_.adapters.of(layer, target);
  const LoraRows who{adapters.data(), static_cast<int64_t>(adapters.size()), by_segments_ ? segment_adapter_.data() : row_adapter_.data(),
                     by_segments_ ? start_.data() : nullptr, static_cast<int64_t>(segment_adapter_.size()), first, end};
  const bool together = to.run >= out || to.run == to.stride;
  lora_shrink({who, in, x, x_stride, low_.data(), low_stride_});
  if (together) return lora_expand({who, out, low_.data(), low_stride_, to.y, to.y_stride, 0, lora_panels(out)});
  for (int64_t r = first; r < end; ++r)
    if (row_adapter_[r] >= 0) std::fill_n(delta_.data() + r * delta_stride_, out, 0.0f);
  lora_expand({who, out, low_.data(), low_stride_, delta_.data(), delta_stride_, 0, lora_panels(out)});
  for (int64_t r = first; r < end; ++r) {
    if (row_adapter_[r] < 0) continue;
    const float* delta = delta_.data() + r * delta_stride_;
    float* y = to.y + r * to.y_stride;
    for (int64_t i = 0; i < out; i += to.run, y += to.stride)
      for (int64_t k = 0; k < std::min(to.run, out - i); ++k) y[k] += delta[i + k];
  }
}

void LoraForward::prepare_queries(int64_t layer, int64_t row) {
  HeadPreparation p{config_.head_dim, in_.model.layers()[layer].q_norm, static_cast<float>(config_.norm_eps), in_.rope.cosine(block_[row].position),
                    in_.rope.sine(block_[row].position), static_cast<float>(1 / std::sqrt(static_cast<double>(config_.head_dim)))};
  for (int64_t h = 0; h < config_.num_heads; ++h) prepare_head(p, query(row, h));
}

float* LoraForward::prepare_key(int64_t layer, int64_t row, int64_t kv_head) {
  float* key = query(row, config_.num_heads + kv_head);
  prepare_head({config_.head_dim, in_.model.layers()[layer].k_norm, static_cast<float>(config_.norm_eps), in_.rope.cosine(block_[row].position),
                in_.rope.sine(block_[row].position), 1}, key);
  return key;
}

void LoraForward::place(int64_t layer, const Part& part) {
  const int64_t rows = static_cast<int64_t>(block_.size());
  for (int64_t r = part.first(rows); r < part.end(rows); ++r) {
    const LoraRow& row = block_[r];
    const CacheView& cache = row.to_shared ? row.shared : row.own;
    const int64_t index = (row.to_shared ? row.shared_keys : row.own_keys) - 1;
    prepare_queries(layer, r);
    for (int64_t h = 0; h < config_.num_kv_heads; ++h) {
      const float* key = prepare_key(layer, r, h);
      write_key_value(index, config_.head_dim, key, key + config_.num_kv_heads * head_stride_, cache_keys(cache, layer, h), cache_values(cache, layer, h));
    }
  }
}

int64_t LoraForward::group_end(int64_t first) const {
  int64_t end = first + 1;
  while (end < static_cast<int64_t>(block_.size()) && end - first < kGroupRows && block_[end].shared.base == block_[first].shared.base) ++end;
  return end;
}

void LoraForward::attend(int64_t layer, const Part& part) {
  int64_t unit = 0;
  for (int64_t first = 0, end; first < static_cast<int64_t>(block_.size()); first = end) {
    end = group_end(first);
    for (int64_t h = 0; h < config_.num_kv_heads; ++h)
      if (unit++ % part.size == part.rank) attend_rows(layer, h, first, end, scores_.data() + part.rank * kQueries * score_stride_);
  }
}

void LoraForward::attend_rows(int64_t layer, int64_t kv_head, int64_t first, int64_t end, float* scores) {
  std::array<AttentionQuery, kQueries> queries;
  const CacheView& shared = block_[first].shared;
  const int64_t total = (end - first) * group_;
  for (int64_t from = 0; from < total; from += kQueries) {
    const int64_t count = std::min(kQueries, total - from);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t r = first + (from + i) / group_, head = kv_head * group_ + (from + i) % group_;
      const LoraRow& row = block_[r];
      const bool has_own = row.own_keys > 0;
      queries[i] = {query(r, head), mixed(r, head), row.shared_keys, has_own ? cache_keys(row.own, layer, kv_head) : nullptr,
                    has_own ? cache_values(row.own, layer, kv_head) : nullptr, row.own_keys};
    }
    two_piece_attention({config_.head_dim, cache_keys(shared, layer, kv_head), cache_values(shared, layer, kv_head),
                         {queries.data(), static_cast<size_t>(count)}, scores, score_stride_});
  }
}

void LoraForward::draw(std::span<LoraDraw> draws, Team& team) {
  while (!draws.empty()) {
    size_t n = 0;
    for (int64_t states = 0; n < draws.size(); ++n)
      if ((n == 0 || draws[n].hidden != draws[n - 1].hidden) && ++states > logits_rows_) break;
    const int size = std::min(team.size(), in_.threads);
    team.work(size, [&](int rank) { draw_states(draws.first(n), {rank, size}, team); });
    draws = draws.subspan(n);
  }
}

// Every state's logits once; its draws are one thread's.
void LoraForward::draw_states(std::span<LoraDraw> draws, const Part& part, Team& team) {
  std::array<size_t, kMostRows + 1> begin;
  int64_t states = 0;
  for (size_t i = 0; i < draws.size(); ++i)
    if (i == 0 || draws[i].hidden != draws[i - 1].hidden) begin[states++] = i;
  begin[states] = draws.size();
  for (int64_t s = part.first(states); s < part.end(states); ++s)
    std::memcpy(normed_.data() + s * hidden_stride_, draws[begin[s]].hidden, config_.hidden_size * sizeof(float));
  team.barrier();
  const PackedMatrix& head = in_.model.head();
  multiply_panels({head, normed_.data(), hidden_stride_, PackedFinish::kStore, logits_.data(), logits_stride_}, states, part.first(head.panels),
                  part.end(head.panels));
  team.barrier();
  for (int64_t s = part.first(states); s < part.end(states); ++s)
    for (size_t i = begin[s]; i < begin[s + 1]; ++i) {
      LoraDraw& d = draws[i];
      const Counter counter{static_cast<uint32_t>(d.key), static_cast<uint32_t>(d.key >> 32), d.sample, d.position};
      d.drawn = draws_[part.rank].draw(logits_.data() + s * logits_stride_, random_words(in_.seed, Stream::kToken, counter));
    }
}

}  // namespace trimtab
