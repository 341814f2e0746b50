// A server that drafts: what is conserved, Little's law, who goes first, and where drafting stops to pay.
#include "envs/draft_length/serving/draft_serving.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"
#include "envs/draft_length/serving/arrivals.h"
#include "envs/draft_length/serving/serving_rules.h"
#include "envs/evaluation.h"

namespace trimtab {
namespace {

using Length = std::function<int64_t(const DraftServing::State&)>;

// Texts of different lengths, every draft accepted with one probability.
class SteadyDrafts final : public DraftSource {
 public:
  SteadyDrafts(double accept, int64_t shortest, int64_t longest) : accept_(accept), shortest_(shortest), longest_(longest) {}
  int64_t texts() const override { return 50; }
  int64_t most_drafted() const override { return 12; }
  void begin(DraftPlace& place, int64_t text) const override { place.text = text, place.position = 0; }
  int64_t length(int64_t text) const { return shortest_ + text * 7 % (longest_ - shortest_ + 1); }
  int64_t left(const DraftPlace& place) const override { return length(place.text) - place.position; }
  int64_t committed(const DraftPlace& place, int64_t tokens) const override { return std::min(tokens, left(place)); }
  float last_entropy(const DraftPlace&) const override { return 0; }
  void advance(DraftPlace& place, int64_t tokens) const override { place.position += tokens; }
  DraftCandidate look(const DraftPlace& place, int64_t depth) const override {
    EXPECT_LT(depth, left(place) - 1);   // a draft beyond the last token is never asked for
    const auto words = random_words(place.key.seed, Stream::kAck, {static_cast<uint32_t>(place.key.episode), static_cast<uint32_t>(place.position), static_cast<uint32_t>(depth), 0});
    DraftCandidate out;
    out.accept = out.alpha = static_cast<float>(accept_), out.accepted = uniform01(words[0]) < accept_;
    return out;
  }

 private:
  double accept_;
  int64_t shortest_, longest_;
};

DraftServing steady(const DraftServingOptions& o, double accept, int64_t shortest = 5, int64_t longest = 40) {
  return DraftServing(o, std::make_unique<SteadyDrafts>(accept, shortest, longest));
}

DraftServingOptions random_options(Draws& d) {
  DraftServingOptions o;
  o.requests = 20 + d.below(60), o.max_batch = 1 + d.below(12), o.cv = d.below(2) ? 1 : d.uniform(0.2f, 4);
  o.low_rate = d.uniform(0.5f, 10), o.high_rate = o.low_rate * d.uniform(1, 20);
  o.cost.draft = d.uniform(0.1f, 2), o.cost.draft_token = d.uniform(0, 0.1f), o.cost.verify_token = d.uniform(0, 0.5f), o.cost.overhead = d.uniform(0, 2);
  return o;
}

struct Episode {
  DraftServing::State end;
  std::vector<DraftServing::Served> served;
  int64_t tokens = 0, rounds = 0;
};
Episode play(const DraftServing& env, WorldKey key, const Length& length, double rate = 0) {
  Episode e;
  rate > 0 ? env.begin(e.end, key, rate) : env.reset(e.end, key);
  for (DraftServing::Round r; !r.over; ++e.rounds) r = env.round(e.end, length(e.end), &e.served), e.tokens += r.tokens;
  return e;
}
Length fixed(int64_t k) {
  return [k](const DraftServing::State&) { return k; };
}
Length any_length(Draws& d) {
  return [&d](const DraftServing::State&) { return static_cast<int64_t>(d.below(13)); };
}
double mean_ms(const Episode& e) {
  double sum = 0;
  for (const auto& q : e.served) sum += q.ms();
  return sum / static_cast<double>(e.served.size());
}

TEST(draft_serving, every_request_is_answered_once_and_whole) {
  for (uint32_t i = 0; i < 10; ++i) {
    Draws d(test_seed(), Stream::kTest, 400, i);
    const DraftServingOptions o = random_options(d);
    const SteadyDrafts texts(0, 5, 40);
    const DraftServing env = steady(o, 0.7);
    const WorldKey key{test_seed(), i};
    const Episode e = play(env, key, any_length(d));
    ASSERT_EQ(static_cast<int64_t>(e.served.size()), o.requests);
    std::map<int64_t, int64_t> tokens;
    int64_t sum = 0;
    for (const auto& q : e.served) tokens[q.request] = q.tokens, sum += q.tokens;
    EXPECT_EQ(static_cast<int64_t>(tokens.size()), o.requests);
    EXPECT_EQ(sum, e.tokens);
    EXPECT_EQ(sum, e.end.tokens);
    EXPECT_TRUE(e.end.batch.empty());
    for (const auto& [request, n] : tokens) {
      const int64_t text = Draws(key.seed, Stream::kWorld, i, 0, static_cast<uint32_t>(request)).below(50);
      EXPECT_EQ(n, texts.length(text)) << "request " << request;
    }
  }
}

// The integral of the number in the system is the sum of the times in the system, and the return its negative mean.
TEST(draft_serving, littles_law) {
  for (uint32_t i = 0; i < 10; ++i) {
    Draws d(test_seed(), Stream::kTest, 401, i);
    DraftServingOptions o = random_options(d);
    o.shaping = i % 4 > 0;
    const DraftServing env = steady(o, 0.8);
    Draws lengths(test_seed(), Stream::kTest, 402, i), again(test_seed(), Stream::kTest, 402, i);
    const int64_t choices = static_cast<int64_t>(env.lengths().size());
    const Episode e = play(env, {test_seed(), i}, [&](const DraftServing::State&) { return env.lengths()[lengths.below(static_cast<uint32_t>(choices))]; });
    const double requests = static_cast<double>(o.requests);
    EXPECT_NEAR((e.end.waiting_ms + e.end.decoding_ms) / requests / mean_ms(e), 1, 1e-9);
    DraftServing::State s;
    env.reset(s, {test_seed(), i});
    double total = 0, shaping = 0;
    for (bool over = false; !over;) {
      float terms[3], action = static_cast<float>(again.below(static_cast<uint32_t>(choices)));
      env.act(s, 0, &action);
      over = env.step(s, terms).terminated;
      EXPECT_LE(terms[0], 0);
      EXPECT_LT(terms[1], 0);
      total += terms[0] + terms[1];
      shaping += terms[2];
      EXPECT_EQ(terms[2] > 0, o.shaping);
    }
    EXPECT_NEAR(shaping, o.shaping ? static_cast<double>(e.tokens) * s.token_ms / env.service_ms() / requests : 0, 1e-4);   // whatever was decided
    EXPECT_NEAR(-total * env.service_ms() / mean_ms(e), 1, 1e-4);
  }
}

TEST(draft_serving, first_come_first_served) {
  for (uint32_t i = 0; i < 6; ++i) {
    Draws d(test_seed(), Stream::kTest, 403, i);
    DraftServingOptions o = random_options(d);
    const DraftServing env = steady(o, 0.6);
    DraftServing::State s;
    env.reset(s, {test_seed(), i});
    int64_t last = -1;
    for (bool over = false; !over;) {
      for (const auto& q : s.batch) {
        EXPECT_LE(s.arrivals[q.request], s.now_ms);
        if (q.tokens > 0) continue;   // joined just now
        EXPECT_EQ(q.request, last + 1);
        last = q.request;
      }
      EXPECT_LE(static_cast<int64_t>(s.batch.size()), o.max_batch);
      EXPECT_TRUE(s.arrived == s.admitted || static_cast<int64_t>(s.batch.size()) == o.max_batch);   // none waits beside an empty place
      over = env.round(s, static_cast<int64_t>(d.below(13))).over;
    }
    EXPECT_EQ(last, o.requests - 1);
    o.max_batch = 1;   // then they leave in their order, too
    int64_t request = 0;
    for (const auto& q : play(steady(o, 0.6), {test_seed(), i}, any_length(d)).served) EXPECT_EQ(q.request, request++);
  }
}

// Far apart, each is decoded alone from the moment it comes, and the time between costs nothing.
TEST(draft_serving, with_hardly_any_arrivals_the_clock_jumps) {
  DraftServingOptions o;
  o.requests = 9;
  const DraftServing env = steady(o, 0.7);
  const Episode e = play(env, {test_seed(), 3}, fixed(0), 1e-6);
  EXPECT_EQ(e.end.waiting_ms, 0);
  EXPECT_EQ(e.end.decoding_ms, e.end.busy_ms);
  EXPECT_EQ(e.rounds, e.tokens);
  EXPECT_GT(e.end.now_ms, 1000 * e.end.busy_ms);
  for (const auto& q : e.served) EXPECT_NEAR(q.ms() / static_cast<double>(q.tokens), env.round_ms(0, 1), 1e-3);
  o.requests = 1;
  EXPECT_EQ(play(steady(o, 0.7), {test_seed(), 4}, fixed(2)).served.size(), 1u);
}

// decoding_controllers C1 within a server: one sequence alone at a constant acceptance, and a full batch.
TEST(draft_serving, rates_have_the_closed_form) {
  DraftServingOptions o;
  o.max_batch = 16;
  const DraftServing env = steady(o, 0.8, 2000, 2000);
  for (const int64_t k : {0, 1, 4, 8})
    for (const int64_t b : {1, 5, 16}) {
      const double tokens = (1 - std::pow(0.8, k + 1)) / 0.2;   // Leviathan et al., 2211.17192
      EXPECT_NEAR(env.fixed_rate(k, b) / (tokens / env.round_ms(k, b)), 1, 0.02) << k << " " << b;
    }
}

TEST(draft_serving, what_is_always_accepted_for_nothing_pays_at_any_length) {
  DraftServingOptions o;
  o.cost = {.draft = 1e-9, .verify = 6}, o.requests = 40;
  const DraftServing env = steady(o, 1);
  for (const double rate : {1.0, 20.0, 500.0}) {
    double before = 1e300;
    for (const int64_t k : env.lengths()) {
      const double ms = mean_ms(play(env, {test_seed(), 1}, fixed(k), rate));
      EXPECT_LE(ms, before * (1 + 1e-9)) << k << " at " << rate;
      before = ms;
    }
  }
}

TEST(draft_serving, drafting_pays_alone_and_not_in_a_large_batch) {
  DraftServingOptions o;
  o.cost = {.draft = 0.5, .verify = 6, .verify_token = 1}, o.max_batch = 64, o.requests = 200;
  const DraftServing env = steady(o, 0.5, 30, 30);
  EXPECT_GT(env.best_length(1), 0);
  EXPECT_EQ(env.best_length(64), 0);
  int64_t last = 100;
  for (int64_t b = 1; b <= 64; ++b) {
    EXPECT_LE(env.best_length(b), last);
    last = env.best_length(b);
  }
  const int64_t k = env.best_length(1);
  const WorldKey key{test_seed(), 5};
  EXPECT_LT(mean_ms(play(env, key, fixed(k), 0.1)), 0.95 * mean_ms(play(env, key, fixed(0), 0.1)));
  EXPECT_GT(mean_ms(play(env, key, fixed(k), 1000)), 1.05 * mean_ms(play(env, key, fixed(0), 1000)));
  // A table by batch size is as good as the better one at either end.
  const auto table = make_serving_rule("table", env, 1);
  for (const double rate : {0.1, 1000.0}) {
    const double best = std::min(mean_ms(play(env, key, fixed(0), rate)), mean_ms(play(env, key, fixed(k), rate)));
    EXPECT_LE(mean_ms(play(env, key, [&](const DraftServing::State& s) { return table->length(s); }, rate)), 1.001 * best) << rate;
  }
}

// What a round takes, by hand: three sequences with 1, 3 and 40 tokens left that are asked for 4.
TEST(draft_serving, a_round_takes_its_passes_and_one_verification) {
  DraftServingOptions o;
  o.cost = {.draft = 1, .draft_token = 0.25, .verify = 5, .verify_token = 0.5, .overhead = 2}, o.requests = 3, o.cv = 0;
  const SteadyDrafts texts(1, 5, 40);
  const DraftServing env = steady(o, 1);
  DraftServing::State s;
  env.begin(s, {test_seed(), 0}, 1e9);   // all come at once
  while (s.arrived < 3) env.round(s, 0);
  ASSERT_EQ(s.batch.size(), 3u);
  const int64_t left[] = {1, 3, 40};
  for (int64_t text = 0; text < 50; ++text)   // texts of 40 tokens, entered at the place in question
    if (texts.length(text) == 40)
      for (size_t i = 0; i < 3; ++i) s.batch[i].place.text = text, s.batch[i].place.position = 40 - left[i];
  const auto r = env.round(s, 4);
  EXPECT_EQ(r.drafted, 0 + 2 + 4);
  EXPECT_EQ(r.tokens, 1 + 3 + 5);
  EXPECT_NEAR(r.ms, (1 + 0.25 * 2) * 2 + (1 + 0.25) * 2 + 2 + 5 + 0.5 * 9, 1e-12);
  EXPECT_EQ(s.finished, 2);
}

TEST(draft_serving, arrivals_have_their_rate_and_spread) {
  for (const double cv : {0.0, 0.5, 1.0, 2.5}) {
    std::vector<double> at(20000);
    draw_arrivals({test_seed(), 2}, 0.25, cv, at);
    double last = 0, sum = 0, squares = 0;
    for (const double t : at) {
      const double gap = t - last;
      EXPECT_GE(gap, 0);
      sum += gap, squares += gap * gap, last = t;
    }
    const double n = static_cast<double>(at.size()), mean = sum / n;
    EXPECT_NEAR(mean, 4, 4 * (0.001 + 4 * cv / std::sqrt(n)));
    EXPECT_NEAR(std::sqrt(std::max(0.0, squares / n - mean * mean)) / mean, cv, 0.001 + 0.1 * cv);
  }
}

// The share of the log-uniform rates below the geometric middle is a half.
TEST(draft_serving, rates_are_drawn_log_uniformly) {
  DraftServingOptions o;
  o.low_rate = 0.5, o.high_rate = 50, o.requests = 1;
  const DraftServing env = steady(o, 0.7);
  DraftServing::State s;
  int below = 0;
  for (uint64_t e = 0; e < 1000; ++e) {
    env.reset(s, {test_seed(), e});
    EXPECT_GE(s.rate, 0.0005 * (1 - 1e-6));
    EXPECT_LE(s.rate, 0.05 * (1 + 1e-6));
    below += s.rate < 0.005;
  }
  EXPECT_NEAR(below, 500, 80);
}

// Whatever is decided, the same requests come at the same times with the same texts, and drafts at a place meet the same coins.
TEST(draft_serving, every_policy_meets_the_same_world) {
  Draws d(test_seed(), Stream::kTest, 404);
  DraftServingOptions o = random_options(d);
  o.mode = "synthetic", o.synthetic.length = 30, o.max_batch += 1;
  const DraftServing env(o, open_drafts(o, {}));
  const auto by_request = [&](const Length& length) {
    std::map<int64_t, std::pair<double, int64_t>> out;
    for (const auto& q : play(env, {test_seed(), 6}, length).served) out[q.request] = {q.arrived_ms, q.tokens};
    return out;
  };
  const auto expected = by_request(fixed(0));
  EXPECT_EQ(expected, by_request(fixed(8)));
  for (const std::string& name : serving_rule_names(env)) {
    const auto rule = make_serving_rule(name, env, 1);
    EXPECT_EQ(expected, by_request([&](const DraftServing::State& s) {
                const int64_t k = rule->length(s);
                EXPECT_TRUE(k >= 0 && k <= env.most_drafted()) << name;
                return k;
              }))
        << name;
  }
  // What becomes of a request's drafts does not depend on whom it is decoded with.
  const auto accepted = [&](int64_t max_batch) {
    DraftServingOptions other = o;
    other.max_batch = max_batch;
    const auto e = play(DraftServing(other, open_drafts(other, {})), {test_seed(), 6}, fixed(4), 200);
    return std::pair(e.end.drafted, e.end.accepted);
  };
  EXPECT_EQ(accepted(1), accepted(o.max_batch));
  // Requests of one episode are worlds of their own.
  DraftServing::State s;
  env.begin(s, {test_seed(), 6}, 1e6);
  while (s.batch.size() < 2) env.round(s, 0);
  EXPECT_NE(s.batch[0].place.key.episode, s.batch[1].place.key.episode);
}

// A view depends on nothing that is still to come.
TEST(draft_serving, shows_nothing_of_the_future) {
  DraftServingOptions o;
  o.requests = 30;
  const DraftServing env = steady(o, 0.7);
  const size_t width = env.spec().agents[0].observation.context_size();
  DraftServing::State s;
  env.reset(s, {test_seed(), 8});
  for (bool over = false; !over;) {
    DraftServing::State other = s;
    for (int64_t i = other.arrived; i < o.requests; ++i) other.arrivals[i] = other.now_ms + 1e6 + static_cast<double>(i);
    other.rate *= 100;
    for (auto& q : other.batch) q.place.key.seed += 1;   // other coins
    std::vector<float> now(width), then(width);
    env.observe(s, 0, {now.data(), nullptr, nullptr}), env.observe(other, 0, {then.data(), nullptr, nullptr});
    EXPECT_EQ(now, then);
    for (size_t i = 0; i < width; ++i) {
      const Feature& f = env.spec().agents[0].observation.context[i];
      EXPECT_TRUE(now[i] >= f.low && now[i] <= f.high) << f.name << " = " << now[i];
    }
    over = env.round(s, 3).over;
  }
}

TEST(draft_serving, goodput_counts_what_is_answered_in_time) {
  DraftServingOptions o;
  o.objective = "goodput", o.requests = 50, o.max_batch = 4, o.low_rate = o.high_rate = 15;
  const DraftServing env = steady(o, 0.7);
  const Episode e = play(env, {test_seed(), 9}, fixed(4));
  int64_t in_time = 0;
  for (const auto& q : e.served) in_time += q.ms() <= o.slo_ms_per_token * static_cast<double>(q.tokens);
  DraftServing::State s;
  env.reset(s, {test_seed(), 9});
  double total = 0;
  for (bool over = false; !over;) {
    float term = 0, action = 4;   // of lengths 0,1,2,3,4
    env.act(s, 0, &action);
    over = env.step(s, &term).terminated, total += term;
  }
  EXPECT_NEAR(total, static_cast<double>(in_time) / 50, 1e-6);
  EXPECT_EQ(e.end.in_time, in_time);
}

TEST(serving_rules, smartspec_follows_acceptance_and_load) {
  DraftServingOptions o;
  o.cost = {.draft = 0.5, .verify = 6, .verify_token = 0.5};
  const DraftServing env = steady(o, 0.7);
  const auto rule = make_serving_rule("smartspec", env, 1);
  const auto at = [&](int64_t batch, float acceptance) {
    DraftServing::State s;
    DraftServing::Sequence q;
    q.acceptance = acceptance;
    s.batch.assign(batch, q);
    return rule->length(s);
  };
  EXPECT_EQ(at(1, 0), 0);
  EXPECT_EQ(at(1, 1), 12);
  EXPECT_GT(at(1, 0.7f), at(32, 0.7f));
  EXPECT_GT(at(4, 0.9f), at(4, 0.4f));
  EXPECT_THROW(make_serving_rule("fixed_5", env, 1), ConfigError);   // not among the lengths
  EXPECT_THROW(make_serving_rule("smart", env, 1), ConfigError);
}

// At a constant acceptance of 1 and drafts for nearly nothing, what learns goes as far as it may.
TEST(serving_rules, rules_that_learn_find_the_longest) {
  DraftServingOptions o;
  o.cost = {.draft = 0.01, .verify = 6}, o.requests = 300, o.max_batch = 4, o.lengths = "0,1,2,4,8";
  const DraftServing env = steady(o, 1, 60, 90);
  for (const std::string name : {"hf", "ucb1"}) {
    const auto rule = make_serving_rule(name, env, 1);
    double late = 0, rounds = 0;
    DraftServing::State s;
    env.begin(s, {test_seed(), 1}, 1e6);
    for (DraftServing::Round r; !r.over; rule->learn(r)) {
      r = env.round(s, rule->length(s));
      if (s.finished >= 150) late += static_cast<double>(r.length), rounds += 1;
    }
    EXPECT_GT(late / rounds, 7) << name;
  }
}

std::string refusal_of(const std::string& yaml, bool evaluate = false) {
  try {
    const Config config = Config::parse(yaml, "env.yaml");
    const DraftServingOptions o = draft_serving_options(config);
    DraftServing(o, open_drafts(o, {}));
    if (evaluate) Registry<EvaluatorEntry>::instance().get("draft_serving", "evaluator").make(config, "none");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(draft_serving, refuses_options_that_make_no_sense) {
  EXPECT_EQ(refusal_of("{mode: synthetic}"), "");
  EXPECT_NE(refusal_of("{mode: synthetic, lengths: '3,2'}").find("rising order"), std::string::npos);
  EXPECT_NE(refusal_of("{mode: synthetic, lengths: '9,10'}").find("no choice"), std::string::npos);
  EXPECT_NE(refusal_of("{mode: synthetic, low_rate: 4, high_rate: 2}").find("below"), std::string::npos);
  EXPECT_NE(refusal_of("{mode: synthetic, requests: 0}").find("requests"), std::string::npos);
  EXPECT_NE(refusal_of("{mode: synthetic, cost: {payload_bits: 16}}").find("uplink"), std::string::npos);
  EXPECT_NE(refusal_of("{mode: replay}").find("trimtab record"), std::string::npos);
  EXPECT_NE(refusal_of("{mode: synthetic}", true).find("env.low_rate"), std::string::npos);
  EXPECT_EQ(refusal_of("{mode: synthetic, low_rate: 2, high_rate: 2}", true), "");
}

TEST(draft_serving_evaluator, figures_go_together) {
  const Config config = Config::parse("{mode: synthetic, synthetic: {length: 40}, requests: 30, low_rate: 30, high_rate: 30, episodes: 3, max_batch: 8}", "env.yaml");
  const auto evaluator = Registry<EvaluatorEntry>::instance().get("draft_serving", "evaluator").make(config, "none");
  EXPECT_EQ(evaluator->num_episodes(), 3);
  const auto infos = evaluator->metrics();
  const auto at = [&](const EpisodeResult& r, const std::string& name) {
    for (size_t i = 0; i < infos.size(); ++i)
      if (infos[i].name == name) return r.metrics[i];
    ADD_FAILURE() << name;
    return 0.0;
  };
  for (const EvaluatedPolicy& p : evaluator->policies(false)) {
    const EpisodeResult r = evaluator->run(p.name, {}, 1, test_seed(), false);
    ASSERT_EQ(r.metrics.size(), infos.size()) << p.name;
    EXPECT_EQ(r.metrics, evaluator->run(p.name, {}, 1, test_seed(), false).metrics) << p.name;
    EXPECT_NEAR(at(r, "time_in_system"), 40 * at(r, "ms_per_token"), 1e-6) << p.name;   // all texts have 40 tokens
    EXPECT_GE(at(r, "p95_ms_per_token"), at(r, "ms_per_token")) << p.name;
    EXPECT_LE(at(r, "goodput"), 1000 * at(r, "tokens_per_ms") * (1 + 1e-9)) << p.name;
    EXPECT_NEAR(at(r, "goodput"), 1000 * at(r, "tokens_per_ms") * at(r, "in_time"), 1e-6) << p.name;
    EXPECT_TRUE(at(r, "mean_batch") >= 1 && at(r, "mean_batch") <= 8) << p.name;
    EXPECT_EQ(at(r, "wasted_per_token") > 0, p.name != "none") << p.name;
  }
}

}  // namespace
}  // namespace trimtab
