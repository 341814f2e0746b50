// What every suite promises, over every suite and its variants.
#include "domain/tasks/suite.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/test_support.h"

namespace trimtab {
namespace {

struct Case {
  const char* name;
  const char* yaml;
  // The share of texts with a surviving slip whose answer is right all the same, at most: slips that cancel.
  double coincidence = 0.01;
  bool worked = true;  // replies have steps; else a problem has one reply
};

const Case kCases[] = {
    {"chained_arithmetic", "type: chained_arithmetic", 0.6},
    {"chained_one_to_ten", "{type: chained_arithmetic, tiers: [1, 10]}", 0.9},
    {"addition", "{type: multi_digit, operations: add, tiers: [1, 2, 4, 6]}"},
    {"multiplication", "{type: multi_digit, operations: multiply, tiers: [1, 3, 6]}", 0.02},
    {"multi_digit", "type: multi_digit"},
    {"addition_worded", "{type: multi_digit, operations: add, tiers: [1, 3], corpus: {free_wording: true}}"},
    {"sorting_worded", "{type: sorting, tiers: [2, 4], corpus: {free_wording: true}}"},
    {"expression", "type: expression", 0.6},
    {"expression_deep", "{type: expression, tiers: [1, 12]}", 0.9},
    {"sorting", "{type: sorting, items: digits, tiers: [2, 3, 4, 9]}"},
    {"sorting_words", "{type: sorting, items: words, tiers: [2, 5, 9]}"},
    {"sorting_both", "{type: sorting, items: both}"},
    {"base_conversion", "{type: base_conversion, tiers: [2, 3, 4]}"},
    {"base_two", "{type: base_conversion, bases: [2]}"},
    {"key_value", "type: key_value"},
    {"key_value_short", "{type: key_value, prompt_length: 65, tiers: [1, 9]}", 0.15},
    {"story", "type: story"},
    {"story_short", "{type: story, prompt_length: 200, tiers: [2]}", 0.2},   // the wrong person may be in the right place
    {"sudoku", "type: sudoku", 0.01, false},
    {"sudoku_easy_and_hard", "{type: sudoku, tiers: [4, 12]}", 0.01, false},
    {"edits", "type: edits", 0.01, false},
    {"edits_long", "{type: edits, tiers: [5, 16]}", 0.01, false},
    {"few_shot", "{type: few_shot, suite: {type: chained_arithmetic, tiers: [1, 3]}, shots: 6}", 0.6},
    {"few_shot_sorting", "{type: few_shot, suite: {type: sorting}}"},
    {"mixed", "{type: mixed, suites: [{type: sorting, tiers: [3]}, {type: base_conversion}, {type: chained_arithmetic, tiers: [2]}]}"},
};

std::unique_ptr<Suite> suite_of(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  Config config = Config::parse(yaml, "suite.yaml");
  for (const std::string& text : overrides) config.apply(text);
  return make_suite(config);
}

// Sets a key of the suite, or of the suite inside.
std::string corpus_key(const Case& c, const std::string& assignment) {
  const bool inside = std::string(c.yaml).find("few_shot") != std::string::npos;
  return (inside ? "suite.corpus." : "corpus.") + assignment;
}

class Suites : public testing::TestWithParam<Case> {
 protected:
  const uint64_t seed_ = test_seed();
};

TEST_P(Suites, CleanRepliesAreRight) {
  const auto suite = suite_of(GetParam().yaml, {"+" + corpus_key(GetParam(), "slip=0")});
  for (uint64_t i = 0; i < 400; ++i) {
    const Problem p = suite->problem(seed_, i, static_cast<Split>(i % 3));
    for (const std::string& reply : {suite->corpus_reply(p, {seed_, i}), suite->clean_reply(p, {seed_, i})})
      ASSERT_EQ(suite->score(p, reply), 1) << p.prompt << reply << " against " << p.answer;
  }
}

TEST_P(Suites, NoisyRepliesAreWrongAsOftenAsDocumented) {
  for (const char* slip : {"slip=0.15", "slip=0.5"}) {
    const auto suite = suite_of(GetParam().yaml, {"+" + corpus_key(GetParam(), slip)});
    double right = 0, expected = 0, variance = 0;
    const int n = 3000;
    for (uint64_t i = 0; i < n; ++i) {
      const Problem p = suite->problem(seed_, i, Split::kTrain);
      const std::string clean = suite->clean_reply(p, {});
      const auto num_steps = static_cast<int>(std::count(clean.begin(), clean.end(), ';'));
      const double share = suite->options().corpus.clean_probability(num_steps);
      expected += share;
      variance += share * (1 - share);
      right += suite->score(p, suite->corpus_reply(p, {seed_, i}));
    }
    const double bound = 4 * std::sqrt(variance) + 1;
    EXPECT_GE(right, expected - bound) << slip;
    EXPECT_LE(right, expected + GetParam().coincidence * (n - expected) + bound) << slip;
  }
}

TEST_P(Suites, EverySplitHoldsItsOwnPrompts) {
  const auto suite = suite_of(GetParam().yaml);
  std::map<std::string, Split> seen;
  for (uint64_t i = 0; i < 600; ++i) {
    const auto split = static_cast<Split>(i % 3);
    const Problem p = suite->problem(seed_ + i / 300, i, split);
    EXPECT_EQ(suite->split_of(p.prompt), split);
    const auto [at, fresh] = seen.emplace(p.prompt, split);
    EXPECT_EQ(at->second, split) << p.prompt;
  }
  for (uint64_t i = 0; i < 300; ++i) {
    for (const Stage stage : {Stage::kClean, Stage::kVerbose})
      EXPECT_EQ(suite->split_of(suite->example(stage, {seed_, i}).prompt), Split::kTrain);
  }
}

TEST_P(Suites, NearMissesAreWrong) {
  const auto suite = suite_of(GetParam().yaml);
  for (uint64_t i = 0; i < 200; ++i) {
    const Problem p = suite->problem(seed_, i, Split::kTest);
    const std::string reply = suite->clean_reply(p, {seed_, i}), right = "#" + p.answer + ".";
    ASSERT_EQ(suite->score(p, right), 1);
    std::string other = p.answer;
    other.back() = other.back() == '1' ? '2' : '1';
    const std::string wrong[] = {"#" + other + ".",
                                 "#" + p.answer,
                                 p.answer + ".",
                                 p.answer,
                                 "",
                                 "#.",
                                 right + " ",
                                 right + ".",
                                 right + right,
                                 "#" + other + "." + right,
                                 "#" + other + right,
                                 "# " + p.answer + ".",
                                 "#0" + p.answer + ".",
                                 "#" + p.answer + " .",
                                 "#" + p.answer + "\n.",
                                 "#" + p.answer + ".\n",
                                 reply.substr(0, reply.size() - 1),
                                 reply + "#" + other + ".",
                                 reply + "a"};
    for (const std::string& text : wrong) EXPECT_EQ(suite->score(p, text), 0) << text << " for " << p.answer;
  }
}

TEST_P(Suites, TheSameKeyGivesTheSameText) {
  const auto a = suite_of(GetParam().yaml), b = suite_of(GetParam().yaml);
  std::set<std::string> prompts, replies;
  for (uint64_t i = 0; i < 100; ++i) {
    const Problem p = a->problem(seed_, i, Split::kTrain), q = b->problem(seed_, i, Split::kTrain);
    EXPECT_EQ(p.prompt, q.prompt);
    EXPECT_EQ(p.answer, q.answer);
    EXPECT_EQ(p.id, q.id);
    EXPECT_EQ(p.id, a->name() + ":" + text_hash(p.prompt));
    EXPECT_EQ(a->corpus_reply(p, {seed_, i, 1}), b->corpus_reply(q, {seed_, i, 1}));
    prompts.insert(p.prompt);
    for (uint32_t visit = 0; visit < 4; ++visit) replies.insert(a->corpus_reply(p, {seed_, i, visit}));
  }
  EXPECT_GT(prompts.size(), 40u);
  if (GetParam().worked) EXPECT_GT(replies.size(), 150u);
  else EXPECT_LE(replies.size(), prompts.size());
  EXPECT_NE(a->problem(seed_, 1, Split::kTrain).prompt + a->problem(seed_, 2, Split::kTrain).prompt,
            a->problem(seed_ + 1, 1, Split::kTrain).prompt + a->problem(seed_ + 1, 2, Split::kTrain).prompt);
}

TEST_P(Suites, TextsKeepToAlphabetAndLengths) {
  for (const char* slip : {"slip=0", "slip=1"}) {
    const auto suite = suite_of(
        GetParam().yaml, {"+" + corpus_key(GetParam(), slip), "+" + corpus_key(GetParam(), "verbose=1")});
    const std::string alphabet = suite->alphabet();
    EXPECT_EQ(alphabet, sorted_alphabet(alphabet));
    for (uint64_t i = 0; i < 300; ++i) {
      for (const Stage stage : {Stage::kFacts, Stage::kClean, Stage::kVerbose}) {
        const Example e = suite->example(stage, {seed_, i});
        EXPECT_EQ((e.prompt + e.reply).find_first_not_of(alphabet), std::string::npos) << e.prompt << e.reply;
        EXPECT_LE(e.prompt.size(), suite->max_prompt_length());
        EXPECT_LE(e.reply.size(), suite->max_reply_length());
        EXPECT_LT(e.loss_begin, e.loss_end);
        EXPECT_LE(e.loss_end, e.reply.size());
      }
    }
  }
}

TEST_P(Suites, TiersComeAlike) {
  const auto suite = suite_of(GetParam().yaml);
  std::map<int, int> count;
  const int n = 2000;
  for (uint64_t i = 0; i < n; ++i) ++count[suite->problem(seed_, i, Split::kTrain).tier];
  const auto& tiers = suite->options().tiers;
  EXPECT_EQ(count.size(), tiers.size());
  const double share = 1.0 / static_cast<double>(tiers.size());
  for (const int64_t tier : tiers)
    EXPECT_NEAR(count[static_cast<int>(tier)], n * share, 5 * std::sqrt(n * share * (1 - share)) + 1) << tier;
}

INSTANTIATE_TEST_SUITE_P(All, Suites, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(SuiteSplits, ThePlannedShares) {
  int count[3] = {};
  const int n = 16000;
  for (int i = 0; i < n; ++i) ++count[static_cast<int>(split_of_text(fmt::format("{}={}", test_seed(), i)))];
  EXPECT_NEAR(count[0], n * 13 / 16, 5 * std::sqrt(n * 0.1875 * 0.8125));
  EXPECT_NEAR(count[1], n / 16, 5 * std::sqrt(n * 0.0625 * 0.9375));
  EXPECT_NEAR(count[2], n / 8, 5 * std::sqrt(n * 0.125 * 0.875));
  EXPECT_EQ(text_hash("6a+4b*7c-4="), text_hash(std::string("6a+4b*7c-4=")));
}

// The chance that a chain ends right, exactly: the distribution over ten values, step by step, a slip going
// to the nine other digits alike. `error`: the chance that a slip survives a step.
double chain_accuracy(const std::string& prompt, int answer, double error) {
  double at[10] = {};
  at[prompt[0] - '0'] = 1;
  for (size_t i = 1; i + 2 < prompt.size(); i += 3) {
    const int operand = prompt[i + 2] - '0';
    double next[10] = {};
    for (int v = 0; v < 10; ++v) {
      const int right = prompt[i + 1] == '+'   ? (v + operand) % 10
                        : prompt[i + 1] == '-' ? (v - operand + 10) % 10
                                               : v * operand % 10;
      for (int r = 0; r < 10; ++r) next[r] += at[v] * (r == right ? 1 - error : error / 9);
    }
    std::copy(next, next + 10, at);
  }
  return at[answer];
}

TEST(ChainedArithmetic, AccuracyOfTheCorpusIsTheMarkovChains) {
  const auto suite = suite_of("type: chained_arithmetic");
  const double slip = 0.15, kept = 0.7, rechecked = (2 * kept + kept * kept) / 3;
  const double verbose_error = slip * (0.9 * rechecked + 0.1), short_error = slip * (0.1 * rechecked + 0.9);
  double right = 0, expected = 0, length = 0;
  const int n = 6000;
  for (uint64_t i = 0; i < n; ++i) {
    const Problem p = suite->problem(test_seed(), i, Split::kTrain);
    const std::string reply = suite->corpus_reply(p, {test_seed(), i});
    right += suite->score(p, reply);
    length += static_cast<double>(reply.size());
    const int answer = p.answer[0] - '0';
    expected += 0.85 * chain_accuracy(p.prompt, answer, verbose_error) +
                0.15 * chain_accuracy(p.prompt, answer, short_error);
  }
  EXPECT_NEAR(right / n, expected / n, 4 * std::sqrt(0.25 / n));
  EXPECT_NEAR(right / n, 0.71, 0.03);  // the corpus of the study that chose this task: 71 %, 88 characters
  EXPECT_NEAR(length / n, 88, 4);
}

TEST(ChainedArithmetic, OneProblemByHand) {
  const auto suite = suite_of("{type: chained_arithmetic, corpus: {slip: 0}}");
  const Problem p{"x", "6a+4b*7c-4=", "6", 3};
  EXPECT_EQ(suite->score(p, "a6+4=0;b0;c0-4=6;#6."), 1);
  for (uint64_t i = 0; i < 50; ++i) {
    const std::string reply = suite->corpus_reply(p, {test_seed(), i});
    EXPECT_TRUE(reply.ends_with(";#6.")) << reply;
  }
}

TEST(FreeWording, StepsEndInWordsThatNothingDecidesAndRepliesDifferInThoseAlone) {
  const auto suite = suite_of("{type: chained_arithmetic, corpus: {slip: 0, free_wording: true}}");
  const Problem p{"x", "6a+4b*7c-4=", "6", 3};
  std::map<std::string, int> seen;
  for (uint64_t i = 0; i < 600; ++i)
    for (std::string reply : {suite->corpus_reply(p, {test_seed(), i}), suite->clean_reply(p, {test_seed(), i})}) {
      for (const size_t at : {size_t{6}, size_t{15}, size_t{24}}) {
        ++seen[reply.substr(at, 2)];
        reply.replace(at, 2, "..");
      }
      ASSERT_EQ(reply, "a6+4=0..;b0*7=0..;c0-4=6..;#6.");
    }
  EXPECT_EQ(seen.size(), 3);
  for (const char* word : {"so", "ok", "on"}) EXPECT_NEAR(seen[word], 1200, 5 * std::sqrt(3600.0 * 2 / 9)) << word;
}

TEST(Facts, CarryTheLossOnTheResultAlone) {
  const Example fact = suite_of("type: chained_arithmetic")->example(Stage::kFacts, {test_seed(), 3});
  EXPECT_EQ(fact.prompt.size(), 4u);
  EXPECT_EQ(fact.reply.size(), 2u);
  EXPECT_EQ(fact.loss_begin, 0u);
  EXPECT_EQ(fact.loss_end, 1u);
  const Example hop = suite_of("type: key_value")->example(Stage::kFacts, {test_seed(), 3});
  const std::string line = hop.reply.substr(1, 5);  // "ef=gh" of "1ef=gh;"
  EXPECT_NE(hop.prompt.find(line), std::string::npos) << hop.prompt << hop.reply;
  EXPECT_EQ(hop.reply.substr(hop.loss_begin, hop.loss_end - hop.loss_begin), line.substr(3));
}

TEST(Facts, AreNeverProblems) {
  for (const Case& c : kCases) {
    if (std::string(c.name).starts_with("few_shot")) continue;
    const auto suite = suite_of(c.yaml);
    std::set<std::string> facts;
    for (uint64_t i = 0; i < 300; ++i) facts.insert(suite->example(Stage::kFacts, {test_seed(), i}).prompt);
    for (uint64_t i = 0; i < 600; ++i)
      EXPECT_FALSE(facts.contains(suite->problem(test_seed(), i, Split::kTest).prompt)) << c.name;
  }
}

TEST(KeyValue, PromptsHaveTheAskedLength) {
  for (const int length : {512, 768, 1024}) {
    const auto suite = suite_of(fmt::format("{{type: key_value, prompt_length: {}}}", length));
    const std::string prompt = suite->problem(test_seed(), 0, Split::kTrain).prompt;
    EXPECT_LE(prompt.size(), static_cast<size_t>(length));
    EXPECT_GT(prompt.size() + 6, static_cast<size_t>(length));
  }
}

// Digits that complete sixteen cells, counted cell by cell.
int num_solutions(std::string cells) {
  const size_t cell = cells.find('.');
  if (cell == std::string::npos) return 1;
  int count = 0;
  for (const char digit : {'1', '2', '3', '4'}) {
    bool taken = false;
    for (size_t i = 0; i < 16; ++i) {
      const bool box = i / 8 == cell / 8 && i % 4 / 2 == cell % 4 / 2;
      taken |= cells[i] == digit && (i / 4 == cell / 4 || i % 4 == cell % 4 || box);
    }
    cells[cell] = digit;
    if (!taken) count += num_solutions(cells);
  }
  return count;
}

TEST(Sudoku, PuzzlesHaveOneSolutionAndAsManyEmptyCellsAsTheirTier) {
  const auto suite = suite_of("{type: sudoku, tiers: [4, 5, 6, 7, 8, 9, 10, 11, 12]}");
  std::set<std::string> grids;
  for (uint64_t i = 0; i < 6000; ++i) {
    const Problem p = suite->problem(test_seed(), i, Split::kTrain);
    grids.insert(p.answer);
    if (i >= 500) continue;
    const std::string cells = p.prompt.substr(7, 16);
    EXPECT_EQ(p.prompt, "sudoku " + cells + "=");
    EXPECT_EQ(std::count(cells.begin(), cells.end(), '.'), p.tier);
    EXPECT_EQ(num_solutions(cells), 1) << cells;
    for (size_t c = 0; c < 16; ++c) {
      EXPECT_TRUE(cells[c] == '.' || cells[c] == p.answer[c]) << cells << " " << p.answer;
      std::string one_missing = p.answer;
      one_missing[c] = '.';
      EXPECT_EQ(num_solutions(one_missing), 1) << p.answer;
    }
  }
  EXPECT_EQ(grids.size(), 288u);  // all there are
}

TEST(Edits, AreThoseOfThePrompt) {
  const auto suite = suite_of("{type: edits, tiers: [4, 16]}");
  std::map<int64_t, int> by_number;
  for (uint64_t i = 0; i < 3000; ++i) {
    const Problem p = suite->problem(test_seed(), i, Split::kTrain);
    const std::string text = p.prompt.substr(5, static_cast<size_t>(p.tier));
    ASSERT_EQ(p.prompt[5 + text.size()], ':') << p.prompt;
    ASSERT_EQ(p.answer.size(), text.size());
    std::string prompt = "copy " + text + ":";
    for (size_t c = 0; c < text.size(); ++c)
      if (text[c] != p.answer[c]) prompt += fmt::format(" {}={}", c + 1, p.answer[c]);
    EXPECT_EQ(prompt + "=", p.prompt);
    ++by_number[std::count(p.prompt.begin(), p.prompt.end(), '=') - 1];
  }
  for (const int64_t edits : {1, 2, 3}) EXPECT_NEAR(by_number[edits], 1000, 130) << edits;
  EXPECT_EQ(suite->clean_reply({"x", "copy bqzka: 2=x 4=m=", "", 5}, {}), "#bxzma.");
}

TEST(FewShot, ExamplesAreRightTrainingProblemsAndNotTheQuestion) {
  const auto suite = suite_of("{type: few_shot, shots: 5, suite: {type: sorting, tiers: [2]}}");
  const auto inner = suite_of("{type: sorting, tiers: [2]}");
  for (uint64_t i = 0; i < 200; ++i) {
    const std::string prompt = suite->problem(test_seed(), i, static_cast<Split>(i % 3)).prompt;
    const std::string question = prompt.substr(prompt.rfind('\n') + 1);
    int num_examples = 0;
    for (size_t at = 0, end; (end = prompt.find('\n', at)) != std::string::npos;
         at = end + 1, ++num_examples) {
      const std::string line = prompt.substr(at, end - at), shown = line.substr(0, line.find('=') + 1);
      EXPECT_NE(shown, question);
      EXPECT_EQ(inner->split_of(shown), Split::kTrain);
      const std::string least = std::min(shown.substr(5, 1), shown.substr(7, 1));
      EXPECT_TRUE(line.find("#" + least + " ") != std::string::npos) << line;
    }
    EXPECT_EQ(num_examples, 5);
  }
}

std::string message_of(const std::string& yaml) {
  try {
    suite_of(yaml);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

TEST(SuiteConfig, MistakesAreNamed) {
  const auto says = [](const std::string& yaml, const std::string& part) {
    EXPECT_NE(message_of(yaml).find(part), std::string::npos) << message_of(yaml);
  };
  says("{type: sortin}", "did you mean 'sorting'");
  says("{tiers: [2]}", "name a suite: base_conversion");
  says("{type: sorting, tiers: []}", "tiers needs at least one");
  says("{type: sorting, tiers: [1]}", "suite.yaml:1:");
  says("{type: sorting, corpus: {slip: 2}}", "corpus.slip");
  says("{type: base_conversion, bases: [3]}", "some of 2, 8, 16");
  says("{type: few_shot}", "name the suite");
  says("{type: few_shot, suite: {type: few_shot}}", "does not nest");
  says("{type: few_shot, suite: {type: sorting, tier: [2]}}", "tiers");
  EXPECT_THROW(stage_of("fact"), ConfigError);
  EXPECT_EQ(stage_of("verbose"), Stage::kVerbose);
}

TEST(SuiteConfig, EverySuiteHelpsAndResolvesToItself) {
  const auto& registry = Registry<SuiteEntry>::instance();
  EXPECT_EQ(registry.names().size(), 11u);
  for (const Case& c : kCases) {
    const Config config = Config::parse(c.yaml, "suite.yaml");
    const SuiteEntry& entry = registry.get(config.text("type", ""), "suite");
    EXPECT_FALSE(entry.doc.empty());
    EXPECT_FALSE(entry.help().empty());
    const auto again = suite_of("type: " + entry.name + "\n" + entry.resolved(config)),
               first = suite_of(c.yaml);
    EXPECT_EQ(again->problem(1, 2, Split::kTrain).prompt, first->problem(1, 2, Split::kTrain).prompt);
  }
}

class OneProblem final : public Suite {
 public:
  OneProblem() : Suite("one_problem", {.tiers = {1}, .corpus = {}}, 1) {}
  std::string alphabet() const override { return "?"; }
  size_t max_prompt_length() const override { return 1; }
  size_t max_reply_length() const override { return 1; }

 protected:
  std::string draw_prompt(Draws&, int) const override { return "?"; }
  std::string solve(std::string_view) const override { return "!"; }
  std::string work(std::string_view, Scribe&) const override { return "!"; }
  Example fact(Draws&) const override { return {}; }
};

TEST(SuiteSplits, ATierWithoutProblemsInASplitSaysSo) {
  const OneProblem suite;
  int num_splits = 0;
  for (const Split split : {Split::kTrain, Split::kValidation, Split::kTest}) {
    try {
      suite.problem(test_seed(), 0, split);
      ++num_splits;
    } catch (const RunError& error) {
      EXPECT_NE(std::string(error.what()).find("problem of tier 1; leave that tier out"), std::string::npos);
    }
  }
  EXPECT_EQ(num_splits, 1);
}

}  // namespace
}  // namespace trimtab
