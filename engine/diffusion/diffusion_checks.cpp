#include "engine/diffusion/diffusion_checks.h"

#include <algorithm>

#include "engine/diffusion/diffusion_passes.h"
#include "engine/generation/checks.h"

namespace trimtab {
namespace {

void check_model(const DiffusionModel& m, const TransformerConfig& config) {
  if (m.mask_id < 0) throw ConfigError("the model has no mask token: a causal model is written with from left to right (`trimtab generate` without --commit)");
  if (m.mask_id >= config.vocab_size)
    throw ConfigError(fmt::format("mask_id = {}, but the model's vocabulary has {}: take the mask token's id from the model's tokenizer", m.mask_id, config.vocab_size));
  if (m.block < 0) throw ConfigError(fmt::format("block = {}, but it must be 0 (every row sees all) or above", m.block));
  for (const int32_t id : m.eos_ids)
    if (id < 0 || id >= config.vocab_size || id == m.mask_id)
      throw ConfigError(fmt::format("ending {} is {}", id, id == m.mask_id ? "the mask token" : fmt::format("no token of a vocabulary of {}", config.vocab_size)));
}

void check_fit(const DiffusionOptions& o, const TransformerConfig& config) {
  const int64_t window = o.window == "block" ? o.block : o.window == "sliding" ? o.width : o.length;
  if (window > config.max_positions)
    throw ConfigError(fmt::format("a window of {} positions is beyond the model's context of {}: make {} smaller", window, config.max_positions,
                                  o.window == "block" ? "block" : o.window == "sliding" ? "width" : "length"));
}

}  // namespace

void check_diffusion_model(const DiffusionModel& model, const DiffusionOptions& options, const TransformerConfig& config) {
  check_model(model, config);
  check_fit(options, config);
}

void check_diffusion_requests(std::span<const GenerationRequest> requests, const DiffusionModel& model, const DiffusionOptions& options,
                              const DiffusionSampling& sampling, const TransformerConfig& config) {
  const SamplingOptions plain{.max_tokens = options.length, .temperature = sampling.temperature};
  check_sampling(plain);
  check_requests(requests, plain, config);
  for (size_t i = 0; i < requests.size(); ++i) {
    const GenerationRequest& r = requests[i];
    const auto mask = std::find(r.prompt.begin(), r.prompt.end(), static_cast<int32_t>(model.mask_id));
    if (mask != r.prompt.end())
      throw DataError(fmt::format("request {}: the prompt holds the mask token {} at {}: only the answer is masked", i, model.mask_id, mask - r.prompt.begin()));
    if (!r.begun.empty()) throw DataError(fmt::format("request {}: diffusion does not continue begun sequences: put their tokens into the prompt", i));
    if (r.max_tokens > 0) check_diffusion_length<DataError>(r.max_tokens, options, fmt::format("request {}: max_tokens", i));
    const int64_t longest = longest_of(r, options), prompt = static_cast<int64_t>(r.prompt.size());
    if (prompt + longest > config.max_positions)
      throw DataError(fmt::format("request {}: a prompt of {} tokens and an answer of {} exceed the model's {} positions: shorten one", i, prompt, longest,
                                  config.max_positions));
  }
}

}  // namespace trimtab
