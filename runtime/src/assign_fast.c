/* The slot's assignment: prices that nearly balance, argmax, then shortest paths for the rest. See trimtab/glue.h.
 *
 * Prices. If weights scatter like Gumbel noise of temperature T, the argmax of weight + price gives user u PRBs in
 * proportion to exp(price_u / T), and the winner leads by T in the mean. Hence T = mean lead, and the step
 * price += T log((quota + 1/2) / (count + 1/2)). A few rounds, from prices that centre every user's weights; the best one
 * is kept.
 *
 * Repair. The argmax is optimal for its own counts, with the prices as potentials, so the shortest paths of assign_exact.c
 * can go on from there: the result is the optimum up to the rounding of floats. What makes it fast is that few units are
 * left to move, that Dijkstra stops at the first user below its quota, and that a row of users is a few vectors. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "assign.h"
#include "simd.h"

typedef float Floats __attribute__((vector_size(TT_LANES * sizeof(float)), may_alias));
typedef int32_t Ints __attribute__((vector_size(TT_LANES * sizeof(int32_t)), may_alias));
#define LOAD_FLOATS(at) (*(const Floats*)(const void*)(at))
#define LOAD_INTS(at) (*(const Ints*)(const void*)(at))
#define CHOOSE(mask, a, b) (((mask) & (Ints)(a)) | (~(mask) & (Ints)(b))) /* lanes of a where mask is -1, of b where 0 */
static const Ints kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

enum { kMaxPriceRounds = 24, kIdleRounds = 5 };

typedef struct Fast {
  int num_users, num_prb, stride, prb_stride; /* strides: users and PRBs padded to whole vectors */
  const float* weight;                        /* [users, PRBs] as given */
  const int* quotas;
  int* owner;
  float* by_user;  /* [users, prb_stride] weights, usable; padding 0 */
  float* by_prb;   /* [PRBs, stride] the same transposed; padding -infinity, so that it is never reached */
  float* loss;     /* [users, stride] */
  int32_t *distance, *open;   /* [stride] bits of reduced distances (>= 0, so they order as integers); open: not settled */
  int* previous;              /* [stride] */
  float *price, *best_price;  /* [stride] */
  float* lead;                /* [PRBs] of the owner's weight + price over the next user's */
  int *excess, *first, *next; /* [stride], [stride], [PRBs]: each user's PRBs as a list */
  int* best_owner;            /* [PRBs] */
} Fast;

size_t tt_fast_size(int num_users, int num_prb) {
  const size_t stride = (size_t)tt_padded(num_users), f = (size_t)tt_padded(num_prb), u = (size_t)num_users;
  return sizeof(float) * (u * f + f * stride + u * stride + 2 * stride + f) + sizeof(int32_t) * (6 * stride + 2 * f);
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
  s->distance = (int32_t*)(void*)(s->lead + f);
  s->open = s->distance + stride;
  s->previous = s->open + stride;
  s->excess = s->previous + stride;
  s->first = s->excess + stride;
  s->next = s->first + stride;
  s->best_owner = s->next + f;
}

/* Fills by_user and by_prb; returns how many weights were not usable. */
static int take_weights(Fast* s) {
  int unusable = 0;
  for (int u = 0; u < s->num_users; ++u) {
    const float* restrict from = s->weight + (size_t)u * (size_t)s->num_prb;
    float* restrict to = s->by_user + (size_t)u * (size_t)s->prb_stride;
    for (int f = 0; f < s->num_prb; ++f) {
      to[f] = tt_usable(from[f]);
      unusable += !(fabsf(from[f]) <= TT_WORST);
    }
    for (int f = s->num_prb; f < s->prb_stride; ++f) to[f] = 0;
  }
  for (int f = 0; f < s->num_prb; ++f) {
    float* to = s->by_prb + (size_t)f * (size_t)s->stride;
    for (int u = 0; u < s->num_users; ++u) to[u] = s->by_user[(size_t)u * (size_t)s->prb_stride + (size_t)f];
    for (int u = s->num_users; u < s->stride; ++u) to[u] = -HUGE_VALF;
  }
  return unusable;
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
static void centring_prices(Fast* s) {
  for (int u = 0; u < s->num_users; ++u) {
    const float* row = s->by_user + (size_t)u * (size_t)s->prb_stride;
    float sum = 0;
    for (int f = 0; f < s->num_prb; ++f) sum += row[f];
    s->price[u] = -sum / (float)s->num_prb;
  }
}

/* Tries s->price: keeps it and its assignment when fewer units must move than the `units` so far. */
static int try_prices(Fast* s, int units) {
  assign_argmax(s);
  const int now = count_excess(s, s->best_owner);
  if (now >= units) return units;
  memcpy(s->best_price, s->price, (size_t)s->num_users * sizeof(float));
  memcpy(s->owner, s->best_owner, (size_t)s->num_prb * sizeof(int));
  return now;
}

/* Prices of users with too many PRBs fall, of those with too few rise, by steps that shrink: where neighbouring PRBs
 * resemble each other the counts jump, and full steps would swing for ever. */
static void step_prices(Fast* s, int round) {
  float temperature = 0;
  for (int f = 0; f < s->num_prb; ++f) temperature += s->lead[f];
  temperature /= (float)s->num_prb * (1.0f + 0.15f * (float)round);
  for (int u = 0; u < s->num_users; ++u) {
    const float count = (float)(s->excess[u] + s->quotas[u]);
    s->price[u] += temperature * logf(((float)s->quotas[u] + 0.5f) / (count + 0.5f));
  }
}

/* From the guessed prices, or cold, to prices whose argmax nearly meets the quotas; returns the units left to move. */
static int settle_prices(Fast* s, const float* guess) {
  memset(s->price, 0, (size_t)s->stride * sizeof(float));
  int units = try_prices(s, INT_MAX);
  if (units == 0) return 0;
  if (guess) {
    memcpy(s->price, guess, (size_t)s->num_users * sizeof(float));
    units = try_prices(s, units);
  }
  const int good_enough = s->num_prb / 16;
  if (!guess || units > s->num_prb / 4) {
    centring_prices(s);
    units = try_prices(s, units);
  }
  /* A round costs about as much as moving two units, so rounds that save fewer soon end the search. */
  for (int round = 0, idle = 0; round < kMaxPriceRounds && units > good_enough && idle < kIdleRounds; ++round) {
    step_prices(s, round);
    const int now = try_prices(s, units);
    idle = now > units - 2 ? idle + 1 : 0;
    units = now;
  }
  memcpy(s->price, s->best_price, (size_t)s->num_users * sizeof(float));
  return count_excess(s, s->owner);
}

TT_CLONES static void refresh_losses(Fast* s, int u) {
  const int stride = s->stride;
  float* restrict loss = s->loss + (size_t)u * (size_t)stride;
  for (int v = 0; v < stride; ++v) loss[v] = HUGE_VALF;
  for (int f = s->first[u]; f >= 0; f = s->next[f]) {
    const float* restrict row = s->by_prb + (size_t)f * (size_t)stride;
    const float own = row[u];
    for (int v = 0; v < stride; ++v) loss[v] = own - row[v] < loss[v] ? own - row[v] : loss[v];
  }
}

static int32_t bits_of(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
static float float_of(int32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* The least of 16 lanes' (value, index): the open user of least distance, or -1. */
static inline __attribute__((always_inline)) int least_lane(const Ints* value, const Ints* index) {
  int32_t least = INT32_MAX;
  int at = -1;
  for (int i = 0; i < TT_LANES; ++i) {
    at = (*value)[i] < least ? (*index)[i] : at;
    least = (*value)[i] < least ? (*value)[i] : least;
  }
  return at;
}

TT_CLONES static int nearest_open(const Fast* s) {
  Ints least = LOAD_INTS(s->open), index = kLane;
  for (int v = TT_LANES; v < s->stride; v += TT_LANES) {
    const Ints here = LOAD_INTS(s->open + v), nearer = here < least;
    index = CHOOSE(nearer, kLane + v, index);
    least = CHOOSE(nearer, here, least);
  }
  return least_lane(&least, &index);
}

/* Settles u: offers every user a path through it, of distance + reduced loss (only rounding can make a reduced loss
 * negative), and returns the nearest open user. */
TT_CLONES static int relax(Fast* s, int u) {
  const float* loss = s->loss + (size_t)u * (size_t)s->stride;
  const float base = float_of(s->distance[u]), own = s->price[u];
  Ints least = kLane - kLane + INT32_MAX, index = kLane;
  for (int v = 0; v < s->stride; v += TT_LANES) {
    const Floats reduced = LOAD_FLOATS(loss + v) + own - LOAD_FLOATS(s->price + v);
    const Ints there = (Ints)((Floats)((reduced > 0) & (Ints)reduced) + base);
    const Ints distance = LOAD_INTS(s->distance + v), better = there < distance;
    const Ints open = CHOOSE(better, there, LOAD_INTS(s->open + v)), nearer = open < least;
    *(Ints*)(void*)(s->distance + v) = CHOOSE(better, there, distance);
    *(Ints*)(void*)(s->open + v) = open;
    *(Ints*)(void*)(s->previous + v) = CHOOSE(better, kLane - kLane + u, LOAD_INTS(s->previous + v));
    index = CHOOSE(nearer, kLane + v, index);
    least = CHOOSE(nearer, open, least);
  }
  return least_lane(&least, &index);
}

/* Shortest path from any user above its quota to any below; returns its end and moves the prices so that it is tight.
 * source, sink: prices of two virtual users that give to the former and take from the latter at no loss. */
static int shortest_path(Fast* s, float source, float* sink) {
  for (int v = 0; v < s->stride; ++v) {
    const float start = source - s->price[v]; /* never below 0 but for rounding; bits only order numbers that are not */
    s->distance[v] = s->open[v] = s->excess[v] > 0 ? bits_of(start > 0 ? start : 0.0f) : INT32_MAX;
    s->previous[v] = -1;
  }
  float reached = HUGE_VALF;
  int target = -1;
  for (int u = nearest_open(s); u >= 0;) {
    const float here = float_of(s->distance[u]);
    if (here >= reached) break;
    s->open[u] = INT32_MAX;
    const float gap = s->price[u] > *sink ? s->price[u] - *sink : 0.0f;
    if (s->excess[u] < 0 && here + gap < reached) {
      reached = here + gap;
      target = u;
    }
    u = s->first[u] >= 0 ? relax(s, u) : nearest_open(s);
  }
  for (int v = 0; v < s->num_users; ++v) {
    const int nearer = s->distance[v] < bits_of(reached);
    s->price[v] += nearer ? float_of(s->distance[v]) : reached;
  }
  *sink += reached;
  return target;
}

/* Takes the PRB behind loss[u][v] out of u's list. */
static int take_cheapest(Fast* s, int u, int v) {
  int* best_link = &s->first[u];
  float best = HUGE_VALF;
  for (int* link = &s->first[u]; *link >= 0; link = &s->next[*link]) {
    const float* row = s->by_prb + (size_t)*link * (size_t)s->stride;
    if (row[u] - row[v] < best) {
      best = row[u] - row[v];
      best_link = link;
    }
  }
  const int f = *best_link;
  *best_link = s->next[f];
  return f;
}

/* One unit moves along the path that ends at `target`. */
static void move_along_path(Fast* s, int target) {
  int v = target;
  ++s->excess[v];
  /* A path is shorter than the number of users; the bound keeps even a damaged one from turning in a circle. */
  for (int u = s->previous[v], hops = 0; u >= 0 && hops < s->num_users; v = u, u = s->previous[v], ++hops) {
    const int f = take_cheapest(s, u, v);
    s->owner[f] = v;
    s->next[f] = s->first[v];
    s->first[v] = f;
  }
  --s->excess[v];
  for (int hops = 0, u = target; u >= 0 && hops <= s->num_users; u = s->previous[u], ++hops) refresh_losses(s, u);
}

static void repair(Fast* s, int units) {
  for (int u = 0; u < s->num_users; ++u) s->first[u] = -1;
  for (int f = s->num_prb - 1; f >= 0; --f) {
    s->next[f] = s->first[s->owner[f]];
    s->first[s->owner[f]] = f;
  }
  float source = -HUGE_VALF, sink = HUGE_VALF;
  for (int u = 0; u < s->num_users; ++u) {
    refresh_losses(s, u);
    if (s->excess[u] > 0 && s->price[u] > source) source = s->price[u];
    if (s->excess[u] < 0 && s->price[u] < sink) sink = s->price[u];
  }
  for (; units > 0; --units) move_along_path(s, shortest_path(s, source, &sink));
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
  if (units > 0) repair(&s, units);
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
