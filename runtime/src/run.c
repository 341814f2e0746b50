/* The operations of a program. Weights are [inputs, padded outputs]: the inner loop runs over outputs, whole vectors. */
#include <math.h>
#include <string.h>

#include "program.h"
#include "simd.h"

typedef float tt_vector __attribute__((vector_size(TT_LANE * sizeof(float)), may_alias));

/* Rows r .. r+rows of outputs o .. o+blocks vectors, sums in registers: unrolled for constant arguments. */
TT_INLINE void tile(const tt_linear* l, int r, int o, const int rows, const int blocks) {
  tt_vector sum[12];
  const float* x = l->x + (size_t)r * (size_t)l->x_stride;
  for (int k = 0; k < rows; ++k)
    for (int b = 0; b < blocks; ++b) sum[k * blocks + b] = *(const tt_vector*)(const void*)(l->base + o + b * TT_LANE);
  for (int i = 0; i < l->in; ++i) {
    const float* w = l->weight + (size_t)i * (size_t)l->stride + o;
    for (int k = 0; k < rows; ++k)
      for (int b = 0; b < blocks; ++b)
        sum[k * blocks + b] += x[k * l->x_stride + i] * *(const tt_vector*)(const void*)(w + b * TT_LANE);
  }
  for (int k = 0; k < rows; ++k)
    for (int b = 0; b < blocks; ++b)
      *(tt_vector*)(void*)(l->y + (size_t)(r + k) * (size_t)l->x_stride + o + b * TT_LANE) = sum[k * blocks + b];
}

/* One row into one vector: four partial sums, since one would wait for itself at each input. */
TT_INLINE void narrow_row(const tt_linear* l, int r, int o) {
  const float* x = l->x + (size_t)r * (size_t)l->x_stride;
  tt_vector sum[4] = {*(const tt_vector*)(const void*)(l->base + o)};
  int i = 0;
  for (; i + 4 <= l->in; i += 4)
    for (int k = 0; k < 4; ++k)
      sum[k] += x[i + k] * *(const tt_vector*)(const void*)(l->weight + (size_t)(i + k) * (size_t)l->stride + o);
  for (; i < l->in; ++i) sum[0] += x[i] * *(const tt_vector*)(const void*)(l->weight + (size_t)i * (size_t)l->stride + o);
  *(tt_vector*)(void*)(l->y + (size_t)r * (size_t)l->x_stride + o) = (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* One output: its weights are contiguous, and the vectors run along the inputs. */
TT_INLINE void single_output(const tt_linear* l) {
  const int whole = l->in / TT_LANE * TT_LANE;
  for (int r = 0; r < l->rows; ++r) {
    const float* x = l->x + (size_t)r * (size_t)l->x_stride;
    tt_vector sum = {0};
    for (int i = 0; i < whole; i += TT_LANE)
      sum += *(const tt_vector*)(const void*)(x + i) * *(const tt_vector*)(const void*)(l->weight + i);
    float total = l->base[0];
    for (int i = 0; i < TT_LANE; ++i) total += sum[i];
    for (int i = whole; i < l->in; ++i) total += x[i] * l->weight[i];
    l->y[(size_t)r * (size_t)l->x_stride] = total;
  }
}

static inline int wide_registers(void) {
#if defined(__x86_64__) && defined(__GNUC__)
  return __builtin_cpu_supports("avx512f");
#else
  return 0;
#endif
}

TT_CLONES void tt_multiply(const tt_linear* l) {
  if (l->out == 1) {
    single_output(l);
    return;
  }
  int o = 0;
  if (l->rows > 1) { /* rows share each weight they load: three's sums still fit 16 registers of 8 floats, six's 32 of 16 */
    const int wide = wide_registers();
    for (; o + 2 * TT_LANE <= l->stride; o += 2 * TT_LANE) {
      int r = 0;
      for (; wide && r + 6 <= l->rows; r += 6) tile(l, r, o, 6, 2);
      for (; r + 3 <= l->rows; r += 3) tile(l, r, o, 3, 2);
      for (; r + 2 <= l->rows; r += 2) tile(l, r, o, 2, 2);
      for (; r < l->rows; ++r) tile(l, r, o, 1, 2);
    }
  }
  for (; o + 4 * TT_LANE <= l->stride; o += 4 * TT_LANE)
    for (int r = 0; r < l->rows; ++r) tile(l, r, o, 1, 4);
  for (; o < l->stride; o += TT_LANE)
    for (int r = 0; r < l->rows; ++r) narrow_row(l, r, o);
}

/* Rational minimax fit of degree 13/6 on |x| <= 7.905 (the coefficients Eigen uses for float), 2e-7 from tanh. */
TT_CLONES static void apply_tanh(float* x, int rows, int width, int stride) {
  for (int r = 0; r < rows; ++r) {
    float* row = x + (size_t)r * (size_t)stride;
    for (int i = 0; i < width; ++i) {
      float t = row[i];
      t = t < -7.90531110763549805f ? -7.90531110763549805f : t;
      t = t > 7.90531110763549805f ? 7.90531110763549805f : t;
      const float s = t * t;
      float p = -2.76076847742355e-16f;
      p = p * s + 2.00018790482477e-13f;
      p = p * s - 8.60467152213735e-11f;
      p = p * s + 5.12229709037114e-08f;
      p = p * s + 1.48572235717979e-05f;
      p = p * s + 6.37261928875436e-04f;
      p = p * s + 4.89352455891786e-03f;
      float q = 1.19825839466702e-06f;
      q = q * s + 1.18534705686654e-04f;
      q = q * s + 2.26843463243900e-03f;
      q = q * s + 4.89352518554385e-03f;
      row[i] = t * p / q;
    }
  }
}

static void normalise(const tt_op* op, float* x, int rows, int width, int stride) {
  for (int r = 0; r < rows; ++r) {
    float* row = x + (size_t)r * (size_t)stride;
    for (int i = 0; i < width; ++i) {
      const float y = (row[i] - op->rows[i]) * op->bias[i];
      row[i] = y < op->low ? op->low : y > op->high ? op->high : y;
    }
  }
}

TT_CLONES static void pool(tt_registers* g) {
  float* restrict pooled = g->pooled;
  const int width = g->width;
  memcpy(pooled, g->rows, (size_t)width * sizeof(float));
  for (int r = 1; r < g->num_rows; ++r) {
    const float* restrict row = g->rows + (size_t)r * (size_t)g->stride;
    for (int i = 0; i < width; ++i) pooled[i] += row[i];
  }
  const float rows = (float)g->num_rows;
  for (int i = 0; i < width; ++i) pooled[i] /= rows;
}

static void linear(const tt_op* op, tt_registers* g) {
  const int stride = op->out == 1 ? 1 : tt_pad(op->out);
  tt_linear l = {.rows = 1, .out = op->out, .x_stride = g->stride, .stride = stride, .base = op->bias};
  const struct { const float *x, *w; int in; } shared[2] = {{g->context, op->context, op->context_in},
                                                           {g->pooled, op->pooled, op->pooled_in}};
  for (int k = 0; k < 2; ++k) {
    if (!shared[k].in) continue;
    l.x = shared[k].x, l.weight = shared[k].w, l.in = shared[k].in, l.y = g->base;
    tt_multiply(&l);
    l.base = g->base;
  }
  if (op->to_decision) {
    g->num_rows = 1;
    g->decision = 1;
  }
  if (op->rows_in) {
    l.x = g->rows, l.weight = op->rows, l.in = op->rows_in, l.y = g->next, l.rows = g->num_rows;
    tt_multiply(&l);
  } else {
    for (int r = 0; r < g->num_rows; ++r)
      memcpy(g->next + (size_t)r * (size_t)g->stride, l.base, (size_t)op->out * sizeof(float));
  }
  float* swap = g->rows;
  g->rows = g->next;
  g->next = swap;
  g->width = op->out;
}

/* The values a softmax or a share runs over: one per present item, or all of a decision row. */
static int num_values(const tt_registers* g, size_t* step) {
  *step = g->decision ? 1 : (size_t)g->stride;
  return g->decision ? g->width : g->num_present;
}

static void softmax(tt_registers* g) {
  size_t step;
  const int n = num_values(g, &step);
  float top = g->rows[0], total = 0;
  for (int i = 1; i < n; ++i) top = g->rows[(size_t)i * step] > top ? g->rows[(size_t)i * step] : top;
  for (int i = 0; i < n; ++i) total += g->rows[(size_t)i * step] = expf(g->rows[(size_t)i * step] - top);
  for (int i = 0; i < n; ++i) g->rows[(size_t)i * step] /= total;
}

static void dirichlet_mean(tt_registers* g) {
  size_t step;
  const int n = num_values(g, &step);
  float total = 0;
  for (int i = 0; i < n; ++i) {
    const float x = g->rows[(size_t)i * step];
    total += g->rows[(size_t)i * step] = 1 + (x > 0 ? x : 0) + log1pf(expf(-fabsf(x)));
  }
  for (int i = 0; i < n; ++i) g->rows[(size_t)i * step] /= total;
}

static void each_value(const tt_op* op, tt_registers* g) {
  for (int r = 0; r < g->num_rows; ++r) {
    float* row = g->rows + (size_t)r * (size_t)g->stride;
    for (int i = 0; i < g->width; ++i) {
      const float x = row[i];
      if (op->kind == TT_OP_RELU) row[i] = x < 0 ? 0 : x; /* NaN stays */
      else if (op->kind == TT_OP_CLIP) row[i] = x < op->low ? op->low : x > op->high ? op->high : x;
      else row[i] = x > op->low ? 1 : 0;
    }
  }
}

/* NaN where the input overflowed: an infinite number is no certainty. */
static void sigmoid(tt_registers* g) {
  size_t step;
  const int n = num_values(g, &step);
  for (int i = 0; i < n; ++i) {
    const float x = g->rows[(size_t)i * step], e = expf(-fabsf(x)), p = e / (1 + e);
    g->rows[(size_t)i * step] = !(fabsf(x) <= 3.0e38f) ? NAN : x >= 0 ? 1 / (1 + e) : p;
  }
}

static void argmax(tt_registers* g) {
  size_t step;
  const int n = num_values(g, &step);
  int best = 0, finite = 1;
  for (int i = 0; i < n; ++i) {
    const float x = g->rows[(size_t)i * step];
    finite &= fabsf(x) <= 3.0e38f;
    if (x > g->rows[(size_t)best * step]) best = i;
  }
  g->rows[0] = !finite ? NAN : (float)(g->decision ? best : g->slot[best]);
  g->width = 1;
  g->num_rows = 1;
  g->decision = 1;
}

static void step(const tt_op* op, tt_registers* g) {
  switch (op->kind) {
    case TT_OP_NORMALISE:
      if (op->of_context) normalise(op, g->context, 1, op->context_in, g->stride);
      else normalise(op, g->rows, g->num_rows, g->width, g->stride);
      return;
    case TT_OP_POOL: pool(g); return;
    case TT_OP_LINEAR: linear(op, g); return;
    case TT_OP_TANH: apply_tanh(g->rows, g->num_rows, tt_pad(g->width), g->stride); return;
    case TT_OP_RESIDUAL:
      for (int r = 0; r < g->num_rows; ++r)
        g->rows[(size_t)r * (size_t)g->stride] += op->low * g->items[(size_t)g->slot[r] * (size_t)g->num_item + (size_t)op->feature];
      return;
    case TT_OP_SOFTMAX: softmax(g); return;
    case TT_OP_DIRICHLET_MEAN: dirichlet_mean(g); return;
    case TT_OP_ARGMAX: argmax(g); return;
    case TT_OP_RELU:
    case TT_OP_CLIP:
    case TT_OP_THRESHOLD: each_value(op, g); return;
    case TT_OP_ATTENTION: tt_attend(op, g); return;
    case TT_OP_SIGMOID: sigmoid(g); return;
    case TT_OP_ORDER: tt_order(op, g); return;
    case TT_NUM_OPS: return;
  }
}

void tt_run(const tt_agent* agent, tt_scratch* scratch, const float* context, const float* items, int num_rows, int num_present,
            int num_items, float* action) {
  const int num_item = agent->info.num_item, num_context = agent->info.num_context;
  tt_registers g = {.context = scratch->context, .pooled = scratch->pooled, .base = scratch->base, .rows = scratch->rows,
                 .next = scratch->next, .keys = scratch->keys, .values = scratch->values, .weights = scratch->weights, .items = items, .slot = scratch->slot, .num_rows = num_item ? num_rows : 1, .num_present = num_present,
                 .width = num_item ? num_item : num_context, .stride = agent->widest, .num_item = num_item,
                 .decision = num_item == 0};
  if (num_context) memcpy(g.context, context, (size_t)num_context * sizeof(float));
  if (num_item == 0) memcpy(g.rows, context, (size_t)num_context * sizeof(float));
  for (int r = 0; r < num_rows && num_item; ++r)
    memcpy(g.rows + (size_t)r * (size_t)g.stride, items + (size_t)g.slot[r] * (size_t)num_item, (size_t)num_item * sizeof(float));
  for (int i = 0; i < agent->num_ops; ++i) step(&agent->ops[i], &g);
  if (tt_is_by_item(agent->info.action)) {
    memset(action, 0, (size_t)num_items * sizeof(float));
    for (int r = 0; r < num_present && r < g.num_rows; ++r) action[g.slot[r]] = g.rows[(size_t)r * (size_t)g.stride];
  } else {
    memcpy(action, g.rows, (size_t)g.width * sizeof(float));
  }
}
