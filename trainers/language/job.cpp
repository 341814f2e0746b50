#include "trainers/language/job.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <thread>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "policies/language/adapter_base.h"
#include "trainers/seams/preset.h"

namespace trimtab {
namespace {

struct NoOptions {
  void describe(Fields&) {}
};

const TextEnvironmentEntry& environment_entry(const Config& env) {
  return Registry<TextEnvironmentEntry>::instance().get(env.text("type", ""), "environment");
}

// The run that a path is, or lies in (RUN/model, RUN/adapter); empty: none.
std::filesystem::path run_of(const std::filesystem::path& path) {
  for (const std::filesystem::path& folder : {path, path.parent_path()})
    if (std::filesystem::exists(folder / "config.yaml")) return folder;
  return {};
}

bool same_run(const std::string& a, const std::string& b) {
  std::error_code none;
  return !run_of(a).empty() && !run_of(b).empty() && std::filesystem::equivalent(run_of(a), run_of(b), none);
}

TokenizerFiles tokenizer_files(const std::string& path) {
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(path);
  return tokenizer->files();
}

}  // namespace

void LanguagePolicyOptions::describe(Fields& f) {
  f.text("model", model, {.doc = "a run or a Hugging Face model folder to start from; empty: a new model"});
  f.text("tokenizer", tokenizer, {.doc = "tokenizer.json or its folder, for a new model; empty: the characters of the environment's suite"});
  f.text("adapter", adapter, {.doc = "a PEFT adapter of that model, or a run with one, to start from; it alone trains. Empty: none"});
  f.block("lora", lora, "a new adapter, which alone trains");
  f.block("architecture", architecture, "what a new model is made of");
}

void LoraBlock::describe(Fields& f) {
  f.integer("rank", rank, {.low = 0, .high = 65536, .doc = "rank of the adapter (LoRA) beside frozen weights; 0: none, all weights train"});
  f.number("alpha", alpha, {.low = 1e-6, .high = 1e6, .doc = "what the adapter adds is scaled by alpha / rank"});
  f.flag("rslora", rslora, "by alpha / sqrt(rank) instead");
  f.texts("targets", targets, {.doc = "linear layers that get one, by the ends of their names"});
}

void LanguagePolicyOptions::validate() const {
  if (lora.rank == 0 && adapter.empty()) return;
  if (lora.rank > 0 && !adapter.empty()) throw ConfigError("policy.lora makes a new adapter and policy.adapter names one; leave one of them out");
  if (model.empty()) throw ConfigError("an adapter trains beside frozen weights; name the model they are of in policy.model");
  if (!adapter.empty() && same_run(model, adapter))
    throw ConfigError(fmt::format("the model of {} has its adapter merged in already; give the model that run began with as policy.model", run_of(adapter).string()));
}

void LanguageEvalOptions::describe(Fields& f) {
  f.integer("every", every, {.low = 0, .high = 1e9, .unit = "updates", .doc = "updates between evaluations on validation problems; 0: a tenth of the run"});
  f.integer("episodes", episodes, {.low = 0, .high = 1e6, .unit = "problems", .doc = "validation problems; 0: never evaluate"});
  f.integer("samples", samples, {.low = 1, .high = 1e4, .doc = "sampled replies per problem"});
  f.integer("max_tokens", max_tokens, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "longest reply in an evaluation"});
  f.flag("greedy", greedy, "also evaluate the likeliest reply");
}

const LanguageLearnerEntry& learner_of(const Config& trainer) {
  const std::string preset = trainer.text("preset", "grpo");
  const auto& learners = Registry<LanguageLearnerEntry>::instance();
  return learners.get(learners.has(preset) ? preset : "group", "trainer preset");
}

Config with_preset(const Config& trainer) {
  const std::string name = trainer.text("preset", "grpo");
  if (Registry<LanguageLearnerEntry>::instance().has(name) && name != "group") return trainer;
  return language_preset(Registry<TrainerPreset>::instance().get(name, "trainer preset")).merged_with(trainer);
}

LanguageJob::LanguageJob(const Config& config) : config_(config) {
  NoOptions none;
  config.read(none, {"run", "data", "env", "policy", "trainer", "phases", "eval", "checkpoint"});
  run = RunOptions::of(config);
  config.at("data").read(data);
  config.at("policy").read(policy);
  config.at("eval").read(eval);
  config.at("checkpoint").read(checkpoint);
  read_phases();
  const int64_t tenth = std::max<int64_t>(total_steps() / 10, 1);
  if (eval.every == 0) eval.every = tenth;
  if (checkpoint.every == 0) checkpoint.every = tenth;
}

at::TensorOptions LanguageJob::compute() const {
  const bool cuda = run.device == "cuda", wide = run.precision == "f32" || (run.precision == "auto" && !cuda);
  if (cuda && wide) throw ConfigError("run.device cuda computes in 16 bits; set run.precision to bf16 or auto");
  if (cuda && !at::hasCUDA())
    throw ConfigError("run.device is cuda, but this program or machine has none: build with -DTRIMTAB_CUDA=ON, look whether nvidia-smi lists a GPU, or set run.device to cpu");
  return at::TensorOptions().device(cuda ? at::kCUDA : at::kCPU).dtype(wide ? at::kFloat : at::kBFloat16);
}

void LanguageJob::read_phases() {
  const auto add = [&](const Config& whole, PhaseOptions options, std::string yaml) {
    LanguagePhase phase{std::move(options), whole.at("env"), with_preset(whole.at("trainer")), std::move(yaml)};
    environment_entry(phase.env).resolved(phase.env);   // checks every key
    learner_of(phase.trainer).resolved(phase.trainer);
    if (phase.options.steps == 0) phase.options.steps = learner_of(phase.trainer).steps(phase.trainer);
    if (phase.options.steps == 0) whole.fail("trainer.steps", "missing: how many updates to train for (or give phases)");
    phases.push_back(std::move(phase));
  };
  const std::vector<Config> list = config_.list("phases");
  if (list.empty()) add(config_, {.name = "main", .steps = 0, .learn = {}}, "");
  for (const Config& phase : list) {
    PhaseOptions options;
    phase.read(options, {"env", "trainer"});
    if (!options.learn.empty()) phase.fail("learn", "a language run has one model, which always learns; leave this key out");
    add(config_.merged_with(phase), options, flow_yaml(phase.yaml()));
  }
}

int64_t LanguageJob::total_steps() const {
  int64_t total = 0;
  for (const LanguagePhase& phase : phases) total += phase.options.steps;
  return total;
}

std::unique_ptr<TextEnvironment> LanguageJob::make_environment(const Config& env) const {
  return environment_entry(env).make(env, {.train = data.train, .validation = data.validation});
}

LanguageModel LanguageJob::make_model() const {
  LanguageModel model = make_base();
  prepare(model);
  add_adapter(model);
  return model;
}

void LanguageJob::prepare(LanguageModel& model) const {
  const auto masked = [](const LanguagePhase& phase) { return learner_of(phase.trainer).prepare != nullptr; };
  const auto count = std::count_if(phases.begin(), phases.end(), masked);
  if (count == 0 && model.transformer->config().diffusion.enabled())
    config_.fail("trainer.preset", fmt::format("trains causal models, and {} fills in masked tokens (mask_token_id in its config.json): take the preset diffusion, or a causal model", policy.model));
  if (count > 0 && count < static_cast<int64_t>(phases.size()))
    config_.fail("phases", "some train a masked diffusion model and some a causal one: make two runs of them, the second with the first as its policy.model");
  for (const LanguagePhase& phase : phases)
    if (masked(phase)) learner_of(phase.trainer).prepare(model, phase.trainer, policy.model.empty());
}

void LanguageJob::add_adapter(LanguageModel& model) const {
  const Transformer& base = *model.transformer;
  if (!policy.adapter.empty()) {
    model.transformer = std::make_unique<Transformer>(read_adapter(base, policy.model, policy.adapter));
  } else if (policy.lora.rank > 0) {
    const LoraConfig lora{policy.lora.rank, policy.lora.alpha, policy.lora.rslora, policy.lora.targets, policy.model};
    try {
      model.transformer = std::make_unique<Transformer>(base.with_adapter(lora, static_cast<uint64_t>(run.seed)));
    } catch (const ConfigError& e) {
      config_.fail("policy.lora.targets", e.what());
    }
  }
}

LanguageModel LanguageJob::make_base() const {
  if (!policy.model.empty()) return LanguageModel::load(policy.model);
  if (!policy.tokenizer.empty())
    return LanguageModel::create(policy.architecture, tokenizer_files(policy.tokenizer), static_cast<uint64_t>(run.seed));
  std::string alphabet;
  for (const LanguagePhase& phase : phases) alphabet += make_environment(phase.env)->alphabet();
  if (alphabet.empty())
    config_.fail("policy.tokenizer", "missing: a new model on JSONL data needs a tokenizer.json; or name a model to start from in policy.model");
  return LanguageModel::create(policy.architecture, {{"tokenizer.json", character_tokenizer_json(sorted_alphabet(alphabet))}},
                               static_cast<uint64_t>(run.seed));
}

std::string LanguageJob::resolved() const {
  const Config env = config_.at("env"), trainer = with_preset(config_.at("trainer"));
  std::string out = yaml_block("run", run) + yaml_block("data", data);
  out += "env:\n  type: " + env.text("type", "") + "\n" + indented(environment_entry(env).resolved(env));
  out += yaml_block("policy", policy);
  out += "trainer:\n  preset: " + trainer.text("preset", "grpo") + "\n" + indented(learner_of(trainer).resolved(trainer));
  if (!config_.list("phases").empty()) {
    out += "phases:\n";
    for (const LanguagePhase& phase : phases) out += "  - " + phase.yaml + "\n";
  }
  return out + yaml_block("eval", eval) + yaml_block("checkpoint", checkpoint);
}

}  // namespace trimtab
