#include "engine/diffusion/session.h"

#include <optional>

#include "core/error.h"
#include "engine/diffusion/answer_pass.h"
#include "engine/diffusion/diffusion_checks.h"
#include "engine/drafters/option_ranges.h"
#include "engine/generation/team.h"

namespace trimtab {
namespace {

int64_t most_rows(const DiffusionOptions& o, int64_t longest_prompt) { return longest_prompt + (o.adapt.adapt ? std::max(o.length, o.adapt.longest) : o.length); }

}  // namespace

struct DiffusionSession::Impl {
  Impl(const Transformer& transformer, DiffusionModel model, DiffusionOptions o, const DiffusionSampling& s, int64_t slots, int64_t longest_prompt, Pool& p)
      : config(transformer.config()), facts(std::move(model)), options(checked(std::move(o))), sampling(s), pool(p), longest(longest_prompt),
        packed((check_diffusion_model(facts, options, config), transformer), weights, pool),
        passes(facts, sampling, packed, {slots, most_rows(options, longest), pool.threads()}, caches),
        forward(packed, rope_frequencies(config.rope, config.head_dim), {.max_tokens = options.length, .temperature = sampling.temperature}, sampling.seed,
                passes.forward_limits(), buffers),
        answers(slots) {}

  const TransformerConfig& config;
  DiffusionModel facts;
  DiffusionOptions options;
  DiffusionSampling sampling;
  Pool& pool;
  int64_t longest;
  Region weights, buffers, caches;
  PackedModel packed;
  AnswerPass passes;
  Forward forward;
  std::vector<std::optional<DiffusionAnswer>> answers;
};

DiffusionSession::DiffusionSession(const Transformer& model, DiffusionModel facts, DiffusionOptions options, const DiffusionSampling& sampling, int64_t slots,
                                   int64_t longest_prompt, Pool& pool)
    : impl_(new Impl(model, std::move(facts), std::move(options), sampling, slots, longest_prompt, pool)) {}
DiffusionSession::~DiffusionSession() = default;

int64_t DiffusionSession::slots() const { return static_cast<int64_t>(impl_->answers.size()); }

void DiffusionSession::begin(int64_t slot, const DiffusionPrompt& p) {
  Impl& s = *impl_;
  const int64_t length = p.length > 0 ? p.length : s.options.length;
  const GenerationRequest request{.prompt = {p.tokens.begin(), p.tokens.end()}, .key = p.key, .max_tokens = length};
  check_diffusion_requests({&request, 1}, s.facts, s.options, s.sampling, s.config);
  TT_CHECK(static_cast<int64_t>(p.tokens.size()) <= s.longest && length <= most_rows(s.options, 0), "a prompt of {} and an answer of {} tokens in a session for {} and {}",
           p.tokens.size(), length, s.longest, most_rows(s.options, 0));
  s.answers[slot].emplace(DiffusionAnswer::Inputs{s.facts, s.options, p.tokens, p.key, p.number, length, s.config.vocab_size, s.config.hidden_size});
}

DiffusionAnswer& DiffusionSession::answer(int64_t slot) {
  std::optional<DiffusionAnswer>& answer = impl_->answers[slot];
  TT_CHECK(answer.has_value(), "slot {} has no answer", slot);
  return *answer;
}

void DiffusionSession::pass(std::span<const int64_t> slots) {
  std::vector<AnswerPass::Place> places;
  for (const int64_t slot : slots) places.push_back({&answer(slot), slot, 0});
  Team team;
  team.run(impl_->pool, [&] { impl_->passes.run(places, impl_->forward, team); });
}

}  // namespace trimtab
