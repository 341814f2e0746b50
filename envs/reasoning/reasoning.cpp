#include "envs/reasoning/reasoning.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "domain/tasks/answers.h"
#include "policies/tokenizer/chat.h"

namespace trimtab {
namespace {

const std::vector<std::string> kOtherBlocks = {"type", "suite", "reward"};

const SuiteEntry& suite_of(const Config& config) {
  return Registry<SuiteEntry>::instance().get(config.text("suite.type", ""), "suite");
}

std::string one_line(const std::string& text) {
  std::string out = text.substr(0, 60);
  std::replace(out.begin(), out.end(), '\n', ' ');
  return out + (text.size() > 60 ? "..." : "");
}

std::string split_name(Split split) { return split == Split::kTrain ? "training" : split == Split::kValidation ? "validation" : "test"; }

// In front of the prompt: "effort 0.5 ", "budget 64 ", or both.
std::string demands(double effort, int64_t budget) {
  std::string out;
  if (effort > 0) out += fmt::format("effort {:g} ", effort);
  if (budget > 0) out += fmt::format("budget {} ", budget);
  return out;
}

}  // namespace

void ReasoningOptions::describe(Fields& f) {
  f.choice("chat", chat, {"none", "chatml", "llama3"}, "chat template around prompts; none: the bare text");
  f.text("instruction", instruction, {.doc = "text in front of every prompt; with a chat template the system message"});
  f.texts("stop", stop, {.doc = "a reply also ends as soon as its text contains one of these"});
  f.numbers("effort", effort, {.low = 0.01, .high = 100, .doc = "every prompt begins with one of these, drawn: a right reply counts up to so many times the prompt's mean "
                                                                "length (e1); empty: none"});
  f.integers("budgets", budgets, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "every prompt begins with one of these, drawn: tokens beyond it cost (reward.budget_weight); "
                                                                                  "empty: none"});
}

Reasoning::Reasoning(const Config& config, const TextEnvironmentData& data) {
  config.read(options_, kOtherBlocks);
  if (config.has("suite")) {
    suite_ = make_suite(config.at("suite"));
  } else {
    if (data.train.empty())
      config.fail("suite", "missing: name a procedural suite (suite: {type: chained_arithmetic}), or give JSONL files in data.train");
    read_files(data);
  }
  if (config.has("reward")) {
    CommandRewardOptions reward;
    config.at("reward").read(reward);
    command_ = std::make_unique<CommandReward>(reward);
  }
}

// Without validation files, the prompts whose hash says so are kept out of training and validate.
void Reasoning::read_files(const TextEnvironmentData& data) {
  const bool hold_back = data.validation.empty();
  const auto add = [](const std::vector<std::string>& files, auto&& take) {
    for (const std::string& file : files) {
      for (FileProblem& problem : read_jsonl(file)) take(std::move(problem));
    }
  };
  add(data.train, [&](FileProblem&& p) {
    const bool validates = hold_back && split_of_text(p.problem.prompt) == Split::kValidation;
    (validates ? validation_ : train_).push_back(std::move(p));
  });
  add(data.validation, [&](FileProblem&& p) { validation_.push_back(std::move(p)); });
  const std::vector<std::string> shared = shared_prompts(train_, validation_);
  if (!shared.empty())
    throw DataError(fmt::format("data.validation holds {} prompts that data.train has too, the first: {}; remove them from one side",
                                shared.size(), shared[0]));
  if (train_.empty()) throw DataError(fmt::format("{}: every problem of data.train was held back for validation; give more", data.train[0]));
}

const std::vector<FileProblem>& Reasoning::problems_of(Split split) const {
  TT_CHECK(split != Split::kTest, "JSONL environments have no test split of their own");
  return split == Split::kTrain ? train_ : validation_;
}

int64_t Reasoning::size(Split split) const { return suite_ ? 0 : static_cast<int64_t>(problems_of(split).size()); }

Problem Reasoning::problem(Split split, uint64_t seed, uint64_t index) const {
  if (suite_) return with_demands(suite_->problem(seed, index, split), split, seed, index);
  const auto& problems = problems_of(split);
  TT_CHECK_LT(index, problems.size());
  return with_demands(problems[index].problem, split, seed, index);
}

// Drawn by the problem's own key, and no part of its text: id, split and verifier do not know of them.
Problem Reasoning::with_demands(Problem problem, Split split, uint64_t seed, uint64_t index) const {
  Draws draws(seed, Stream::kWorld, static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0xEFF0 + static_cast<uint32_t>(split));
  const uint32_t first = draws.bits(), second = draws.bits();
  if (!options_.effort.empty()) problem.effort = options_.effort[first % options_.effort.size()];
  if (!options_.budgets.empty()) problem.budget = options_.budgets[second % options_.budgets.size()];
  return problem;
}

std::string Reasoning::alphabet() const {
  if (!suite_) return "";
  std::string out = suite_->alphabet();
  for (const double effort : options_.effort) out += demands(effort, 0);
  for (const int64_t budget : options_.budgets) out += demands(0, budget);
  return sorted_alphabet(out);
}

std::vector<int32_t> Reasoning::prompt_tokens(const Tokenizer& tokenizer, const Problem& problem) const {
  if (options_.chat == "none")
    return tokenizer.encode(options_.instruction + demands(problem.effort, problem.budget) + problem.prompt, {.allow_special = false, .add_special_tokens = true});
  std::vector<ChatMessage> messages;
  if (!options_.instruction.empty()) messages.push_back({"system", options_.instruction});
  messages.push_back({"user", demands(problem.effort, problem.budget) + problem.prompt});
  return ChatTemplate(tokenizer, options_.chat).encode(messages);
}

std::vector<int32_t> Reasoning::stop_ids(const Tokenizer& tokenizer) const {
  return options_.chat == "none" ? tokenizer.stop_ids() : ChatTemplate(tokenizer, options_.chat).stop_ids();
}

Verdict Reasoning::own_verdict(const Problem& problem, const std::string& reply) const {
  if (suite_) {
    const size_t mark = reply.find('#');
    const bool formed = mark != std::string::npos && reply.size() > mark + 1 && reply.find('.', mark) == reply.size() - 1;
    return {suite_->score(problem, reply), formed};
  }
  return {score_free_text(problem, reply), boxed_answer(reply).has_value() || hash_answer(reply).has_value()};
}

std::vector<Verdict> Reasoning::score(std::span<const Problem> problems, std::span<const std::string> replies) {
  TT_CHECK_EQ(problems.size(), replies.size());
  std::vector<Verdict> out;
  for (size_t i = 0; i < problems.size(); ++i) out.push_back(own_verdict(problems[i], replies[i]));
  if (!command_) return out;
  std::vector<RewardRequest> requests;
  for (size_t i = 0; i < problems.size(); ++i)
    requests.push_back({.prompt = problems[i].prompt, .completion = replies[i], .answer = problems[i].answer, .id = problems[i].id});
  const std::vector<double> rewards = command_->score(requests);
  for (size_t i = 0; i < out.size(); ++i) out[i].outcome = rewards[i];
  return out;
}

TokenExample Reasoning::example(const Tokenizer& tokenizer, Stage stage, TextKey key) const {
  TokenExample out;
  Example text;
  if (suite_) {
    text = suite_->example(stage, key);
  } else {
    const FileProblem& p = train_[key.index % train_.size()];
    text = {.prompt = p.problem.prompt, .reply = p.solution.empty() ? p.problem.answer : p.solution + "\n#### " + p.problem.answer};
    text.loss_end = text.reply.size();
  }
  // Prompts look as they will in RL; what they ask for is not in the texts, and RL teaches it.
  out.prompt = prompt_tokens(tokenizer, with_demands({.id = {}, .prompt = text.prompt, .answer = {}}, Split::kTrain, key.seed + key.visit, key.index));
  // Cut at the borders of the loss, so that it begins and ends with whole tokens.
  const auto append = [&](size_t first, size_t end) {
    const std::vector<int32_t> ids = tokenizer.encode(std::string_view(text.reply).substr(first, end - first), {.allow_special = false});
    out.reply.insert(out.reply.end(), ids.begin(), ids.end());
    return static_cast<int64_t>(out.reply.size());
  };
  out.loss_begin = append(0, text.loss_begin);
  out.loss_end = append(text.loss_begin, text.loss_end);
  append(text.loss_end, text.reply.size());
  const std::vector<int32_t> stop = stop_ids(tokenizer);
  if (text.loss_end == text.reply.size() && !stop.empty()) {   // a whole reply ends; a single fact does not
    out.reply.push_back(options_.chat == "none" && tokenizer.eos_id() ? *tokenizer.eos_id() : stop.front());
    ++out.loss_end;
  }
  return out;
}

std::vector<Problem> Reasoning::read_problems(const std::string& file, bool allow_validation) const {
  std::vector<FileProblem> held_out = read_jsonl(file);
  std::vector<Problem> out;
  for (FileProblem& p : held_out) {
    const Split split = suite_ ? suite_->split_of(p.problem.prompt) : Split::kTest;
    if (split == Split::kTrain || (split == Split::kValidation && !allow_validation))
      throw DataError(fmt::format("{}:{}: the prompt '{}' is of the suite's {} split, so a result on it would not be held out; remove it",
                                  file, p.line, one_line(p.problem.prompt), split_name(split)));
    out.push_back(with_demands(p.problem, Split::kTest, 0, out.size()));
  }
  std::vector<std::string> shared = shared_prompts(train_, held_out);
  if (!allow_validation && shared.empty()) shared = shared_prompts(validation_, held_out);
  if (!shared.empty())
    throw DataError(fmt::format("{}: {} prompts were seen in training, so a result on them would not be held out; remove them: {}", file,
                                shared.size(), shared[0]));
  return out;
}

namespace {

std::vector<FieldLine> reasoning_help() {
  std::vector<FieldLine> lines = help_of<ReasoningOptions>();
  lines.push_back({"suite", "block", "", "", "", "a procedural suite by its `type`, with its keys; without it data.train names JSONL files"});
  for (const std::string& name : Registry<SuiteEntry>::instance().names()) {
    const SuiteEntry& entry = Registry<SuiteEntry>::instance().get(name, "suite");
    lines.push_back({"suite.type: " + name, "", "", "", "", entry.doc});
    for (FieldLine line : entry.help()) {
      line.path = "suite." + line.path;
      lines.push_back(line);
    }
  }
  for (FieldLine line : help_of<CommandRewardOptions>()) {
    line.path = "reward." + line.path;
    lines.push_back(line);
  }
  return lines;
}

std::string reasoning_resolved(const Config& config) {
  ReasoningOptions options;
  config.read(options, kOtherBlocks);
  std::string out = yaml_of(options) + "\n";
  if (config.has("suite")) {
    make_suite(config.at("suite"));
    out += "suite:\n" + indented("type: " + config.text("suite.type", "") + "\n" + suite_of(config).resolved(config.at("suite")));
  }
  if (config.has("reward")) {
    CommandRewardOptions reward;
    config.at("reward").read(reward);
    out += "reward:\n" + indented(yaml_of(reward));
  }
  return out;
}

TT_REGISTER(TextEnvironmentEntry, reasoning,
            {.name = "reasoning",
             .doc = "problems with verifiable answers for language models: procedural suites, JSONL files, your own reward program",
             .make = [](const Config& config, const TextEnvironmentData& data) -> std::unique_ptr<TextEnvironment> {
               return std::make_unique<Reasoning>(config, data);
             },
             .help = reasoning_help,
             .resolved = reasoning_resolved});

}  // namespace
}  // namespace trimtab
