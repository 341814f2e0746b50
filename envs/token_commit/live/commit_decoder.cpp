#include "envs/token_commit/live/commit_decoder.h"

#include <algorithm>

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

std::vector<int32_t> delimiters_of(const std::vector<std::string>& texts, const Tokenizer& tokenizer) {
  std::vector<int32_t> out;
  for (const std::string& text : texts) {
    const std::vector<int32_t> ids = tokenizer.encode(text, {.allow_special = false});
    if (ids.size() != 1) throw ConfigError(fmt::format("the delimiter '{}' is {} tokens to the model, but must be one: name one such as '.'", text, ids.size()));
    out.push_back(ids[0]);
  }
  return out;
}

bool looks_ahead(const std::string& rule) { return rule.starts_with("klass") || rule.starts_with("adablock") || rule.starts_with("dcd"); }

}  // namespace

// A generator keeps memory from call to call, and weights: one of them, that of the last policy's options.
struct CommitDecoder::Worker {
  Pool pool{1};
  std::string rule;
  bool guarded = false;
  std::unique_ptr<DiffusionGenerator> generator;
};

CommitDecoder::CommitDecoder(LanguageModel model, std::vector<FileProblem> problems, const std::string& file, const TokenCommitOptions& options)
    : options_(options), model_(std::move(model)), facts_(diffusion_model_of(model_.transformer->config())), problems_(std::move(problems)) {
  rules_.delimiters = delimiters_of(options.delimiters, *model_.tokenizer), rules_.window = std::min(options.width, options.length);
  for (const FileProblem& p : problems_) prompts_.push_back(tokens_of(p, file));
  policies_ = commit_policies(options_, rules_);
  for (const EvaluatedPolicy& p : policies_) DiffusionGenerator(*model_.transformer, facts_, options_of(commit_policy(p.name, options_)));   // refuses what does not fit
}
CommitDecoder::~CommitDecoder() = default;

std::vector<int32_t> CommitDecoder::tokens_of(const FileProblem& p, const std::string& file) const {
  std::vector<int32_t> ids = model_.tokenizer->encode(p.problem.prompt, {.allow_special = false, .add_special_tokens = true});
  const TransformerConfig& config = model_.transformer->config();
  const int64_t needed = static_cast<int64_t>(ids.size()) + options_.length;
  if (needed > config.max_positions)
    throw DataError(fmt::format("{}:{}: prompt and an answer of {} tokens take {} positions, the model has {}: shorten the prompt or lower env.length", file, p.line, options_.length,
                                needed, config.max_positions));
  if (ids.empty()) throw DataError(fmt::format("{}:{}: the prompt has no tokens", file, p.line));
  return ids;
}

DiffusionOptions CommitDecoder::options_of(const CommitPolicy& policy) const {
  DiffusionOptions d;
  d.max_sequences = 1, d.length = options_.length, d.block = options_.block, d.width = std::min(options_.width, options_.length), d.passes = options_.passes, d.cache = options_.cache;
  d.window = slides(policy.rule) ? "sliding" : policy.rule.starts_with("adablock") ? "block" : options_.window;
  d.eos_guard = policy.guarded, d.finish_early = options_.finish_early;
  d.beyond = looks_ahead(policy.rule) ? -1 : 0, d.divergence = policy.rule.starts_with("klass");   // what others do not read costs them no time
  return d;
}

CommitDecoder::Decoded CommitDecoder::run(Worker& worker, const CommitPolicy& policy, CommitControl& control, int64_t problem, uint64_t seed) const {
  if (!worker.generator || worker.rule != policy.rule || worker.guarded != policy.guarded) {
    worker.generator = nullptr;   // its memory first
    worker.generator = std::make_unique<DiffusionGenerator>(*model_.transformer, facts_, options_of(policy));
    worker.rule = policy.rule, worker.guarded = policy.guarded;
  }
  const GenerationRequest request{.prompt = prompts_[problem], .key = static_cast<uint64_t>(problem)};
  Decoded out;
  out.completion = worker.generator->generate({&request, 1}, {.temperature = options_.temperature, .seed = seed}, control, worker.pool).front();
  out.ms = worker.generator->times().total_s * 1e3;
  out.correct = score_reply(problems_[problem].problem, model_.tokenizer->decode(out.completion.tokens, {.skip_special = true}), options_.stop);
  return out;
}

// top1's answer in the fewest passes: with as few of top1's own commits at the beginning as are needed, doubled until nothing must be forced.
CommitDecoder::Decoded CommitDecoder::lock_in(Worker& worker, int64_t problem, uint64_t seed) const {
  const CommitPolicy policy = commit_policy(kOneByOne, options_);
  const Decoded known = run(worker, policy, *make_commit_rule(kOneByOne), problem, seed);
  std::vector<int32_t> order;
  for (const DiffusionCommit& c : known.completion.commits) order.push_back(c.position);
  const auto all = static_cast<int64_t>(order.size());
  for (int64_t follow = 0;; follow = std::min(all, std::max<int64_t>(1, 2 * follow))) {
    LockIn control(known.completion.canvas, order, follow);
    Decoded out = run(worker, policy, control, problem, seed);
    if (out.completion.forced == 0 || follow == all) return out;
  }
}

CommitDecoder::Decoded CommitDecoder::decode(const std::string& name, int64_t problem, uint64_t seed) const {
  std::unique_ptr<Worker> worker;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) worker = std::move(idle_.back()), idle_.pop_back();
  }
  if (!worker) worker = std::make_unique<Worker>();
  Decoded out;
  if (name == kLockIn) {
    out = lock_in(*worker, problem, seed);
  } else {
    const CommitPolicy policy = commit_policy(name, options_);
    CommitRuleOptions rules = rules_;
    rules.seed = mix64(mix64(seed) + static_cast<uint64_t>(problem));   // a rule of random draws sees no problem's number
    out = run(*worker, policy, *make_commit_rule(policy.rule, rules), problem, seed);
  }
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(worker));
  return out;
}

}  // namespace trimtab
