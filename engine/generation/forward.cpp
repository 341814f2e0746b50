#include "engine/generation/forward.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/random.h"
#include "kernels/two_piece_attention/two_piece_attention.h"
#include "kernels/packed_linear/packed_linear.h"
#include "kernels/rms_norm/rms_norm.h"

namespace trimtab {
namespace {

constexpr int64_t kQueries = 16;            // that one call of the attention kernel gets
constexpr int64_t kGroupRows = 8;           // of sequences with one prompt that attend together
constexpr int64_t kLogits = int64_t{1} << 22;   // numbers that a thread holds at a time
constexpr int64_t kApartRows = 32;          // of each thread, from which on it need not share the reading of weights
constexpr int64_t kAloneRows = 8;           // of a small model, that are not worth handing out
constexpr int64_t kSmallWeights = int64_t{3} << 19;   // bytes that stay in a core's second-level cache

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Share {
  int64_t first = 0, end = 0;
};
Share share_of(int64_t n, int rank, int size) { return {n * rank / size, n * (rank + 1) / size}; }

void multiply(const PackedProduct& p, int64_t rows, int rank, int size) {
  const Share panels = share_of(p.matrix.panels, rank, size);
  multiply_panels(p, rows, panels.first, panels.end);
}

}  // namespace

bool Pass::wants_logits() const {
  return !draws.empty() || std::any_of(rows.begin(), rows.end(), [](const PassRow& row) { return row.logits != nullptr || row.read; });
}

Forward::Forward(const PackedModel& model, const RopeFrequencies& rope, const SamplingOptions& sampling, uint64_t seed,
                 const ForwardLimits& limits, Region& memory)
    : model_(model), config_(model.config()), rope_(rope, limits.positions), seed_(seed), head_dim_(config_.head_dim), head_stride_(model.head_stride()),
      group_size_(config_.num_heads / config_.num_kv_heads), most_rows_(std::max(kMostRows, limits.joined_rows)) {
  const PackedLayer& layer = model.layers().front();
  hidden_stride_ = round_up(config_.hidden_size, kPackedPanel);
  qkv_stride_ = layer.qkv.panels * kPackedPanel;
  mixed_stride_ = config_.num_heads * head_stride_;
  middle_stride_ = layer.gate_up.panels * (kPackedPanel / 2);
  logits_stride_ = TokenDraw::padded(model.head().panels * kPackedPanel);
  logits_rows_ = std::clamp<int64_t>(kLogits / logits_stride_, 14, kMostRows);
  score_stride_ = attention_scores(limits.shared_keys, limits.own_keys);
  for (int t = 0; t < limits.threads; ++t) draws_.emplace_back(config_.vocab_size, sampling);
  lay_out(limits, memory);
}

void Forward::lay_out(const ForwardLimits& limits, Region& memory) {
  // Rows of buffers start on different cache sets: a power of two between them would let few of them stay.
  for (int64_t* stride : {&hidden_stride_, &qkv_stride_, &mixed_stride_, &middle_stride_, &logits_stride_}) *stride += 16;
  const int64_t sizes[] = {most_rows_ * hidden_stride_, most_rows_ * hidden_stride_, most_rows_ * qkv_stride_,      most_rows_ * mixed_stride_,
                           most_rows_ * middle_stride_, logits_rows_ * logits_stride_, kQueries * score_stride_};
  int64_t each = 0;
  for (const int64_t size : sizes) each += round_up(size, 16);
  memory.reserve(limits.threads * each);
  float* at = memory.data();
  for (int t = 0; t < limits.threads; ++t) {
    Buffers& b = buffers_.emplace_back();
    float** const parts[] = {&b.x, &b.normed, &b.qkv, &b.mixed, &b.middle, &b.logits, &b.scores};
    for (size_t i = 0; i < std::size(parts); ++i) *parts[i] = at, at += round_up(sizes[i], 16);
  }
}

int64_t Forward::cache_numbers(const PackedModel& model, int64_t capacity) {
  const TransformerConfig& c = model.config();
  return c.num_layers * c.num_kv_heads * capacity * (c.head_dim + model.head_stride());
}

float* Forward::cache_keys(const CacheView& view, int64_t layer, int64_t kv_head) const {
  return view.base + (layer * config_.num_kv_heads + kv_head) * view.capacity * (head_dim_ + head_stride_);
}

// Rows of a block when each of `size` threads takes whole blocks; 0: better all together on one block after the other, which is
// for weights that no core's cache holds. A step of smaller ones is over before others have joined in.
int64_t Forward::block_rows(int size) const {
  const int64_t rows = static_cast<int64_t>(pass_->rows.size());
  const bool small = model_.weight_bytes() <= kSmallWeights;
  if (size == 1 || (small && rows < kAloneRows)) return kMostRows;
  if (!small && rows < kApartRows * size) return 0;
  int64_t longest = 0, run = 0;
  for (const PassRow& row : pass_->rows) run = row.joined ? run + 1 : 1, longest = std::max(longest, run);
  if (longest * size > rows + rows / 4) return small ? kMostRows : 0;
  const int64_t blocks = round_up((rows + kMostRows - 1) / kMostRows, size);
  return (rows + blocks - 1) / blocks;
}

void Forward::split(int64_t target) {
  blocks_.clear(), groups_.clear();
  const std::vector<PassRow>& rows = pass_->rows;
  const int64_t n = static_cast<int64_t>(rows.size());
  Block block;
  for (int64_t row = 0; row < n;) {
    int64_t end = row + 1;
    while (end < n && rows[end].joined) ++end;
    TT_CHECK_LE(end - row, most_rows_);
    if (block.rows() > 0 && (block.rows() >= target || end - block.first > kMostRows)) {
      add_groups(block);
      block = {row, row, 0, 0};
    }
    block.end = row = end;
  }
  add_groups(block);
}

void Forward::add_groups(Block& block) {
  block.first_group = static_cast<int64_t>(groups_.size());
  for (int64_t row = block.first; row < block.end; ++row) {
    const PassRow& r = pass_->rows[row];
    const bool opens = row == block.first || r.shared.base != pass_->rows[row - 1].shared.base ||
                       (!r.joined && row - groups_.back().first >= kGroupRows);
    if (opens) groups_.push_back({row, row});
    groups_.back().end = row + 1;
  }
  block.end_group = static_cast<int64_t>(groups_.size());
  blocks_.push_back(block);
}

void Forward::run(Pass& pass, Team& team) {
  if (pass.rows.empty()) return;
  pass_ = &pass;
  const int size = std::min(team.size(), static_cast<int>(buffers_.size()));
  const int64_t target = block_rows(size);
  split(target == 0 ? kMostRows : target);
  if (target == 0) {
    team.work(size, [&](int rank) {
      for (const Block& block : blocks_) run_block(block, {rank, size, rank, &buffers_[0], &buffers_[rank]}, team);
    });
    return;
  }
  next_block_.store(0, std::memory_order_relaxed);
  const int64_t blocks = static_cast<int64_t>(blocks_.size());
  team.work(static_cast<int>(std::min<int64_t>(size, blocks)), [&](int rank) {
    for (int64_t b = next_block_.fetch_add(1); b < blocks; b = next_block_.fetch_add(1))
      run_block(blocks_[b], {0, 1, rank, &buffers_[rank], &buffers_[rank]}, team);
  });
}

void Forward::run_block(const Block& block, const Member& m, Team& team) {
  if (pass_->layers) {
    embed(block, m);
    if (m.size > 1) team.barrier();
    for (int64_t i = 0; i < config_.num_layers; ++i) run_layer(i, block, m, team);
  }
  finish_hidden(block, m);
  if (pass_->wants_logits()) draw_tokens(block, m, team);
  if (m.size > 1) team.barrier();
}

void Forward::embed(const Block& block, const Member& m) {
  const Share rows = share_of(block.rows(), m.rank, m.size);
  for (int64_t r = rows.first; r < rows.end; ++r)
    std::memcpy(m.shared->x + r * hidden_stride_, model_.embedding(pass_->rows[block.first + r].token), config_.hidden_size * sizeof(float));
}

void Forward::run_layer(int64_t index, const Block& block, const Member& m, Team& team) {
  const PackedLayer& l = model_.layers()[index];
  const int64_t rows = block.rows();
  const Buffers& b = *m.shared;
  float* const normed = m.own->normed;   // every thread norms all rows: cheaper than a barrier
  const auto wait = [&] { if (m.size > 1) team.barrier(); };
  const auto norm = [&](const float* weight) {
    rms_norm(RmsNorm<float>{rows, config_.hidden_size, b.x, hidden_stride_, weight, config_.norm_eps, normed, hidden_stride_});
  };
  norm(l.input_norm);
  multiply({l.qkv, normed, hidden_stride_, PackedFinish::kStore, b.qkv, qkv_stride_}, rows, m.rank, m.size);
  wait();
  attend(index, block, m);
  wait();
  multiply({l.out, b.mixed, mixed_stride_, PackedFinish::kAdd, b.x, hidden_stride_}, rows, m.rank, m.size);
  wait();
  norm(l.post_norm);
  multiply({l.gate_up, normed, hidden_stride_, PackedFinish::kSiluProduct, b.middle, middle_stride_}, rows, m.rank, m.size);
  wait();
  multiply({l.down, b.middle, middle_stride_, PackedFinish::kAdd, b.x, hidden_stride_}, rows, m.rank, m.size);
  wait();
}

void Forward::attend(int64_t layer, const Block& block, const Member& m) {
  const int64_t heads = config_.num_kv_heads, units = (block.end_group - block.first_group) * heads;
  for (int64_t u = m.rank; u < units; u += m.size) {
    const Group& group = groups_[block.first_group + u / heads];
    write_keys(layer, u % heads, group, block.first, m);
    attend_group(layer, u % heads, group, block.first, m);
  }
}

// Prepares the group's queries, keys and values of one KV head and puts keys and values into the caches.
void Forward::write_keys(int64_t layer, int64_t kv_head, const Group& group, int64_t first_row, const Member& m) {
  const PackedLayer& l = model_.layers()[layer];
  HeadPreparation p;
  p.head_dim = head_dim_, p.epsilon = static_cast<float>(config_.norm_eps);
  for (int64_t r = group.first; r < group.end; ++r) {
    const PassRow& row = pass_->rows[r];
    float* qkv = m.shared->qkv + (r - first_row) * qkv_stride_;
    float* key = qkv + (config_.num_heads + kv_head) * head_stride_;
    p.cosine = rope_.cosine(row.position), p.sine = rope_.sine(row.position);
    p.norm = l.q_norm, p.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim_)));
    for (int64_t h = 0; h < group_size_; ++h) prepare_head(p, qkv + (kv_head * group_size_ + h) * head_stride_);
    p.norm = l.k_norm, p.scale = 1;
    prepare_head(p, key);
    const CacheView& cache = row.to_shared ? row.shared : row.own;
    const int64_t index = row.key_at >= 0 ? row.key_at : (row.to_shared ? row.shared_keys : row.own_keys) - 1;
    write_key_value(index, head_dim_, key, key + config_.num_kv_heads * head_stride_, cache_keys(cache, layer, kv_head),
                    cache_values(cache, layer, kv_head));
  }
}

void Forward::attend_group(int64_t layer, int64_t kv_head, const Group& group, int64_t first_row, const Member& m) {
  std::array<AttentionQuery, kQueries> queries;
  const CacheView& shared = pass_->rows[group.first].shared;
  const int64_t total = (group.end - group.first) * group_size_;
  for (int64_t first = 0; first < total; first += kQueries) {
    const int64_t count = std::min(kQueries, total - first);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t r = group.first + (first + i) / group_size_, head = kv_head * group_size_ + (first + i) % group_size_;
      const PassRow& row = pass_->rows[r];
      const bool has_own = row.own_keys > 0;
      queries[i] = {m.shared->qkv + (r - first_row) * qkv_stride_ + head * head_stride_,
                    m.shared->mixed + (r - first_row) * mixed_stride_ + head * head_stride_, row.shared_keys,
                    has_own ? cache_keys(row.own, layer, kv_head) : nullptr, has_own ? cache_values(row.own, layer, kv_head) : nullptr,
                    row.own_keys};
    }
    two_piece_attention({head_dim_, cache_keys(shared, layer, kv_head), cache_values(shared, layer, kv_head),
                      {queries.data(), static_cast<size_t>(count)}, m.own->scores, score_stride_});
  }
}

// The final hidden states of the block's rows in m.own->normed, and where a row wants to keep its own.
void Forward::finish_hidden(const Block& block, const Member& m) {
  const size_t bytes = config_.hidden_size * sizeof(float);
  if (pass_->layers)
    rms_norm(RmsNorm<float>{block.rows(), config_.hidden_size, m.shared->x, hidden_stride_, model_.final_norm(), config_.norm_eps,
              m.own->normed, hidden_stride_});
  for (int64_t r = 0; r < block.rows(); ++r) {
    const PassRow& row = pass_->rows[block.first + r];
    float* normed = m.own->normed + r * hidden_stride_;
    if (row.hidden != nullptr) std::memcpy(normed, row.hidden, bytes);
    if (row.keep != nullptr && m.rank == 0) std::memcpy(row.keep, normed, bytes);
  }
}

// Moves the final states of rows whose logits are wanted to the front of m.own->normed.
void Forward::gather_wanted(const Block& block, const Member& m) {
  std::vector<int64_t>& wanted = m.own->wanted;
  wanted.clear();
  for (int64_t r = 0; r < block.rows(); ++r) {
    const PassRow& row = pass_->rows[block.first + r];
    if (row.logits == nullptr && !row.read && row.num_draws == 0) continue;
    const int64_t to = static_cast<int64_t>(wanted.size());
    if (to < r) std::memcpy(m.own->normed + to * hidden_stride_, m.own->normed + r * hidden_stride_, config_.hidden_size * sizeof(float));
    wanted.push_back(block.first + r);
  }
}

void Forward::draw_tokens(const Block& block, const Member& m, Team& team) {
  const auto wait = [&] { if (m.size > 1) team.barrier(); };
  gather_wanted(block, m);
  const int64_t wanted = static_cast<int64_t>(m.own->wanted.size());
  for (int64_t first = 0; first < wanted; first += logits_rows_) {
    const int64_t rows = std::min(logits_rows_, wanted - first);
    multiply({model_.head(), m.own->normed + first * hidden_stride_, hidden_stride_, PackedFinish::kStore, m.shared->logits, logits_stride_},
             rows, m.rank, m.size);
    wait();
    const Share mine = share_of(rows, m.rank, m.size);
    for (int64_t r = mine.first; r < mine.end; ++r) use_logits(m.own->wanted[first + r], m.shared->logits + r * logits_stride_, m.thread);
    wait();
  }
}

void Forward::use_logits(int64_t index, float* logits, int thread) {
  const PassRow& row = pass_->rows[index];
  if (row.logits != nullptr) std::memcpy(row.logits, logits, config_.vocab_size * sizeof(float));
  for (int32_t i = row.first_draw; i < row.first_draw + row.num_draws; ++i) {
    PassDraw& d = pass_->draws[i];
    const Counter counter{static_cast<uint32_t>(d.key), static_cast<uint32_t>(d.key >> 32), d.sample, d.position};
    d.drawn = draws_[thread].draw(logits, random_words(seed_, Stream::kToken, counter));
  }
  if (row.read) pass_->read(index, logits, thread);
}

}  // namespace trimtab
