// `trimtab eval RUN|ARTEFACT|none... --data FILE...`: learned policies against the baselines on held-out
// traces.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "app/command.h"
#include "app/document.h"
#include "app/evaluation.h"
#include "app/report.h"
#include "app/subject.h"
#include "core/files.h"

namespace trimtab {
namespace {

struct EvalOptions {
  std::vector<std::string> words, data;
  std::string checkpoint = "best", config, json, report;
  int64_t episodes = 0, threads = 0, seed = 1;
  bool allow_validation = false;
};

// A run's own evaluation lies beside it unless another place is named; "-" is standard output.
std::string json_destination(const EvalOptions& options, const std::vector<std::string>& names) {
  if (!options.json.empty()) return options.json;
  const std::filesystem::path run = names[0];
  return names.size() == 1 && std::filesystem::is_directory(run) ? (run / "evaluation.json").string() : "";
}

int eval(EvalOptions options) {
  // `--data A B env.x=1` gives the override to --data, so both lists are searched.
  SubjectOptions subject_options{.names = {},
                                 .overrides = take_overrides(options.words),
                                 .config_file = options.config,
                                 .checkpoint = options.checkpoint};
  for (const std::string& text : take_overrides(options.data)) subject_options.overrides.push_back(text);
  subject_options.names = options.words;
  if (options.data.empty()) throw ConfigError("nothing to evaluate on: give --data FILE...");

  const Subject subject = open_subject(subject_options);
  EvaluationRequest request{.environment = subject.environment,
                            .config = subject.config,
                            .files = options.data,
                            .splits = check_held_out(subject, options.data, options.allow_validation),
                            .agents = subject.agents,
                            .episodes = options.episodes,
                            .threads = options.threads,
                            .seed = static_cast<uint64_t>(options.seed)};
  nlohmann::json evaluation = evaluate(request);
  evaluation["subjects"] = options.words;
  evaluation["overrides"] = subject_options.overrides;
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
  return 0;
}

TT_REGISTER(
    Verb, eval,
    {.name = "eval",
     .doc = "Evaluate runs or an exported artefact on held-out traces against the baselines",
     .declare = [](Arguments& a) {
       auto o = std::make_shared<EvalOptions>();
       a.words("SUBJECT", o->words,
               "run folders (several: training seeds of one experiment), an exported artefact, or none; and "
               "env.KEY=VALUE");
       a.texts("--data", o->data, "trace files that training did not see");
       a.text("--config", o->config, "for none: the configuration whose env block counts");
       a.text("--checkpoint", o->checkpoint, "best (default), latest or a step");
       a.text("--json", o->json,
              "where to write the results; - is standard output (default for one run: RUN/evaluation.json)");
       a.text("--report", o->report, "where to write the report, one HTML file");
       a.integer("--episodes", o->episodes, "episodes per file; 0: all drops of the file");
       a.integer("--threads", o->threads, "threads; 0: one per core");
       a.integer("--seed", o->seed, "of the worlds' draws, equal for every policy");
       a.flag("--allow-validation", o->allow_validation,
              "accept the run's validation traces (for tuning, not for claims)");
       return [o] { return eval(*o); };
     }});

}  // namespace
}  // namespace trimtab
