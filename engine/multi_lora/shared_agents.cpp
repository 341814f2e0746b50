#include "engine/multi_lora/shared_agents.h"

#include "core/error.h"
#include "engine/generation/checks.h"
#include "engine/multi_lora/agent_schedule.h"
#include "engine/multi_lora/base_model.h"

namespace trimtab {

struct SharedAgents::Impl {
  Impl(const Transformer& model, std::vector<const AdapterWeights*> who, int64_t most_tokens, GeneratorOptions generator_options, Pool& pool)
      : options(generator_options), agents(std::move(who)), base(model, pool), table(agents, base.config()), cache(base.config(), table, most_tokens) {}

  GeneratorOptions options;
  std::vector<const AdapterWeights*> agents;
  LoraBaseModel base;
  AdapterTable table;
  SharedCache cache;
  std::vector<int32_t> text = {};
  int64_t cached = 0;   // tokens of the text in the cache: all but the last, which agents read themselves
  Region own = {};
};

SharedAgents::SharedAgents(const Transformer& base, std::vector<const AdapterWeights*> agents, int64_t most_tokens, GeneratorOptions options, Pool& pool) {
  if (most_tokens < 1) throw ConfigError(fmt::format("most_tokens = {}, but a text has one token or more", most_tokens));
  if (options.max_sequences < 1) throw ConfigError(fmt::format("max_sequences = {}, but it must be 1 or more", options.max_sequences));
  if (options.token_budget < 0) throw ConfigError(fmt::format("token_budget = {}, but it must be 0 (none) or more", options.token_budget));
  impl_.reset(new Impl(base, std::move(agents), most_tokens, options, pool));
}
SharedAgents::~SharedAgents() = default;

void SharedAgents::clear() { impl_->text.clear(), impl_->cached = 0; }
int64_t SharedAgents::tokens() const { return static_cast<int64_t>(impl_->text.size()); }

void SharedAgents::read(std::span<const int32_t> tokens, Pool& pool) {
  Impl& a = *impl_;
  if (tokens.empty()) return;
  const int64_t total = this->tokens() + static_cast<int64_t>(tokens.size());
  if (total > a.cache.most_tokens())
    throw DataError(fmt::format("a text of {} tokens, but there is room for {}: raise most_tokens or clear() it", total, a.cache.most_tokens()));
  GenerationRequest whole{.prompt = a.text, .max_tokens = 1};
  whole.prompt.insert(whole.prompt.end(), tokens.begin(), tokens.end());
  check_requests({&whole, 1}, {}, a.base.config());
  a.text = std::move(whole.prompt);
  std::vector<LoraRow> rows;
  for (int64_t i = a.cached; i + 1 < total; ++i)
    rows.push_back({.token = a.text[i], .position = static_cast<int32_t>(i), .shared_keys = static_cast<int32_t>(i) + 1, .to_shared = true});
  const SamplingOptions none;
  SharedForward forward({a.base.packed(), a.base.rope(), a.table, none, 0, pool.threads(), 0, 0}, a.cache);
  Team team;
  team.run(pool, [&] { forward.run(rows, team); });
  a.cached = total - 1;
  a.cache.mark(a.cached);
}

std::vector<Completion> SharedAgents::generate(std::span<const AgentRequest> requests, const SamplingOptions& sampling, const StopRules& stop, uint64_t seed,
                                               Pool& pool) {
  Impl& a = *impl_;
  std::vector<GenerationRequest> plain;
  std::vector<int32_t> numbers;
  for (const AgentRequest& r : requests) {
    if (r.agent < 0 || r.agent >= static_cast<int64_t>(a.agents.size()))
      throw DataError(fmt::format("request {}: agent {}, but there are {}, numbered from 0", plain.size(), r.agent, a.agents.size()));
    plain.push_back({.prompt = a.text, .samples = r.samples, .key = r.key, .first_sample = r.first_sample, .max_tokens = r.max_tokens});
    numbers.push_back(a.table.index(a.agents[r.agent]));
  }
  check_sampling(sampling);
  check_stop(stop, a.base.config());
  check_requests(plain, sampling, a.base.config());
  if (plain.empty()) return {};
  AgentSchedule schedule({a.text, plain, numbers, sampling, stop, a.options}, a.base.packed(), a.own);
  SharedForward forward({a.base.packed(), a.base.rope(), a.table, sampling, seed, pool.threads(), 0, schedule.most_own()}, a.cache);
  std::vector<Completion> completions;
  Team team;
  team.run(pool, [&] { completions = schedule.run(forward, team); });
  return completions;
}

AgentCacheBytes SharedAgents::cache_bytes() const {
  const int64_t n = tokens();
  const int64_t one = Forward::cache_numbers(impl_->base.packed(), 1) * static_cast<int64_t>(sizeof(float));
  return {n * one, n * impl_->cache.low_rank_bytes(), n * impl_->cache.token_bytes()};
}

}  // namespace trimtab
