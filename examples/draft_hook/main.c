/* Drives the draft hook from a text file of numbers, as a decoding loop would.
 *
 *   draft_hook controller.ttc.safetensors rounds.txt [max_draft]
 *
 * A line is one token that the draft model would propose: round, sequence, batch size, its log q, entropy, top,
 * margin, and 1 when the target model would accept it; lines of a round stand together, # begins a comment.
 * The hook is asked before every token; what it does not want is not drafted. Prints every round and what was
 * gained. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "draft_hook.h"

typedef struct Token {
  int round, seq, batch, accepted;
  float log_q, entropy, top, margin;
} Token;

typedef struct Totals {
  int rounds, drafted, accepted, offered;
} Totals;

/* 1: a token, 0: the end of the file, -1: a line that is none. */
static int read_token(FILE* in, Token* t, int* line) {
  char text[512];
  while (fgets(text, sizeof text, in)) {
    ++*line;
    char* at = text + strspn(text, " \t\r\n");
    if (*at == '\0' || *at == '#') continue;
    char rest;
    const int got = sscanf(at, "%d %d %d %f %f %f %f %d %c", &t->round, &t->seq, &t->batch, &t->log_q,
                           &t->entropy, &t->top, &t->margin, &t->accepted, &rest);
    return got == 8 && (t->accepted == 0 || t->accepted == 1) ? 1 : -1;
  }
  return 0;
}

/* One round: the tokens on offer until the hook stops, then as many accepted as pass in a row. */
static int play(draft_hook* hook, const Token* tokens, int count, Totals* totals) {
  draft_features f;
  draft_hook_start(hook, tokens[0].seq, 0, &f);
  int accepted = 0, in_a_row = 1;
  while (f.depth < count) {
    const Token* t = &tokens[f.depth];
    const int limit = draft_hook_limit(hook, t->seq, t->batch, &f);
    if (limit < 0) return -1;
    if (limit <= f.depth) break;
    in_a_row = in_a_row && t->accepted;
    accepted += in_a_row;
    draft_hook_token(&f, t->log_q, t->entropy, t->top, t->margin);
  }
  printf("round %d, sequence %d, batch %d: %d of %d tokens drafted, %d accepted (acceptance so far %.2f)\n",
         tokens[0].round, tokens[0].seq, tokens[0].batch, f.depth, count, accepted, (double)f.acceptance_ema);
  totals->rounds++;
  totals->drafted += f.depth;
  totals->accepted += accepted;
  totals->offered += count;
  return draft_hook_accept(hook, tokens[0].seq, f.depth, accepted);
}

static int run(draft_hook* hook, FILE* in, const char* name) {
  static Token tokens[DRAFT_HOOK_MAX_DRAFT];
  Totals totals = {0, 0, 0, 0};
  Token next = {0, 0, 0, 0, 0, 0, 0, 0};
  int line = 0, count = 0, more;
  do {
    more = read_token(in, &next, &line);
    if (more < 0) {
      fprintf(stderr,
              "%s:%d: expected round, sequence, batch size, log q, entropy, top, margin, accepted (0 or 1)\n",
              name, line);
      return 3;
    }
    const int round_ends =
        count > 0 && (more == 0 || next.round != tokens[0].round || next.seq != tokens[0].seq);
    if (round_ends) {
      if (play(hook, tokens, count, &totals) != 0) {
        fprintf(stderr, "%s:%d: the round before this line has a sequence or batch size that cannot be\n",
                name, line);
        return 3;
      }
      count = 0;
    }
    if (more && count == DRAFT_HOOK_MAX_DRAFT) {
      fprintf(stderr, "%s:%d: more than %d tokens in a round\n", name, line, DRAFT_HOOK_MAX_DRAFT);
      return 3;
    }
    if (more) tokens[count++] = next;
  } while (more);
  const draft_hook_counts c = draft_hook_count(hook);
  printf("%d rounds: %d tokens drafted of %d on offer, %d accepted, %d wasted, %.2f tokens per round\n",
         totals.rounds, totals.drafted, totals.offered, totals.accepted, totals.drafted - totals.accepted,
         totals.rounds ? (double)(totals.accepted + totals.rounds) / totals.rounds : 0.0);
  printf("hook: %llu questions, %llu fallbacks, %llu numbers out of range\n", c.questions, c.fallbacks,
         c.out_of_range);
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    fprintf(stderr, "usage: draft_hook controller.ttc.safetensors rounds.txt [max_draft]\n");
    return 2;
  }
  draft_hook_options options = DRAFT_HOOK_OPTIONS_INIT;
  if (argc > 3) options.max_draft = atoi(argv[3]);
  char why[512];
  draft_hook* hook = draft_hook_open(argv[1], &options, why, sizeof why);
  if (!hook) {
    fprintf(stderr, "%s\n", why);
    return 3;
  }
  FILE* in = fopen(argv[2], "r");
  if (!in) fprintf(stderr, "%s: cannot be opened\n", argv[2]);
  const int status = in ? run(hook, in, argv[2]) : 3;
  if (in) fclose(in);
  draft_hook_close(hook);
  return status;
}
