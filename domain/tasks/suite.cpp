#include "domain/tasks/suite.h"

#include <algorithm>
#include <cstdlib>

#include "core/files.h"

namespace trimtab {
namespace {

constexpr uint32_t kMaxAttempts = 20000;  // a split with one prompt in 2000 is missed once in e^10
constexpr const char* kSplitNames[] = {"train", "validation", "test"};

}  // namespace

std::string text_hash(std::string_view text) { return hash_bytes(text).substr(0, 16); }

Split split_of_text(std::string_view text) {
  const std::string hash = text_hash(text);
  const unsigned long sixteenth = std::strtoul(hash.substr(0, 1).c_str(), nullptr, 16);
  if (sixteenth < 2) return Split::kTest;
  return sixteenth == 2 ? Split::kValidation : Split::kTrain;
}

std::string sorted_alphabet(std::string characters) {
  std::sort(characters.begin(), characters.end());
  characters.erase(std::unique(characters.begin(), characters.end()), characters.end());
  return characters;
}

Stage stage_of(const std::string& word) {
  if (word == "facts") return Stage::kFacts;
  if (word == "clean") return Stage::kClean;
  if (word == "verbose") return Stage::kVerbose;
  throw ConfigError(fmt::format("unknown stage '{}': use facts, clean or verbose", word));
}

void SuiteOptions::describe_common(Fields& f, int lowest, int highest) {
  f.integers("tiers", tiers,
             {.low = static_cast<double>(lowest),
              .high = static_cast<double>(highest),
              .doc = "difficulties drawn from, uniformly; one named twice comes twice as often"});
  f.block("corpus", corpus, "how noisy the supervised replies are");
}

void SuiteOptions::validate() const {
  if (tiers.empty()) throw ConfigError("tiers needs at least one difficulty, such as [2, 3]");
}

Suite::Suite(std::string name, SuiteOptions options, int lowest_tier)
    : name_(std::move(name)), options_(std::move(options)), lowest_tier_(lowest_tier) {
  options_.validate();
}

Split Suite::split_of(std::string_view prompt) const { return split_of_text(prompt); }

int Suite::highest_tier() const {
  return static_cast<int>(*std::max_element(options_.tiers.begin(), options_.tiers.end()));
}

Draws Suite::draws(std::string_view purpose, uint64_t seed, uint64_t index, uint32_t word) const {
  const std::string hash = text_hash(name_ + "/" + std::string(purpose));
  const uint64_t mixed = mix64(seed ^ std::strtoull(hash.c_str(), nullptr, 16));
  return {mixed, Stream::kWorld, static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), word};
}

Problem Suite::problem_of_tier(uint64_t seed, uint64_t index, Split split, int tier) const {
  for (uint32_t attempt = 0; attempt < kMaxAttempts; ++attempt) {
    Draws d = draws("prompt", seed, index, attempt);
    std::string prompt = draw_prompt(d, tier);
    if (split_of(prompt) != split) continue;
    std::string answer = solve(prompt), id = name_ + ":" + text_hash(prompt);
    return {std::move(id), std::move(prompt), std::move(answer), tier};
  }
  throw RunError(
      fmt::format("suite {} has no {} problem of tier {}; leave that tier out or ask for another split",
                  name_, kSplitNames[static_cast<int>(split)], tier));
}

Problem Suite::problem(uint64_t seed, uint64_t index, Split split) const {
  const auto& tiers = options_.tiers;
  const uint32_t choice = draws("tier", seed, index, 0).below(static_cast<uint32_t>(tiers.size()));
  return problem_of_tier(seed, index, split, static_cast<int>(tiers[choice]));
}

std::string Suite::corpus_reply(const Problem& problem, TextKey key) const {
  Scribe scribe(options_.corpus, draws("corpus", key.seed, key.index, key.visit));
  const std::string answer = work(problem.prompt, scribe);
  return scribe.finish(answer);
}

std::string Suite::clean_reply(const Problem& problem, TextKey key) const {
  Scribe scribe({.slip = 0, .repair = 0, .verbose = 0, .free_wording = options_.corpus.free_wording}, draws("clean", key.seed, key.index, key.visit));
  const std::string answer = work(problem.prompt, scribe);
  return scribe.finish(answer);
}

Example Suite::example(Stage stage, TextKey key) const {
  if (stage == Stage::kFacts) {
    Draws d = draws("fact", key.seed, key.index, key.visit);
    return fact(d);
  }
  Problem drawn;
  if (stage == Stage::kClean) {
    const auto num_tiers = static_cast<uint32_t>(highest_tier() - lowest_tier_ + 1);
    const uint32_t choice = draws("clean-tier", key.seed, key.index, 0).below(num_tiers);
    drawn = problem_of_tier(key.seed, key.index, Split::kTrain, lowest_tier_ + static_cast<int>(choice));
  } else {
    drawn = problem(key.seed, key.index, Split::kTrain);
  }
  std::string reply = stage == Stage::kClean ? clean_reply(drawn, key) : corpus_reply(drawn, key);
  const size_t length = reply.size();
  return {std::move(drawn.prompt), std::move(reply), 0, length};
}

double Suite::score(const Problem& problem, std::string_view reply) const {
  const size_t mark = reply.find('#');
  return mark != std::string_view::npos && reply.substr(mark + 1) == problem.answer + "." ? 1.0 : 0.0;
}

std::unique_ptr<Suite> make_suite(const Config& config) {
  if (!config.has("type")) {
    const auto names = Registry<SuiteEntry>::instance().names();
    std::string known;
    for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
    config.fail("type", "missing; name a suite: " + known);
  }
  const std::string type = config.text("type", "");
  return Registry<SuiteEntry>::instance().get(type, "suite").make(config);
}

}  // namespace trimtab
