/* A slot loop around an exported controller: observe, decide shares, quotas, PRBs, power, within a deadline.
 *
 *   slot_loop controller.ttc.safetensors [slots] [deadline_us]
 *
 * It prints the latency of the whole decision (p50, p99, p99.9) and the runtime's counters. The observations are made up:
 * put your scheduler's in `observe`. When the answer is late, the slot is served with the safe action: equal shares, equal
 * power, PRBs in turn. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "trimtab/glue.h"
#include "trimtab/runtime.h"

enum { kUsers = 10, kPrbs = 51, kMaxFeatures = 64, kWarmUpSlots = 100 };
static const float kBudgetW = 40.0f;

typedef struct Agent {
  int id;
  tt_agent_info info;
  tt_feature context_features[kMaxFeatures], item_features[kMaxFeatures];
  float context[kMaxFeatures], items[kUsers * kMaxFeatures];
} Agent;

typedef struct Cell {
  tt_controller* controller;
  Agent prb, power;
  float weight[kUsers * kPrbs]; /* what PRB f is worth to user u */
  float shares[kUsers], power_w[kPrbs], prices[kUsers];
  int quotas[kUsers], owner[kPrbs];
  void* workspace;
} Cell;

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static float random_between(float low, float high) { return low + (high - low) * (float)rand() / (float)RAND_MAX; }

static int find_agent(Cell* cell, const char* name, Agent* agent) {
  agent->id = tt_find_agent(cell->controller, name);
  agent->info.struct_size = sizeof agent->info;
  if (agent->id < 0 || tt_get_agent_info(cell->controller, agent->id, &agent->info) != TT_OK ||
      agent->info.action != TT_SIMPLEX || agent->info.num_context > kMaxFeatures || agent->info.num_item > kMaxFeatures) {
    fprintf(stderr, "the artefact has no agent '%s' that gives shares over users\n", name);
    return 0;
  }
  for (int of_item = 0; of_item < 2; ++of_item) {
    for (int i = 0; i < (of_item ? agent->info.num_item : agent->info.num_context); ++i) {
      tt_feature* feature = of_item ? &agent->item_features[i] : &agent->context_features[i];
      feature->struct_size = sizeof *feature;
      tt_get_feature(cell->controller, agent->id, of_item, i, feature);
    }
  }
  return 1;
}

/* Made-up observations inside the stated ranges. */
static void observe(Agent* agent) {
  for (int i = 0; i < agent->info.num_context; ++i)
    agent->context[i] = random_between(agent->context_features[i].low, agent->context_features[i].high);
  for (int u = 0; u < kUsers; ++u)
    for (int i = 0; i < agent->info.num_item; ++i)
      agent->items[u * agent->info.num_item + i] = random_between(agent->item_features[i].low, agent->item_features[i].high);
}

/* The decision of one slot; 0 when an agent fell back to its safe action. */
static int decide(Cell* cell) {
  const tt_status prb = tt_decide(cell->controller, cell->prb.id, cell->prb.context, cell->prb.items, NULL, kUsers, cell->shares);
  tt_quotas(cell->shares, NULL, kUsers, kPrbs, cell->quotas);
  tt_assign_fast(cell->weight, kUsers, kPrbs, cell->quotas, cell->owner, cell->prices, cell->workspace);
  const tt_status power = tt_decide(cell->controller, cell->power.id, cell->power.context, cell->power.items, NULL, kUsers, cell->shares);
  tt_spread_power(cell->shares, kUsers, cell->owner, kPrbs, kBudgetW, cell->power_w);
  return prb == TT_OK && power == TT_OK;
}

static void serve_safely(Cell* cell) {
  tt_safe_action(cell->controller, cell->power.id, NULL, kUsers, cell->shares);
  for (int f = 0; f < kPrbs; ++f) {
    cell->owner[f] = f % kUsers;
    cell->power_w[f] = kBudgetW / kPrbs;
  }
}

static int by_value(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static int run(Cell* cell, int slots, double deadline_us) {
  double* latency_us = malloc((size_t)slots * sizeof *latency_us);
  if (!latency_us) return 1;
  int late = 0, fell_back = 0;
  for (int slot = -kWarmUpSlots; slot < slots; ++slot) {
    observe(&cell->prb);
    observe(&cell->power);
    for (int i = 0; i < kUsers * kPrbs; ++i) cell->weight[i] = random_between(0, 1);
    const double start = now_us();
    const int answered = decide(cell);
    const double took = now_us() - start;
    if (took > deadline_us) serve_safely(cell);
    if (slot < 0) continue;
    latency_us[slot] = took;
    late += took > deadline_us;
    fell_back += !answered;
  }
  qsort(latency_us, (size_t)slots, sizeof *latency_us, by_value);
  tt_counters c = {.struct_size = sizeof c};
  tt_get_counters(cell->controller, &c);
  printf("%d slots of %d users x %d PRBs: p50 %.2f us, p99 %.2f us, p99.9 %.2f us\n", slots, kUsers, kPrbs,
         latency_us[slots / 2], latency_us[(int)((double)slots * 0.99)], latency_us[(int)((double)slots * 0.999)]);
  printf("served safely: %d late (deadline %.0f us), %d by fallback\n", late, deadline_us, fell_back);
  printf("runtime: %llu calls, %llu fallbacks, %llu bad inputs, %llu numbers out of range, %llu deadline misses\n",
         (unsigned long long)c.calls, (unsigned long long)c.fallbacks, (unsigned long long)c.bad_inputs,
         (unsigned long long)c.out_of_range, (unsigned long long)c.deadline_misses);
  free(latency_us);
  return 0;
}

int main(int argc, char** argv) {
  const int slots = argc > 2 ? atoi(argv[2]) : 20000;
  const double deadline_us = argc > 3 ? atof(argv[3]) : 100;
  if (argc < 2 || slots < 1 || !(deadline_us > 0)) {
    fprintf(stderr, "usage: slot_loop controller.ttc.safetensors [slots] [deadline_us]\n");
    return 2;
  }
  static Cell cell;
  char why[512];
  tt_open_options options = TT_OPEN_OPTIONS_INIT;
  options.max_items = kUsers;
  if (tt_open(argv[1], &options, &cell.controller, why, sizeof why) != TT_OK) {
    fprintf(stderr, "%s\n", why);
    return 3;
  }
  int failed = 3;
  cell.workspace = malloc(tt_assign_workspace_size(kUsers, kPrbs));
  if (cell.workspace && find_agent(&cell, "prb", &cell.prb) && find_agent(&cell, "power", &cell.power))
    failed = run(&cell, slots, deadline_us);
  free(cell.workspace);
  tt_close(cell.controller);
  return failed;
}
