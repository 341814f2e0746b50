// What is compared, what a reply is worth, what options are refused, and what the oracle picks.
#include "envs/token_commit/comparison.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/config.h"
#include "core/error.h"

namespace trimtab {
namespace {

std::vector<std::string> names_of(const TokenCommitOptions& options, const CommitRuleOptions& rules = {}) {
  std::vector<std::string> out;
  for (const EvaluatedPolicy& p : commit_policies(options, rules)) out.push_back(p.name);
  return out;
}

template <class Work>
std::string refusal(Work&& work) {
  try {
    work();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(commit_policies, are_all_rules_and_some_without_the_guard) {
  const size_t rules = commit_rule_names().size();
  const auto names = names_of({});
  EXPECT_EQ(names.size(), rules + 4);
  EXPECT_EQ(names.back(), "lock_in");
  for (const char* name : {"top1+noguard", "threshold_90+noguard", "factor_100+noguard"}) EXPECT_EQ(std::count(names.begin(), names.end(), name), 1) << name;
  EXPECT_EQ(names_of({.both_guards = true}).size(), 2 * rules + 1);
  EXPECT_EQ(names_of({.eos_guard = false}).size(), rules + 1);
  EXPECT_EQ(names_of({}, {.delimiters = {3}}).size(), rules + 6);
  EXPECT_TRUE(commit_policy("eb_10", {}).guarded);
  EXPECT_FALSE(commit_policy("eb_10", {.eos_guard = false}).guarded);
  EXPECT_FALSE(commit_policy("eb_10+noguard", {}).guarded);
  EXPECT_EQ(commit_policy("eb_10+noguard", {}).rule, "eb_10");
}

TEST(commit_policies, of_a_list_are_its_own_with_the_reference) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(names_of({.rules = {"eb_10"}}), (Names{"top1", "eb_10", "top1+noguard", "lock_in"}));
  EXPECT_EQ(names_of({.rules = {"top1+noguard", "top1", "eb_10+noguard"}}), (Names{"top1+noguard", "top1", "eb_10+noguard", "lock_in"}));
  EXPECT_NE(refusal([] { names_of({.rules = {"eb_10", "eb_10"}}); }).find("twice"), std::string::npos);
  EXPECT_NE(refusal([] { names_of({.rules = {"treshold_90+noguard"}}); }).find("no rule 'treshold_90'"), std::string::npos);
  EXPECT_NE(refusal([] { names_of({.rules = {"adablock_90_30"}}); }).find("delimiters"), std::string::npos);
}

TEST(commit_frontiers, hold_guarded_members_of_a_family) {
  const auto all = commit_frontiers(commit_policies({}, {}));
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all[0].name, "threshold");
  EXPECT_EQ(all[0].policies.size(), 7u);
  EXPECT_EQ(std::count(all[0].policies.begin(), all[0].policies.end(), "threshold_90+noguard"), 0);
  EXPECT_EQ(all[0].x, "passes");
  EXPECT_EQ(all[0].y, "correct");
  EXPECT_TRUE(commit_frontiers(commit_policies({.rules = {"eb_10", "threshold_90"}}, {})).empty());   // a point is no line
}

TEST(score_reply, reads_the_final_answer) {
  const auto score = [](const std::string& answer, const std::string& reply, const std::vector<std::string>& stop = {"."}) {
    return score_reply({.id = {}, .prompt = {}, .answer = answer}, reply, stop);
  };
  EXPECT_EQ(score("1234341221434321", "#1234341221434321."), 1);
  EXPECT_EQ(score("1234341221434321", "#1234341221434321.5555"), 1);
  EXPECT_EQ(score("1234341221434321", "#1234341221434322."), 0);
  EXPECT_EQ(score("bxzma", "#bxzma."), 1);   // no number in it
  EXPECT_EQ(score("bxzma", "#bxzmb."), 0);
  EXPECT_EQ(score("6", "a6+4=0;#6."), 1);
  EXPECT_EQ(score("6", "a6+4=0;#7."), 0);
  EXPECT_EQ(score("6", "#7#6."), 0);     // no two answers
  EXPECT_EQ(score("6", "#7. #6."), 0);   // what stands behind the stop does not count
  EXPECT_EQ(score("72", "48/2 = 24\n#### 72", {}), 1);
  EXPECT_EQ(score("72", "so \\boxed{72}", {}), 1);
  EXPECT_EQ(score("72", "it is 72"), 1);
  EXPECT_EQ(score("7.5", "it is 7.5", {}), 1);
  EXPECT_EQ(score("6", ""), 0);
  EXPECT_EQ(score("6", "#"), 0);
}

TEST(token_commit_options, refuse_what_does_not_fit) {
  const auto refused = [](const std::string& yaml) {
    return refusal([&] {
      TokenCommitOptions options;
      Config::parse("env: {model: m, " + yaml + "}", "here").at("env").read(options);
    });
  };
  const auto says = [](const std::string& message, const std::string& part) { EXPECT_NE(message.find(part), std::string::npos) << message; };
  EXPECT_EQ(refused("length: 20"), "");   // whatever block is
  EXPECT_EQ(refused("length: 20, window: block, block: 5"), "");
  says(refused("length: 20, window: block, block: 8"), "no multiple of block = 8");
  says(refused("length: 20, window: block"), "block = 32 is longer than length = 20");
  says(refused("length: 20, block: 8, delimiters: ['.']"), "no multiple");
  says(refused("length: 20, window: sliding, width: 21"), "width = 21 is beyond length = 20");
  says(refused("length: 20, passes: 21"), "20 or fewer");
  says(refused("eos_guard: false, both_guards: true"), "leave eos_guard on");
  says(refused("stop: ['']"), "empty text");
  says(refused("window: round"), "window");
  says(refusal([] {
         TokenCommitOptions options;
         Config::parse("env: {length: 20}", "here").at("env").read(options);
       }), "env.model");
}

TEST(lock_in, picks_what_stays) {
  const std::vector<MaskedPosition> masked = {{.position = 1, .token = 5}, {.position = 2, .token = 6}, {.position = 4, .token = 9}, {.position = 5, .token = 9}};
  CommitState s;
  s.masked = masked;
  std::vector<int32_t> picks = {3};
  LockIn control({7, 5, 7, 7, 9, -1}, {0, 5, 2}, 2);
  s.pass = 1, control.choose(s, picks);
  EXPECT_EQ(picks, (std::vector<int32_t>{3}));   // follows: position 5
  s.pass = 2, control.choose(s, picks);
  EXPECT_EQ(picks, (std::vector<int32_t>{0, 2}));
  LockIn other({1, 1, 1, 1, 1, 1}, {}, 0);
  other.choose(s, picks);
  EXPECT_TRUE(picks.empty());
}

}  // namespace
}  // namespace trimtab
