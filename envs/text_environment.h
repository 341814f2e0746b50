// Environments of language models: problems in, scored replies out. A prompt goes out as tokens, a reply comes back as tokens and
// text; how replies are generated is the engine's business, what a reply is worth is said here.
//
// An episode is one reply; running into the token limit is a termination with reason `length`, part of the task.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/config.h"
#include "domain/tasks/suite.h"
#include "policies/tokenizer/tokenizer.h"

namespace trimtab {

struct Verdict {
  double outcome = 0;        // what the verifier says: 1 right, 0 wrong; a user's program may give any finite number
  bool well_formed = false;  // the reply gives an answer in the form asked for, right or wrong
};

// A supervised text as tokens; the loss is on the tokens [loss_begin, loss_end) of `reply`.
struct TokenExample {
  std::vector<int32_t> prompt, reply;
  int64_t loss_begin = 0, loss_end = 0;
};

class TextEnvironment {
 public:
  virtual ~TextEnvironment() = default;
  // Problems of a split; 0: endless. Index i of an endless split under different seeds are different problems.
  virtual int64_t size(Split split) const = 0;
  virtual Problem problem(Split split, uint64_t seed, uint64_t index) const = 0;
  virtual std::vector<int32_t> prompt_tokens(const Tokenizer& tokenizer, const Problem& problem) const = 0;
  virtual std::vector<int32_t> stop_ids(const Tokenizer& tokenizer) const = 0;
  virtual std::vector<std::string> stop_strings() const = 0;
  // One verdict per reply, of problems[i]; RunError naming the item for a reward that is not finite. Not thread-safe.
  virtual std::vector<Verdict> score(std::span<const Problem> problems, std::span<const std::string> replies) = 0;
  // A supervised text of the training split.
  virtual TokenExample example(const Tokenizer& tokenizer, Stage stage, TextKey key) const = 0;
  // Every character of prompts and replies, where that is known: what a character tokenizer for a new model is made of.
  virtual std::string alphabet() const = 0;
  // Problems of a JSONL file with this environment's prompts and verifier; DataError naming the line, also for a prompt that the
  // training split has.
  virtual std::vector<Problem> read_problems(const std::string& file, bool allow_validation) const = 0;
};

struct TextEnvironmentData {
  std::vector<std::string> train, validation;   // JSONL files of the run's `data:` block
};

// What a unit registers: TT_REGISTER(TextEnvironmentEntry, reasoning, {.name = "reasoning", ...}).
struct TextEnvironmentEntry {
  std::string name, doc;
  std::function<std::unique_ptr<TextEnvironment>(const Config& config, const TextEnvironmentData& data)> make;  // ConfigError, DataError
  std::function<std::vector<FieldLine>()> help;
  std::function<std::string(const Config& config)> resolved;   // every key of the env block with its value, YAML; checks them
};

}  // namespace trimtab
