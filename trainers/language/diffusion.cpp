// Masked diffusion training on worked examples (LLaDA, arXiv 2502.09992, its fine-tuning; MDLM, arXiv 2406.07524): a share p of an answer's
// tokens, drawn anew for every text, is masked, and the model learns them from all the others:
//
//   loss = sum over masked tokens of -log p(token) / p_mask, divided by the answers' tokens
//
// which bounds the answers' negative log-likelihood. Prompts are never masked. Answers are padded with their ending, and the padding is
// learned, so that a canvas of any length can be filled in.
//
//   block: 0   every token sees all others
//   block: B   block diffusion (BD3-LM, arXiv 2503.09573): a block of B tokens is noised behind the clean text before it, each with a t of
//              its own. block_curriculum starts at blocks of one token and doubles them up to B over the phase.
//
// A run that starts from a causal model converts it (`prepare`): its weights without the causal mask, one more token for the mask, and
// logits that stay about the next token (`shifted`, as Dream, arXiv 2508.15487).
#include <algorithm>

#include "core/random.h"
#include "core/registry.h"
#include "trainers/language/diffusion_texts.h"
#include "trainers/language/learner.h"
#include "trainers/language/scorer.h"
#include "trainers/language/worked_examples.h"

namespace trimtab {
namespace {

constexpr int64_t kEvaluationTexts = 64;
constexpr uint32_t kEvaluationPhase = 0xFFFF;   // no phase of a run: its texts are drawn in no update

struct DiffusionOptions : WorkedExampleOptions {
  int64_t answer_length = 0, padding = 16, block = 0;
  bool block_curriculum = false;
  std::string weighting = "elbo", shifted = "auto", mask_token;
  DiffusionOptions() { clean = 1000000000; }

  void describe(Fields& f) {
    describe_texts(f);
    f.integer("answer_length", answer_length, {.low = 0, .high = 1e6, .unit = "tokens", .doc = "answers are padded to so many with their ending; 0: by a drawn number up to padding"});
    f.integer("padding", padding, {.low = 0, .high = 1e6, .unit = "tokens", .doc = "answer_length 0: most endings behind an answer"});
    f.integer("block", block, {.low = 0, .high = 1e6, .unit = "tokens", .doc = "block diffusion in blocks of so many; 0: every token sees all others"});
    f.flag("block_curriculum", block_curriculum, "start with blocks of one token and double them up to block over the phase");
    f.choice("weighting", weighting, {"elbo", "none"}, "of a masked token: 1 / (the share masked), which bounds the likelihood, or 1");
    f.choice("shifted", shifted, {"auto", "yes", "no"}, "logits of a row are about the next one; auto: where the run starts from a causal model");
    f.text("mask_token", mask_token, {.doc = "the tokenizer's token that stands for a masked one; empty: the model gets one more, which no text can contain"});
    describe_fit(f);
  }
  void validate() const {
    if (block_curriculum && block == 0) throw ConfigError("block_curriculum grows blocks up to trainer.block, which is 0: set it");
    if (block > 0 && answer_length % block != 0) throw ConfigError(fmt::format("answer_length {} is no multiple of block {}", answer_length, block));
  }
};

class DiffusionLearner final : public LanguageLearner {
 public:
  DiffusionLearner(DiffusionOptions options, const LanguageContext& context)
      : options_(std::move(options)),
        context_(context),
        scorer_(transformer(), {.shards = options_.shards, .forward = {.causal = false, .recompute_layers = options_.checkpoint_activations}, .compute = context.compute, .ranks = context.ranks}),
        optimiser_(transformer(), options_.adam.options(), options_.guard, *context.ranks) {
    TT_CHECK(transformer().config().diffusion.enabled(), "prepare() comes first");
  }

  Metrics update(int64_t update, double progress) override {
    const Stage stage = options_.stage_at(update);
    const int64_t block = block_at(progress);
    std::vector<DiffusionText> texts = draw(static_cast<uint32_t>(context_.phase), update, options_.rows_of(stage), stage, block);
    add_noise(texts, block, {context_.seed, static_cast<uint32_t>(context_.phase), static_cast<uint32_t>(update)});
    const DiffusionBatches packed = pack(texts, block);
    const double all = static_cast<double>(packed.answer_tokens);
    std::vector<double> losses(packed.batches.size());
    scorer_.backward(packed.batches, 1.0, [&](int64_t i, const Scorer::Rows& r) {
      for (size_t k = 0; k < r.logp.size(); ++k) {
        const double weight = packed.weight[r.row[k]] / all;
        losses[i] -= weight * r.logp[k];
        r.d_logp[k] = static_cast<float>(-weight);
      }
    }, *context_.pool);
    scorer_.share(losses);
    double loss = 0;
    for (const double l : losses) loss += l;
    const double lr = options_.schedule.at(options_.lr, progress);
    const double norm = optimiser_.step(lr, options_.max_grad_norm, loss, [&] { return dump(context_.run_folder, packed.batches); });
    Metrics out{{"train/loss", loss}, {"train/grad_norm", norm}, {"train/lr", lr}, {"train/tokens", all},
                {"train/masked", static_cast<double>(packed.weight.size()) / all}};
    if (options_.block > 0) out.push_back({"train/block", static_cast<double>(block)});
    return optimiser_.with_guard(std::move(out));
  }

  // The bound on the negative log-likelihood per token, of texts that are in no update, always with the same masks.
  Metrics evaluate() override {
    const int64_t block = transformer().config().diffusion.block;
    std::vector<DiffusionText> texts = draw(kEvaluationPhase, 0, kEvaluationTexts, options_.clean > 0 ? Stage::kClean : Stage::kVerbose, block);
    add_noise(texts, block, {context_.seed, kEvaluationPhase, 0});
    const DiffusionBatches packed = pack(texts, block);
    std::vector<double> losses(packed.batches.size());
    scorer_.score(packed.batches, 1.0, [&](int64_t i, const Scorer::Rows& r) {
      for (size_t k = 0; k < r.logp.size(); ++k) losses[i] -= packed.weight[r.row[k]] * r.logp[k];
    }, *context_.pool);
    scorer_.share(losses);
    double loss = 0;
    for (const double l : losses) loss += l / static_cast<double>(packed.answer_tokens);
    return {{"eval/diffusion_loss", loss}};
  }

  void save(Checkpoint& checkpoint) override { optimiser_.save(checkpoint); }
  void load(const Checkpoint& checkpoint) override { optimiser_.load(checkpoint); }
  int64_t steps() const override { return options_.steps; }
  double until_accuracy() const override { return options_.until_accuracy; }
  double temperature() const override { return 0; }
  int64_t answer_tokens() const override { return options_.answer_length; }

 private:
  const Transformer& transformer() const { return *context_.model->transformer; }

  DiffusionBatches pack(std::span<const DiffusionText> texts, int64_t block) const {
    DiffusionConfig model = transformer().config().diffusion;
    model.block = block;
    return pack_diffusion(texts, model, options_.weighting == "elbo", {.token_budget = options_.token_budget, .at_least = options_.shards});
  }

  int64_t block_at(double progress) const {
    if (!options_.block_curriculum) return options_.block;
    int64_t stages = 1;
    while ((int64_t{1} << (stages - 1)) < options_.block) ++stages;
    const auto stage = std::min(stages - 1, static_cast<int64_t>(progress * static_cast<double>(stages)));
    return std::min(options_.block, int64_t{1} << stage);
  }

  std::vector<DiffusionText> draw(uint32_t phase, int64_t update, int64_t rows, Stage stage, int64_t block) const {
    std::vector<DiffusionText> out;
    for (int64_t i = 0; i < rows; ++i) {
      const uint64_t index = options_.index_of(phase, update, i);
      const TokenExample e = context_.environment->example(*context_.model->tokenizer, stage, {.seed = context_.seed, .index = index});
      // What stands in front of what is learned is as good as prompt.
      DiffusionText text{.prompt = e.prompt, .answer = {e.reply.begin() + e.loss_begin, e.reply.begin() + e.loss_end}, .p_mask = {}, .masked = {}};
      text.prompt.insert(text.prompt.end(), e.reply.begin(), e.reply.begin() + e.loss_begin);
      if (e.loss_end == static_cast<int64_t>(e.reply.size())) pad(text, index, block);   // a single fact does not end
      check_length(text), check_tokens(text);
      out.push_back(std::move(text));
    }
    return out;
  }

  // With its last token, the ending.
  void pad(DiffusionText& text, uint64_t index, int64_t block) const {
    int64_t length = static_cast<int64_t>(text.answer.size());
    const std::vector<int32_t> stop = context_.environment->stop_ids(*context_.model->tokenizer);
    if (length == 0 || std::find(stop.begin(), stop.end(), text.answer.back()) == stop.end())
      throw ConfigError("a text has no ending to pad it with: give the tokenizer an eos_token (tokenizer_config.json)");
    if (options_.answer_length > 0 && length > options_.answer_length)
      throw DataError(fmt::format("an answer of the corpus has {} tokens, and trainer.answer_length is {}: raise it, or leave long texts out", length, options_.answer_length));
    Draws draws(context_.seed, Stream::kToken, static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0xFFFFFFFE);
    length = options_.answer_length > 0 ? options_.answer_length : length + draws.below(static_cast<uint32_t>(options_.padding) + 1);
    if (block > 0) length = (length + block - 1) / block * block;
    text.answer.resize(length, text.answer.back());
  }

  // A text may name the mask where trainer.mask_token is one of the tokenizer's own.
  void check_tokens(const DiffusionText& text) const {
    const auto mask = static_cast<int32_t>(transformer().config().diffusion.mask_id);
    const auto has = [&](const std::vector<int32_t>& ids) { return std::find(ids.begin(), ids.end(), mask) != ids.end(); };
    if (has(text.prompt) || has(text.answer))
      throw DataError(fmt::format("a text of the corpus holds token {}, which is the mask: name another trainer.mask_token, leave the key out for a token of its own, or take it out of the texts", mask));
  }
  void check_length(const DiffusionText& text) const {
    const int64_t length = static_cast<int64_t>(text.prompt.size() + text.answer.size()), most = transformer().config().max_positions;
    if (length > most)
      throw DataError(fmt::format("a text of the corpus has {} tokens with its padding, but the model has {} positions; raise policy.architecture.max_positions "
                                  "or leave long texts out", length, most));
  }

  DiffusionOptions options_;
  LanguageContext context_;
  Scorer scorer_;
  FlatOptimiser optimiser_;
};

DiffusionOptions read(const Config& trainer) {
  DiffusionOptions options;
  trainer.read(options, {"preset"});
  return options;
}

// The mask token and the way the model is read, in place of its causal self.
void prepare(LanguageModel& model, const Config& trainer, bool fresh) {
  const DiffusionOptions options = read(trainer);
  const TransformerConfig& config = model.transformer->config();
  DiffusionConfig wanted = config.diffusion;
  wanted.block = options.block;
  if (!options.mask_token.empty()) {
    const std::optional<int32_t> id = model.tokenizer->token_id(options.mask_token);
    if (!id) trainer.fail("mask_token", fmt::format("'{}' is no token of the tokenizer: name one of its tokens, or leave this key out for one more", options.mask_token));
    if (wanted.enabled() && wanted.mask_id != *id)
      trainer.fail("mask_token", fmt::format("is token {}, but the model's mask is token {}: leave this key out", *id, wanted.mask_id));
    wanted.mask_id = *id;
  }
  const bool was = config.diffusion.enabled();
  if (!was) wanted.shifted = options.shifted == "auto" ? !fresh : options.shifted == "yes";
  if (was && options.shifted != "auto" && (options.shifted == "yes") != wanted.shifted)
    trainer.fail("shifted", fmt::format("the model's logits are {}shifted already: leave this key out", wanted.shifted ? "" : "not "));
  if (!wanted.enabled()) wanted.mask_id = config.vocab_size;
  if (wanted.block > config.max_positions) trainer.fail("block", fmt::format("{} is more than the model's {} positions", wanted.block, config.max_positions));
  if (wanted != config.diffusion) model.transformer = std::make_unique<Transformer>(model.transformer->as_diffusion(wanted));
}

TT_REGISTER(LanguageLearnerEntry, diffusion,
            {.name = "diffusion",
             .doc = "masked diffusion: a model learns to fill in masked tokens of worked examples, in any order or block by block",
             .make = [](const Config& trainer, const LanguageContext& context) -> std::unique_ptr<LanguageLearner> {
               return std::make_unique<DiffusionLearner>(read(trainer), context);
             },
             .resolved = [](const Config& trainer) { return yaml_of(read(trainer)); },
             .steps = [](const Config& trainer) { return read(trainer).steps; },
             .batch = [](const Config& trainer) { return read(trainer).batch(); },
             .help = [](const std::string&) { return help_of<DiffusionOptions>(); },
             .prepare = prepare});

}  // namespace
}  // namespace trimtab
