#include "app/episodes.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "core/run_folder.h"

namespace trimtab {
namespace {

struct Job {
  size_t policy = 0, file = 0, row = 0;  // row: training seed
  int64_t episode = 0, column = 0;       // column: place of the episode among all files
};

using Evaluators = std::vector<std::unique_ptr<Evaluator>>;

Evaluators open_files(const EvaluationRequest& request) {
  const auto& entry =
      Registry<EvaluatorEntry>::instance().get(request.environment, "environment with an evaluation");
  Evaluators out;
  for (const std::string& file : request.files) out.push_back(entry.make(request.config, file));
  return out;
}

bool is_learned(const EvaluatedPolicy& policy) { return policy.kind == "learned"; }

std::vector<Job> list_jobs(const Gathered& gathered, size_t num_seeds) {
  std::vector<Job> jobs;
  for (size_t p = 0; p < gathered.policies.size(); ++p) {
    const size_t rows = is_learned(gathered.policies[p].policy) ? num_seeds : 1;
    for (size_t row = 0; row < rows; ++row) {
      int64_t column = 0;
      for (size_t f = 0; f < gathered.episodes.size(); ++f) {
        for (int64_t e = 0; e < gathered.episodes[f]; ++e) jobs.push_back({p, f, row, e, column++});
      }
    }
  }
  return jobs;
}

// Runs `work(i)` for i in [0, count) on threads; the first exception is rethrown here.
void run_on_threads(int64_t count, int64_t threads, const std::function<void(int64_t)>& work,
                    const std::string& label) {
  std::atomic<int64_t> next = 0, done = 0;
  std::exception_ptr failure;
  std::mutex mutex;  // guards failure and progress
  Progress progress(label, count, "episodes");
  const auto loop = [&] {
    try {
      for (int64_t i = next++; i < count; i = next++) {
        if (interrupted()) throw Interrupted("evaluation interrupted; nothing was written");
        work(i);
        const std::lock_guard lock(mutex);
        progress.update(++done);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      next = count;
    }
  };
  std::vector<std::thread> pool;
  for (int64_t t = 1; t < std::min(threads, count); ++t) pool.emplace_back(loop);
  loop();
  for (std::thread& thread : pool) thread.join();
  if (failure) std::rethrow_exception(failure);
}

Gathered describe(const Evaluators& evaluators, const EvaluationRequest& request) {
  const Evaluator& first = *evaluators.front();
  Gathered out{.metrics = first.metrics(), .frontiers = first.frontiers(), .reference = first.reference()};
  int64_t columns = 0;
  for (const auto& evaluator : evaluators) {
    const int64_t all = evaluator->num_episodes();
    out.episodes.push_back(request.episodes > 0 ? std::min(request.episodes, all) : all);
    columns += out.episodes.back();
  }
  for (const EvaluatedPolicy& policy : first.policies(!request.agents.empty())) {
    const int64_t rows = is_learned(policy) ? static_cast<int64_t>(request.agents.size()) : 1;
    out.policies.push_back(
        {.policy = policy, .metrics = std::vector<Values>(out.metrics.size(), Values(rows, columns))});
  }
  return out;
}

}  // namespace

Gathered gather(const EvaluationRequest& request) {
  if (request.files.empty()) throw ConfigError("nothing to evaluate on: give --data FILE...");
  const Evaluators evaluators = open_files(request);
  Gathered out = describe(evaluators, request);
  const std::vector<Job> jobs = list_jobs(out, request.agents.size());
  std::vector<EpisodeResult> results(jobs.size());
  const AgentFactory none = [] { return std::map<std::string, std::unique_ptr<AgentFunction>>(); };
  const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  run_on_threads(
      static_cast<int64_t>(jobs.size()), request.threads > 0 ? request.threads : cores,
      [&](int64_t i) {
        const Job& job = jobs[i];
        const EvaluatedPolicy& policy = out.policies[job.policy].policy;
        const bool plotted = is_learned(policy) || policy.name == out.reference;
        const bool with_series = plotted && job.column == 0 && job.row == 0;
        results[i] =
            evaluators[job.file]->run(policy.name, is_learned(policy) ? request.agents[job.row] : none,
                                      job.episode, request.seed, with_series);
        TT_CHECK_EQ(results[i].metrics.size(), out.metrics.size());
      },
      "evaluating");
  for (size_t i = 0; i < jobs.size(); ++i) {
    const Job& job = jobs[i];
    GatheredPolicy& policy = out.policies[job.policy];
    for (size_t m = 0; m < out.metrics.size(); ++m)
      policy.metrics[m].at(static_cast<int64_t>(job.row), job.column) = results[i].metrics[m];
    policy.samples.insert(policy.samples.end(), results[i].samples.begin(), results[i].samples.end());
    if (!results[i].series.empty()) policy.series = std::move(results[i].series);
  }
  return out;
}

}  // namespace trimtab
