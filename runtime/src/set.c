/* Operations between the items of a set: self-attention, and the order of the largest. */
#include <math.h>
#include <string.h>

#include "program.h"
#include "simd.h"

/* exp(x) for x <= 0 within 2e-7 relative: 2^k with k the nearest whole number to x log2(e), times a Taylor polynomial of degree 6
 * on |r| <= ln(2) / 2. Below -87 it stays at e^-87, which a sum with a 1 in it does not feel. NaN stays. */
TT_INLINE float exp_below_zero(float x) {
  const float kRound = 12582912.0f; /* 1.5 * 2^23: adding it leaves the whole number in the last bits */
  union { float f; uint32_t bits; } whole, power;
  x = x < -87.0f ? -87.0f : x;
  whole.f = x * 1.44269504088896341f + kRound;
  const float k = whole.f - kRound, r = (x - k * 0.693359375f) + k * 2.12194440054690583e-4f;
  float p = 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  power.bits = (whole.bits - 0x4B400000u + 127u) << 23;
  return p * power.f;
}

/* y[i][r] = x[r][i], and zeros from r = rows to the end of y's rows. */
TT_CLONES static void transpose(const float* x, int rows, int width, int stride, float* y, int y_stride) {
  for (int i = 0; i < width; ++i)
    for (int r = 0; r < y_stride; ++r) y[(size_t)i * (size_t)y_stride + (size_t)r] = r < rows ? x[(size_t)r * (size_t)stride + (size_t)i] : 0;
}

typedef struct Head {
  float* query;        /* [size], of one row; becomes the mixed values */
  const float* keys;   /* [size, columns] */
  const float* values; /* [items, stride] */
  float* weights;      /* [columns] scratch */
  int size, items, columns, stride;
} Head;

/* One row asks, all items answer. */
TT_INLINE void answer(const Head* h, float scale) {
  float* restrict w = h->weights;
  for (int j = 0; j < h->columns; ++j) w[j] = 0;
  for (int c = 0; c < h->size; ++c) {
    const float q = h->query[c] * scale;
    const float* restrict key = h->keys + (size_t)c * (size_t)h->columns;
    for (int j = 0; j < h->columns; ++j) w[j] += q * key[j];
  }
  float top = w[0], total = 0;
  for (int j = 1; j < h->items; ++j) top = w[j] > top ? w[j] : top;
  for (int j = 0; j < h->columns; ++j) w[j] = exp_below_zero(w[j] - top); /* beyond the items: not read */
  for (int j = 0; j < h->items; ++j) total += w[j];
  float* restrict mixed = h->query;
  for (int c = 0; c < h->size; ++c) mixed[c] = 0;
  for (int j = 0; j < h->items; ++j) {
    const float* restrict value = h->values + (size_t)j * (size_t)h->stride;
    for (int c = 0; c < h->size; ++c) mixed[c] += w[j] * value[c];
  }
  for (int c = 0; c < h->size; ++c) mixed[c] /= total;
}

TT_CLONES static void answer_all(const Head* first, int rows, int heads, float scale) {
  for (int r = 0; r < rows; ++r) {
    for (int a = 0; a < heads; ++a) {
      Head h = *first;
      h.query += (size_t)r * (size_t)h.stride + (size_t)(a * h.size);
      h.keys += (size_t)(a * h.size) * (size_t)h.columns;
      h.values += a * h.size;
      answer(&h, scale);
    }
  }
}

void tt_attend(const tt_op* op, tt_registers* g) {
  const int width = g->width, stride = width == 1 ? 1 : tt_pad(width), size = width / op->heads, columns = tt_pad(g->num_rows);
  tt_linear l = {.base = g->base, .rows = g->num_rows, .in = width, .out = width, .x_stride = g->stride, .stride = stride};
  memset(g->base, 0, (size_t)tt_pad(width) * sizeof(float));
  l.x = g->rows, l.weight = op->key, l.y = g->next;
  tt_multiply(&l);
  transpose(g->next, g->num_rows, width, g->stride, g->keys, columns);
  l.weight = op->value, l.y = g->values;
  tt_multiply(&l);
  l.weight = op->query, l.y = g->next;
  tt_multiply(&l);
  const Head first = {.query = g->next, .keys = g->keys, .values = g->values, .weights = g->weights, .size = size,
                      .items = g->num_rows, .columns = columns, .stride = g->stride};
  answer_all(&first, g->num_rows, op->heads, 1 / sqrtf((float)size));
  l.x = g->next, l.weight = op->mix, l.y = g->values;
  tt_multiply(&l);
  for (int r = 0; r < g->num_rows; ++r) {
    float *row = g->rows + (size_t)r * (size_t)g->stride, *add = g->values + (size_t)r * (size_t)g->stride;
    for (int i = 0; i < width; ++i) row[i] += add[i];
  }
}

/* The first place in the falling list where `x` may stand: behind its equals, so that ties go to the lower item. */
static int place_of(const tt_registers* g, const float* list, int length, float x) {
  int low = 0, high = length;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (g->rows[(size_t)list[middle] * (size_t)g->stride] >= x) low = middle + 1;
    else high = middle;
  }
  return low;
}

void tt_order(const tt_op* op, tt_registers* g) {
  float* list = g->next; /* rows in falling order; their numbers are exact in a float */
  int length = 0, finite = 1;
  for (int r = 0; r < g->num_present; ++r) {
    const float x = g->rows[(size_t)r * (size_t)g->stride];
    finite &= fabsf(x) <= 3.0e38f;
    const int at = place_of(g, list, length, x);
    if (at == op->picks) continue;
    length += length < op->picks;
    memmove(list + at + 1, list + at, (size_t)(length - at - 1) * sizeof(float));
    list[at] = (float)r;
  }
  for (int j = 0; j < op->picks; ++j) list[j] = !finite ? NAN : j < length ? (float)g->slot[(int)list[j]] : -1;
  g->next = g->rows;
  g->rows = list;
  g->width = op->picks;
  g->num_rows = 1;
  g->decision = 1;
}
