// Our side of the GRPO step benchmark: updates of the group learner itself, as a run makes them (trainers/language/group.cpp), on an
// environment whose problems are given prompts and whose reward is a count of letters. A worker of bench/harness.py.
//
//   bench_grpo_step --make FOLDER                                              writes model, tokenizer and prompts, which both sides load
//   bench_grpo_step --model FOLDER --threads T --token-budget N --shards S     N bounds a micro-batch: the group is cut where it is full
//   perf record bench_grpo_step --model FOLDER --threads 1 --updates 20        without a harness
#include <ATen/Parallel.h>

#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "bench/worker.h"
#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/text.h"
#include "trainers/language/job.h"

namespace trimtab {
namespace {

constexpr int64_t kPrompt = 256, kReply = 64, kGroup = 8, kPrompts = 64;
constexpr int kLetters = 510;             // with <pad> and <eos> a vocabulary of 512
constexpr uint32_t kFirstLetter = 0x4E00;   // three bytes of UTF-8 each, to kFirstLetter + kLetters

std::string letter(uint32_t index) {
  const uint32_t c = kFirstLetter + index;
  return {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
}

// The share of a reply's letters that are of the first half of the alphabet; trl_grpo.py has the same.
double reward_of(const std::string& reply) {
  const std::string middle = letter(kLetters / 2);
  int64_t letters = 0, low = 0;
  for (size_t i = 0; i + 3 <= reply.size(); i += 3, ++letters) low += reply.compare(i, 3, middle) < 0;
  return static_cast<double>(low) / static_cast<double>(std::max<int64_t>(letters, 1));
}

class Letters final : public TextEnvironment {
 public:
  explicit Letters(std::vector<std::string> prompts) : prompts_(std::move(prompts)) {}
  int64_t size(Split) const override { return static_cast<int64_t>(prompts_.size()); }
  Problem problem(Split, uint64_t, uint64_t index) const override {
    return {.id = "letters:" + std::to_string(index), .prompt = prompts_[index], .answer = "", .tier = 0};
  }
  std::vector<int32_t> prompt_tokens(const Tokenizer& tokenizer, const Problem& problem) const override { return tokenizer.encode(problem.prompt); }
  std::vector<int32_t> stop_ids(const Tokenizer&) const override { return {}; }   // every reply has exactly kReply tokens
  std::vector<std::string> stop_strings() const override { return {}; }
  std::vector<Verdict> score(std::span<const Problem>, std::span<const std::string> replies) override {
    std::vector<Verdict> out;
    for (const std::string& reply : replies) out.push_back({.outcome = reward_of(reply), .well_formed = true});
    return out;
  }
  TokenExample example(const Tokenizer&, Stage, TextKey) const override { TT_CHECK(false, "{} has no worked examples ({})", "letters", 0); }
  std::string alphabet() const override { return ""; }
  std::vector<Problem> read_problems(const std::string&, bool) const override { return {}; }

 private:
  std::vector<std::string> prompts_;
};

int make(const std::filesystem::path& folder) {
  std::string alphabet;
  for (int i = 0; i < kLetters; ++i) alphabet += letter(i);
  const ArchitectureOptions architecture{.hidden_size = 256, .num_layers = 4, .num_heads = 4, .intermediate_size = 688};
  LanguageModel::create(architecture, {{"tokenizer.json", character_tokenizer_json(alphabet)}}, 1).save(folder);
  nlohmann::json prompts;
  for (uint32_t p = 0; p < kPrompts; ++p) {
    Draws draws(1, Stream::kTest, p);
    std::string prompt;
    for (int64_t i = 0; i < kPrompt; ++i) prompt += letter(draws.below(kLetters));
    prompts.push_back(prompt);
  }
  write_file_atomically(folder / "prompts.json", prompts.dump());
  return 0;
}

Config trainer_config(const Arguments& a) {
  return with_preset(Config::parse(
      fmt::format("{{preset: grpo, steps: 1000000, prompts: 1, group_size: {}, minibatches: 1, sampling: {{max_tokens: {}}}, max_grad_norm: 1, "
                  "token_budget: {}, shards: {}}}", kGroup, kReply, a.number("--token-budget", 8192), a.number("--shards", 1)),
      "trainer"));
}

class Stepper {
 public:
  explicit Stepper(const Arguments& a)
      : model_(LanguageModel::load(a.values.at("--model"))),
        environment_(nlohmann::json::parse(read_file(std::filesystem::path(a.values.at("--model")) / "prompts.json")).get<std::vector<std::string>>()),
        pool_(static_cast<int>(a.number("--threads", 1))) {
    const Config trainer = trainer_config(a);
    learner_ = learner_of(trainer).make(trainer, {.model = &model_, .environment = &environment_, .pool = &pool_, .seed = 1,
                                                  .phase = 0, .run_folder = {}, .load_start = {}});
  }
  nlohmann::json step() {
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t processor = std::clock();
    const LanguageLearner::Metrics metrics = learner_->update(update_++, 0);
    nlohmann::json out;
    out["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    out["processor_seconds"] = static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC;
    for (const auto& [name, value] : metrics) {
      if (name == "time/rollout_s") out["generation"] = value;
      if (name == "time/train_s") out["train"] = value;
      if (name == "train/response_tokens" || name == "train/reward" || name == "train/grad_norm" || name == "train/mismatch_max") out[name] = value;
    }
    return out;
  }

 private:
  LanguageModel model_;
  Letters environment_;
  Pool pool_;
  std::unique_ptr<LanguageLearner> learner_;
  int64_t update_ = 0;
};

int work(const Arguments& a) {
  Stepper stepper(a);
  for (int i = 0; i < 3; ++i) stepper.step();   // the first one also verifies the shared prefix
  if (a.has("--updates")) {
    for (int64_t i = 0; i < a.number("--updates", 0); ++i) std::cout << stepper.step() << std::endl;
    return 0;
  }
  serve({{"ready", true}}, [&] { return stepper.step(); });
  return 0;
}

}  // namespace
}  // namespace trimtab

int main(int count, char** words) {
  at::set_num_threads(1);   // as in a run: threads are ours
  const trimtab::Arguments arguments(count, words);
  return arguments.has("--make") ? trimtab::make(arguments.values.at("--make")) : trimtab::work(arguments);
}
