#include "engine/diffusion/diffusion_generator.h"

#include <algorithm>

#include "core/error.h"
#include "engine/diffusion/diffusion_passes.h"
#include "engine/drafters/option_ranges.h"
#include "engine/generation/checks.h"
#include "engine/generation/team.h"

namespace trimtab {
namespace {

void check_model(const DiffusionModel& m, const TransformerConfig& config) {
  if (m.mask_id < 0) throw ConfigError("the model has no mask token: a causal model generates token by token (trimtab generate without diffusion)");
  if (m.mask_id >= config.vocab_size)
    throw ConfigError(fmt::format("mask_id = {}, but the model's vocabulary has {}: take the mask token's id from the model's tokenizer", m.mask_id, config.vocab_size));
  if (m.block < 0) throw ConfigError(fmt::format("block = {}, but it must be 0 (every row sees all) or above", m.block));
  for (const int32_t id : m.eos_ids)
    if (id < 0 || id >= config.vocab_size || id == m.mask_id)
      throw ConfigError(fmt::format("ending {} is {}", id, id == m.mask_id ? "the mask token" : fmt::format("no token of a vocabulary of {}", config.vocab_size)));
}

template <class Wrong>
void check_length(int64_t length, const DiffusionOptions& o, const std::string& what) {
  if (o.window == "block" && length % o.block != 0)
    throw Wrong(fmt::format("{} = {} is no multiple of block = {}: make it one, or set window to full or sliding", what, length, o.block));
}

void check_fit(const DiffusionOptions& o, const TransformerConfig& config) {
  const int64_t window = o.window == "block" ? o.block : o.window == "sliding" ? o.width : o.length;
  if (window > config.max_positions)
    throw ConfigError(fmt::format("a window of {} positions is beyond the model's context of {}: make {} smaller", window, config.max_positions,
                                  o.window == "block" ? "block" : o.window == "sliding" ? "width" : "length"));
}

void check_prompts(std::span<const GenerationRequest> requests, const DiffusionModel& model, const DiffusionOptions& options, const TransformerConfig& config) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const GenerationRequest& r = requests[i];
    const auto mask = std::find(r.prompt.begin(), r.prompt.end(), static_cast<int32_t>(model.mask_id));
    if (mask != r.prompt.end())
      throw DataError(fmt::format("request {}: the prompt holds the mask token {} at {}: only the answer is masked", i, model.mask_id, mask - r.prompt.begin()));
    if (!r.begun.empty()) throw DataError(fmt::format("request {}: diffusion does not continue begun sequences: put their tokens into the prompt", i));
    if (r.max_tokens > 0) check_length<DataError>(r.max_tokens, options, fmt::format("request {}: max_tokens", i));
    const int64_t longest = longest_of(r, options), prompt = static_cast<int64_t>(r.prompt.size());
    if (prompt + longest > config.max_positions)
      throw DataError(fmt::format("request {}: a prompt of {} tokens and an answer of {} exceed the model's {} positions: shorten one", i, prompt, longest,
                                  config.max_positions));
  }
}

}  // namespace

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
  check_length<ConfigError>(length, *this, "length");
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
  check_model(impl_->facts, model.config());
  check_fit(impl_->options, model.config());
}
DiffusionGenerator::~DiffusionGenerator() = default;

const DiffusionTimes& DiffusionGenerator::times() const { return impl_->times; }

std::vector<DiffusionCompletion> DiffusionGenerator::generate(std::span<const GenerationRequest> requests, const DiffusionSampling& sampling,
                                                              CommitControl& control, Pool& pool, const CommitObserver& observer) {
  const TransformerConfig& config = impl_->model.config();
  const SamplingOptions plain{.max_tokens = impl_->options.length, .temperature = sampling.temperature};
  check_sampling(plain);
  check_requests(requests, plain, config);
  check_prompts(requests, impl_->facts, impl_->options, config);
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
