/* Transportation optimum by successive shortest paths over the graph of users.
 *
 * loss[u][v] = min over the PRBs f of u of weight[u,f] - weight[v,f] is what moving one PRB from u to v costs. Starting
 * from the per-PRB argmax (optimal for its own counts), each step moves one unit along the shortest path from any user
 * above its quota to any user below; the assignment stays optimal for its counts (Ahuja, Magnanti, Orlin: Network Flows,
 * section 9.7). Potentials keep every reduced loss >= 0, so Dijkstra applies, and are the dual prices at the end. */
#include <math.h>
#include <string.h>

#include "assign.h"

typedef struct Exact {
  int num_users, num_prb;
  const float* weight;
  int* owner;
  double *loss, *distance, *price; /* [users, users], [users], [users] */
  int *cheapest, *previous, *excess, *done; /* cheapest[u, v]: the PRB behind loss[u][v] */
} Exact;

static double weight_of(const Exact* e, int u, int f) {
  return (double)tt_usable(e->weight[(size_t)u * (size_t)e->num_prb + (size_t)f]);
}

size_t tt_exact_size(int num_users) {
  const size_t n = (size_t)num_users;
  return sizeof(double) * (n * n + 2 * n) + sizeof(int) * (n * n + 3 * n);
}

static void exact_layout(Exact* e, void* workspace) {
  const size_t n = (size_t)e->num_users;
  char* at = (char*)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
  e->loss = (double*)(void*)at;
  e->distance = e->loss + n * n;
  e->price = e->distance + n;
  e->cheapest = (int*)(void*)(e->price + n);
  e->previous = e->cheapest + n * n;
  e->excess = e->previous + n;
  e->done = e->excess + n;
}

static void start_at_argmax(Exact* e, const int* quotas) {
  for (int u = 0; u < e->num_users; ++u) {
    e->excess[u] = -quotas[u];
    e->price[u] = 0;
  }
  for (int f = 0; f < e->num_prb; ++f) {
    int best = 0;
    for (int u = 1; u < e->num_users; ++u)
      if (weight_of(e, u, f) > weight_of(e, best, f)) best = u;
    e->owner[f] = best;
    ++e->excess[best];
  }
}

static void refresh_losses(Exact* e, int u) {
  double* loss = e->loss + (size_t)u * (size_t)e->num_users;
  int* cheapest = e->cheapest + (size_t)u * (size_t)e->num_users;
  for (int v = 0; v < e->num_users; ++v) loss[v] = HUGE_VAL;
  for (int f = 0; f < e->num_prb; ++f) {
    if (e->owner[f] != u) continue;
    const double own = weight_of(e, u, f);
    for (int v = 0; v < e->num_users; ++v) {
      const double here = own - weight_of(e, v, f);
      if (here < loss[v]) {
        loss[v] = here;
        cheapest[v] = f;
      }
    }
  }
}

/* Reduced distances from the users above their quota; a virtual source at price 0 reaches each of them at loss 0. */
static void shortest_paths(Exact* e) {
  const int n = e->num_users;
  for (int u = 0; u < n; ++u) {
    e->distance[u] = e->excess[u] > 0 ? fmax(0, -e->price[u]) : HUGE_VAL;
    e->previous[u] = -1;
    e->done[u] = 0;
  }
  for (int round = 0; round < n; ++round) {
    int u = -1;
    for (int v = 0; v < n; ++v)
      if (!e->done[v] && (u < 0 || e->distance[v] < e->distance[u])) u = v;
    if (e->distance[u] == HUGE_VAL) return;
    e->done[u] = 1;
    const double* loss = e->loss + (size_t)u * (size_t)n;
    for (int v = 0; v < n; ++v) {
      if (e->done[v] || loss[v] == HUGE_VAL) continue;
      const double there = e->distance[u] + fmax(0, loss[v] + e->price[u] - e->price[v]); /* rounding only is below 0 */
      if (there < e->distance[v]) {
        e->distance[v] = there;
        e->previous[v] = u;
      }
    }
  }
}

/* Moves one PRB along each edge of the path that ends at `v`. */
static void augment(Exact* e, int v) {
  ++e->excess[v];
  while (e->previous[v] >= 0) {
    const int u = e->previous[v];
    e->owner[e->cheapest[(size_t)u * (size_t)e->num_users + (size_t)v]] = v;
    v = u;
  }
  --e->excess[v];
}

tt_status tt_assign_exact(const float* weight, int num_users, int num_prb, const int* quotas, int* owner, double* prices,
                          void* workspace) {
  if (!tt_problem_ok(weight, num_users, num_prb, quotas, owner, workspace)) return TT_BAD_ARGUMENT;
  Exact e = {.num_users = num_users, .num_prb = num_prb, .weight = weight, .owner = owner};
  exact_layout(&e, workspace);
  start_at_argmax(&e, quotas);
  for (int u = 0; u < num_users; ++u) refresh_losses(&e, u);
  for (;;) {
    shortest_paths(&e);
    int target = -1;
    for (int v = 0; v < num_users; ++v)
      if (e.excess[v] < 0 && (target < 0 || e.distance[v] + e.price[v] < e.distance[target] + e.price[target])) target = v;
    if (target < 0) break;
    for (int v = 0; v < num_users; ++v) e.price[v] += e.distance[v];
    augment(&e, target);
    for (int v = target; v >= 0; v = e.previous[v]) refresh_losses(&e, v);
  }
  if (prices) memcpy(prices, e.price, (size_t)num_users * sizeof *prices);
  for (size_t i = 0; i < (size_t)num_users * (size_t)num_prb; ++i)
    if (!isfinite(weight[i])) return TT_BAD_INPUT;
  return TT_OK;
}

