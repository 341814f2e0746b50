// The on-policy learner: rollout, advantages, passes over the rollout, for one or several agents, with
// central, local or no critics. One update is one rollout and what is learned from it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/checkpoint.h"
#include "core/pool.h"
#include "core/ranks.h"
#include "policies/controllers/controller.h"
#include "trainers/advantage/smooth.h"
#include "trainers/fit/value_normaliser.h"
#include "trainers/policy_gradient/network.h"
#include "trainers/policy_gradient/options.h"
#include "trainers/policy_gradient/rollout.h"

namespace trimtab {

struct LearnerPhase {
  TrainerOptions options;
  std::vector<std::string> learn;  // agents that learn; empty: all
  Rollout::MakeEnvironment make_environment;
  uint64_t first_episode = 0;
};

class Learner {
 public:
  struct Setup {
    uint64_t seed = 1;
    int threads = 1;
    // Options of an agent's policy, or of "critic".
    std::function<ControllerOptions(const std::string& agent)> controller_options;
    std::filesystem::path dump_stem;  // a batch with non-finite numbers goes to STEM-NETWORK.safetensors
    Ranks* ranks = &one_process();    // every rank makes the same calls in the same order
  };
  explicit Learner(Setup setup);

  // Makes environments and whatever networks are new. Call restore() after it to continue from a checkpoint
  // instead of the beginning of the phase.
  void begin_phase(const LearnerPhase& phase);
  // Fills observation normalisers that have seen nothing from one rollout that is then forgotten.
  void warm_up();

  using Metrics = std::vector<std::pair<std::string, double>>;
  Metrics update(double progress);  // progress through the phase, 0 to 1
  int64_t steps_per_update() const { return rollout_->all_rows(); }
  const EnvSpec& spec() const { return rollout_->spec(); }
  Pool& pool() { return pool_; }

  // Networks, optimiser, normalisers, update counter: the same on all ranks.
  void save_networks(Checkpoint& checkpoint);           // every rank calls it
  void save_environments(Checkpoint& checkpoint);       // of all ranks
  void restore_networks(const Checkpoint& checkpoint);  // all but the environments
  void restore_environments(
      const Checkpoint& checkpoint);  // after begin_phase, to continue within that phase

  // Mode of every agent's policy, for evaluation.
  const Controller& policy(const std::string& agent) const;
  const std::vector<AgentSpec>& agents() const { return agents_; }  // all agents met so far, in order

 private:
  struct Critic {
    Network* network = nullptr;
    int agent = -1;  // whose view; -1: the privileged one
    ValueNormaliser normaliser;
    std::vector<float> value;               // [rows] in its own units
    std::vector<float> estimate;            // [rows] the same in units of the rewards
    std::vector<float> target;              // [rows] in its own units
    std::vector<float> advantage, returns;  // [rows]
    FitStats stats;
  };
  struct Learning {  // an agent that learns in this phase
    int agent = 0;
    Network* network = nullptr;
    const Critic* critic = nullptr;  // null: group advantages
    FitStats stats;
  };

  Network& policy_network(const AgentSpec& agent);
  Network& critic_network(const std::string& name, const ObservationSpec& view);
  void make_critics();
  const ObservationStore& view_of(const Critic& critic) const;
  void accumulate_statistics();
  void refresh_normalisers();
  void estimate_values(Critic& critic);
  void estimate_advantages(Critic& critic);
  void compare_groups();
  void compare_shard(int64_t shard);
  void remember_worlds();
  void normalise_advantages(float* advantage, const uint8_t* mask);
  void list_episodes();
  struct BadNumber {
    std::string what;   // "the observation 'snr' of agent 'prb'"
    int64_t row = 0;
  };
  std::optional<BadNumber> first_bad_number() const;
  bool rollout_is_finite();
  void number_over_ranks();
  void weigh_rows();
  void fit(const FitPlan& plan, const FitPlan& critic_plan);
  void fit_agents_in_sequence(const FitPlan& plan);
  void fit_agent(Learning& learning, const FitPlan& plan, const float* factor);
  bool fit_side_by_side() const;
  Metrics metrics(double fit_seconds) const;

  Setup setup_;
  Pool pool_;
  std::map<std::string, std::unique_ptr<Network>> networks_;  // "prb", "power", "critic", "critic_prb"
  std::map<std::string, ObservationSpec> views_;
  std::map<std::string, ValueNormaliser> saved_normalisers_;
  std::vector<AgentSpec> agents_;
  LearnerPhase phase_;
  std::unique_ptr<Rollout> rollout_;
  std::vector<Critic> critics_;
  std::vector<Learning> learning_;
  std::vector<float> weight_;                          // [rows]
  std::vector<float> group_advantage_;                 // [rows]
  std::vector<float> last_value_, final_value_;        // [instances], [rows] scratch of the value estimates
  std::vector<float> factor_, log_factor_, new_logp_;  // [rows] sequential updates
  std::vector<uint32_t> live_;                         // rows that count
  int64_t total_live_ = 0, first_live_ = 0;            // of all ranks; of those before this one
  std::vector<int64_t> sequence_begin_;                // episodes in live_, for ratios of whole episodes
  int64_t total_sequences_ = 0, first_sequence_ = 0;
  std::vector<SmoothVisit> visits_;                    // [groups of this rank] of this update (smooth)
  SmoothStatistics smooth_;                            // of worlds: the same on all ranks
  uint32_t updates_ = 0;
};

}  // namespace trimtab
