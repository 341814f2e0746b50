// Attention of single queries on a key/value cache in two pieces: one that many sequences share (their prompt) and each one's own.
//
//   out = sum_j softmax(q . k_j) v_j      over the first `shared` keys of the shared piece and the first `own` of its own
//
// The cache of one layer and KV head lies as it is read: keys in blocks of 16, [block][head_dim][16], so that a vector holds one
// number of 16 keys; values [key][padded_head_dim]. Queries that share a piece go through it together, four at a time, and its
// keys are never copied. Plain f32. The order of every sum is fixed by head_dim, `shared` and `own` alone: a query's result does
// not depend on its company. Thread-safe; no allocation. Wrong arguments are TT_CHECKs.
#pragma once

#include <cstdint>
#include <span>

namespace trimtab {

constexpr int64_t kKeyBlock = 16;
inline int64_t key_blocks_of(int64_t keys) { return (keys + kKeyBlock - 1) / kKeyBlock; }
inline int64_t padded_head_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

// One head of one row before it is used: RMSNorm with `norm` (null: none), rotary embedding, times `scale`.
struct HeadPreparation {
  int64_t head_dim = 0;
  const float* norm = nullptr;       // [head_dim]
  float epsilon = 1e-6f;
  const float* cosine = nullptr;     // [head_dim / 2] of the row's position: pairs (i, i + head_dim / 2) are turned
  const float* sine = nullptr;
  float scale = 1;                   // of the result: 1 / sqrt(head_dim) for queries
};
void prepare_head(const HeadPreparation& p, float* head);

// Puts a key and a value at `index`. `keys` [blocks][head_dim][16], `values` [.][padded_head_dim].
void write_key_value(int64_t index, int64_t head_dim, const float* key, const float* value, float* keys, float* values);

struct AttentionQuery {
  const float* q = nullptr;          // [head_dim], prepared
  float* out = nullptr;              // [padded_head_dim]; the padding becomes what the values' padding is mixed to
  int64_t shared = 0;                // keys of the shared piece that it sees
  const float* keys = nullptr;       // its own piece
  const float* values = nullptr;
  int64_t own = 0;
};

struct TwoPieceAttention {
  int64_t head_dim = 0;
  const float* shared_keys = nullptr;
  const float* shared_values = nullptr;
  std::span<const AttentionQuery> queries;   // each sees one key or more
  float* scores = nullptr;                   // scratch [queries, score_stride]
  int64_t score_stride = 0;                  // >= attention_scores of the largest shared and the largest own
};
inline int64_t attention_scores(int64_t shared, int64_t own) { return (key_blocks_of(shared) + key_blocks_of(own)) * kKeyBlock; }
void two_piece_attention(const TwoPieceAttention& a);

}  // namespace trimtab
