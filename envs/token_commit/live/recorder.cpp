// Recording of token commitment on a model that decodes.
#include "envs/token_commit/recorder.h"

#include <algorithm>
#include <memory>
#include <thread>

#include "core/error.h"
#include "core/files.h"
#include "core/pool.h"
#include "core/random.h"
#include "envs/token_commit/live/commit_problems.h"
#include "envs/token_commit/rules.h"

namespace trimtab {
namespace {

// One control for the first passes of each answer, top1 afterwards.
class ThenCareful final : public CommitControl {
 public:
  ThenCareful(CommitControl& first, std::vector<int64_t> passes) : first_(first), careful_(make_commit_rule("top1")), passes_(std::move(passes)) {}
  void begin(int64_t sequence) override { first_.begin(sequence); }
  CommitWindow open(const CommitState& s, CommitWindow w) override { return follows(s) ? first_.open(s, w) : w; }
  void choose(const CommitState& s, std::vector<int32_t>& picks) override { (follows(s) ? first_ : *careful_).choose(s, picks); }
  CacheRefresh refresh(const CommitState& s) override { return follows(s) ? first_.refresh(s) : CacheRefresh::kAsPlanned; }

 private:
  bool follows(const CommitState& s) const { return s.pass < passes_[s.sequence]; }
  CommitControl& first_;
  std::unique_ptr<CommitControl> careful_;
  std::vector<int64_t> passes_;   // by sequence
};

class LiveRecorder {
 public:
  explicit LiveRecorder(const CommitRecordOrder& order)
      : order_(order), model_(LanguageModel::load(order.options.model)), pool_(static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) {
    check_windows(model_, order.options);
    if (order.options.longest > 0) throw ConfigError("traces are of answers whose length stays: leave env.longest out");
    for (const std::string& file : order.files) {
      for (FileProblem& p : read_jsonl(file)) {
        GenerationRequest& r = requests_.emplace_back();
        r.prompt = commit_prompt(model_, p, file, order.options), r.key = requests_.size();
        problems_.push_back(std::move(p));
      }
    }
    DiffusionOptions engine = batch_options(order.options, order.rule, order.agents);
    engine.hidden = engine.hidden || order.traces.hidden;
    generator_ = std::make_unique<DiffusionGenerator>(*model_.transformer, diffusion_model_of(model_.transformer->config()), engine);
    control_ = commit_control(order.options, model_, order.rule, order.agents, order.traces.seed);
  }

  Recording record() {
    const DiffusionSampling sampling{.temperature = order_.options.temperature, .seed = order_.traces.seed};
    std::vector<int64_t> passes;   // that are followed
    for (const DiffusionCompletion& c : generator_->generate(requests_, sampling, *control_, pool_)) {
      Draws draws(order_.traces.seed, Stream::kShuffle, static_cast<uint32_t>(passes.size()), 0x7c);
      passes.push_back(draws.below(static_cast<uint32_t>(c.passes)));
    }
    CommitTraces traces(order_.traces);
    for (size_t i = 0; i < requests_.size(); ++i) traces.begin(static_cast<int64_t>(i), {{"problem", std::to_string(i)}}, passes[i]);
    ThenCareful control(*control_, passes);
    const auto observe = [&](const CommitState& s, std::span<const int32_t> picks, bool forced) { traces.see(s, picks, forced); };
    const std::vector<DiffusionCompletion> done = generator_->generate(requests_, sampling, control, pool_, observe);
    for (size_t i = 0; i < done.size(); ++i) {
      const bool correct = score_completion(model_, problems_[i], done[i], order_.options.stop) > 0;
      traces.end(static_cast<int64_t>(i), done[i].canvas, {{"correct", correct ? "1" : "0"}});
    }
    return traces.recording({{"producer", "trimtab record"}, {"model", order_.options.model}, {"control", order_.agents ? order_.controller : order_.rule},
                             {"length", std::to_string(order_.options.length)}, {"window", order_.options.window}});
  }

 private:
  const CommitRecordOrder& order_;
  LanguageModel model_;
  Pool pool_;
  std::vector<FileProblem> problems_;
  std::vector<GenerationRequest> requests_;
  std::unique_ptr<DiffusionGenerator> generator_;
  std::unique_ptr<CommitControl> control_;
};

TT_REGISTER(CommitRecorderEntry, live_commits,
            {.name = "live", .doc = "a model decodes problems", .record = [](const CommitRecordOrder& order) { return LiveRecorder(order).record(); }});

}  // namespace
}  // namespace trimtab
