#include "engine/generation/generator.h"

#include "core/error.h"
#include "engine/generation/checks.h"
#include "engine/generation/forward.h"
#include "engine/generation/packed_model.h"
#include "engine/generation/region.h"
#include "engine/generation/schedule.h"
#include "engine/generation/team.h"

namespace trimtab {

void SamplingOptions::describe(Fields& f) {
  f.integer("max_tokens", max_tokens, {.low = 1, .unit = "tokens", .doc = "longest answer, stop token included"});
  f.number("temperature", temperature, {.low = 0, .high = 100, .doc = "divides the logits; 0 takes the likeliest token"});
  f.integer("top_k", top_k, {.low = 0, .unit = "tokens", .doc = "draws among the k likeliest only; 0: among all"});
  f.number("top_p", top_p, {.low = 1e-6, .high = 1, .doc = "draws among the likeliest that together have this probability"});
}

// Memory is kept from call to call: touching it for the first time costs more than a short call.
struct Generator::Impl {
  const Transformer& model;
  GeneratorOptions options;
  Region weights, buffers, caches;
};

Generator::Generator(const Transformer& model, GeneratorOptions options) : impl_(new Impl{model, options, {}, {}, {}}) {
  if (options.max_sequences < 1) throw ConfigError(fmt::format("max_sequences = {}, but it must be 1 or more", options.max_sequences));
  if (options.token_budget < 0) throw ConfigError(fmt::format("token_budget = {}, but it must be 0 (none) or more", options.token_budget));
}
Generator::~Generator() = default;

std::vector<Completion> Generator::generate(std::span<const GenerationRequest> requests, const SamplingOptions& sampling,
                                            const StopRules& stop, uint64_t seed, Pool& pool,
                                            const std::function<void(int64_t, int64_t)>& progress) {
  const TransformerConfig& config = impl_->model.config();
  check_causal(config);
  check_sampling(sampling);
  check_stop(stop, config);
  check_requests(requests, sampling, config);
  if (requests.empty()) return {};
  const PackedModel model(impl_->model, impl_->weights, pool);
  GenerationSchedule schedule({requests, sampling, stop, impl_->options, progress, pool.threads()}, model, impl_->caches);
  Forward forward(model, rope_frequencies(config.rope, config.head_dim), sampling, seed, schedule.limits(), impl_->buffers);
  std::vector<Completion> completions;
  Team team;
  team.run(pool, [&] { completions = schedule.run(forward, team); });
  return completions;
}

}  // namespace trimtab
