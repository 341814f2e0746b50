// Fine-tuning by evaluations alone (spsa.h): the loss of worked examples, or the reward of replies, which needs no derivative.
//
// RUN/spsa.bytes (spsa-N.bytes for a later phase) grows by one byte per update and direction; with the parameters that the phase began
// with it is the whole run.
#include <fstream>

#include "core/error.h"
#include "core/files.h"
#include "core/registry.h"
#include "policies/language/floats.h"
#include "trainers/language/evaluate.h"
#include "trainers/language/learner.h"
#include "trainers/language/scorer.h"
#include "trainers/language/spsa.h"

namespace trimtab {
namespace {

struct SpsaLearnerOptions {
  int64_t steps = 0, rows = 16, samples = 1, token_budget = 4096, shards = 4;
  std::string objective = "loss", stage = "verbose";
  SamplingOptions sampling{.max_tokens = 256, .temperature = 0};
  SpsaOptions spsa;

  void describe(Fields& f) {
    f.integer("steps", steps, {.low = 0, .high = 1e9, .unit = "updates", .doc = "updates to train for, when there are no phases"});
    f.choice("objective", objective, {"loss", "reward"}, "what falls: the next-token loss of worked examples; or rises: the mean reward of replies");
    f.integer("rows", rows, {.low = 1, .high = 1e6, .doc = "texts, or problems, per direction"});
    f.choice("stage", stage, {"facts", "clean", "verbose"}, "which worked examples (suites; objective loss)");
    f.integer("samples", samples, {.low = 1, .high = 1e4, .doc = "replies per problem (objective reward)"});
    f.block("sampling", sampling, "how replies are sampled (objective reward); temperature 0: the likeliest");
    spsa.describe(f);
    f.integer("token_budget", token_budget, {.low = 16, .high = 1e8, .unit = "tokens", .doc = "tokens of a micro-batch: bounds memory; changes results by rounding only"});
    f.integer("shards", shards, {.low = 1, .high = 1024, .doc = "parts of an evaluation: part of the result, the number of threads is not"});
  }
};

class SpsaLearner final : public LanguageLearner {
 public:
  SpsaLearner(SpsaLearnerOptions options, const LanguageContext& context)
      : options_(std::move(options)),
        context_(context),
        scorer_(*context.model->transformer, {.compute = context.compute}),
        spsa_(floats(context.model->transformer->trainable()), options_.spsa, {context.seed, context.phase}, *context.ranks, *context.pool) {}

  Metrics update(int64_t update, double) override {
    const bool reward = options_.objective == "reward";
    const Spsa::Step step = reward ? reward_step(update) : loss_step(update);
    write_log();
    return {reward ? std::pair<std::string, double>{"train/reward", -step.loss} : std::pair<std::string, double>{"train/loss", step.loss},
            {"train/projection", step.projection}, {"train/saturated", step.saturated}, {"train/lr", step.lr}};
  }
  void save(Checkpoint& checkpoint) override { checkpoint.blobs["spsa"] = spsa_.log(); }
  void load(const Checkpoint& checkpoint) override { spsa_.restore(checkpoint.blobs.at("spsa")); }
  int64_t steps() const override { return options_.steps; }
  double temperature() const override { return options_.objective == "reward" ? options_.sampling.temperature : 1; }

 private:
  // Number of a direction's first text: no other update or direction has it.
  uint64_t first_row(int64_t update, int64_t k) const {
    const int64_t direction = update * options_.spsa.directions + k;
    return (context_.phase << 48) + static_cast<uint64_t>(direction * options_.rows);
  }

  // Both evaluations of a direction see the same texts: they are packed at the first.
  Spsa::Step loss_step(int64_t update) {
    int64_t packed = -1;
    std::vector<TokenExample> examples;
    std::vector<MicroBatch> batches;
    return spsa_.step([&](int64_t k) {
      if (k != packed) examples = draw(first_row(update, k)), batches = pack_examples(examples);
      packed = k;
      return loss_of(batches);
    });
  }
  std::vector<TokenExample> draw(uint64_t first) const {
    std::vector<TokenExample> out;
    for (int64_t i = 0; i < options_.rows; ++i)
      out.push_back(context_.environment->example(*context_.model->tokenizer, stage_of(options_.stage), {.seed = context_.seed, .index = first + static_cast<uint64_t>(i)}));
    return out;
  }
  std::vector<MicroBatch> pack_examples(const std::vector<TokenExample>& examples) const {
    const int64_t most = context_.model->transformer->config().max_positions;
    std::vector<PackedGroup> groups;
    int64_t rows = 0;
    for (const TokenExample& e : examples) {
      const auto length = static_cast<int64_t>(e.prompt.size() + e.reply.size());
      if (length > most)
        throw DataError(fmt::format("a text of the corpus has {} tokens, but the model has {} positions; raise policy.architecture.max_positions "
                                    "or leave long texts out", length, most));
      groups.push_back({e.prompt, {{e.reply, rows, e.loss_begin, e.loss_end}}});
      rows += static_cast<int64_t>(e.reply.size());
    }
    return pack(groups, {.token_budget = options_.token_budget, .at_least = options_.shards});
  }
  double loss_of(const std::vector<MicroBatch>& batches) {
    std::vector<double> losses(batches.size());
    scorer_.score(batches, 1.0, [&](int64_t i, const Scorer::Rows& r) { for (const float logp : r.logp) losses[i] -= logp; }, *context_.pool);
    double sum = 0, scored = 0;
    for (size_t i = 0; i < batches.size(); ++i) sum += losses[i], scored += static_cast<double>(batches[i].row.size());
    return sum / scored;
  }

  // Replies to the same problems with the same draws on both sides, so that the difference is the perturbation's.
  Spsa::Step reward_step(int64_t update) {
    return spsa_.step([&](int64_t k) {
      const auto size = static_cast<uint64_t>(context_.environment->size(Split::kTrain));
      std::vector<Problem> problems;
      for (int64_t i = 0; i < options_.rows; ++i) {
        const uint64_t index = first_row(update, k) + static_cast<uint64_t>(i);
        problems.push_back(context_.environment->problem(Split::kTrain, context_.seed, size > 0 ? index % size : index));
      }
      const LanguageEvaluation replies = evaluate_language(
          *context_.model, *context_.environment,
          {.problems = problems, .samples = options_.samples, .sampling = options_.sampling,
           .seed = mix64(context_.seed ^ mix64(first_row(update, k))), .progress = {}}, *context_.pool);
      return -replies.mean_outcome();
    });
  }

  // Rewritten at a start and after a resumption, which may go back behind what is in the file; then appended to.
  void write_log() {
    if (context_.run_folder.empty() || !context_.ranks->is_main()) return;
    const std::filesystem::path file = context_.run_folder / (context_.phase == 0 ? "spsa.bytes" : fmt::format("spsa-{}.bytes", context_.phase));
    if (written_ == 0) write_file_atomically(file, spsa_.log());
    else std::ofstream(file, std::ios::binary | std::ios::app) << spsa_.log().substr(written_);
    written_ = spsa_.log().size();
  }

  SpsaLearnerOptions options_;
  LanguageContext context_;
  Scorer scorer_;
  Spsa spsa_;
  size_t written_ = 0;   // bytes of the log that are in the file
};

SpsaLearnerOptions read(const Config& trainer) {
  SpsaLearnerOptions options;
  trainer.read(options, {"preset"});
  return options;
}

LanguageBatch batch_of(const SpsaLearnerOptions& o) {
  const bool reward = o.objective == "reward";
  return {.prompts = o.rows * o.spsa.directions, .replies = reward ? o.samples : 1, .max_tokens = reward ? o.sampling.max_tokens : 0, .epochs = 2,
          .token_budget = o.token_budget, .shards = o.shards, .gradient = false};
}

TT_REGISTER(LanguageLearnerEntry, spsa,
            {.name = "spsa",
             .doc = "fine-tuning by forward passes alone, one byte per gradient (SPSA with shared randomness)",
             .make = [](const Config& trainer, const LanguageContext& context) -> std::unique_ptr<LanguageLearner> {
               return std::make_unique<SpsaLearner>(read(trainer), context);
             },
             .resolved = [](const Config& trainer) { return yaml_of(read(trainer)); },
             .steps = [](const Config& trainer) { return read(trainer).steps; },
             .batch = [](const Config& trainer) { return batch_of(read(trainer)); },
             .help = [](const std::string&) { return help_of<SpsaLearnerOptions>(); }});

}  // namespace
}  // namespace trimtab
