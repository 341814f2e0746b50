// Evaluation of token_commit: every rule, the learned controller and the oracle on the same answers, accuracy against passes. Mode live decodes held-out
// problems (live/evaluator.cpp), mode synthetic makes its answers up.
#include "core/error.h"
#include "core/random.h"
#include "envs/token_commit/agent_commit.h"
#include "envs/token_commit/comparison.h"
#include "envs/token_commit/evaluator.h"
#include "envs/token_commit/synthetic.h"

namespace trimtab {
namespace {

constexpr int64_t kAnswers = 256;

class SyntheticEvaluator final : public Evaluator {
 public:
  explicit SyntheticEvaluator(const TokenCommitOptions& options) : options_(options) {
    if (!options.delimiters.empty() || !options.filter.empty()) throw ConfigError("made-up answers have no texts and no traces: leave env.delimiters and env.filter out");
    rules_.window = std::min(options.width, options.length);
  }
  std::vector<MetricInfo> metrics() const override {
    return {{"correct", "", true}, {"passes", "", false}, {"tokens_per_pass", "", true}, {"refused", "picks", false}, {"forced", "passes", false}};
  }
  std::vector<EvaluatedPolicy> policies(bool learned) const override { return commit_policies(options_, rules_, learned); }
  int64_t num_episodes() const override { return kAnswers; }
  std::string reference() const override { return kOneByOne; }
  std::vector<Frontier> frontiers() const override { return commit_frontiers(policies(true)); }

  EpisodeResult run(const std::string& name, const AgentFactory& agents, int64_t episode, uint64_t seed, bool) const override {
    const CommitPolicy policy = commit_policy(name == kLockIn ? kOneByOne : name, options_);
    const TokenCommitOptions options = options_of(options_, policy);
    const auto source = make_synthetic_commits(options, 1);
    source->begin(0, {.seed = seed, .episode = static_cast<uint64_t>(episode)});
    std::unique_ptr<CommitControl> control;
    const AgentCommit* learned = nullptr;
    if (name == kLockIn) {
      const std::span<const int32_t> truth = source->careful(0);
      control = std::make_unique<LockIn>(std::vector<int32_t>(truth.begin(), truth.end()), std::vector<int32_t>(), 0);
    } else if (policy.learned()) {
      auto agent = std::make_unique<AgentCommit>(options, 0, agents());
      learned = agent.get(), control = std::move(agent);
    } else {
      CommitRuleOptions rules = rules_;
      rules.seed = mix64(mix64(seed) + static_cast<uint64_t>(episode));   // a rule of random draws sees no answer's number
      control = make_commit_rule(policy.rule, rules);
    }
    const CommitOutcome o = decode(*source, *control);
    const auto passes = static_cast<double>(o.passes);
    return {{o.correct, passes, static_cast<double>(o.tokens) / passes, static_cast<double>(o.refused), static_cast<double>(o.forced + (learned ? learned->forced() : 0))}, {}, {}};
  }

 private:
  static CommitOutcome decode(CommitSource& source, CommitControl& control) {
    constexpr int64_t kSlot[] = {0};
    control.begin(0);
    while (!source.over(0)) {
      source.pass(kSlot);
      if (source.opens(0)) source.open(0, control);
      source.decide(0, control);
    }
    return source.outcome(0);
  }

  TokenCommitOptions options_;
  CommitRuleOptions rules_;
};

TT_REGISTER(CommitEvaluatorEntry, synthetic_evaluator,
            {.name = "synthetic", .make = [](const TokenCommitOptions& o, const std::string&) -> std::unique_ptr<Evaluator> { return std::make_unique<SyntheticEvaluator>(o); }});

TT_REGISTER(EvaluatorEntry, token_commit_evaluator, {.name = "token_commit", .make = [](const Config& config, const std::string& file) {
              const TokenCommitOptions options = token_commit_options(config);
              const auto& modes = Registry<CommitEvaluatorEntry>::instance();
              if (!modes.has(options.mode)) throw ConfigError(fmt::format("mode {} needs a build with LibTorch (scripts/setup, TRIMTAB_TORCH=ON); synthetic does without", options.mode));
              return modes.get(options.mode, "mode").make(options, file);
            }});

}  // namespace
}  // namespace trimtab
