// The environment and its evaluation: time and reward by hand, determinism, saving, and that agents' choices are what happens.
#include "envs/adapter_route/adapter_route.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/test_support.h"
#include "envs/adapter_route/regret.h"
#include "envs/adapter_route/routers.h"
#include "envs/evaluation.h"

namespace trimtab {
namespace {

using State = AdapterRoute::State;

AdapterRouteOptions options_of(const std::string& yaml) { return adapter_route_options(Config::parse(yaml, "test")); }
AdapterRoute made(const AdapterRouteOptions& o) { return AdapterRoute(o, synthetic_qualities(o.synthetic)); }
AdapterRoute made(const std::string& yaml) { return made(options_of(yaml)); }

constexpr const char* kSmall = "{type: adapter_route, eviction: learned, requests: {requests: 60}, paging: {slots: 2}, synthetic: {adapters: 5, tasks: 5, embedding: 4}}";

constexpr int kItem = 14;   // features of an item

struct View {
  std::vector<float> context, items;
  std::vector<uint8_t> mask;
  View(const AdapterRoute& env, const State& s, int agent) {
    const ObservationSpec& spec = agent < 0 ? env.spec().critic : env.spec().agents[agent].observation;
    context.resize(spec.context_size()), items.resize(spec.max_items * spec.item_size()), mask.resize(spec.max_items);
    const ObservationRows rows{context.data(), items.data(), mask.data()};
    agent < 0 ? env.observe_critic(s, rows) : env.observe(s, agent, rows);
  }
  float item(int64_t index, int feature) const { return items[index * kItem + feature]; }
};
void act(const AdapterRoute& env, State& s, int agent, int64_t choice) {
  const auto action = static_cast<float>(choice);
  env.act(s, agent, &action);
}

// With one place the next request waits for the answer before it; with many only its own adapter's load counts.
TEST(AdapterRoute, TimeToFirstTokenIsQueueingPagingAndPrefill) {
  for (const int64_t places : {1, 100}) {
    AdapterRouteOptions o = options_of(kSmall);
    o.max_batch = places, o.requests.rate = 1000, o.w_bytes = 0.5;
    const AdapterRoute env = made(o);
    State s;
    env.reset(s, {test_seed(), 0});
    const std::vector<Request> r = s.requests;
    const auto prefill = [&](int i) { return o.prefill_ms + o.prefill_token_ms * r[i].input_tokens; };
    float terms[3];
    act(env, s, 0, 1);
    env.step(s, terms);
    const double load = env.paging().load_ms(1);
    EXPECT_NEAR(terms[1], -o.w_latency * (load + prefill(0)) / 1000, 1e-5);
    EXPECT_NEAR(terms[2], -0.5 * static_cast<double>(env.paging().bytes(1)) / 1e9, 1e-6);
    const double free = r[0].arrival_ms + load + prefill(0) + o.decode_token_ms * r[0].output_tokens;
    const double start = places == 1 ? std::max(free, r[1].arrival_ms) : r[1].arrival_ms;
    EXPECT_NEAR(s.now_ms, start, 1e-9);
    act(env, s, 0, 1);
    env.step(s, terms);
    const double wait = std::max(0.0, r[0].arrival_ms + load - start);   // still on its way, where it does not queue
    EXPECT_NEAR(terms[1], -o.w_latency * (start - r[1].arrival_ms + wait + prefill(1)) / 1000, 1e-4);
    EXPECT_EQ(terms[2], 0);
    EXPECT_EQ(s.hits, 1);
  }
}

// Adapter 0 answers in no form that could be read, adapter 1 wrongly, adapter 2 rightly in half of its answers; the base model rightly.
std::string table_of_forms(const TemporaryFolder& folder, bool told = true, const std::string& ranks = "") {
  Recording out;
  out.environment = "adapter_route";
  out.facts = {{"producer", "a test"}};
  if (!ranks.empty()) out.facts["ranks"] = ranks;
  out.episodes = {{0, 1, {{"task", "code"}}}};
  out.columns["embedding"].values = Tensor::f32({1, 2}, std::vector<float>{1, 0});
  out.columns["quality"].values = Tensor::f32({1, 4}, std::vector<float>{0, 0, 0.5f, 1});
  if (told) out.columns["well_formed"].values = Tensor::f32({1, 4}, std::vector<float>{0, 1, 0.75f, 1});
  const std::filesystem::path file = folder.path() / "forms.safetensors";
  write_recording(file, out);
  return file.string();
}

// Form before being right, being right before cost, whatever the cost: a wrong answer neither gains nor loses by it.
TEST(AdapterRoute, HierarchicalRewardGatesCostByTheAnswer) {
  const TemporaryFolder folder;
  const std::string file = table_of_forms(folder);
  const double qualities[] = {0, 0, 0.5, 1};
  const float form[] = {-1, 0, -0.25f, 0};
  for (const double latency : {0.0, 2.0, 1000.0}) {
    AdapterRouteOptions o = options_of("{type: adapter_route, mode: recorded, reward: {kind: hierarchical, cost_share: 0.3}, w_bytes: 0.5, requests: {requests: 10}, paging: {slots: 2}}");
    o.w_latency = latency;
    const AdapterRoute env(o, recorded_qualities({file}));
    EXPECT_EQ(env.spec().reward_terms, (std::vector<std::string>{"form", "outcome", "cost"}));
    State s;
    env.reset(s, {test_seed(), 7});
    std::vector<float> sums;
    for (const int64_t adapter : {0, 1, 2, 3}) {
      State t = s, again = s;
      float terms[3];
      act(env, t, 0, adapter), act(env, again, 0, adapter);
      env.step(t, terms);
      const AdapterRoute::Served served = env.follow(again);
      const double quality = qualities[adapter], cost = latency * served.ttft_ms() / 1000 + 0.5 * static_cast<double>(served.bytes) / 1e9;
      EXPECT_EQ(terms[0], form[adapter]);
      EXPECT_NEAR(terms[1], 0.7 * quality, 1e-6);
      EXPECT_NEAR(terms[2], 0.3 * quality * std::exp(-cost), 1e-6);
      sums.push_back(terms[0] + terms[1] + terms[2]);
    }
    EXPECT_EQ(sums[0], -1);
    EXPECT_EQ(sums[1], 0);
    EXPECT_LT(sums[1], sums[2]);
    EXPECT_LT(sums[2], sums[3]);
  }
}

TEST(AdapterRoute, HierarchicalRewardAsksForTheForm) {
  const TemporaryFolder folder;
  const std::string file = table_of_forms(folder, false);
  const AdapterRouteOptions o = options_of("{type: adapter_route, mode: recorded, reward: {kind: hierarchical}, paging: {slots: 2}}");
  try {
    AdapterRoute(o, recorded_qualities({file}));
    ADD_FAILURE() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("'well_formed'"), std::string::npos) << error.what();
  }
  EXPECT_THROW(options_of("{type: adapter_route, reward: {kind: hierarchic}}"), ConfigError);
  EXPECT_THROW(options_of("{type: adapter_route, reward: {cost_share: 1.5}}"), ConfigError);
}

// Ranks are those asked for, else the table's, else 8, 16, 32 and 64 in turn.
TEST(AdapterRoute, AdaptersHaveTheRanksOfTheirTable) {
  const TemporaryFolder folder;
  const auto ranks_of = [&](const std::string& told, const std::string& asked) {
    const AdapterRouteOptions o = options_of("{type: adapter_route, mode: recorded, paging: {slots: 2, parameters_per_rank: 10, bytes_per_number: 1, ranks: " + asked + "}}");
    const AdapterRoute env(o, recorded_qualities({table_of_forms(folder, true, told)}));
    std::vector<int64_t> out;
    for (int64_t a = 0; a < env.adapters(); ++a) out.push_back(env.paging().bytes(a) / 10);
    return out;
  };
  using Ranks = std::vector<int64_t>;
  EXPECT_EQ(ranks_of("4 128 1", "[]"), (Ranks{4, 128, 1}));
  EXPECT_EQ(ranks_of("4 128 1", "[8, 8, 9]"), (Ranks{8, 8, 9}));
  EXPECT_EQ(ranks_of("", "[]"), (Ranks{8, 16, 32}));
  EXPECT_EQ(ranks_of("", "[1, 2, 3]"), (Ranks{1, 2, 3}));
  for (const char* wrong : {"[8]", "[8, 16]", "[8, 16, 32, 64]"}) {
    try {
      ranks_of("4 128 1", wrong);
      ADD_FAILURE() << "accepted: " << wrong;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find("ranks for 3 adapters: give one for each"), std::string::npos) << error.what();
    }
  }
}

// A log as long as an episode: every world meets its requests, in its order.
TEST(AdapterRoute, ServesTheRequestsOfALog) {
  const TemporaryFolder folder;
  std::string lines;
  for (int i = 0; i < 6; ++i) lines += fmt::format(R"({{"time_s": {}, "task": "{}", "input_tokens": {}, "output_tokens": {}}})" "\n", 3 + 20 * i, (2 * i) % 5, 10 + i, 7);
  write_file_atomically(folder.path() / "requests.jsonl", lines);
  AdapterRouteOptions o = options_of(kSmall);
  o.requests.requests = 6, o.requests.log = (folder.path() / "requests.jsonl").string();
  const AdapterRoute env = made(o);
  State s;
  for (uint64_t episode = 0; episode < 3; ++episode) {
    env.reset(s, {test_seed(), episode});
    for (int i = 0; i < 6; ++i) {
      EXPECT_EQ(s.prompt.task, (2 * i) % 5);
      EXPECT_DOUBLE_EQ(s.now_ms, 20000.0 * i);
      const AdapterRoute::Served served = env.serve(s, {.adapter = 5});
      EXPECT_DOUBLE_EQ(served.ttft_ms(), o.prefill_ms + o.prefill_token_ms * (10 + i));
      EXPECT_EQ(served.over, i == 5);
    }
  }
  o.requests.requests = 7;
  EXPECT_THROW(made(o), DataError);
}

TEST(AdapterRoute, TheBaseModelPagesNothing) {
  const AdapterRoute env = made(kSmall);
  State s;
  env.reset(s, {1, 1});
  for (bool over = false; !over;) {
    over = env.serve(s, {.adapter = 5}).over;
    EXPECT_EQ(s.paging.loads, 0);
  }
  EXPECT_EQ(s.adapted, 0);
}

TEST(AdapterRoute, TheEvictAgentSaysWhoGoes) {
  const AdapterRoute env = made(kSmall);
  State s;
  env.reset(s, {1, 2});
  float terms[3];
  for (const int64_t adapter : {0, 1}) {
    act(env, s, 0, adapter);
    const View v(env, s, 1);
    EXPECT_EQ(v.context[v.context.size() - 3], 0) << "there is room";
    EXPECT_EQ(std::count(v.mask.begin(), v.mask.end(), 1), 1);
    env.step(s, terms);
  }
  for (const int64_t goes : {0, 1}) {
    State t = s;
    act(env, t, 0, 4);
    const View v(env, t, 1);
    EXPECT_EQ(v.context[v.context.size() - 3], 1);
    EXPECT_EQ(v.mask, (std::vector<uint8_t>{1, 1, 0, 0, 0}));
    act(env, t, 1, goes);
    env.step(t, terms);
    EXPECT_EQ(t.paging.adapters[goes].resident, 0);
    EXPECT_EQ(t.paging.adapters[1 - goes].resident, 1);
    EXPECT_EQ(t.paging.adapters[4].resident, 1);
  }
}

// What is shown of qualities comes near the truth after many tries, and its deviation falls; nothing else is told about it.
TEST(AdapterRoute, ShowsWhatIsKnownOfQualities) {
  AdapterRouteOptions o = options_of(kSmall);
  o.requests.requests = 1500, o.paging.slots = 5;
  const AdapterRoute env = made(o);
  State s;
  env.reset(s, {test_seed(), 3});
  const View before(env, s, 0);
  for (int a = 0; a < 6; ++a) EXPECT_EQ(before.item(a, 5), 0);
  float terms[3];
  for (int t = 0; t < 1400; ++t) act(env, s, 0, t % 6), env.step(s, terms);
  double error = 0, deviation = 0;
  const View after(env, s, 0);
  for (int a = 0; a < 6; ++a) {
    error = std::max(error, std::abs(after.item(a, 5) - env.source().quality(s.prompt, a)));
    deviation = std::max(deviation, static_cast<double>(after.item(a, 6)));
  }
  EXPECT_LT(error, 0.15);
  EXPECT_LT(deviation, 0.5);
  EXPECT_GT(before.item(0, 6), 1.5) << "1 / sqrt(ridge) at the start";
}

TEST(AdapterRoute, ObservationsKeepToTheirRanges) {
  for (uint32_t c = 0; c < 20; ++c) {
    Draws d(test_seed(), Stream::kTest, c);
    AdapterRouteOptions o = options_of(kSmall);
    o.requests.rate = d.uniform(0.5f, 500), o.requests.cv = d.uniform(0, 5), o.paging.channels = d.below(3), o.max_batch = 1 + d.below(40);
    o.paging.medium = d.below(2) ? "host" : "disk";
    const AdapterRoute env = made(o);
    State s;
    env.reset(s, {test_seed(), c});
    float terms[3];
    for (int t = 0; t < 60; ++t) {
      for (int agent = 0; agent < 2; ++agent) {
        const View v(env, s, agent);
        const ObservationSpec& spec = env.spec().agents[agent].observation;
        for (int f = 0; f < spec.context_size(); ++f) EXPECT_TRUE(v.context[f] >= spec.context[f].low && v.context[f] <= spec.context[f].high) << spec.context[f].name;
        for (int i = 0; i < spec.max_items * spec.item_size(); ++i) {
          const Feature& f = spec.item[i % spec.item_size()];
          EXPECT_TRUE(v.items[i] >= f.low && v.items[i] <= f.high) << f.name << " " << v.items[i];
        }
        EXPECT_GT(std::count(v.mask.begin(), v.mask.end(), 1), 0);
        int64_t choice = d.below(static_cast<uint32_t>(v.mask.size()));
        while (!v.mask[choice]) choice = (choice + 1) % std::ssize(v.mask);
        act(env, s, agent, choice);
      }
      env.step(s, terms);
    }
  }
}

// Contexts, arrivals and noise are the request's own, whatever was chosen before.
TEST(AdapterRoute, ChoicesDoNotMoveTheWorld) {
  const AdapterRoute env = made(kSmall);
  State a, b;
  env.reset(a, {test_seed(), 4}), env.reset(b, {test_seed(), 4});
  for (int t = 0; t < 59; ++t) {
    EXPECT_EQ(a.prompt.x, b.prompt.x);
    State again = b;
    env.serve(b, {.adapter = t % 6});
    const double observed = env.serve(a, {.adapter = 2}).observed;
    EXPECT_EQ(env.serve(again, {.adapter = 2}).observed, observed);
  }
}

TEST(AdapterRoute, SavedAndRestoredGoesOnBitEqual) {
  const auto env = std::make_shared<const AdapterRoute>(options_of(kSmall), synthetic_qualities(options_of(kSmall).synthetic));
  LightBatch<AdapterRoute> a(env, 2), b(env, 2);
  const std::vector<WorldKey> keys = {{test_seed(), 0}, {test_seed(), 1}};
  a.reset(keys, 2), b.reset(keys, 2);
  std::vector<float> reward(2), terms(6), critic(2 * env->spec().critic.context_size()), items(2 * 6 * kItem);
  std::vector<uint8_t> terminated(2), truncated(2), mask(12);
  const auto step = [&](LightBatch<AdapterRoute>& batch, int t) {
    const std::vector<float> routes = {static_cast<float>(t % 6), static_cast<float>(t * t % 5)}, victims = {static_cast<float>(t % 5), 0};
    batch.act(0, routes.data()), batch.act(1, victims.data());
    batch.step({reward.data(), terms.data(), terminated.data(), truncated.data(), {critic.data(), items.data(), mask.data()}});
    return reward;
  };
  for (int t = 0; t < 45; ++t) step(a, t);
  Archive saved = Archive::writer();
  a.serialise(saved);
  Archive loaded = Archive::reader(saved.bytes());
  b.serialise(loaded);
  EXPECT_TRUE(loaded.at_end());
  for (int t = 45; t < 150; ++t) EXPECT_EQ(step(a, t), step(b, t)) << t;
  const auto other = std::make_shared<const AdapterRoute>(made(std::string("{type: adapter_route, requests: {requests: 60}}")).options(), synthetic_qualities({}));
  LightBatch<AdapterRoute> wrong(other, 2);
  Archive refused = Archive::reader(saved.bytes());
  EXPECT_THROW(wrong.serialise(refused), CheckpointError);
}

// What a place is worth, by hand: a plan of no more than fit, losses of planned residents alone, and entry prices of what is missing and not planned.
TEST(AdapterRoute, APlannedResidentIsWorthItsPrice) {
  AdapterRouteOptions o = options_of(kSmall);
  o.requests.requests = 300, o.routers.window = 32, o.routers.replan = 8;
  const AdapterRoute env = made(o);
  State s;
  env.reset(s, {test_seed(), 5});
  float terms[3];
  for (int t = 0; t < 299; ++t) {
    const View v(env, s, 0);
    for (int a = 0; a < 6; ++a) {
      const double bound = s.models[a].mean(s.prompt.x) + o.routers.alpha * s.models[a].width(s.prompt.x);
      const bool there = a == 5 || s.paging.adapters[a].resident;
      EXPECT_NEAR(v.item(a, 13), env.index(s, a), 1e-4);
      const double out = env.paging().has_room(s.paging, 0) ? 0 : env.loss(s, env.least_loss(s));
      EXPECT_NEAR(env.index(s, a), there || s.planned[a] ? bound : bound - env.price(a) - out, 1e-9);
      if (a < 5) {
        EXPECT_GE(s.gains[a], 0);
        EXPECT_EQ(env.loss(s, a), there && s.planned[a] ? env.price(a) : 0);
      }
    }
    EXPECT_LE(std::count(s.planned.begin(), s.planned.end(), 1), 2);
    const int64_t leaves = env.least_loss(s);
    for (int a = 0; a < 5 && leaves >= 0; ++a) {
      EXPECT_TRUE(s.paging.adapters[leaves].resident);
      if (s.paging.adapters[a].resident) {
        EXPECT_LE(env.loss(s, leaves) + s.gains[leaves], env.loss(s, a) + s.gains[a] + 1e-12);
      }
    }
    act(env, s, 0, t % 7 % 6), act(env, s, 1, std::max<int64_t>(0, leaves));
    env.step(s, terms);
  }
}

// Without a plan the index is LinUCB's less the price of what is missing.
TEST(AdapterRoute, TheIndexWithoutAPlanIsCacheAwareLinUcb) {
  AdapterRouteOptions o = options_of(kSmall);
  o.routers.window = 0;
  const AdapterRoute env = made(o);
  EXPECT_EQ(run_router(env, "aware_lru", {test_seed(), 6}).adapters[0], run_router(env, "index_loss", {test_seed(), 6}).adapters[0]);
  o.paging.slots = 5;   // nobody has to leave, so who would does not matter
  const AdapterRoute roomy = made(o);
  EXPECT_EQ(run_router(roomy, "aware_lru", {test_seed(), 6}).adapters, run_router(roomy, "index_loss", {test_seed(), 6}).adapters);
  EXPECT_EQ(run_router(roomy, "prior_lru", {test_seed(), 6}).adapters, run_router(roomy, "aware_lru", {test_seed(), 6}).adapters) << "there are no tables to know from";
}

// A batch of one place has one adapter at work; with the base model none.
TEST(AdapterRoute, CountsTheAdaptersOfABatch) {
  AdapterRouteOptions o = options_of(kSmall);
  o.max_batch = 1;
  const AdapterRoute env = made(o);
  State s;
  env.reset(s, {1, 3});
  env.serve(s, {.adapter = 5}), env.serve(s, {.adapter = 5});
  EXPECT_EQ(s.batch_models, 0);
  env.serve(s, {.adapter = 1}), env.serve(s, {.adapter = 3});
  EXPECT_EQ(s.batch_models, 2);
  o.max_batch = 60, o.requests.rate = 1000;
  const AdapterRoute wide = made(o);
  wide.reset(s, {1, 3});
  for (const int64_t a : {0, 0, 5, 2}) wide.serve(s, {.adapter = a});
  EXPECT_EQ(s.batch_models, 1 + 1 + 1 + 2);
}

TEST(AdapterRoute, OptionsThatCannotBeAreRefused) {
  EXPECT_THROW(options_of("{type: adapter_route, eviction: clock}"), ConfigError);
  EXPECT_THROW(options_of("{type: adapter_route, requests: {input_low: 9, input_high: 3}}"), ConfigError);
  EXPECT_THROW(made("{type: adapter_route, paging: {ranks: [8, 16]}}"), ConfigError);
  EXPECT_THROW(made("{type: adapter_route, paging: {budget_mb: 10}}"), ConfigError);
  const AdapterRouteOptions recorded = options_of("{type: adapter_route, mode: recorded}");
  EXPECT_THROW(open_qualities(recorded, {}), ConfigError);
}

// ---- evaluation ----

std::unique_ptr<Evaluator> evaluator(const std::string& yaml, const std::string& file = "") {
  return Registry<EvaluatorEntry>::instance().get("adapter_route", "evaluator").make(Config::parse(yaml, "test"), file);
}

// Chooses by the posterior mean alone, and the first resident to go.
class Greedy final : public AgentFunction {
 public:
  explicit Greedy(bool routes) : routes_(routes) {}
  void decide(const float*, const float* items, const uint8_t* mask, int count, float* action) override {
    int best = -1;
    for (int i = 0; i < count; ++i)
      if (mask[i] && (best < 0 || (routes_ && items[i * kItem + 5] + items[i * kItem + 6] > items[best * kItem + 5] + items[best * kItem + 6]))) best = i;
    *action = static_cast<float>(best);
  }

 private:
  bool routes_;
};

double metric(const Evaluator& e, const EpisodeResult& r, const std::string& name) {
  const std::vector<MetricInfo> metrics = e.metrics();
  for (size_t i = 0; i < metrics.size(); ++i)
    if (metrics[i].name == name) return r.metrics[i];
  ADD_FAILURE() << "no metric " << name;
  return 0;
}

// All but what is undefined in the episode.
std::vector<double> defined(const std::vector<double>& metrics) {
  std::vector<double> out;
  std::copy_if(metrics.begin(), metrics.end(), std::back_inserter(out), [](double m) { return !std::isnan(m); });
  return out;
}

TEST(AdapterRouteEvaluation, EveryPolicyHasItsFigures) {
  const std::string yaml = "{type: adapter_route, eviction: learned, requests: {requests: 400, drift: slow}, paging: {slots: 3}, synthetic: {adapters: 6, tasks: 6, embedding: 4}}";
  const auto e = evaluator(yaml);
  const AdapterRoute env = made(yaml);
  const WorldKey key{test_seed(), 1};
  const AgentFactory agents = [] {
    std::map<std::string, std::unique_ptr<AgentFunction>> out;
    out["route"] = std::make_unique<Greedy>(true), out["evict"] = std::make_unique<Greedy>(false);
    return out;
  };
  double random = 0, learned = 0;
  for (const EvaluatedPolicy& p : e->policies(true)) {
    const EpisodeResult r = e->run(p.name, agents, 1, test_seed(), true);
    ASSERT_EQ(r.metrics.size(), e->metrics().size()) << p.name;
    for (const MetricInfo& m : e->metrics()) EXPECT_TRUE(std::isfinite(metric(*e, r, m.name)) || m.name == "regret_slope") << p.name << " " << m.name;
    EXPECT_NEAR(metric(*e, r, "regret"), metric(*e, r, "routing_regret") + metric(*e, r, "paging_regret"), 1e-9);
    EXPECT_EQ(r.series.at("regret").size(), 400u);
    EXPECT_FLOAT_EQ(r.series.at("regret").back(), static_cast<float>(metric(*e, r, "regret")));
    EXPECT_LE(metric(*e, r, "ttft_p50_ms"), metric(*e, r, "ttft_p95_ms"));
    EXPECT_LE(metric(*e, r, "ttft_p95_ms"), metric(*e, r, "ttft_p99_ms"));
    if (p.name == "oracle") {
      EXPECT_EQ(metric(*e, r, "regret"), 0);
      EXPECT_EQ(metric(*e, r, "quality_of_oracle"), 100);
      EXPECT_TRUE(std::isnan(metric(*e, r, "regret_slope")));
    }
    if (p.name == "random_lru" || p.name == "linucb_lru")
      EXPECT_EQ(metric(*e, r, "regret_slope"), regret_of(run_router(env, p.name, key), run_router(env, "oracle", key)).slope(25, 400)) << p.name;
    if (p.name == "base") {
      EXPECT_EQ(metric(*e, r, "paged_gb"), 0);
    }
    if (p.name == "random_lru") random = metric(*e, r, "quality");
    if (p.name == "learned") learned = metric(*e, r, "quality");
    EXPECT_EQ(defined(e->run(p.name, agents, 1, test_seed(), false).metrics), defined(r.metrics)) << p.name;
  }
  EXPECT_GT(learned, random + 0.05);
  EXPECT_THROW(e->run("polar_minus", agents, 0, 1, false), ConfigError);
}

// A table of two adapters that are each right on one task.
std::string table_of_two(const TemporaryFolder& folder) {
  Recording table;
  table.environment = "adapter_route", table.facts = {{"producer", "a test"}};
  table.episodes = {{0, 20, {{"task", "code"}}}, {20, 20, {{"task", "poems"}}}};
  std::vector<float> embedding, quality;
  for (int r = 0; r < 40; ++r) {
    const bool code = r < 20;
    Draws d(test_seed(), Stream::kTest, static_cast<uint32_t>(r));
    for (const float centre : {code ? 1.0f : 0.0f, code ? 0.0f : 1.0f}) embedding.push_back(centre + 0.1f * d.normal());
    for (const float q : {code ? 0.9f : 0.1f, code ? 0.1f : 0.9f, 0.3f}) quality.push_back(q);
  }
  table.columns["embedding"].values = Tensor::f32({40, 2}, embedding), table.columns["quality"].values = Tensor::f32({40, 3}, quality);
  const std::filesystem::path file = folder.path() / "table.safetensors";
  write_recording(file, table);
  return file.string();
}

TEST(AdapterRouteEvaluation, ReplaysRecordedTables) {
  const TemporaryFolder folder;
  const std::string file = table_of_two(folder);
  const auto e = evaluator("{type: adapter_route, mode: recorded, requests: {requests: 500, alpha: 1}, paging: {slots: 2}}", file);
  const auto quality_of = [&](const std::string& policy) { return metric(*e, e->run(policy, {}, 0, test_seed(), false), "quality"); };
  EXPECT_NEAR(quality_of("classifier_lru"), 0.9, 1e-6);
  EXPECT_NEAR(quality_of("oracle"), 0.9, 1e-6);
  EXPECT_NEAR(quality_of("base"), 0.3, 1e-6);
  EXPECT_GT(quality_of("polar"), 0.8);
  EXPECT_GT(quality_of("linucb_lru"), 0.8);
  EXPECT_LT(quality_of("best_single"), 0.6);
  // What was fitted beforehand is known from the first request.
  const auto prior = evaluator("{type: adapter_route, mode: recorded, requests: {requests: 500, alpha: 1}, paging: {slots: 2}, prior: {tables: [" + file + "]}}", file);
  for (const char* policy : {"prior_lru", "index_loss"}) EXPECT_GT(metric(*prior, prior->run(policy, {}, 0, test_seed(), false), "quality"), 0.89) << policy;
  const auto by_task = evaluator("{type: adapter_route, mode: recorded, requests: {requests: 500, alpha: 1}, paging: {slots: 2}, prior: {by_task: true, tables: [" + file + "]}}", file);
  for (const char* policy : {"prior_lru", "static_prior", "index_loss"}) EXPECT_NEAR(metric(*by_task, by_task->run(policy, {}, 0, test_seed(), false), "quality"), 0.9, 1e-6) << policy;
  EXPECT_THROW(evaluator("{type: adapter_route, prior: {tables: [" + file + "]}}"), ConfigError);
}

// Only poems are asked for, one at a time: no queue, and the adapter of poems serves all.
TEST(AdapterRouteEvaluation, ReplaysARequestLog) {
  const TemporaryFolder folder;
  const std::string table = table_of_two(folder), log = (folder.path() / "requests.jsonl").string();
  std::string lines;
  for (int i = 0; i < 20; ++i) lines += fmt::format(R"({{"time_s": {}, "task": "poems", "input_tokens": {}, "output_tokens": 50}})" "\n", 100 * i, i < 10 ? 100 : 300);
  write_file_atomically(log, lines);
  const std::string yaml = "{type: adapter_route, mode: recorded, requests: {requests: 20, log: " + log + "}, paging: {slots: 1}}";
  const auto e = evaluator(yaml, table);
  const EpisodeResult base = e->run("base", {}, 3, test_seed(), false), best = e->run("best_single", {}, 3, test_seed(), false);
  EXPECT_NEAR(metric(*e, base, "quality"), 0.3, 1e-6);
  EXPECT_NEAR(metric(*e, base, "ttft_ms"), 15 + 0.1 * 200, 1e-9);
  EXPECT_NEAR(metric(*e, base, "ttft_p50_ms"), 15 + 0.1 * 100, 1e-9);
  EXPECT_NEAR(metric(*e, best, "quality"), 0.9, 1e-6);
  EXPECT_NEAR(metric(*e, best, "hit_rate"), 1, 0.06);
  write_file_atomically(log, lines + R"({"time_s": 9000, "task": "prose", "input_tokens": 1, "output_tokens": 1})" "\n");
  try {
    evaluator(yaml, table);
    ADD_FAILURE() << "accepted";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("requests.jsonl:21: the quality tables have no task \"prose\""), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace trimtab
