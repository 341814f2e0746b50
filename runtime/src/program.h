/* An agent as a short program over registers: context row, rows (items present, or one decision row), pooled row. */
#ifndef TRIMTAB_PROGRAM_H
#define TRIMTAB_PROGRAM_H

#include "file.h"
#include "trimtab/runtime.h"

enum { TT_LANE = 16, TT_MAX_OPS = 64, TT_MAX_AGENTS = 16 };
static inline int tt_pad(int n) { return (n + TT_LANE - 1) / TT_LANE * TT_LANE; }

typedef enum tt_op_kind {
  TT_OP_NORMALISE,      /* x = clamp((x - mean) * scale, -clip, clip), of the context or of the rows */
  TT_OP_POOL,           /* pooled = mean over rows */
  TT_OP_LINEAR,         /* rows = rows A + context C + pooled P + bias; to "decision": one row, without A */
  TT_OP_TANH,
  TT_OP_RELU,
  TT_OP_RESIDUAL,       /* rows += coefficient * item feature as observed */
  TT_OP_SOFTMAX,        /* over items (rows of width 1) or over the decision row */
  TT_OP_DIRICHLET_MEAN, /* alpha = 1 + softplus(rows); rows = alpha / sum over items */
  TT_OP_ARGMAX,         /* decision row, or items (rows of width 1) -> index, the lowest among equals */
  TT_OP_CLIP,           /* to [low, high] */
  TT_OP_THRESHOLD,      /* 1 where x > at, else 0 */
  TT_OP_ATTENTION,      /* rows += softmax(Q K^T / sqrt(d)) V O over the items, head by head */
  TT_OP_SIGMOID,        /* items (rows of width 1) or a decision row */
  TT_OP_ORDER,          /* items (rows of width 1) -> a decision row: the items with the largest, in falling order */
  TT_NUM_OPS
} tt_op_kind;

typedef struct tt_op {
  tt_op_kind kind;
  int rows_in, context_in, pooled_in, out; /* linear: 0 where that part is missing */
  int of_context, to_decision, feature;
  float low, high;                         /* clip; normalise: -clip, clip; threshold: low; residual: low is the coefficient */
  const float *rows, *context, *pooled, *bias; /* linear, [in, padded out]; normalise: rows = mean, bias = scale */
  int heads, picks;                        /* attention; order */
  const float *query, *key, *value, *mix;  /* attention, [width, padded width] */
} tt_op;

typedef struct tt_vectors { /* self-test */
  int count, num_items;
  const float *context, *items, *action;
  const uint8_t* mask;
} tt_vectors;

typedef struct tt_agent {
  tt_agent_info info;
  tt_feature *context, *item;
  float *context_low, *context_high, *item_low, *item_high;
  float* safe_action;                      /* [action_size]; null: the kind's own, see write_safe_action */
  int num_ops, widest, attends;            /* attends: has an attention */
  tt_op ops[TT_MAX_OPS];
  tt_vectors self_test;
} tt_agent;

/* Scratch for the largest agent. */
typedef struct tt_scratch {
  float *context, *pooled, *base, *rows, *next; /* [widest] x3, [capacity, widest] x2 */
  float* action;                                /* of the self-test */
  float *keys, *values, *weights;               /* attention: [widest, padded capacity], [capacity, widest], [padded capacity] */
  int* slot;                                    /* [capacity] item of a row */
} tt_scratch;

/* What the operations work on. */
typedef struct tt_registers {
  float *context, *pooled, *base, *rows, *next;
  float *keys, *values, *weights; /* of attention */
  const float* items;             /* as observed */
  const int* slot;
  int num_rows, num_present, width, stride, num_item; /* rows that are only seen stand behind those present */
  int decision; /* rows is one decision row */
} tt_registers;

/* y = base + x W for all rows. */
typedef struct tt_linear {
  const float *x, *weight, *base; /* [rows, x_stride], [in, stride], [stride] */
  float* y;                       /* [rows, x_stride] */
  int rows, in, out, x_stride, stride; /* stride: padded out, or 1 of a single output */
} tt_linear;
void tt_multiply(const tt_linear* l);

void tt_attend(const tt_op* op, tt_registers* g);
void tt_order(const tt_op* op, tt_registers* g);

/* The action is one number per item, listed by item. */
static inline int tt_is_by_item(tt_action_kind kind) { return kind == TT_SIMPLEX || kind == TT_SUBSET; }
/* Floats of an action over `num_items` items. */
static inline int tt_action_width(const tt_agent_info* info, int num_items) {
  return tt_is_by_item(info->action) ? num_items : info->action == TT_CATEGORICAL ? 1 : info->action_size;
}

/* Builds agent `node` of the spec. */
tt_status tt_build_agent(tt_file* file, tt_memory* memory, int node, const tt_open_options* options, tt_agent* agent);

/* Runs the program; inputs are finite, num_rows items are listed in scratch->slot, the first num_present of them to be acted on. Writes the action. */
void tt_run(const tt_agent* agent, tt_scratch* scratch, const float* context, const float* items, int num_rows, int num_present,
            int num_items, float* action);

#endif
