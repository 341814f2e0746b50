// Supervised training: next-token loss on the replies of worked examples, documents packed without attention between them, so that
// a run can start from nothing.
#include "core/registry.h"
#include "policies/language/ops/linear_logprob.h"
#include "trainers/language/learner.h"
#include "trainers/language/scorer.h"
#include "trainers/language/worked_examples.h"

namespace trimtab {
namespace {

struct SftOptions : WorkedExampleOptions {
  bool loss_on_prompt = false;
  void describe(Fields& f) {
    describe_texts(f);
    f.flag("loss_on_prompt", loss_on_prompt, "learn the prompts' text too, not the replies alone");
    describe_fit(f);
  }
};

class SftLearner final : public LanguageLearner {
 public:
  SftLearner(SftOptions options, const LanguageContext& context)
      : options_(std::move(options)),
        context_(context),
        scorer_(*context.model->transformer, {.shards = options_.shards, .forward = {.recompute_layers = options_.checkpoint_activations}, .compute = context.compute, .ranks = context.ranks}),
        optimiser_(*context.model->transformer, options_.adam.options(), options_.guard, *context.ranks) {}

  Metrics update(int64_t update, double progress) override {
    const std::vector<TokenExample> examples = draw(update);
    std::vector<PackedGroup> groups;
    int64_t rows = 0;
    for (const TokenExample& e : examples) {
      groups.push_back({e.prompt, {{e.reply, rows, e.loss_begin, e.loss_end}}});
      rows += static_cast<int64_t>(e.reply.size());
    }
    const std::vector<MicroBatch> batches = pack(groups, {.token_budget = options_.token_budget, .at_least = options_.shards});
    int64_t scored = 0, tokens = 0;
    for (const MicroBatch& b : batches) scored += static_cast<int64_t>(b.row.size()), tokens += b.tokens.numel();
    std::vector<double> losses(batches.size());
    scorer_.backward(batches, 1.0, [&](int64_t i, const Scorer::Rows& r) {
      for (size_t k = 0; k < r.logp.size(); ++k) {
        losses[i] -= r.logp[k];
        r.d_logp[k] = -1.0f / static_cast<float>(scored);
      }
    }, *context_.pool);
    scorer_.share(losses);
    double loss = 0;
    for (const double l : losses) loss += l / static_cast<double>(scored);
    const double lr = options_.schedule.at(options_.lr, progress);
    const double norm = optimiser_.step(lr, options_.max_grad_norm, loss, [&] { return dump(context_.run_folder, batches); });
    return optimiser_.with_guard({{"train/loss", loss}, {"train/grad_norm", norm}, {"train/lr", lr}, {"train/tokens", static_cast<double>(tokens)}});
  }
  void save(Checkpoint& checkpoint) override { optimiser_.save(checkpoint); }
  void load(const Checkpoint& checkpoint) override { optimiser_.load(checkpoint); }
  int64_t steps() const override { return options_.steps; }
  double until_accuracy() const override { return options_.until_accuracy; }

 private:
  std::vector<TokenExample> draw(int64_t update) const {
    const Stage stage = options_.stage_at(update);
    std::vector<TokenExample> out;
    for (int64_t i = 0; i < options_.rows_of(stage); ++i) {
      out.push_back(context_.environment->example(*context_.model->tokenizer, stage, {.seed = context_.seed, .index = options_.index_of(context_.phase, update, i)}));
      check_length(out.back());
      if (options_.loss_on_prompt && stage != Stage::kFacts) learn_prompt(out.back());
    }
    return out;
  }
  // All but the first token becomes the reply, and all of that is learned.
  static void learn_prompt(TokenExample& e) {
    if (e.prompt.size() < 2) return;
    e.reply.insert(e.reply.begin(), e.prompt.begin() + 1, e.prompt.end());
    e.loss_begin = 0, e.loss_end += static_cast<int64_t>(e.prompt.size()) - 1;
    e.prompt.resize(1);
  }
  void check_length(const TokenExample& e) const {
    const int64_t length = static_cast<int64_t>(e.prompt.size() + e.reply.size()), most = context_.model->transformer->config().max_positions;
    if (length > most)
      throw DataError(fmt::format("a text of the corpus has {} tokens, but the model has {} positions; raise policy.architecture.max_positions "
                                  "or leave long texts out", length, most));
  }

  SftOptions options_;
  LanguageContext context_;
  Scorer scorer_;
  FlatOptimiser optimiser_;
};

SftOptions read(const Config& trainer) {
  SftOptions options;
  trainer.read(options, {"preset"});
  return options;
}

TT_REGISTER(LanguageLearnerEntry, sft,
            {.name = "sft",
             .doc = "supervised next-token training on worked examples",
             .make = [](const Config& trainer, const LanguageContext& context) -> std::unique_ptr<LanguageLearner> {
               return std::make_unique<SftLearner>(read(trainer), context);
             },
             .resolved = [](const Config& trainer) { return yaml_of(read(trainer)); },
             .steps = [](const Config& trainer) { return read(trainer).steps; },
             .batch = [](const Config& trainer) { return read(trainer).batch(); },
             .help = [](const std::string&) { return help_of<SftOptions>(); }});

}  // namespace
}  // namespace trimtab
