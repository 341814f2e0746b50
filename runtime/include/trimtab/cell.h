/* Cell: from what a base station knows in a slot to a PRB assignment and watts per PRB.
 *
 * Everything between the networks lives here as plain functions, and the training environment calls the same ones: the
 * achievable-rate map, proportional fair, the features both agents see, the quota resolver and the power ladder. So a
 * deployed controller sees what it was trained on, bit for bit.
 *
 * Arrays are row-major; U users, F physical resource blocks (PRBs). No function allocates, locks or keeps global state.
 */
#ifndef TRIMTAB_CELL_H_
#define TRIMTAB_CELL_H_

#include <stdint.h>

#include "trimtab/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TT_CELL_MAX_STEPS 32      /* MCS indices a table may have */
#define TT_CELL_PRB_FEATURES 12   /* per user, PRB agent */
#define TT_CELL_POWER_FEATURES 12 /* per user, power agent */
#define TT_CELL_CONTEXT 6         /* both agents */

/* What does not change from slot to slot. */
typedef struct tt_cell_setup {
  int32_t num_prb;               /* F */
  int32_t rbg_size;              /* PRBs per resource-block group, the unit of assignment; the last group may be smaller */
  int32_t max_users_per_slot;    /* most users that may hold PRBs; 0: no limit */
  float max_power_w;             /* budget of the slot over all PRBs */
  int32_t num_mcs;               /* rows of the ladder, <= TT_CELL_MAX_STEPS */
  int32_t min_mcs;               /* lowest usable row */
  const float* threshold_sinr;   /* [F + 1, num_mcs] linear effective SINR from which the error-rate target is met, by PRBs */
  const float* beta;             /* [num_mcs] effective-SINR (EESM) parameter */
  const int32_t* bits;           /* [F + 1, num_mcs] transport block size, by PRBs */
  float max_efficiency;          /* bit/s/Hz of the highest MCS: rates saturate here */
  float min_sinr;                /* linear SINR below which no MCS works: rate 0 */
  float fairness_exponent;       /* of the fair shares the PRB agent starts from: rate / average^exponent; 1: proportional fair */
  float levelling;               /* how a user's watts are spread over its PRBs: in proportion to gain^-(levelling x reliability);
                                    0: uniform. An effective SINR (EESM) suffers from weak PRBs more than it gains from strong ones. */
  float report_ceiling_sinr;     /* SINR at equal power of the highest report (CQI), which says no more; 0: reports are exact */
  float probe_db;                /* by how much reports at the ceiling are taken to understate in the ladder: their users are sent
                                    less than they ask for, and the outer loop finds what they really need. 0: not at all */
} tt_cell_setup;

/* What a slot brings, for U users. */
typedef struct tt_cell_slot {
  int32_t num_users;             /* U */
  const float* sinr_per_watt;    /* [U, F] estimated SINR on a PRB per watt sent on it (delayed, quantised as reported) */
  const float* average_bits;     /* [U] smoothed throughput, bits per slot */
  const float* offset_db;        /* [U] outer-loop link-adaptation offset */
  const float* reliability;      /* [U] 0..1: how well a report still describes the channel when it is used (tt_csi_*) */
  const float* backlog_bits;     /* [U] data waiting; large for a full buffer */
  const float* delay_slots;      /* [U] head-of-line delay */
  const uint8_t* active;         /* [U] 1: has data or a retransmission */
  const int32_t* retx_prbs;      /* [U] PRBs a pending retransmission needs; 0: none */
  const int32_t* retx_mcs;       /* [U] its MCS */
} tt_cell_slot;

/* Scratch for up to max_users x num_prb; the caller owns the memory (tt_cell_scratch_floats() floats, 64-byte aligned). */
typedef struct tt_cell_scratch {
  int32_t max_users, num_prb;
  float* efficiency;             /* [U, F] achievable bit/s/Hz at equal power */
  float* log_weight;             /* [U, F] resolver weights */
  float* user;                   /* [U, 8] per-user figures */
  int* unit_owner;               /* [F] owner of each group, before it is spread over its PRBs */
  float* power;                  /* [U, TT_CELL_MAX_STEPS] watts to reach each MCS */
  float* bits;                   /* [U, TT_CELL_MAX_STEPS] transport block size at each MCS on the user's PRBs */
  float* gain;                   /* [F] gains, user by user */
  float* metric;                 /* [2 F] best metric so far and whose it is */
} tt_cell_scratch;

int64_t tt_cell_scratch_floats(int32_t max_users, int32_t num_prb);
void tt_cell_scratch_init(tt_cell_scratch* scratch, int32_t max_users, int32_t num_prb, float* memory);

/* Achievable spectral efficiency per user and PRB at equal power over all PRBs, offset applied, saturating at the highest
 * MCS and zero where no MCS works: min(log2(1 + sinr), max_efficiency). Fills scratch->efficiency. */
void tt_cell_efficiency(const tt_cell_setup* setup, const tt_cell_slot* slot, tt_cell_scratch* scratch);

/* argmax over users of efficiency[u, f] * weight[u] (mean efficiency over a resource-block group), ties to the lowest index;
 * -1 where nobody can be served. With max_users_per_slot only the users of the largest summed metric stay. counts [U]. */
void tt_cell_argmax(const tt_cell_setup* setup, const tt_cell_slot* slot, const float* weight, tt_cell_scratch* scratch,
                    int* owner, int* counts);

/* Generalised proportional fair weights: 1 / average^exponent (exponent 1: proportional fair, 0: max C/I). */
void tt_cell_fair_weights(const tt_cell_slot* slot, float exponent, float* weight);

/* Features of the PRB agent; needs tt_cell_efficiency. context [TT_CELL_CONTEXT], items [U, TT_CELL_PRB_FEATURES]. */
void tt_cell_prb_features(const tt_cell_setup* setup, const tt_cell_slot* slot, tt_cell_scratch* scratch, float* context,
                          float* items);

/* Resolver: shares of users -> integer quotas (largest remainder) -> one user per PRB, maximising the sum over PRBs of
 * log efficiency (so it equals proportional fair's own assignment when the quotas are its counts: log(rate / average) and
 * log(rate) differ by a constant per user). `exact` chooses the optimal assignment instead of the slot's fast rule. */
void tt_cell_resolve(const tt_cell_setup* setup, const tt_cell_slot* slot, tt_cell_scratch* scratch, const float* shares,
                     int exact, int* owner, int* counts, void* workspace /* tt_assign_workspace_size(U, F) */);

/* Retransmissions first: every user with retx_prbs gets exactly that many PRBs, out of its own and then from the users who
 * hold most; what it holds beyond goes to the others by `weight` x efficiency. A user with a retransmission sends nothing else. */
void tt_cell_place_retransmissions(const tt_cell_setup* setup, const tt_cell_slot* slot, const float* weight,
                                   const float* efficiency, int* owner, int* counts);

/* Watts, spread over the user's PRBs as tt_cell_spread_power does, that each user needs to reach each MCS: solves
 * EESM_mcs(p x sinr_per_watt) = threshold, offset and probing applied, to 0.5 % in the mean even where a user's gains differ twenty-fold. scratch->power [U, TT_CELL_MAX_STEPS], total over the user's PRBs; 3e38 where out of reach. Fills
 * scratch->bits too. */
void tt_cell_ladder(const tt_cell_setup* setup, const tt_cell_slot* slot, const int* owner, const int* counts,
                    tt_cell_scratch* scratch);

/* Link-adaptation-aware power filling over the ladder: retransmissions get what they need, the others start at nothing, and
 * the budget buys the steps with the most bits per watt; the rest raises all in proportion. Needs tt_cell_ladder.
 * user_power_w [U]. */
void tt_cell_fill_power(const tt_cell_setup* setup, const tt_cell_slot* slot, const int* counts,
                        const tt_cell_scratch* scratch, float* user_power_w);

/* Features of the power agent; needs tt_cell_ladder. items [U, TT_CELL_POWER_FEATURES]. */
void tt_cell_power_features(const tt_cell_setup* setup, const tt_cell_slot* slot, const int* owner, const int* counts,
                            tt_cell_scratch* scratch, float* context, float* items);

/* Watts per PRB from shares of the budget: a user's part as tt_spread_power (whose status this returns), within it by
 * setup->levelling. power_w [F]. */
tt_status tt_cell_spread_power(const tt_cell_setup* setup, const tt_cell_slot* slot, const float* shares, const int* owner,
                               tt_cell_scratch* scratch, float* power_w);

/* Reliability of reports: correlation, over PRBs and time, between a report when it is used and the newer report that later
 * describes the same slot. state [3] per user (sums, decayed); previous and current are log2 SINR [F]. */
void tt_csi_track(float* state, const float* previous, const float* current, int32_t num_prb, float decay);
float tt_csi_reliability(const float* state);

extern const char* const tt_cell_prb_feature_names[TT_CELL_PRB_FEATURES];
extern const char* const tt_cell_power_feature_names[TT_CELL_POWER_FEATURES];
extern const char* const tt_cell_context_names[TT_CELL_CONTEXT];

#ifdef __cplusplus
}
#endif
#endif
