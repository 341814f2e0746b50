// One pass of many rows through the model: rows of prompts being read and rows of sequences being continued, alike.
//
// A row's arithmetic depends on its own token, position and cached keys only. So rows are shared among threads as suits the
// machine: many rows, each thread takes blocks of them through all layers and nobody waits; few rows, the outputs of every matrix
// are split, so that each weight is read from memory once, with a barrier behind every stage.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "engine/generation/packed_model.h"
#include "engine/generation/team.h"
#include "engine/generation/token_draw.h"

namespace trimtab {

// Keys and values of one prompt or sequence, all layers and heads (kernels/two_piece_attention).
struct CacheView {
  float* base = nullptr;
  int64_t capacity = 0;   // keys: a multiple of 16
};

struct PassRow {
  int32_t token = 0, position = 0;
  CacheView shared, own;
  int32_t shared_keys = 0, own_keys = 0;   // that the row sees, itself included
  bool to_shared = false;                  // its key goes to the end of the shared piece, else to the end of its own
  int32_t key_at = -1;                     // or to this place: rows that see keys of rows behind them, all of one joined run
  bool joined = false;                     // reads keys that the row before it writes in this pass: both stay in one block
  float* keep = nullptr;                   // [hidden]: where its final hidden state goes; may be null
  float* logits = nullptr;                 // [TokenDraw::padded(vocab)]: where its logits go; may be null
  bool read = false;                       // Pass::read is shown its logits
  const float* hidden = nullptr;           // given: already through the layers
  int32_t first_draw = 0, num_draws = 0;
};

struct PassDraw {
  uint64_t key = 0;
  uint32_t sample = 0, position = 0;
  DrawnToken drawn;
};

struct Pass {
  bool layers = true;
  std::vector<PassRow> rows;
  std::vector<PassDraw> draws;   // of rows, in their order
  // Shown the logits [padded(vocab)] of every row that asks for it, on the thread that has them; it may write to them and must not throw.
  std::function<void(int64_t row, float* logits, int thread)> read;
  bool wants_logits() const;     // of any row, for a draw or for their own sake
  void clear() { rows.clear(), draws.clear(); }
};

struct ForwardLimits {
  int threads = 1;
  int64_t positions = 0;      // that occur: rows have smaller ones
  int64_t shared_keys = 0, own_keys = 0;   // most of one row
  int64_t joined_rows = 0;    // in a run, at most, where that is more than Forward::kMostRows
};

class Forward {
 public:
  static constexpr int64_t kMostRows = 112;   // of a block: eight tiles of 14; the activations stay in the second-level cache

  Forward(const PackedModel& model, const RopeFrequencies& rope, const SamplingOptions& sampling, uint64_t seed, const ForwardLimits& limits,
          Region& memory);

  void run(Pass& pass, Team& team);
  static int64_t cache_numbers(const PackedModel& model, int64_t capacity);   // of a CacheView

 private:
  struct Group {
    int64_t first = 0, end = 0;   // rows with one shared piece
  };
  struct Block {
    int64_t first = 0, end = 0, first_group = 0, end_group = 0;
    int64_t rows() const { return end - first; }
  };
  struct Buffers {
    float *x = nullptr, *normed = nullptr, *qkv = nullptr, *mixed = nullptr, *middle = nullptr, *logits = nullptr, *scores = nullptr;
    std::vector<int64_t> wanted;   // rows of the block whose logits are, in their order
  };
  struct Member {   // who works on a block: rank `rank` of `size`
    int rank = 0, size = 1, thread = 0;
    Buffers* shared = nullptr;   // of the block
    Buffers* own = nullptr;      // of the thread
  };

  void lay_out(const ForwardLimits& limits, Region& memory);
  int64_t block_rows(int size) const;
  void split(int64_t target);
  void add_groups(Block& block);
  void run_block(const Block& block, const Member& m, Team& team);
  void run_layer(int64_t index, const Block& block, const Member& m, Team& team);
  void embed(const Block& block, const Member& m);
  void attend(int64_t layer, const Block& block, const Member& m);
  void attend_group(int64_t layer, int64_t kv_head, const Group& group, int64_t first_row, const Member& m);
  void write_keys(int64_t layer, int64_t kv_head, const Group& group, int64_t first_row, const Member& m);
  void finish_hidden(const Block& block, const Member& m);
  void gather_wanted(const Block& block, const Member& m);
  void draw_tokens(const Block& block, const Member& m, Team& team);
  void use_logits(int64_t index, float* logits, int thread);
  float* cache_keys(const CacheView& view, int64_t layer, int64_t kv_head) const;
  float* cache_values(const CacheView& view, int64_t layer, int64_t kv_head) const { return cache_keys(view, layer, kv_head) + view.capacity * head_dim_; }

  const PackedModel& model_;
  const TransformerConfig& config_;
  const RopeTable rope_;
  uint64_t seed_;
  int64_t head_dim_, head_stride_, group_size_;
  int64_t most_rows_;   // of a block
  int64_t hidden_stride_, qkv_stride_, mixed_stride_, middle_stride_, logits_stride_, score_stride_ = 0, logits_rows_ = 0;
  std::vector<Buffers> buffers_;   // of each thread
  std::vector<TokenDraw> draws_;
  Pass* pass_ = nullptr;
  std::vector<Block> blocks_;
  std::vector<Group> groups_;
  std::atomic<int64_t> next_block_{0};
};

}  // namespace trimtab
