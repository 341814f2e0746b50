// Evaluation of language runs on held-out problems: every model sampled and greedy, on the same problems with
// the same draws, and the model the runs started from as a baseline.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/sha256.h"
#include "trainers/language/evaluate.h"
#include "trainers/language/job.h"
#include "trainers/language/mixture_replies.h"
#include "trainers/language/tools.h"

namespace trimtab {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t kSuiteProblems = 512;   // of a suite's test split, unless said
constexpr int64_t kTriesPerProblem = 20;  // a tier with few problems repeats them; they count once

struct ProblemSet {
  std::vector<LanguageScores::File> files;
  std::vector<Problem> problems;  // of all files, one after the other
};

void add_file(const std::string& file, const LanguageEvaluationOrder& order,
              const TextEnvironment& environment, ProblemSet& out) {
  std::vector<Problem> problems = environment.read_problems(file, order.allow_validation);
  if (order.episodes > 0 && static_cast<int64_t>(problems.size()) > order.episodes)
    problems.resize(order.episodes);
  out.files.push_back({file, sha256_file(file), static_cast<int64_t>(problems.size())});
  out.problems.insert(out.problems.end(), problems.begin(), problems.end());
}

// Different problems of the test split, so that n counts independent ones.
void add_test_split(const LanguageEvaluationOrder& order, const TextEnvironment& environment,
                    ProblemSet& out) {
  const int64_t wanted = order.episodes > 0 ? order.episodes : kSuiteProblems;
  std::set<std::string> seen;
  Sha256 hash;
  for (int64_t i = 0; i < kTriesPerProblem * wanted && static_cast<int64_t>(seen.size()) < wanted; ++i) {
    Problem problem = environment.problem(Split::kTest, order.seed, static_cast<uint64_t>(i));
    if (!seen.insert(problem.id).second) continue;
    hash.update(problem.prompt + "\n");
    out.problems.push_back(std::move(problem));
  }
  const std::string suite = order.config.text("env.suite.type", order.config.text("env.type", ""));
  out.files.push_back({suite + ":test", hash.hex_digest(), static_cast<int64_t>(out.problems.size())});
}

ProblemSet problems_of(const LanguageEvaluationOrder& order, const TextEnvironment& environment) {
  ProblemSet out;
  for (const std::string& file : order.files) add_file(file, order, environment, out);
  if (!order.files.empty()) return out;
  if (environment.size(Split::kTrain) > 0)
    throw ConfigError(
        "nothing to evaluate on: the runs were trained on files, which have no test split of "
        "their own; give --data FILE.jsonl...");
  add_test_split(order, environment, out);
  return out;
}

// Metrics of one evaluation: which there are, and their values per problem.
class MetricTable {
 public:
  // `graded`: outcomes come from a user's program and may be any number, so their mean is shown, too.
  MetricTable(const ProblemSet& set, int64_t samples, bool graded)
      : set_(set), samples_(samples), graded_(graded) {
    metrics_ = {{"accuracy", "share", true}};
    if (samples > 1) metrics_.push_back({fmt::format("pass@{}", samples), "share", true});
    if (graded) metrics_.push_back({"reward", "", true});
    metrics_.push_back({"response_tokens", "tokens", false});
    metrics_.push_back({"truncated", "share", false});
    for (const Problem& p : set.problems) {
      if (p.tier > 0) tiers_.insert(p.tier);
    }
    for (const int tier : tiers_) metrics_.push_back({fmt::format("accuracy_tier_{}", tier), "share", true});
  }
  const std::vector<MetricInfo>& metrics() const { return metrics_; }

  // [metric][problem]
  std::vector<std::vector<double>> values(const LanguageEvaluation& e) const {
    std::vector<std::vector<double>> out(metrics_.size());
    for (size_t p = 0; p < set_.problems.size(); ++p) {
      const Means m = means_of(e, static_cast<int64_t>(p));
      size_t k = 0;
      out[k++].push_back(m.accuracy);
      if (samples_ > 1) out[k++].push_back(pass_of(e, m));
      if (graded_) out[k++].push_back(m.outcome);
      out[k++].push_back(m.tokens);
      out[k++].push_back(m.truncated);
      for (const int tier : tiers_)
        out[k++].push_back(set_.problems[p].tier == tier ? m.accuracy : kUndefined);
    }
    return out;
  }

 private:
  struct Means {
    double accuracy = 0, outcome = 0, tokens = 0, truncated = 0;
  };
  static Means means_of(const LanguageEvaluation& e, int64_t problem) {
    Means out;
    const double share = 1 / static_cast<double>(e.samples);
    for (int64_t i = problem * e.samples; i < (problem + 1) * e.samples; ++i) {
      out.accuracy += share * e.solved[i];
      out.outcome += share * e.outcome[i];
      out.tokens += share * static_cast<double>(e.tokens[i]);
      out.truncated += share * e.truncated[i];
    }
    return out;
  }
  // One greedy reply says nothing about several sampled ones.
  double pass_of(const LanguageEvaluation& e, const Means& m) const {
    if (e.samples < samples_) return kUndefined;
    return pass_at_k(e.samples, std::llround(m.accuracy * static_cast<double>(e.samples)), samples_);
  }

  const ProblemSet& set_;
  int64_t samples_;
  bool graded_;
  std::set<int> tiers_;
  std::vector<MetricInfo> metrics_;
};

class RunEvaluation {
 public:
  explicit RunEvaluation(const LanguageEvaluationOrder& order)
      : order_(order),
        job_(order.config),
        environment_(job_.make_environment(order.config.at("env"))),
        set_(problems_of(order, *environment_)),
        table_(set_, order.samples, order.config.has("env.reward")),
        pool_(thread_count(order.threads)) {}

  LanguageScores run() {
    LanguageScores out{.metrics = table_.metrics(),
                       .files = set_.files,
                       .policies = {},
                       .temperature = temperature(),
                       .max_tokens = max_tokens()};
    LanguageScores::Policy sampled = policy("sampled", "learned"), greedy = policy("greedy", "learned");
    for (const ModelChoice& run : order_.runs) add(run, sampled, greedy);
    if (!sampled.values[0].empty()) out.policies.push_back(std::move(sampled));
    out.policies.push_back(std::move(greedy));
    if (order_.start.empty()) return out;
    LanguageScores::Policy start = policy("start", "baseline"), start_greedy = policy("start_greedy", "baseline");
    // A new adapter changes nothing yet; one from a folder does.
    add(job_.policy.adapter.empty() ? load_model({.path = order_.start}) : job_.make_model(), "start ", start, start_greedy);
    out.policies.push_back(std::move(start));
    out.policies.push_back(std::move(start_greedy));
    return out;
  }

 private:
  // A run that trained the routers of a mixture answers with it, which is greedy alone: its own model is the frozen base.
  void add(const ModelChoice& run, LanguageScores::Policy& sampled, LanguageScores::Policy& greedy) {
    const LanguageModel model = load_model(run);
    const std::optional<AdapterMixture> mixture = mixture_of(run, *model.transformer);
    if (!mixture) return add(model, label_of(run), sampled, greedy);
    add_row(greedy, table_.values(replies(model, label_of(run) + "mixture", 0, 1, &*mixture)));
  }

  // In front of the progress bar: which of several runs.
  std::string label_of(const ModelChoice& run) const {
    return order_.runs.size() == 1 ? "" : std::filesystem::path(run.path).filename().string() + " ";
  }
  LanguageScores::Policy policy(const char* name, const char* kind) const {
    return {{name, kind}, std::vector<std::vector<std::vector<double>>>(table_.metrics().size())};
  }

  void add(const LanguageModel& model, const std::string& label, LanguageScores::Policy& sampled,
           LanguageScores::Policy& greedy) {
    add_row(sampled, table_.values(replies(model, label + "sampled", temperature(), order_.samples)));
    add_row(greedy, table_.values(replies(model, label + "greedy", 0, 1)));
  }
  static void add_row(LanguageScores::Policy& policy, std::vector<std::vector<double>> values) {
    for (size_t m = 0; m < values.size(); ++m) policy.values[m].push_back(std::move(values[m]));
  }

  LanguageEvaluation replies(const LanguageModel& model, const std::string& label, double temperature,
                             int64_t samples, const AdapterMixture* mixture = nullptr) {
    const auto count = static_cast<int64_t>(set_.problems.size()) * samples;
    return evaluate_language(model, *environment_,
                             {.problems = set_.problems,
                              .samples = samples,
                              .sampling = {.max_tokens = max_tokens(), .temperature = temperature},
                              .seed = order_.seed,
                              .progress = reply_progress(label, count),
                              .mixture = mixture},
                             pool_);
  }

  int64_t max_tokens() const { return order_.max_tokens > 0 ? order_.max_tokens : job_.eval.max_tokens; }
  double temperature() const {
    if (order_.temperature >= 0) return order_.temperature;
    const std::string text = job_.phases.back().trainer.text("sampling.temperature", "1");
    return std::stod(text);  // checked when the job was read
  }

  const LanguageEvaluationOrder& order_;
  LanguageJob job_;
  std::unique_ptr<TextEnvironment> environment_;
  ProblemSet set_;
  MetricTable table_;
  Pool pool_;
};

}  // namespace

LanguageScores evaluate_runs(const LanguageEvaluationOrder& order) {
  at::set_num_threads(1);  // threads are ours, so that sums have one order
  return RunEvaluation(order).run();
}

}  // namespace trimtab
