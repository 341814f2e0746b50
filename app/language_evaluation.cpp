#include "app/language_evaluation.h"

#include <filesystem>

#include "app/summary.h"
#include "core/error.h"
#include "core/files.h"
#include "envs/text_environment.h"
#include "trainers/language_tools.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

// The leak check reads the training files again, so they must be what they were.
void check_training_files(const std::vector<TrainingFile>& manifest) {
  for (const TrainingFile& seen : manifest) {
    if (!fs::exists(seen.file))
      throw DataError(
          fmt::format("{}: the run was trained on this file ({} split), and it is not there; without "
                      "it nothing can be called held out: put it back",
                      seen.file, seen.split));
    if (hash_file(seen.file) != seen.hash)
      throw DataError(
          fmt::format("{}: has changed since the run was trained on it ({} split), so nothing can "
                      "be called held out; put the old file back",
                      seen.file, seen.split));
  }
}

LanguageEvaluationOrder order_of(const LanguageEvalRequest& request, const TrainedRuns& runs) {
  LanguageEvaluationOrder out;
  out.config = runs.config;
  for (const std::string& name : request.subject.names)
    out.runs.push_back({name, request.subject.checkpoint});
  if (request.with_start) out.start = runs.config.text("policy.model", "");
  out.files = request.files;
  out.allow_validation = request.allow_validation;
  out.episodes = request.episodes;
  out.samples = request.samples;
  out.max_tokens = request.max_tokens;
  out.temperature = request.temperature;
  out.threads = request.threads;
  out.seed = request.seed;
  return out;
}

Gathered gathered_of(const LanguageScores& scores) {
  Gathered out{.metrics = scores.metrics, .frontiers = {}, .reference = "greedy"};
  for (const LanguageScores::File& file : scores.files) out.episodes.push_back(file.problems);
  for (const LanguageScores::Policy& policy : scores.policies) {
    if (policy.policy.name == "start") out.reference = "start";
    GatheredPolicy& gathered =
        out.policies.emplace_back(GatheredPolicy{.policy = policy.policy, .metrics = {}});
    for (const std::vector<std::vector<double>>& rows : policy.values) {
      const auto num_rows = static_cast<int64_t>(rows.size()), columns = static_cast<int64_t>(rows[0].size());
      Values& values = gathered.metrics.emplace_back(num_rows, columns);
      for (int64_t row = 0; row < num_rows; ++row) {
        for (int64_t column = 0; column < columns; ++column) values.at(row, column) = rows[row][column];
      }
    }
  }
  return out;
}

}  // namespace

bool is_language_run(const std::string& name) {
  const fs::path config = fs::path(name) / "config.yaml";
  return fs::exists(config) &&
         Registry<TextEnvironmentEntry>::instance().has(Config::load(config).text("env.type", ""));
}

nlohmann::json evaluate_language_runs(const LanguageEvalRequest& request) {
  const LanguageTools& tools = language_tools("evaluating a language model");
  const TrainedRuns runs = open_runs(request.subject);
  const std::vector<std::string> splits =
      check_held_out(runs.manifest, request.files, request.allow_validation);
  check_training_files(runs.manifest);
  const LanguageScores scores = tools.evaluate(order_of(request, runs));
  std::vector<EvaluatedData> data;
  for (size_t f = 0; f < scores.files.size(); ++f)
    data.push_back({scores.files[f].name, scores.files[f].sha256, splits.empty() ? "held-out" : splits[f]});
  nlohmann::json out = summarise(runs.config.text("env.type", ""), data, gathered_of(scores),
                                 static_cast<int64_t>(request.subject.names.size()));
  out["episode"] = "problem";
  out["sampling"] = {{"samples", request.samples},
                     {"temperature", scores.temperature},
                     {"max_tokens", scores.max_tokens},
                     {"seed", request.seed}};
  return out;
}

}  // namespace trimtab
