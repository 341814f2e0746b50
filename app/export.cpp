// `trimtab export RUN --to ttc,header --out DIR`: a trained run as what a product loads.
//
//   DIR/controller.ttc.safetensors   for runtime/ (form ttc)
//   DIR/controller.h                 one self-contained C header (form header)
//   DIR/recipe.json                  widths of a KV cache (form recipe; kv_precision, mode layers), and in other programs' formats
//   DIR/schedule.json                draft lengths by batch size (form schedule; draft_length), and in other programs' formats
#include "policies/controllers/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "app/command.h"
#include "app/recipe_export.h"
#include "app/schedule_export.h"
#include "app/subject.h"
#include "core/text.h"
#include "domain/kv_recipe/formats.h"
#include "trainers/train.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> all_forms() {
  std::vector<std::string> out = {"ttc", "header"};
  for (const std::string& form : recipe_forms()) out.push_back(form);
  for (const std::string& form : schedule_forms())
    if (std::find(out.begin(), out.end(), form) == out.end()) out.push_back(form);
  return out;
}
// A form that is no policy's own: a recipe's, or of draft_length a schedule's (several consumers read both).
bool is_table_form(const std::string& form) { return form != "ttc" && form != "header"; }

struct ExportOptions {
  std::vector<std::string> runs;
  std::string forms = "ttc,header", out, checkpoint = "best";
  std::string table;   // of recipes
  double bits = 0;
  int64_t deadline_us = 0;
};

std::vector<std::string> parse_forms(const std::string& text) {
  const std::vector<std::string> forms = split(text, ','), known = all_forms();
  for (const std::string& form : forms) {
    if (std::find(known.begin(), known.end(), form) != known.end()) continue;
    const std::string near = nearest(form, known);
    throw ConfigError(fmt::format("--to {}: there is no form '{}'{}; the forms are {}", text, form,
                                  near.empty() ? "" : fmt::format(", did you mean '{}'?", near),
                                  fmt::join(known, ", ")));
  }
  return forms;
}

std::string meaning_of(const AgentSpec& agent) {
  switch (agent.head.kind) {
    case HeadKind::kCategorical:
      return fmt::format("{}: index of the chosen class, 0 to {}", agent.name, agent.head.size - 1);
    case HeadKind::kChoice:
      return fmt::format("{}: index of the chosen item, one of those present", agent.name);
    case HeadKind::kSubset:
      return fmt::format("{}: for each item the probability that it is taken, 0 where absent", agent.name);
    case HeadKind::kOrder:
      return fmt::format("{}: {} of the present items by index, first to last, -1 where fewer are present", agent.name,
                         agent.head.picks);
    case HeadKind::kGaussian:
      return fmt::format("{}: {} numbers within [{}, {}]", agent.name, agent.head.size, agent.head.low,
                         agent.head.high);
    case HeadKind::kSimplex:
      return fmt::format("{}: one share per present item, non-negative, summing to 1", agent.name);
  }
  return agent.name;
}

// Functions of runtime/ that turn the agents' answers into what the cell does.
std::vector<std::string> glue_of(const std::string& environment) {
  if (environment == "prb_power")
    return {"tt_cell_resolve", "tt_cell_place_retransmissions", "tt_cell_ladder", "tt_cell_fill_power"};
  return {};
}

ExportInfo info_of(const fs::path& run) {
  const Config config = Config::load(run / "config.yaml");
  ExportInfo info;
  info.environment = config.text("env.type", "");
  info.config = config.at("env").yaml();
  info.glue = glue_of(info.environment);
  std::vector<std::string> hashes;
  for (const TrainingFile& file : training_manifest(run.string())) hashes.push_back(file.hash);
  info.training_data_hash = fmt::format("{}", fmt::join(hashes, " "));
  return info;
}

// Whole before anything is written: a format that cannot say the widths is refused first.
void check_recipe_forms(const KvRecipe& recipe, const std::vector<std::string>& forms) {
  for (const std::string& form : forms)
    if (is_table_form(form) && form != "recipe") write_kv_format(form, recipe);
}

int export_run(const ExportOptions& options) {
  if (options.runs.size() != 1)
    throw ConfigError(fmt::format(
        "export takes one run, got {}: trimtab export RUN --to ttc,header --out DIR", options.runs.size()));
  const std::vector<std::string> forms = parse_forms(options.forms);
  const fs::path run = options.runs[0];
  check_run_folder(run.string());
  const fs::path out = options.out.empty() ? run / "export" : fs::path(options.out);
  KvRecipe recipe;
  DraftSchedule schedule;
  const bool tables = std::any_of(forms.begin(), forms.end(), is_table_form), drafts = Config::load(run / "config.yaml").text("env.type", "") == "draft_length";
  if (tables && drafts) {
    schedule = schedule_of_run({.run = run.string(), .checkpoint = options.checkpoint, .recording = options.table});
    for (const std::string& form : forms)   // whole before anything is written
      if (is_table_form(form)) schedule_text(schedule, form);
  } else if (tables) {
    recipe = recipe_of_run({.run = run.string(), .checkpoint = options.checkpoint, .table = options.table, .bits = options.bits});
    check_recipe_forms(recipe, forms);
  }

  const Policies policies = load_policies(run, options.checkpoint);
  std::vector<ExportedAgent> agents;
  for (const AgentSpec& spec : load_agents(run, options.checkpoint)) {
    const auto policy = policies.find(spec.name);
    if (policy == policies.end()) continue;
    agents.push_back({.spec = spec,
                      .policy = policy->second.get(),
                      .meaning = meaning_of(spec),
                      .deadline_us = static_cast<double>(options.deadline_us),
                      .fallback = {}});
  }
  const ExportInfo info = info_of(run);
  std::error_code error;
  fs::create_directories(out, error);
  if (error) throw ConfigError(fmt::format("{}: cannot make this folder: {}", out.string(), error.message()));
  for (const std::string& form : forms) {
    if (is_table_form(form)) {
      if (drafts) write_schedule_form(schedule, form, out);
      else write_recipe_form(recipe, form, out);
      continue;
    }
    const fs::path file = out / (form == "ttc" ? "controller.ttc.safetensors" : "controller.h");
    if (form == "ttc") export_artefact(file, agents, info);
    if (form == "header") export_header(file, agents, info);
    fmt::print("Written: {}\n", file.string());
  }
  return 0;
}

// Named so that the macro's token is no keyword.
TT_REGISTER(Verb, export_verb,
            {.name = "export",
             .doc = "Export a run's policies: an artefact for the runtime, a C header",
             .declare = [](Arguments& a) {
               auto options = std::make_shared<ExportOptions>();
               a.words("RUN", options->runs, "the run's folder");
               a.text("--to", options->forms,
                      "forms, separated by commas: ttc, header (default both); of kv_precision, mode layers: recipe, kvtuner, modelopt, sglang, "
                      "tensorrt_llm, vllm, ik_llama; of draft_length: schedule, vllm, tensorrt_llm, sglang");
               a.number("--bits", options->bits, "recipe: budget per number of packed pages, scales included");
               a.text("--table", options->table, "recipe: sensitivities of the model it is for; schedule: a recording (default: those of training)");
               a.text("--out", options->out, "folder to write into (default RUN/export)");
               a.text("--checkpoint", options->checkpoint, "best (default), latest or a step");
               a.integer("--deadline-us", options->deadline_us,
                         "by when the host needs an answer, stated in the file; 0: not stated");
               return [options] { return export_run(*options); };
             }});

}  // namespace
}  // namespace trimtab
