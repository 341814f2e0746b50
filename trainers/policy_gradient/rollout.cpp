// Collecting rollouts; see rollout.h.
#include "trainers/policy_gradient/rollout.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/random.h"
#include "trainers/policy_gradient/statistics.h"

namespace trimtab {
namespace {

constexpr int64_t kTimedEvery = 8;  // reading the clock costs about as much as stepping a tiny environment

class Stopwatch {
 public:
  explicit Stopwatch(bool on) : on_(on) { restart(); }
  void restart() {
    if (on_) start_ = std::chrono::steady_clock::now();
  }
  void lap(double& seconds) {
    if (!on_) return;
    const auto now = std::chrono::steady_clock::now();
    seconds += kTimedEvery * std::chrono::duration<double>(now - start_).count();
    start_ = now;
  }

 private:
  bool on_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace

int64_t horizon_of(const TrainerOptions& t, const EnvSpec& spec) {
  const int64_t horizon = t.horizon > 0 ? t.horizon : spec.time_limit;
  if (horizon <= 0) {
    throw ConfigError(fmt::format("environment '{}' has no time limit; set trainer.horizon to the steps of a rollout", spec.name));
  }
  return horizon;
}

Rollout::Rollout(const MakeEnvironment& make, const Options& options) : options_(options) {
  make_shards(make);
  const TrainerOptions& t = options_.trainer;
  horizon_ = horizon_of(t, spec_);
  if (!t.reward.weights.empty() && t.reward.weights.size() != spec_.reward_terms.size()) {
    throw ConfigError(
        fmt::format("trainer.reward.weights has {} entries, environment '{}' has {} reward terms",
                    t.reward.weights.size(), spec_.name, spec_.reward_terms.size()));
  }
  const int64_t rows = this->rows();
  for (const AgentSpec& agent : spec_.agents)
    agents.push_back({ObservationStore(agent.observation, rows), {}, {}, 1});
  reward.resize(rows);
  terminated.resize(rows);
  truncated.resize(rows);
  alive.assign(rows, 1);
  term_sums.resize(spec_.reward_terms.size());
  if (t.critic == "central") {
    critic = ObservationStore(spec_.critic, rows);
    last_critic = ObservationStore(spec_.critic, instances());
  }
  int64_t finals_total = 0;
  for (Shard& shard : shards_) {
    const int64_t ends = spec_.time_limit > 0 ? horizon_ / spec_.time_limit + 1 : horizon_;
    shard.final_first = finals_total;
    shard.final_capacity = ends * shard.count;
    finals_total += shard.final_capacity;
    shard.finals.reserve(shard.final_capacity);
  }
  if (t.critic == "central") final_critic = ObservationStore(spec_.critic, finals_total);
  restart();
}

void Rollout::make_shards(const MakeEnvironment& make) {
  const TrainerOptions& t = options_.trainer;
  const int64_t groups = all_groups(), num = all_shards(), ranks = options_.ranks->size();
  if (num < ranks)
    throw ConfigError(fmt::format("{} ranks cannot share {} shards of environments: start at most {} ranks, or raise trainer.shards (now {}) and, for as many groups, "
                                  "trainer.num_envs (now {}, in groups of {})", ranks, num, num, t.shards, t.num_envs, t.group_size));
  const auto [first, end] = piece_of(num, options_.ranks->rank(), ranks);
  first_shard_ = first;
  first_instance_ = groups * first / num * t.group_size;
  instances_ = groups * end / num * t.group_size - first_instance_;
  for (int64_t s = first; s < end; ++s) {
    Shard& shard = shards_.emplace_back();
    shard.first = groups * s / num * t.group_size - first_instance_;
    shard.count = groups * (s + 1) / num * t.group_size - first_instance_ - shard.first;
    shard.env = make(shard.count);
    if (s == first) spec_ = shard.env->spec();
    int widest = 1;
    for (const AgentSpec& agent : spec_.agents) widest = std::max(widest, agent.head.width());
    shard.action.resize(shard.count * widest);
    shard.terms.resize(shard.count * std::max<size_t>(spec_.reward_terms.size(), 1));
    shard.term_sums.resize(spec_.reward_terms.size());
    shard.ended = ObservationStore(spec_.critic, shard.count);
  }
}

void Rollout::set_actors(std::span<const Actor> actors) {
  TT_CHECK_EQ(actors.size(), spec_.agents.size());
  actors_.assign(actors.begin(), actors.end());
  for (size_t a = 0; a < actors.size(); ++a) {
    agents[a].raw_width = actors[a].policy->raw_width();
    agents[a].raw.resize(rows() * agents[a].raw_width);
    agents[a].logp.resize(rows());
  }
  for (Shard& shard : shards_) {
    shard.workspaces.clear();
    for (const Actor& actor : actors) shard.workspaces.push_back(actor.policy->workspace(shard.count));
  }
}

uint64_t Rollout::world(uint32_t update, int64_t group) const {
  const uint64_t worlds = static_cast<uint64_t>(options_.trainer.worlds);
  const uint64_t place =
      uint64_t{update} * static_cast<uint64_t>(all_groups()) + static_cast<uint64_t>(group);
  return options_.first_episode + (worlds > 0 ? place % worlds : place);
}

void Rollout::start_worlds(Shard& shard, uint32_t update) {
  std::vector<WorldKey> keys(shard.count);
  for (int64_t i = 0; i < shard.count; ++i) {
    const int64_t group = (first_instance_ + shard.first + i) / options_.trainer.group_size;
    keys[i] = {options_.seed, world(update, group)};
  }
  shard.env->reset(keys, static_cast<uint64_t>(all_groups()));
}

void Rollout::restart() {
  for (Shard& shard : shards_) {
    start_worlds(shard, 0);
    shard.env->take_statistics();
  }
}

void Rollout::collect(uint32_t update, Pool& pool) {
  pool.run(num_shards(), [&](int64_t s) { run_shard(shards_[s], update); });
  merge();
  statistics = over_ranks(std::move(statistics), *options_.ranks);
  options_.ranks->sum(std::span<double>(term_sums));
}

void Rollout::run_shard(Shard& shard, uint32_t update) {
  shard.finals.clear();
  shard.environment_seconds = shard.inference_seconds = 0;
  std::fill(shard.term_sums.begin(), shard.term_sums.end(), 0.0);
  const TrainerOptions& t = options_.trainer;
  const bool central = t.critic == "central";
  if (t.grouped()) {  // every update begins new episodes, so that members of a group stay in step
    start_worlds(shard, update);
  }
  const int64_t base = shard.first * horizon_;
  for (int64_t step = 0; step < horizon_; ++step) {
    const int64_t row = base + step * shard.count;
    Stopwatch watch(step % kTimedEvery == 0);
    if (central) shard.env->observe_critic(critic.rows(row));
    for (size_t a = 0; a < actors_.size(); ++a) {
      shard.env->observe(static_cast<int>(a), agents[a].observation.rows(row));
      watch.lap(shard.environment_seconds);
      decide(shard, a, row, update, step);
      watch.lap(shard.inference_seconds);
      // What is done is the policy's own, so that it learns where it comes to; what is learned is the label.
      if (t.labelled() && actors_[a].explores) shard.env->labels(static_cast<int>(a), agents[a].raw.data() + row * agents[a].raw_width);
      shard.env->act(static_cast<int>(a), shard.action.data());
    }
    shard.env->step({reward.data() + row, shard.terms.data(), terminated.data() + row, truncated.data() + row,
                     shard.ended.rows(0)});
    note_outcome(shard, row);
    watch.lap(shard.environment_seconds);
  }
  if (central) shard.env->observe_critic(last_critic.rows(shard.first));
  if (t.grouped()) mark_alive(shard);
}

void Rollout::decide(Shard& shard, size_t agent, int64_t row, uint32_t update, int64_t step) {
  AgentRows& to = agents[agent];
  const ObservationBatch batch = to.observation.batch(row, shard.count);
  const Actor& actor = actors_[agent];
  // Supervised: every other rollout goes where the policy's own choices lead, which is what will be deployed; draws lead elsewhere.
  const bool by_mode = options_.trainer.labelled() && update % 2 == 1;
  if (!actor.explores || by_mode) {
    actor.policy->mode(batch, shard.action.data(), *shard.workspaces[agent]);
    return;
  }
  struct Key {
    uint64_t seed;
    uint32_t update, step, first, agents, agent;
  } key{options_.seed,
        update,
        static_cast<uint32_t>(step),
        static_cast<uint32_t>(first_instance_ + shard.first),
        static_cast<uint32_t>(actors_.size()),
        static_cast<uint32_t>(agent)};
  // One pointer is captured, so the function object stays within its own storage.
  const std::function<Draws(int64_t)> draws = [k = &key](int64_t i) {
    return Draws(k->seed, Stream::kAction, k->update, k->step,
                 (k->first + static_cast<uint32_t>(i)) * k->agents + k->agent);
  };
  actor.policy->sample(batch, draws, shard.action.data(), to.raw.data() + row * to.raw_width,
                       to.logp.data() + row, *shard.workspaces[agent]);
}

void Rollout::note_outcome(Shard& shard, int64_t row) {
  const int64_t num_terms = static_cast<int64_t>(term_sums.size());
  const TrainerOptions& t = options_.trainer;
  for (int64_t i = 0; i < shard.count; ++i) {
    for (int64_t k = 0; k < num_terms; ++k) shard.term_sums[k] += shard.terms[i * num_terms + k];
    if (!truncated[row + i]) continue;
    const int64_t place = shard.final_first + static_cast<int64_t>(shard.finals.size());
    TT_CHECK_LT(static_cast<int64_t>(shard.finals.size()), shard.final_capacity);
    if (t.critic == "central") final_critic.copy_row(shard.ended, i, place);
    shard.finals.push_back({row + i, place});
  }
  if (!t.reward.is_plain())
    shape_reward(t.reward, shard.count, num_terms, shard.terms.data(), reward.data() + row);
}

// Rows after an instance's first episode belong to another world than its group's: they do not count.
void Rollout::mark_alive(const Shard& shard) {
  const int64_t base = shard.first * horizon_;
  for (int64_t i = 0; i < shard.count; ++i) {
    uint8_t lives = 1;
    for (int64_t t = 0; t < horizon_; ++t) {
      const int64_t row = base + t * shard.count + i;
      alive[row] = lives;
      if (terminated[row] | truncated[row]) lives = 0;
    }
  }
}

void Rollout::merge() {
  finals.clear();
  statistics.clear();
  environment_seconds = inference_seconds = 0;
  std::fill(term_sums.begin(), term_sums.end(), 0.0);
  for (Shard& shard : shards_) {
    finals.insert(finals.end(), shard.finals.begin(), shard.finals.end());
    environment_seconds += shard.environment_seconds;
    inference_seconds += shard.inference_seconds;
    for (size_t k = 0; k < term_sums.size(); ++k) term_sums[k] += shard.term_sums[k];
    for (BatchEnvironment::Statistic& s : shard.env->take_statistics()) add_statistic(statistics, std::move(s));
  }
}

}  // namespace trimtab
