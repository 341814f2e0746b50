// What the learner makes of a rollout: values, advantages, weights, and the networks' passes over it; see
// learner.h.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "trainers/policy_gradient/learner.h"

namespace trimtab {

void Learner::estimate_values(Critic& critic) {
  const int64_t rows = rollout_->rows(), n = rollout_->instances(), horizon = rollout_->horizon();
  critic.network->values(view_of(critic), rows, critic.value.data(), pool_);
  const auto restored = [&](float v) {
    return phase_.options.value.normalise ? critic.normaliser.restored(v) : v;
  };
  for (int64_t r = 0; r < rows; ++r) critic.estimate[r] = restored(critic.value[r]);
  if (critic.agent >= 0) {
    // An agent's own view of the state after its last decision does not exist (others may have to act before
    // it): its last view stands for it, at ends of episodes and of the rollout.
    for (const Rollout::Final& f : rollout_->finals) final_value_[f.row] = critic.estimate[f.row];
    for (int64_t s = 0; s < rollout_->num_shards(); ++s) {
      const int64_t count = rollout_->count(s);
      const float* last_row = critic.estimate.data() + rollout_->base(s) + (horizon - 1) * count;
      std::copy_n(last_row, count, last_value_.data() + rollout_->first(s));
    }
    return;
  }
  critic.network->values(rollout_->last_critic, n, last_value_.data(), pool_);
  for (float& v : last_value_) v = restored(v);
  ControllerWorkspace& workspace = critic.network->workspace();
  for (const Rollout::Final& f : rollout_->finals) {
    float v;
    critic.network->controller().value(rollout_->final_critic.batch(f.place, 1), &v, workspace);
    final_value_[f.row] = restored(v);
  }
}

void Learner::estimate_advantages(Critic& critic) {
  const int64_t rows = rollout_->rows();
  pool_.run(rollout_->num_shards(), [&](int64_t s) {
    const int64_t base = rollout_->base(s);
    gae<float>({.steps = rollout_->horizon(),
                .instances = rollout_->count(s),
                .reward = rollout_->reward.data() + base,
                .value = critic.estimate.data() + base,
                .terminated = rollout_->terminated.data() + base,
                .truncated = rollout_->truncated.data() + base,
                .final_value = final_value_.data() + base,
                .last_value = last_value_.data() + rollout_->first(s),
                .gamma = phase_.options.gamma,
                .lambda = phase_.options.lambda},
               critic.advantage.data() + base, critic.returns.data() + base);
  });
  if (phase_.options.value.normalise) {
    critic.normaliser.update(critic.returns.data(), rows, phase_.options.value.decay, *setup_.ranks);
    for (int64_t r = 0; r < rows; ++r) critic.target[r] = critic.normaliser.normalised(critic.returns[r]);
  } else {
    critic.target = critic.returns;
  }
  normalise_advantages(critic.advantage.data(), nullptr);
}

void Learner::normalise_advantages(float* advantage, const uint8_t* mask) {
  const std::string& scope = phase_.options.normalise_advantage;
  if (scope == "batch") whiten<float>(rollout_->rows(), mask, advantage, *setup_.ranks);
  if (scope == "batch_rows")
    whiten<float>(rollout_->rows(), mask, advantage, *setup_.ranks, Whitening::kBessel);
}

void Learner::compare_groups() {
  pool_.run(rollout_->num_shards(), [&](int64_t s) {
    const int64_t base = rollout_->base(s), count = rollout_->count(s), rows = rollout_->horizon() * count;
    std::vector<uint8_t> ended(rows);
    for (int64_t r = 0; r < rows; ++r)
      ended[r] = rollout_->terminated[base + r] | rollout_->truncated[base + r];
    reward_to_go<float>(rollout_->horizon(), count, rollout_->reward.data() + base, ended.data(),
                        phase_.options.gamma, group_advantage_.data() + base);
  });
  if (phase_.options.smooth()) remember_worlds();
  pool_.run(rollout_->num_shards(), [&](int64_t s) { compare_shard(s); });
  normalise_advantages(group_advantage_.data(), rollout_->alive.data());
}

// From reward-to-go to advantages, in place. By episode, all rows of an episode get what its first one gets.
void Learner::compare_shard(int64_t s) {
  const TrainerOptions& t = phase_.options;
  const int64_t horizon = rollout_->horizon(), count = rollout_->count(s);
  float* advantage = group_advantage_.data() + rollout_->base(s);
  const uint8_t* alive = rollout_->alive.data() + rollout_->base(s);
  const bool by_episode = t.group_score == "return";
  if (t.smooth()) {
    for (int64_t i = 0; i < count; ++i)
      advantage[i] =
          static_cast<float>(visits_[(rollout_->first(s) + i) / t.group_size].advantage(advantage[i]));
  } else {
    group_reward_to_go<float>(t.group_baseline(), by_episode ? 1 : horizon, count, t.group_size, advantage,
                              alive, advantage, t.std_epsilon);
  }
  if (!by_episode) return;
  for (int64_t r = count; r < horizon * count; ++r) advantage[r] = alive[r] ? advantage[r % count] : 0;
}

// DCPO: what the groups' returns add to the statistics of their worlds. Every rank counts those of all, so
// that the statistics are the same wherever a world comes back.
void Learner::remember_worlds() {
  const int64_t size = phase_.options.group_size, groups = rollout_->instances() / size;
  const int64_t all = rollout_->all_groups(), first = rollout_->first_group();
  std::vector<double> moments(2 * all);
  for (int64_t s = 0; s < rollout_->num_shards(); ++s) {
    for (int64_t i = 0; i < rollout_->count(s); i += size) {
      const RewardMoments own =
          group_moments<float>(size, 1, group_advantage_.data() + rollout_->base(s) + i, nullptr);
      const int64_t g = first + (rollout_->first(s) + i) / size;
      moments[2 * g] = own.mean, moments[2 * g + 1] = own.variance;
    }
  }
  setup_.ranks->sum(moments);
  visits_.resize(groups);
  for (int64_t g = 0; g < all; ++g) {
    const SmoothVisit visit =
        smooth_.visit(std::to_string(rollout_->world(updates_, g)), {moments[2 * g], moments[2 * g + 1]});
    if (g >= first && g < first + groups) visits_[g - first] = visit;
  }
}

// Rows that count, episode after episode: every instance has one.
void Learner::list_episodes() {
  for (int64_t s = 0; s < rollout_->num_shards(); ++s) {
    const int64_t count = rollout_->count(s), end = rollout_->base(s) + rollout_->horizon() * count;
    for (int64_t i = 0; i < count; ++i) {
      sequence_begin_.push_back(static_cast<int64_t>(live_.size()));
      for (int64_t r = rollout_->base(s) + i; r < end && rollout_->alive[r]; r += count)
        live_.push_back(static_cast<uint32_t>(r));
    }
  }
  sequence_begin_.push_back(static_cast<int64_t>(live_.size()));
}

namespace {

// Row of the first number that is not finite; -1 when all are.
int64_t first_bad_row(const std::vector<float>& values, int64_t width) {
  const auto bad = std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
  return bad == values.end() ? -1 : (bad - values.begin()) / width;
}

// Name and row of the first feature that is not finite; what is masked is not looked at.
std::optional<std::pair<std::string, int64_t>> first_bad_feature(const ObservationSpec& spec, const ObservationBatch& rows) {
  for (int64_t i = 0; i < rows.size * spec.context_size(); ++i)
    if (!std::isfinite(rows.context[i])) return {{spec.context[i % spec.context_size()].name, i / spec.context_size()}};
  const int64_t width = spec.item_size();
  for (int64_t i = 0; i < rows.size * spec.max_items; ++i) {
    for (int64_t k = 0; rows.mask[i] && k < width; ++k)
      if (!std::isfinite(rows.items[i * width + k])) return {{spec.item[k].name, i / spec.max_items}};
  }
  return {};
}

}  // namespace

std::optional<Learner::BadNumber> Learner::first_bad_number() const {
  const int64_t rows = rollout_->rows();
  for (size_t a = 0; a < rollout_->agents.size(); ++a) {
    const AgentSpec& agent = spec().agents[a];
    const AgentRows& from = rollout_->agents[a];
    if (const auto bad = first_bad_feature(agent.observation, from.observation.batch(0, rows)))
      return BadNumber{fmt::format("the observation '{}' of agent '{}'", bad->first, agent.name), bad->second};
    if (const int64_t row = first_bad_row(from.logp, 1); row >= 0) return BadNumber{fmt::format("the log-probability of an action of agent '{}'", agent.name), row};
    if (const int64_t row = first_bad_row(from.raw, from.raw_width); row >= 0) return BadNumber{fmt::format("an action of agent '{}'", agent.name), row};
  }
  if (const int64_t row = first_bad_row(rollout_->reward, 1); row >= 0) return BadNumber{"the reward", row};
  return {};
}

// On all ranks, or on none: nothing can be learned from what an environment or a policy gave without a number.
bool Learner::rollout_is_finite() {
  const std::optional<BadNumber> bad = first_bad_number();
  double found = bad ? 1 : 0;
  setup_.ranks->sum(std::span<double>(&found, 1));
  if (found == 0) return true;
  std::string explanation = fmt::format("update {}: another rank's rollout has a number that is not finite", updates_);
  if (bad) {
    const std::string file = setup_.dump_stem.string() + "-rollout.safetensors";
    TensorFile dump;
    const auto row = [&](const float* from, int64_t width) { return Tensor::f32({width}, std::span(from + bad->row * width, width)); };
    dump.tensors["reward"] = row(rollout_->reward.data(), 1);
    for (size_t a = 0; a < rollout_->agents.size(); ++a) {
      const AgentRows& from = rollout_->agents[a];
      const ObservationBatch rows = from.observation.batch(0, rollout_->rows());
      const std::string& name = spec().agents[a].name;
      dump.tensors["context." + name] = row(rows.context, from.observation.context_size());
      if (from.observation.item_size() > 0) dump.tensors["items." + name] = row(rows.items, from.observation.item_size());
      if (!from.raw.empty()) dump.tensors["raw_action." + name] = row(from.raw.data(), from.raw_width);
    }
    write_safetensors(file, dump);
    explanation = fmt::format("update {}: {} is not finite in row {} of the rollout, which is in {}. Look for a division by zero in the environment, or for a trace with gaps", updates_,
                              bad->what, bad->row, file);
  }
  learning_.at(0).network->guard().refuse(explanation);
  return false;
}

// Where this rank's rows and episodes stand among those of all: minibatches are drawn from the whole.
void Learner::number_over_ranks() {
  const int64_t ranks = setup_.ranks->size(), own = setup_.ranks->rank();
  const int64_t sequences = std::max<int64_t>(static_cast<int64_t>(sequence_begin_.size()) - 1, 0);
  std::vector<double> count(2 * ranks);
  count[own] = static_cast<double>(live_.size()), count[ranks + own] = static_cast<double>(sequences);
  setup_.ranks->sum(std::span<double>(count));
  const auto up_to = [&](int64_t first, int64_t end) { return static_cast<int64_t>(std::accumulate(count.begin() + first, count.begin() + end, 0.0)); };
  first_live_ = up_to(0, own), total_live_ = up_to(0, ranks);
  first_sequence_ = up_to(ranks, ranks + own), total_sequences_ = up_to(ranks, 2 * ranks);
}

// Rows that count, and their weights relative to a mean of 1 over those of all ranks.
void Learner::weigh_rows() {
  const int64_t rows = rollout_->rows();
  live_.clear();
  sequence_begin_.clear();
  if (phase_.options.ratio == "token") {
    for (int64_t r = 0; r < rows; ++r) {
      if (rollout_->alive[r]) live_.push_back(static_cast<uint32_t>(r));
    }
  } else {
    list_episodes();
  }
  number_over_ranks();
  const double total = static_cast<double>(total_live_);
  const Aggregation kind = phase_.options.aggregation_kind();
  if (kind == Aggregation::kTokenMean) return;  // weights stay 1
  std::vector<int32_t> episode(rows), group;
  for (int64_t s = 0; s < rollout_->num_shards(); ++s) {
    for (int64_t i = 0; i < rollout_->count(s); ++i) {
      group.push_back(static_cast<int32_t>((rollout_->first(s) + i) / phase_.options.group_size));
      for (int64_t t = 0; t < rollout_->horizon(); ++t) {
        const int64_t row = rollout_->base(s) + t * rollout_->count(s) + i;
        episode[row] = static_cast<int32_t>(group.size()) - 1;
        if ((rollout_->terminated[row] | rollout_->truncated[row]) && t + 1 < rollout_->horizon())
          group.push_back(group.back());
      }
    }
  }
  const int64_t groups = rollout_->instances() / phase_.options.group_size;
  const double bins = static_cast<double>(
      row_weights<float>(kind, phase_.options.aggregation_constant, rollout_->alive, episode,
                         static_cast<int64_t>(group.size()), group, groups, weight_.data()));
  double all_bins = bins;
  setup_.ranks->sum(std::span(&all_bins, 1));
  const double share = bins / std::max(all_bins, 1.0);  // a rank's weights are made for its rows alone
  for (float& w : weight_) w *= static_cast<float>(total * share);
}

// Small minibatches leave nothing to share between threads, but networks do not depend on each other within
// an update: each makes all its passes on one thread. Large minibatches are shared out instead, one network
// after the other; and so they are among several ranks, which meet in the sums of each network.
bool Learner::fit_side_by_side() const {
  const int64_t rows = static_cast<int64_t>(live_.size());
  return setup_.ranks->size() == 1 && rows / phase_.options.num_minibatches(rows) <= Network::kChunk;
}

void Learner::fit(const FitPlan& plan, const FitPlan& critic_plan) {
  const int64_t chains = phase_.options.sequential ? 1 : static_cast<int64_t>(learning_.size());
  const int64_t critics = static_cast<int64_t>(critics_.size());
  const auto task = [&](int64_t i) {
    if (i < chains) {
      if (phase_.options.sequential)
        fit_agents_in_sequence(plan);
      else
        fit_agent(learning_[i], plan, nullptr);
      return;
    }
    Critic& critic = critics_[i - chains];
    critic.stats = critic.network->fit_value(
        critic_plan,
        {.observation = &view_of(critic), .value = critic.value.data(), .target = critic.target.data()},
        pool_);
  };
  if (fit_side_by_side()) {
    pool_.run(chains + critics, task);
  } else {
    for (int64_t i = 0; i < chains + critics; ++i) task(i);
  }
}

void Learner::fit_agent(Learning& learning, const FitPlan& plan, const float* factor) {
  const AgentRows& rows = rollout_->agents[learning.agent];
  learning.stats = learning.network->fit_policy(
      plan,
      {.observation = &rows.observation,
       .raw = rows.raw.data(),
       .logp = rows.logp.data(),
       .advantage = learning.critic ? learning.critic->advantage.data() : group_advantage_.data(),
       .factor = factor},
      pool_);
}

// HAPPO: a random order of agents; each sees advantages times the product of (new / old) probabilities of
// those before it.
void Learner::fit_agents_in_sequence(const FitPlan& plan) {
  std::vector<size_t> order(learning_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  constexpr uint32_t kOrder = 0xFFFFFFFFu;  // where a shuffle of rows has its epoch
  Draws draws(plan.seed, Stream::kShuffle, plan.update, kOrder);
  for (size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[draws.below(static_cast<uint32_t>(i))]);
  std::fill(factor_.begin(), factor_.end(), 1.0f);
  std::fill(log_factor_.begin(), log_factor_.end(), 0.0f);
  for (size_t k = 0; k < order.size(); ++k) {
    Learning& learning = learning_[order[k]];
    fit_agent(learning, plan, factor_.data());
    if (k + 1 == order.size()) break;
    const AgentRows& rows = rollout_->agents[learning.agent];
    learning.network->log_probabilities(rows.observation, rows.raw.data(), rollout_->rows(), new_logp_.data(),
                                        pool_);
    for (size_t r = 0; r < factor_.size(); ++r) {
      log_factor_[r] += new_logp_[r] - rows.logp[r];
      factor_[r] =
          bounded_exp(log_factor_[r]).value;  // of the sum: a product of bounded ratios could overflow
    }
  }
}

Learner::Metrics Learner::metrics(double fit_seconds) const {
  Metrics out;
  const int64_t rows = rollout_->rows();
  for (const BatchEnvironment::Statistic& s : rollout_->statistics) {
    if (s.count > 0) out.push_back({"train/" + s.name, s.sum / static_cast<double>(s.count)});
  }
  for (size_t k = 0; k < rollout_->term_sums.size(); ++k) {
    out.push_back({"reward/" + spec().reward_terms[k], rollout_->term_sums[k] / static_cast<double>(rollout_->all_rows())});
  }
  for (const Learning& learning : learning_) {
    const std::string& name = learning.network->name();
    const FitStats& s = learning.stats;
    const double n = static_cast<double>(std::max<int64_t>(s.minibatches, 1));
    out.push_back({"loss/" + name, s.loss.loss / n});
    out.push_back({"entropy/" + name, s.loss.entropy / n});
    out.push_back({"kl/" + name, s.loss.kl / n});
    out.push_back({"clip_fraction/" + name, s.loss.clipped / n});
    out.push_back({"clip_fraction_low/" + name, s.loss.clipped_low / n});
    out.push_back({"clip_fraction_high/" + name, s.loss.clipped_high / n});
    out.push_back({"clip_fraction_dual/" + name, s.loss.clipped_dual / n});
    out.push_back({"grad_norm/" + name, s.grad_norm / n});
    out.push_back({"minibatches/" + name, n});
  }
  for (const Critic& critic : critics_) {
    const std::string& name = critic.network->name();
    const double n = static_cast<double>(std::max<int64_t>(critic.stats.minibatches, 1));
    out.push_back({"loss/" + name, critic.stats.loss.loss / n});
    out.push_back({"grad_norm/" + name, critic.stats.grad_norm / n});
    out.push_back({"explained_variance/" + name,
                   explained_variance<float>(rows, critic.estimate.data(), critic.returns.data())});
  }
  for (const Learning& learning : learning_)
    for (const auto& [name, count] : learning.network->guard().metrics()) out.push_back({name + "/" + learning.network->name(), count});
  out.push_back({"time/environment_s", rollout_->environment_seconds});
  out.push_back({"time/inference_s", rollout_->inference_seconds});
  out.push_back({"time/learning_s", fit_seconds});
  return out;
}

}  // namespace trimtab
