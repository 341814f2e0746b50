/* From the spec's JSON and the file's tensors to programs, with every shape checked. */
#include <math.h>
#include <string.h>

#include "program.h"

typedef struct Builder {
  tt_file* file;
  tt_memory* memory;
  tt_agent* agent;
  const tt_json* spec;
  int width, pooled, decision; /* the rows after the operations so far; pooled 0: nothing pooled yet */
} Builder;

static tt_status bad(Builder* b, const char* what, int operation) {
  const char* name = b->agent->info.name ? b->agent->info.name : "?";
  if (operation < 0) return tt_file_error(b->file, TT_BAD_FILE, "agent '%.64s': %s", name, what);
  return tt_file_error(b->file, TT_BAD_FILE, "agent '%.64s', operation %d: %s", name, operation, what);
}

static char* text_of(Builder* b, int object, const char* key) {
  const int node = tt_json_find(b->spec, object, key);
  if (node < 0) return NULL;
  char* text = tt_take(b->memory, (size_t)(b->spec->nodes[node].end - b->spec->nodes[node].begin) + 1);
  return text && tt_json_string(b->spec, node, text) >= 0 ? text : NULL;
}

static int number_of(Builder* b, int object, const char* key, float* value) {
  double number;
  if (!tt_json_number(b->spec, tt_json_find(b->spec, object, key), &number) || fabs(number) > 3e38) return 0;
  *value = (float)number;
  return 1;
}

static int integer_of(Builder* b, int object, const char* key, int low, int high, int* value) {
  int64_t number;
  if (!tt_json_integer(b->spec, tt_json_find(b->spec, object, key), low, high, &number)) return 0;
  *value = (int)number;
  return 1;
}

/* A copy, aligned, of the F32 tensor that object[key] names: finite, of the given shape, rows padded to `stride`. */
static const float* tensor_of(Builder* b, int object, const char* key, int rank, const int64_t* shape, int stride) {
  tt_tensor tensor;
  const char* name = text_of(b, object, key);
  if (!name || !tt_file_tensor(b->file, name, &tensor) || !tensor.is_f32 || tensor.rank != rank) return NULL;
  size_t rows = 1;
  for (int d = 0; d < rank; ++d) {
    if (tensor.shape[d] != shape[d]) return NULL;
    if (d + 1 < rank) rows *= (size_t)shape[d];
  }
  const size_t width = (size_t)shape[rank - 1];
  float* copy = tt_take(b->memory, rows * (size_t)stride * sizeof(float));
  if (!copy) return NULL;
  for (size_t r = 0; r < rows; ++r) {
    memcpy(copy + r * (size_t)stride, tensor.bytes + r * width * sizeof(float), width * sizeof(float));
    for (size_t i = 0; i < width; ++i)
      if (!isfinite(copy[r * (size_t)stride + i])) return NULL;
  }
  return copy;
}

static tt_status features_of(Builder* b, int node, const char* key, tt_feature** features, float** low, float** high, int* count) {
  const int list = tt_json_find(b->spec, node, key);
  if (list < 0 || b->spec->nodes[list].kind != TT_JSON_ARRAY || b->spec->nodes[list].count > TT_MAX_WIDTH)
    return bad(b, "the list of features is missing or too long", -1);
  *count = b->spec->nodes[list].count;
  *features = tt_take(b->memory, (size_t)(*count + 1) * sizeof **features);
  *low = tt_take(b->memory, (size_t)(*count + 1) * sizeof(float));
  *high = tt_take(b->memory, (size_t)(*count + 1) * sizeof(float));
  if (!*features || !*low || !*high) return TT_OUT_OF_MEMORY;
  int i = 0;
  for (int f = b->spec->nodes[list].first; f >= 0; f = b->spec->nodes[f].next, ++i) {
    tt_feature* feature = &(*features)[i];
    feature->struct_size = sizeof *feature;
    feature->name = text_of(b, f, "name");
    feature->unit = text_of(b, f, "unit");
    if (!feature->name || !feature->unit || !number_of(b, f, "low", &feature->low) || !number_of(b, f, "high", &feature->high) ||
        feature->low > feature->high)
      return bad(b, "a feature needs name, unit, and a range low <= high", -1);
    (*low)[i] = feature->low;
    (*high)[i] = feature->high;
  }
  return TT_OK;
}

static tt_status build_normalise(Builder* b, int node, int index, tt_op* op) {
  const int of = tt_json_find(b->spec, node, "of");
  op->of_context = tt_json_is(b->spec, of, "context");
  if (!op->of_context && !tt_json_is(b->spec, of, "rows")) return bad(b, "'of' must be context or rows", index);
  op->context_in = op->of_context ? b->agent->info.num_context : b->width;
  const int64_t shape[1] = {op->context_in};
  op->rows = tensor_of(b, node, "mean", 1, shape, tt_pad(op->context_in));
  op->bias = tensor_of(b, node, "scale", 1, shape, tt_pad(op->context_in));
  if (!op->rows || !op->bias) return bad(b, "mean or scale is missing or has another shape", index);
  if (!number_of(b, node, "clip", &op->high) || !(op->high > 0)) return bad(b, "'clip' must be above 0", index);
  op->low = -op->high;
  return TT_OK;
}

static tt_status build_linear(Builder* b, int node, int index, tt_op* op) {
  const int to = tt_json_find(b->spec, node, "to");
  op->to_decision = tt_json_is(b->spec, to, "decision");
  if (!op->to_decision && !tt_json_is(b->spec, to, "rows")) return bad(b, "'to' must be rows or decision", index);
  if (!integer_of(b, node, "out", 1, TT_MAX_WIDTH, &op->out)) return bad(b, "'out' is missing or out of range", index);
  const int stride = op->out == 1 ? 1 : tt_pad(op->out);
  const struct { const char* key; int in; int* kept; const float** weight; } parts[] = {
      {"rows", b->width, &op->rows_in, &op->rows},
      {"context", b->agent->info.num_context, &op->context_in, &op->context},
      {"pooled", b->pooled, &op->pooled_in, &op->pooled}};
  for (int k = 0; k < 3; ++k) {
    if (tt_json_find(b->spec, node, parts[k].key) < 0) continue;
    const int64_t shape[2] = {parts[k].in, op->out};
    *parts[k].kept = parts[k].in;
    *parts[k].weight = parts[k].in ? tensor_of(b, node, parts[k].key, 2, shape, stride) : NULL;
    if (!*parts[k].weight) return bad(b, "a weight is missing, has another shape or is not finite", index);
  }
  const int64_t shape[1] = {op->out};
  op->bias = tensor_of(b, node, "bias", 1, shape, tt_pad(op->out));
  if (!op->bias) return bad(b, "the bias is missing, has another shape or is not finite", index);
  if (op->to_decision && !b->decision && op->rows_in) return bad(b, "items must be pooled before a decision row", index);
  b->decision = b->decision || op->to_decision;
  b->width = op->out;
  b->pooled = 0;
  if (tt_pad(op->out) > b->agent->widest) b->agent->widest = tt_pad(op->out);
  return TT_OK;
}

static tt_status build_attention(Builder* b, int node, int index, tt_op* op) {
  if (b->decision) return bad(b, "attention needs item rows", index);
  if (!integer_of(b, node, "heads", 1, b->width, &op->heads) || b->width % op->heads != 0)
    return bad(b, "'heads' must be at least 1 and divide the rows' width", index);
  const struct { const char* key; const float** weight; } parts[] = {
      {"query", &op->query}, {"key", &op->key}, {"value", &op->value}, {"out", &op->mix}};
  const int64_t shape[2] = {b->width, b->width};
  for (int k = 0; k < 4; ++k) {
    *parts[k].weight = tensor_of(b, node, parts[k].key, 2, shape, b->width == 1 ? 1 : tt_pad(b->width));
    if (!*parts[k].weight) return bad(b, "query, key, value or out is missing, has another shape or is not finite", index);
  }
  if (tt_pad(b->width) > b->agent->widest) b->agent->widest = tt_pad(b->width);
  b->agent->attends = 1;
  return TT_OK;
}

/* The operations without tensors. */
static tt_status build_plain(Builder* b, int node, int index, tt_op* op) {
  switch (op->kind) {
    case TT_OP_POOL:
      b->pooled = b->width;
      return b->decision ? bad(b, "a decision row cannot be pooled", index) : TT_OK;
    case TT_OP_RESIDUAL:
      if (b->decision || b->width != 1 || !integer_of(b, node, "feature", 0, b->agent->info.num_item - 1, &op->feature) ||
          !number_of(b, node, "coefficient", &op->low))
        return bad(b, "a residual needs item rows of width 1, a feature and a coefficient", index);
      return TT_OK;
    case TT_OP_SOFTMAX:
    case TT_OP_DIRICHLET_MEAN:
      return !b->decision && b->width != 1 ? bad(b, "needs item rows of width 1", index) : TT_OK;
    case TT_OP_ARGMAX:
      if (!b->decision && b->width != 1) return bad(b, "needs a decision row, or item rows of width 1", index);
      b->width = 1;
      b->decision = 1;
      return TT_OK;
    case TT_OP_SIGMOID: return !b->decision && b->width != 1 ? bad(b, "needs item rows of width 1", index) : TT_OK;
    case TT_OP_ORDER:
      if (b->decision || b->width != 1) return bad(b, "an order needs item rows of width 1", index);
      if (!integer_of(b, node, "picks", 1, TT_MAX_ITEMS, &op->picks)) return bad(b, "'picks' is missing or out of range", index);
      b->width = op->picks;
      b->decision = 1;
      if (tt_pad(op->picks) > b->agent->widest) b->agent->widest = tt_pad(op->picks);
      return TT_OK;
    case TT_OP_CLIP:
      return number_of(b, node, "low", &op->low) && number_of(b, node, "high", &op->high) && op->low <= op->high
                 ? TT_OK
                 : bad(b, "needs low <= high", index);
    case TT_OP_THRESHOLD: return number_of(b, node, "at", &op->low) ? TT_OK : bad(b, "needs 'at'", index);
    default: return TT_OK;
  }
}

static tt_status build_operations(Builder* b, int node) {
  static const char* const names[] = {"normalise", "pool", "linear", "tanh", "relu", "residual", "softmax", "dirichlet_mean",
                                      "argmax", "clip", "threshold", "attention", "sigmoid", "order"};
  const int list = tt_json_find(b->spec, node, "operations");
  if (list < 0 || b->spec->nodes[list].kind != TT_JSON_ARRAY || b->spec->nodes[list].count > TT_MAX_OPS)
    return bad(b, "the list of operations is missing or too long", -1);
  for (int o = b->spec->nodes[list].first; o >= 0; o = b->spec->nodes[o].next) {
    const int index = b->agent->num_ops++;
    tt_op* op = &b->agent->ops[index];
    int kind = 0;
    while (kind < TT_NUM_OPS && !tt_json_is(b->spec, tt_json_find(b->spec, o, "op"), names[kind])) ++kind;
    if (kind == TT_NUM_OPS)
      return tt_file_error(b->file, TT_VERSION_MISMATCH, "agent '%.64s', operation %d is not known to this runtime: update it",
                           b->agent->info.name, index);
    op->kind = (tt_op_kind)kind;
    const tt_status status = op->kind == TT_OP_NORMALISE   ? build_normalise(b, o, index, op)
                             : op->kind == TT_OP_LINEAR    ? build_linear(b, o, index, op)
                             : op->kind == TT_OP_ATTENTION ? build_attention(b, o, index, op)
                                                           : build_plain(b, o, index, op);
    if (status != TT_OK) return status;
  }
  const tt_agent_info* info = &b->agent->info;
  const int expected = tt_action_width(info, 1), ordered = b->agent->num_ops && b->agent->ops[b->agent->num_ops - 1].kind == TT_OP_ORDER;
  if (b->width != expected || b->decision == tt_is_by_item(info->action) || ordered != (info->action == TT_ORDER))
    return bad(b, "the operations do not end in the shape of the action", -1);
  return TT_OK;
}

static tt_status build_action(Builder* b, int node) {
  static const char* const kinds[] = {"categorical", "gaussian", "simplex", "subset", "order"};
  tt_agent_info* info = &b->agent->info;
  const int action = tt_json_find(b->spec, node, "action"), kind = tt_json_find(b->spec, action, "kind");
  int k = 0;
  while (k < 5 && !tt_json_is(b->spec, kind, kinds[k])) ++k;
  info->meaning = text_of(b, action, "meaning");
  if (k == 5 && kind >= 0)
    return tt_file_error(b->file, TT_VERSION_MISMATCH, "agent '%.64s': the kind of its action is not known to this runtime: update it", info->name);
  if (k == 5 || !info->meaning || !integer_of(b, action, "size", 1, TT_MAX_WIDTH, &info->action_size) ||
      !number_of(b, action, "low", &info->low) || !number_of(b, action, "high", &info->high))
    return bad(b, "the action needs kind, size, low, high and meaning", -1);
  info->action = (tt_action_kind)k;
  const int over_items = tt_is_by_item(info->action) || info->action == TT_ORDER;
  if (over_items && info->num_item == 0) return bad(b, "an action over items needs item features", -1);
  const int safe = tt_json_find(b->spec, node, "fallback");
  if (info->action == TT_SIMPLEX) return tt_json_is(b->spec, safe, "uniform") ? TT_OK : bad(b, "the fallback must be uniform", -1);
  if (over_items) return tt_json_is(b->spec, safe, "none") ? TT_OK : bad(b, "the fallback must be none", -1);
  const int width = tt_action_width(info, 0);
  if (safe < 0 || b->spec->nodes[safe].kind != TT_JSON_ARRAY || b->spec->nodes[safe].count != width)
    return bad(b, "the fallback must list one number per action", -1);
  b->agent->safe_action = tt_take(b->memory, (size_t)width * sizeof(float));
  if (!b->agent->safe_action) return TT_OUT_OF_MEMORY;
  int i = 0;
  for (int v = b->spec->nodes[safe].first; v >= 0; v = b->spec->nodes[v].next) {
    double number;
    const double low = info->action == TT_GAUSSIAN ? (double)info->low : 0,
                 high = info->action == TT_GAUSSIAN ? (double)info->high : info->action_size - 1;
    if (!tt_json_number(b->spec, v, &number) || number < low || number > high) return bad(b, "the fallback is not an action", -1);
    b->agent->safe_action[i++] = (float)number;
  }
  return TT_OK;
}

static tt_status build_self_test(Builder* b, int node) {
  const tt_agent_info* info = &b->agent->info;
  tt_vectors* v = &b->agent->self_test;
  const int test = tt_json_find(b->spec, node, "self_test");
  if (!integer_of(b, test, "count", 16, 65536, &v->count)) return bad(b, "at least 16 self-test vectors are needed", -1);
  v->num_items = info->num_item ? info->trained_items : 0;
  const int width = tt_action_width(info, v->num_items);
  const int64_t action[2] = {v->count, width}, context[2] = {v->count, info->num_context},
                items[3] = {v->count, v->num_items, info->num_item};
  v->action = tensor_of(b, test, "action", 2, action, width);
  v->context = info->num_context ? tensor_of(b, test, "context", 2, context, info->num_context) : NULL;
  v->items = info->num_item ? tensor_of(b, test, "items", 3, items, info->num_item) : NULL;
  if (!v->action || (info->num_context && !v->context) || (info->num_item && !v->items))
    return bad(b, "self-test vectors are missing or have another shape", -1);
  if (info->num_item) {
    tt_tensor mask;
    const char* name = text_of(b, test, "mask");
    if (!name || !tt_file_tensor(b->file, name, &mask) || mask.is_f32 || mask.rank != 2 || mask.shape[0] != v->count ||
        mask.shape[1] != v->num_items)
      return bad(b, "the self-test's mask is missing or has another shape", -1);
    uint8_t* copy = tt_take(b->memory, (size_t)v->count * (size_t)v->num_items);
    if (!copy) return TT_OUT_OF_MEMORY;
    memcpy(copy, mask.bytes, (size_t)v->count * (size_t)v->num_items);
    v->mask = copy;
  }
  return TT_OK;
}

tt_status tt_build_agent(tt_file* file, tt_memory* memory, int node, const tt_open_options* options, tt_agent* agent) {
  Builder b = {.file = file, .memory = memory, .agent = agent, .spec = &file->spec};
  tt_agent_info* info = &agent->info;
  info->struct_size = sizeof *info;
  info->name = text_of(&b, node, "name");
  float deadline = 0;
  if (!info->name || !number_of(&b, node, "deadline_us", &deadline) || !(deadline >= 0) ||
      !integer_of(&b, node, "max_items", 0, TT_MAX_ITEMS, &info->trained_items))
    return bad(&b, "name, deadline_us or max_items is missing or out of range", -1);
  info->deadline_us = (double)deadline;
  tt_status status = features_of(&b, node, "context", &agent->context, &agent->context_low, &agent->context_high, &info->num_context);
  if (status == TT_OK) status = features_of(&b, node, "item", &agent->item, &agent->item_low, &agent->item_high, &info->num_item);
  if (status != TT_OK) return status;
  if (info->num_context + info->num_item == 0) return bad(&b, "no features", -1);
  if (info->num_item && info->trained_items == 0) return bad(&b, "max_items must be above 0 where there are item features", -1);
  info->max_items = info->num_item == 0 ? 0 : options->max_items ? options->max_items : info->trained_items;
  b.width = info->num_item ? info->num_item : info->num_context;
  b.decision = info->num_item == 0;
  agent->widest = tt_pad(info->num_context > info->num_item ? info->num_context : info->num_item);
  if ((status = build_action(&b, node)) != TT_OK) return status;
  if ((status = build_operations(&b, node)) != TT_OK) return status;
  status = build_self_test(&b, node);
  if (tt_is_by_item(info->action)) info->action_size = info->max_items;
  return status;
}
