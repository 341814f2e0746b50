// The loop of a training run: phases, updates, evaluations, checkpoints, and going on from one; see
// trainers/train.h.
#include "trainers/train.h"

#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

#include "core/checkpoint_writer.h"
#include "core/launch.h"
#include "core/registry.h"
#include "core/run_folder.h"
#include "trainers/policy_gradient/learner.h"
#include "trainers/policy_gradient/spec_json.h"
#include "trainers/run/evaluate.h"
#include "trainers/run/family.h"
#include "trainers/run/plan.h"
#include "trainers/run/job.h"

namespace trimtab {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr uint64_t kEpisodesPerPhase = uint64_t{1} << 40;  // phases never meet each other's worlds

// How far a run is: all of it goes into checkpoints.
struct RunState {
  int64_t phase = 0, phase_steps = 0, steps = 0;
  double best_score = kNone, last_return = 0;
  int64_t best_step = -1;
  void save(nlohmann::json& json) const {
    json["phase"] = phase;
    json["phase_steps"] = phase_steps;
    json["best_step"] = best_step;
    if (best_step >= 0) json["best_score"] = best_score;
    if (std::isfinite(last_return)) json["last_return"] = last_return;
  }
  void load(const Checkpoint& checkpoint) {
    phase = checkpoint.counters.at("phase").get<int64_t>();
    phase_steps = checkpoint.counters.at("phase_steps").get<int64_t>();
    steps = checkpoint.step;
    best_step = checkpoint.counters.at("best_step").get<int64_t>();
    if (best_step >= 0) best_score = checkpoint.counters.at("best_score").get<double>();
    last_return = checkpoint.counters.value("last_return", 0.0);   // not in checkpoints of before 2026-11
  }
};

Policies policies_from(const Checkpoint& checkpoint, const Job& job) {
  Policies policies;
  for (const nlohmann::json& json : checkpoint.counters.at("agents")) {
    const AgentSpec agent = agent_spec_from(json);
    std::unique_ptr<Controller> policy = Controller::policy(agent, job.controller_options(agent.name), 0);
    policy->load(checkpoint.state, "policy." + agent.name + ".");
    policies.emplace(agent.name, std::move(policy));
  }
  return policies;
}

class Trainer {
 public:
  Trainer(const Config& config, const TrainHooks& hooks)
      : hooks_(hooks),
        ranks_(*hooks.ranks),
        job_(config),
        learner_({.seed = static_cast<uint64_t>(job_.run.seed),
                  .threads = job_.threads(),
                  .controller_options =
                      [this](const std::string& agent) { return job_.controller_options(agent); },
                  .dump_stem =
                      hooks.run_folder / (ranks_.is_main() ? std::string("nonfinite")
                                                           : fmt::format("nonfinite-rank{}", ranks_.rank())),
                  .ranks = &ranks_}),
        folder_(hooks.run_folder / "checkpoints"),
        writer_(folder_),
        resumed_(folder_.load_latest()) {
    job_.check_agents();
    expect_same_on_all(ranks_, "checkpoint to go on from", resumed_ ? fmt::format("step {}", resumed_->step) : "none");
    if (resumed_) {
      learner_.restore_networks(*resumed_);
      state_.load(*resumed_);
    }
    if (!ranks_.is_main()) return;
    if (resumed_) folder_.go_on_from(resumed_->step, state_.best_step == resumed_->step);
    if (hooks.on_start) hooks.on_start(state_.steps);
    metrics_ = std::make_unique<Metrics>(hooks.run_folder, state_.steps);
    if (hooks.progress) progress_ = std::make_unique<Progress>(job_.run.name, job_.total_steps(), "steps");
  }

  TrainResult run() {
    const auto start = std::chrono::steady_clock::now();
    const int64_t first = state_.steps;
    while (state_.phase < static_cast<int64_t>(job_.phases.size())) run_phase(job_.phases[state_.phase]);
    writer_.finish();
    if (metrics_) metrics_->flush();
    result_.steps = state_.steps;
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result_.steps_per_second = static_cast<double>(state_.steps - first) / std::max(result_.seconds, 1e-9);
    result_.best_score = state_.best_score;
    result_.best_step = state_.best_step;
    result_.last_return = state_.last_return;
    result_.resumed = resumed_.has_value();
    return result_;
  }

 private:
  void begin(const JobPhase& phase) {
    learner_.begin_phase(
        {.options = phase.trainer,
         .learn = phase.options.learn,
         .make_environment = [&](int64_t size) { return job_.make_environment(phase, false, size); },
         .first_episode = static_cast<uint64_t>(state_.phase) * kEpisodesPerPhase});
    evaluation_.reset();
    if (job_.eval.episodes > 0) {
      evaluation_ = std::make_unique<Evaluation>(
          [&](int64_t size) { return job_.make_environment(phase, true, size); }, job_.eval.episodes, ranks_);
    }
    if (resumed_ && state_.phase_steps > 0 && state_.steps == resumed_->step) {
      learner_.restore_environments(*resumed_);
      return;
    }
    // Scores of different phases may be of different environments.
    state_.best_score = kNone;
    state_.best_step = -1;
    learner_.warm_up();
  }

  void run_phase(const JobPhase& phase) {
    begin(phase);
    const int64_t per_update = learner_.steps_per_update();
    for (bool last = false; !last;) {
      const auto start = std::chrono::steady_clock::now();
      ranks_.during(fmt::format("step {}", state_.steps));
      const double progress =
          static_cast<double>(state_.phase_steps) / static_cast<double>(phase.options.steps);
      Learner::Metrics values = learner_.update(progress);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      state_.phase_steps += per_update;
      state_.steps += per_update;
      last = state_.phase_steps >= phase.options.steps;
      values.push_back({"time/steps_per_second", static_cast<double>(per_update) / seconds});
      values.push_back({"phase", static_cast<double>(state_.phase)});
      const bool improved = (last || crossed(job_.eval.every, per_update)) && evaluate(values);
      report(values);
      if (last) {
        ++state_.phase;
        state_.phase_steps = 0;
      }
      const bool stop = over_ranks(interrupted() ? 1 : 0) > 0;
      if (improved || last || stop || crossed(job_.checkpoint.every, per_update)) save(improved);
      if (stop && !(last && state_.phase == static_cast<int64_t>(job_.phases.size()))) {
        if (metrics_) metrics_->flush();
        writer_.finish();
        ranks_.barrier();   // mpirun ends all ranks when the first one leaves: not before the checkpoint is whole
        throw Interrupted(
            fmt::format("stopped at step {}; the same command goes on from there", state_.steps));
      }
    }
  }

  bool crossed(int64_t every, int64_t per_update) const {
    return state_.steps / every > (state_.steps - per_update) / every;
  }

  double over_ranks(double value) {
    ranks_.sum(std::span(&value, 1));
    return value;
  }

  // True when the score is the best of the phase so far.
  bool evaluate(Learner::Metrics& values) {
    Checkpoint snapshot;
    if (hooks_.score) learner_.save_networks(snapshot);
    const double score = score_policies(values, snapshot);
    if (!std::isfinite(score) || score <= state_.best_score) return false;
    state_.best_score = score;
    state_.best_step = state_.steps;
    return true;
  }

  double score_policies(Learner::Metrics& values, const Checkpoint& snapshot) {
    double score = kNone;
    if (evaluation_) {
      const auto policy = [&](const std::string& agent) -> const Controller& {
        return learner_.policy(agent);
      };
      const Evaluation::Result result = evaluation_->run(policy, learner_.pool(), ranks_);
      values.push_back({"eval/return", result.mean_return});
      values.push_back({"eval/length", result.mean_length});
      for (const auto& [name, value] : result.statistics) values.push_back({"eval/" + name, value});
      score = result.mean_return;
    }
    if (hooks_.score) {
      score = over_ranks(ranks_.is_main() ? hooks_.score(policies_from(snapshot, job_), state_.steps) : 0);
      values.push_back({"eval/score", score});
    }
    return score;
  }

  void report(const Learner::Metrics& values) {
    if (metrics_) metrics_->log(state_.steps, values);
    std::string status;
    for (const auto& [name, value] : values) {
      if (name == "train/return") {
        state_.last_return = value;
        status = fmt::format("return {:.4g}", value);
      }
      if (name == "eval/return") status += fmt::format(" eval {:.4g}", value);
    }
    if (progress_) progress_->update(std::min(state_.steps, job_.total_steps()), status);
    if (hooks_.on_metrics) hooks_.on_metrics(state_.steps, values);
  }

  void save(bool best) {
    Checkpoint checkpoint;
    checkpoint.step = state_.steps;
    learner_.save_networks(checkpoint);
    learner_.save_environments(checkpoint);
    if (!ranks_.is_main()) return;
    state_.save(checkpoint.counters);
    metrics_->flush();
    writer_.save(std::move(checkpoint), job_.checkpoint.keep, best);
  }

  const TrainHooks& hooks_;
  Ranks& ranks_;
  Job job_;
  Learner learner_;
  CheckpointFolder folder_;
  CheckpointWriter writer_;
  std::optional<Checkpoint> resumed_;
  RunState state_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Progress> progress_;
  std::unique_ptr<Evaluation> evaluation_;
  TrainResult result_;
};

Checkpoint load_checkpoint(const std::filesystem::path& run_folder, const std::string& which) {
  const CheckpointFolder folder(run_folder / "checkpoints");
  if (which == "best" && !std::filesystem::exists(run_folder / "checkpoints" / "best"))
    return folder.load("latest");
  return folder.load(which);
}

TT_REGISTER(LearnerFamily, controllers,
            {.name = "controllers",
             .doc = "small networks by on-policy policy gradients",
             .trains = [](const std::string& environment) { return Registry<EnvironmentEntry>::instance().has(environment); },
             .resolve = [](const Config& config) { return Job(config).resolved(); },
             .train = [](const Config& config, const TrainHooks& hooks) { return Trainer(config, hooks).run(); },
             .plan = [](const Config& config) { return plan_of(Job(config)); }});

}  // namespace

Policies load_policies(const std::filesystem::path& run_folder, const std::string& which) {
  return policies_from(load_checkpoint(run_folder, which), Job(Config::load(run_folder / "config.yaml")));
}

std::vector<AgentSpec> load_agents(const std::filesystem::path& run_folder, const std::string& which) {
  const Checkpoint checkpoint = load_checkpoint(run_folder, which);
  std::vector<AgentSpec> agents;
  for (const nlohmann::json& json : checkpoint.counters.at("agents")) agents.push_back(agent_spec_from(json));
  return agents;
}

}  // namespace trimtab
