// Subsets and orders: likelihoods that sum to one, samples that follow them, and losses on the logits themselves.
#include "policies/controllers/heads_of_sets.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/test_support.h"
#include "policies/controllers/controller.h"

namespace trimtab {
namespace {

// Logits of one decision with items in some of the slots.
struct Logits {
  std::vector<float> output;
  std::vector<int32_t> offsets, slot;
  HeadInput input() const { return {1, offsets.data(), offsets.data() + 1, slot.data(), output.data(), 1, nullptr}; }
};
Logits random_logits(int items, float spread, Draws draws) {
  Logits l{{}, {0, items}, {}};
  for (int k = 0; k < items; ++k) l.output.push_back(spread * draws.normal()), l.slot.push_back(2 * k + 1);
  return l;
}

// log p of every raw action, by enumeration.
using Likelihoods = std::map<std::vector<float>, double>;
Likelihoods likelihoods(const ActionHead& head, const Logits& l, const std::vector<std::vector<float>>& actions) {
  Likelihoods out;
  std::vector<float> saved(head.saved_width());
  for (const std::vector<float>& raw : actions) {
    float logp, entropy;
    head.evaluate(l.input(), raw.data(), &logp, &entropy, saved.data());
    out[raw] = logp;
  }
  return out;
}
std::vector<std::vector<float>> all_subsets(const Logits& l, int size) {
  std::vector<std::vector<float>> out;
  for (uint32_t bits = 0; bits < 1u << l.slot.size(); ++bits) {
    out.emplace_back(size, 0.0f);
    for (size_t r = 0; r < l.slot.size(); ++r) out.back()[l.slot[r]] = static_cast<float>(bits >> r & 1);
  }
  return out;
}
std::vector<std::vector<float>> all_orders(const Logits& l, int picks) {
  std::vector<std::vector<float>> out = {{}};
  const size_t length = std::min<size_t>(picks, l.slot.size());
  while (out.front().size() < length) {
    std::vector<std::vector<float>> longer;
    for (const std::vector<float>& order : out)
      for (const int32_t k : l.slot)
        if (std::find(order.begin(), order.end(), static_cast<float>(k)) == order.end())
          longer.push_back(order), longer.back().push_back(static_cast<float>(k));
    out = longer;
  }
  for (std::vector<float>& order : out) order.resize(picks, -1.0f);
  return out;
}

// Probabilities sum to one, 40,000 samples have them, and the mean of the entropy over the samples is the entropy.
void expect_distribution(const ActionHead& head, const Logits& l, const std::vector<std::vector<float>>& actions) {
  const Likelihoods logp = likelihoods(head, l, actions);
  double total = 0, entropy = 0;
  for (const auto& [raw, one] : logp) total += std::exp(one), entropy -= std::exp(one) * one;
  EXPECT_NEAR(total, 1, 1e-5);
  constexpr int kSamples = 40000;
  std::map<std::vector<float>, int> counts;
  std::vector<float> action(head.width()), raw(head.width()), saved(head.saved_width());
  double mean_entropy = 0;
  for (int i = 0; i < kSamples; ++i) {
    head.sample(l.input(), [i](int64_t) { return Draws(test_seed(), Stream::kTest, 21, static_cast<uint32_t>(i)); }, action.data(),
                raw.data());
    EXPECT_EQ(action, raw);
    ++counts[raw];
    float one_logp, one_entropy;
    head.evaluate(l.input(), raw.data(), &one_logp, &one_entropy, saved.data());
    mean_entropy += one_entropy / kSamples;
  }
  for (const auto& [raw_action, count] : counts) ASSERT_TRUE(logp.contains(raw_action));
  for (const auto& [raw_action, one] : logp) {
    const double p = std::exp(one);
    EXPECT_NEAR(counts[raw_action] / double{kSamples}, p, 5 * std::sqrt(p * (1 - p) / kSamples) + 1e-4);
  }
  EXPECT_NEAR(mean_entropy, entropy, 0.02);
}

TEST(SubsetHead, IsOneBernoulliPerItem) {
  const auto head = make_subset_head({HeadKind::kSubset, 9});
  for (uint32_t test = 0; test < 4; ++test) {
    const Logits l = random_logits(static_cast<int>(test) + 1, 1.5f, Draws(test_seed(), Stream::kTest, 20, test));
    expect_distribution(*head, l, all_subsets(l, 9));
    std::vector<float> mode(9);
    head->mode(l.input(), mode.data());
    for (int k = 0; k < 9; ++k) {
      const auto at = std::find(l.slot.begin(), l.slot.end(), k) - l.slot.begin();
      EXPECT_NEAR(mode[k], at == std::ssize(l.slot) ? 0 : 1 / (1 + std::exp(-l.output[at])), 1e-6);
    }
  }
}

TEST(SubsetHead, LargeLogitsStayFinite) {
  const auto head = make_subset_head({HeadKind::kSubset, 4});
  const Logits l{{200, -200}, {0, 2}, {0, 3}};
  float logp, entropy;
  std::vector<float> saved(head->saved_width());
  head->evaluate(l.input(), std::vector<float>{1, 0, 0, 0}.data(), &logp, &entropy, saved.data());
  EXPECT_EQ(logp, 0);
  EXPECT_EQ(entropy, 0);
  head->evaluate(l.input(), std::vector<float>{0, 0, 0, 1}.data(), &logp, &entropy, saved.data());
  EXPECT_FLOAT_EQ(logp, -400);
}

TEST(OrderHead, IsPlackettLuce) {
  for (uint32_t test = 0; test < 6; ++test) {
    const int items = static_cast<int>(test) % 4 + 1, picks = 1 + static_cast<int>(test) % 5;
    const auto head = make_order_head({.kind = HeadKind::kOrder, .size = 9, .picks = picks});
    const Logits l = random_logits(items, 1.0f, Draws(test_seed(), Stream::kTest, 22, test));
    expect_distribution(*head, l, all_orders(l, picks));
  }
}

TEST(OrderHead, ModeIsFallingAndTiesGoToTheLowestSlot) {
  const auto head = make_order_head({.kind = HeadKind::kOrder, .size = 8, .picks = 4});
  std::vector<float> mode(4);
  head->mode(Logits{{1, 3, 1, 3, 2, 1}, {0, 6}, {0, 2, 3, 4, 5, 7}}.input(), mode.data());
  EXPECT_EQ(mode, (std::vector<float>{2, 4, 5, 0}));
  head->mode(Logits{{-1, 3}, {0, 2}, {6, 7}}.input(), mode.data());
  EXPECT_EQ(mode, (std::vector<float>{7, 6, -1, -1}));
  head->mode(Logits{{}, {0, 0}, {}}.input(), mode.data());
  EXPECT_EQ(mode, (std::vector<float>{-1, -1, -1, -1}));
  // Against sorting, on many items.
  const Logits l = random_logits(100, 1.0f, Draws(test_seed(), Stream::kTest, 23));
  std::vector<int> sorted(100);
  std::iota(sorted.begin(), sorted.end(), 0);
  std::stable_sort(sorted.begin(), sorted.end(), [&](int a, int b) { return l.output[a] > l.output[b]; });
  for (const int picks : {1, 7, 100, 130}) {
    mode.assign(picks, 0);
    make_order_head({.kind = HeadKind::kOrder, .size = 201, .picks = picks})->mode(l.input(), mode.data());
    for (int j = 0; j < picks; ++j) ASSERT_EQ(mode[j], j < 100 ? static_cast<float>(l.slot[sorted[j]]) : -1.0f);
  }
}

// A pick that outweighs the others by more than a float's range leaves them with their own odds.
TEST(OrderHead, LargeLogitsStayFinite) {
  const auto head = make_order_head({.kind = HeadKind::kOrder, .size = 3, .picks = 3});
  const Logits l{{300, 0, 0}, {0, 3}, {0, 1, 2}};
  float logp, entropy;
  std::vector<float> saved(head->saved_width());
  head->evaluate(l.input(), std::vector<float>{0, 2, 1}.data(), &logp, &entropy, saved.data());
  EXPECT_NEAR(logp, std::log(0.5), 1e-6);
  EXPECT_NEAR(entropy, std::log(2.0), 1e-6);
  head->evaluate(l.input(), std::vector<float>{1, 0, 2}.data(), &logp, &entropy, saved.data());
  EXPECT_FLOAT_EQ(logp, -300);
}

TEST(OrderHeadDeathTest, ImpossiblePicksAreRefused) {
  const auto head = make_order_head({.kind = HeadKind::kOrder, .size = 4, .picks = 3});
  const Logits l{{1, 2, 3}, {0, 3}, {0, 1, 3}}, two{{1, 2}, {0, 2}, {0, 1}};
  float logp, entropy;
  std::vector<float> saved(head->saved_width());
  const auto evaluate = [&](const Logits& logits, std::vector<float> raw) {
    head->evaluate(logits.input(), raw.data(), &logp, &entropy, saved.data());
  };
  evaluate(l, {0, 3, 1});
  evaluate(two, {1, 0, -1});
  EXPECT_DEATH(evaluate(l, {0, 2, 1}), "pick [0-2] is") << "absent";
  EXPECT_DEATH(evaluate(l, {0, 3, 0}), "pick [0-2] is") << "repeated";
  EXPECT_DEATH(evaluate(l, {0, 4, 1}), "pick [0-2] is") << "beyond the set";
  EXPECT_DEATH(evaluate(l, {0.5f, 3, 1}), "pick [0-2] is") << "between items";
  EXPECT_DEATH(evaluate(l, {0, 3, -1}), "pick [0-2] is") << "one too few";
  EXPECT_DEATH(evaluate(two, {1, 0, 0}), "pick [0-2] is") << "one too many";
  EXPECT_DEATH(evaluate(l, {0, NAN, 1}), "pick [0-2] is");
}

TEST(Controller, SetHeadsWithoutItemsHaveNoLikelihoodAndNoGradient) {
  for (const HeadKind kind : {HeadKind::kSubset, HeadKind::kOrder}) {
    const AgentSpec agent{"a", {{}, {{"x", "1", -1, 1}}, 3}, {.kind = kind, .size = 3, .picks = 2}};
    ControllerOptions options;
    options.hidden = {8, 4};
    options.attention = 2;
    const auto policy = Controller::policy(agent, options, test_seed());
    const auto workspace = policy->workspace(1);
    const std::vector<float> items(3), ones = {1};
    const std::vector<uint8_t> mask(3, 0);
    const ObservationBatch nothing{1, nullptr, items.data(), mask.data()};
    std::vector<float> action(3), raw(3), logp(1), entropy(1), gradient(policy->parameters().size());
    policy->sample(nothing, [](int64_t) { return Draws(1, Stream::kTest, 1); }, action.data(), raw.data(), logp.data(), *workspace);
    EXPECT_EQ(raw[0], kind == HeadKind::kSubset ? 0 : -1);
    policy->evaluate(nothing, raw.data(), logp.data(), entropy.data(), *workspace);
    EXPECT_EQ(logp[0], 0);
    EXPECT_EQ(entropy[0], 0);
    policy->backward_policy(ones.data(), ones.data(), gradient.data(), *workspace);
    for (const float g : gradient) ASSERT_EQ(g, 0);
  }
}

// Likelihood and gradient are those of the items present, though the network reads the others.
TEST(Controller, ItemsOnlySeenHaveNoLikelihood) {
  for (const HeadKind kind : {HeadKind::kSubset, HeadKind::kOrder}) {
    const AgentSpec agent{"a", {{}, {{"x", "1", -3, 3}}, 4}, {.kind = kind, .size = 4, .picks = 2}};
    ControllerOptions options;
    options.hidden = {8, 4}, options.attention = 2, options.last_layer_gain = 1;
    const auto policy = Controller::policy(agent, options, test_seed());
    const auto workspace = policy->workspace(1);
    std::vector<float> items = {0.3f, -1, 2, 0.7f}, action(4), raw(4), logp(1), entropy(1), logits(4), gradient(policy->parameters().size());
    const std::vector<uint8_t> mask = {kSeen, kPresent, kAbsent, kSeen};
    const ObservationBatch one{1, nullptr, items.data(), mask.data()};
    for (int k = 0; k < 20; ++k) {
      policy->sample(one, [&](int64_t) { return Draws(test_seed(), Stream::kTest, k); }, action.data(), raw.data(), logp.data(), *workspace);
      if (kind == HeadKind::kSubset) ASSERT_EQ(raw[0] + raw[2] + raw[3], 0);
      else ASSERT_EQ(raw, (std::vector<float>{1, -1, 0, 0}));
    }
    policy->scores(one, logits.data(), *workspace);
    policy->evaluate(one, raw.data(), logp.data(), entropy.data(), *workspace);
    const double p = 1 / (1 + std::exp(-logits[1]));
    EXPECT_NEAR(logp[0], kind == HeadKind::kOrder ? 0 : std::log(raw[1] == 1 ? p : 1 - p), 1e-5);
    if (kind == HeadKind::kOrder) continue;
    const float before = logits[1];
    const std::vector<float> one_d = {1}, none = {0};
    policy->backward_policy(one_d.data(), none.data(), gradient.data(), *workspace);
    double norm = 0;
    for (const float g : gradient) norm += double{g} * g;
    EXPECT_GT(norm, 0);
    items[3] = -0.7f;
    policy->scores(one, logits.data(), *workspace);
    EXPECT_NE(logits[1], before) << "what is seen is read";
  }
}

class Scores : public testing::TestWithParam<HeadKind> {
 protected:
  static constexpr int kItems = 5, kSize = 6;
  AgentSpec agent_{"a", {{{"c", "1", -1, 1}}, {{"x", "1", -1, 1}, {"y", "1", -1, 1}}, kItems}, {.kind = GetParam(), .size = kItems, .picks = 3}};
  std::vector<float> context_, items_;
  std::vector<uint8_t> mask_;
  ObservationBatch batch() const { return {kSize, context_.data(), items_.data(), mask_.data()}; }

  Scores() {
    Draws draws(test_seed(), Stream::kTest, 24);
    for (int i = 0; i < kSize; ++i) context_.push_back(draws.normal());
    for (int k = 0; k < kSize * kItems; ++k) {
      mask_.push_back(k % kItems == 0 || draws.uniform() < 0.6f);
      for (int j = 0; j < 2; ++j) items_.push_back(draws.normal());
    }
  }
};

TEST_P(Scores, AreTheLogitsAndTheirGradientIsExact) {
  ControllerOptions options;
  options.hidden = {16, 8};
  options.attention = 2;
  options.last_layer_gain = 1;
  options.residual = "y";
  const auto policy = Controller::policy(agent_, options, test_seed());
  const auto workspace = policy->workspace(kSize);
  std::vector<float> logits(kSize * kItems, 7.0f), d_logits, gradient(policy->parameters().size()), probability(logits.size());
  policy->scores(batch(), logits.data(), *workspace);
  Draws draws(test_seed(), Stream::kTest, 25);
  for (size_t k = 0; k < logits.size(); ++k) {
    d_logits.push_back(mask_[k] ? draws.normal() : NAN);  // absent items are not looked at
    EXPECT_TRUE(mask_[k] || logits[k] == 0);
  }
  if (GetParam() == HeadKind::kSubset) {
    policy->mode(batch(), probability.data(), *workspace);
    for (size_t k = 0; k < logits.size(); ++k)
      EXPECT_NEAR(probability[k], mask_[k] ? 1 / (1 + std::exp(-logits[k])) : 0, 1e-6);
  }
  const auto loss = [&] {
    policy->scores(batch(), logits.data(), *workspace);
    double total = 0;
    for (size_t k = 0; k < logits.size(); ++k)
      if (mask_[k]) total += double{d_logits[k]} * logits[k];
    return total;
  };
  loss();
  policy->backward_scores(d_logits.data(), gradient.data(), *workspace);
  for (size_t k = 0; k < gradient.size(); k += 11) {
    float& p = policy->parameters()[k];
    const float start = p, h = 0.01f;
    const auto at = [&](float x) {
      p = x;
      return loss();
    };
    const double numeric = (8 * (at(start + h) - at(start - h)) - (at(start + 2 * h) - at(start - 2 * h))) / (12.0 * h);
    p = start;
    EXPECT_NEAR(numeric, gradient[k], 2e-3 * (1 + std::abs(gradient[k]))) << k;
  }
}

INSTANTIATE_TEST_SUITE_P(Heads, Scores,
                         testing::Values(HeadKind::kSubset, HeadKind::kOrder, HeadKind::kChoice, HeadKind::kSimplex));

}  // namespace
}  // namespace trimtab
