#include "trainers/run/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"
#include "trainers/policy_gradient/rollout.h"
#include "trainers/run/job.h"

namespace trimtab {
namespace {

int64_t size_of(const ObservationSpec& view) { return view.context_size() + int64_t{view.max_items} * view.item_size(); }

int64_t parameters_of(const Controller& controller) { return static_cast<int64_t>(controller.parameters().size()); }

std::string agent_line(const Job& job, const AgentSpec& agent) {
  const std::unique_ptr<Controller> policy = Controller::policy(agent, job.controller_options(agent.name), 0);
  return fmt::format("agent '{}': {} numbers observed, {} per action, {} parameters\n", agent.name, grouped_digits(size_of(agent.observation)), agent.head.width(),
                     grouped_digits(parameters_of(*policy)));
}

std::string phase_lines(const Job& job, const JobPhase& phase) {
  const TrainerOptions& t = phase.trainer;
  const std::unique_ptr<BatchEnvironment> environment = job.make_environment(phase, false, t.num_envs);
  if (job.eval.episodes > 0) job.make_environment(phase, true, 1);
  const EnvSpec& spec = environment->spec();
  const int64_t horizon = horizon_of(t, spec), rows = t.num_envs * horizon, updates = (phase.options.steps + rows - 1) / rows;
  const int64_t parts = t.num_minibatches(rows), agents = static_cast<int64_t>(spec.agents.size());
  std::string out;
  double stored = 0;
  for (const AgentSpec& agent : spec.agents) {
    out += agent_line(job, agent);
    stored += static_cast<double>(rows) * static_cast<double>(size_of(agent.observation) + agent.head.width() + 4) * sizeof(float);
  }
  if (t.has_critic()) out += fmt::format("critic '{}': {} numbers observed\n", t.critic, grouped_digits(size_of(spec.critic)));
  out += fmt::format("rows: {} instances x horizon {} = {} per update for each of {}\n", t.num_envs, horizon, grouped_digits(rows), counted(agents, "agent"));
  out += fmt::format("updates: {} of {} steps each, {} steps in all ({} asked for)\n", grouped_digits(updates), grouped_digits(rows), grouped_digits(updates * rows),
                     grouped_digits(phase.options.steps));
  out += fmt::format("optimiser steps: {} of about {} rows x {} = {} per network and update, {} in all{}\n", counted(parts, "minibatch"), grouped_digits(rows / parts),
                     counted(t.epochs, "epoch"), parts * t.epochs, grouped_digits(parts * t.epochs * updates), t.target_kl > 0 ? " (fewer where target_kl stops them)" : "");
  if (t.group_size > 1) out += fmt::format("groups: {} members meet one world\n", t.group_size);
  return out + fmt::format("memory: about {} for the observations and actions of a rollout, beside the environments\n", mebibytes(stored));
}

}  // namespace

std::string grouped_digits(int64_t number) {
  std::string out = std::to_string(number);
  for (auto i = static_cast<int64_t>(out.size()) - 3; i > 0; i -= 3) out.insert(static_cast<size_t>(i), " ");
  return out;
}

std::string mebibytes(double bytes) { return fmt::format("{:.1f} MiB", bytes / (1 << 20)); }

std::string counted(int64_t number, const std::string& what) {
  if (number == 1) return "1 " + what;
  if (what == "reply") return grouped_digits(number) + " replies";
  return grouped_digits(number) + " " + what + (what.ends_with("tch") ? "es" : "s");
}

std::string plan_of(const Job& job) {
  job.check_agents();
  std::string out = fmt::format("run '{}': controllers, {} steps, {}\n", job.run.name, grouped_digits(job.total_steps()), counted(job.threads(), "thread"));
  for (const JobPhase& phase : job.phases)
    out += fmt::format("phase '{}', environment {}:\n", phase.options.name, phase.env.text("type", "")) + indented(phase_lines(job, phase));
  if (job.eval.episodes > 0) out += fmt::format("evaluation: {} every {} steps\n", counted(job.eval.episodes, "episode"), grouped_digits(job.eval.every));
  return out + fmt::format("checkpoints: every {} steps\n", grouped_digits(job.checkpoint.every));
}

}  // namespace trimtab
