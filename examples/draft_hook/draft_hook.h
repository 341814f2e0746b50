/* Draft hook: after every drafted token of speculative decoding, shall one more be drafted?
 *
 *   char why[256];
 *   draft_hook* hook = draft_hook_open("controller.ttc.safetensors", NULL, why, sizeof why);
 *   draft_features f;
 *   draft_hook_start(hook, seq, last_entropy, &f);                      a round begins
 *   while (draft_hook_limit(hook, seq, batch, &f) > f.depth) {          n_max of this round so far
 *     ... draft a token ...
 *     draft_hook_token(&f, log_q, entropy, top, margin);
 *   }
 *   ... verify with the target model ...
 *   draft_hook_accept(hook, seq, f.depth, n_accepted);                  feedback
 *
 * The controller is an artefact of `trimtab export`, answered through the C ABI of trimtab/runtime.h: one
 * agent, two classes (0: stop, 1: go on), no set. Which features it takes, and in which order, is read from
 * the artefact by name; one whose features are not among those below is refused. Features are what the draft
 * side knows: to look at the target's probabilities before verification would change the distribution of the
 * output. The answer counts for the next token, never for one that was drawn already.
 *
 * One thread at a time per hook. Nothing here allocates but draft_hook_open. C11. */
#ifndef DRAFT_HOOK_H_
#define DRAFT_HOOK_H_

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { DRAFT_HOOK_MAX_SEQUENCES = 65536, DRAFT_HOOK_MAX_DRAFT = 1024 };

typedef struct draft_hook draft_hook;

typedef struct draft_hook_options {
  int num_sequences;  /* sequence ids are 0 to num_sequences - 1 */
  int max_draft;      /* never more drafted tokens than that in a round; 0 switches drafting off */
  float token_price;  /* what a drafted token costs, in tokens: its time times the tokens per time of a round without
                         a controller; above 0 */
  float round_price;  /* what a round costs beside its drafts, in tokens; above 0 */
} draft_hook_options;
#define DRAFT_HOOK_OPTIONS_INIT \
  { 64, 16, 0.5f, 3.0f }

/* What a decision may look at. The name in the artefact is the member's name; envs/draft_length/README.md says how
 * training computes them. */
typedef struct draft_features {
  int depth;                   /* tokens drafted in this round so far */
  float log2_batch;            /* of the sequences that are decoded together; set from the call's argument */
  float log2_token_price;      /* set from the options, as the next two */
  float log2_token_price_long;
  float log2_round_price;
  int last_drafted;            /* of this sequence's round before; 0 before the first. Set by the hook */
  int last_accepted;           /* of them; -1 before the first. Set by the hook */
  float acceptance_ema;        /* moving average over judged tokens, 1 at first. Set by the hook */
  float last_entropy;          /* of the target's distribution that the last committed token came from, nats */
  float log_q;                 /* natural logarithm of the draft's probability of the last drafted token; 0 at depth 0 */
  float entropy;               /* of the draft's distribution that it was drawn from, nats; 0 at depth 0 */
  float top;                   /* probability of that distribution's likeliest token; 1 at depth 0 */
  float margin;                /* by which it is likelier than the next; 1 at depth 0 */
  float log_q_product;         /* sum of log_q over the round */
  float entropy_sum;           /* of the entropies */
  float log_top_product;       /* of the logarithms of top */
  float least_top;             /* the smallest top; 1 at depth 0 */
} draft_features;

/* Null on failure; `why` (may be null) says what is wrong. options null: the defaults. */
draft_hook* draft_hook_open(const char* file, const draft_hook_options* options, char* why, size_t why_size);
void draft_hook_close(draft_hook* hook); /* null is fine */

/* Features at the beginning of a round of `seq`. */
void draft_hook_start(const draft_hook* hook, int seq, float last_entropy, draft_features* features);
/* Adds a drafted token to them. */
void draft_hook_token(draft_features* features, float log_q, float entropy, float top, float margin);

/* How many tokens this round may have as things stand: features->depth to stop, features->depth + 1 to go on
 * (max_draft at most). Sets the members of `features` that the hook knows. Where the controller cannot answer
 * (a NaN), its safe action counts. -1: a sequence, batch or depth that cannot be. */
int draft_hook_limit(draft_hook* hook, int seq, int batch, draft_features* features);

/* Feedback of a round: n_accepted of n_drafted tokens passed. 0 on success, -1 on numbers that cannot be. */
int draft_hook_accept(draft_hook* hook, int seq, int n_drafted, int n_accepted);
/* A new prompt on this sequence: forgets its averages. */
void draft_hook_forget(draft_hook* hook, int seq);

typedef struct draft_hook_counts {
  unsigned long long questions, fallbacks,
      out_of_range; /* out_of_range: numbers outside the range the artefact states */
} draft_hook_counts;
draft_hook_counts draft_hook_count(const draft_hook* hook);

#ifdef __cplusplus
}
#endif
#endif
