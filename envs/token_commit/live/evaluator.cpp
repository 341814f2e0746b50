// Mode live of an evaluation: held-out problems decoded with every rule.
#include "envs/token_commit/evaluator.h"
#include "envs/token_commit/live/commit_decoder.h"

namespace trimtab {
namespace {

class LiveEvaluator final : public Evaluator {
 public:
  LiveEvaluator(const TokenCommitOptions& options, const std::string& file) : decoder_(LanguageModel::load(options.model), read_jsonl(file), file, options) {}

  std::vector<MetricInfo> metrics() const override {
    return {{"correct", "", true}, {"passes", "", false}, {"tokens_per_pass", "", true}, {"premature", "tokens", false}, {"truncated", "", false}, {"refused", "picks", false},
            {"ms", "ms", false}, {"forced", "passes", false}, {"reply", "tokens", true}, {"empty", "", false}, {"rows", "", false}};
  }
  std::vector<EvaluatedPolicy> policies(bool learned) const override {
    learned_ = learned_ || learned;
    return decoder_.policies(learned);
  }
  int64_t num_episodes() const override { return decoder_.num_problems(); }
  std::string reference() const override { return kOneByOne; }
  std::vector<Frontier> frontiers() const override { return commit_frontiers(decoder_.policies(learned_)); }

  EpisodeResult run(const std::string& policy, const AgentFactory& agents, int64_t episode, uint64_t seed, bool) const override {
    const CommitDecoder::Decoded d = decoder_.decode(policy, agents, episode, seed);
    const DiffusionCompletion& c = d.completion;
    const auto passes = static_cast<double>(c.passes);
    return {{d.correct, passes, static_cast<double>(c.commits.size()) / passes, static_cast<double>(d.premature), d.truncated ? 1.0 : 0.0,
             static_cast<double>(c.refused), d.ms, static_cast<double>(c.forced),
             static_cast<double>(c.tokens.size()), c.empty ? 1.0 : 0.0, static_cast<double>(c.rows)}, {}, {}};
  }

 private:
  CommitDecoder decoder_;
  mutable bool learned_ = false;   // policies() was asked for them
};

TT_REGISTER(CommitEvaluatorEntry, live_evaluator,
            {.name = "live", .make = [](const TokenCommitOptions& o, const std::string& file) -> std::unique_ptr<Evaluator> { return std::make_unique<LiveEvaluator>(o, file); }});

}  // namespace
}  // namespace trimtab
