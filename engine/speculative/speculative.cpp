#include "engine/speculative/speculative.h"

#include "core/error.h"
#include "engine/drafters/option_ranges.h"
#include "engine/generation/checks.h"
#include "engine/generation/team.h"
#include "engine/speculative/rounds.h"

namespace trimtab {
namespace {

void check_options(SpeculativeOptions o) {
  RangeFields ranges;   // those that describe() states
  o.describe(ranges);
}

void check_pair(const TransformerConfig& target, const TransformerConfig& draft) {
  if (target.vocab_size == draft.vocab_size) return;
  throw ConfigError(fmt::format("the draft model has a vocabulary of {} tokens, the target of {}: a draft needs the target's tokenizer", draft.vocab_size, target.vocab_size));
}

}  // namespace

void SpeculativeOptions::describe(Fields& f) {
  f.integer("max_sequences", max_sequences, {.low = 1, .high = 1024, .doc = "decoded at the same time"});
  f.integer("most_drafted", most_drafted, {.low = 1, .high = 40, .unit = "tokens", .doc = "drafted in a round, at most"});
  f.integer("tree_nodes", tree_nodes, {.low = 0, .high = 64, .unit = "tokens", .doc = "of a draft that branches; 0: chains"});
}

struct SpeculativeDecoder::Impl {
  const Transformer& target;
  const Transformer* draft = nullptr;   // null: `drafter`
  int64_t draft_layers = 0;             // 0: all
  std::unique_ptr<Drafter> drafter;
  SpeculativeOptions options;
  SpeculativeTimes times;

  RunnerLimits limits(std::span<const GenerationRequest> requests, const SamplingOptions& sampling, int threads) const;
};

SpeculativeDecoder::SpeculativeDecoder(const Transformer& target, const Transformer& draft, SpeculativeOptions options)
    : impl_(new Impl{target, &draft, 0, nullptr, options, {}}) {
  check_options(options);
  check_pair(target.config(), draft.config());
  if (options.tree_nodes > 0) throw ConfigError("a draft model makes chains: set tree_nodes = 0");
}
SpeculativeDecoder::SpeculativeDecoder(const Transformer& target, int64_t draft_layers, SpeculativeOptions options) : SpeculativeDecoder(target, target, options) {
  if (draft_layers < 1 || draft_layers >= target.config().num_layers)
    throw ConfigError(fmt::format("draft_layers = {}, but of the target's {} layers 1 to {} can draft", draft_layers, target.config().num_layers, target.config().num_layers - 1));
  impl_->draft_layers = draft_layers;
}
SpeculativeDecoder::SpeculativeDecoder(const Transformer& target, std::unique_ptr<Drafter> drafter, SpeculativeOptions options)
    : impl_(new Impl{target, nullptr, 0, std::move(drafter), options, {}}) {
  check_options(options);
  TT_CHECK(impl_->drafter != nullptr, "no drafter");
}
SpeculativeDecoder::~SpeculativeDecoder() = default;

const SpeculativeTimes& SpeculativeDecoder::times() const { return impl_->times; }

RunnerLimits SpeculativeDecoder::Impl::limits(std::span<const GenerationRequest> requests, const SamplingOptions& sampling, int threads) const {
  RunnerLimits out{.threads = threads};
  int64_t completions = 0;
  for (const GenerationRequest& r : requests) {
    out.prompt = std::max(out.prompt, static_cast<int64_t>(r.prompt.size())), out.own = std::max(out.own, max_tokens_of(r, sampling));
    completions += r.samples;
  }
  out.sequences = std::min(options.max_sequences, completions);
  if (options.tree_nodes > 0) out.branches = options.tree_nodes, out.depth = options.most_drafted;
  return out;
}

std::vector<SpeculativeCompletion> SpeculativeDecoder::generate(std::span<const GenerationRequest> requests, const SamplingOptions& sampling, const StopRules& stop,
                                                                uint64_t seed, DraftControl& control, Pool& pool) {
  check_causal(impl_->target.config());
  if (impl_->draft != nullptr) check_causal(impl_->draft->config());
  check_sampling(sampling);
  check_stop(stop, impl_->target.config());
  check_requests(requests, sampling, impl_->target.config());
  if (impl_->draft != nullptr) check_requests(requests, sampling, impl_->draft->config());
  for (size_t i = 0; i < requests.size(); ++i)
    if (!requests[i].begun.empty()) throw DataError(fmt::format("request {}: speculative decoding does not continue begun sequences: put their tokens into the prompt", i));
  impl_->times = {};
  if (requests.empty()) return {};
  const RunnerLimits limits = impl_->limits(requests, sampling, pool.threads());
  ModelRunner target(impl_->target, 0, limits, pool);
  std::unique_ptr<ModelRunner> draft;
  if (impl_->draft != nullptr) draft = std::make_unique<ModelRunner>(*impl_->draft, impl_->draft_layers, limits, pool);
  SpeculativeRounds rounds({requests, sampling, stop, impl_->options, seed, control, impl_->drafter.get()}, target, draft.get());
  std::vector<SpeculativeCompletion> out;
  Team team;
  team.run(pool, [&] { out = rounds.run(team, impl_->times); });
  return out;
}

}  // namespace trimtab
