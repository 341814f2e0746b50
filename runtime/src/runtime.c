/* The API of trimtab/runtime.h: opening, checking inputs, answering, falling back, counting. */
#define _POSIX_C_SOURCE 200809L
#include "trimtab/runtime.h"

#include <fcntl.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "program.h"
#include "simd.h"

static const float kSelfTestTolerance = 1e-5f;
/* What a file may make the library take: a small one can refer to one tensor many times, or ask for wide scratch memory. Scratch
 * memory for more items than the file states is the caller's own wish and comes on top. */
enum { kTakenPerByte = 3, kTakenAtLeast = 12 << 20 };

struct tt_controller {
  tt_memory memory;
  int num_agents;
  tt_agent* agents;
  tt_scratch scratch;
  double deadline_us;
  tt_counters counters;
  char *environment, *config, *training_data_hash;
};

uint32_t tt_abi_version(void) { return TT_ABI_VERSION; }

/* ---- opening ---- */

static tt_status take_scratch(tt_controller* c) {
  size_t widest = TT_LANE, capacity = 1;
  int attends = 0;
  for (int a = 0; a < c->num_agents; ++a) {
    const tt_agent* agent = &c->agents[a];
    const int items = agent->info.max_items > agent->info.trained_items ? agent->info.max_items : agent->info.trained_items;
    if ((size_t)agent->widest > widest) widest = (size_t)agent->widest;
    if ((size_t)items > capacity) capacity = (size_t)items;
    attends |= agent->attends;
  }
  /* Registers back to back would meet in the same sets of the first-level cache; a line more each avoids that. */
  const size_t row = widest + TT_LANE, table = capacity * widest + TT_LANE;
  float* at = tt_take(&c->memory, (3 * row + 2 * table + widest + capacity) * sizeof(float));
  c->scratch.slot = tt_take(&c->memory, capacity * sizeof(int));
  if (!at || !c->scratch.slot) return TT_OUT_OF_MEMORY;
  c->scratch.context = at;
  c->scratch.pooled = at + row;
  c->scratch.base = at + 2 * row;
  c->scratch.rows = at + 3 * row;
  c->scratch.next = at + 3 * row + table;
  c->scratch.action = at + 3 * row + 2 * table;
  if (!attends) return TT_OK;
  const size_t columns = (size_t)tt_pad((int)capacity), keys = widest * columns + TT_LANE;
  at = tt_take(&c->memory, (keys + table + columns) * sizeof(float));
  if (!at) return TT_OUT_OF_MEMORY;
  c->scratch.keys = at;
  c->scratch.values = at + keys;
  c->scratch.weights = at + keys + table;
  return TT_OK;
}

static char* spec_text(tt_file* file, tt_memory* memory, const char* key) {
  const int node = tt_json_find(&file->spec, 0, key);
  if (node < 0) return NULL;
  char* text = tt_take(memory, (size_t)(file->spec.nodes[node].end - file->spec.nodes[node].begin) + 1);
  return text && tt_json_string(&file->spec, node, text) >= 0 ? text : NULL;
}

static tt_status check_versions(tt_file* file) {
  int64_t schema, abi;
  if (!tt_json_integer(&file->spec, tt_json_find(&file->spec, 0, "schema"), 1, 1 << 30, &schema) ||
      !tt_json_integer(&file->spec, tt_json_find(&file->spec, 0, "abi"), 1, 1 << 30, &abi))
    return tt_file_error(file, TT_BAD_FILE, "the spec states no schema or no ABI version");
  if (schema != TT_SCHEMA_VERSION || abi > TT_ABI_VERSION)
    return tt_file_error(file, TT_VERSION_MISMATCH, "the file has schema %d and needs ABI %d; this runtime reads schema %d and has ABI %d",
                         (int)schema, (int)abi, TT_SCHEMA_VERSION, TT_ABI_VERSION);
  return TT_OK;
}

static size_t allowance(const tt_file* file, const tt_open_options* options) {
  const size_t wished = (size_t)options->max_items * TT_MAX_WIDTH * 5 * sizeof(float);
  return file->size > (SIZE_MAX - wished - kTakenAtLeast) / kTakenPerByte ? SIZE_MAX : file->size * kTakenPerByte + kTakenAtLeast + wished;
}

static tt_status build(tt_controller* c, tt_file* file, const tt_open_options* options) {
  c->memory.left = allowance(file, options);
  tt_status status = tt_file_check(file, &c->memory);
  if (status == TT_OK) status = check_versions(file);
  if (status != TT_OK) return status;
  const int list = tt_json_find(&file->spec, 0, "agents");
  const int count = list >= 0 && file->spec.nodes[list].kind == TT_JSON_ARRAY ? file->spec.nodes[list].count : 0;
  if (count < 1 || count > TT_MAX_AGENTS) return tt_file_error(file, TT_BAD_FILE, "the spec must list 1 to %d agents", TT_MAX_AGENTS);
  c->agents = tt_take(&c->memory, (size_t)count * sizeof *c->agents);
  if (!c->agents) return TT_OUT_OF_MEMORY;
  for (int a = file->spec.nodes[list].first; a >= 0; a = file->spec.nodes[a].next) {
    status = tt_build_agent(file, &c->memory, a, options, &c->agents[c->num_agents++]);
    if (status != TT_OK) return status;
  }
  c->environment = spec_text(file, &c->memory, "environment");
  c->config = spec_text(file, &c->memory, "config");
  c->training_data_hash = spec_text(file, &c->memory, "training_data_hash");
  status = take_scratch(c);
  if (status != TT_OK || !options->run_self_test) return status;
  float worst;
  status = tt_self_test(c, &worst);
  return status == TT_OK ? TT_OK : tt_file_error(file, status, "self-test: an answer differs by %g from the stored one", (double)worst);
}

static tt_status options_ok(tt_file* file, const tt_open_options* options) {
  if (options->struct_size != sizeof *options || options->abi_version != TT_ABI_VERSION)
    return tt_file_error(file, TT_VERSION_MISMATCH, "the caller was compiled for ABI %u, this library has ABI %d",
                         options->abi_version, TT_ABI_VERSION);
  if (options->max_items < 0 || options->max_items > TT_MAX_ITEMS || !(options->deadline_us >= 0))
    return tt_file_error(file, TT_BAD_ARGUMENT, "max_items must be 0 to %d and deadline_us not negative", TT_MAX_ITEMS);
  return TT_OK;
}

tt_status tt_open_memory(const void* bytes, size_t size, const tt_open_options* options, tt_controller** controller,
                         char* message, size_t message_size) {
  const tt_open_options defaults = TT_OPEN_OPTIONS_INIT;
  if (!controller) return TT_BAD_ARGUMENT;
  *controller = NULL;
  tt_file file = {.bytes = bytes, .size = bytes ? size : 0};
  if (!options) options = &defaults;
  tt_status status = options_ok(&file, options);
  tt_controller* c = status == TT_OK ? calloc(1, sizeof *c) : NULL;
  if (status == TT_OK && !c) status = TT_OUT_OF_MEMORY;
  if (status == TT_OK) {
    c->deadline_us = options->deadline_us;
    status = build(c, &file, options);
  }
  if (message && message_size) snprintf(message, message_size, "%s", status == TT_OK || file.message[0] ? file.message : tt_status_text(status));
  if (status == TT_OK) *controller = c;
  else tt_close(c);
  return status;
}

tt_status tt_open(const char* path, const tt_open_options* options, tt_controller** controller, char* message, size_t message_size) {
  if (!path || !controller) return TT_BAD_ARGUMENT;
  *controller = NULL;
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (descriptor < 0 || fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
    if (descriptor >= 0) close(descriptor);
    if (message && message_size) snprintf(message, message_size, "%s: cannot be opened as a file", path);
    return TT_IO_ERROR;
  }
  const size_t size = (size_t)info.st_size;
  void* bytes = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, descriptor, 0) : NULL;
  close(descriptor);
  if (bytes == MAP_FAILED) {
    if (message && message_size) snprintf(message, message_size, "%s: cannot be mapped", path);
    return TT_IO_ERROR;
  }
  char why[TT_MESSAGE_SIZE] = "";
  const tt_status status = tt_open_memory(bytes, size, options, controller, why, sizeof why);
  if (size) munmap(bytes, size);
  if (message && message_size) snprintf(message, message_size, "%s%s%s", status == TT_OK ? "" : path, status == TT_OK ? "" : ": ", why);
  return status;
}

void tt_close(tt_controller* controller) {
  if (!controller) return;
  tt_free_all(&controller->memory);
  free(controller);
}

/* ---- asking ---- */

int tt_num_agents(const tt_controller* controller) { return controller ? controller->num_agents : 0; }

int tt_find_agent(const tt_controller* controller, const char* name) {
  for (int a = 0; controller && name && a < controller->num_agents; ++a)
    if (strcmp(controller->agents[a].info.name, name) == 0) return a;
  return -1;
}

static int known(const tt_controller* controller, int agent) { return controller && agent >= 0 && agent < controller->num_agents; }

tt_status tt_get_agent_info(const tt_controller* controller, int agent, tt_agent_info* info) {
  if (!known(controller, agent) || !info) return TT_BAD_ARGUMENT;
  if (info->struct_size != sizeof *info) return TT_VERSION_MISMATCH;
  *info = controller->agents[agent].info;
  return TT_OK;
}

tt_status tt_get_feature(const tt_controller* controller, int agent, int of_item, int index, tt_feature* feature) {
  if (!known(controller, agent) || !feature || index < 0) return TT_BAD_ARGUMENT;
  const tt_agent* a = &controller->agents[agent];
  if (index >= (of_item ? a->info.num_item : a->info.num_context)) return TT_BAD_ARGUMENT;
  if (feature->struct_size != sizeof *feature) return TT_VERSION_MISMATCH;
  *feature = (of_item ? a->item : a->context)[index];
  return TT_OK;
}

const char* tt_get_text(const tt_controller* controller, const char* key) {
  if (!controller || !key) return NULL;
  if (strcmp(key, "environment") == 0) return controller->environment;
  if (strcmp(key, "config") == 0) return controller->config;
  return strcmp(key, "training_data_hash") == 0 ? controller->training_data_hash : NULL;
}

tt_status tt_get_counters(const tt_controller* controller, tt_counters* counters) {
  if (!controller || !counters) return TT_BAD_ARGUMENT;
  if (counters->struct_size != sizeof *counters) return TT_VERSION_MISMATCH;
  *counters = controller->counters;
  counters->struct_size = sizeof *counters;
  return TT_OK;
}

void tt_reset_counters(tt_controller* controller) {
  if (controller) controller->counters = (tt_counters){.struct_size = sizeof(tt_counters)};
}

/* ---- answering ---- */

/* How many of x are outside [low, high]; *finite becomes 0 when one is NaN or infinite. */
static int count_outside(const float* x, const float* low, const float* high, int n, int* finite) {
  int outside = 0, good = 1;
  for (int i = 0; i < n; ++i) {
    good &= fabsf(x[i]) <= FLT_MAX;
    outside += (x[i] < low[i]) | (x[i] > high[i]);
  }
  *finite &= good;
  return outside;
}

static int is_present(const uint8_t* mask, int i) { return !mask || (mask[i] && mask[i] != TT_SEEN); }

static void write_safe_action(const tt_agent* agent, const uint8_t* mask, int num_items, float* action) {
  const int width = tt_action_width(&agent->info, num_items);
  if (agent->safe_action) {
    memcpy(action, agent->safe_action, (size_t)width * sizeof(float));
    return;
  }
  if (agent->info.action != TT_SIMPLEX) { /* nothing is taken: none of a subset, none in an order */
    for (int i = 0; i < width; ++i) action[i] = agent->info.action == TT_ORDER ? -1 : 0;
    return;
  }
  int present = 0;
  for (int i = 0; i < num_items; ++i) present += is_present(mask, i);
  for (int i = 0; i < num_items; ++i) action[i] = is_present(mask, i) ? 1.0f / (float)present : 0;
}

static tt_status fall_back(tt_controller* c, const tt_agent* agent, const uint8_t* mask, int num_items, float* action,
                           tt_status status) {
  ++c->counters.fallbacks;
  c->counters.bad_inputs += status == TT_BAD_INPUT || status == TT_TOO_MANY_ITEMS;
  c->counters.deadline_misses += status == TT_DEADLINE_MISSED;
  write_safe_action(agent, mask, num_items, action);
  return status;
}

/* Lists the present items, then those only seen, and checks their features; returns their number. */
static int gather(tt_controller* c, const tt_agent* agent, const float* items, const uint8_t* mask, int num_items, int* present, int* finite) {
  const int width = agent->info.num_item;
  int rows = 0, outside = 0;
  for (int i = 0; i < num_items; ++i)
    if (is_present(mask, i)) c->scratch.slot[rows++] = i;
  *present = rows;
  for (int i = 0; mask && i < num_items; ++i)
    if (mask[i] == TT_SEEN) c->scratch.slot[rows++] = i;
  for (int r = 0; r < rows; ++r)
    outside += count_outside(items + (size_t)c->scratch.slot[r] * (size_t)width, agent->item_low, agent->item_high, width, finite);
  c->counters.out_of_range += (uint64_t)outside;
  return rows;
}

static tt_status answer(tt_controller* c, const tt_agent* agent, const float* context, const float* items, const uint8_t* mask,
                        int num_items, float* action) {
  int finite = 1, present = 1;
  c->counters.out_of_range +=
      (uint64_t)count_outside(context, agent->context_low, agent->context_high, agent->info.num_context, &finite);
  const int rows = agent->info.num_item ? gather(c, agent, items, mask, num_items, &present, &finite) : 1;
  if (present == 0) return fall_back(c, agent, mask, num_items, action, TT_NO_ITEMS);
  if (!finite) return fall_back(c, agent, mask, num_items, action, TT_BAD_INPUT);
  tt_run(agent, &c->scratch, context, items, rows, present, num_items, action);
  const int width = tt_action_width(&agent->info, num_items);
  for (int i = 0; i < width; ++i) finite &= fabsf(action[i]) <= FLT_MAX; /* an input so large that the network overflowed */
  return finite ? TT_OK : fall_back(c, agent, mask, num_items, action, TT_BAD_INPUT);
}

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

tt_status tt_decide(tt_controller* controller, int agent, const float* context, const float* items, const uint8_t* mask,
                    int num_items, float* action) {
  if (!known(controller, agent) || !action) return TT_BAD_ARGUMENT;
  const tt_agent* a = &controller->agents[agent];
  if ((a->info.num_context && !context) || (a->info.num_item && (!items || num_items < 0))) return TT_BAD_ARGUMENT;
  ++controller->counters.calls;
  if (a->info.num_item && num_items > a->info.max_items)
    return fall_back(controller, a, mask, num_items, action, TT_TOO_MANY_ITEMS);
  if (!(controller->deadline_us > 0)) return answer(controller, a, context, items, mask, num_items, action);
  const double start = now_us();
  const tt_status status = answer(controller, a, context, items, mask, num_items, action);
  if (status != TT_OK || now_us() - start <= controller->deadline_us) return status;
  return fall_back(controller, a, mask, num_items, action, TT_DEADLINE_MISSED);
}

tt_status tt_safe_action(tt_controller* controller, int agent, const uint8_t* mask, int num_items, float* action) {
  if (!known(controller, agent) || !action || num_items < 0) return TT_BAD_ARGUMENT;
  ++controller->counters.fallbacks;
  write_safe_action(&controller->agents[agent], mask, num_items, action);
  return TT_OK;
}

/* Largest difference over the vectors of one agent, relative where an answer is above 1; infinite when a call fails. */
static float agent_self_test(tt_controller* c, const tt_agent* agent) {
  const tt_vectors* v = &agent->self_test;
  const int width = tt_action_width(&agent->info, v->num_items);
  float worst = 0;
  for (int k = 0; k < v->count; ++k) {
    const size_t item = (size_t)k * (size_t)v->num_items;
    const float *items = v->items ? v->items + item * (size_t)agent->info.num_item : NULL, *expected = v->action + k * width;
    const float* context = v->context ? v->context + (size_t)k * (size_t)agent->info.num_context : NULL;
    if (answer(c, agent, context, items, v->mask ? v->mask + item : NULL, v->num_items, c->scratch.action) != TT_OK)
      return HUGE_VALF;
    for (int i = 0; i < width; ++i) {
      const float difference = fabsf(c->scratch.action[i] - expected[i]) / fmaxf(1, fabsf(expected[i]));
      worst = difference > worst ? difference : worst;
    }
  }
  return worst;
}

tt_status tt_self_test(tt_controller* controller, float* worst) {
  if (!controller) return TT_BAD_ARGUMENT;
  const tt_counters before = controller->counters;
  float most = 0;
  for (int a = 0; a < controller->num_agents; ++a) most = fmaxf(most, agent_self_test(controller, &controller->agents[a]));
  controller->counters = before;
  if (worst) *worst = most;
  return most <= kSelfTestTolerance ? TT_OK : TT_SELF_TEST_FAILED;
}
