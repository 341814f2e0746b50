/* The slot's assignment: prices, argmax, then paths of at most TT_MAX_MOVES moves. See trimtab/glue.h.
 *
 * Prices. With weights that scatter with temperature T around each user's mean, user u wins a share of the PRBs that grows
 * as exp(price / T) (exactly so for Gumbel noise), hence the step price += T log((quota + 1/2) / (count + 1/2)). A few such
 * rounds bring the counts near the quotas; the best round is kept.
 *
 * Repair. As in assign_exact.c, loss[u][v] is the least loss of moving one PRB from u to v, but the shortest path is found
 * by a Bellman-Ford that stops after TT_MAX_MOVES edges: its inner loop runs over all users at once. A path that visits a
 * user twice (possible only where earlier cut-off paths left a cycle of gain) is replaced by the best direct move. */
#include <math.h>
#include <string.h>

#include "assign.h"
#include "simd.h"

enum { kMaxPriceRounds = 8 };

typedef struct Fast {
  int num_users, num_prb, stride; /* stride: users padded to whole vectors */
  const float* weight;            /* [users, PRBs] */
  const int* quotas;
  int* owner;
  float* by_prb;   /* [PRBs, stride] weights, usable and transposed */
  float* loss;     /* [users, stride] */
  float* distance; /* [moves + 1, stride] */
  float *price, *best_price;  /* [stride] */
  float* score;               /* [PRBs] largest weight + price so far */
  int *excess, *first, *next; /* [stride], [users], [PRBs]: each user's PRBs as a list */
  int* best_owner;            /* [PRBs] */
} Fast;

size_t tt_fast_size(int num_users, int num_prb) {
  const size_t stride = (size_t)tt_padded(num_users), f = (size_t)tt_padded(num_prb), u = (size_t)num_users;
  return sizeof(float) * (f * stride + u * stride + (TT_MAX_MOVES + 1) * stride + 2 * stride + f) +
         sizeof(int) * (2 * stride + 2 * f);
}

size_t tt_assign_workspace_size(int num_users, int num_prb) {
  if (num_users < 1 || num_users > TT_GLUE_MAX_USERS || num_prb < 0 || num_prb > TT_GLUE_MAX_PRB) return 0;
  const size_t exact = tt_exact_size(num_users), fast = tt_fast_size(num_users, num_prb);
  return (exact > fast ? exact : fast) + 64;
}

static void fast_layout(Fast* s, void* workspace) {
  const size_t stride = (size_t)s->stride, f = (size_t)tt_padded(s->num_prb), u = (size_t)s->num_users;
  s->by_prb = (float*)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
  s->loss = s->by_prb + f * stride;
  s->distance = s->loss + u * stride;
  s->price = s->distance + (TT_MAX_MOVES + 1) * stride;
  s->best_price = s->price + stride;
  s->score = s->best_price + stride;
  s->excess = (int*)(void*)(s->score + f);
  s->first = s->excess + stride;
  s->next = s->first + stride;
  s->best_owner = s->next + f;
}

/* Returns how many weights were not finite. */
TT_CLONES static int transpose(Fast* s) {
  int unusable = 0;
  for (int u = 0; u < s->num_users; ++u) {
    const float* row = s->weight + (size_t)u * (size_t)s->num_prb;
    for (int f = 0; f < s->num_prb; ++f) {
      s->by_prb[(size_t)f * (size_t)s->stride + (size_t)u] = tt_usable(row[f]);
      unusable += !(fabsf(row[f]) <= TT_WORST);
    }
  }
  for (int u = s->num_users; u < s->stride; ++u)
    for (int f = 0; f < s->num_prb; ++f) s->by_prb[(size_t)f * (size_t)s->stride + (size_t)u] = -TT_WORST;
  return unusable;
}

/* owner[f] = argmax over users of weight + price, the lowest index among equals. */
TT_CLONES static void assign_argmax(const float* restrict weight, int num_users, int num_prb, const float* restrict price,
                                    float* restrict score, int* restrict owner) {
  for (int f = 0; f < num_prb; ++f) {
    score[f] = tt_usable(weight[f]) + price[0];
    owner[f] = 0;
  }
  for (int u = 1; u < num_users; ++u) {
    const float* restrict row = weight + (size_t)u * (size_t)num_prb;
    const float p = price[u];
    for (int f = 0; f < num_prb; ++f) {
      const float here = tt_usable(row[f]) + p;
      const int better = here > score[f];
      score[f] = better ? here : score[f];
      owner[f] = better ? u : owner[f];
    }
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

static int argmax_and_count(Fast* s) {
  assign_argmax(s->weight, s->num_users, s->num_prb, s->price, s->score, s->best_owner);
  return count_excess(s, s->best_owner);
}

/* Scatter of a weight around its user's mean: the temperature of the price steps. */
TT_CLONES static float temperature(const Fast* s) {
  double spread = 0;
  for (int u = 0; u < s->num_users; ++u) {
    const float* row = s->weight + (size_t)u * (size_t)s->num_prb;
    float sum = 0, deviation = 0;
    for (int f = 0; f < s->num_prb; ++f) sum += tt_usable(row[f]);
    const float mean = sum / (float)s->num_prb;
    for (int f = 0; f < s->num_prb; ++f) deviation += fabsf(tt_usable(row[f]) - mean);
    spread += (double)deviation;
  }
  return (float)(spread / ((double)s->num_users * s->num_prb));
}

/* Moves the prices until counts are near quotas; leaves the best round's prices and its assignment in owner. */
static int settle_prices(Fast* s, int units) {
  const float step = temperature(s);
  int best = units, worse = 0;
  for (int round = 0; round < kMaxPriceRounds && worse < 2 && best > s->num_prb / 16; ++round) {
    for (int u = 0; u < s->num_users; ++u) {
      const float count = (float)(s->excess[u] + s->quotas[u]);
      s->price[u] += step * logf(((float)s->quotas[u] + 0.5f) / (count + 0.5f));
    }
    units = argmax_and_count(s);
    if (units < best) {
      best = units;
      memcpy(s->best_price, s->price, (size_t)s->num_users * sizeof(float));
      memcpy(s->owner, s->best_owner, (size_t)s->num_prb * sizeof(int));
    } else {
      ++worse;
    }
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

/* to[v] = min(from[v], min over users k of from[k] + loss[k][v]). */
TT_CLONES static void extend_paths(const Fast* s, const float* restrict from, float* restrict to) {
  const int stride = s->stride;
  memcpy(to, from, (size_t)stride * sizeof(float));
  for (int k = 0; k < s->num_users; ++k) {
    if (from[k] == HUGE_VALF || s->first[k] < 0) continue;
    const float* restrict loss = s->loss + (size_t)k * (size_t)stride;
    const float base = from[k];
    for (int v = 0; v < stride; ++v) to[v] = base + loss[v] < to[v] ? base + loss[v] : to[v];
  }
}

/* The user before v on the shortest path of `moves` moves. */
static int predecessor(const Fast* s, int moves, int v) {
  const float* from = s->distance + (size_t)(moves - 1) * (size_t)s->stride;
  for (int k = 0; k < s->num_users; ++k)
    if (s->first[k] >= 0 && from[k] + s->loss[(size_t)k * (size_t)s->stride + (size_t)v] == from[s->stride + v]) return k;
  return -1;
}

/* path[0] is a user below its quota, path[length] one above it; returns the length, 0 when it visits a user twice. */
static int trace_path(const Fast* s, int target, int* path) {
  int length = 0;
  path[0] = target;
  for (int moves = TT_MAX_MOVES; moves > 0; --moves) {
    const float* d = s->distance + (size_t)moves * (size_t)s->stride;
    const int v = path[length];
    if (d[v] == d[v - s->stride]) continue; /* no better than with fewer moves */
    const int before = predecessor(s, moves, v);
    for (int i = 0; i <= length; ++i)
      if (before < 0 || path[i] == before) return 0;
    path[++length] = before;
  }
  return s->excess[path[length]] > 0 ? length : 0;
}

static int direct_move(const Fast* s, int* path) {
  float best = HUGE_VALF;
  path[0] = path[1] = -1;
  for (int u = 0; u < s->num_users; ++u) {
    if (s->excess[u] <= 0) continue;
    for (int v = 0; v < s->num_users; ++v) {
      const float loss = s->loss[(size_t)u * (size_t)s->stride + (size_t)v];
      if (s->excess[v] >= 0 || (path[0] >= 0 && loss >= best)) continue;
      best = loss;
      path[0] = v;
      path[1] = u;
    }
  }
  return 1;
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

static void move_along(Fast* s, const int* path, int length) {
  int moved[TT_MAX_MOVES];
  for (int i = 0; i < length; ++i) moved[i] = take_cheapest(s, path[i + 1], path[i]);
  for (int i = 0; i < length; ++i) {
    s->owner[moved[i]] = path[i];
    s->next[moved[i]] = s->first[path[i]];
    s->first[path[i]] = moved[i];
  }
  ++s->excess[path[0]];
  --s->excess[path[length]];
  for (int i = 0; i <= length; ++i) refresh_losses(s, path[i]);
}

static void start_repair(Fast* s) {
  for (int u = 0; u < s->num_users; ++u) s->first[u] = -1;
  for (int f = s->num_prb - 1; f >= 0; --f) {
    s->next[f] = s->first[s->owner[f]];
    s->first[s->owner[f]] = f;
  }
  for (int u = 0; u < s->num_users; ++u) refresh_losses(s, u);
}

static void repair(Fast* s, int units) {
  const size_t stride = (size_t)s->stride;
  for (; units > 0; --units) {
    for (int v = 0; v < s->stride; ++v) s->distance[v] = s->excess[v] > 0 ? 0 : HUGE_VALF;
    for (size_t h = 0; h < TT_MAX_MOVES; ++h) extend_paths(s, s->distance + h * stride, s->distance + (h + 1) * stride);
    const float* final = s->distance + TT_MAX_MOVES * stride;
    int target = -1;
    for (int v = 0; v < s->num_users; ++v)
      if (s->excess[v] < 0 && (target < 0 || final[v] < final[target])) target = v;
    int path[TT_MAX_MOVES + 1];
    int length = trace_path(s, target, path);
    if (length == 0) length = direct_move(s, path);
    move_along(s, path, length);
  }
}

/* Prices that explain the assignment: potentials of the loss graph, by Bellman-Ford from zero. */
static void dual_prices(Fast* s, float* prices) {
  float* now = s->distance;
  float* then = s->distance + s->stride;
  memset(now, 0, (size_t)s->stride * sizeof(float));
  for (int round = 0; round < kMaxPriceRounds; ++round) {
    extend_paths(s, now, then);
    const int settled = memcmp(now, then, (size_t)s->num_users * sizeof(float)) == 0;
    float* swap = now;
    now = then;
    then = swap;
    if (settled) break;
  }
  memcpy(prices, now, (size_t)s->num_users * sizeof(float));
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
  Fast s = {.num_users = num_users, .num_prb = num_prb, .stride = tt_padded(num_users), .weight = weight,
            .quotas = quotas, .owner = owner};
  fast_layout(&s, workspace);
  const int unusable = transpose(&s);
  memset(s.price, 0, (size_t)s.stride * sizeof(float));
  memcpy(s.best_price, s.price, (size_t)s.stride * sizeof(float));
  int units = argmax_and_count(&s);
  memcpy(owner, s.best_owner, (size_t)num_prb * sizeof(int));
  if (units > 0 && prices && prices_usable(prices, num_users)) {
    memcpy(s.price, prices, (size_t)num_users * sizeof(float));
    const int guessed = argmax_and_count(&s);
    if (guessed < units) {
      units = guessed;
      memcpy(s.best_price, s.price, (size_t)num_users * sizeof(float));
      memcpy(owner, s.best_owner, (size_t)num_prb * sizeof(int));
    } else {
      memset(s.price, 0, (size_t)s.stride * sizeof(float));
    }
    count_excess(&s, owner);
  }
  if (units > 0) units = settle_prices(&s, units);
  if (units > 0 || prices) start_repair(&s);
  repair(&s, units);
  if (prices) dual_prices(&s, prices);
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
