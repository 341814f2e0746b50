// Rows of many sequences through the model together, each with the adapter of its sequence or with none.
//
// Of every linear layer the base product is made for all rows at once over packed panels; then kernels/lora adds scale (x A) B to the rows
// that have an adapter, told by segments where rows of one adapter lie together (prompts being read) and row by row otherwise (decoding).
// SwiGLU is fused into the base product where no adapter of the block changes gate or up, and else goes through the same kernel afterwards:
// the same bits. So a row's arithmetic depends on its own token, position, adapter and cached keys only, and without an adapter it is that
// of engine/generation/forward.h.
//
// All threads work on the same block of rows: products are shared out by panels, what is of single rows by rows, attention by heads, with
// a barrier between. Keys of all rows of a block are written before any attends, so later rows of a sequence may see earlier ones.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/generation/forward.h"
#include "engine/multi_lora/adapter_table.h"

namespace trimtab {

struct LoraRow {
  int32_t token = 0, position = 0, adapter = -1;   // of the table; -1: none
  CacheView shared = {}, own = {};
  int32_t shared_keys = 0, own_keys = 0;           // that the row sees, itself included
  bool to_shared = false;                          // its key goes to the end of the shared piece, else to the end of its own
  float* hidden = nullptr;                         // [hidden_size]: where its final state goes, after the last norm; may be null
};

// A token to be drawn from a final state. Draws of one state lie behind one another.
struct LoraDraw {
  const float* hidden = nullptr;
  uint64_t key = 0;
  uint32_t sample = 0, position = 0;
  DrawnToken drawn;
};

// Puts it behind the completion's tokens; RunError where the logits were not finite.
void add_drawn(const DrawnToken& drawn, Completion& to);

struct LoraForwardInputs {
  const PackedModel& model;
  const RopeTable& rope;
  const AdapterTable& adapters;
  const SamplingOptions& sampling;
  uint64_t seed = 0;
  int threads = 1;
  int64_t shared_keys = 0, own_keys = 0;   // most of one row
};

class LoraForward {
 public:
  static constexpr int64_t kMostRows = 112;   // of a block: eight tiles of the packed product

  explicit LoraForward(const LoraForwardInputs& in);
  virtual ~LoraForward() = default;

  void run(std::span<const LoraRow> rows, Team& team);   // rows of a sequence in its order
  void draw(std::span<LoraDraw> draws, Team& team);

 protected:
  struct Part {   // of a stage: rank of size
    int rank = 0, size = 1;
    int64_t first(int64_t n) const { return n * rank / size; }
    int64_t end(int64_t n) const { return n * (rank + 1) / size; }
  };
  // Rows of the part: heads turned, keys and values into the caches. normed() has the inputs of the layer.
  virtual void place(int64_t layer, const Part& part);
  // Queries of all rows of the block, shared out as suits.
  virtual void attend(int64_t layer, const Part& part);

  void prepare_queries(int64_t layer, int64_t row);
  float* prepare_key(int64_t layer, int64_t row, int64_t kv_head);   // its value: kv_heads * head_stride further on
  std::span<const LoraRow> block() const { return block_; }
  const float* normed(int64_t row) const { return normed_.data() + row * hidden_stride_; }
  int64_t hidden_stride() const { return hidden_stride_; }
  float* query(int64_t row, int64_t head) { return qkv_.data() + row * qkv_stride_ + head * head_stride_; }
  float* mixed(int64_t row, int64_t head) { return mixed_.data() + row * mixed_stride_ + head * head_stride_; }
  const TransformerConfig& config() const { return config_; }
  int64_t head_stride() const { return head_stride_; }

 private:
  struct Output {   // of a linear layer: outputs in runs of `run`, `stride` apart
    float* y = nullptr;
    int64_t y_stride = 0, run = 0, stride = 0;
  };
  void take_block(std::span<const LoraRow> rows);
  void run_block(const Part& part, Team& team);
  void run_layer(int64_t layer, const Part& part, Team& team);
  void run_mlp(int64_t layer, const Part& part, Team& team);
  void multiply(const PackedProduct& p, const Part& part);
  void norm_rows(const float* weight, const Part& part);
  bool adapted(int64_t layer, LoraTarget target) const { return any_adapter_ && in_.adapters.changes(layer, target); }
  void add_low_rank(int64_t layer, LoraTarget target, const float* x, int64_t x_stride, const Output& to, const Part& part);
  void add_attention(int64_t layer, const Part& part);
  void add_output(int64_t layer, const Part& part);
  void attend_rows(int64_t layer, int64_t kv_head, int64_t first, int64_t end, float* scores);
  int64_t group_end(int64_t first) const;
  void draw_states(std::span<LoraDraw> draws, const Part& part, Team& team);
  float* cache_keys(const CacheView& view, int64_t layer, int64_t kv_head) const {
    return view.base + (layer * config_.num_kv_heads + kv_head) * view.capacity * (config_.head_dim + head_stride_);
  }
  float* cache_values(const CacheView& view, int64_t layer, int64_t kv_head) const {
    return cache_keys(view, layer, kv_head) + view.capacity * config_.head_dim;
  }

  const LoraForwardInputs in_;
  const TransformerConfig& config_;
  int64_t head_stride_, group_, hidden_stride_, qkv_stride_, mixed_stride_, gate_up_stride_, middle_stride_, logits_stride_, low_stride_, delta_stride_;
  int64_t score_stride_, logits_rows_;
  std::vector<float> x_, normed_, qkv_, mixed_, gate_up_, middle_, logits_, low_, delta_, scores_;
  std::vector<TokenDraw> draws_;   // of each thread
  std::span<const LoraRow> block_;
  bool any_adapter_ = false, by_segments_ = false;
  std::vector<int32_t> row_adapter_, start_, segment_adapter_;
};

}  // namespace trimtab
