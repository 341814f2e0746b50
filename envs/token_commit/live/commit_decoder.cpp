#include "envs/token_commit/live/commit_decoder.h"

#include <algorithm>

#include "core/error.h"
#include "core/random.h"
#include "envs/token_commit/agent_commit.h"
#include "envs/token_commit/live/commit_problems.h"

namespace trimtab {
// A generator keeps memory from call to call, and weights: one of them, that of the last policy's options.
struct CommitDecoder::Worker {
  Pool pool{1};
  CommitPolicy policy;
  std::unique_ptr<DiffusionGenerator> generator;
};

CommitDecoder::CommitDecoder(LanguageModel model, std::vector<FileProblem> problems, const std::string& file, const TokenCommitOptions& options)
    : options_(options), model_(std::move(model)), facts_(diffusion_model_of(model_.transformer->config())), problems_(std::move(problems)) {
  check_windows(model_, options);
  rules_ = rule_options(options, *model_.tokenizer);
  for (const FileProblem& p : problems_) prompts_.push_back(commit_prompt(model_, p, file, options_));
  careful_.resize(problems_.size());
  for (const EvaluatedPolicy& p : policies(false)) DiffusionGenerator(*model_.transformer, facts_, engine_of(commit_policy(p.name, options_)));   // refuses what does not fit
}
CommitDecoder::~CommitDecoder() = default;

DiffusionOptions CommitDecoder::engine_of(const CommitPolicy& policy) const {
  DiffusionOptions d = engine_options(options_of(options_, policy));
  // What a rule does not read costs it no time.
  d.beyond = looks_ahead(policy.rule) ? -1 : 0, d.divergence = policy.learned() || policy.rule.starts_with("klass"), d.hidden = policy.learned() && options_.projected > 0;
  return d;
}

CommitDecoder::Decoded CommitDecoder::run(Worker& worker, const CommitPolicy& policy, CommitControl& control, int64_t problem, uint64_t seed) const {
  if (!worker.generator || worker.policy != policy) {
    worker.generator = nullptr;   // its memory first
    worker.generator = std::make_unique<DiffusionGenerator>(*model_.transformer, facts_, engine_of(policy));
    worker.policy = policy;
  }
  const GenerationRequest request{.prompt = prompts_[problem], .key = static_cast<uint64_t>(problem)};
  Decoded out;
  out.completion = worker.generator->generate({&request, 1}, {.temperature = options_.temperature, .seed = seed}, control, worker.pool).front();
  out.ms = worker.generator->times().total_s * 1e3;
  out.correct = score_completion(model_, problems_[problem], out.completion, options_.stop);
  return out;
}

// One token a pass: what others are measured by. Decoded once.
const DiffusionCompletion& CommitDecoder::careful(Worker& worker, int64_t problem, uint64_t seed) const {
  {
    const std::lock_guard lock(mutex_);
    if (careful_[problem]) return *careful_[problem];
  }
  const Decoded d = run(worker, commit_policy(kOneByOne, options_), *make_commit_rule(kOneByOne), problem, seed);
  const std::lock_guard lock(mutex_);
  if (!careful_[problem]) careful_[problem] = std::make_unique<DiffusionCompletion>(d.completion);
  return *careful_[problem];
}

// top1's answer in the fewest passes: with as few of top1's own commits at the beginning as are needed, doubled until nothing must be forced.
CommitDecoder::Decoded CommitDecoder::lock_in(Worker& worker, int64_t problem, uint64_t seed) const {
  const DiffusionCompletion& known = careful(worker, problem, seed);
  std::vector<int32_t> order;
  for (const DiffusionCommit& c : known.commits) order.push_back(c.position);
  const auto all = static_cast<int64_t>(order.size());
  for (int64_t follow = 0;; follow = std::min(all, std::max<int64_t>(1, 2 * follow))) {
    LockIn control(known.canvas, order, follow);
    Decoded out = run(worker, commit_policy(kOneByOne, options_), control, problem, seed);
    if (out.completion.forced == 0 || follow == all) return out;
  }
}

CommitDecoder::Decoded CommitDecoder::by_policy(Worker& worker, const std::string& name, const AgentFactory& agents, int64_t problem, uint64_t seed) const {
  if (name == kLockIn) return lock_in(worker, problem, seed);
  const CommitPolicy policy = commit_policy(name, options_);
  if (policy.learned()) {
    AgentCommit control(options_of(options_, policy), model_.transformer->config().hidden_size, agents());
    Decoded out = run(worker, policy, control, problem, seed);
    out.completion.forced += control.forced();
    return out;
  }
  CommitRuleOptions rules = rules_;
  rules.seed = mix64(mix64(seed) + static_cast<uint64_t>(problem));   // a rule of random draws sees no problem's number
  return run(worker, policy, *make_commit_rule(policy.rule, rules), problem, seed);
}

CommitDecoder::Decoded CommitDecoder::decode(const std::string& name, const AgentFactory& agents, int64_t problem, uint64_t seed) const {
  std::unique_ptr<Worker> worker;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) worker = std::move(idle_.back()), idle_.pop_back();
  }
  if (!worker) worker = std::make_unique<Worker>();
  const DiffusionCompletion& known = careful(*worker, problem, seed);
  Decoded out = by_policy(*worker, name, agents, problem, seed);
  for (const DiffusionCommit& c : out.completion.commits)   // -1: masks left behind the ending, which nothing is known of
    if (c.position < std::ssize(known.canvas))   // where lengths adapt the canvas may have grown further, or been cut
      out.premature += known.canvas[c.position] >= 0 && out.completion.canvas[c.position] != known.canvas[c.position];
  out.truncated = out.completion.tokens.size() < known.tokens.size();
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(worker));
  return out;
}

}  // namespace trimtab
