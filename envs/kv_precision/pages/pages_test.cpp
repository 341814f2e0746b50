// Mode pages on a small random model: the budget holds whatever is chosen, the reward is the true KL, shaping sums to nothing, an open
// episode comes back from its choices, and every rule keeps its bytes.
#include "envs/kv_precision/pages/pages.h"

#include <gtest/gtest.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <set>

#include "core/random.h"
#include "core/test_support.h"
#include "envs/kv_precision/pages/page_rules.h"

namespace trimtab {
namespace {

constexpr int64_t kPage = 16, kVocab = 31;

KvSensitivity table_of(const KvPagesWorld& w, bool per_head, Draws& draws) {
  const KvHeads heads = w.cached->heads();
  KvSensitivity t;
  t.layers = heads.layers, t.kv_heads = heads.kv_heads, t.head_dim = heads.head_dim, t.page_tokens = kPage, t.per_head = per_head;
  t.pairs = {{8, 8}, {4, 4}, {4, 2}, {2, 4}, {2, 2}, {0, 0}};
  const KvCache probe(heads, w.cache);
  for (const KvBits b : t.pairs) t.page_bytes.push_back(probe.page_bytes(b));
  for (int64_t u = 0; u < t.units(); ++u) {
    t.kl.emplace_back();
    for (size_t p = 0; p < t.pairs.size(); ++p) t.kl.back().push_back(std::pow(10.0, -4 + static_cast<double>(p) / 2) * draws.uniform(0.5f, 2.0f));
  }
  return t;
}

std::shared_ptr<const KvPagesWorld> small_world(uint32_t round, bool per_head, bool known = true) {
  TransformerConfig c;
  c.vocab_size = kVocab, c.hidden_size = 48, c.num_layers = 2, c.num_heads = 4, c.num_kv_heads = 2, c.head_dim = 32, c.intermediate_size = 64;
  auto w = std::make_shared<KvPagesWorld>();
  w->model.transformer = std::make_unique<Transformer>(c, 3);
  {
    const at::NoGradGuard no_grad;
    for (const auto& [name, p] : w->model.transformer->parameters())
      if (p.dim() == 2) p.mul_(6);
  }
  Pool pool(1);
  w->cached = std::make_unique<CachedModel>(*w->model.transformer, pool);
  w->cache.page_tokens = kPage, w->cache.key_groups = "token", w->cache.rotate_keys = true;
  Draws draws(test_seed(), Stream::kTest, round);
  w->table = table_of(*w, per_head, draws);
  for (int i = 0; i < 3; ++i) {
    TextPiece& piece = w->pieces.emplace_back(150 + draws.below(40));
    for (int32_t& t : piece) t = static_cast<int32_t>(draws.below(kVocab));
    w->truth.push_back(known ? plain_log_probabilities(*w->cached, piece, w->cache) : std::vector<double>{});
  }
  return w;
}

KvPagesOptions options_with(double low, double high) {
  KvPagesOptions o;
  o.model = o.table = "in memory", o.low_bits = low, o.high_bits = high, o.review_ages = {2, 5};
  return o;
}

// One of the allowed pairs.
float any_allowed(const KvPages& env, const KvPages::State& s, Draws& draws) {
  std::vector<int> pairs;
  for (int p = 0; p < static_cast<int>(env.world().table.pairs.size()); ++p)
    if (env.allowed(s, p)) pairs.push_back(p);
  EXPECT_FALSE(pairs.empty());
  return static_cast<float>(pairs[draws.below(static_cast<uint32_t>(pairs.size()))]);
}

std::vector<float> seen(const KvPages& env, const KvPages::State& s) {
  const ObservationSpec& v = env.spec().critic;
  std::vector<float> out(v.context_size() + v.max_items * v.item_size());
  std::vector<uint8_t> mask(v.max_items);
  env.observe(s, 0, {out.data(), out.data() + v.context_size(), mask.data()});
  out.insert(out.end(), mask.begin(), mask.end());
  return out;
}

struct Sums {
  double kl = 0, overspend = 0, shaping = 0;
};
Sums play(const KvPages& env, KvPages::State& s, Draws& draws) {
  Sums sums;
  for (bool over = false; !over;) {
    const float action = any_allowed(env, s, draws);
    float terms[3];
    env.act(s, 0, &action);
    over = env.step(s, terms).terminated;
    sums.kl += terms[0], sums.overspend += terms[1], sums.shaping += terms[2];
  }
  return sums;
}

TEST(KvPages, TheBudgetHoldsAndTheRewardIsTheTrueKl) {
  for (const bool per_head : {true, false}) {
    const auto world = small_world(1, per_head);
    const KvPages env(options_with(2.6, 6), world);
    KvPages::State s;
    Draws draws(test_seed(), Stream::kTest, 2);
    for (uint64_t episode = 0; episode < 6; ++episode) {
      env.reset(s, {5, episode});
      const Sums sums = play(env, s, draws);
      EXPECT_LE(env.page_bits(s), s.bits + 1e-9);
      const KvScore score = s.episode->reader.score(0);
      const double tokens = static_cast<double>(world->pieces[s.piece].size()), pages = std::floor((tokens - 1 - 4) / kPage);
      EXPECT_NEAR(sums.kl, -score.kl * tokens / (s.scale * pages * kPage), 1e-4 * std::abs(sums.kl));
      EXPECT_NEAR(sums.shaping, 0, 1e-4 * std::abs(sums.kl));
      EXPECT_EQ(sums.overspend, 0);
    }
  }
}

TEST(KvPages, WhatIsKnownOfThe16BitReadingChangesNothing) {
  const auto known = small_world(3, true), unknown = small_world(3, true, false);
  KvPages::State a, b;
  Draws one(test_seed(), Stream::kTest, 4), other(test_seed(), Stream::kTest, 4);
  const KvPages x(options_with(3, 3), known), y(options_with(3, 3), unknown);
  x.begin(a, 1, 3), y.begin(b, 1, 3);
  play(x, a, one), play(y, b, other);
  EXPECT_EQ(a.choices, b.choices);
  EXPECT_EQ(a.episode->reader.score(0).kl, b.episode->reader.score(0).kl);
}

TEST(KvPages, ReviewsOnlyNarrowAndFreeBytes) {
  const KvPages env(options_with(3, 6), small_world(5, true));
  KvPages::State s;
  Draws draws(test_seed(), Stream::kTest, 6);
  env.begin(s, 0, 4);
  int reviews = 0;
  for (bool over = false; !over;) {
    const KvPages::Decision d = s.episode->queue[s.episode->at];
    const bool review = d.page + 1 < static_cast<int32_t>(s.episode->pages.size());
    const int64_t used = s.episode->used;
    const float action = any_allowed(env, s, draws);
    float terms[3];
    env.act(s, 0, &action);
    const size_t decisions = s.episode->queue.size();
    over = env.step(s, terms).terminated;
    if (review && decisions == s.episode->queue.size()) {
      EXPECT_LE(s.episode->used, used);
      ++reviews;
    }
  }
  EXPECT_GT(reviews, 10);
}

TEST(KvPages, AnOpenEpisodeIsReadAgainFromItsChoices) {
  const KvPages env(options_with(3, 6), small_world(7, true));
  KvPages::State s, back;
  Draws draws(test_seed(), Stream::kTest, 8);
  env.reset(s, {5, 1});
  float terms[3];
  for (int i = 0; i < 17; ++i) {
    const float action = any_allowed(env, s, draws);
    env.act(s, 0, &action), env.step(s, terms);
  }
  Archive out = Archive::writer();
  env.serialise(s, out);
  Archive in = Archive::reader(out.bytes());
  env.serialise(back, in);
  EXPECT_TRUE(in.at_end());
  EXPECT_EQ(seen(env, s), seen(env, back));
  Draws left = draws, right = draws;
  EXPECT_EQ(play(env, s, left).kl, play(env, back, right).kl);
  s.choices.assign(3, 77);
  Archive wrong = Archive::writer();
  env.serialise(s, wrong);
  Archive read = Archive::reader(wrong.bytes());
  EXPECT_THROW(env.serialise(back, read), CheckpointError);
}

TEST(KvPages, LabelsAreAllowedUseTheBudgetAndHaveNoGap) {
  const KvPages env(options_with(3, 6), small_world(15, true));
  const ObservationSpec& view = env.spec().critic;
  int64_t gap = 0;
  while (view.item[gap].name != "page_gap") ++gap;
  KvPages::State s;
  for (const double bits : {3.0, 5.0}) {
    env.begin(s, 1, bits);
    float terms[3];
    for (bool over = false; !over;) {
      const int label = env.label(s, 0);
      ASSERT_TRUE(env.allowed(s, label));
      EXPECT_EQ(seen(env, s)[view.context_size() + label * view.item_size() + gap], 0);
      const float action = static_cast<float>(label);
      env.act(s, 0, &action);
      over = env.step(s, terms).terminated;
    }
    EXPECT_LE(env.page_bits(s), bits + 1e-9);
    EXPECT_GT(env.page_bits(s), 0.85 * bits);
  }
}

TEST(KvPages, SlackIsChargedAtAPriceThatRises) {
  KvPagesOptions o = options_with(2.6, 2.6);
  o.slack = 3, o.dual_rate = 5;
  const KvPages env(o, small_world(9, true));
  KvPages::State s;
  float terms[3];
  double charged = 0;
  for (uint64_t episode = 0; episode < 2; ++episode) {
    env.reset(s, {5, episode});
    EXPECT_EQ(s.dual > 0, episode > 0);
    charged = 0;
    for (bool over = false; !over; charged += terms[1]) {
      const float widest = env.allowed(s, 0) ? 0.0f : 4.0f;
      env.act(s, 0, &widest);
      over = env.step(s, terms).terminated;
    }
    EXPECT_GT(env.page_bits(s), 2.6);
  }
  EXPECT_LT(charged, 0);
}

TEST(KvPages, ABudgetBelowTheCheapestWidthsIsRefused) {
  auto world = std::const_pointer_cast<KvPagesWorld>(small_world(11, true));
  world->table.pairs.pop_back(), world->table.page_bytes.pop_back();   // no eviction
  for (auto& row : world->table.kl) row.pop_back();
  try {
    const KvPages env(options_with(2.0, 6), world);
    FAIL() << "accepted";
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("low_bits"), std::string::npos) << e.what();
  }
}

TEST(PageRules, KeepTheBudgetAndTheirNames) {
  const auto world = small_world(13, true);
  const std::set<std::string> fixed = {"k8v8", "k8v4", "k4v4", "k4v2", "k2v2"};
  for (const double bits : {2.6, 4.0}) {
    for (const std::string& name : page_rule_names()) {
      const auto rule = page_rule(name, {world->table, world->cache, bits, 3});
      if (!rule) {
        EXPECT_TRUE(name == "kivi" || name == "oscar") << name;
        continue;
      }
      const TextPiece& text = world->pieces[0];
      KvSideBySide reader(*world->cached, text, {&rule->cache, 1}, rule->track);
      while (!reader.over()) {
        if (reader.full()) {
          rule->pack(reader.cache(0));
          int64_t bytes = 0;
          for (int64_t l = 0; l < 2; ++l)
            for (int64_t h = 0; h < 2; ++h)
              for (const KvCache::Page& p : reader.cache(0).pages(l, h)) bytes += reader.cache(0).page_bytes(p.bits);
          if (!fixed.contains(name)) {
            EXPECT_LE(world->table.bits(bytes) / static_cast<double>(reader.cache(0).num_pages()), bits + 1e-9) << name;
          }
        }
        reader.read();
      }
      const KvScore score = reader.score(0);
      EXPECT_TRUE(std::isfinite(score.kl) && score.kl > 0) << name;
      if (name.starts_with("sinks_window")) {
        EXPECT_EQ(reader.cache(0).pages(1, 0).front().bits, KvBits(0, 0)) << name;
        EXPECT_NE(reader.cache(0).pages(1, 0).back().bits, KvBits(0, 0)) << name;
      }
    }
  }
}

}  // namespace
}  // namespace trimtab
