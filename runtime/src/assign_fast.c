/* The slot's assignment: prices that nearly balance, argmax, then shortest paths for the rest. See trimtab/glue.h.
 *
 * Prices. If weights scatter like Gumbel noise of temperature T, the argmax of weight + price gives user u PRBs in
 * proportion to exp(price_u / T), and the winner leads by T in the mean. Hence T = mean lead, and the step
 * price += T log((quota + 1/2) / (count + 1/2)). A few rounds from the best of some guesses: each starts from the best prices so
 * far, and a step that does not help is tried again shorter.
 *
 * Repair. The argmax is optimal for its own counts. Moving one PRB from u to v loses at least loss[u][v] = min over the PRBs
 * of u of weight[u] - weight[v]; shortest paths of moves from users above their quotas to users below keep it optimal for
 * its counts (Ahuja, Magnanti, Orlin: Network Flows, section 9.7). Two things bound the time and cost a little value: paths are
 * of at most kMaxMoves moves, and the paths of one phase serve until what they lose has risen by a tolerance that grows from
 * phase to phase, 0 in the first. So problems that nearly balance are solved nearly exactly, and hard ones still end soon.
 * Distances are found by Bellman and Ford's recursion, move by move, which needs no prices, no order and no queue: every step
 * is whole vectors of users, and nothing it does depends on signs, so neither ties nor rounding can keep it from ending. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "assign.h"
#include "simd.h"

typedef float Floats __attribute__((vector_size(TT_LANES * sizeof(float)), may_alias));
typedef int32_t Ints __attribute__((vector_size(TT_LANES * sizeof(int32_t)), may_alias));
#define LOAD_FLOATS(at) (*(const Floats*)(const void*)(at))
#define CHOOSE(mask, a, b) (((mask) & (Ints)(a)) | (~(mask) & (Ints)(b))) /* lanes of a where mask is -1, of b where 0 */
static const Ints kNoInts = {0};
static const Floats kNoFloats = {0};

enum { kMaxPriceRounds = 16, kIdleRounds = 4, kMaxMoves = 5 };
static const float kShorter = 0.4f; /* a price step after one that did not help */
static const float kSlack = 0.01f;  /* by how much a path's loss may rise: of the mean lead, for every phase before */

typedef struct Fast {
  int num_users, num_prb, stride, prb_stride; /* strides: users and PRBs padded to whole vectors */
  const float* weight;                        /* [users, PRBs] as given */
  const int* quotas;
  int* owner;
  float* by_user;  /* [users, prb_stride] weights, usable; padding 0 */
  float* by_prb;   /* [PRBs, stride] the same transposed; padding -infinity */
  float* loss;     /* [users, stride] */
  float* distance;            /* [2, stride] least loss of moving a unit here, by at most so many moves */
  int* cheapest;              /* [users, stride] the PRB behind each loss */
  int *via, *open;            /* [kMaxMoves, stride] from whom, by moves; [stride] users whose paths can be extended */
  float *price, *best_price;  /* [stride] */
  float* lead;                /* [PRBs] of the owner's weight + price over the next user's */
  int *excess, *given_up;     /* [stride], [stride]: 1 where this phase's path has become too dear */
  int *first, *next, *before; /* [stride], [PRBs], [PRBs]: each user's PRBs as a list */
  int *best_owner, *best_excess; /* [PRBs], [stride]: at best_price */
  float temperature;          /* mean lead at best_price */
} Fast;

size_t tt_fast_size(int num_users, int num_prb) {
  const size_t stride = (size_t)tt_padded(num_users), f = (size_t)tt_padded(num_prb), u = (size_t)num_users;
  return sizeof(float) * (u * f + f * stride + u * stride + 4 * stride + f) +
         sizeof(int) * (u * stride + (kMaxMoves + 5) * stride + 3 * f);
}

size_t tt_assign_workspace_size(int num_users, int num_prb) {
  if (num_users < 1 || num_users > TT_GLUE_MAX_USERS || num_prb < 0 || num_prb > TT_GLUE_MAX_PRB) return 0;
  const size_t exact = tt_exact_size(num_users), fast = tt_fast_size(num_users, num_prb);
  return (exact > fast ? exact : fast) + 64;
}

static void fast_layout(Fast* s, void* workspace) {
  const size_t stride = (size_t)s->stride, f = (size_t)tt_padded(s->num_prb), u = (size_t)s->num_users;
  s->by_user = (float*)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
  s->by_prb = s->by_user + u * f;
  s->loss = s->by_prb + f * stride;
  s->price = s->loss + u * stride;
  s->best_price = s->price + stride;
  s->lead = s->best_price + stride;
  s->distance = s->lead + f;
  s->via = (int*)(void*)(s->distance + 2 * stride);
  s->open = s->via + kMaxMoves * stride;
  s->excess = s->open + stride;
  s->given_up = s->excess + stride;
  s->cheapest = s->given_up + stride;
  s->first = s->cheapest + u * stride;
  s->next = s->first + stride;
  s->before = s->next + f;
  s->best_owner = s->before + f;
  s->best_excess = s->best_owner + f;
}

/* Fills by_user; returns how many weights were not usable. */
TT_CLONES static int take_weights(Fast* s) {
  int unusable = 0;
  for (int u = 0; u < s->num_users; ++u) {
    const float* restrict from = s->weight + (size_t)u * (size_t)s->num_prb;
    float* restrict to = s->by_user + (size_t)u * (size_t)s->prb_stride;
#pragma omp simd reduction(+ : unusable)
    for (int f = 0; f < s->num_prb; ++f) {
      to[f] = tt_usable(from[f]);
      unusable += !(fabsf(from[f]) <= TT_WORST);
    }
    for (int f = s->num_prb; f < s->prb_stride; ++f) to[f] = 0;
  }
  return unusable;
}

/* by_prb from by_user, in blocks of 16 users by 16 PRBs: interleaving rows i and i + 8 four times over transposes a block.
 * Lanes beyond the users get -infinity, so that nothing ever moves there. */
TT_CLONES static void transpose(Fast* s) {
  for (int u = 0; u < s->stride; u += TT_LANES) {
    for (int f = 0; f < s->prb_stride; f += TT_LANES) {
      Floats block[2][TT_LANES];
      for (int i = 0; i < TT_LANES; ++i)
        block[0][i] = u + i < s->num_users ? LOAD_FLOATS(s->by_user + (size_t)(u + i) * (size_t)s->prb_stride + (size_t)f)
                                           : (Floats)(kNoFloats - HUGE_VALF);
      for (int k = 0; k < 4; ++k) {
        const Floats* from = block[k & 1];
        Floats* to = block[1 - (k & 1)];
#pragma GCC unroll 8
        for (int i = 0; i < TT_LANES / 2; ++i) {
          const Floats a = from[i], b = from[i + TT_LANES / 2];
          to[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
          to[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
      }
      for (int i = 0; i < TT_LANES; ++i)
        *(Floats*)(void*)(s->by_prb + (size_t)(f + i) * (size_t)s->stride + (size_t)u) = block[0][i];
    }
  }
}

/* best_owner[f] = argmax over users of weight + price, the lowest index among equals; lead[f]: its lead over the next. */
TT_CLONES static void assign_argmax(Fast* s) {
  for (int f = 0; f < s->num_prb; f += TT_LANES) {
    const float* weight = s->by_user + f;
    Floats score = LOAD_FLOATS(weight) + s->price[0], lead = score - score + HUGE_VALF;
    Ints owner = {0};
    for (int u = 1; u < s->num_users; ++u) {
      weight += s->prb_stride;
      const Floats here = LOAD_FLOATS(weight) + s->price[u], behind = score - here;
      const Ints better = here > score, closer = behind < lead;
      lead = (Floats)CHOOSE(better, -behind, CHOOSE(closer, behind, lead));
      score = (Floats)CHOOSE(better, here, score);
      owner = CHOOSE(better, owner - owner + u, owner);
    }
    *(Floats*)(void*)(s->lead + f) = lead;
    *(Ints*)(void*)(s->best_owner + f) = owner;
  }
}

/* Fills excess = count - quota of the assignment; returns how many units must move. */
static int count_excess(Fast* s, const int* owner) {
  for (int u = 0; u < s->stride; ++u) s->excess[u] = u < s->num_users ? -s->quotas[u] : 0;
  for (int f = 0; f < s->num_prb; ++f) ++s->excess[owner[f]];
  int units = 0;
  for (int u = 0; u < s->num_users; ++u) units += s->excess[u] > 0 ? s->excess[u] : 0;
  return units;
}

/* Prices with which every user's weights have mean 0. */
TT_CLONES static void centring_prices(Fast* s) {
  for (int u = 0; u < s->num_users; ++u) {
    const float* row = s->by_user + (size_t)u * (size_t)s->prb_stride;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int f = 0; f < s->num_prb; ++f) sum += row[f];
    s->price[u] = -sum / (float)s->num_prb;
  }
}

TT_CLONES static float mean_lead(const Fast* s) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int f = 0; f < s->num_prb; ++f) sum += s->lead[f];
  return sum / (float)s->num_prb;
}

/* Tries s->price: keeps it and its assignment when fewer units must move than the `units` so far. */
static int try_prices(Fast* s, int units) {
  assign_argmax(s);
  const int now = count_excess(s, s->best_owner);
  if (now >= units) return units;
  s->temperature = mean_lead(s);
  memcpy(s->best_price, s->price, (size_t)s->num_users * sizeof(float));
  memcpy(s->best_excess, s->excess, (size_t)s->stride * sizeof(int));
  memcpy(s->owner, s->best_owner, (size_t)s->num_prb * sizeof(int));
  return now;
}

/* From the best prices so far: those of users with too many PRBs fall, of those with too few rise, by `part` of a step. */
static void step_prices(Fast* s, float part) {
  for (int u = 0; u < s->num_users; ++u) {
    const float count = (float)(s->best_excess[u] + s->quotas[u]);
    s->price[u] = s->best_price[u] + part * s->temperature * logf(((float)s->quotas[u] + 0.5f) / (count + 0.5f));
  }
}

/* From the guessed prices, or cold, to prices whose argmax nearly meets the quotas; returns the units left to move. Full steps
 * would swing where neighbouring PRBs resemble each other and counts jump: each that fails makes the next one shorter. */
static int settle_prices(Fast* s, const float* guess) {
  memset(s->price, 0, (size_t)s->stride * sizeof(float));
  int units = try_prices(s, INT_MAX);
  if (units == 0) return 0;
  if (guess) {
    memcpy(s->price, guess, (size_t)s->num_users * sizeof(float));
    units = try_prices(s, units);
  }
  const int good_enough = s->num_prb / 12;
  if (!guess || units > s->num_prb / 4) {
    centring_prices(s);
    units = try_prices(s, units);
  }
  /* A round costs about as much as moving two units, so rounds that save fewer soon end the search. */
  float part = 1;
  for (int round = 0, idle = 0; round < kMaxPriceRounds && units > good_enough && idle < kIdleRounds; ++round) {
    step_prices(s, part);
    const int now = try_prices(s, units);
    idle = now > units - 2 ? idle + 1 : 0;
    if (now >= units) part *= kShorter;
    units = now;
  }
  memcpy(s->price, s->best_price, (size_t)s->num_users * sizeof(float));
  memcpy(s->excess, s->best_excess, (size_t)s->stride * sizeof(int));
  return units;
}

/* Two vectors of users at a time: a walk along the list serves both. */
TT_CLONES static void refresh_losses(Fast* s, int u) {
  const int stride = s->stride;
  for (int v = 0; v < stride; v += 2 * TT_LANES) {
    const int beside = v + TT_LANES < stride ? v + TT_LANES : v;
    Floats least = kNoFloats + HUGE_VALF, least_beside = least;
    Ints which = kNoInts - 1, which_beside = which;
    for (int f = s->first[u]; f >= 0; f = s->next[f]) {
      const float* row = s->by_prb + (size_t)f * (size_t)stride;
      const Floats here = row[u] - LOAD_FLOATS(row + v), here_beside = row[u] - LOAD_FLOATS(row + beside);
      const Ints better = here < least, better_beside = here_beside < least_beside;
      least = (Floats)CHOOSE(better, here, least);
      which = CHOOSE(better, kNoInts + f, which);
      least_beside = (Floats)CHOOSE(better_beside, here_beside, least_beside);
      which_beside = CHOOSE(better_beside, kNoInts + f, which_beside);
    }
    const size_t row = (size_t)u * (size_t)stride;
    *(Floats*)(void*)(s->loss + row + v) = least;
    *(Ints*)(void*)(s->cheapest + row + v) = which;
    *(Floats*)(void*)(s->loss + row + beside) = least_beside;
    *(Ints*)(void*)(s->cheapest + row + beside) = which_beside;
  }
}

/* One more move: to[v] = min(from[v], from[u] + loss[u][v] over the `num_open` users u that open lists); via[v] is the user
 * that improved v, or -1. Returns how many users improved, and lists them in `open`. */
TT_CLONES static int extend_paths(Fast* s, const float* from, float* to, int* via, int num_open) {
  for (int v = 0; v < s->stride; v += TT_LANES) {
    Floats nearest = LOAD_FLOATS(from + v);
    Ints last = kNoInts - 1;
    for (int k = 0; k < num_open; ++k) {
      const int u = s->open[k];
      const Floats there = LOAD_FLOATS(s->loss + (size_t)u * (size_t)s->stride + (size_t)v) + from[u];
      const Ints better = there < nearest;
      nearest = (Floats)CHOOSE(better, there, nearest);
      last = CHOOSE(better, kNoInts + u, last);
    }
    *(Floats*)(void*)(to + v) = nearest;
    *(Ints*)(void*)(via + v) = last;
  }
  int improved = 0;
  for (int v = 0; v < s->num_users; ++v) {
    s->open[improved] = v;
    improved += via[v] >= 0;
  }
  return improved;
}

static void give_prb(Fast* s, int f, int v) {
  s->owner[f] = v;
  s->next[f] = s->first[v];
  s->before[f] = -1;
  if (s->first[v] >= 0) s->before[s->first[v]] = f;
  s->first[v] = f;
}

static void take_prb(Fast* s, int f, int u) {
  if (s->before[f] >= 0) s->next[s->before[f]] = s->next[f];
  else s->first[u] = s->next[f];
  if (s->next[f] >= 0) s->before[s->next[f]] = s->before[f];
}

/* Moves one unit along the path of at most `moves` moves that ends at `target`; 0 when the user it comes from has no unit too
 * many any more, or when moves made meanwhile raised its loss beyond `most`. Going back the number of moves only falls, so it
 * begins at a user that had too much; a circle, which cut paths and rounding can bend into it, is cut out. */
static int move_along_path(Fast* s, int target, int moves, float most) {
  int path[kMaxMoves + 1] = {target}, length = 0;
  for (int k = moves - 1; k >= 0; --k) {
    const int u = s->via[(size_t)k * (size_t)s->stride + (size_t)path[length]];
    if (u < 0) continue;
    int at = 0;
    while (at <= length && path[at] != u) ++at;
    length = at;
    path[length] = u;
  }
  float loss = 0;
  for (int i = 0; i < length; ++i) loss += s->loss[(size_t)path[i + 1] * (size_t)s->stride + (size_t)path[i]];
  if (s->excess[path[length]] <= 0 || !(loss <= most)) return 0;
  for (int i = 0; i < length; ++i) {
    const int f = s->cheapest[(size_t)path[i + 1] * (size_t)s->stride + (size_t)path[i]];
    take_prb(s, f, path[i + 1]);
    give_prb(s, f, path[i]);
  }
  for (int i = 0; i <= length; ++i) refresh_losses(s, path[i]);
  --s->excess[path[length]];
  ++s->excess[target];
  return 1;
}

/* The user below its quota that the least loss reaches, among those not yet given up; -1: none. */
static int nearest_target(const Fast* s, const float* distance) {
  int nearest = -1;
  for (int v = 0; v < s->num_users; ++v)
    if (s->excess[v] < 0 && !s->given_up[v] && (nearest < 0 || distance[v] < distance[nearest])) nearest = v;
  return nearest;
}

/* One phase: the cheapest paths to all users, then units along them, nearest target first, while a path's loss has risen by
 * no more than `slack`. The first always moves. The distances are prices for which no such move would gain anything. Returns
 * how many units moved. */
static int move_units(Fast* s, float slack) {
  int num_open = 0, moves = 0, moved = 0;
  for (int v = 0; v < s->stride; ++v) {
    s->given_up[v] = 0;
    s->distance[v] = s->excess[v] > 0 ? 0.0f : HUGE_VALF;
    if (s->excess[v] > 0) s->open[num_open++] = v;
  }
  for (; num_open > 0 && moves < kMaxMoves; ++moves) {
    const int odd = moves & 1;
    num_open = extend_paths(s, s->distance + odd * s->stride, s->distance + (1 - odd) * s->stride,
                            s->via + (size_t)moves * (size_t)s->stride, num_open);
  }
  const float* distance = s->distance + (moves & 1) * s->stride;
  for (int v = nearest_target(s, distance); v >= 0; v = nearest_target(s, distance)) {
    if (move_along_path(s, v, moves, moved ? distance[v] + slack : HUGE_VALF)) ++moved;
    else s->given_up[v] = 1;
  }
  memcpy(s->price, distance, (size_t)s->num_users * sizeof(float));
  return moved;
}

static void start_repair(Fast* s) {
  transpose(s);
  for (int u = 0; u < s->num_users; ++u) s->first[u] = -1;
  for (int f = s->num_prb - 1; f >= 0; --f) give_prb(s, f, s->owner[f]);
  for (int u = 0; u < s->num_users; ++u) refresh_losses(s, u);
}

/* Takes out the mean, so that prices handed from slot to slot do not wander. */
static void centre(float* prices, int num_users) {
  float mean = 0;
  for (int u = 0; u < num_users; ++u) mean += prices[u] / (float)num_users;
  for (int u = 0; u < num_users; ++u) prices[u] -= mean;
}

static int prices_usable(const float* prices, int num_users) {
  for (int u = 0; u < num_users; ++u)
    if (!(fabsf(prices[u]) <= TT_WORST)) return 0;
  return 1;
}

tt_status tt_assign_fast(const float* weight, int num_users, int num_prb, const int* quotas, int* owner, float* prices,
                         void* workspace) {
  if (!tt_problem_ok(weight, num_users, num_prb, quotas, owner, workspace)) return TT_BAD_ARGUMENT;
  if (num_prb == 0) return TT_OK;
  Fast s = {.num_users = num_users, .num_prb = num_prb,
            .stride = tt_padded(num_users), .prb_stride = tt_padded(num_prb), .weight = weight,
            .quotas = quotas, .owner = owner};
  fast_layout(&s, workspace);
  const int unusable = take_weights(&s);
  const int units = settle_prices(&s, prices && prices_usable(prices, num_users) ? prices : NULL);
  if (units > 0) {
    start_repair(&s);
    float slack = 0;
    for (int left = units; left > 0; slack += kSlack * s.temperature) left -= move_units(&s, slack);
    centre(s.price, num_users);
  }
  if (prices) memcpy(prices, s.price, (size_t)num_users * sizeof(float));
  return unusable ? TT_BAD_INPUT : TT_OK;
}

double tt_assign_gap_bound(const float* weight, int num_users, int num_prb, const int* owner, const float* prices) {
  if (!weight || !owner || !prices) return HUGE_VAL;
  double bound = 0;
  for (int f = 0; f < num_prb; ++f) {
    double best = -HUGE_VAL;
    for (int u = 0; u < num_users; ++u) {
      const double here = (double)tt_usable(weight[(size_t)u * (size_t)num_prb + (size_t)f]) + (double)prices[u];
      best = here > best ? here : best;
    }
    const size_t own = (size_t)owner[f] * (size_t)num_prb + (size_t)f;
    bound += best - (double)tt_usable(weight[own]) - (double)prices[owner[f]];
  }
  return bound;
}
