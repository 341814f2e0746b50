// Draft lengths: the synthetic optimum against closed forms, simulation and brute force; recordings that cannot be used; rules; labels.
#include "envs/draft_length/draft_length.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "core/recording.h"
#include "core/test_support.h"
#include "envs/draft_length/optimum.h"
#include "envs/draft_length/recorded.h"
#include "envs/draft_length/rules.h"

namespace trimtab {
namespace {

SyntheticProblem random_problem(uint32_t index) {
  Draws d(test_seed(), Stream::kTest, index, 77);
  SyntheticProblem p;
  p.drafts.accept_easy = d.uniform(0.7f, 0.99f), p.drafts.accept_hard = d.uniform(0.05f, 0.6f);
  p.drafts.stay_easy = d.uniform(0.5f, 0.97f), p.drafts.stay_hard = d.uniform(0.2f, 0.9f), p.drafts.signal = d.uniform(0.6f, 0.99f);
  p.drafts.most_drafted = 6, p.drafts.length = 512;
  p.cost.draft = d.uniform(0.05f, 0.4f);
  return p;
}

DraftLengthOptions options_of(const SyntheticProblem& p) {
  DraftLengthOptions o;
  o.mode = "synthetic", o.synthetic = p.drafts, o.cost = p.cost;
  return o;
}

// Tokens per ms of a rule, simulated.
double simulated(const SyntheticProblem& p, DraftControl& rule, int64_t texts) {
  const DraftLength env(options_of(p), std::make_unique<SyntheticDrafts>(p.drafts));
  double tokens = 0, ms = 0;
  std::vector<DraftedToken> drafted;
  for (int64_t t = 0; t < texts; ++t) {
    DraftLength::State s;
    env.begin(s, {test_seed(), static_cast<uint64_t>(t)}, t, 1);
    for (bool over = false; !over;) {
      const int64_t most = std::min(p.drafts.most_drafted, rule.limit(env.view(s, drafted)));
      while (s.depth < most && rule.go_on(env.view(s, drafted))) env.draft(s);
      const DraftState before = env.view(s, drafted);
      const auto r = env.finish_round(s);
      rule.learn(before, r.accepted);
      tokens += static_cast<double>(r.tokens), ms += r.ms, over = r.over;
    }
  }
  return tokens / ms;
}

TEST(synthetic_optimum, a_constant_acceptance_has_the_closed_form) {
  for (const double a : {0.3, 0.6, 0.9})
    for (const double c : {0.05, 0.2}) {
      SyntheticProblem p;
      p.drafts.accept_easy = p.drafts.accept_hard = a, p.cost.draft = c, p.drafts.most_drafted = 10;
      double best = 0;
      for (int k = 0; k <= 10; ++k) {
        const double rate = (1 - std::pow(a, k + 1)) / (1 - a) / (k * c + 1);   // Leviathan et al., 2211.17192, theorem 3.8
        EXPECT_NEAR(fixed_rate(p, k), rate, 1e-9) << a << " " << c << " " << k;
        best = std::max(best, rate);
      }
      EXPECT_NEAR(optimal_rate(p), best, 1e-9);   // nothing is to be seen: one length is best
      EXPECT_NEAR(fixed_rate(p, best_fixed(p)), best, 1e-9);
    }
}

// decoding_controllers C1: the best lengths at acceptance .8 and verification that costs 1.
TEST(synthetic_optimum, best_lengths_are_those_of_the_table) {
  const std::pair<double, int64_t> expected[] = {{0.05, 8}, {0.1, 6}, {0.2, 4}};
  for (const auto& [c, k] : expected) {
    SyntheticProblem p;
    p.drafts.accept_easy = p.drafts.accept_hard = 0.8, p.cost.draft = c, p.drafts.most_drafted = 12;
    EXPECT_EQ(best_fixed(p), k) << c;
  }
}

TEST(synthetic_optimum, fixed_lengths_are_worth_what_simulation_says) {
  for (uint32_t i = 0; i < 4; ++i) {
    const SyntheticProblem p = random_problem(i);
    for (const int64_t k : {0, 2, 6}) {
      FixedDraft rule(k);
      EXPECT_NEAR(simulated(p, rule, 300) / fixed_rate(p, k), 1, 0.015) << i << " " << k;
    }
  }
}

// Stops as soon as a sign is hard.
class StopAtHard final : public DraftControl {
 public:
  bool go_on(const DraftState& s) override { return s.drafted.empty() ? s.last_entropy == 0 : s.drafted.back().entropy == 0; }
};

TEST(synthetic_optimum, is_above_every_rule) {
  for (uint32_t i = 0; i < 8; ++i) {
    const SyntheticProblem p = random_problem(10 + i);
    const double best = optimal_rate(p);
    EXPECT_GE(best, fixed_rate(p, best_fixed(p)) - 1e-9);
    StopAtHard rule;
    EXPECT_LT(simulated(p, rule, 200), best * 1.015) << i;
  }
}

TEST(synthetic_optimum, a_perfect_sign_beats_every_fixed_length) {
  SyntheticProblem p;
  p.drafts.signal = 1, p.drafts.accept_hard = 0.05, p.cost.draft = 0.3;
  EXPECT_GT(optimal_rate(p), 1.05 * fixed_rate(p, best_fixed(p)));
}

TEST(draft_rules, bandits_come_close_to_the_best_fixed_length) {
  const SyntheticProblem p{.drafts = {.accept_easy = 0.9, .accept_hard = 0.6, .length = 512, .most_drafted = 6}, .cost = {.draft = 0.2}};
  const double rate = fixed_rate(p, best_fixed(p));
  FixedDraft fixed(best_fixed(p));
  const double best = simulated(p, fixed, 300);   // on the same texts
  // A length that is played now and then meets other positions than when it is played always: near-equal lengths can be told wrongly, which
  // Thompson's narrow posterior then keeps.
  for (const auto& [name, share] : {std::pair<const char*, double>{"ucb1", 0.99}, {"thompson", 0.975}}) {
    const auto rule = make_draft_rule(name, {6, p.cost, 1, rate, test_seed(), nullptr});
    simulated(p, *rule, 500);   // about 90,000 rounds
    EXPECT_GT(simulated(p, *rule, 300) / best, share) << name;
  }
  const auto exp3 = make_draft_rule("exp3", {6, p.cost, 1, rate, test_seed(), nullptr});
  simulated(p, *exp3, 600);
  EXPECT_GT(simulated(p, *exp3, 300) / best, 0.97);   // it never stops exploring
}

TEST(draft_rules, do_what_their_names_say) {
  const DraftRuleOptions o{.most_drafted = 8, .cost = {}};
  std::vector<DraftedToken> drafted = {{0, -0.1f, 0.3f, 0.9f, 0.8f, {}}, {0, -1.0f, 1.1f, 0.5f, 0.2f, {}}};
  DraftState s{.most = 8, .drafted = std::span(drafted).first(1)};
  for (const char* rule : {"confidence_80", "entropy_50", "path_60"}) EXPECT_TRUE(make_draft_rule(rule, o)->go_on(s)) << rule;
  s.drafted = drafted;
  for (const char* rule : {"confidence_80", "entropy_50", "path_60"}) EXPECT_FALSE(make_draft_rule(rule, o)->go_on(s)) << rule;
  const auto hf = make_draft_rule("hf", o);
  EXPECT_EQ(hf->limit(s), 5);
  hf->learn(s, 2);
  EXPECT_EQ(hf->limit(s), 7);
  hf->learn(s, 0);
  EXPECT_EQ(hf->limit(s), 6);
  EXPECT_THROW(make_draft_rule("fixed_9", o), ConfigError);
  for (const std::string& name : draft_rule_names(8)) {
    const auto rule = make_draft_rule(name, o);
    s.drafted = {};
    EXPECT_GE(rule->limit(s), 0) << name;
    EXPECT_LE(rule->limit(s), 8) << name;
  }
}

Recording small_recording(int64_t rows = 12, int64_t depth = 3) {
  Draws d(test_seed(), Stream::kTest, 5);
  Recording r;
  r.environment = "draft_length";
  r.episodes = {{0, rows / 2, {{"category", "easy"}}}, {rows / 2, rows - rows / 2, {}}};
  const auto column = [&](int64_t width, float low, float high) {
    std::vector<float> v;
    for (int64_t i = 0; i < rows * width; ++i) v.push_back(d.uniform(low, high));
    RecordedColumn c;
    c.values = width == 1 ? Tensor::f32({rows}, v) : Tensor::f32({rows, width}, v);
    return c;
  };
  r.columns["target_entropy"] = column(1, 0, 2);
  for (const char* name : {"accept", "alpha", "top", "margin"}) r.columns[name] = column(depth, 0, 1);
  r.columns["logprob"] = column(depth, -3, 0), r.columns["entropy"] = column(depth, 0, 2);
  return r;
}

std::string refusal(const Recording& r) {
  const TemporaryFolder folder;
  const std::string file = folder.path() / "r.safetensors";
  try {
    write_recording(file, r);
    open_draft_recordings({file});
  } catch (const DataError& error) {
    return error.what();
  }
  return "";
}

TEST(draft_recordings, what_cannot_be_replayed_is_refused) {
  EXPECT_EQ(refusal(small_recording()), "");
  Recording r = small_recording();
  r.columns.erase("accept");
  EXPECT_NE(refusal(r).find("'accept' is missing"), std::string::npos) << refusal(r);
  r = small_recording();
  reinterpret_cast<float*>(r.columns["alpha"].values.bytes.data())[4] = 1.5f;
  EXPECT_NE(refusal(r).find("row 1"), std::string::npos) << refusal(r);
  r = small_recording();
  reinterpret_cast<float*>(r.columns["logprob"].values.bytes.data())[0] = 0.5f;
  EXPECT_NE(refusal(r).find("'logprob'"), std::string::npos) << refusal(r);
  r = small_recording();
  r.columns["entropy"] = small_recording(12, 2).columns["entropy"];
  EXPECT_NE(refusal(r).find("'entropy'"), std::string::npos) << refusal(r);
  EXPECT_THROW(open_draft_recordings({}), ConfigError);
}

// A round's rewards sum to tokens - lambda time, whatever the way they were decided.
TEST(draft_length, rewards_are_tokens_less_priced_time) {
  const TemporaryFolder folder;
  const std::string file = folder.path() / "r.safetensors";
  write_recording(file, small_recording(40, 4));
  for (const std::string decide : {"token", "round"}) {
    DraftLengthOptions o;
    o.decide = decide, o.lengths = "0,1,2,4";
    const DraftLength env(o, open_draft_recordings({file}));
    DraftLength::State s;
    env.reset(s, {3, 1});
    double tokens = 0, time = 0;
    Draws d(test_seed(), Stream::kTest, 9);
    for (bool over = false; !over;) {
      const float action = static_cast<float>(d.below(decide == "token" ? 2 : 4));
      float terms[2];
      env.act(s, 0, &action);
      over = env.step(s, terms).terminated;
      tokens += terms[0], time -= terms[1];
    }
    EXPECT_EQ(tokens, s.episode_tokens);
    EXPECT_EQ(tokens, 20);   // the whole text, no more
    EXPECT_NEAR(time / (s.episode_ms * env.reference_rate(1)), 1, 0.05);   // lambda is still near where it began
  }
}

TEST(draft_length, refuses_options_that_make_no_sense) {
  const auto says = [](const std::string& yaml) -> std::string {
    try {
      const DraftLengthOptions o = draft_length_options(Config::parse(yaml, "env.yaml"));
      DraftLength(o, open_drafts(o, {}));
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(says("{mode: synthetic}"), "");
  EXPECT_NE(says("{mode: synthetic, lengths: '3,2'}").find("rising order"), std::string::npos);
  EXPECT_NE(says("{mode: synthetic, most_drafted: 30}").find("recorded"), std::string::npos);
  EXPECT_NE(says("{mode: synthetic, cost: {draft: 0}}").find("costs nothing"), std::string::npos);
  EXPECT_NE(says("{mode: synthetic, low_batch: 4, high_batch: 2}").find("below"), std::string::npos);
  EXPECT_NE(says("{mode: replay}").find("trimtab record"), std::string::npos);
}

}  // namespace
}  // namespace trimtab
