/* Shared by the exact and the fast assignment: the workspace layout and what counts as a usable problem. */
#ifndef TRIMTAB_ASSIGN_H
#define TRIMTAB_ASSIGN_H

#include "trimtab/glue.h"

enum { TT_LANES = 16 };
#define TT_WORST 1e30f /* stands for a non-finite weight; three of them still add up */

static inline int tt_padded(int n) { return (n + TT_LANES - 1) / TT_LANES * TT_LANES; }

/* A weight as the rules see it. */
static inline float tt_usable(float w) {
  if (w != w) return -TT_WORST;
  return w > TT_WORST ? TT_WORST : w < -TT_WORST ? -TT_WORST : w;
}

/* Bytes of each rule's scratch, without alignment. */
size_t tt_exact_size(int num_users);
size_t tt_fast_size(int num_users, int num_prb);

static inline int tt_problem_ok(const float* weight, int num_users, int num_prb, const int* quotas, const int* owner,
                                const void* workspace) {
  if (!weight || !quotas || !owner || !workspace || num_users < 1 || num_users > TT_GLUE_MAX_USERS || num_prb < 0 ||
      num_prb > TT_GLUE_MAX_PRB)
    return 0;
  int64_t sum = 0;
  for (int u = 0; u < num_users; ++u) {
    if (quotas[u] < 0) return 0;
    sum += quotas[u];
  }
  return sum == num_prb;
}

#endif
