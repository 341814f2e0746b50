// The diffusion benchmark: one process, a round asks every way of decoding for the same answers in turn. Whole generate() calls, packing of
// the weights included.
//
//   bench_diffusion --model RUN [--problems 16] [--judged 128] [--block B] [--length N] [--controller FILE [--threshold P]]
//
// A worker; RUN is a run folder of `trimtab train`, FILE a controller of token commitment for it, exported, and P the probability in percent from which it
// commits (its own unless it is given).
//
// Says first what every way makes of the judged problems (an answer does not depend on batch or threads) and which ones are compared: those as
// accurate as the best that commits one token per pass without a cache. Answers every round with their tokens/s and what rules take to decide.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>

#include "bench/worker.h"
#include "core/config.h"
#include "core/registry.h"
#include "core/text.h"
#include "engine/diffusion/diffusion_generator.h"
#include "envs/artefact_agents.h"
#include "envs/text_environment.h"
#include "envs/token_commit/agent_commit.h"
#include "envs/token_commit/rules.h"
#include "policies/language/pretrained.h"

namespace trimtab {
namespace {

constexpr double kAsGood = 0.01;   // accuracies that differ by no more count as equal
constexpr const char* kLearned = "the learned controller";
// What a pass takes does not depend on the weights: a controller's decisions are timed beside wider models too, whose weights are drawn.
constexpr std::pair<int64_t, int64_t> kWider[] = {{256, 4}, {512, 8}, {768, 12}};   // hidden size, layers
constexpr int64_t kWiderHead = 64;
constexpr size_t kWiderTimed = 4;   // problems, one token a pass or little more: nothing that drawn weights propose is worth committing

struct Way {
  std::string window, cache, rule;
  bool guarded = true;   // against early endings
  bool slow() const { return rule == "top1" && cache == "none"; }
  std::string name() const {
    return rule + ", " + (window == "full" ? "full window" : "blocks") + (cache == "none" ? ", no cache" : ", " + cache + " cache") + (guarded ? "" : ", no guard");
  }
};

// How carefully a rule must commit is the model's affair, so each is asked at several numbers.
std::vector<Way> ways(bool controller) {
  std::vector<Way> out;
  for (const bool guarded : {true, false}) {
    for (const char* window : {"full", "block"}) out.push_back({window, "none", "top1", guarded});
    for (const auto& [window, cache] : {std::pair{"full", "none"}, {"full", "delayed"}, {"block", "none"}, {"block", "prefix"}, {"block", "dual"}, {"block", "delayed"}})
      for (const char* rule : {"threshold_90", "threshold_95", "threshold_99", "factor_50", "factor_100"}) out.push_back({window, cache, rule, guarded});
    out.push_back({"block", "dual", "top1", guarded});
  }
  if (controller)
    for (const auto& [window, cache] : {std::pair{"full", "none"}, {"block", "prefix"}, {"block", "dual"}}) out.push_back({window, cache, kLearned});
  return out;
}

// Problems of the validation split, each once, and what an answer to them is worth.
struct Problems {
  std::unique_ptr<TextEnvironment> environment;
  std::vector<Problem> list;
  std::vector<GenerationRequest> requests;
  int64_t length = 0;   // of a canvas: asked for, else that of training

  Problems(const std::filesystem::path& run, const Tokenizer& tokenizer, int64_t count, int64_t asked) {
    const Config config = Config::load(run / "config.yaml"), env = config.at("env");
    environment = Registry<TextEnvironmentEntry>::instance().get(env.text("type", ""), "environment").make(env, {});
    length = asked > 0 ? asked : std::stoll(config.text("trainer.answer_length", "0"));
    if (length == 0) config.fail("trainer.answer_length", "is 0, but this benchmark wants answers of one length: name it by --length");
    std::set<std::string> seen;
    for (uint64_t i = 0; static_cast<int64_t>(list.size()) < count && i < 1000u * static_cast<uint64_t>(count); ++i) {
      Problem problem = environment->problem(Split::kValidation, 9, i);
      if (!seen.insert(problem.prompt).second) continue;
      requests.push_back({.prompt = environment->prompt_tokens(tokenizer, problem), .key = i});
      list.push_back(std::move(problem));
    }
  }
};

// Asks the rule and holds the watch.
class Watched final : public CommitControl {
 public:
  explicit Watched(CommitControl& rule) : rule_(rule) {}
  void choose(const CommitState& s, std::vector<int32_t>& picks) override {
    const auto start = Clock::now();
    rule_.choose(s, picks);
    seconds += seconds_since(start), ++decisions, masks += static_cast<int64_t>(s.masked.size());
  }
  CommitWindow open(const CommitState& s, CommitWindow proposed) override { return rule_.open(s, proposed); }
  CacheRefresh refresh(const CommitState& s) override { return rule_.refresh(s); }
  void begin(int64_t sequence) override { rule_.begin(sequence); }
  double seconds = 0;
  int64_t decisions = 0, masks = 0;

 private:
  CommitControl& rule_;
};

double clock_ns() {   // of looking at the watch
  std::vector<double> all;
  for (int i = 0; i < 2001; ++i) all.push_back(1e9 * seconds_since(Clock::now()));
  std::nth_element(all.begin(), all.begin() + 1000, all.end());
  return all[1000];
}

class Bench {
 public:
  explicit Bench(const Arguments& a)
      : model_(LanguageModel::load(a.values.at("--model"))), facts_(diffusion_model_of(model_.transformer->config())),
        problems_(a.values.at("--model"), *model_.tokenizer, a.number("--judged", 128), a.number("--length", 0)),
        timed_(std::min<size_t>(problems_.requests.size(), static_cast<size_t>(a.number("--problems", 16)))) {
    block_ = a.number("--block", 0);
    for (int64_t b = 1; block_ == 0 && b <= std::min<int64_t>(32, problems_.length / 2); ++b)   // two blocks or more
      if (problems_.length % b == 0 && (facts_.block == 0 || b % facts_.block == 0)) largest_ = b;
    if (block_ == 0) block_ = largest_;
    if (a.values.contains("--controller")) open_controller(a);
  }

  nlohmann::json about() {
    nlohmann::json judged, compared = nlohmann::json::array(), slow;
    double best = 0;
    const std::vector<Way> all = ways(controller_ != nullptr);
    for (const Way& way : all) {
      const auto [answers, times] = decode(way, problems_.requests, 16, two_);
      nlohmann::json& j = judged[way.name()];
      std::vector<std::string> replies;
      int64_t passes = 0, rows = 0, tokens = 0, forced = 0;
      for (const DiffusionCompletion& c : answers) {
        replies.push_back(model_.tokenizer->decode(c.tokens, {.skip_special = true}));
        passes += c.passes, rows += c.rows, tokens += made(c), forced += c.forced;
      }
      int64_t right = 0;
      for (const Verdict& v : problems_.environment->score(problems_.list, replies)) right += v.outcome >= 1;
      const double n = static_cast<double>(answers.size());
      j = {{"accuracy", right / n}, {"right", right}, {"problems", answers.size()}, {"passes", passes / n}, {"tokens", tokens / n}, {"rows", rows / n},
           {"forced", forced / n}};
      if (way.slow()) best = std::max(best, right / n);
    }
    for (const Way& way : all) {
      if (judged[way.name()]["accuracy"].get<double>() < best - kAsGood - 1e-9) continue;
      compared_.push_back(way);
      (way.slow() ? slow : compared).push_back(way.name());
    }
    return {{"ready", true}, {"judged", judged}, {"compared", compared}, {"slow", slow}, {"length", problems_.length}, {"block", block_}, {"parameters", model_.transformer->flat().numel()}};
  }

  nlohmann::json round() {
    nlohmann::json out;
    const auto timed = std::span(problems_.requests).first(timed_);
    for (const int64_t batch : {1, 8})
      for (Pool* pool : {&one_, &two_})
        for (const Way& way : compared_) {
          const auto start = Clock::now();
          const auto answers = decode(way, timed, batch, *pool).first;
          const double seconds = seconds_since(start);
          int64_t tokens = 0;
          for (const DiffusionCompletion& c : answers) tokens += made(c);
          out["rates"].push_back({{"way", way.name()}, {"batch", batch}, {"threads", pool->threads()}, {"rate", static_cast<double>(tokens) / seconds}});
        }
    for (const char* rule : {"threshold_90", "klass", "eb"})
      for (const Way& way : {Way{"full", "none", rule, false}, Way{"block", "dual", rule, false}}) out["decisions"].push_back(decisions(way, timed, *make_commit_rule(way.rule)));
    if (controller_) out["decisions"].push_back(decisions({"full", "none", kLearned}, timed, *controller_));
    for (const auto& wide : wider_) {
      out["decisions"].push_back(decisions({"full", "none", kLearned}, timed.first(std::min(timed_, kWiderTimed)), *controller_, wide.get()));
      out["decisions"].back()["way"] = fmt::format("{}, beside drawn weights of {:.1f} million parameters", kLearned, 1e-6 * static_cast<double>(wide->flat().numel()));
    }
    return out;
  }

 private:
  using Decoded = std::pair<std::vector<DiffusionCompletion>, DiffusionTimes>;

  // With its ending, where there is one: what stands behind it is nobody's text.
  static int64_t made(const DiffusionCompletion& c) { return static_cast<int64_t>(c.tokens.size()) + c.ended; }

  Decoded decode(const Way& way, std::span<const GenerationRequest> requests, int64_t batch, Pool& pool, CommitControl* control = nullptr, const Transformer* model = nullptr) {
    DiffusionGenerator generator(model != nullptr ? *model : *model_.transformer, facts_, {.max_sequences = batch, .length = problems_.length, .window = way.window, .block = block_,
                                                               .cache = way.cache, .eos_guard = way.guarded,
                                                               .divergence = way.rule == kLearned || way.rule.starts_with("klass"),
                                                               .hidden = way.rule == kLearned && projected_ > 0});
    if (way.rule == kLearned && control == nullptr) control = controller_.get();
    const auto rule = control == nullptr ? make_commit_rule(way.rule) : nullptr;
    auto answers = generator.generate(requests, {}, control != nullptr ? *control : *rule, pool);
    return {std::move(answers), generator.times()};
  }

  void open_controller(const Arguments& a) {
    const std::filesystem::path file = a.values.at("--controller");
    Config config = Config::parse("env:\n" + indented(artefact_origin(file).config), file.string());
    config.apply("env.model=" + a.values.at("--model"));   // a fitted one names none
    TokenCommitOptions options = token_commit_options(config.at("env"));
    const int64_t percent = a.number("--threshold", 0);
    if (percent > 0) options.threshold = static_cast<double>(percent) / 100;
    controller_ = std::make_unique<AgentCommit>(options, model_.transformer->config().hidden_size, artefact_agents(file)());
    projected_ = options.projected;
    if (projected_ > 0) return;   // it reads hidden states of one size
    for (const auto& [size, layers] : kWider) {
      TransformerConfig c = model_.transformer->config();
      c.hidden_size = size, c.num_layers = layers, c.head_dim = kWiderHead, c.num_heads = c.num_kv_heads = size / kWiderHead, c.intermediate_size = 4 * size;
      wider_.push_back(std::make_unique<Transformer>(c, 1));
    }
  }

  nlohmann::json decisions(const Way& way, std::span<const GenerationRequest> requests, CommitControl& rule, const Transformer* model = nullptr) {
    Watched watched(rule);
    const DiffusionTimes times = decode(way, requests, 1, one_, &watched, model).second;
    const double n = static_cast<double>(watched.decisions);
    return {{"way", way.name()}, {"ns", std::max(1.0, 1e9 * watched.seconds / n - clock_ns_)}, {"pass_ns", 1e9 * times.total_s / static_cast<double>(times.passes)},
            {"masks", static_cast<double>(watched.masks) / n}};
  }

  LanguageModel model_;
  DiffusionModel facts_;
  Problems problems_;
  std::vector<Way> compared_;
  size_t timed_;
  int64_t block_ = 0, largest_ = 1, projected_ = 0;
  std::unique_ptr<AgentCommit> controller_;
  std::vector<std::unique_ptr<Transformer>> wider_;
  Pool one_{1}, two_{2};
  double clock_ns_ = clock_ns();
};

}  // namespace
}  // namespace trimtab

int main(int count, char** words) {
  at::set_num_threads(1);
  const trimtab::Arguments a(count, words);
  try {
    trimtab::Bench bench(a);
    trimtab::serve(bench.about(), [&] { return bench.round(); });
  } catch (const std::exception& e) {
    std::cerr << "bench_diffusion: " << e.what() << std::endl;
    return 1;
  }
}
