// The plan of a language run: its arithmetic, that it finds what is wrong, and that it leaves nothing behind.
#include <gtest/gtest.h>

#include "core/error.h"
#include "trainers/language/test_support.h"

namespace trimtab {
namespace {

std::string plan(const std::string& trainer, const std::vector<std::string>& overrides = {}) {
  Config config = Config::parse(tiny_run(trainer), "tiny");
  for (const std::string& text : overrides) config.apply(text);
  return training_plan(config);
}

void expect_in(const std::string& text, const std::string& part) { EXPECT_NE(text.find(part), std::string::npos) << "no '" << part << "' in\n" << text; }

TEST(Plan, SaysHowLargeEverythingIs) {
  const std::string text = plan("preset: grpo, steps: 10, prompts: 6, group_size: 4, minibatches: 3, epochs: 2, shards: 2, sampling: {max_tokens: 12}, token_budget: 64");
  expect_in(text, "6 prompts x 4 replies = 24 replies per update, of up to 12 tokens");
  expect_in(text, "3 minibatches x 2 epochs = 6 optimiser steps per update, 60 in all");
  expect_in(text, "288 to sample");
  expect_in(text, "endless in training");
  expect_in(text, "every 2 updates on 4 problems x 1 sample and a greedy one");
  expect_in(text, "memory, estimated");
  expect_in(plan("preset: sft, steps: 3, rows: 4"), "4 texts per update");
  expect_in(plan("preset: spsa, steps: 3, rows: 4"), "without gradients: every batch is seen 2 times");
}

TEST(Plan, FindsWhatTrainingWouldRefuse) {
  EXPECT_THROW(plan("preset: grpo, steps: 1, sampling: {max_tokens: 4000}"), DataError);   // more than the model's positions
  EXPECT_THROW(plan("preset: grpo, steps: 1, minibatches: 100"), ConfigError);
  EXPECT_THROW(plan("preset: grpo, steps: 1", {"policy.model=/nowhere"}), Error);
}

}  // namespace
}  // namespace trimtab
