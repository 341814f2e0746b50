// Lossless verification of drafted tokens: which of them stay, and which token follows them, so that the tokens follow the target's law p
// whatever the draft's law q was (speculative sampling: Leviathan et al., arXiv 2211.17192; Chen et al., 2302.01318).
//
//   a drafted y ~ q stays iff  u q(y) < p(y);  at the first that does not the token is drawn from  max(0, p - q) / sum,
//   and from p behind the last one when all stay.
//   Siblings of a tree are tried in order: after each rejection  p := max(0, p - q) / sum,  and where siblings were drawn without
//   replacement q loses the rejected token and is scaled to 1 again (SpecInfer, 2305.09781; Jeon et al., 2402.14160).
//   Certain drafts (q null: n-grams, copies) have q(y) = 1, so that y stays with probability p(y) and else has none left.
//
// A draw from weights w is the first j at which w[0] + ... + w[j] exceeds u (w[0] + ... + w[vocab - 1]); a token of weight 0 is never
// drawn. Where nothing is left of max(0, p - q), which takes rounding, the token is drawn from p. A one-hot p makes it argmax matching.
//
// Rows [vocab] are f32, their strides at least vocab, with nothing asked of alignment; several sequences may share rows. Inputs are not
// changed, and outputs may not overlap anything. Rows that decide are read whole and checked: what is no distribution is a fault of its
// sequence (SpeculativeVerdict), and the other sequences are not touched by it. Indices of rows are believed. A wrong shape is a TT_CHECK;
// vocab is at most 2^30.
// The order of every sum is fixed by vocab, so a batch may be split anywhere. Thread-safe; no allocation.
#pragma once

#include <cstdint>

namespace trimtab {

constexpr float kSpeculativeTolerance = 1e-3f;   // how far from 1 the sum of a row may be

enum class SpeculativeFault : int32_t {
  kNone = 0,
  kStructure,    // a negative count, a tree without a root, or parents that are not in breadth-first order
  kTargetRow,    // a row of p is negative, not finite, or does not sum to 1
  kDraftRow,     // the same of q
  kToken,        // a drafted token is not in [0, vocab), or q cannot have drawn it
  kUniform,      // a uniform number is not in [0, 1)
};

struct SpeculativeVerdict {
  int32_t accepted = 0;   // drafted tokens that stay
  int32_t token = -1;     // the one after them; -1 with a fault, and `accepted` means nothing then
  SpeculativeFault fault = SpeculativeFault::kNone;
  int32_t at = 0;         // the fault's place within the sequence: drafted token or row of a chain, node of a tree
};

// Sequence b has num_drafted[b] tokens. Its rows of p are first_p[b] .. first_p[b] + num_drafted[b], row i being the target's law of
// drafted token i and the last one that of the token behind; rows of q, drafted and uniform are first_q[b] .. + num_drafted[b] - 1.
struct SpeculativeChains {
  int64_t num_sequences = 0, vocab = 0;
  const float* p = nullptr;               // [rows, vocab] at p_stride
  int64_t p_stride = 0;
  const float* q = nullptr;               // [drafted, vocab] at q_stride; null: certain drafts
  int64_t q_stride = 0;
  const int64_t* first_p = nullptr;       // [num_sequences]
  const int64_t* first_q = nullptr;       // [num_sequences]
  const int32_t* num_drafted = nullptr;   // [num_sequences], 0 or more
  const int32_t* drafted = nullptr;       // [drafted]
  const double* uniform = nullptr;        // [drafted], in [0, 1)
  const double* final_uniform = nullptr;  // [num_sequences], of the draw
  SpeculativeVerdict* verdict = nullptr;  // [num_sequences]
};
bool speculative_verify(const SpeculativeChains& chains);   // whether no sequence has a fault

// How the children of a node were drawn from its row of q.
enum class SiblingDraws : int32_t { kIndependent, kWithoutReplacement };

// Sequence b has the nodes first_node[b] .. first_node[b] + num_nodes[b] - 1. The first is the root, which stands for the text so far: its
// parent is -1, and neither its token nor its uniform number is read. Parents count from the root, 0, and never decrease.
struct SpeculativeTrees {
  int64_t num_sequences = 0, vocab = 0;
  const float* p = nullptr;               // [rows, vocab] at p_stride
  int64_t p_stride = 0;
  const float* q = nullptr;               // [rows, vocab] at q_stride; null: certain drafts
  int64_t q_stride = 0;
  SiblingDraws draws = SiblingDraws::kIndependent;
  const int64_t* first_node = nullptr;    // [num_sequences]
  const int32_t* num_nodes = nullptr;     // [num_sequences], 1 or more
  const int32_t* parent = nullptr;        // [nodes]
  const int32_t* token = nullptr;         // [nodes]
  const int64_t* p_row = nullptr;         // [nodes], the target's law of the token after the node
  const int64_t* q_row = nullptr;         // [nodes], what its children were drawn from; not read without children or without q
  const double* uniform = nullptr;        // [nodes], in [0, 1)
  const double* final_uniform = nullptr;  // [num_sequences], of the draw
  float* scratch = nullptr;               // [vocab] on the CPU, [num_sequences, vocab] on a device
  int32_t* path = nullptr;                // [nodes]: the nodes that stay, from first_node[b] on, counted as parents are
  SpeculativeVerdict* verdict = nullptr;  // [num_sequences]
};
bool speculative_verify(const SpeculativeTrees& trees);   // whether no sequence has a fault

}  // namespace trimtab
