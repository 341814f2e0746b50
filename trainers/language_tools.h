// What the command asks of language models, in types that need no LibTorch: the command is built with and
// without it. A build with LibTorch registers one entry (trainers/language/tools.cpp); without it there is
// none, and language_tools() says how to get it.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/config.h"
#include "core/recording.h"
#include "core/registry.h"
#include "domain/kv_precision/sensitivity.h"
#include "domain/kv_recipe/kv_recipe.h"
#include "domain/tasks/prompts.h"
#include "engine/kv_cache/kv_cache.h"
#include "envs/evaluation.h"

namespace trimtab {

// A model: a run folder, or a Hugging Face folder.
struct ModelChoice {
  std::string path;
  std::string checkpoint = "best";  // of a run: best, latest or a step
};

// ---- generate ----
struct GenerateOrder {
  ModelChoice model;
  std::vector<PromptLine> prompts;
  int64_t samples = 1, top_k = 0, threads = 0;  // threads 0: one per core
  int64_t max_tokens = 0;                       // 0: what the context leaves, at most 256
  double temperature = 1, top_p = 1;
  uint64_t seed = 1;
  std::string chat = "none", instruction;  // as in envs/reasoning
  std::vector<std::string> stop;
  // Speculative decoding, of the same law: a draft model (path not empty), or a drafter without weights (engine/drafters), and who
  // decides how many tokens it drafts (envs/draft_length/rules.h).
  ModelChoice draft = {};
  std::string drafter = {}, draft_rule = "confidence_60";
  // A folder of PEFT folders: a prompt that names one of them is answered with it, all in the same batches; bytes they may take with the caches.
  std::string adapters = {};
  int64_t adapter_bytes = int64_t{256} << 20;
};
struct GeneratedText {
  int64_t prompt = 0, sample = 0;
  std::string prompt_text;             // as given, or decoded
  std::vector<int32_t> prompt_tokens;  // what the model read
  std::vector<int32_t> tokens;         // stop token included
  std::vector<float> logprobs;         // ln p under softmax(logits / temperature); greedy: at temperature 1
  std::string text;                    // of the tokens, special ones left out
  bool stopped = false;                // false: the token limit ended it
  std::string error = {};              // why there is none: the files of its adapter are bad
};

// ---- eval ----
struct LanguageEvaluationOrder {
  Config config = Config::empty("");  // of the runs, overrides applied
  std::vector<ModelChoice> runs;      // training seeds of one experiment
  std::string start;                  // the model they started from; empty: none to compare with
  std::vector<std::string> files;     // JSONL; empty: the test split of the environment's own suite
  bool allow_validation = false;      // accept problems of the validation split
  int64_t episodes = 0;               // problems per file; 0: all, of a suite 512
  int64_t samples = 1;                // per problem, of the sampled policies
  int64_t max_tokens = 0;             // 0: that of the run's eval block
  double temperature = -1;            // below 0: that of training
  int64_t threads = 0;
  uint64_t seed = 1;  // of the suite's problems and of all draws
};
// One number per metric, model and problem; NaN where the metric is not defined.
struct LanguageScores {
  struct File {
    std::string name, sha256;
    int64_t problems = 0;
  };
  struct Policy {
    EvaluatedPolicy policy;
    std::vector<std::vector<std::vector<double>>> values;  // [metric][training seed][problem of all files]
  };
  std::vector<MetricInfo> metrics;
  std::vector<File> files;
  std::vector<Policy> policies;  // "sampled", "greedy", and of the start "start", "start_greedy"
  double temperature = 1;        // what was asked for, or that of training
  int64_t max_tokens = 0;
};

// ---- measure ----
// A KV cache's sensitivity to narrow widths, measured with the real kernels on texts: .txt files, cut into pieces of `window` tokens, or
// .jsonl files of {"text": ...}, each cut to `window`.
struct MeasureOrder {
  ModelChoice model;
  std::vector<std::string> texts;
  KvCacheOptions cache;
  std::vector<KvBits> pairs;
  bool per_head = false;    // units are KV heads, else layers
  int64_t window = 1024;    // tokens of a piece, at most
  int64_t pieces = 0;       // of all texts at most; 0: all
  int64_t threads = 0;
};

// ---- record ----
// Texts that a target writes behind prompts, and what a draft model would propose at each of their tokens
// (engine/speculative/draft_recorder.h).
struct RecordOrder {
  ModelChoice target, draft;
  std::vector<PromptLine> prompts;
  std::vector<std::string> stop;
  int64_t max_tokens = 128, depth = 12, threads = 0;
  double temperature = 1;
  bool hidden = true;
  uint64_t seed = 1;
};

// A base model and adapters of it answer prompts (trainers/language/adapter_tables.h).
struct AdapterTableOrder {
  ModelChoice model;                    // the base: a run, whose environment says what is right, or a Hugging Face folder
  std::vector<std::string> adapters;    // PEFT folders, or runs that trained one
  std::vector<std::string> prompts;     // JSONL files with answers; the task is "category", else the file's name
  int64_t max_tokens = 128, embedding = 32, samples = 1, threads = 0;
  double temperature = 0;               // 0: greedy
  uint64_t seed = 1;
};

// Prompts as a router meets them: what record_adapters writes of them, without answers.
struct EmbeddingOrder {
  ModelChoice model;
  std::vector<std::string> prompts;     // JSONL files
  int64_t size = 32;                    // that of the tables
};
struct EmbeddedPrompt {
  std::string text, task;               // task: "category"; may be empty
  std::vector<float> embedding;
};

// ---- eval of recipes ----
// A recipe reads the texts (as measure reads them) beside a cache of 16 bits and the ways people keep a cache within the recipe's bytes
// (envs/kv_precision/pages/page_rules.h).
struct RecipeScoreOrder {
  ModelChoice model;
  KvRecipe recipe;                          // whose model this must be
  std::vector<std::string> texts;
  KvSensitivity table;                      // of the recipe's cache: its pairs are what the rules choose from
  bool measured = false;                    // false: its KLs are not known, and the rules that need them are left out
  int64_t window = 1024, pieces = 0, threads = 0;
  uint64_t seed = 1;
};
struct RecipeScores {
  struct File {
    std::string name, sha256;
    int64_t pieces = 0;
  };
  struct Score {
    double kl = 0, cross_entropy = 0, bytes = 0, bits_per_element = 0;   // engine/cached_forward/kv_quality.h
  };
  std::vector<File> files;
  std::vector<EvaluatedPolicy> policies;    // the recipe first
  std::vector<std::vector<Score>> scores;   // [policies][piece of all files]
};

// ---- list, help, inspect ----
struct LanguageTools {
  std::string name, doc;
  // ConfigError, DataError naming the prompt's place. Shows progress.
  std::function<std::vector<GeneratedText>(const GenerateOrder& order)> generate;
  // DataError also for problems that training saw. Shows progress.
  std::function<LanguageScores(const LanguageEvaluationOrder& order)> evaluate;
  // KL to 16 bits of every unit alone at every pair, mean over the texts' tokens. Shows progress.
  std::function<KvSensitivity(const MeasureOrder& order)> measure;
  // ConfigError for models that make no pair. Shows progress.
  std::function<Recording(const RecordOrder& order)> record;
  // DataError naming the prompt's place or the adapter's folder. Shows progress.
  std::function<Recording(const AdapterTableOrder& order)> record_adapters;
  // DataError naming the prompt's place.
  std::function<std::vector<EmbeddedPrompt>(const EmbeddingOrder& order)> embed;
  // DataError also when the recipe is for another model. Shows progress.
  std::function<RecipeScores(const RecipeScoreOrder& order)> score_recipe;
  // Presets beside those of TrainerPreset: (name, doc).
  std::function<std::vector<std::pair<std::string, std::string>>()> learners;
  std::function<std::vector<FieldLine>(const std::string& preset)> trainer_help;
  std::function<std::vector<FieldLine>()> policy_help;
  // Reads every weight of a Hugging Face folder and its tokenizer. DataError when it cannot be used.
  std::function<nlohmann::json(const std::string& folder)> inspect;
};

bool has_language_tools();
// ConfigError in a build without LibTorch, with the cure; `wish` begins the sentence: "sampling a language
// model".
const LanguageTools& language_tools(const std::string& wish);

}  // namespace trimtab
