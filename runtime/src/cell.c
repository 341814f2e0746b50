/* Cell decisions: see cell.h. Loops run over PRBs or over MCS rows so that the compiler vectorises them; the clones let one
 * binary use what the processor has. */
#include "trimtab/cell.h"

#include <math.h>
#include <string.h>

#include "simd.h"
#include "trimtab/glue.h"

#define LANES 16
static const float kTinyShare = 0.1f; /* PRBs a user with none counts as in log features */
static const float kLn2 = 0.69314718f;
static const float kOutOfReach = 3e38f;
static const float kNoService = -20.0f; /* log2 weight of a PRB on which no MCS works */
static const float kNobody = -100.0f;   /* below every weight */
static const float kTieBreak = 0.02f;   /* weight of unsaturated log2 SINR against saturated log2 efficiency */

/* log2 by exponent and a minimax-like polynomial of the mantissa in [2/3, 4/3); absolute error below 2e-6. x > 0. */
static inline float log2_fast(float x) {
  union { float f; int32_t i; } v = {x};
  const int32_t e = (v.i - 0x3f2aaaab) & (int32_t)0xff800000;
  v.i -= e;
  const float m = v.f - 1.0f, exponent = (float)e * 1.1920928955078125e-7f;
  /* log1p(m) / m by a degree-8 polynomial, fitted on [-1/3, 1/3] */
  float p = -0.1291574f;
  p = p * m + 0.13914993f;
  p = p * m - 0.12405868f;
  p = p * m + 0.14234039f;
  p = p * m - 0.16668285f;
  p = p * m + 0.20000716f;
  p = p * m - 0.24999963f;
  p = p * m + 0.33333322f;
  p = p * m - 0.5f;
  return exponent + 1.4426950408889634f * (m + m * m * p);
}

/* 2^x for x in [-126, 127]; relative error below 2e-7. */
static inline float exp2_fast(float x) {
  x = x < -126.0f ? -126.0f : x > 127.0f ? 127.0f : x;
  const float rounded = (x + 12582912.0f) - 12582912.0f, r = x - rounded;
  float p = 1.5403530e-4f;
  p = p * r + 1.3333558e-3f;
  p = p * r + 9.6181291e-3f;
  p = p * r + 5.5504109e-2f;
  p = p * r + 2.4022651e-1f;
  p = p * r + 6.9314718e-1f;
  p = p * r + 1.0f;
  union { int32_t i; float f; } scale = {((int32_t)rounded + 127) << 23};
  return p * scale.f;
}

static inline float db_to_linear(float db) { return exp2_fast(db * 0.33219280948873623f); }
static inline float clampf(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

int64_t tt_cell_scratch_floats(int32_t max_users, int32_t num_prb) {
  const int64_t u = max_users, f = num_prb;
  return 2 * u * f + 8 * u + 2 * u * TT_CELL_MAX_STEPS + 4 * f + 6 * LANES;
}

void tt_cell_scratch_init(tt_cell_scratch* s, int32_t max_users, int32_t num_prb, float* memory) {
  const int64_t u = max_users, f = num_prb;
  s->max_users = max_users;
  s->num_prb = num_prb;
  s->efficiency = memory;
  s->log_weight = s->efficiency + u * f;
  s->user = s->log_weight + u * f;
  s->power = s->user + 8 * u;
  s->bits = s->power + u * TT_CELL_MAX_STEPS;
  s->gain = s->bits + u * TT_CELL_MAX_STEPS;
  s->metric = s->gain + f + LANES;
  s->unit_owner = (int*)(s->metric + 2 * f);
}

/* Efficiency of each resource-block group: the mean over its PRBs, in place (every PRB of a group gets it). */
static void average_groups(const tt_cell_setup* setup, int32_t num_users, float* efficiency) {
  for (int32_t u = 0; u < num_users; ++u) {
    float* row = efficiency + (int64_t)u * setup->num_prb;
    for (int32_t begin = 0; begin < setup->num_prb; begin += setup->rbg_size) {
      const int32_t end = begin + setup->rbg_size < setup->num_prb ? begin + setup->rbg_size : setup->num_prb;
      float sum = 0;
      for (int32_t f = begin; f < end; ++f) sum += row[f];
      for (int32_t f = begin; f < end; ++f) row[f] = sum / (float)(end - begin);
    }
  }
}

TT_CLONES void tt_cell_efficiency(const tt_cell_setup* setup, const tt_cell_slot* slot, tt_cell_scratch* scratch) {
  const int32_t num_prb = setup->num_prb;
  const float prb_power_w = setup->max_power_w / (float)num_prb;
  const float top = setup->max_efficiency, floor_sinr = setup->min_sinr;
  for (int32_t u = 0; u < slot->num_users; ++u) {
    const float scale = slot->active[u] ? prb_power_w * db_to_linear(-slot->offset_db[u]) : 0.0f;
    const float* in = slot->sinr_per_watt + (int64_t)u * num_prb;
    float* out = scratch->efficiency + (int64_t)u * num_prb;
    for (int32_t f = 0; f < num_prb; ++f) {
      const float sinr = in[f] * scale, rate = log2_fast(1.0f + sinr);
      out[f] = sinr < floor_sinr ? 0.0f : rate < top ? rate : top;
    }
  }
  if (setup->rbg_size > 1) average_groups(setup, slot->num_users, scratch->efficiency);
}

TT_CLONES static void argmax_rows(const float* restrict efficiency, const float* weight, int32_t num_users, int32_t num_prb,
                                  float* restrict best, float* restrict who) {
  for (int32_t f = 0; f < num_prb; ++f) best[f] = 0.0f, who[f] = -1.0f;
  for (int32_t u = 0; u < num_users; ++u) {
    const float* restrict rate = efficiency + (int64_t)u * num_prb;
    const float w = weight[u], index = (float)u;
    if (w <= 0.0f) continue;
    for (int32_t f = 0; f < num_prb; ++f) {
      const float m = rate[f] * w;
      who[f] = m > best[f] ? index : who[f];
      best[f] = m > best[f] ? m : best[f];
    }
  }
}

/* Keeps the limit's worth of users with the largest summed metric: the others' weights become 0. Returns whether any fell. */
static int limit_users(const tt_cell_setup* setup, int32_t num_users, const float* best, const int* owner, const int* counts,
                       float* total, float* weight) {
  int32_t holders = 0;
  for (int32_t u = 0; u < num_users; ++u) holders += counts[u] > 0, total[u] = 0;
  if (holders <= setup->max_users_per_slot) return 0;
  for (int32_t f = 0; f < setup->num_prb; ++f)
    if (owner[f] >= 0) total[owner[f]] += best[f];
  for (int32_t kept = 0; kept < setup->max_users_per_slot; ++kept) {
    int32_t top = -1;
    for (int32_t u = 0; u < num_users; ++u)
      if (total[u] > 0 && (top < 0 || total[u] > total[top])) top = u;
    if (top >= 0) total[top] = -1.0f;
  }
  for (int32_t u = 0; u < num_users; ++u)
    if (total[u] >= 0) weight[u] = 0;
  return 1;
}

void tt_cell_argmax(const tt_cell_setup* setup, const tt_cell_slot* slot, const float* weight, tt_cell_scratch* scratch,
                    int* owner, int* counts) {
  const int32_t num_users = slot->num_users, num_prb = setup->num_prb;
  float* kept = scratch->user + 7 * num_users; /* weights, of which a user limit takes some away */
  memcpy(kept, weight, (size_t)num_users * sizeof(float));
  for (int again = 1; again;) {
    argmax_rows(scratch->efficiency, kept, num_users, num_prb, scratch->metric, scratch->metric + num_prb);
    for (int32_t u = 0; u < num_users; ++u) counts[u] = 0;
    for (int32_t f = 0; f < num_prb; ++f) {
      owner[f] = (int)scratch->metric[num_prb + f];
      if (owner[f] >= 0) ++counts[owner[f]];
    }
    again = setup->max_users_per_slot > 0 &&
            limit_users(setup, num_users, scratch->metric, owner, counts, scratch->user + 6 * num_users, kept);
  }
}

void tt_cell_fair_weights(const tt_cell_slot* slot, float exponent, float* weight) {
  for (int32_t u = 0; u < slot->num_users; ++u) {
    const float average = slot->average_bits[u] > 1e-6f ? slot->average_bits[u] : 1e-6f;
    weight[u] = exponent == 1.0f ? 1.0f / average : exp2_fast(-exponent * log2_fast(average));
  }
}

const char* const tt_cell_context_names[TT_CELL_CONTEXT] = {
    "active_users", "log2_prbs_per_user", "mean_efficiency", "jain_of_averages", "mean_offset", "retransmitting_users"};

static void context_features(const tt_cell_setup* setup, const tt_cell_slot* slot, const float* mean_efficiency, float* context) {
  float active = 0, sum = 0, squares = 0, efficiency = 0, offset = 0, retransmitting = 0;
  for (int32_t u = 0; u < slot->num_users; ++u) {
    sum += slot->average_bits[u];
    squares += slot->average_bits[u] * slot->average_bits[u];
    if (!slot->active[u]) continue;
    active += 1.0f;
    efficiency += mean_efficiency[u];
    offset += slot->offset_db[u];
    retransmitting += slot->retx_prbs[u] > 0;
  }
  const float n = active > 0 ? active : 1.0f;
  context[0] = active * 0.1f;
  context[1] = log2_fast((float)setup->num_prb / n);
  context[2] = efficiency / n;
  context[3] = squares > 0 ? sum * sum / ((float)slot->num_users * squares) : 1.0f;
  context[4] = offset / n * 0.1f;
  context[5] = retransmitting / n;
}

const char* const tt_cell_prb_feature_names[TT_CELL_PRB_FEATURES] = {
    "log_pf_share",   "mean_efficiency", "best_efficiency", "spread_of_efficiency", "log2_relative_average", "offset",
    "reliability",    "saturated_share", "log2_backlog",    "delay",                "retransmission",        "pf_gain_over_mean"};

/* Mean of log2 average over active users: the fairness reference of the relative-average feature. */
static float mean_log2_average(const tt_cell_slot* slot) {
  float sum = 0, n = 0;
  for (int32_t u = 0; u < slot->num_users; ++u) {
    if (!slot->active[u]) continue;
    sum += log2_fast(slot->average_bits[u] > 1.0f ? slot->average_bits[u] : 1.0f);
    n += 1.0f;
  }
  return n > 0 ? sum / n : 0.0f;
}

TT_CLONES static void row_figures(const float* restrict x, int32_t n, float top, float* mean, float* best, float* deviation,
                                  float* saturated) {
  float sum = 0, squares = 0, high = 0, at_top = 0;
#pragma omp simd reduction(+ : sum, squares, at_top) reduction(max : high)
  for (int32_t f = 0; f < n; ++f) {
    sum += x[f];
    squares += x[f] * x[f];
    high = x[f] > high ? x[f] : high;
    at_top += x[f] >= top ? 1.0f : 0.0f;
  }
  *mean = sum / (float)n;
  *best = high;
  const float variance = squares / (float)n - *mean * *mean;
  *deviation = variance > 0 ? sqrtf(variance) : 0.0f;
  *saturated = at_top / (float)n;
}

void tt_cell_prb_features(const tt_cell_setup* setup, const tt_cell_slot* slot, tt_cell_scratch* scratch, float* context,
                          float* items) {
  const int32_t num_users = slot->num_users, num_prb = setup->num_prb;
  float* weight = scratch->user;
  float* mean = scratch->user + num_users;
  int* counts = (int*)(scratch->user + 2 * num_users);
  int* owner = scratch->unit_owner;
  tt_cell_fair_weights(slot, setup->fairness_exponent, weight);
  tt_cell_argmax(setup, slot, weight, scratch, owner, counts);
  const float reference = mean_log2_average(slot);
  float* won = scratch->user + 3 * num_users;
  for (int32_t u = 0; u < num_users; ++u) won[u] = 0.0f;
  for (int32_t f = 0; f < num_prb; ++f)
    if (owner[f] >= 0) won[owner[f]] += scratch->efficiency[(int64_t)owner[f] * num_prb + f];
  for (int32_t u = 0; u < num_users; ++u) {
    float* x = items + (int64_t)u * TT_CELL_PRB_FEATURES;
    memset(x, 0, TT_CELL_PRB_FEATURES * sizeof(float));
    mean[u] = 0;
    if (!slot->active[u]) continue;
    float best, deviation, saturated;
    row_figures(scratch->efficiency + (int64_t)u * num_prb, num_prb, setup->max_efficiency, &mean[u], &best, &deviation, &saturated);
    const float average = slot->average_bits[u] > 1.0f ? slot->average_bits[u] : 1.0f;
    x[0] = kLn2 * log2_fast(((float)counts[u] + kTinyShare) / ((float)num_prb + kTinyShare * (float)num_users));
    x[1] = mean[u];
    x[2] = best;
    x[3] = deviation;
    x[4] = log2_fast(average) - reference;
    x[5] = slot->offset_db[u] * 0.1f;
    x[6] = slot->reliability[u];
    x[7] = saturated;
    x[8] = log2_fast(1.0f + clampf(slot->backlog_bits[u], 0.0f, 1e6f)) * 0.05f;
    x[9] = clampf(slot->delay_slots[u] * 0.01f, 0.0f, 10.0f);
    x[10] = slot->retx_prbs[u] > 0 ? 1.0f : 0.0f;
    x[11] = counts[u] > 0 ? won[u] / (float)counts[u] - mean[u] : 0.0f;
  }
  context_features(setup, slot, mean, context);
}

/* Users without a quota need no weights: a row that nobody would choose stands for theirs. tie_break [U]: its mean. */
TT_CLONES static void resolver_weights(const tt_cell_setup* setup, const tt_cell_slot* slot, const int* quotas,
                                       tt_cell_scratch* scratch, float* tie_break) {
  const int32_t num_prb = setup->num_prb;
  const float prb_power_w = setup->max_power_w / (float)num_prb;
  for (int32_t u = 0; u < slot->num_users; ++u) {
    const float scale = prb_power_w * db_to_linear(-slot->offset_db[u]);
    const float* restrict rate = scratch->efficiency + (int64_t)u * num_prb;
    const float* restrict sinr = slot->sinr_per_watt + (int64_t)u * num_prb;
    float* restrict out = scratch->log_weight + (int64_t)u * num_prb;
    tie_break[u] = 0;
    if (quotas[u] == 0) {
      for (int32_t f = 0; f < num_prb; ++f) out[f] = kNobody;
      continue;
    }
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int32_t f = 0; f < num_prb; ++f) {
      const float served = rate[f] > 0.0f ? log2_fast(rate[f] + 1e-12f) : kNoService;
      const float tie = kTieBreak * log2_fast(1.0f + sinr[f] * scale);
      out[f] = served + tie;
      sum += tie;
    }
    tie_break[u] = sum / (float)num_prb;
  }
}

/* Sums the weights of each group into its first columns, so that groups are the units handed out: [U, units]. */
static void group_weights(const tt_cell_setup* setup, int32_t num_users, int32_t num_units, float* weight) {
  for (int32_t u = 0; u < num_users; ++u) {
    for (int32_t g = 0; g < num_units; ++g) {
      float sum = 0;
      for (int32_t f = g * setup->rbg_size; f < (g + 1) * setup->rbg_size && f < setup->num_prb; ++f)
        sum += weight[(int64_t)u * setup->num_prb + f];
      weight[(int64_t)u * num_units + g] = sum; /* never beyond what has been read */
    }
  }
}

/* The fair rule's own prices, log2 of 1 / average^exponent per PRB: shares are seldom far from its counts, and with exactly these
 * prices the argmax of weight + price is its assignment, once the mean of the tie-break that it does not know is taken out.
 * Better guesses than what the last slot ended with, and nothing to keep. */
static void fair_prices(const tt_cell_setup* setup, const tt_cell_slot* slot, const float* tie_break, float* prices) {
  for (int32_t u = 0; u < slot->num_users; ++u) {
    const float average = slot->average_bits[u] > 1.0f ? slot->average_bits[u] : 1.0f;
    prices[u] = -(float)setup->rbg_size * (setup->fairness_exponent * log2_fast(average) + tie_break[u]);
  }
}

/* The user limit for shares: all but the largest go to 0. */
static void limit_shares(const tt_cell_setup* setup, int32_t num_users, float* shares) {
  for (;;) {
    int32_t holders = 0, smallest = -1;
    for (int32_t u = 0; u < num_users; ++u) {
      if (shares[u] <= 0) continue;
      ++holders;
      if (smallest < 0 || shares[u] < shares[smallest]) smallest = u;
    }
    if (holders <= setup->max_users_per_slot) return;
    shares[smallest] = 0;
  }
}

void tt_cell_resolve(const tt_cell_setup* setup, const tt_cell_slot* slot, tt_cell_scratch* scratch, const float* shares,
                     int exact, int* owner, int* counts, void* workspace) {
  const int32_t num_users = slot->num_users, num_prb = setup->num_prb;
  const int32_t num_units = (num_prb + setup->rbg_size - 1) / setup->rbg_size;
  float* wanted = scratch->user;
  for (int32_t u = 0; u < num_users; ++u) wanted[u] = slot->active[u] ? shares[u] : 0.0f;
  if (setup->max_users_per_slot > 0) limit_shares(setup, num_users, wanted);
  if (tt_quotas(wanted, slot->active, num_users, num_units, counts) == TT_NO_ITEMS) {
    for (int32_t f = 0; f < num_prb; ++f) owner[f] = -1;
    return;
  }
  float *prices = scratch->user + num_users, *tie_break = scratch->user + 2 * num_users;
  resolver_weights(setup, slot, counts, scratch, tie_break);
  if (setup->rbg_size > 1) group_weights(setup, num_users, num_units, scratch->log_weight);
  int* unit_owner = setup->rbg_size > 1 ? scratch->unit_owner : owner;
  fair_prices(setup, slot, tie_break, prices);
  if (exact)
    tt_assign_exact(scratch->log_weight, num_users, num_units, counts, unit_owner, NULL, workspace);
  else
    tt_assign_fast(scratch->log_weight, num_users, num_units, counts, unit_owner, prices, workspace);
  if (setup->rbg_size > 1) {
    for (int32_t u = 0; u < num_users; ++u) counts[u] = 0;
    for (int32_t f = 0; f < num_prb; ++f) owner[f] = unit_owner[f / setup->rbg_size], ++counts[owner[f]];
  }
}

enum { kToOthers = -2, kBlock = 64 };

/* PRBs marked kToOthers go to the users, other than those retransmitting, for whom they are worth most; to nobody (-1) where
 * none can use them. Returns how many those are. */
TT_CLONES static int32_t give_to_others(const tt_cell_setup* setup, const tt_cell_slot* slot, const float* weight,
                                        const float* efficiency, int* owner, int* counts) {
  int32_t unused = 0;
  for (int32_t f = 0; f < setup->num_prb;) {
    int32_t prb[kBlock], who[kBlock], n = 0;
    float metric[kBlock];
    for (; f < setup->num_prb && n < kBlock; ++f)
      if (owner[f] == kToOthers) prb[n] = f, who[n] = -1, metric[n] = 0.0f, ++n;
    for (int32_t u = 0; u < slot->num_users && n > 0; ++u) {
      if (slot->retx_prbs[u] > 0 || !slot->active[u]) continue;
      const float* row = efficiency + (int64_t)u * setup->num_prb;
      for (int32_t k = 0; k < n; ++k) {
        const float m = weight[u] * row[prb[k]];
        who[k] = m > metric[k] ? u : who[k];
        metric[k] = m > metric[k] ? m : metric[k];
      }
    }
    for (int32_t k = 0; k < n; ++k) {
      owner[prb[k]] = who[k];
      if (who[k] >= 0) ++counts[who[k]];
      else ++unused;
    }
  }
  return unused;
}

/* Efficiencies are not negative, so that their bits are in their order; flip 0: worst first, INT32_MAX: best first. */
static inline int32_t rank_of(float efficiency, int32_t flip) {
  union { float f; int32_t i; } bits = {efficiency};
  return bits.i ^ flip;
}

TT_CLONES static int32_t count_ranks(const float* restrict row, const int* restrict owner, int32_t num_prb, int32_t from,
                                     int32_t flip, int32_t highest) {
  int32_t count = 0;
#pragma omp simd reduction(+ : count)
  for (int32_t f = 0; f < num_prb; ++f) count += (owner[f] == from) & (rank_of(row[f], flip) <= highest);
  return count;
}

/* The PRB of `from` with the lowest rank, the lowest index among equals; there is one. */
TT_CLONES static int32_t lowest_rank(const float* restrict row, const int* restrict owner, int32_t num_prb, int32_t from,
                                     int32_t flip) {
  int32_t lowest = INT32_MAX, first = num_prb - 1;
#pragma omp simd reduction(min : lowest)
  for (int32_t f = 0; f < num_prb; ++f) {
    const int32_t rank = owner[f] == from ? rank_of(row[f], flip) : INT32_MAX;
    lowest = rank < lowest ? rank : lowest;
  }
#pragma omp simd reduction(min : first)
  for (int32_t f = 0; f < num_prb; ++f) first = (owner[f] == from) & (rank_of(row[f], flip) == lowest) & (f < first) ? f : first;
  return first;
}

/* Hands n PRBs of `from` (-1: of nobody) on: those with the lowest ranks in `row`, the lowest index among equals. Of many, the
 * rank up to which they go is found by halving: time that does not grow with n. */
static void hand_over(const float* row, int* owner, int32_t num_prb, int32_t from, int32_t flip, int32_t n, int32_t to) {
  for (; n > 0 && n < 12; --n) owner[lowest_rank(row, owner, num_prb, from, flip)] = to;
  if (n == 0) return;
  int32_t low = 0, high = INT32_MAX, count = -1; /* the rank lies in [low, high] */
  while (low < high && count != n) {
    const int32_t middle = low + (high - low) / 2;
    count = count_ranks(row, owner, num_prb, from, flip, middle);
    if (count >= n) high = middle;
    else low = middle + 1;
  }
  int32_t ties = count_ranks(row, owner, num_prb, from, flip, high) - n; /* to be left, the last ones */
  for (int32_t f = num_prb - 1; f >= 0; --f) {
    if (owner[f] != from || rank_of(row[f], flip) > high) continue;
    if (ties > 0 && rank_of(row[f], flip) == high) --ties;
    else owner[f] = to;
  }
}

static int32_t prbs_needed(const tt_cell_setup* setup, const tt_cell_slot* slot, int32_t u) {
  return slot->retx_prbs[u] < setup->num_prb ? slot->retx_prbs[u] : setup->num_prb;
}

/* PRBs beyond `level` of the users, other than u, without a retransmission. */
static int32_t prbs_above(const tt_cell_slot* slot, int32_t u, const int* counts, int32_t level) {
  int32_t sum = 0;
  for (int32_t v = 0; v < slot->num_users; ++v)
    if (v != u && slot->retx_prbs[v] == 0 && counts[v] > level) sum += counts[v] - level;
  return sum;
}

/* Decides from whom user u takes `missing` PRBs, always from the user without a retransmission who then holds most: takes them
 * off `counts`. That levels the largest holders; what does not make a whole level comes from the lowest indices. Returns how
 * many there are: where every PRB carries a retransmission already, this one waits, with fewer. */
static int32_t level_holders(const tt_cell_setup* setup, const tt_cell_slot* slot, int32_t u, int32_t missing, int* counts) {
  int32_t low = 0, level = setup->num_prb;
  while (low < level) {
    const int32_t middle = (low + level) / 2;
    if (prbs_above(slot, u, counts, middle) <= missing) level = middle;
    else low = middle + 1;
  }
  int32_t left = missing - prbs_above(slot, u, counts, level);
  for (int32_t v = 0; v < slot->num_users; ++v) {
    if (v == u || slot->retx_prbs[v] > 0 || counts[v] < level) continue;
    const int32_t more = level > 0 && left > 0;
    counts[v] = level - more;
    left -= more;
  }
  return missing - left;
}

void tt_cell_place_retransmissions(const tt_cell_setup* setup, const tt_cell_slot* slot, const float* weight,
                                   const float* efficiency, int* owner, int* counts) {
  const int32_t num_users = slot->num_users, num_prb = setup->num_prb;
  int32_t num_free = num_prb, too_many = 0;
  for (int32_t u = 0; u < num_users; ++u) num_free -= counts[u];
  for (int32_t u = 0; u < num_users; ++u) { /* its worst PRBs go to whoever values them most */
    const int32_t need = prbs_needed(setup, slot, u);
    if (need == 0 || counts[u] <= need) continue;
    hand_over(efficiency + (int64_t)u * num_prb, owner, num_prb, u, 0, counts[u] - need, kToOthers);
    counts[u] = need;
    too_many = 1;
  }
  if (too_many) num_free += give_to_others(setup, slot, weight, efficiency, owner, counts);
  for (int32_t u = 0; u < num_users; ++u) { /* only now: what others held beyond is there to be taken */
    const float* row = efficiency + (int64_t)u * num_prb;
    const int32_t missing = prbs_needed(setup, slot, u) - counts[u], from_nobody = missing < num_free ? missing : num_free;
    if (missing <= 0) continue;
    if (from_nobody > 0) hand_over(row, owner, num_prb, -1, INT32_MAX, from_nobody, u);
    num_free -= from_nobody;
    counts[u] += from_nobody + level_holders(setup, slot, u, missing - from_nobody, counts);
    for (int32_t v = 0; v < num_users && from_nobody < missing; ++v) {
      if (v == u || slot->retx_prbs[v] > 0) continue;
      const int32_t surplus = count_ranks(row, owner, num_prb, v, 0, INT32_MAX) - counts[v];
      if (surplus > 0) hand_over(row, owner, num_prb, v, INT32_MAX, surplus, u);
    }
  }
}

/* Effective SINR per MCS row for powers p[row] on n gains, all rows at once: -beta ln mean exp(-p g / beta). */
TT_INLINE void eesm_rows(const float* gain, int32_t n, float lowest, const float* beta, const float* power, float* effective) {
  float sum[TT_CELL_MAX_STEPS], slope[TT_CELL_MAX_STEPS];
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) sum[m] = 0.0f, slope[m] = -1.4426950408889634f * power[m] / beta[m];
  for (int32_t i = 0; i < n; ++i) {
    const float g = gain[i] - lowest;
    for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) sum[m] += exp2_fast(slope[m] * g);
  }
  const float inverse = 1.0f / (float)n;
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m)
    effective[m] = power[m] * lowest - beta[m] * kLn2 * log2_fast(sum[m] * inverse);
}

/* A PRB's part of its user's watts, not yet normalised: gain^-level. Gains too low for any MCS even at ten times equal power
 * count as that, so that a dead PRB does not swallow the user's power. */
static inline float prb_part(float gain, float lowest, float level) { return exp2_fast(-level * log2_fast(gain > lowest ? gain : lowest)); }

static float lowest_gain(const tt_cell_setup* setup) {
  return 0.1f * setup->min_sinr * (float)setup->num_prb / (setup->max_power_w > 1e-20f ? setup->max_power_w : 1e-20f) + 1e-30f;
}

/* Gains per watt of the user's mean power, for watts spread by levelling: gain x part / mean part. */
TT_CLONES static void level_gains(float* restrict gain, int32_t n, float lowest, float level) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t k = 0; k < n; ++k) {
    const float part = prb_part(gain[k], lowest, level);
    gain[k] *= part;
    sum += part;
  }
  const float scale = (float)n / sum;
  for (int32_t k = 0; k < n; ++k) gain[k] *= scale;
}

/* Gains of each user's PRBs, one user behind the other, levelled. */
static void gather_gains(const tt_cell_setup* setup, const tt_cell_slot* slot, const int* owner, const int* counts,
                         const tt_cell_scratch* scratch) {
  int32_t* at = (int32_t*)scratch->user;
  for (int32_t u = 0, begin = 0; u < slot->num_users; begin += counts[u++]) at[u] = begin;
  for (int32_t f = 0; f < setup->num_prb; ++f)
    if (owner[f] >= 0) scratch->gain[at[owner[f]]++] = slot->sinr_per_watt[(int64_t)owner[f] * setup->num_prb + f];
  if (!(setup->levelling > 0)) return;
  float* gain = scratch->gain;
  for (int32_t u = 0; u < slot->num_users; gain += counts[u++])
    if (counts[u] > 0) level_gains(gain, counts[u], lowest_gain(setup), setup->levelling * slot->reliability[u]);
}

tt_status tt_cell_spread_power(const tt_cell_setup* setup, const tt_cell_slot* slot, const float* shares, const int* owner,
                               tt_cell_scratch* scratch, float* power_w) {
  const int32_t num_prb = setup->num_prb;
  const tt_status status = tt_spread_power(shares, slot->num_users, owner, num_prb, setup->max_power_w, power_w);
  if (!(setup->levelling > 0)) return status;
  float *watts = scratch->user, *parts = scratch->user + slot->num_users;
  const float lowest = lowest_gain(setup);
  for (int32_t u = 0; u < slot->num_users; ++u) watts[u] = parts[u] = 0;
  for (int32_t f = 0; f < num_prb; ++f) {
    const int u = owner[f];
    if (u < 0) continue;
    watts[u] += power_w[f];
    scratch->gain[f] = prb_part(slot->sinr_per_watt[(int64_t)u * num_prb + f], lowest, setup->levelling * slot->reliability[u]);
    parts[u] += scratch->gain[f];
  }
  for (int32_t f = 0; f < num_prb; ++f)
    if (owner[f] >= 0) power_w[f] = watts[owner[f]] * (scratch->gain[f] / parts[owner[f]]);
  return status;
}

/* One step of the secant method on logarithms, all rows: power towards EESM = threshold. before and step: log2 of the last
 * effective SINR and of the last change of power. */
TT_INLINE void secant_step(int first, const float* restrict threshold, const float* restrict effective, float* restrict before,
                                  float* restrict step, float* restrict power) {
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) {
    const float now = log2_fast(effective[m] > 1e-12f ? effective[m] : 1e-12f);
    const float wanted = log2_fast(threshold[m] > 1e-12f ? threshold[m] : 1e-12f) - now;
    /* no branch and no division that may trap, so that the compiler makes vectors of it */
    const int known = !first & (fabsf(step[m]) > 1e-3f);
    const float change = known ? step[m] : 1.0f, rise = known ? now - before[m] : 1.0f;
    const float exponent = clampf(rise / change, 0.25f, 1.0f);
    step[m] = wanted / exponent;
    before[m] = now;
    power[m] *= exp2_fast(step[m]);
  }
}

/* The ladder of one user on n PRBs into `out`, where every row is out of reach so far. */
TT_CLONES static void user_ladder(const tt_cell_setup* setup, const tt_cell_slot* slot, int32_t u, const float* gain, int32_t n,
                        const float* beta, float* out) {
  const float margin = 1.002f; /* covers the rounding of the solution, so that the step is really reached */
  float power[TT_CELL_MAX_STEPS], effective[TT_CELL_MAX_STEPS], threshold[TT_CELL_MAX_STEPS];
  float lowest = kOutOfReach, sum = 0;
  for (int32_t k = 0; k < n; ++k) {
    sum += gain[k];
    lowest = gain[k] < lowest ? gain[k] : lowest;
  }
  if (!(sum > 0)) return;
  const float offset = db_to_linear(slot->offset_db[u]);
  /* A retransmission keeps its MCS and combines with what was received before: half the SINR will do. */
  const int again = slot->retx_prbs[u] > 0;
  const float factor = offset * (again ? 0.5f : 1.0f), per_threshold = (float)n / sum;
  const int32_t from = again ? slot->retx_mcs[u] : setup->min_mcs, to = again ? slot->retx_mcs[u] + 1 : setup->num_mcs;
  const float* restrict row = setup->threshold_sinr + (int64_t)n * setup->num_mcs;
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) threshold[m] = kOutOfReach;
  for (int32_t m = from; m < to; ++m) threshold[m] = row[m] * factor;
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) {
    const int usable = threshold[m] < 1e30f;
    out[m] = usable ? 0.0f : kOutOfReach;
    threshold[m] = usable ? threshold[m] : 1.0f;
    power[m] = threshold[m] * per_threshold;
  }
  /* The first step takes EESM to grow in proportion to power; it grows more slowly, by the exponent that two points tell. */
  float before[TT_CELL_MAX_STEPS], step[TT_CELL_MAX_STEPS];
  for (int iteration = 0; iteration < 3; ++iteration) {
    eesm_rows(gain, n, lowest, beta, power, effective);
    secant_step(iteration == 0, threshold, effective, before, step, power);
  }
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m)
    out[m] = out[m] == 0.0f && power[m] < 1e30f ? power[m] * (float)n * margin : kOutOfReach;
}

/* Share of each user's PRBs whose SINR at equal power, as reported, reaches `sinr`. */
static void share_at_least(const tt_cell_setup* setup, const tt_cell_slot* slot, const int* owner, const int* counts, float sinr,
                           float* share) {
  const float prb_power_w = setup->max_power_w / (float)setup->num_prb;
  for (int32_t u = 0; u < slot->num_users; ++u) share[u] = 0;
  for (int32_t f = 0; f < setup->num_prb; ++f)
    if (owner[f] >= 0) share[owner[f]] += slot->sinr_per_watt[(int64_t)owner[f] * setup->num_prb + f] * prb_power_w >= sinr;
  for (int32_t u = 0; u < slot->num_users; ++u) share[u] /= counts[u] > 0 ? (float)counts[u] : 1.0f;
}

void tt_cell_ladder(const tt_cell_setup* setup, const tt_cell_slot* slot, const int* owner, const int* counts,
                    tt_cell_scratch* scratch) {
  float beta[TT_CELL_MAX_STEPS];
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) beta[m] = m < setup->num_mcs ? setup->beta[m] : 1.0f;
  gather_gains(setup, slot, owner, counts, scratch);
  const int probes = setup->probe_db > 0 && setup->report_ceiling_sinr > 0;
  float* at_ceiling = scratch->user;
  if (probes) share_at_least(setup, slot, owner, counts, 0.999f * setup->report_ceiling_sinr, at_ceiling);
  const float* gain = scratch->gain;
  for (int32_t u = 0; u < slot->num_users; gain += counts[u++]) {
    float* out = scratch->power + (int64_t)u * TT_CELL_MAX_STEPS;
    float* bits = scratch->bits + (int64_t)u * TT_CELL_MAX_STEPS;
    for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) out[m] = kOutOfReach, bits[m] = 0.0f;
    if (counts[u] == 0) continue;
    for (int32_t m = 0; m < setup->num_mcs; ++m) bits[m] = (float)setup->bits[(int64_t)counts[u] * setup->num_mcs + m];
    user_ladder(setup, slot, u, gain, counts[u], beta, out);
    if (probes && at_ceiling[u] > 0 && slot->retx_prbs[u] == 0) {
      const float less = db_to_linear(-setup->probe_db * at_ceiling[u]);
      for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) out[m] = out[m] < 1e30f ? out[m] * less : out[m];
    }
  }
}

/* The row above `from` (-1: nothing yet) with the most bits per extra watt; -1 when none fits `budget`. */
TT_CLONES static int32_t next_step(const float* power, const float* bits, int32_t from, float budget, float* efficiency) {
  const float have = from < 0 ? 0.0f : power[from], had = from < 0 ? 0.0f : bits[from];
  float ratio[TT_CELL_MAX_STEPS], top = 0;
#pragma omp simd reduction(max : top)
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) {
    const float cost = power[m] - have, gain = bits[m] - had;
    const float per_watt = cost > 1e-12f ? gain / cost : kOutOfReach;
    ratio[m] = (m > from) & (cost <= budget) & (gain > 0) ? per_watt : 0.0f;
    top = ratio[m] > top ? ratio[m] : top;
  }
  *efficiency = top;
  if (!(top > 0)) return -1;
  int32_t best = TT_CELL_MAX_STEPS;
#pragma omp simd reduction(min : best)
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) best = ratio[m] == top && m < best ? m : best;
  return best;
}

/* The row with the most bits - price * watts, -1: none is worth it. It is where steps of more than `price` bits per watt lead. */
static inline int32_t row_at_price(const float* power, const float* bits, float price) {
  float worth[TT_CELL_MAX_STEPS], top = 0;
#pragma omp simd reduction(max : top)
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) {
    worth[m] = bits[m] - price * power[m];
    top = worth[m] > top ? worth[m] : top;
  }
  int32_t best = TT_CELL_MAX_STEPS;
#pragma omp simd reduction(min : best)
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) best = worth[m] == top && m < best ? m : best;
  return top > 0 ? best : -1;
}

/* Rows of the users who may buy (next 0; -1: not) at a price; returns their watts. */
TT_CLONES static float rows_at_price(const tt_cell_scratch* scratch, int32_t num_users, const int32_t* next, float price,
                                     int32_t* at) {
  float watts = 0;
  for (int32_t u = 0; u < num_users; ++u) {
    const float* power = scratch->power + (int64_t)u * TT_CELL_MAX_STEPS;
    at[u] = next[u] < 0 ? -1 : row_at_price(power, scratch->bits + (int64_t)u * TT_CELL_MAX_STEPS, price);
    if (at[u] >= 0) watts += power[at[u]];
  }
  return watts;
}

/* Twice the most bits per watt of any first step: whatever rounding does, nobody buys at that price. */
TT_CLONES static float highest_price(const tt_cell_scratch* scratch, int32_t num_users, const int32_t* next) {
  float top = 0;
  for (int32_t u = 0; u < num_users; ++u) {
    if (next[u] < 0) continue;
    const float* power = scratch->power + (int64_t)u * TT_CELL_MAX_STEPS;
    const float* bits = scratch->bits + (int64_t)u * TT_CELL_MAX_STEPS;
#pragma omp simd reduction(max : top)
    for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) {
      const float per_watt = bits[m] / (power[m] > 1e-12f ? power[m] : 1e-12f);
      top = per_watt > top ? per_watt : top;
    }
  }
  return 2 * top;
}

/* Buys all steps of more bits per watt than a price at which they just fit the budget: the greedy purchase would take the same
 * ones first, one by one. Returns what is left. */
static float buy_first_steps(const tt_cell_scratch* scratch, int32_t num_users, const int32_t* next, float left, int32_t* at,
                             float* user_power_w) {
  float high = highest_price(scratch, num_users, next), low = high * 0x1p-16f;
  for (int halving = 0; halving < 7; ++halving) {
    const float price = sqrtf(low) * sqrtf(high);
    if (rows_at_price(scratch, num_users, next, price, at) <= left) high = price;
    else low = price;
  }
  rows_at_price(scratch, num_users, next, high, at);
  for (int32_t u = 0; u < num_users; ++u) {
    if (at[u] < 0) continue;
    user_power_w[u] = scratch->power[(int64_t)u * TT_CELL_MAX_STEPS + at[u]];
    left -= user_power_w[u];
  }
  return left;
}

/* Where every user starts: a retransmission with the watts it needs (at most twice its PRBs' part of the budget, so that it
 * is never left without), the others with nothing. Returns what is left of the budget. */
static float start_levels(const tt_cell_setup* setup, const tt_cell_slot* slot, const int* counts, const float* power,
                          float* user_power_w) {
  float left = setup->max_power_w, assigned = 0;
  for (int32_t u = 0; u < slot->num_users; ++u) assigned += (float)counts[u];
  for (int32_t u = 0; u < slot->num_users; ++u) {
    user_power_w[u] = 0;
    if (counts[u] == 0 || slot->retx_prbs[u] == 0) continue;
    const float part = setup->max_power_w * (float)counts[u] / assigned;
    const float needed = power[(int64_t)u * TT_CELL_MAX_STEPS + slot->retx_mcs[u]];
    user_power_w[u] = needed < 2.0f * part ? needed : 2.0f * part;
    left -= user_power_w[u];
  }
  return left;
}

void tt_cell_fill_power(const tt_cell_setup* setup, const tt_cell_slot* slot, const int* counts,
                        const tt_cell_scratch* scratch, float* user_power_w) {
  const int32_t num_users = slot->num_users;
  int32_t* at = (int32_t*)scratch->user; /* present row of each user, -1: nothing */
  int32_t* next = (int32_t*)(scratch->user + num_users);
  float* ratio = scratch->user + 2 * num_users;
  float left = start_levels(setup, slot, counts, scratch->power, user_power_w);
  for (int32_t u = 0; u < num_users; ++u) next[u] = counts[u] == 0 || slot->retx_prbs[u] > 0 ? -1 : 0;
  left = buy_first_steps(scratch, num_users, next, left, at, user_power_w);
  for (int32_t u = 0; u < num_users; ++u) {
    if (next[u] < 0) continue;
    next[u] = next_step(scratch->power + (int64_t)u * TT_CELL_MAX_STEPS, scratch->bits + (int64_t)u * TT_CELL_MAX_STEPS, at[u],
                        left, &ratio[u]);
  }
  for (;;) {
    int32_t best = -1;
    for (int32_t u = 0; u < num_users; ++u)
      if (next[u] >= 0 && (best < 0 || ratio[u] > ratio[best])) best = u;
    if (best < 0) break;
    const float* power = scratch->power + (int64_t)best * TT_CELL_MAX_STEPS;
    const float cost = power[next[best]] - user_power_w[best];
    if (cost <= left) {
      left -= cost;
      at[best] = next[best];
      user_power_w[best] = power[at[best]];
    }
    next[best] = next_step(power, scratch->bits + (int64_t)best * TT_CELL_MAX_STEPS, at[best], left, &ratio[best]);
  }
  float used = 0, scheduled = 0;
  for (int32_t u = 0; u < num_users; ++u) used += user_power_w[u], scheduled += (float)counts[u];
  for (int32_t u = 0; u < num_users; ++u) {
    if (used > 0)
      user_power_w[u] *= setup->max_power_w / used;
    else if (scheduled > 0)
      user_power_w[u] = setup->max_power_w * (float)counts[u] / scheduled; /* nobody reaches a step: equal power */
  }
}

const char* const tt_cell_power_feature_names[TT_CELL_POWER_FEATURES] = {
    "log_fill_share",        "log_prb_share", "log2_sinr_at_equal_power", "headroom_to_top_mcs", "bits_per_prb_at_equal_power", "offset",
    "log2_relative_average", "reliability",   "retransmission",           "log2_backlog",        "fill_bits_per_prb",           "saturated_reports"};

/* Bits of the highest row that `watts` reach. */
TT_CLONES static float bits_within(const float* power, const float* bits, float watts) {
  int32_t row = -1;
#pragma omp simd reduction(max : row)
  for (int32_t m = 0; m < TT_CELL_MAX_STEPS; ++m) row = power[m] <= watts && m > row ? m : row;
  return row < 0 ? 0.0f : bits[row];
}

void tt_cell_power_features(const tt_cell_setup* setup, const tt_cell_slot* slot, const int* owner, const int* counts,
                            tt_cell_scratch* scratch, float* context, float* items) {
  const int32_t num_users = slot->num_users, num_prb = setup->num_prb;
  float* fill = scratch->user + 3 * num_users; /* behind what tt_cell_fill_power uses */
  float* mean = scratch->user + 4 * num_users;
  float* saturated = scratch->user + 5 * num_users;
  /* at (or within 1 dB of) what the highest MCS needs: a CQI says no more */
  share_at_least(setup, slot, owner, counts, 0.8f * setup->threshold_sinr[(int64_t)(num_prb + 1) * setup->num_mcs - 1], saturated);
  const float reference = mean_log2_average(slot);
  const float total = setup->max_power_w;
  tt_cell_fill_power(setup, slot, counts, scratch, fill);
  int32_t assigned = 0;
  for (int32_t u = 0; u < num_users; ++u) assigned += counts[u];
  for (int32_t u = 0; u < num_users; ++u) {
    float* x = items + (int64_t)u * TT_CELL_POWER_FEATURES;
    memset(x, 0, TT_CELL_POWER_FEATURES * sizeof(float));
    mean[u] = 0;
    if (counts[u] == 0) continue;
    const float* power = scratch->power + (int64_t)u * TT_CELL_MAX_STEPS;
    const float equal = total * (float)counts[u] / (float)assigned;
    const int32_t n = counts[u];
    const float* bits = scratch->bits + (int64_t)u * TT_CELL_MAX_STEPS;
    const float top_power = power[setup->num_mcs - 1];
    const float at_equal = bits_within(power, bits, equal), at_fill = bits_within(power, bits, fill[u]);
    const float average = slot->average_bits[u] > 1.0f ? slot->average_bits[u] : 1.0f;
    const float lowest_step = power[setup->min_mcs] < 1e30f ? power[setup->min_mcs] : 1e30f;
    x[0] = kLn2 * log2_fast(fill[u] / total + 1e-4f);
    x[1] = kLn2 * log2_fast((float)counts[u] / (float)num_prb);
    x[2] = clampf(log2_fast(equal / lowest_step + 1e-9f) * 0.2f, -4.0f, 4.0f);
    x[3] = clampf(log2_fast(equal / (top_power < 1e30f ? top_power : 1e30f) + 1e-9f) * 0.2f, -4.0f, 4.0f);
    x[4] = at_equal / (float)n * 0.001f;
    x[5] = slot->offset_db[u] * 0.1f;
    x[6] = log2_fast(average) - reference;
    x[7] = slot->reliability[u];
    x[8] = slot->retx_prbs[u] > 0 ? 1.0f : 0.0f;
    x[9] = log2_fast(1.0f + clampf(slot->backlog_bits[u], 0.0f, 1e6f)) * 0.05f;
    x[10] = at_fill / (float)n * 0.001f;
    x[11] = saturated[u];
    mean[u] = x[4];
  }
  context_features(setup, slot, mean, context);
}

void tt_csi_track(float* state, const float* previous, const float* current, int32_t num_prb, float decay) {
  float mean_p = 0, mean_c = 0, xy = 0, xx = 0, yy = 0;
  for (int32_t f = 0; f < num_prb; ++f) mean_p += previous[f], mean_c += current[f];
  mean_p /= (float)num_prb;
  mean_c /= (float)num_prb;
#pragma omp simd reduction(+ : xy, xx, yy)
  for (int32_t f = 0; f < num_prb; ++f) {
    const float p = previous[f] - mean_p, c = current[f] - mean_c;
    xy += p * c;
    xx += p * p;
    yy += c * c;
  }
  state[0] = decay * state[0] + xy;
  state[1] = decay * state[1] + xx;
  state[2] = decay * state[2] + yy;
}

float tt_csi_reliability(const float* state) {
  const float scale = sqrtf(state[1] * state[2]);
  if (!(scale > 1e-9f)) return 1.0f; /* flat channels, or no report yet: nothing says that reports are stale */
  return clampf(state[0] / scale, 0.0f, 1.0f);
}
