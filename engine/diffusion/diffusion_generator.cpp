#include "engine/diffusion/diffusion_generator.h"

#include <algorithm>

#include "core/error.h"
#include "engine/diffusion/diffusion_checks.h"
#include "engine/diffusion/diffusion_passes.h"
#include "engine/drafters/option_ranges.h"
#include "engine/generation/team.h"

namespace trimtab {
DiffusionModel diffusion_model_of(const TransformerConfig& config) {
  return {.mask_id = config.diffusion.mask_id, .shifted = config.diffusion.shifted, .block = config.diffusion.block,
          .eos_ids = {config.eos_ids.begin(), config.eos_ids.end()}};
}

void LengthOptions::describe(Fields& f) {
  f.flag("adapt", adapt, "the canvas grows and shrinks with the share of endings proposed");
  f.integer("passes", passes, {.low = 1, .unit = "passes", .doc = "that may change the length: an answer's first ones"});
  f.number("low", low, {.low = 0, .high = 1, .doc = "share of endings under which masks are added"});
  f.number("high", high, {.low = 0, .high = 1, .doc = "share of endings above which masks are cut off"});
  f.integer("longest", longest, {.low = 1, .unit = "tokens", .doc = "the canvas grows to this at most"});
}

void DiffusionOptions::describe(Fields& f) {
  f.integer("max_sequences", max_sequences, {.low = 1, .high = 1024, .doc = "decoded at the same time"});
  f.integer("length", length, {.low = 1, .unit = "tokens", .doc = "of the answer's canvas, ending and padding included"});
  f.choice("window", window, {"full", "block", "sliding"}, "which positions are decided at a time");
  f.integer("block", block, {.low = 1, .unit = "tokens", .doc = "of a window, where windows are blocks"});
  f.integer("width", width, {.low = 1, .unit = "tokens", .doc = "of a window that slides"});
  f.integer("passes", passes, {.low = 0, .unit = "passes", .doc = "that schedules plan for an answer; 0: none planned"});
  f.choice("cache", cache, {"none", "prefix", "dual", "delayed", "drift"}, "whose keys and values are kept from pass to pass; none is exact");
  f.integer("refresh", refresh, {.low = 0, .unit = "passes", .doc = "after which a cache is computed anew; 0: only when its own rule says so"});
  f.number("drift_threshold", drift_threshold, {.low = -1, .high = 2, .doc = "cosine of hidden states under which the drift cache is computed anew"});
  f.integer("neighbourhood", neighbourhood, {.low = 0, .unit = "rows", .doc = "beside the window that the drift cache computes in every pass"});
  f.flag("eos_guard", eos_guard, "an ending is committed only once nothing left of it is masked");
  f.flag("finish_early", finish_early, "an ending with nothing masked left of it ends the answer");
  f.integer("beyond", beyond, {.low = -1, .unit = "tokens", .doc = "right of the window that are proposed for too; -1: all"});
  f.flag("divergence", divergence, "how far a proposal's distribution moved since the pass before is measured");
  f.flag("hidden", hidden, "the control is shown final hidden states");
  f.block("adapt", adapt, "answers of variable length");
}

void DiffusionOptions::validate() const {
  check_diffusion_length<ConfigError>(length, *this, "length");
  if (window == "block" && block > length) throw ConfigError(fmt::format("block = {} is longer than length = {}", block, length));
  if (window == "sliding" && width > length) throw ConfigError(fmt::format("width = {} is beyond length = {}: a window lies within the answer", width, length));
  if (adapt.adapt && adapt.low > adapt.high) throw ConfigError(fmt::format("low = {} is above high = {}", adapt.low, adapt.high));
  if (adapt.adapt && adapt.longest < length) throw ConfigError(fmt::format("longest = {} is shorter than length = {}", adapt.longest, length));
}

// Memory is kept from call to call: touching it for the first time costs more than a short call.
struct DiffusionGenerator::Impl {
  const Transformer& model;
  DiffusionModel facts;
  DiffusionOptions options;
  DiffusionTimes times;
  Region weights, buffers, caches;
};

DiffusionGenerator::DiffusionGenerator(const Transformer& model, DiffusionModel facts, DiffusionOptions options)
    : impl_(new Impl{model, std::move(facts), checked(std::move(options)), {}, {}, {}, {}}) {
  check_diffusion_model(impl_->facts, impl_->options, model.config());
}
DiffusionGenerator::~DiffusionGenerator() = default;

const DiffusionTimes& DiffusionGenerator::times() const { return impl_->times; }

std::vector<DiffusionCompletion> DiffusionGenerator::generate(std::span<const GenerationRequest> requests, const DiffusionSampling& sampling,
                                                              CommitControl& control, Pool& pool, const CommitObserver& observer) {
  const TransformerConfig& config = impl_->model.config();
  const SamplingOptions plain{.max_tokens = impl_->options.length, .temperature = sampling.temperature};
  check_diffusion_requests(requests, impl_->facts, impl_->options, sampling, config);
  impl_->times = {};
  if (requests.empty()) return {};
  const PackedModel model(impl_->model, impl_->weights, pool);
  DiffusionPasses passes({requests, impl_->facts, impl_->options, sampling, control, observer, pool.threads()}, model, impl_->caches);
  Forward forward(model, rope_frequencies(config.rope, config.head_dim), plain, sampling.seed, passes.limits(), impl_->buffers);
  std::vector<DiffusionCompletion> out;
  Team team;
  team.run(pool, [&] { out = passes.run(forward, team, impl_->times); });
  return out;
}

}  // namespace trimtab
