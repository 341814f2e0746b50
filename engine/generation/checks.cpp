#include "engine/generation/checks.h"

#include <cmath>

#include "core/error.h"

namespace trimtab {
namespace {

void check_ids(const std::vector<int32_t>& ids, const TransformerConfig& config, const std::string& what) {
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= config.vocab_size)
      throw DataError(fmt::format("{} holds id {} at {}, but the model's vocabulary has {}: was it encoded with another tokenizer?", what,
                                  ids[i], i, config.vocab_size));
}

void check_begun(const GenerationRequest& r, size_t index, int64_t max_tokens, const TransformerConfig& config) {
  if (r.begun.empty()) return;
  if (static_cast<int64_t>(r.begun.size()) != r.samples)
    throw DataError(fmt::format("request {}: {} begun sequences for {} samples: give none or one for each", index, r.begun.size(), r.samples));
  for (size_t s = 0; s < r.begun.size(); ++s) {
    const GenerationRequest::Begun& b = r.begun[s];
    if (b.tokens.size() != b.logprobs.size())
      throw DataError(fmt::format("request {}: begun sequence {} has {} tokens but {} log-probabilities", index, s, b.tokens.size(), b.logprobs.size()));
    if (static_cast<int64_t>(b.tokens.size()) > max_tokens)
      throw DataError(fmt::format("request {}: begun sequence {} has {} tokens, more than max_tokens = {}", index, s, b.tokens.size(), max_tokens));
    check_ids(b.tokens, config, fmt::format("request {}: begun sequence {}", index, s));
  }
}

}  // namespace

void check_sampling(const SamplingOptions& s) {
  if (s.max_tokens < 1) throw ConfigError(fmt::format("max_tokens = {}, but a sequence has one token or more", s.max_tokens));
  if (!(s.temperature >= 0) || std::isinf(s.temperature))
    throw ConfigError(fmt::format("temperature = {}, but it must be 0 (the likeliest token) or above", s.temperature));
  if (s.top_k < 0) throw ConfigError(fmt::format("top_k = {}, but it must be 0 (all tokens) or above", s.top_k));
  if (!(s.top_p > 0 && s.top_p <= 1)) throw ConfigError(fmt::format("top_p = {}, but it must be above 0 and at most 1", s.top_p));
}

void check_causal(const TransformerConfig& config) {
  if (config.diffusion.enabled())
    throw ConfigError(fmt::format("the model fills in masked tokens (mask_token_id {} in its config.json) and cannot be sampled from left to right: "
                                  "give a causal model; `trimtab generate MODEL --commit threshold_90` fills masks in", config.diffusion.mask_id));
}

void check_stop(const StopRules& stop, const TransformerConfig& config) {
  check_ids(stop.ids, config, "the list of stop ids");
  if (!stop.strings.empty() && stop.tokenizer == nullptr) throw ConfigError("stop strings need the model's tokenizer");
  for (const std::string& text : stop.strings)
    if (text.empty()) throw ConfigError("a stop string is empty: every text contains it");
}

void check_requests(std::span<const GenerationRequest> requests, const SamplingOptions& sampling, const TransformerConfig& config) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const GenerationRequest& r = requests[i];
    if (r.prompt.empty()) throw DataError(fmt::format("request {}: the prompt is empty: give one token or more", i));
    if (r.samples < 1 || r.first_sample < 0 || r.first_sample + r.samples > int64_t{1} << 32)
      throw DataError(fmt::format("request {}: samples {} to {}: one or more, numbered from 0 to 2^32 - 1", i, r.first_sample, r.first_sample + r.samples - 1));
    if (r.max_tokens < 0) throw DataError(fmt::format("request {}: max_tokens = {}, but it must be 0 (as sampling says) or above", i, r.max_tokens));
    check_ids(r.prompt, config, fmt::format("request {}: the prompt", i));
    const int64_t most = max_tokens_of(r, sampling), prompt = static_cast<int64_t>(r.prompt.size());
    if (prompt + most > config.max_positions)
      throw DataError(fmt::format("request {}: a prompt of {} tokens and max_tokens = {} exceed the model's {} positions: shorten one", i, prompt,
                                  most, config.max_positions));
    check_begun(r, i, most, config);
  }
}

}  // namespace trimtab
