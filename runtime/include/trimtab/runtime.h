/* trimtab runtime: answers of exported controllers. C11, libc and libm only.
 *
 *   tt_controller* c;
 *   char why[256];
 *   if (tt_open("controller.ttc.safetensors", NULL, &c, why, sizeof why) != TT_OK) { puts(why); ... }
 *   tt_decide(c, tt_find_agent(c, "prb"), context, items, mask, num_users, shares);
 *
 * tt_open maps the file, checks all of it, allocates once. tt_decide neither allocates nor locks nor calls the system
 * (but for the clock when a deadline is watched). A controller has scratch memory: one thread at a time may use it; open it
 * once per thread. The format of the file is described in runtime/README.md. */
#ifndef TRIMTAB_RUNTIME_H
#define TRIMTAB_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
  TT_ABI_VERSION = 1,    /* of this header: a change that breaks callers raises it */
  TT_SCHEMA_VERSION = 1, /* of the file */
  TT_MAX_ITEMS = 1024,   /* the most that tt_open_options.max_items may ask for */
  TT_MAX_WIDTH = 4096    /* features, units of a layer */
};

typedef struct tt_controller tt_controller;

/* Set struct_size and abi_version (or start from TT_OPEN_OPTIONS_INIT): the library refuses what it does not know. */
typedef struct tt_open_options {
  uint32_t struct_size, abi_version;
  int max_items;         /* items per decision; 0: the number trained on; policies over sets serve any number */
  int run_self_test;     /* not 0: run the file's own vectors at open, refuse the file when they differ */
  double deadline_us;    /* a later answer is replaced by the safe action; 0: do not watch the clock */
} tt_open_options;
#define TT_OPEN_OPTIONS_INIT {sizeof(tt_open_options), TT_ABI_VERSION, 0, 1, 0.0}

typedef enum tt_action_kind { TT_CATEGORICAL = 0, TT_GAUSSIAN = 1, TT_SIMPLEX = 2, TT_SUBSET = 3, TT_ORDER = 4 } tt_action_kind;

typedef struct tt_agent_info {
  uint32_t struct_size;
  const char* name;
  int num_context, num_item;   /* features; num_item 0: no set */
  int trained_items, max_items;
  /* categorical: out[0] is an index; Gaussian: out[size]; simplex: out[num_items] shares; subset: out[num_items] probabilities that
   * an item is taken, 0 where absent; order: out[size] items, first to last, -1 where fewer are present */
  tt_action_kind action;
  int action_size;             /* classes, dimensions or picks; simplex and subset: max_items */
  float low, high;             /* Gaussian: bounds of every element */
  const char* meaning;         /* of the action, one sentence */
  double deadline_us;          /* what the exporter stated; see tt_open_options for watching it */
} tt_agent_info;

typedef struct tt_feature {
  uint32_t struct_size;
  const char *name, *unit;
  float low, high;             /* outside of it an input is counted as out of range */
} tt_feature;

typedef struct tt_counters {
  uint32_t struct_size;
  uint64_t calls, fallbacks, bad_inputs, out_of_range, deadline_misses;   /* out_of_range: numbers, the others: calls */
} tt_counters;

TT_API uint32_t tt_abi_version(void);

/* On failure *controller is null and `message` (may be null) says what is wrong and where. options null: the defaults. */
TT_API tt_status tt_open(const char* path, const tt_open_options* options, tt_controller** controller, char* message,
                         size_t message_size);
/* The same for a file in memory, which is copied as far as it is needed. */
TT_API tt_status tt_open_memory(const void* bytes, size_t size, const tt_open_options* options, tt_controller** controller,
                                char* message, size_t message_size);
TT_API void tt_close(tt_controller* controller);

TT_API int tt_num_agents(const tt_controller* controller);
TT_API int tt_find_agent(const tt_controller* controller, const char* name);   /* -1: none */
TT_API tt_status tt_get_agent_info(const tt_controller* controller, int agent, tt_agent_info* info);
/* of_item 0: context feature, 1: item feature. */
TT_API tt_status tt_get_feature(const tt_controller* controller, int agent, int of_item, int index, tt_feature* feature);
/* Strings of the file's spec: "environment", "config" (resolved YAML), "training_data_hash"; null when there is none. */
TT_API const char* tt_get_text(const tt_controller* controller, const char* key);

/* An item that the network reads and no action chooses; 0: absent, 1: present. */
enum { TT_SEEN = 2 };
/* One decision. context [num_context], items [num_items, num_item] and mask [num_items] (null: all present) for agents over
 * a set, else ignored; action: see tt_agent_info. Anything but TT_OK and TT_BAD_ARGUMENT leaves the safe action: equal
 * shares over the present items, no item of a subset (all 0) or an order (all -1), or the constant stated in the file. Inputs of
 * absent items are not looked at. */
TT_API tt_status tt_decide(tt_controller* controller, int agent, const float* context, const float* items,
                           const uint8_t* mask, int num_items, float* action);
/* The safe action itself, for callers who miss a deadline of their own; counted as a fallback. */
TT_API tt_status tt_safe_action(tt_controller* controller, int agent, const uint8_t* mask, int num_items, float* action);

/* Runs the file's self-test vectors; largest difference from the stored answers in *worst (may be null). */
TT_API tt_status tt_self_test(tt_controller* controller, float* worst);

TT_API tt_status tt_get_counters(const tt_controller* controller, tt_counters* counters);
TT_API void tt_reset_counters(tt_controller* controller);

#ifdef __cplusplus
}
#endif
#endif
