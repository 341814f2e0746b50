// Training of the routers of a mixture over adapters (policies/language/adapter_mixture; DynMoLE, arXiv 2504.00661) on worked examples of
// several tasks: next-token loss plus the routers' own. The model of the run is the frozen base, so its `eval/` figures are the base's; the
// mixture's are `mixture/`, and the best mixture so far lies in RUN/mixture, whole but for the base.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/registry.h"
#include "policies/language/adapter_base.h"
#include "policies/language/adapter_mixture/mixture.h"
#include "policies/language/floats.h"
#include "policies/language/ops/linear_logprob.h"
#include "trainers/language/evaluate.h"
#include "trainers/language/gradient_shards.h"
#include "trainers/language/packing.h"
#include "trainers/language/worked_examples.h"

namespace trimtab {
namespace {

constexpr uint64_t kProblemSeed = 20240229;   // the run's own: base and mixture answer the same validation problems

struct AdapterMixtureOptions : WorkedExampleOptions {
  std::vector<std::string> adapters;
  TsallisRouting routing;
  RouterLossWeights losses;
  int64_t episodes = 128, max_tokens = 128;

  AdapterMixtureOptions() { lr = 1e-2, adam.weight_decay = 0; }
  void describe(Fields& f) {
    f.texts("adapters", adapters, {.doc = "adapters of policy.model: PEFT folders, or runs that trained one"});
    f.block("routing", routing, "which adapters a token goes to");
    f.number("entropy_loss", losses.entropy, {.low = 0, .high = 1e6, .doc = "weight of the routers' mean Tsallis entropy in the loss"});
    f.number("balance_loss", losses.balance, {.low = 0, .high = 1e6, .doc = "weight of how unevenly the adapters are used"});
    f.integer("episodes", episodes, {.low = 1, .high = 1e6, .unit = "problems", .doc = "validation problems that the mixture answers at every evaluation"});
    f.integer("max_tokens", max_tokens, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "longest such answer"});
    describe_texts(f);
    f.number("lr", lr, {.low = 0, .high = 1, .doc = "step size"});
    f.block("schedule", schedule, "the step size over a phase");
    f.block("adam", adam, "the optimiser");
    f.block("guard", guard, "bad numbers and spikes");
    f.number("max_grad_norm", max_grad_norm, {.low = 0, .doc = "largest gradient norm; 0: any"});
    f.integer("token_budget", token_budget, {.low = 16, .high = 1e8, .unit = "tokens", .doc = "tokens of a micro-batch, over which the routers' losses are means"});
    f.integer("shards", shards, {.low = 1, .high = 1024, .doc = "logical parts of an update: part of the result, the number of threads is not"});
  }
};

std::vector<Transformer> read_adapters(const Transformer& base, const std::string& base_name, const std::vector<std::string>& paths) {
  std::vector<Transformer> out;
  for (const std::string& path : paths) out.push_back(read_adapter(base, base_name, path));
  return out;
}

class AdapterMixtureLearner final : public LanguageLearner {
 public:
  AdapterMixtureLearner(AdapterMixtureOptions options, const LanguageContext& context)
      : options_(std::move(options)), context_(context), own_shards_(own_shards(options_.shards, *context.ranks)), mixture_(make()), adam_(mixture_.routers().numel(), options_.adam.options()), guard_(options_.guard) {}

  Metrics update(int64_t update, double progress) override {
    const std::vector<TokenExample> examples = draw(update);
    const std::vector<MicroBatch> batches = batches_of(examples);
    int64_t scored = 0, tokens = 0;
    for (const MicroBatch& b : batches) scored += static_cast<int64_t>(b.row.size()), tokens += b.tokens.numel();
    std::vector<Sums> shards;
    for (int64_t s = own_shards_.first; s < own_shards_.second; ++s) shards.push_back(no_sums());
    context_.pool->run(std::ssize(shards), [&](int64_t own) {
      at::set_num_threads(1);
      for (size_t i = own_shards_.first + own; i < batches.size(); i += static_cast<size_t>(options_.shards)) shards[own].add(learn(batches[i], scored, tokens));
    });
    const Sums all = sum_over_ranks(shards);
    const double loss = all.loss / static_cast<double>(scored), lr = options_.schedule.at(options_.lr, progress);
    const double norm = step(all.gradient, loss + all.router_loss, lr, batches);
    const double decisions = static_cast<double>(tokens * mixture_.config().num_layers);
    Metrics out = {{"train/loss", loss}, {"train/router_loss", all.router_loss}, {"train/soft_share", static_cast<double>(all.soft) / decisions},
                   {"train/grad_norm", norm}, {"train/lr", lr}, {"train/tokens", static_cast<double>(tokens)}};
    for (int64_t i = 0; i < mixture_.experts(); ++i) out.push_back({fmt::format("train/weight_{}", i + 1), all.weights[i].item<double>() / decisions});
    for (auto& count : guard_.metrics()) out.push_back(std::move(count));
    return out;
  }

  Metrics evaluate() override {
    Metrics out;
    if (!compared_) {   // the adapters alone do not change
      compared_ = true;
      compare(out);
    }
    const Answers found = answer(mixture_);
    out.push_back({"mixture/accuracy", found.accuracy});
    out.push_back({"mixture/tokens", found.tokens});
    for (const auto& [tier, accuracy] : found.by_tier) out.push_back({fmt::format("mixture/accuracy_tier_{}", tier), accuracy});
    if (found.accuracy >= best_) {
      best_ = found.accuracy;
      write();
    }
    return out;
  }
  std::string judged_by() const override { return "mixture/accuracy"; }

  void save(Checkpoint& checkpoint) override {
    expect_finite();
    if (best_ < 0) write();   // nothing is evaluated: the latest
    checkpoint.state.tensors["mixture.routers"] = Tensor::f32(mixture_.routers().sizes().vec(), floats(mixture_.routers()));
    checkpoint.state.tensors["adam.m"] = Tensor::f32({mixture_.routers().numel()}, adam_.first_moment());
    checkpoint.state.tensors["adam.v"] = Tensor::f32({mixture_.routers().numel()}, adam_.second_moment());
    checkpoint.counters["adam_steps"] = adam_.steps();
    checkpoint.counters["mixture_best"] = best_;
    checkpoint.counters["mixture_compared"] = compared_;
    checkpoint.counters["guard"] = guard_.to_json();
  }
  void load(const Checkpoint& checkpoint) override {
    const auto take = [&](const char* name, std::span<float> into) {
      const std::span<const float> from = checkpoint.state.at(name).as_f32();
      if (from.size() != into.size())
        throw CheckpointError(fmt::format("'{}' has {} numbers, the mixture of this configuration {}: were trainer.adapters others?", name, from.size(), into.size()));
      std::copy(from.begin(), from.end(), into.begin());
    };
    take("mixture.routers", floats(mixture_.routers()));
    take("adam.m", adam_.first_moment());
    take("adam.v", adam_.second_moment());
    adam_.set_steps(checkpoint.counters.at("adam_steps").get<int64_t>());
    best_ = checkpoint.counters.at("mixture_best").get<double>();
    compared_ = checkpoint.counters.value("mixture_compared", false);   // neither is in older checkpoints
    if (checkpoint.counters.contains("guard")) guard_.restore(checkpoint.counters.at("guard"));
  }
  int64_t steps() const override { return options_.steps; }

 private:
  struct Sums {
    at::Tensor gradient, weights;   // as routers(); [N], over rows and layers
    double loss = 0, router_loss = 0;
    int64_t soft = 0;
    void add(const Sums& x) {
      gradient.add_(x.gradient), weights.add_(x.weights);
      loss += x.loss, router_loss += x.router_loss, soft += x.soft;
    }
    std::vector<double> numbers() const {
      std::vector<double> out(weights.data_ptr<double>(), weights.data_ptr<double>() + weights.numel());
      out.insert(out.end(), {loss, router_loss, static_cast<double>(soft)});
      return out;
    }
  };
  struct Answers {
    double accuracy = 0, tokens = 0;
    std::map<int, double> by_tier;   // where problems are of several
    std::vector<char> solved;        // by problem
  };

  Sums no_sums() const { return {.gradient = at::zeros_like(mixture_.routers()), .weights = at::zeros({mixture_.experts()}, at::kDouble)}; }

  // In halves, here as among ranks: any number of ranks that is a power of two adds the same numbers in the same order.
  Sums sum_over_ranks(std::vector<Sums>& shards) const {
    std::vector<std::vector<double>> numbers;
    std::vector<std::span<double>> number_parts;
    std::vector<std::span<float>> gradient_parts;
    for (const Sums& s : shards) numbers.push_back(s.numbers()), gradient_parts.push_back(floats(s.gradient));
    for (std::vector<double>& n : numbers) number_parts.emplace_back(n);
    const std::span<double> all = tree_sum<double>(number_parts);
    context_.ranks->sum(all);
    context_.ranks->sum(tree_sum<float>(gradient_parts));
    Sums out = std::move(shards[0]);
    std::copy_n(all.begin(), out.weights.numel(), out.weights.data_ptr<double>());
    const double* rest = all.data() + out.weights.numel();
    out.loss = rest[0], out.router_loss = rest[1], out.soft = static_cast<int64_t>(rest[2]);
    return out;
  }

  AdapterMixture make() const {
    const Transformer& base = *context_.model->transformer;
    if (base.adapter()) throw ConfigError("policy.lora and policy.adapter: the adapters of a mixture are named in trainer.adapters; leave these out");
    if (context_.compute.device() != at::Device(at::kCPU) || context_.compute.dtype() != at::kFloat)
      throw ConfigError("a mixture trains on the CPU in f32: set run.device to cpu and run.precision to f32 or auto");
    return AdapterMixture(base, read_adapters(base, context_.start_name, options_.adapters), options_.routing);
  }

  std::vector<TokenExample> draw(int64_t update) const {
    const Stage stage = options_.stage_at(update);
    std::vector<TokenExample> out;
    for (int64_t i = 0; i < options_.rows_of(stage); ++i)
      out.push_back(context_.environment->example(*context_.model->tokenizer, stage, {.seed = context_.seed, .index = options_.index_of(context_.phase, update, i)}));
    return out;
  }
  std::vector<MicroBatch> batches_of(const std::vector<TokenExample>& examples) const {
    std::vector<PackedGroup> groups;
    int64_t rows = 0;
    for (const TokenExample& e : examples) {
      groups.push_back({e.prompt, {{e.reply, rows, e.loss_begin, e.loss_end}}});
      rows += static_cast<int64_t>(e.reply.size());
    }
    return pack(groups, {.token_budget = options_.token_budget, .at_least = options_.shards});
  }

  // Routing refuses probabilities that are none: then the loss is none, on every rank, and the guard decides.
  Sums learn(const MicroBatch& b, int64_t scored, int64_t tokens) const {
    try {
      return gradient_of(b, scored, tokens);
    } catch (const NonFiniteRouting&) {
      Sums out = no_sums();
      out.loss = NAN;
      return out;
    }
  }
  // A micro-batch's part of the loss: its scored tokens of the update's, and the routers' loss by its share of all tokens.
  Sums gradient_of(const MicroBatch& b, int64_t scored, int64_t tokens) const {
    const MixturePass pass = mixture_.forward(b.tokens, b.trie);
    const at::Tensor logp = std::get<0>(linear_logprob(pass.hidden.index_select(0, b.predictor), mixture_.head(), b.tokens.index_select(0, b.scored)));
    const double share = static_cast<double>(b.tokens.numel()) / static_cast<double>(tokens);
    const at::Tensor task = -logp.sum(), routers = share * mixture_.router_loss(pass, options_.losses);
    Sums out{.gradient = torch::autograd::grad({task / static_cast<double>(scored) + routers}, {mixture_.routers()})[0],
             .weights = at::zeros({mixture_.experts()}, at::kDouble), .loss = task.item<double>(), .router_loss = routers.item<double>(), .soft = pass.soft};
    for (const at::Tensor& w : pass.weights) out.weights.add_(w.detach().to(at::kDouble).sum(0));
    return out;
  }

  double step(const at::Tensor& gradient, double loss, double lr, std::span<const MicroBatch> batches) {
    const at::Tensor flat = gradient.contiguous();
    const double norm = flat.to(at::kDouble).norm().item<double>();
    const bool take = guard_.take(loss, norm, [&] {
      const char* what = !is_finite() ? "a router" : std::isfinite(loss) ? "the gradient of the routers" : "the loss";
      return fmt::format("{} is not finite; lower trainer.lr, or look at the batch{}", what,
                         context_.ranks->is_main() ? ": " + dump(context_.run_folder, batches) : " that rank 0 has dumped");
    });
    if (take) {
      const double scale = options_.max_grad_norm > 0 && norm > options_.max_grad_norm ? options_.max_grad_norm / norm : 1;
      adam_.step(floats(mixture_.routers()), floats(flat), scale, lr);
    }
    return norm;
  }

  bool is_finite() const { return mixture_.routers().isfinite().all().item<bool>(); }
  void expect_finite() const {
    if (!is_finite()) throw RunError("a router is not finite: neither checkpoint nor mixture is written, the last ones stay; lower trainer.lr and run again");
  }
  void write() const {
    expect_finite();
    if (context_.ranks->is_main()) mixture_.write(context_.run_folder / "mixture");
  }

  std::vector<Problem> problems() const {
    const TextEnvironment& e = *context_.environment;
    const int64_t size = e.size(Split::kValidation);
    const int64_t count = size > 0 || e.size(Split::kTrain) > 0 ? std::min(options_.episodes, size) : options_.episodes;
    std::vector<Problem> out;
    for (int64_t i = 0; i < count; ++i) out.push_back(e.problem(Split::kValidation, kProblemSeed, i));
    return out;
  }

  // What every adapter solves alone, and what a perfect choice among them for each problem would.
  void compare(Metrics& out) const {
    std::vector<char> any;
    for (int64_t i = 0; i < mixture_.experts(); ++i) {
      std::vector<double> alone(mixture_.experts());
      alone[i] = 1;
      const Answers found = answer(mixture_.with_fixed_weights(alone));
      out.push_back({fmt::format("mixture/adapter_{}_alone", i + 1), found.accuracy});
      any.resize(found.solved.size());
      for (size_t k = 0; k < any.size(); ++k) any[k] = any[k] || found.solved[k];
    }
    out.push_back({"mixture/any_adapter_alone", static_cast<double>(std::count(any.begin(), any.end(), 1)) / static_cast<double>(any.size())});
  }

  // The likeliest answers to the validation problems, and how many the verifier takes.
  Answers answer(const AdapterMixture& mixture) const {
    const std::vector<Problem> asked = problems();
    const LanguageEvaluation e = evaluate_language(*context_.model, *context_.environment,
                                                   {.problems = asked, .sampling = {.max_tokens = options_.max_tokens, .temperature = 0}, .progress = {}, .mixture = &mixture}, *context_.pool);
    Answers out{.accuracy = e.accuracy(), .tokens = e.mean_tokens(), .by_tier = {}, .solved = {e.solved.begin(), e.solved.end()}};
    std::map<int, double> count;
    for (size_t i = 0; i < asked.size(); ++i) out.by_tier[asked[i].tier] += e.solved[i], ++count[asked[i].tier];
    for (auto& [tier, solved] : out.by_tier) solved /= count[tier];
    if (count.size() < 2) out.by_tier.clear();
    return out;
  }

  AdapterMixtureOptions options_;
  LanguageContext context_;
  std::pair<int64_t, int64_t> own_shards_;
  AdapterMixture mixture_;
  Adam adam_;
  StepGuard guard_;
  double best_ = -1;
  bool compared_ = false;
};

AdapterMixtureOptions read(const Config& trainer) {
  AdapterMixtureOptions options;
  trainer.read(options, {"preset"});
  if (options.adapters.empty()) trainer.fail("adapters", "missing: the adapters to mix, PEFT folders of policy.model or runs that trained one");
  return options;
}

TT_REGISTER(LanguageLearnerEntry, adapter_mixture,
            {.name = "adapter_mixture",
             .doc = "routers of a mixture over frozen adapters, soft or hard by their Tsallis entropy (DynMoLE)",
             .make = [](const Config& trainer, const LanguageContext& context) -> std::unique_ptr<LanguageLearner> {
               return std::make_unique<AdapterMixtureLearner>(read(trainer), context);
             },
             .resolved = [](const Config& trainer) { return yaml_of(read(trainer)); },
             .steps = [](const Config& trainer) { return read(trainer).steps; },
             .batch = [](const Config& trainer) { return read(trainer).batch(); },
             .help = [](const std::string&) { return help_of<AdapterMixtureOptions>(); }});

}  // namespace
}  // namespace trimtab
