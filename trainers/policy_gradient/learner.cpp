// The on-policy learner; see learner.h. Advantages and fitting are in learner_fit.cpp.
#include "trainers/policy_gradient/learner.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "core/archive.h"
#include "core/error.h"
#include "core/random.h"
#include "trainers/policy_gradient/spec_json.h"

namespace trimtab {
namespace {

constexpr uint32_t kWarmUp = 0xFFFFFFFFu;  // the update number of the rollout that only feeds normalisers

uint64_t network_seed(uint64_t seed, const std::string& name) {
  uint64_t hash = mix64(seed);
  for (const char c : name) hash = mix64(hash ^ static_cast<uint8_t>(c));
  return hash;
}

}  // namespace

Learner::Learner(Setup setup) : setup_(std::move(setup)), pool_(setup_.threads) {}

Network& Learner::policy_network(const AgentSpec& agent) {
  std::unique_ptr<Network>& network = networks_[agent.name];
  if (!network) {
    network =
        std::make_unique<Network>(agent.name, Controller::policy(agent, setup_.controller_options(agent.name),
                                                                 network_seed(setup_.seed, agent.name)));
    agents_.push_back(agent);
  }
  return *network;
}

Network& Learner::critic_network(const std::string& name, const ObservationSpec& view) {
  std::unique_ptr<Network>& network = networks_[name];
  if (!network) {
    network = std::make_unique<Network>(
        name, Controller::critic(view, setup_.controller_options("critic"), network_seed(setup_.seed, name)));
    views_[name] = view;
  }
  return *network;
}

void Learner::begin_phase(const LearnerPhase& phase) {
  for (const Critic& critic : critics_) saved_normalisers_[critic.network->name()] = critic.normaliser;
  phase_ = phase;
  rollout_ =
      std::make_unique<Rollout>(phase.make_environment, Rollout::Options{.trainer = phase.options,
                                                                         .seed = setup_.seed,
                                                                         .first_episode = phase.first_episode,
                                                                         .ranks = setup_.ranks});
  const std::vector<AgentSpec>& agents = rollout_->spec().agents;
  for (const std::string& name : phase.learn) {
    const bool known =
        std::any_of(agents.begin(), agents.end(), [&](const AgentSpec& a) { return a.name == name; });
    if (!known)
      throw ConfigError(
          fmt::format("learn names '{}', which is no agent of environment '{}'", name, spec().name));
  }
  learning_.clear();
  std::vector<Actor> actors;
  for (size_t a = 0; a < agents.size(); ++a) {
    Network& network = policy_network(agents[a]);
    const bool learns = phase.learn.empty() || std::find(phase.learn.begin(), phase.learn.end(),
                                                         agents[a].name) != phase.learn.end();
    if (learns && phase.options.labelled() && !agents[a].head.is_index())
      throw ConfigError(fmt::format("agent '{}' chooses no index: labels are for those that do", agents[a].name));
    if (learns) {
      network.prepare(agents[a].observation, phase.options, {rollout_->rows(), rollout_->all_rows()}, *setup_.ranks);
      learning_.push_back(
          {.agent = static_cast<int>(a), .network = &network, .critic = nullptr, .stats = {}});
    }
    actors.push_back({&network.controller(), learns});
  }
  rollout_->set_actors(actors);
  make_critics();
  for (const auto& [name, network] : networks_)
    setup_.ranks->broadcast(network->controller().parameters(), 0);
  const int64_t rows = rollout_->rows();
  weight_.assign(rows, 1.0f);
  group_advantage_.assign(phase.options.has_critic() ? 0 : rows, phase.options.labelled() ? 1.0f : 0.0f);
  live_.reserve(rows);
  last_value_.resize(rollout_->instances());
  final_value_.resize(rows);
  factor_.resize(phase.options.sequential ? rows : 0);
  log_factor_.resize(phase.options.sequential ? rows : 0);
  new_logp_.resize(phase.options.sequential ? rows : 0);
}

void Learner::make_critics() {
  critics_.clear();
  const int64_t rows = rollout_->rows();
  const auto add = [&](const std::string& name, const ObservationSpec& view, int agent) {
    Critic& critic = critics_.emplace_back();
    critic.network = &critic_network(name, view);
    critic.network->prepare(view, phase_.options, {rows, rollout_->all_rows()}, *setup_.ranks);
    critic.agent = agent;
    critic.normaliser = saved_normalisers_[name];
    for (auto* column : {&critic.value, &critic.estimate, &critic.target, &critic.advantage, &critic.returns})
      column->resize(rows);
  };
  critics_.reserve(learning_.size());  // Learning keeps pointers into it
  if (phase_.options.critic == "central") add("critic", spec().critic, -1);
  for (Learning& learning : learning_) {
    const AgentSpec& agent = spec().agents[learning.agent];
    if (phase_.options.critic == "local") add("critic_" + agent.name, agent.observation, learning.agent);
    learning.critic = critics_.empty() ? nullptr : &critics_.back();
  }
}

const ObservationStore& Learner::view_of(const Critic& critic) const {
  return critic.agent < 0 ? rollout_->critic : rollout_->agents[critic.agent].observation;
}

void Learner::accumulate_statistics() {
  const int64_t rows = rollout_->rows();
  for (Learning& learning : learning_) {
    learning.network->controller().accumulate_statistics(
        rollout_->agents[learning.agent].observation.batch(0, rows), *setup_.ranks);
  }
  for (Critic& critic : critics_)
    critic.network->controller().accumulate_statistics(view_of(critic).batch(0, rows), *setup_.ranks);
}

void Learner::refresh_normalisers() {
  for (Learning& learning : learning_) learning.network->controller().refresh_normaliser();
  for (Critic& critic : critics_) critic.network->controller().refresh_normaliser();
}

void Learner::warm_up() {
  std::vector<Network*> cold;
  for (Learning& learning : learning_) cold.push_back(learning.network);
  for (Critic& critic : critics_) cold.push_back(critic.network);
  std::erase_if(cold, [](Network* network) {
    return network->warm || !network->controller().options().normalise_observations;
  });
  if (cold.empty()) return;
  rollout_->collect(kWarmUp, pool_);
  const int64_t rows = rollout_->rows();
  for (Learning& learning : learning_) {
    if (learning.network->warm) continue;
    learning.network->controller().accumulate_statistics(
        rollout_->agents[learning.agent].observation.batch(0, rows), *setup_.ranks);
  }
  for (Critic& critic : critics_) {
    if (!critic.network->warm)
      critic.network->controller().accumulate_statistics(view_of(critic).batch(0, rows), *setup_.ranks);
  }
  for (Network* network : cold) {
    network->controller().refresh_normaliser();
    network->warm = true;
  }
  rollout_->restart();
}

Learner::Metrics Learner::update(double progress) {
  using Clock = std::chrono::steady_clock;
  rollout_->collect(updates_, pool_);
  const auto start = Clock::now();
  if (!rollout_is_finite()) {
    ++updates_;
    return metrics(0);
  }
  weigh_rows();
  for (Critic& critic : critics_) {
    estimate_values(critic);
    estimate_advantages(critic);
  }
  if (phase_.options.grouped()) compare_groups();
  accumulate_statistics();
  const TrainerOptions& t = phase_.options;
  FitPlan plan{.rows = live_,
               .sequence_begin = sequence_begin_,
               .weight = weight_.data(),
               .total_rows = total_live_,
               .first_row = first_live_,
               .total_sequences = total_sequences_,
               .first_sequence = first_sequence_,
               .seed = setup_.seed,
               .update = updates_,
               .lr = t.schedule.at(t.lr, progress),
               .dump_stem = setup_.dump_stem.string(),
               .ranks = setup_.ranks};
  FitPlan critic_plan = plan;
  if (t.critic_lr > 0) critic_plan.lr = t.schedule.at(t.critic_lr, progress);
  fit(plan, critic_plan);
  refresh_normalisers();
  ++updates_;
  Metrics out = metrics(std::chrono::duration<double>(Clock::now() - start).count());
  out.push_back({"lr", plan.lr});
  return out;
}

const Controller& Learner::policy(const std::string& agent) const {
  return networks_.at(agent)->controller();
}

void Learner::save_networks(Checkpoint& checkpoint) {
  for (const auto& [name, network] : networks_) network->save(checkpoint.state);
  for (const Critic& critic : critics_) saved_normalisers_[critic.network->name()] = critic.normaliser;
  for (const auto& [name, normaliser] : saved_normalisers_) {
    checkpoint.state.tensors["returns." + name] = Tensor::f64({3}, normaliser.state());
  }
  checkpoint.counters["updates"] = updates_;
  if (smooth_.prompts() > 0) checkpoint.counters["worlds"] = smooth_.to_json();
  checkpoint.counters["agents"] = nlohmann::json::array();
  for (const AgentSpec& agent : agents_) checkpoint.counters["agents"].push_back(to_json(agent));
  checkpoint.counters["critics"] = nlohmann::json::object();
  for (const auto& [name, view] : views_) checkpoint.counters["critics"][name] = to_json(view);
}

// Every rank gets those of all. They are named by the shard, so that any number of ranks can go on from them.
void Learner::save_environments(Checkpoint& checkpoint) {
  Archive own = Archive::writer();
  for (int64_t s = 0; s < rollout_->num_shards(); ++s) {
    Archive archive = Archive::writer();
    rollout_->serialise(s, archive);
    std::vector<char> bytes(archive.bytes().begin(), archive.bytes().end());
    own(bytes);
  }
  int64_t shard = 0;
  for (std::string& part : setup_.ranks->gather(own.bytes())) {
    for (Archive archive = Archive::reader(std::move(part)); !archive.at_end(); ++shard) {
      std::vector<char> bytes;
      archive(bytes);
      checkpoint.blobs[fmt::format("environment-{}", shard)].assign(bytes.begin(), bytes.end());
    }
  }
}

void Learner::restore_networks(const Checkpoint& checkpoint) {
  for (const nlohmann::json& agent : checkpoint.counters.at("agents")) policy_network(agent_spec_from(agent));
  for (const auto& [name, view] : checkpoint.counters.at("critics").items())
    critic_network(name, observation_spec_from(view));
  for (const auto& [name, network] : networks_) network->load(checkpoint.state, *setup_.ranks);
  for (const auto& [name, tensor] : checkpoint.state.tensors) {
    if (!name.starts_with("returns.")) continue;
    const auto values = tensor.as_f64();
    if (values.size() != 3)
      throw CheckpointError(fmt::format("tensor {} has {} numbers, expected 3", name, values.size()));
    saved_normalisers_[name.substr(8)].set_state({values[0], values[1], values[2]});
  }
  for (Critic& critic : critics_) critic.normaliser = saved_normalisers_[critic.network->name()];
  updates_ = checkpoint.counters.at("updates").get<uint32_t>();
  if (checkpoint.counters.contains("worlds"))
    smooth_ = SmoothStatistics::from_json(checkpoint.counters.at("worlds"));
}

void Learner::restore_environments(const Checkpoint& checkpoint) {
  for (int64_t s = 0; s < rollout_->num_shards(); ++s) {
    const std::string name = fmt::format("environment-{}", rollout_->first_shard() + s);
    const auto blob = checkpoint.blobs.find(name);
    const int64_t have = static_cast<int64_t>(checkpoint.blobs.size()), want = rollout_->all_shards();
    if (blob == checkpoint.blobs.end() || have != want) {
      throw CheckpointError(fmt::format(
          "the checkpoint has {} groups of environments, this run has {}: it was written with other "
          "trainer.shards or num_envs",
          have, want));
    }
    Archive archive = Archive::reader(blob->second);
    rollout_->serialise(s, archive);
    if (!archive.at_end())
      throw CheckpointError(fmt::format("'{}' of the checkpoint is longer than expected", name));
  }
}

}  // namespace trimtab
