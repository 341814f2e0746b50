// The environment: what rewards are made of, what an agent's actions mean, answers that are saved and go on, and that there is something to learn.
#include "envs/token_commit/token_commit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

TokenCommitOptions options_of() {
  TokenCommitOptions o;
  o.mode = "synthetic", o.length = 16, o.items = 16;
  return o;
}

struct Stage {
  explicit Stage(const TokenCommitOptions& o, int64_t slots = 3) : env(make_token_commit(o, open_commit_source(o, {}, slots))), slots(slots) {
    const EnvSpec& s = env->spec();
    context.resize(slots * s.critic.context_size()), items.resize(slots * s.critic.max_items * s.critic.item_size()), mask.resize(slots * s.critic.max_items);
    reward.resize(slots), terms.resize(3 * slots), terminated.resize(slots), truncated.resize(slots);
    final_context = context, final_items = items, final_mask = mask;
    std::vector<WorldKey> keys;
    for (int64_t i = 0; i < slots; ++i) keys.push_back({test_seed(), static_cast<uint64_t>(i)});
    env->reset(keys, static_cast<uint64_t>(slots));
  }
  void look() { env->observe(0, {context.data(), items.data(), mask.data()}); }
  void step(const std::vector<float>& actions) {
    look();
    env->act(0, actions.data());
    env->step({reward.data(), terms.data(), terminated.data(), truncated.data(), {final_context.data(), final_items.data(), final_mask.data()}});
  }
  const float* item(int64_t slot, int64_t i) const { return items.data() + (slot * env->spec().critic.max_items + i) * env->spec().critic.item_size(); }

  std::unique_ptr<BatchEnvironment> env;
  int64_t slots;
  std::vector<float> context, items, reward, terms, final_context, final_items;
  std::vector<uint8_t> mask, terminated, truncated, final_mask;
};

double statistic(BatchEnvironment& env, const std::string& name) {
  for (const auto& s : env.take_statistics())
    if (s.name == name) return s.sum / static_cast<double>(s.count);
  ADD_FAILURE() << name;
  return 0;
}

TEST(TokenCommit, CommittingEverythingTakesOnePassAndOneAtATimeAsManyAsTokens) {
  TokenCommitOptions o = options_of();
  o.reward = "sum", o.pass_price = 1;
  Stage all(o);
  all.step(std::vector<float>(3 * 16, 1.0f));
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(all.terminated[i]);
    EXPECT_FLOAT_EQ(all.terms[3 * i + 1], -1.0f / 16);
  }
  EXPECT_EQ(statistic(*all.env, "passes"), 1);
  o.finish_early = false;
  Stage none(o, 1);   // nothing chosen: one forced commit a pass
  for (int t = 0; t < 16; ++t) {
    none.step(std::vector<float>(16, 0.0f));
    EXPECT_EQ(none.terminated[0], t == 15);
  }
  EXPECT_FLOAT_EQ(none.terms[1], -1);
  auto statistics = none.env->take_statistics();
  for (const auto& s : statistics) {
    const double expected = s.name == "forced" || s.name == "tokens_per_pass" ? 1 : s.sum;
    EXPECT_DOUBLE_EQ(s.sum, expected) << s.name;
  }
}

TEST(TokenCommit, RewardIsCorrectTimesTheShareOfPassesSavedToAPower) {
  TokenCommitOptions o = options_of();
  o.alpha = 2, o.synthetic.depends = 0;   // every proposal is right at once
  Stage s(o);
  s.step(std::vector<float>(3 * 16, 1.0f));
  for (int64_t i = 0; i < 3; ++i) EXPECT_NEAR(s.reward[i], std::pow(15.0 / 16, 2), 1e-6);
  o.budget = 1;
  Stage cut(o);
  cut.step(std::vector<float>(3 * 16, 0.0f));   // one forced commit, and the budget is used up
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(cut.terminated[i]);
    EXPECT_EQ(cut.reward[i], 0);
  }
}

TEST(TokenCommit, StabilityPaysForWhatOneTokenAPassEndsWith) {
  TokenCommitOptions o = options_of();
  o.stability = 16, o.synthetic.depends = 0, o.eos_guard = false, o.finish_early = false;
  Stage s(o, 1);
  std::vector<float> three(16, 0.0f);
  three[0] = three[4] = three[9] = 1;
  s.step(three);
  EXPECT_FLOAT_EQ(s.terms[2], 3);
}

TEST(TokenCommit, ItemsAreTheMaskedPositionsAndSayWhatTheyAre) {
  Stage s(options_of(), 1);
  s.look();
  EXPECT_EQ(std::count(s.mask.begin(), s.mask.end(), 1), 16);
  EXPECT_FLOAT_EQ(s.context[0], 1);   // all masked
  std::vector<float> first(16, 0.0f);
  first[0] = 1;
  s.step(first);
  s.look();
  EXPECT_EQ(std::count(s.mask.begin(), s.mask.end(), 1), 15);
  EXPECT_FLOAT_EQ(s.context[0], 15.0f / 16);
  EXPECT_FLOAT_EQ(s.item(0, 2)[6], std::log2(3.0f));   // two behind the first mask
  EXPECT_FLOAT_EQ(s.item(0, 2)[7], std::log2(4.0f));   // three behind the token committed
  for (int64_t i = 0; i < 15; ++i) EXPECT_EQ(s.item(0, i)[1] > 0, s.item(0, i)[0] > 0.95f);
}

TEST(TokenCommit, OrderCommitsAsManyAsItNames) {
  TokenCommitOptions o = options_of();
  o.action = "order", o.picks = 3, o.eos_guard = false, o.finish_early = false;
  Stage s(o, 1);
  s.step({5, 2, 7});
  s.look();
  EXPECT_EQ(std::count(s.mask.begin(), s.mask.end(), 1), 13);
  s.step({1, -1, -1});
  s.look();
  EXPECT_EQ(std::count(s.mask.begin(), s.mask.end(), 1), 12);
}

TEST(TokenCommit, MostBoundsAPassByTheLargestActions) {
  TokenCommitOptions o = options_of();
  o.most = 2, o.eos_guard = false, o.finish_early = false, o.threshold = 0.3;
  CommitActions actions(o);
  std::vector<MaskedPosition> masked(4);
  for (int i = 0; i < 4; ++i) masked[i].position = i, masked[i].confidence = 0.5f;
  CommitState state;
  state.masked = masked;
  const std::vector<float> chances = {0.4f, 0.9f, 0.2f, 0.6f};
  actions.set_commit(chances);
  std::vector<int32_t> picks;
  actions.choose(state, picks);
  std::sort(picks.begin(), picks.end());
  EXPECT_EQ(picks, (std::vector<int32_t>{1, 3}));
  const std::vector<float> low = {0.1f, 0.2f, 0.25f, 0.05f};
  actions.set_commit(low);
  actions.choose(state, picks);
  EXPECT_EQ(picks, std::vector<int32_t>{2});
  EXPECT_TRUE(actions.chose_nothing());
}

// Of n masks and k passes left the plan asks for floor(n / k), the most confident; what is ahead of its plan gets nothing from it.
TEST(TokenCommit, APlanIsKeptToByTheMostConfident) {
  TokenCommitOptions o = options_of();
  o.planned = true, o.passes = 4, o.threshold = 0.5;
  CommitActions actions(o);
  std::vector<MaskedPosition> masked(6);
  for (int i = 0; i < 6; ++i) masked[i].position = i, masked[i].confidence = 0.1f * static_cast<float>(i);
  std::vector<int32_t> tokens(6, -1);
  CommitState state;
  state.length = 6, state.window_masks = 6, state.masked = masked, state.tokens = tokens, state.window_passes = 4;
  std::vector<float> chances = {0.9f, 0, 0, 0, 0, 0};
  const auto chosen = [&](int64_t pass) {
    state.window_pass = pass;
    actions.set_commit(chances);
    std::vector<int32_t> picks;
    actions.choose(state, picks);
    std::sort(picks.begin(), picks.end());
    return picks;
  };
  EXPECT_EQ(chosen(0), (std::vector<int32_t>{0, 5}));            // floor(6 / 4)
  EXPECT_EQ(chosen(2), (std::vector<int32_t>{0, 3, 4, 5}));      // floor(6 / 2)
  EXPECT_EQ(chosen(3).size(), 6u);                               // the last pass
  state.window_passes = 12;
  EXPECT_EQ(chosen(0), std::vector<int32_t>{0});
  chances[0] = 0;
  EXPECT_EQ(chosen(0).size(), 1u);
  EXPECT_TRUE(actions.chose_nothing());
  state.window_passes = 4;
  EXPECT_EQ(chosen(0), std::vector<int32_t>{5});
  EXPECT_TRUE(actions.chose_nothing()) << "the plan's commit is not the agent's";
}

TEST(TokenCommit, BudgetsAreSeenAndDrawn) {
  TokenCommitOptions o = options_of();
  o.budget = 5, o.least_budget = 2, o.finish_early = false;
  Stage s(o, 32);
  s.look();
  const int width = s.env->spec().critic.context_size();
  EXPECT_EQ(width, 9);
  std::vector<int64_t> left(32, 0), seen;
  for (int64_t i = 0; i < 32; ++i) seen.push_back(std::lround(std::exp2(s.context[i * width + 8])) - 1);
  for (int64_t pass = 1; pass <= 5; ++pass) {
    s.step(std::vector<float>(32 * 16, 0.0f));   // one forced commit: no answer of 16 tokens is over by then
    for (int64_t i = 0; i < 32; ++i)
      if (left[i] == 0 && s.terminated[i]) left[i] = pass;
    s.look();
  }
  EXPECT_EQ(left, seen) << "budgets are what agents were told";
  for (const int64_t budget : {2, 3, 4, 5}) EXPECT_GT(std::count(left.begin(), left.end(), budget), 0) << budget;
}

TEST(TokenCommit, AWindowAgentSaysHowFarAWindowReaches) {
  TokenCommitOptions o = options_of();
  o.window = "block", o.block = 8, o.decide_window = true, o.windows = "2,4";
  Stage s(o, 1);
  EXPECT_EQ(s.env->spec().agents.front().name, "window");
  const float second = 1;
  s.env->act(0, &second);
  s.env->observe(1, {s.context.data(), s.items.data(), s.mask.data()});
  EXPECT_EQ(std::count(s.mask.begin(), s.mask.end(), 1), 4);
}

TEST(TokenCommit, RefusesWhatDoesNotFit) {
  EXPECT_THROW(parse_windows("8"), ConfigError);
  EXPECT_THROW(parse_windows("8,4"), ConfigError);
  EXPECT_THROW(parse_windows("8,x"), ConfigError);
  const auto refuses = [](const std::string& yaml) {
    const Config config = Config::parse("env: {type: token_commit, " + yaml + "}", "test").at("env");
    EXPECT_THROW(token_commit_options(config), ConfigError) << yaml;
  };
  refuses("mode: live");                                                                         // no model
  refuses("mode: synthetic, length: 16, window: block, block: 5");
  refuses("mode: synthetic, length: 16, window: sliding, width: 17");
  refuses("mode: synthetic, length: 16, decide_refresh: true, window: full");
  refuses("mode: synthetic, length: 16, decide_window: true, window: full");
  refuses("mode: synthetic, length: 16, reward: speed");
  refuses("mode: synthetic, length: 16, planned: true");
  refuses("mode: synthetic, length: 16, longest: 8");
  refuses("mode: synthetic, length: 16, budget: 3, least_budget: 4");
}

}  // namespace
}  // namespace trimtab
