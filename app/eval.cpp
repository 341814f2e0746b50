// `trimtab eval RUN|ARTEFACT|none... --data FILE...`: learned policies against the baselines on held-out
// traces, language models on held-out problems.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "app/command.h"
#include "app/document.h"
#include "app/evaluation.h"
#include "app/language_evaluation.h"
#include "app/recipe_evaluation.h"
#include "app/recipe_export.h"
#include "app/report.h"
#include "app/subject.h"
#include "core/files.h"

namespace trimtab {
namespace {

struct EvalOptions {
  std::vector<std::string> words, data, texts;
  std::string checkpoint = "best", config, json, report, model, table;
  int64_t episodes = 0, threads = 0, seed = 1;
  bool allow_validation = false;
  // of language runs
  int64_t samples = 0, max_tokens = 0;  // 0: as the doc says
  double temperature = -1, bits = 0;
  bool no_start = false, untrusted = false;
};

// A run's own evaluation lies beside it unless another place is named; "-" is standard output.
std::string json_destination(const EvalOptions& options, const std::vector<std::string>& names) {
  if (!options.json.empty()) return options.json;
  const std::filesystem::path run = names[0];
  return names.size() == 1 && std::filesystem::is_directory(run) ? (run / "evaluation.json").string() : "";
}

nlohmann::json evaluate_language(const EvalOptions& options, const SubjectOptions& subject) {
  if (!options.config.empty()) throw ConfigError("--config is for none; a run brings its own configuration");
  if (options.episodes < 0 || options.samples < 0 || options.max_tokens < 0)
    throw ConfigError("--episodes, --samples and --max-tokens must be 1 or more");
  return evaluate_language_runs({.subject = subject,
                                 .files = options.data,
                                 .allow_validation = options.allow_validation,
                                 .with_start = !options.no_start,
                                 .episodes = options.episodes,
                                 .samples = std::max<int64_t>(1, options.samples),
                                 .max_tokens = options.max_tokens,
                                 .threads = options.threads,
                                 .temperature = options.temperature,
                                 .seed = static_cast<uint64_t>(options.seed)});
}

nlohmann::json evaluate_controllers(const EvalOptions& options, const SubjectOptions& subject_options) {
  if (options.samples > 0 || options.max_tokens > 0 || options.temperature >= 0 || options.no_start)
    throw ConfigError("--samples, --temperature, --max-tokens and --no-start are for language runs");
  const Subject subject = open_subject(subject_options);
  std::vector<std::string> files = options.data;
  if (files.empty() && subject.config.text("mode", "") == kSynthetic) files = {kSynthetic};   // the environment makes its data itself
  if (files.empty()) throw ConfigError("nothing to evaluate on: give --data FILE... (env.mode=synthetic needs none)");
  return evaluate({.environment = subject.environment,
                   .config = subject.config,
                   .files = files,
                   .splits = options.data.empty() ? std::vector<std::string>{kSynthetic} : check_held_out(subject, files, options.allow_validation),
                   .agents = subject.agents,
                   .episodes = options.episodes,
                   .threads = options.threads,
                   .seed = static_cast<uint64_t>(options.seed)});
}

// Table to the console, the document and the report to their files.
void deliver(const nlohmann::json& evaluation, const EvalOptions& options) {
  const std::string destination = json_destination(options, options.words);
  fmt::print(destination == "-" ? stderr : stdout, "{}", evaluation_table(evaluation));
  if (destination == "-") {
    fmt::print("{}", document_text(evaluation));
  } else if (!destination.empty()) {
    write_file_atomically(destination, document_text(evaluation));
    fmt::print("Written: {}\n", destination);
  }
  if (!options.report.empty()) {
    write_file_atomically(options.report, report_html({.title = options.words[0],
                                                       .evaluation = evaluation,
                                                       .runs = report_runs(options.words)}));
    fmt::print(destination == "-" ? stderr : stdout, "Written: {}\n", options.report);
  }
}

nlohmann::json evaluate_recipes(const EvalOptions& options) {
  if (options.words.size() != 1 || !options.data.empty() || !options.config.empty())
    throw ConfigError("one recipe is evaluated at a time: trimtab eval RECIPE.json|RUN --model DIR --text FILE...");
  const std::string& name = options.words[0];
  const KvRecipe recipe = is_recipe(name) ? read_kv_recipe(name)
                                          : recipe_of_run({.run = name, .checkpoint = options.checkpoint, .table = options.table, .bits = options.bits});
  return evaluate_recipe({.recipe = recipe, .model = options.model, .texts = options.texts, .table = options.table, .pieces = options.episodes,
                          .threads = options.threads, .seed = static_cast<uint64_t>(options.seed)});
}

// A run of mode pages on --model and --text: its texts are its data.
bool is_pages_run(const std::string& name) {
  const std::filesystem::path file = std::filesystem::path(name) / "config.yaml";
  if (!std::filesystem::exists(file)) return false;
  return Config::load(file).text("env.mode", "") == "pages";
}

int eval(EvalOptions options) {
  // `--data A B env.x=1` gives the override to --data, so both lists are searched.
  SubjectOptions subject{.names = {},
                         .overrides = take_overrides(options.words),
                         .config_file = options.config,
                         .checkpoint = options.checkpoint};
  for (const std::string& text : take_overrides(options.data)) subject.overrides.push_back(text);
  if (options.untrusted) subject.overrides.push_back("env.trace.untrusted=true");
  subject.names = options.words;
  const bool is_language = !options.words.empty() && is_language_run(options.words[0]);
  const bool on_text = !options.model.empty() || !options.texts.empty() || !options.table.empty() || options.bits != 0;
  const bool pages = on_text && !options.words.empty() && is_pages_run(options.words[0]);
  const bool recipe = !options.words.empty() && (is_recipe(options.words[0]) || (on_text && !pages));
  if (pages) {
    options.data.insert(options.data.end(), options.texts.begin(), options.texts.end());
    if (!options.model.empty()) subject.overrides.push_back("env.model=" + options.model);
    if (!options.table.empty()) subject.overrides.push_back("env.table=" + options.table);
    if (options.bits != 0)
      for (const char* key : {"low_bits", "high_bits"}) subject.overrides.push_back(fmt::format("env.{}={}", key, options.bits));
  }
  nlohmann::json evaluation = recipe        ? evaluate_recipes(options)
                              : is_language ? evaluate_language(options, subject)
                                            : evaluate_controllers(options, subject);
  evaluation["subjects"] = options.words;
  evaluation["overrides"] = subject.overrides;
  deliver(evaluation, options);
  return 0;
}

TT_REGISTER(
    Verb, eval,
    {.name = "eval",
     .doc = "Evaluate runs or an exported artefact on held-out data against the baselines",
     .declare = [](Arguments& a) {
       auto o = std::make_shared<EvalOptions>();
       a.words("SUBJECT", o->words,
               "run folders (several: training seeds of one experiment), an exported artefact, a KV recipe, or none; and "
               "env.KEY=VALUE");
       a.texts("--data", o->data,
               "trace or JSONL files that training did not see (a language run on a suite: default its test "
               "split)");
       a.text("--model", o->model, "KV recipe or run: the model it is for, a run or a Hugging Face folder");
       a.texts("--text", o->texts, "KV recipe or run: .txt files, or .jsonl files of {\"text\": ...}");
       a.text("--table", o->table, "KV recipe or run: sensitivities from `trimtab measure` on other text, for the rules that need them");
       a.number("--bits", o->bits, "KV run: budget per number of packed pages, scales included");
       a.text("--config", o->config, "for none: the configuration whose env block counts");
       a.text("--checkpoint", o->checkpoint, "best (default), latest or a step");
       a.text("--json", o->json,
              "where to write the results; - is standard output (default for one run: RUN/evaluation.json)");
       a.text("--report", o->report, "where to write the report, one HTML file");
       a.integer("--episodes", o->episodes,
                 "episodes per file; 0: all drops or problems of the file, 512 of a suite");
       a.integer("--threads", o->threads, "threads; 0: one per core");
       a.integer("--seed", o->seed, "of the worlds' draws, equal for every policy");
       a.integer("--samples", o->samples, "language: sampled replies per problem; 0: one");
       a.number("--temperature", o->temperature,
                "language: of the sampled replies (default: that of training)");
       a.integer("--max-tokens", o->max_tokens, "language: longest reply; 0: that of the run's eval block");
       a.flag("--no-start", o->no_start, "language: leave out the model the run started from");
       a.flag("--untrusted", o->untrusted, "traces: a child process of bounded memory and time reads each file first (env.trace.untrusted=true)");
       a.flag("--allow-validation", o->allow_validation,
              "accept the run's validation data (for tuning, not for claims)");
       return [o] { return eval(*o); };
     }});

}  // namespace
}  // namespace trimtab
