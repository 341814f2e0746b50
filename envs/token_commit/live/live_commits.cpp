// Mode live of token_commit: a model decodes problems, all slots in one pass.
#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "core/pool.h"
#include "core/random.h"
#include "engine/diffusion/session.h"
#include "envs/token_commit/live/commit_problems.h"
#include "envs/token_commit/rules.h"
#include "envs/token_commit/source.h"

namespace trimtab {
namespace {

class LiveCommits final : public CommitSource {
 public:
  LiveCommits(LanguageModel model, const std::vector<std::string>& files, const TokenCommitOptions& options, int64_t slots)
      : options_(options), model_(std::move(model)), facts_(diffusion_model_of(model_.transformer->config())), problem_of_(slots, -1) {
    check_windows(model_, options_);
    for (const std::string& file : files) {
      for (FileProblem& p : read_jsonl(file)) {
        prompts_.push_back(commit_prompt(model_, p, file, options_));
        problems_.push_back(std::move(p));
      }
    }
    int64_t longest = 0;
    for (const std::vector<int32_t>& prompt : prompts_) longest = std::max(longest, std::ssize(prompt));
    DiffusionOptions engine = engine_options(options_);
    engine.divergence = true, engine.hidden = options_.projected > 0;
    session_ = std::make_unique<DiffusionSession>(*model_.transformer, facts_, engine, DiffusionSampling{.temperature = options_.temperature, .seed = 0}, slots, longest, pool_);
  }

  int64_t slots() const override { return std::ssize(problem_of_); }
  int64_t hidden_size() const override { return options_.projected > 0 ? model_.transformer->config().hidden_size : 0; }

  void begin(int64_t slot, WorldKey key) override {
    Draws draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(key.episode >> 32));
    const int64_t problem = problem_of_[slot] = draws.below(static_cast<uint32_t>(problems_.size()));
    session_->begin(slot, {.tokens = prompts_[problem], .key = mix64(key.seed + mix64(key.episode)), .number = slot});
  }
  void pass(std::span<const int64_t> slots) override { session_->pass(slots); }
  bool opens(int64_t slot) const override { return session_->answer(slot).opens(); }
  CommitState state(int64_t slot) const override { return session_->answer(slot).state(); }
  void open(int64_t slot, CommitControl& control) override { session_->answer(slot).open(control); }
  void decide(int64_t slot, CommitControl& control) override { session_->answer(slot).decide(control, {}); }
  bool over(int64_t slot) const override { return session_->answer(slot).over(); }

  CommitOutcome outcome(int64_t slot) const override {
    const DiffusionCompletion c = session_->answer(slot).completion();
    return {.correct = over(slot) ? score_completion(model_, problems_[problem_of_[slot]], c, options_.stop) : 0, .passes = c.passes, .refused = c.refused,
            .forced = c.forced, .tokens = std::ssize(c.commits)};
  }

  // Decoded when a problem is first met, and kept.
  std::span<const int32_t> careful(int64_t slot) override {
    const int64_t problem = problem_of_[slot];
    std::vector<int32_t>& answer = careful_[problem];
    if (answer.empty()) {
      if (!generator_) generator_ = std::make_unique<DiffusionGenerator>(*model_.transformer, facts_, engine_options(options_));
      const GenerationRequest request{.prompt = prompts_[problem], .key = static_cast<uint64_t>(problem)};
      answer = generator_->generate({&request, 1}, {.temperature = 0, .seed = 0}, *make_commit_rule("top1"), pool_).front().canvas;
    }
    return answer;
  }

 private:
  const TokenCommitOptions options_;
  LanguageModel model_;
  DiffusionModel facts_;
  Pool pool_{1};   // rollouts share instances out among their threads
  std::vector<FileProblem> problems_;
  std::vector<std::vector<int32_t>> prompts_;
  std::vector<int64_t> problem_of_;   // [slots]
  std::unique_ptr<DiffusionSession> session_;
  std::unique_ptr<DiffusionGenerator> generator_;
  std::unordered_map<int64_t, std::vector<int32_t>> careful_;   // by problem
};

TT_REGISTER(CommitSourceEntry, live,
            {.name = "live", .doc = "a model decodes problems",
             .make = [](const TokenCommitOptions& o, const std::vector<std::string>& files, int64_t slots) -> std::unique_ptr<CommitSource> {
               if (files.empty())
                 throw ConfigError("token_commit needs problems: name .jsonl files under data: {train: [...]}; `trimtab texts '{type: sudoku}' --split train --prompts` makes them");
               return std::make_unique<LiveCommits>(LanguageModel::load(o.model), files, o, slots);
             }});

}  // namespace
}  // namespace trimtab
