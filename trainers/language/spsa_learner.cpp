// Fine-tuning by evaluations alone (spsa.h): the loss of worked examples, or the reward of replies, which needs no derivative.
//
// RUN/spsa.bytes (spsa-N.bytes for a later phase) grows by one byte per update and direction; with the parameters that the phase began
// with it is the whole run.
#include <nlohmann/json.hpp>

#include "core/append_file.h"
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
  GuardBlock guard;

  void describe(Fields& f) {
    f.integer("steps", steps, {.low = 0, .high = 1e9, .unit = "updates", .doc = "updates to train for, when there are no phases"});
    f.choice("objective", objective, {"loss", "reward"}, "what falls: the next-token loss of worked examples; or rises: the mean reward of replies");
    f.integer("rows", rows, {.low = 1, .high = 1e6, .doc = "texts, or problems, per direction"});
    f.choice("stage", stage, {"facts", "clean", "verbose"}, "which worked examples (suites; objective loss)");
    f.integer("samples", samples, {.low = 1, .high = 1e4, .doc = "replies per problem (objective reward)"});
    f.block("sampling", sampling, "how replies are sampled (objective reward); temperature 0: the likeliest");
    spsa.describe(f);
    f.block("guard", guard, "bad numbers; spikes need no guard, because no byte is larger than the largest");
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
        spsa_(floats(context.model->transformer->trainable()), options_.spsa, {context.seed, context.phase}, *context.ranks, *context.pool),
        guard_(options_.guard) {}

  Metrics update(int64_t update, double) override {
    const bool reward = options_.objective == "reward";
    const Spsa::Step step = reward ? reward_step(update) : loss_step(update);
    write_log();
    Metrics out = {reward ? std::pair<std::string, double>{"train/reward", -step.loss} : std::pair<std::string, double>{"train/loss", step.loss},
                   {"train/projection", step.projection}, {"train/saturated", step.saturated}, {"train/lr", step.lr}};
    for (auto& count : guard_.metrics()) out.push_back(std::move(count));
    return out;
  }
  void save(Checkpoint& checkpoint) override {
    checkpoint.blobs["spsa"] = spsa_.log();
    checkpoint.counters["guard"] = guard_.to_json();   // of the main rank's directions
  }
  void load(const Checkpoint& checkpoint) override {
    spsa_.restore(checkpoint.blobs.at("spsa"));
    if (checkpoint.counters.contains("guard")) guard_.restore(checkpoint.counters.at("guard"));   // not in older checkpoints
  }
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
    }, [&](int64_t k, double loss) { refuse(update, k, fmt::format("the loss is {}", loss), dump(dump_folder(), batches)); });
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
    std::vector<Problem> problems;
    LanguageEvaluation replies;
    return spsa_.step([&](int64_t k) {
      const auto size = static_cast<uint64_t>(context_.environment->size(Split::kTrain));
      problems.clear();
      for (int64_t i = 0; i < options_.rows; ++i) {
        const uint64_t index = first_row(update, k) + static_cast<uint64_t>(i);
        problems.push_back(context_.environment->problem(Split::kTrain, context_.seed, size > 0 ? index % size : index));
      }
      replies = evaluate_language(
          *context_.model, *context_.environment,
          {.problems = problems, .samples = options_.samples, .sampling = options_.sampling,
           .seed = mix64(context_.seed ^ mix64(first_row(update, k))), .progress = {}}, *context_.pool);
      return -replies.mean_outcome();
    }, [&](int64_t k, double loss) { refuse(update, k, fmt::format("the reward is {}", -loss), dump_replies(problems, replies)); });
  }

  // What is not finite is of a direction of this rank alone, which dumps what it has.
  void refuse(int64_t update, int64_t k, const std::string& what, const std::string& dumped) {
    guard_.refuse(fmt::format("{} at direction {} of update {}; lower trainer.lr or trainer.epsilon, or look at the batch: {}", what, k, update, dumped));
  }
  std::filesystem::path dump_folder() const {
    if (context_.run_folder.empty() || context_.ranks->is_main()) return context_.run_folder;
    const std::filesystem::path folder = context_.run_folder / fmt::format("nonfinite-rank{}", context_.ranks->rank());
    std::filesystem::create_directories(folder);
    return folder;
  }
  // To RUN/nonfinite.json; its name.
  std::string dump_replies(const std::vector<Problem>& problems, const LanguageEvaluation& replies) const {
    if (context_.run_folder.empty()) return "the run has no folder";
    nlohmann::json all = nlohmann::json::array();
    for (size_t i = 0; i < replies.outcome.size(); ++i)
      all.push_back({{"problem", problems[i / static_cast<size_t>(replies.samples)].id}, {"text", replies.text[i]}, {"outcome", replies.outcome[i]}});
    const std::filesystem::path file = dump_folder() / "nonfinite.json";
    write_file_atomically(file, all.dump(1));
    return file.string();
  }

  // Rewritten at a start and after a resumption, which may go back behind what is in the file; then appended to.
  void write_log() {
    if (context_.run_folder.empty() || !context_.ranks->is_main()) return;
    const std::filesystem::path file = context_.run_folder / (context_.phase == 0 ? "spsa.bytes" : fmt::format("spsa-{}.bytes", context_.phase));
    if (written_ == 0) {
      write_file_atomically(file, spsa_.log());
    } else {
      AppendFile(file).append(std::string_view(spsa_.log()).substr(written_));
    }
    written_ = spsa_.log().size();
  }

  SpsaLearnerOptions options_;
  LanguageContext context_;
  Scorer scorer_;
  Spsa spsa_;
  StepGuard guard_;
  size_t written_ = 0;   // bytes of the log that are in the file
};

SpsaLearnerOptions read(const Config& trainer) {
  SpsaLearnerOptions options;
  trainer.read(options, {"preset"});
  if (options.guard.spike > 0) trainer.fail("guard.spike", "spsa has no gradient whose norm could be compared; leave it out");
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
