/* See draft_hook.h. */
#include "draft_hook.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/runtime.h"

enum { kFeatures = 17, kStop = 0 };
static const float kAverageOver = 0.9f; /* of acceptance_ema, per judged token: as in training */

typedef struct Sequence {
  float acceptance_ema;
  int last_drafted, last_accepted;
} Sequence;

struct draft_hook {
  tt_controller* controller;
  draft_hook_options options;
  int num_inputs;
  int source[kFeatures]; /* input i of the controller is feature source[i] */
  Sequence* sequences;
};

static const char* const kNames[kFeatures] = {"depth",          "log2_batch",   "log2_token_price", "log2_token_price_long",
                                              "log2_round_price", "last_drafted", "last_accepted",    "acceptance_ema",
                                              "last_entropy",   "log_q",        "entropy",          "top",
                                              "margin",         "log_q_product", "entropy_sum",     "log_top_product",
                                              "least_top"};

static void values_of(const draft_features* f, float* out) {
  const float values[kFeatures] = {(float)f->depth,     f->log2_batch,        f->log2_token_price, f->log2_token_price_long,
                                   f->log2_round_price, (float)f->last_drafted, (float)f->last_accepted, f->acceptance_ema,
                                   f->last_entropy,     f->log_q,             f->entropy,          f->top,
                                   f->margin,           f->log_q_product,     f->entropy_sum,      f->log_top_product,
                                   f->least_top};
  memcpy(out, values, sizeof values);
}

static int explain(char* why, size_t size, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  if (why && size) vsnprintf(why, size, format, arguments);
  va_end(arguments);
  return 0;
}

static int options_ok(const draft_hook_options* o, char* why, size_t size) {
  if (o->num_sequences < 1 || o->num_sequences > DRAFT_HOOK_MAX_SEQUENCES)
    return explain(why, size, "num_sequences is %d: choose 1 to %d", o->num_sequences,
                   DRAFT_HOOK_MAX_SEQUENCES);
  if (o->max_draft < 0 || o->max_draft > DRAFT_HOOK_MAX_DRAFT)
    return explain(why, size, "max_draft is %d: choose 0 to %d", o->max_draft, DRAFT_HOOK_MAX_DRAFT);
  if (!(o->token_price > 0) || !(o->round_price > 0))
    return explain(why, size, "token_price is %g and round_price %g: both are above 0", (double)o->token_price,
                   (double)o->round_price);
  return 1;
}

/* Input by input: which of our features it is, each at most once. */
static int match_features(draft_hook* hook, const char* file, int count, char* why, size_t size) {
  for (int i = 0; i < count; ++i) {
    tt_feature feature = {.struct_size = sizeof feature};
    if (tt_get_feature(hook->controller, 0, 0, i, &feature) != TT_OK)
      return explain(why, size, "%s: feature %d cannot be read", file, i);
    int found = 0;
    while (found < kFeatures && strcmp(feature.name, kNames[found]) != 0) ++found;
    if (found == kFeatures)
      return explain(why, size,
                     "%s: the controller asks for the feature '%.60s', which this hook does not have (draft_hook.h lists "
                     "them): export one that was trained without it, such as with env.see_hidden=false",
                     file, feature.name);
    for (int before = 0; before < i; ++before) {
      if (hook->source[before] == found)
        return explain(why, size, "%s: the controller asks for the feature '%.60s' twice", file,
                       feature.name);
    }
    hook->source[i] = found;
  }
  hook->num_inputs = count;
  return 1;
}

static int check_agent(draft_hook* hook, const char* file, char* why, size_t size) {
  if (tt_num_agents(hook->controller) != 1)
    return explain(why, size, "%s: %d agents; a draft controller has one", file,
                   tt_num_agents(hook->controller));
  tt_agent_info info = {.struct_size = sizeof info};
  if (tt_get_agent_info(hook->controller, 0, &info) != TT_OK)
    return explain(why, size, "%s: the agent cannot be read", file);
  if (info.action != TT_CATEGORICAL || info.action_size != 2 || info.num_item != 0)
    return explain(why, size,
                   "%s: the agent '%.60s' does not choose between stop (0) and go on (1) for one sequence",
                   file, info.name);
  if (info.num_context > kFeatures)
    return explain(why, size, "%s: the controller asks for %d features; this hook has %d", file,
                   info.num_context, kFeatures);
  return match_features(hook, file, info.num_context, why, size);
}

draft_hook* draft_hook_open(const char* file, const draft_hook_options* options, char* why, size_t why_size) {
  const draft_hook_options defaults = DRAFT_HOOK_OPTIONS_INIT;
  if (why && why_size) why[0] = '\0';
  if (!options) options = &defaults;
  if (!file) {
    explain(why, why_size, "no file is named");
    return NULL;
  }
  if (!options_ok(options, why, why_size)) return NULL;
  draft_hook* hook = calloc(1, sizeof *hook);
  Sequence* sequences = calloc((size_t)options->num_sequences, sizeof *sequences);
  if (!hook || !sequences) {
    explain(why, why_size, "no memory for %d sequences", options->num_sequences);
    free(hook);
    free(sequences);
    return NULL;
  }
  hook->options = *options;
  hook->sequences = sequences;
  for (int seq = 0; seq < options->num_sequences; ++seq) draft_hook_forget(hook, seq);
  if (tt_open(file, NULL, &hook->controller, why, why_size) == TT_OK &&
      check_agent(hook, file, why, why_size))
    return hook;
  draft_hook_close(hook);
  return NULL;
}

void draft_hook_close(draft_hook* hook) {
  if (!hook) return;
  if (hook->controller) tt_close(hook->controller);
  free(hook->sequences);
  free(hook);
}

static int known(const draft_hook* hook, int seq) {
  return hook && seq >= 0 && seq < hook->options.num_sequences;
}

void draft_hook_start(const draft_hook* hook, int seq, float last_entropy, draft_features* features) {
  memset(features, 0, sizeof *features);
  features->top = features->margin = features->least_top = 1;
  features->last_entropy = last_entropy;
  if (!known(hook, seq)) return;
  features->log2_token_price = features->log2_token_price_long = log2f(hook->options.token_price);
  features->log2_round_price = log2f(hook->options.round_price);
}

void draft_hook_token(draft_features* features, float log_q, float entropy, float top, float margin) {
  ++features->depth;
  features->log_q = log_q;
  features->entropy = entropy;
  features->top = top;
  features->margin = margin;
  features->log_q_product += log_q;
  features->entropy_sum += entropy;
  features->log_top_product += logf(top > 1e-6f ? top : 1e-6f);
  if (top < features->least_top) features->least_top = top;
}

int draft_hook_limit(draft_hook* hook, int seq, int batch, draft_features* features) {
  if (!known(hook, seq) || !features || batch < 1 || features->depth < 0) return -1;
  features->acceptance_ema = hook->sequences[seq].acceptance_ema;
  features->last_drafted = hook->sequences[seq].last_drafted;
  features->last_accepted = hook->sequences[seq].last_accepted;
  features->log2_batch = log2f((float)batch);
  if (features->depth >= hook->options.max_draft) return hook->options.max_draft;
  float all[kFeatures], inputs[kFeatures], action = kStop;
  values_of(features, all);
  for (int i = 0; i < hook->num_inputs; ++i) inputs[i] = all[hook->source[i]];
  /* Whatever the status: `action` holds the answer, the artefact's safe action, or stop. */
  tt_decide(hook->controller, 0, inputs, NULL, NULL, 0, &action);
  return features->depth + (action > 0.5f);
}

int draft_hook_accept(draft_hook* hook, int seq, int n_drafted, int n_accepted) {
  if (!known(hook, seq) || n_drafted < 0 || n_accepted < 0 || n_accepted > n_drafted) return -1;
  Sequence* s = &hook->sequences[seq];
  /* What came behind the first rejection was never judged. */
  for (int i = 0; i < n_drafted && i <= n_accepted; ++i)
    s->acceptance_ema = kAverageOver * s->acceptance_ema + (i < n_accepted ? 1 - kAverageOver : 0);
  s->last_drafted = n_drafted;
  s->last_accepted = n_accepted;
  return 0;
}

void draft_hook_forget(draft_hook* hook, int seq) {
  if (!known(hook, seq)) return;
  hook->sequences[seq].acceptance_ema = 1;
  hook->sequences[seq].last_drafted = 0;
  hook->sequences[seq].last_accepted = -1;
}

draft_hook_counts draft_hook_count(const draft_hook* hook) {
  tt_counters c = {.struct_size = sizeof c};
  draft_hook_counts out = {0, 0, 0};
  if (hook && tt_get_counters(hook->controller, &c) == TT_OK) {
    out.questions = c.calls;
    out.fallbacks = c.fallbacks;
    out.out_of_range = c.out_of_range;
  }
  return out;
}
