// Low-rank adapters, many of them in one batch (multi-LoRA serving): each row of a batch has an adapter of its own, or none.
//
//   shrink      v[r] = x[r] A_a                 [rank_a] <- [in]         a: the adapter of row r
//   expand      y[r] += scale_a v[r] B_a        [out]    <- [rank_a]     y holds what the base layer made of x[r]
//
// Which adapter a row has is told row by row (decoding; Punica's BGMV, arXiv 2310.18547) or by segments of rows that have the same one
// (prefill; its SGMV). Ranks differ from adapter to adapter (as in S-LoRA, 2311.03285). Rows without an adapter are not touched.
//
//   attention   out = softmax(q K^T) (V + scale Z B)  =  P V + scale (P Z) B
//
// is attention on values that an adapter has changed, without making them: agents that differ by their adapters share the cache (K, V) of
// the base model, and each keeps Z = x A, of rank numbers per key, beside it (LRAgent, 2602.01053). K is used as it is. P Z goes through
// the same online softmax as P V, and meets B once, at the end: per query and key rank numbers more instead of rank times head_dim.
//
// All arrays are row-major and, but for adapters that say otherwise, f32; `..._stride` is the distance between rows in elements. A and B
// are those of y = x A B, the transposes of a checkpoint's lora_A and lora_B. Nothing is asked of alignment; outputs overlap nothing. The
// order of a sum is fixed by the extents of its product, so a result depends neither on the rows beside it, nor on whether the adapter is
// told by rows or by segments, nor on how rows and panels are shared out. NaN stays NaN, and in its row. Thread-safe; no allocation.
// Wrong arguments are TT_CHECKs.
#pragma once

#include <cstdint>

namespace trimtab {

enum class LoraNumbers : int32_t { kFloat, kBfloat16 };

struct LoraAdapter {
  const void* a = nullptr;   // [in, rank], of `numbers`
  const void* b = nullptr;   // [rank, out]
  int32_t rank = 0;          // 0: as no adapter
  float scale = 0;           // alpha / rank, or alpha / sqrt(rank)
  LoraNumbers numbers = LoraNumbers::kFloat;   // bfloat16 (the upper halves of floats) halves what a decode step waits for
};

// Who has which adapter, and the part of the rows that a call computes.
struct LoraRows {
  const LoraAdapter* adapters = nullptr;
  int64_t num_adapters = 0;
  const int32_t* adapter = nullptr;   // [rows], or [segments]; -1: none
  const int32_t* start = nullptr;     // null: `adapter` is by row. Else [segments + 1], not descending: segment s is rows start[s] .. start[s + 1] - 1
  int64_t segments = 0;
  int64_t first_row = 0, last_row = 0;   // computes rows first_row .. last_row - 1; those in no segment have no adapter
};

struct LoraShrink {
  LoraRows rows;
  int64_t in = 0;
  const float* x = nullptr;   // [rows, in]
  int64_t x_stride = 0;
  float* v = nullptr;         // [rows, rank of the row's adapter]: written; what lies behind is not touched
  int64_t v_stride = 0;       // at least the largest rank
};
void lora_shrink(const LoraShrink& s);

constexpr int64_t kLoraPanel = 64;   // outputs of a panel: expand is shared out by rows, by panels or by both
inline int64_t lora_panels(int64_t out) { return (out + kLoraPanel - 1) / kLoraPanel; }

struct LoraExpand {
  LoraRows rows;
  int64_t out = 0;
  const float* v = nullptr;   // [rows, rank]
  int64_t v_stride = 0;
  float* y = nullptr;         // [rows, out], added to
  int64_t y_stride = 0;
  int64_t first_panel = 0, last_panel = 0;   // computes these panels of y
};
void lora_expand(const LoraExpand& e);

constexpr int64_t kLoraKeyBlock = 16, kLoraMostRank = 128, kLoraMostHead = 256;   // rank and head_dim of attention

// The base model's cache of one KV head, shared by all its queries; written as by kernels/two_piece_attention.
struct LoraCache {
  const float* keys = nullptr;     // [blocks][head_dim][16]: key j is number j % 16 of block j / 16; whole blocks are read
  const float* values = nullptr;   // [keys, head_dim]
  int64_t value_stride = 0;
};

// One query head. Heads of a group have the same cache, z and b.
struct LoraQuery {
  int32_t cache = 0;
  int32_t rank = 0;            // 0: the base model's values
  int64_t keys = 0;            // sees the first `keys` keys; of none the result is zeros
  const float* q = nullptr;    // [head_dim], scaled by 1 / sqrt(head_dim), rotated as the keys were
  const float* z = nullptr;    // [keys, rank]: x A of every key
  int64_t z_stride = 0;
  const float* b = nullptr;    // [rank, head_dim]: the columns of this KV head
  int64_t b_stride = 0;
  float scale = 0;
  float* out = nullptr;        // [head_dim]
};

struct AttentionLora {
  int64_t head_dim = 0;
  const LoraCache* caches = nullptr;
  const LoraQuery* queries = nullptr;   // those of one cache behind one another: 32 at a time then go through it together
  int64_t num_queries = 0;
};
void attention_lora(const AttentionLora& a);

}  // namespace trimtab
