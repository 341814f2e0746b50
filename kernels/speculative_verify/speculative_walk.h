// What the CPU and the CUDA version of speculative_verify share: the walk along a chain or down a tree, over `Rows` that do what takes a
// pass over the vocabulary. On a device all threads of a block take the same walk, and a pass is the whole block's. Rows has
//
//   bool is_distribution(row)            non-negative numbers that sum to about 1
//   int64_t draw(ResidualWeight, u)      -1 when all weights are 0
//   Leftover reject(Rejection, to)       writes the rejection's numbers; `to` may be what they are made from
//   bool leads()                         true for the one that writes
#pragma once

#include "kernels/speculative_verify/speculative_verify.h"

#ifdef __CUDACC__
#define TRIMTAB_WALK __device__ inline
#else
#define TRIMTAB_WALK inline
#endif

namespace trimtab {

// Of a token that a draw without replacement cannot give any more, in place of its residual, which is 0.
constexpr float kSpeculativeRemoved = -1;

// max(0, r - q), 0 at the token `without`.
struct ResidualWeight {
  const float* r = nullptr;
  const float* q = nullptr;
  int64_t without = -1;

  TRIMTAB_WALK float operator()(int64_t j) const {
    const float w = q == nullptr ? r[j] : r[j] - q[j];
    return w > 0 && j != without ? w : 0;
  }
};

// What `token`'s rejection leaves of r, whose sum is r_sum, where q's sum is q_sum. Divisions, since a sum may be as small as one number.
struct Rejection {
  const float* r = nullptr;
  const float* q = nullptr;
  float r_sum = 1, q_sum = 1;
  int64_t token = -1;
  float at_token = 0;

  TRIMTAB_WALK float operator()(int64_t j) const {
    if (r[j] < 0) return kSpeculativeRemoved;
    if (j == token) return at_token;
    const float left = q == nullptr ? r[j] : r[j] / r_sum - q[j] / q_sum;
    return left > 0 ? left : 0;
  }
};

// Sums after a rejection: of what is left of r, and of q over the tokens not removed.
struct Leftover {
  double r = 0, q = 0;
};

template <class Batch>
bool speculative_shape_holds(const Batch& b) {
  const bool rows = b.vocab >= 1 && b.vocab <= (int64_t{1} << 30) && b.p_stride >= b.vocab && (b.q == nullptr || b.q_stride >= b.vocab);
  const bool arrays = b.num_sequences == 0 || (b.p != nullptr && b.final_uniform != nullptr && b.verdict != nullptr);
  return b.num_sequences >= 0 && b.num_sequences <= INT32_MAX && rows && arrays;
}

TRIMTAB_WALK SpeculativeVerdict faulty(SpeculativeFault fault, int32_t at) { return {0, -1, fault, at}; }

TRIMTAB_WALK bool is_uniform(double u) { return u >= 0 && u < 1; }

// What is wrong with a drafted token by itself.
TRIMTAB_WALK SpeculativeFault draft_fault(int32_t token, double u, const float* q, int64_t vocab) {
  if (token < 0 || token >= vocab || (q != nullptr && !(q[token] > 0))) return SpeculativeFault::kToken;
  return is_uniform(u) ? SpeculativeFault::kNone : SpeculativeFault::kUniform;
}

// The token after `accepted` ones, by `weight` or, where there is none, by p.
template <class Rows>
TRIMTAB_WALK SpeculativeVerdict drawn(const Rows& rows, const ResidualWeight& weight, const float* p, double u, int32_t accepted, int32_t at) {
  if (!is_uniform(u)) return faulty(SpeculativeFault::kUniform, at);
  int64_t token = rows.draw(weight, u);
  if (token < 0) token = rows.draw(ResidualWeight{p, nullptr, -1}, u);
  return {accepted, static_cast<int32_t>(token), SpeculativeFault::kNone, 0};
}

template <class Rows>
TRIMTAB_WALK SpeculativeVerdict walk_chain(const SpeculativeChains& c, int64_t b, const Rows& rows) {
  const int32_t drafted = c.num_drafted[b];
  if (drafted < 0) return faulty(SpeculativeFault::kStructure, 0);
  for (int32_t i = 0;; ++i) {
    const float* p = c.p + (c.first_p[b] + i) * c.p_stride;
    if (!rows.is_distribution(p)) return faulty(SpeculativeFault::kTargetRow, i);
    if (i == drafted) return drawn(rows, ResidualWeight{p, nullptr, -1}, p, c.final_uniform[b], i, i);
    const int64_t from = c.first_q[b] + i;
    const float* q = c.q == nullptr ? nullptr : c.q + from * c.q_stride;
    if (q != nullptr && !rows.is_distribution(q)) return faulty(SpeculativeFault::kDraftRow, i);
    const int32_t token = c.drafted[from];
    const double u = c.uniform[from];
    const SpeculativeFault fault = draft_fault(token, u, q, c.vocab);
    if (fault != SpeculativeFault::kNone) return faulty(fault, i);
    if (u * (q == nullptr ? 1.0 : double{q[token]}) < double{p[token]}) continue;
    return drawn(rows, ResidualWeight{p, q, q == nullptr ? token : -1}, p, c.final_uniform[b], i, i);
  }
}

// One sequence's part of the batch.
struct SpeculativeTree {
  int64_t vocab;
  int32_t num_nodes;
  const int32_t *parent, *token;
  const double* uniform;
  SiblingDraws draws;
  float* scratch;
};

// A node whose children are tried: its rows, where they begin among the nodes, and what came of it.
struct SpeculativeTrial {
  const float *p, *q;
  int32_t node, next;
  bool accepted = false;        // node `next` is
  const float* left = nullptr;  // else what to draw from, p or the scratch
  SpeculativeFault fault = SpeculativeFault::kNone;   // of node `next`
};

template <class Rows>
TRIMTAB_WALK void try_children(const SpeculativeTree& t, const Rows& rows, SpeculativeTrial& trial) {
  const bool removes = trial.q != nullptr && t.draws == SiblingDraws::kWithoutReplacement;
  Leftover sum{1, 1};
  trial.left = trial.p;
  for (; trial.next < t.num_nodes && t.parent[trial.next] == trial.node; ++trial.next) {
    const int32_t token = t.token[trial.next];
    const double u = t.uniform[trial.next];
    trial.fault = draft_fault(token, u, trial.q, t.vocab);
    if (trial.fault == SpeculativeFault::kNone && trial.left[token] < 0) trial.fault = SpeculativeFault::kToken;
    if (trial.fault != SpeculativeFault::kNone) return;
    const double q = trial.q == nullptr ? 1 : double{trial.q[token]};
    trial.accepted = u * q * sum.r < double{trial.left[token]} * sum.q;
    if (trial.accepted) return;
    const Rejection rejection{trial.left, trial.q, static_cast<float>(sum.r), static_cast<float>(sum.q), token, removes ? kSpeculativeRemoved : 0};
    const Leftover rest = rows.reject(rejection, t.scratch);
    sum = {rest.r, removes ? rest.q : 1};
    trial.left = rest.r > 0 ? t.scratch : trial.p;
    if (!(rest.r > 0)) return;   // by rounding alone; there is no law left to try further siblings by
  }
}

// The first node out of breadth-first order, or num_nodes.
TRIMTAB_WALK int32_t misplaced_node(const SpeculativeTree& t) {
  if (t.parent[0] != -1) return 0;
  int32_t i = 1;
  while (i < t.num_nodes && t.parent[i] >= 0 && t.parent[i] >= t.parent[i - 1] && t.parent[i] < i) ++i;
  return i;
}

template <class Rows>
TRIMTAB_WALK SpeculativeVerdict walk_tree(const SpeculativeTrees& all, int64_t b, float* scratch, const Rows& rows) {
  const int64_t first = all.first_node[b];
  const SpeculativeTree t{all.vocab, all.num_nodes[b], all.parent + first, all.token + first, all.uniform + first, all.draws, scratch};
  if (t.num_nodes < 1) return faulty(SpeculativeFault::kStructure, 0);
  const int32_t misplaced = misplaced_node(t);
  if (misplaced < t.num_nodes) return faulty(SpeculativeFault::kStructure, misplaced);
  int32_t node = 0, next = 1;
  for (int32_t accepted = 0;; ++accepted) {
    const float* p = all.p + all.p_row[first + node] * all.p_stride;
    if (!rows.is_distribution(p)) return faulty(SpeculativeFault::kTargetRow, node);
    while (next < t.num_nodes && t.parent[next] < node) ++next;
    const bool leaf = next == t.num_nodes || t.parent[next] != node;
    const float* q = leaf || all.q == nullptr ? nullptr : all.q + all.q_row[first + node] * all.q_stride;
    if (q != nullptr && !rows.is_distribution(q)) return faulty(SpeculativeFault::kDraftRow, node);
    SpeculativeTrial trial{p, q, node, next};
    try_children(t, rows, trial);
    if (trial.fault != SpeculativeFault::kNone) return faulty(trial.fault, trial.next);
    if (!trial.accepted) return drawn(rows, ResidualWeight{trial.left, nullptr, -1}, p, all.final_uniform[b], accepted, node);
    node = trial.next, next = node + 1;
    if (rows.leads()) all.path[first + accepted] = node;
  }
}

}  // namespace trimtab
