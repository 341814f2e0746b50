// Reading a run's configuration; see job.h.
#include "trainers/run/job.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>
#include <sstream>
#include <thread>

#include "core/registry.h"
#include "core/text.h"

namespace trimtab {
namespace {

struct NoOptions {
  void describe(Fields&) {}
};

// Every map and list in flow style.
void set_flow(YAML::Node node) {
  node.SetStyle(YAML::EmitterStyle::Flow);
  for (auto child : node) set_flow(node.IsMap() ? child.second : YAML::Node(child));
}

}  // namespace

std::string flow_yaml(const std::string& yaml) {
  const YAML::Node node = YAML::Load(yaml);
  set_flow(node);
  YAML::Emitter out;
  out << node;
  return out.c_str();
}

void RunOptions::describe(Fields& f) {
  f.text("name", name, {.doc = "name of the run; its folder is NAME-DATE-TIME"});
  f.integer("seed", seed, {.low = 0, .high = 9007199254740991.0, .doc = "everything random derives from it"});
  f.choice("device", device, {"cpu", "cuda"}, "where forward and backward of a language model run; controllers train on the CPU");
  f.choice("precision", precision, {"auto", "f32", "bf16"}, "format of a language model's activations, beside f32 masters; auto: f32 on the CPU, bf16 on CUDA");
  f.text("out", out, {.doc = "folder that holds runs"});
  f.integer("threads", threads,
            {.low = 0, .high = 1024, .doc = "threads to use; 0: all cores. Results do not depend on it"});
}

RunOptions RunOptions::of(const Config& config) {
  RunOptions options;
  config.at("run").read(options);
  return options;
}

void DataOptions::describe(Fields& f) {
  f.texts("train", train, {.doc = "trace files to train on"});
  f.texts("validation", validation,
          {.doc = "trace files for the evaluations during training; empty: those of train"});
}

void EvalOptions::describe(Fields& f) {
  f.integer("every", every,
            {.low = 0,
             .high = 1e15,
             .unit = "steps",
             .doc = "steps between evaluations during training; 0: a tenth of the run"});
  f.integer(
      "episodes", episodes,
      {.low = 0, .high = 1e6, .doc = "episodes per evaluation, without exploration; 0: never evaluate"});
}

void CheckpointOptions::describe(Fields& f) {
  f.integer(
      "every", every,
      {.low = 0, .high = 1e15, .unit = "steps", .doc = "steps between checkpoints; 0: a tenth of the run"});
  f.integer("keep", keep,
            {.low = 1, .high = 1e6, .doc = "newest checkpoints that stay on disk, besides the best"});
}

void PhaseOptions::describe(Fields& f) {
  f.text("name", name, {.doc = "name of the phase"});
  f.integer(
      "steps", steps,
      {.low = 1, .high = 1e15, .unit = "steps", .doc = "environment steps of the phase", .required = true});
  f.texts("learn", learn, {.doc = "agents that learn in it; empty: all. The others act without exploring"});
}

TrainerOptions read_trainer(const Config& trainer) {
  const std::string name = trainer.text("preset", "ppo");
  const TrainerPreset& preset = Registry<TrainerPreset>::instance().get(name, "trainer preset");
  TrainerOptions options;
  controller_preset(preset).merged_with(trainer).read(options, {"preset"});
  return options;
}

Job::Job(const Config& config) : config_(config) {
  NoOptions none;
  config.read(none, {"run", "data", "env", "policy", "trainer", "phases", "eval", "checkpoint"});
  run = RunOptions::of(config);
  if (run.device != "cpu" || (run.precision != "auto" && run.precision != "f32"))
    throw ConfigError(fmt::format("run.device {} with run.precision {}: controllers train on the CPU in f32; leave both out", run.device, run.precision));
  config.at("data").read(data);
  config.at("eval").read(eval);
  config.at("checkpoint").read(checkpoint);
  for (const std::string& agent : config.at("policy").keys()) controller_options(agent);
  read_phases();
  const int64_t tenth = std::max<int64_t>(total_steps() / 10, 1);
  if (eval.every == 0) eval.every = tenth;
  if (checkpoint.every == 0) checkpoint.every = tenth;
}

void Job::read_phases() {
  const auto add = [&](const Config& whole, PhaseOptions options, std::string yaml) {
    JobPhase phase{std::move(options), read_trainer(whole.at("trainer")), whole.at("env"), std::move(yaml)};
    if (phase.options.steps == 0) {
      whole.fail("trainer.steps", "missing: how many environment steps to train for (or give phases)");
    }
    environment(phase.env).resolved(phase.env);  // checks every key of it
    phases.push_back(std::move(phase));
  };
  const std::vector<Config> list = config_.list("phases");
  if (list.empty()) {
    add(config_, {.name = "main", .steps = read_trainer(config_.at("trainer")).steps, .learn = {}}, "");
    return;
  }
  for (const Config& phase : list) {
    PhaseOptions options;
    phase.read(options, {"env", "trainer"});  // a phase's own env and trainer keys go over the run's
    const Config whole = config_.merged_with(phase);
    add(whole, options, flow_yaml(phase.yaml()));
  }
}

const EnvironmentEntry& Job::environment(const Config& env) const {
  const std::string type = env.text("type", "");
  if (type.empty())
    config_.fail("env.type", "missing: which environment to train in; `trimtab list envs` names them");
  return Registry<EnvironmentEntry>::instance().get(type, "environment");
}

int64_t Job::total_steps() const {
  int64_t total = 0;
  for (const JobPhase& phase : phases) total += phase.options.steps;
  return total;
}

int thread_count(int64_t wanted) {
  return wanted > 0 ? static_cast<int>(wanted) : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int Job::threads() const { return thread_count(run.threads); }

ControllerOptions Job::controller_options(const std::string& agent) const {
  ControllerOptions options;
  const Config block = config_.at("policy").at(agent);
  const std::string type = block.text("type", "mlp");
  if (type != "mlp" && type != "set_encoder")
    block.fail("type", fmt::format("expected mlp or set_encoder, got '{}'", type));
  block.read(options, {"type"});
  return options;
}

std::unique_ptr<BatchEnvironment> Job::make_environment(const JobPhase& phase, bool validation,
                                                        int64_t size) const {
  const bool other = validation && !data.validation.empty();
  return environment(phase.env).make(phase.env, {.files = other ? data.validation : data.train}, size);
}

void Job::check_agents() const {
  std::vector<std::string> known = {"critic"};
  for (const JobPhase& phase : phases) {
    const std::unique_ptr<BatchEnvironment> env = make_environment(phase, false, 1);
    std::vector<std::string> here;
    for (const AgentSpec& agent : env->spec().agents) here.push_back(agent.name);
    for (const std::string& name : phase.options.learn) {
      if (std::find(here.begin(), here.end(), name) != here.end()) continue;
      config_.fail("phases", fmt::format("phase '{}' lets '{}' learn; agents of '{}' are: {}",
                                         phase.options.name, name, env->spec().name, fmt::join(here, ", ")));
    }
    known.insert(known.end(), here.begin(), here.end());
  }
  for (const std::string& name : config_.at("policy").keys()) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    const std::string near = nearest(name, known);
    config_.fail("policy." + name,
                 fmt::format("the environment has no agent of that name{}; there are: {}",
                             near.empty() ? "" : fmt::format(", did you mean '{}'?", near),
                             fmt::join(std::set<std::string>(known.begin(), known.end()), ", ")));
  }
}

std::string Job::resolved() const {
  std::string out = yaml_block("run", run) + yaml_block("data", data);
  const Config env = config_.at("env");
  out += "env:\n  type: " + env.text("type", "") + "\n" + indented(environment(env).resolved(env));
  out += "policy:\n";
  std::vector<std::string> agents = config_.at("policy").keys();
  if (std::find(agents.begin(), agents.end(), "critic") == agents.end()) agents.push_back("critic");
  for (const std::string& agent : agents) out += indented(yaml_block(agent, controller_options(agent)));
  const std::string preset = config_.at("trainer").text("preset", "ppo");
  out += "trainer:\n  preset: " + preset + "\n" + indented(yaml_of(read_trainer(config_.at("trainer"))));
  if (!config_.list("phases").empty()) {
    out += "phases:\n";
    for (const JobPhase& phase : phases) out += "  - " + phase.yaml + "\n";
  }
  return out + yaml_block("eval", eval) + yaml_block("checkpoint", checkpoint);
}

}  // namespace trimtab
