/* Glue between agents: shares -> integer quotas -> PRB assignment -> watts per PRB. Training environments call these same
 * functions, so that what was trained is what is deployed. Nothing here allocates, locks or keeps state; every function
 * may be called from several threads at once on different memory.
 *
 * "PRB" stands for whatever unit is handed out (a PRB or a resource-block group). Weights are user-major:
 * weight[user * num_prb + prb], any unit in which sums make sense (bit/s, bit/s over average rate, ...).
 */
#ifndef TRIMTAB_GLUE_H
#define TRIMTAB_GLUE_H

#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TT_GLUE_MAX_USERS = 1024, TT_GLUE_MAX_PRB = 65536 };

/* Largest-remainder quotas: quotas[u] are integers >= 0, 0 where mask[u] is 0 (mask may be null: all present), and sum to
 * num_prb exactly. Computed in integers (shares are rounded to 2^-40 of the largest one), so permuting the users permutes
 * the quotas exactly; equal remainders are served in the order of the index. |quota - num_prb * share / sum| < 1.
 * Shares need not be normalised. Negative, NaN, infinite or all-zero shares: equal shares and TT_BAD_INPUT. No user
 * present: all quotas 0 and TT_NO_ITEMS. */
TT_API tt_status tt_quotas(const float* shares, const uint8_t* mask, int num_users, int num_prb, int* quotas);

/* Bytes of scratch for the two assignments; no alignment needed; contents need no preparation. */
TT_API size_t tt_assign_workspace_size(int num_users, int num_prb);

/* The transportation optimum: owner[f] in [0, num_users) maximising sum_f weight[owner[f] * num_prb + f] subject to
 * "user u owns quotas[u] PRBs", where the quotas sum to num_prb (else TT_BAD_ARGUMENT; pass a user of weight 0 for PRBs
 * that shall stay empty). Successive shortest paths over the users, in double. Time O(num_prb * (users^2 + users * PRBs
 * per user)): 0.1 to 1 ms at 32 x 273; the reference, not for the slot.
 * prices [num_users], may be null: dual prices p, with which owner[f] maximises weight + p over users for every f. */
TT_API tt_status tt_assign_exact(const float* weight, int num_users, int num_prb, const int* quotas, int* owner,
                                 double* prices, void* workspace);

/* The rule for the slot: a few rounds of prices that nearly balance supply and quotas, the argmax of weight + price, and
 * nearly shortest paths, of at most five moves each, for the units that are left. Quotas are always met. The value is close to
 * the optimum, not at it: measured, it lacks on average less than 0.1 %, and at the 99th percentile less than 1 %, of what
 * the optimum gains over dealing the PRBs out blindly (test/assign_test.cpp; in running cells 0.02 % or less, runtime/README.md).
 * It ends after at most one phase per unit whatever the weights. If quotas equal the counts of the plain per-PRB argmax, the
 * result is that argmax; if they equal those of weight + guessed price, it is that one.
 *
 * prices [num_users], may be null: in: a guess (zeros, what the previous slot left, or what a rule of thumb says); out: prices
 * that nearly prove this assignment. A good guess makes it two to three times as fast, and decides between assignments of
 * nearly equal value.
 * Quality: for any prices p the optimum is at most
 *   sum_f max_u (weight[u,f] + p[u]) - sum_u p[u] quotas[u],
 * which tt_assign_gap_bound evaluates. Measured gaps and times: runtime/README.md.
 * Non-finite weights count as -1e30 (+inf: 1e30) and give TT_BAD_INPUT with a valid assignment. */
TT_API tt_status tt_assign_fast(const float* weight, int num_users, int num_prb, const int* quotas, int* owner,
                                float* prices, void* workspace);

/* Upper bound of (optimum - value of owner), by any prices, best those of tt_assign_fast; 0 proves the assignment optimal. */
TT_API double tt_assign_gap_bound(const float* weight, int num_users, int num_prb, const int* owner, const float* prices);

/* Watts per PRB: a user's part of budget_w, uniform over its PRBs; PRBs with owner -1 get 0. Shares of users without PRBs
 * go to the others in proportion, so the PRBs' powers sum to budget_w up to rounding of the last place. Negative, NaN,
 * infinite shares, or none above zero among users with PRBs: equal power per owned PRB and TT_BAD_INPUT. No PRB owned:
 * zeros and TT_NO_ITEMS. */
TT_API tt_status tt_spread_power(const float* shares, int num_users, const int* owner, int num_prb, float budget_w,
                                 float* power_w);

#ifdef __cplusplus
}
#endif
#endif
