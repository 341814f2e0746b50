// What learners that are shown worked examples have in common: how many texts of which stage an update draws, and how a step is made of them.
//
// A small model learns a procedural suite as a phase change that facts and clean texts bring forward: the first `facts` updates show
// single facts (loss on the result alone), the next `clean` ones short texts without slips, the rest the verbose noisy corpus. Short
// texts come in larger numbers: 6 and 2 times `rows`.
#pragma once

#include "envs/text_environment.h"
#include "trainers/language/learner.h"
#include "trainers/policy_gradient/options.h"

namespace trimtab {

struct WorkedExampleOptions {
  int64_t steps = 0, rows = 40, facts = 0, clean = 0, token_budget = 4096, shards = 4;
  bool checkpoint_activations = false;
  double lr = 3e-3, max_grad_norm = 1, until_accuracy = 0;
  ScheduleBlock schedule{.kind = "cosine", .end = 0.05, .warmup = 0.06};
  AdamBlock adam{.beta1 = 0.9, .beta2 = 0.98, .epsilon = 1e-8, .weight_decay = 0.01};
  GuardBlock guard;

  void describe_texts(Fields& f) {
    f.integer("steps", steps, {.low = 0, .high = 1e9, .unit = "updates", .doc = "updates to train for, when there are no phases"});
    f.integer("rows", rows, {.low = 1, .high = 1e6, .doc = "texts per update"});
    f.integer("facts", facts, {.low = 0, .high = 1e9, .unit = "updates", .doc = "first updates on single facts, 6 x rows of them (suites)"});
    f.integer("clean", clean, {.low = 0, .high = 1e9, .unit = "updates", .doc = "next updates on short texts without slips, 2 x rows of them (suites); the rest are verbose"});
  }
  void describe_fit(Fields& f) {
    f.number("until_accuracy", until_accuracy,
             {.low = 0, .high = 1, .doc = "end the phase once greedy validation accuracy reaches this; 0: train for all steps"});
    f.number("lr", lr, {.low = 0, .high = 1, .doc = "step size"});
    f.block("schedule", schedule, "the step size over a phase");
    f.block("adam", adam, "the optimiser");
    f.block("guard", guard, "bad numbers and spikes");
    f.number("max_grad_norm", max_grad_norm, {.low = 0, .doc = "largest gradient norm; 0: any"});
    f.integer("token_budget", token_budget, {.low = 16, .high = 1e8, .unit = "tokens", .doc = "tokens of a micro-batch: bounds memory; changes results by rounding only"});
    f.integer("shards", shards, {.low = 1, .high = 1024, .doc = "logical parts of an update: part of the result, the number of threads is not"});
    f.flag("checkpoint_activations", checkpoint_activations, "keep a layer's input alone and compute the rest again in the backward: less memory, more time, equal results");
  }

  Stage stage_at(int64_t update) const { return update < facts ? Stage::kFacts : update < facts + clean ? Stage::kClean : Stage::kVerbose; }
  int64_t rows_of(Stage stage) const { return rows * (stage == Stage::kFacts ? 6 : stage == Stage::kClean ? 2 : 1); }
  // Of text `i` of an update: no two updates or phases share one.
  uint64_t index_of(uint64_t phase, int64_t update, int64_t i) const { return (phase << 48) + static_cast<uint64_t>(update * rows * 6 + i); }
  LanguageBatch batch() const { return {.prompts = rows, .token_budget = token_budget, .shards = shards}; }
};

}  // namespace trimtab
