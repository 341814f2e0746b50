#include "trainers/language/diffusion_decode.h"

#include <algorithm>

#include "engine/diffusion/diffusion_generator.h"
#include "engine/diffusion/eos_guard.h"

namespace trimtab {
namespace {

struct MostConfident final : CommitControl {
  void choose(const CommitState& state, std::vector<int32_t>& picks) override { picks.assign(1, most_confident(state)); }
};

// The answer with its ending, at most `longest` tokens of it.
Completion completion_of(DiffusionCompletion&& done, int64_t longest) {
  Completion out{done.request, done.sample, std::move(done.tokens), {}, Finish::kLength};
  if (done.ended) out.tokens.push_back(done.canvas[out.tokens.size()]);
  if (static_cast<int64_t>(out.tokens.size()) > longest) out.tokens.resize(longest);
  else if (done.ended) out.finish = Finish::kStop;
  return out;
}

}  // namespace

std::vector<Completion> decode_one_token_per_pass(const Transformer& model, std::span<const GenerationRequest> requests, const SamplingOptions& sampling,
                                                  std::span<const int32_t> stop_ids, uint64_t seed, Pool& pool,
                                                  const std::function<void(int64_t, int64_t)>& progress) {
  DiffusionModel facts = diffusion_model_of(model.config());
  facts.eos_ids.assign(stop_ids.begin(), stop_ids.end());
  const int64_t longest = sampling.max_tokens, block = facts.block;
  DiffusionOptions options{.length = longest, .eos_guard = false, .divergence = false};
  if (block > 0) options.window = "block", options.block = block, options.length = (longest + block - 1) / block * block;   // whole blocks
  MostConfident control;
  std::vector<Completion> out;
  int64_t tokens = 0;
  for (DiffusionCompletion& done : DiffusionGenerator(model, facts, options).generate(requests, {.temperature = sampling.temperature, .seed = seed}, control, pool)) {
    out.push_back(completion_of(std::move(done), longest));
    tokens += static_cast<int64_t>(out.back().tokens.size());
  }
  if (progress) progress(tokens, static_cast<int64_t>(out.size()));
  return out;
}

}  // namespace trimtab
