#include "engine/multi_lora/multi_lora_generator.h"

#include "core/error.h"
#include "engine/generation/checks.h"
#include "engine/multi_lora/base_model.h"
#include "engine/multi_lora/lora_schedule.h"

namespace trimtab {

// Memory of caches is kept from call to call: touching it for the first time costs more than a short call.
struct MultiLoraGenerator::Impl {
  GeneratorOptions options;
  LoraBaseModel base;
  Region caches = {};
};

MultiLoraGenerator::MultiLoraGenerator(const Transformer& base, GeneratorOptions options, Pool& pool) {
  if (options.max_sequences < 1) throw ConfigError(fmt::format("max_sequences = {}, but it must be 1 or more", options.max_sequences));
  if (options.token_budget < 0) throw ConfigError(fmt::format("token_budget = {}, but it must be 0 (none) or more", options.token_budget));
  impl_.reset(new Impl{options, LoraBaseModel(base, pool)});
}
MultiLoraGenerator::~MultiLoraGenerator() = default;

std::vector<Completion> MultiLoraGenerator::generate(std::span<const AdaptedRequest> requests, const SamplingOptions& sampling, const StopRules& stop,
                                                     uint64_t seed, Pool& pool, const CacheMemory& caches) {
  const LoraBaseModel& base = impl_->base;
  std::vector<GenerationRequest> plain;
  std::vector<const AdapterWeights*> adapters;
  for (const AdaptedRequest& r : requests) plain.push_back(r.request), adapters.push_back(r.adapter);
  check_sampling(sampling);
  check_stop(stop, base.config());
  check_requests(plain, sampling, base.config());
  const AdapterTable table(adapters, base.config());
  if (plain.empty()) return {};
  std::vector<int32_t> numbers;
  for (const AdapterWeights* a : adapters) numbers.push_back(table.index(a));
  const CacheMemory own = [this](int64_t size) {
    impl_->caches.reserve(size);
    return impl_->caches.data();
  };
  LoraSchedule schedule({plain, numbers, sampling, stop, impl_->options}, base.packed(), caches ? caches : own);
  LoraForward forward({base.packed(), base.rope(), table, sampling, seed, pool.threads(), schedule.most_prompt(), schedule.most_own()});
  std::vector<Completion> completions;
  Team team;
  team.run(pool, [&] { completions = schedule.run(forward, team); });
  return completions;
}

}  // namespace trimtab
