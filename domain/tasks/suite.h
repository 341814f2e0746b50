// Procedural reasoning suites: endless problems with exact verifiers, for training language models from
// verifiable rewards.
//
// A problem is a pure function of (seed, index, split), and everything about it is in the text of its prompt:
// the answer, the worked reply and the split are computed from that text alone. So a problem can be stored as
// its prompt, and a prompt belongs to exactly one split whichever seed, index or options drew it: no test
// problem can be drawn for training.
//
// A reply is worked steps, then `#`, the answer and a full stop, which ends it: "a6+4=0;b0*7=0;c0-4=6;#6.".
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.h"
#include "core/random.h"
#include "core/registry.h"
#include "domain/tasks/corpus.h"

namespace trimtab {

// 13 of 16 prompts are for training, 1 for validation, 2 for test.
enum class Split { kTrain, kValidation, kTest };

// Stages of pre-training a small model: single facts (loss on the result alone), then clean, mostly short
// replies to problems of every tier up to the hardest, then the verbose noisy corpus.
enum class Stage { kFacts, kClean, kVerbose };
Stage stage_of(const std::string& word);  // "facts", "clean", "verbose"; ConfigError on another word

// Which text: the same key gives the same text. `index` counts problems or rows, `visit` the texts of one
// problem.
struct TextKey {
  uint64_t seed = 0, index = 0;
  uint32_t visit = 0;
};

struct Problem {
  std::string id;  // "suite:" and 16 hex digits of the prompt's hash: the same in every run and machine
  std::string prompt, answer;
  int tier = 0;  // difficulty; the README says what it counts. 0: unknown
  // What the prompt asks for beside the answer, named in front of it by the environment; 0: nothing.
  double effort = 0;   // share of the usual length
  int64_t budget = 0;  // tokens
};

// A supervised text. The loss is on the characters [loss_begin, loss_end) of the reply.
struct Example {
  std::string prompt, reply;
  size_t loss_begin = 0, loss_end = 0;
};

// Keys every suite has. `tiers` is drawn from uniformly; a tier named twice comes twice as often.
struct SuiteOptions {
  std::vector<int64_t> tiers;
  CorpusOptions corpus;
  void describe_common(Fields& f, int lowest, int highest);
  void validate() const;  // ConfigError
};

class Suite {
 public:
  // `lowest_tier`: the easiest one there is, which the clean stage starts from.
  Suite(std::string name, SuiteOptions options, int lowest_tier);
  virtual ~Suite() = default;
  Suite(const Suite&) = delete;
  Suite& operator=(const Suite&) = delete;

  const std::string& name() const { return name_; }
  const SuiteOptions& options() const { return options_; }

  // RunError when a tier has no problem in that split (a tier of a handful of prompts). Thread-safe, like all
  // below.
  Problem problem(uint64_t seed, uint64_t index, Split split) const;
  // A supervised reply as found in a noisy corpus: mostly verbose, with slips that a re-check may repair
  // (options().corpus). It ends in a wrong answer as often as the slips say.
  std::string corpus_reply(const Problem& problem, TextKey key) const;
  std::string clean_reply(const Problem& problem, TextKey key) const;  // mostly short steps, no slips
  // One row of supervised training from the training split.
  Example example(Stage stage, TextKey key) const;

  // 1 when the reply's first `#` is followed by exactly the answer and the full stop, and nothing after it;
  // else 0. So a reply cannot hedge with several answers.
  double score(const Problem& problem, std::string_view reply) const;
  // The leak check: the split that a prompt belongs to.
  virtual Split split_of(std::string_view prompt) const;

  virtual std::string alphabet() const = 0;  // every character of prompts and replies, sorted, each once
  // Upper bounds in characters over every problem of these options, whatever slips.
  virtual size_t max_prompt_length() const = 0;
  virtual size_t max_reply_length() const = 0;

 protected:
  friend class FewShot;  // it draws problems and texts of the suite inside
  friend class Mixed;    // as it does
  // One prompt of a tier; called with fresh draws until the prompt falls into the wanted split.
  virtual std::string draw_prompt(Draws& draws, int tier) const = 0;
  virtual std::string solve(std::string_view prompt) const = 0;  // the right answer, by the shortest way
  // Writes the worked steps and returns the answer they lead to, which is wrong after a slip.
  virtual std::string work(std::string_view prompt, Scribe& scribe) const = 0;
  virtual Example fact(Draws& draws) const = 0;

  Problem problem_of_tier(uint64_t seed, uint64_t index, Split split, int tier) const;
  int highest_tier() const;
  // Draws for one purpose ("prompt", "text", ...) of this suite.
  Draws draws(std::string_view purpose, uint64_t seed, uint64_t index, uint32_t word) const;

 private:
  std::string name_;
  SuiteOptions options_;
  int lowest_tier_;
};

std::string text_hash(std::string_view text);         // 16 hex digits of XXH3
Split split_of_text(std::string_view text);           // by text_hash
std::string sorted_alphabet(std::string characters);  // sorted, each once

// ---- The registry: `{type: chained_arithmetic, tiers: [2, 3]}` names a suite and its options. ----
struct SuiteEntry {
  std::string name, doc;
  std::function<std::unique_ptr<Suite>(const Config& config)> make;  // ConfigError
  std::function<std::vector<FieldLine>()> help;
  std::function<std::string(const Config& config)> resolved;  // every key with its value, YAML
};

std::unique_ptr<Suite> make_suite(const Config& config);  // by its `type`

// The entry of a suite with `using Options = ...` and a constructor from it.
template <class S>
SuiteEntry suite_entry(std::string name, std::string doc) {
  const auto read = [](const Config& config) {
    typename S::Options options;
    config.read(options, {"type"});
    return options;
  };
  return {.name = std::move(name),
          .doc = std::move(doc),
          .make = [read](const Config& config) -> std::unique_ptr<Suite> {
            return std::make_unique<S>(read(config));
          },
          .help = [] { return help_of<typename S::Options>(); },
          .resolved = [read](const Config& config) { return yaml_of(read(config)); }};
}

}  // namespace trimtab
