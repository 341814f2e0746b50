// Rollouts: a fixed number of logical shards, each with its own environment, each stepped over the whole
// horizon by one thread. Rows are shard-major: step t of instance i of shard s is row base(s) + t * count(s)
// + i, so that every shard is a [T, N] block of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/pool.h"
#include "core/ranks.h"
#include "envs/environment.h"
#include "policies/controllers/controller.h"
#include "trainers/policy_gradient/options.h"
#include "trainers/policy_gradient/store.h"

namespace trimtab {

struct AgentRows {
  ObservationStore observation;  // [rows]
  std::vector<float> raw;        // [rows, raw_width]
  std::vector<float> logp;       // [rows] at sampling
  int raw_width = 1;
};

// One agent's behaviour in a rollout: draws actions when it learns, else acts by its mode.
struct Actor {
  const Controller* policy = nullptr;
  bool explores = true;
};

// Steps of an instance in a rollout: trainer.horizon, or a whole episode where that is 0; ConfigError when an episode has no end.
int64_t horizon_of(const TrainerOptions& trainer, const EnvSpec& spec);

class Rollout {
 public:
  using MakeEnvironment = std::function<std::unique_ptr<BatchEnvironment>(int64_t size)>;
  struct Options {
    TrainerOptions trainer;
    uint64_t seed = 0;
    uint64_t first_episode = 0;        // instance i starts in world first_episode + i
    Ranks* ranks = &one_process();     // share the shards; instances are numbered through all of them
  };
  Rollout(const MakeEnvironment& make, const Options& options);

  const EnvSpec& spec() const { return spec_; }
  int64_t horizon() const { return horizon_; }
  // Of this rank, unless they say all.
  int64_t instances() const { return instances_; }
  int64_t rows() const { return horizon_ * instances(); }
  int64_t all_rows() const { return horizon_ * options_.trainer.num_envs; }
  int64_t num_shards() const { return static_cast<int64_t>(shards_.size()); }
  int64_t all_shards() const { return std::min(options_.trainer.shards, all_groups()); }
  int64_t first_shard() const { return first_shard_; }
  int64_t base(int64_t shard) const { return shards_[shard].first * horizon_; }
  int64_t first(int64_t shard) const { return shards_[shard].first; }
  int64_t count(int64_t shard) const { return shards_[shard].count; }

  // The world that group `group` of all ranks' begins `update` in (group advantages).
  uint64_t world(uint32_t update, int64_t group) const;
  int64_t all_groups() const { return options_.trainer.num_envs / options_.trainer.group_size; }
  int64_t first_group() const { return first_instance_ / options_.trainer.group_size; }

  void set_actors(std::span<const Actor> actors);  // in the order of the spec's agents
  void restart();                                  // every instance back to its first world
  void collect(uint32_t update, Pool& pool);       // fills everything below
  void serialise(int64_t shard, Archive& archive) { shards_[shard].env->serialise(archive); }

  std::vector<AgentRows> agents;
  ObservationStore critic;        // [rows] privileged view before each step
  ObservationStore last_critic;   // [instances] privileged view after the last step
  ObservationStore final_critic;  // [.] last views of truncated episodes, see final_rows
  std::vector<float> reward;      // [rows]
  std::vector<uint8_t> terminated, truncated,
      alive;  // [rows] alive: the row counts (groups: first episode only)
  struct Final {
    int64_t row, place;
  };  // the final view of `row` is row `place` of final_critic
  std::vector<Final> finals;
  std::vector<double> term_sums;                          // [reward terms] over the rollout, of all ranks
  std::vector<BatchEnvironment::Statistic> statistics;    // of episodes that ended, of all ranks
  double environment_seconds = 0, inference_seconds = 0;  // thread-seconds, estimated from every eighth step

 private:
  struct Shard {
    std::unique_ptr<BatchEnvironment> env;
    int64_t first = 0, count = 0, final_first = 0, final_capacity = 0;
    ObservationStore ended;  // [count] the environment writes final views here
    std::vector<float> action, terms;
    std::vector<std::unique_ptr<ControllerWorkspace>> workspaces;  // one per agent
    std::vector<Final> finals;
    std::vector<double> term_sums;
    double environment_seconds = 0, inference_seconds = 0;
  };
  void make_shards(const MakeEnvironment& make);
  void start_worlds(Shard& shard, uint32_t update);
  void run_shard(Shard& shard, uint32_t update);
  void decide(Shard& shard, size_t agent, int64_t row, uint32_t update, int64_t step);
  void note_outcome(Shard& shard, int64_t row);
  void mark_alive(const Shard& shard);
  void merge();

  Options options_;
  EnvSpec spec_;
  int64_t horizon_ = 0, instances_ = 0, first_instance_ = 0, first_shard_ = 0;
  std::vector<Actor> actors_;
  std::vector<Shard> shards_;
};

}  // namespace trimtab
