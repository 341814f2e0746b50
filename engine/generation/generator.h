// Batched generation: many prompts, several samples of each, tokens in and tokens out.
//
// A prompt is computed once and its keys and values are attended by all of its samples without copies; a sequence that ends makes
// room for the next one at once. Draws are keyed by (seed, request key, sample, position) and a row's arithmetic does not depend on
// the rows beside it, so a sequence is the same, bit for bit, whatever batch it sits in and however many threads there are.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/options.h"
#include "core/pool.h"
#include "policies/language/transformer.h"
#include "policies/tokenizer/tokenizer.h"

namespace trimtab {

struct SamplingOptions {
  int64_t max_tokens = 256;   // per sequence, stop token included
  double temperature = 1;     // divides the logits; 0: the likeliest token
  int64_t top_k = 0;          // only the k likeliest; 0: all. A tie at the border keeps the lower ids
  double top_p = 1;           // only the likeliest that together have this probability (after top_k)
  void describe(Fields& f);
};

struct StopRules {
  std::vector<int32_t> ids = {};      // a sequence ends with any of these (it is part of the tokens)
  std::vector<std::string> strings = {};   // or when its decoded text contains any of these
  const Tokenizer* tokenizer = nullptr;   // needed for strings
};

struct GenerationRequest {
  std::vector<int32_t> prompt = {};   // one token or more
  int64_t samples = 1;
  uint64_t key = 0;                   // what the draws belong to: prompt, update, visit
  int64_t first_sample = 0;           // samples are numbered from here
  int64_t max_tokens = 0;             // 0: that of the sampling options
  // Sequences that go on where they were left (same prompt, key and sample: they continue as if never interrupted): tokens so far,
  // with their log-probabilities. Empty, or one entry per sample.
  struct Begun {
    std::vector<int32_t> tokens = {};
    std::vector<float> logprobs = {};
  };
  std::vector<Begun> begun = {};
};

enum class Finish { kStop, kLength, kUnfinished };   // kUnfinished: a token budget ended the call first

struct Completion {
  int64_t request = 0, sample = 0;
  std::vector<int32_t> tokens;
  // ln p of each token under softmax(logits / temperature) over the whole vocabulary, before top_k and top_p: what a trainer
  // recomputes. Greedy: at temperature 1.
  std::vector<float> logprobs;
  Finish finish = Finish::kLength;
};

struct GeneratorOptions {
  // Decoded at the same time at most; more wait their turn. Without a token budget fewer are, where that is faster.
  int64_t max_sequences = 256;
  int64_t token_budget = 0;      // new tokens in one call after which everything still open is returned kUnfinished; 0: none
};

class Generator {
 public:
  // Reads the model's weights at the start of every generate() call, so that it always samples what was last trained. f32 models.
  Generator(const Transformer& model, GeneratorOptions options = {});
  ~Generator();

  // Completions in the order of requests, and of samples within. DataError when a prompt is empty, holds an id outside the
  // vocabulary, or prompt and max_tokens exceed the model's positions; RunError when logits are not finite. `progress` is told the
  // tokens made and sequences finished so far, now and then.
  std::vector<Completion> generate(std::span<const GenerationRequest> requests, const SamplingOptions& sampling, const StopRules& stop,
                                   uint64_t seed, Pool& pool, const std::function<void(int64_t tokens, int64_t finished)>& progress = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trimtab
