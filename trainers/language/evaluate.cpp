#include "trainers/language/evaluate.h"

#include <chrono>
#include <numeric>

#include "core/error.h"
#include "trainers/language/diffusion_decode.h"
#include "trainers/language/mixture_replies.h"
#include "trainers/language/prompt.h"
#include "trainers/language/shared_work.h"

namespace trimtab {
namespace {

template <class T>
double mean(const std::vector<T>& values) {
  return values.empty() ? 0 : std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::vector<GenerationRequest> requests_of(const LanguageModel& model, const TextEnvironment& environment, const LanguageEvaluationRequest& r) {
  std::vector<GenerationRequest> out;
  for (size_t i = 0; i < r.problems.size(); ++i) {
    out.push_back({.prompt = environment.prompt_tokens(*model.tokenizer, r.problems[i]), .samples = r.samples, .key = i});
    check_prompt(out.back().prompt, r.sampling.max_tokens, *model.transformer, "evaluation, " + named(r.problems[i]));
  }
  return out;
}

std::vector<Completion> complete(const LanguageModel& model, const TextEnvironment& environment, const LanguageEvaluationRequest& r, Pool& pool) {
  const StopRules stop{environment.stop_ids(*model.tokenizer), environment.stop_strings(), model.tokenizer.get()};
  const std::vector<GenerationRequest> requests = requests_of(model, environment, r);
  return complete_over_ranks(requests, *r.ranks, [&](std::span<const GenerationRequest> own) {
    if (r.mixture) return complete_with_mixture(*r.mixture, own, r.sampling.max_tokens, stop, r.progress);
    if (!model.transformer->config().diffusion.enabled()) return Generator(*model.transformer).generate(own, r.sampling, stop, r.seed, pool, r.progress);
    return decode_one_token_per_pass(*model.transformer, own, r.sampling, stop.ids, r.seed, pool, r.progress);
  });
}

}  // namespace

double LanguageEvaluation::mean_outcome() const { return mean(outcome); }
double LanguageEvaluation::accuracy() const { return mean(solved); }
double LanguageEvaluation::mean_tokens() const { return mean(tokens); }
double LanguageEvaluation::truncated_share() const { return mean(truncated); }

LanguageEvaluation evaluate_language(const LanguageModel& model, TextEnvironment& environment, const LanguageEvaluationRequest& request,
                                     Pool& pool) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Completion> completions = complete(model, environment, request, pool);
  LanguageEvaluation out;
  out.samples = request.samples;
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::vector<Problem> problems;
  for (const Completion& c : completions) {
    problems.push_back(request.problems[c.request]);
    out.text.push_back(model.tokenizer->decode(c.tokens, {.skip_special = true}));
    out.tokens.push_back(static_cast<int64_t>(c.tokens.size()));
    out.truncated.push_back(c.finish != Finish::kStop);
  }
  for (const Verdict& verdict : score_over_ranks(environment, problems, out.text, *request.ranks)) {
    out.outcome.push_back(verdict.outcome);
    out.solved.push_back(verdict.outcome >= 1);
    out.well_formed.push_back(verdict.well_formed);
  }
  return out;
}

double pass_at_k(int64_t n, int64_t correct, int64_t k) {
  TT_CHECK_LE(k, n);
  if (n - correct < k) return 1;
  double none = 1;
  for (int64_t i = n - correct + 1; i <= n; ++i) none *= 1 - static_cast<double>(k) / static_cast<double>(i);
  return 1 - none;
}

}  // namespace trimtab
