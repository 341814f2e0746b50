// Distillation of a draft model from its target, so that more of its drafts are accepted: the expected acceptance is 1 less half the L1 distance
// of the two distributions (Leviathan et al., arXiv 2211.17192), which forward KL bounds.
//
//   tokens: all         KL(target || draft) at every token of a reply (DistillSpec, arXiv 2310.08461)
//   tokens: selective   only where the draft is furthest behind a reference draft: the `share` of tokens with the largest KL(draft) - KL(reference)
//                       (AdaSPEC, arXiv 2510.19779); the reference is the model the run started from, distilled already
//   tokens: rejected    only where a token drawn from the draft is rejected by the target: what serving sees for free (Online Speculative
//                       Decoding, arXiv 2310.07177)
//
// Replies are the target's own, sampled anew in every update (texts: target), or those of the environment's corpus.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <numeric>

#include "core/random.h"
#include "core/registry.h"
#include "engine/generation/generator.h"
#include "engine/speculative/token_distribution.h"
#include "trainers/language/learner.h"
#include "trainers/language/gradient_shards.h"
#include "trainers/language/packing.h"
#include "trainers/language/shared_work.h"
#include "trainers/language/tools.h"
#include "trainers/policy_gradient/options.h"

namespace trimtab {
namespace {

struct DistillOptions {
  std::string teacher, texts = "target", tokens = "all";
  int64_t steps = 0, rows = 40, max_tokens = 192, token_budget = 4096, shards = 4;
  double share = 0.4, temperature = 1, lr = 1e-3, max_grad_norm = 1;
  ScheduleBlock schedule{.kind = "cosine", .end = 0.05, .warmup = 0.03};
  AdamBlock adam{.beta1 = 0.9, .beta2 = 0.98, .epsilon = 1e-8, .weight_decay = 0.01};
  GuardBlock guard;

  void describe(Fields& f) {
    f.text("teacher", teacher, {.doc = "the target: a run or a Hugging Face folder with the same tokenizer"});
    f.choice("texts", texts, {"target", "corpus"}, "replies: sampled from the target, or the environment's own");
    f.choice("tokens", tokens, {"all", "selective", "rejected"}, "where the loss is: everywhere, where the draft is furthest behind where it started, where a draft is rejected");
    f.number("share", share, {.low = 0.01, .high = 1, .doc = "tokens selective: of all tokens"});
    f.number("temperature", temperature, {.low = 0.05, .high = 10, .doc = "of both distributions and of the target's replies: what drafts will be verified at"});
    f.integer("steps", steps, {.low = 0, .high = 1e9, .unit = "updates", .doc = "updates to train for, when there are no phases"});
    f.integer("rows", rows, {.low = 1, .high = 1e6, .doc = "texts per update"});
    f.integer("max_tokens", max_tokens, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "longest reply of the target"});
    f.number("lr", lr, {.low = 0, .high = 1, .doc = "step size"});
    f.block("schedule", schedule, "the step size over a phase");
    f.block("adam", adam, "the optimiser");
    f.block("guard", guard, "bad numbers and spikes");
    f.number("max_grad_norm", max_grad_norm, {.low = 0, .doc = "largest gradient norm; 0: any"});
    f.integer("token_budget", token_budget, {.low = 16, .high = 1e8, .unit = "tokens", .doc = "tokens of a micro-batch"});
    f.integer("shards", shards, {.low = 1, .high = 1024, .doc = "logical parts of an update: part of the result, the number of threads is not"});
  }
};

at::Tensor log_law(const Transformer& model, const MicroBatch& b, double temperature) {
  const at::Tensor hidden = model.hidden(b.tokens, b.trie).index_select(0, b.predictor);
  return at::log_softmax(at::linear(hidden, model.head()) / temperature, -1);   // [S, vocab]
}
at::Tensor kl_rows(const at::Tensor& log_p, const at::Tensor& log_q) { return (log_p.exp() * (log_p - log_q)).sum(-1); }   // [S] nats

class DistillLearner final : public LanguageLearner {
 public:
  DistillLearner(DistillOptions options, const LanguageContext& context)
      : options_(std::move(options)), context_(context), teacher_(read_teacher()), generator_(*teacher_.transformer), shards_(student(), options_.shards, *context.ranks), optimiser_(student(), options_.adam.options(), options_.guard, *context.ranks) {
    if (options_.tokens == "selective") reference_ = std::make_unique<LanguageModel>(context_.load_start());
  }

  Metrics update(int64_t update, double progress) override {
    const std::vector<MicroBatch> batches = batches_of(options_.texts == "target" ? sampled(Split::kTrain, update) : corpus(update));
    std::vector<Sums> sums(batches.size());
    int64_t scored = 0;
    for (const MicroBatch& b : batches) scored += static_cast<int64_t>(b.row.size());
    shards_.backward(static_cast<int64_t>(batches.size()), [&](const Transformer& replica, int64_t i) { sums[i] = learn(replica, batches[i], update, i, scored); }, *context_.pool);
    shards_.share(sums);
    Sums all;
    for (const Sums& s : sums) all.kl += s.kl, all.acceptance += s.acceptance, all.learned += s.learned;
    const double lr = options_.schedule.at(options_.lr, progress), n = static_cast<double>(scored),
                 norm = optimiser_.step(lr, options_.max_grad_norm, all.kl / n, [&] { return dump(context_.run_folder, batches); });
    return optimiser_.with_guard({{"train/loss", all.kl / n}, {"train/acceptance", all.acceptance / n}, {"train/learned_share", all.learned / n}, {"train/grad_norm", norm},
                                  {"train/lr", lr}, {"train/tokens", n}});
  }
  // What it is for: how many of its tokens the target would take, in replies to problems that no update draws.
  Metrics evaluate() override {
    const at::NoGradGuard no_grad;
    double acceptance = 0, tokens = 0;
    if (validation_.empty()) validation_ = batches_of(sampled(Split::kValidation, 0));   // the target's replies stay what they are
    for (const MicroBatch& b : validation_) {
      const at::Tensor p = log_law(*teacher_.transformer, b, options_.temperature).exp(), q = log_law(student(), b, options_.temperature).exp();
      acceptance += at::minimum(p, q).sum().item<double>(), tokens += static_cast<double>(b.row.size());
    }
    return {{"eval/acceptance", acceptance / tokens}};
  }
  std::string judged_by() const override { return "eval/acceptance"; }
  void save(Checkpoint& checkpoint) override { optimiser_.save(checkpoint); }
  void load(const Checkpoint& checkpoint) override { optimiser_.load(checkpoint); }
  int64_t steps() const override { return options_.steps; }
  double temperature() const override { return options_.temperature; }

 private:
  struct Sums {
    double kl = 0, acceptance = 0, learned = 0;
  };
  const Transformer& student() const { return *context_.model->transformer; }

  LanguageModel read_teacher() const {
    LanguageModel out = load_model({options_.teacher, "best"});
    if (out.tokenizer->hash() != context_.model->tokenizer->hash())
      throw ConfigError(fmt::format("trainer.teacher: {} has another tokenizer than the draft model: train the draft from the target's tokenizer", options_.teacher));
    return out;
  }

  std::vector<TokenExample> corpus(int64_t update) const {
    std::vector<TokenExample> out;
    for (int64_t i = 0; i < options_.rows; ++i)
      out.push_back(context_.environment->example(*context_.model->tokenizer, Stage::kVerbose, {.seed = context_.seed, .index = index_of(update, i)}));
    return out;
  }
  uint64_t index_of(int64_t update, int64_t i) const { return (context_.phase << 48) + static_cast<uint64_t>(update * options_.rows + i); }

  std::vector<MicroBatch> batches_of(const std::vector<TokenExample>& texts) const {
    std::vector<PackedGroup> groups;
    int64_t rows = 0;
    for (const TokenExample& e : texts) {
      groups.push_back({e.prompt, {{e.reply, rows, e.loss_begin, e.loss_end}}});
      rows += static_cast<int64_t>(e.reply.size());
    }
    return pack(groups, {.token_budget = options_.token_budget, .at_least = options_.shards});
  }

  // What the target answers to problems of a split.
  std::vector<TokenExample> sampled(Split split, int64_t update) {
    std::vector<GenerationRequest> requests;
    for (int64_t i = 0; i < options_.rows; ++i) {
      const uint64_t index = index_of(update, i);
      requests.push_back({.prompt = context_.environment->prompt_tokens(*context_.model->tokenizer, context_.environment->problem(split, context_.seed, index)),
                          .key = index});
    }
    const StopRules stop{context_.environment->stop_ids(*context_.model->tokenizer), context_.environment->stop_strings(), context_.model->tokenizer.get()};
    std::vector<TokenExample> out;
    const SamplingOptions sampling{.max_tokens = options_.max_tokens, .temperature = options_.temperature};
    const auto generate = [&](std::span<const GenerationRequest> own) { return generator_.generate(own, sampling, stop, context_.seed, *context_.pool); };
    for (Completion& c : complete_over_ranks(requests, *context_.ranks, generate)) {
      const int64_t size = static_cast<int64_t>(c.tokens.size());
      out.push_back({std::move(requests[c.request].prompt), std::move(c.tokens), 0, size});
    }
    return out;
  }

  Sums learn(const Transformer& student, const MicroBatch& b, int64_t update, int64_t number, int64_t scored) const {
    at::Tensor log_p, behind;
    {
      const at::NoGradGuard no_grad;
      log_p = log_law(*teacher_.transformer, b, options_.temperature);
      if (reference_ != nullptr) behind = -kl_rows(log_p, log_law(*reference_->transformer, b, options_.temperature));
    }
    const at::Tensor log_q = log_law(student, b, options_.temperature), kl = kl_rows(log_p, log_q);
    const at::Tensor weight = weights(log_p, log_q.detach(), kl.detach(), behind, update, number);
    const double share = options_.tokens == "selective" ? options_.share : 1;   // so that a step is as long whatever the share
    ((kl * weight).sum() / (static_cast<double>(scored) * share)).backward();
    const at::NoGradGuard no_grad;
    return {kl.sum().item<double>(), at::minimum(log_p.exp(), log_q.exp()).sum().item<double>(), weight.sum().item<double>()};
  }

  // [S]: 1 where a token is learned, else 0.
  at::Tensor weights(const at::Tensor& log_p, const at::Tensor& log_q, const at::Tensor& kl, const at::Tensor& behind, int64_t update, int64_t number) const {
    const int64_t rows = kl.numel();
    at::Tensor out = at::ones_like(kl);
    if (options_.tokens == "selective") {
      const at::Tensor order = (kl + behind).argsort(-1, true);   // how far this draft is behind the reference, furthest first
      out.zero_().index_fill_(0, order.narrow(0, 0, std::max<int64_t>(1, static_cast<int64_t>(options_.share * static_cast<double>(rows)))), 1);
    }
    if (options_.tokens == "rejected") {
      Draws draws(context_.seed, Stream::kToken, static_cast<uint32_t>(context_.phase), static_cast<uint32_t>(update), static_cast<uint32_t>(number));
      const at::Tensor q = log_q.exp().contiguous();
      for (int64_t r = 0; r < rows; ++r) {
        const float u = draws.uniform(), coin = draws.uniform();
        const int64_t y = draw_token(q.data_ptr<float>() + r * q.size(1), q.size(1), u);
        if (coin < (log_p[r][y] - log_q[r][y]).exp().item<float>()) out[r] = 0;
      }
    }
    return out;
  }

  DistillOptions options_;
  LanguageContext context_;
  LanguageModel teacher_;
  std::unique_ptr<LanguageModel> reference_;
  std::vector<MicroBatch> validation_;
  Generator generator_;
  GradientShards shards_;
  FlatOptimiser optimiser_;
};

DistillOptions read(const Config& trainer) {
  DistillOptions options;
  trainer.read(options, {"preset"});
  if (options.teacher.empty()) trainer.fail("teacher", "missing: the target that the draft model learns from, a run or a Hugging Face folder");
  return options;
}

TT_REGISTER(LanguageLearnerEntry, distill,
            {.name = "distill",
             .doc = "a draft model learns its target's distribution: everywhere, on selected tokens (AdaSPEC), or on rejected ones",
             .make = [](const Config& trainer, const LanguageContext& context) -> std::unique_ptr<LanguageLearner> {
               return std::make_unique<DistillLearner>(read(trainer), context);
             },
             .resolved = [](const Config& trainer) { return yaml_of(read(trainer)); },
             .steps = [](const Config& trainer) { return read(trainer).steps; },
             .batch =
                 [](const Config& trainer) {
                   const DistillOptions o = read(trainer);
                   return LanguageBatch{.prompts = o.rows, .max_tokens = o.texts == "target" ? o.max_tokens : 0, .token_budget = o.token_budget, .shards = o.shards};
                 },
             .help = [](const std::string&) { return help_of<DistillOptions>(); }});

}  // namespace
}  // namespace trimtab
