// Controllers: gradients against finite differences, masks, row independence, distributions, persistence.
#include "policies/controllers/controller.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>

#include "core/error.h"
#include "policies/controllers/special.h"

namespace trimtab {
namespace {

uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 20260101;
}

std::vector<Feature> features(int n, const std::string& prefix) {
  std::vector<Feature> out;
  for (int j = 0; j < n; ++j) out.push_back({prefix + std::to_string(j), "1", -10, 10});
  return out;
}

struct Case {
  std::string name;
  HeadKind kind;
  std::string simplex_head;
  int context, item, max_items, head_size;
  std::vector<int64_t> hidden;
  std::string activation;
  std::string residual;
  int attention = 0, picks = 1;
};

AgentSpec agent_of(const Case& c) {
  return {"agent",
          {features(c.context, "context"), features(c.item, "item"), c.max_items},
          {c.kind, c.head_size, -1, 1, c.picks}};
}
ControllerOptions options_of(const Case& c) {
  ControllerOptions o;
  o.hidden = c.hidden;
  o.activation = c.activation;
  if (!c.simplex_head.empty()) o.head = c.simplex_head;
  o.residual = c.residual;
  o.attention = c.attention;
  o.last_layer_gain = 0.7;  // large enough that the head's gradients are not all near zero
  o.init_log_std = -0.3;
  return o;
}

struct Observations {
  int64_t size;
  std::vector<float> context, items;
  std::vector<uint8_t> mask;
  ObservationBatch batch() const { return {size, context.data(), items.data(), mask.data()}; }
};

// Decision 0 has every item, decision 1 none, the others about 2/3 of them.
Observations observations_of(const ObservationSpec& spec, int64_t size, Draws draws) {
  Observations o{size, {}, {}, {}};
  for (int64_t i = 0; i < size * spec.context_size(); ++i) o.context.push_back(draws.normal());
  for (int64_t i = 0; i < size; ++i) {
    for (int k = 0; k < spec.max_items; ++k) {
      const bool present = i == 0 || (i != 1 && draws.uniform() < 0.67f);
      o.mask.push_back(present);
      for (int j = 0; j < spec.item_size(); ++j)
        o.items.push_back(present ? 2 * draws.normal() + 0.5f : 0.0f);
    }
  }
  return o;
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"categorical", HeadKind::kCategorical, "", 4, 0, 0, 2, {64, 64}, "tanh", ""},
      {"categorical_linear", HeadKind::kCategorical, "", 3, 0, 0, 5, {}, "tanh", ""},
      {"categorical_over_set", HeadKind::kCategorical, "", 2, 3, 4, 3, {16, 8}, "tanh", ""},
      {"gaussian", HeadKind::kGaussian, "", 3, 0, 0, 1, {64, 64}, "tanh", ""},
      {"gaussian_over_set", HeadKind::kGaussian, "", 0, 5, 3, 2, {17}, "relu", ""},
      {"softmax_gaussian", HeadKind::kSimplex, "softmax_gaussian", 3, 6, 10, 10, {64, 64}, "tanh", "item2"},
      {"softmax_gaussian_linear", HeadKind::kSimplex, "softmax_gaussian", 2, 3, 5, 5, {}, "tanh", ""},
      {"softmax_gaussian_relu", HeadKind::kSimplex, "softmax_gaussian", 0, 4, 6, 6, {33, 20, 7}, "relu", ""},
      {"dirichlet", HeadKind::kSimplex, "dirichlet", 3, 6, 10, 10, {32, 32}, "tanh", "item0"},
      {"dirichlet_no_context", HeadKind::kSimplex, "dirichlet", 0, 2, 7, 7, {9}, "tanh", ""},
      {"choice", HeadKind::kChoice, "", 3, 5, 6, 6, {16, 8}, "tanh", "item1"},
      {"choice_no_context", HeadKind::kChoice, "", 0, 2, 4, 4, {9}, "relu", ""},
      {"subset", HeadKind::kSubset, "", 3, 5, 6, 6, {16, 8}, "tanh", "item1"},
      {"subset_attention", HeadKind::kSubset, "", 2, 4, 7, 7, {24, 12}, "tanh", "", 3},
      {"order", HeadKind::kOrder, "", 3, 5, 6, 6, {16, 8}, "tanh", "item1", 0, 4},
      {"order_of_all_attention", HeadKind::kOrder, "", 0, 3, 5, 5, {16, 16, 8}, "relu", "item2", 4, 6},
      {"categorical_over_set_attention", HeadKind::kCategorical, "", 2, 3, 4, 3, {16, 8}, "tanh", "", 2},
      {"softmax_gaussian_attention", HeadKind::kSimplex, "softmax_gaussian", 3, 6, 10, 10, {32, 64}, "tanh", "", 4},
  };
  return all;
}

class ControllerCase : public testing::TestWithParam<Case> {
 protected:
  ControllerCase() : agent_(agent_of(GetParam())), options_(options_of(GetParam())) {
    policy_ = Controller::policy(agent_, options_, test_seed());
    Draws draws(test_seed(), Stream::kTest, 1);
    observations_ = observations_of(agent_.observation, kSize, draws);
  }
  std::function<Draws(int64_t)> noise() const {
    return [](int64_t i) { return Draws(test_seed(), Stream::kTest, 2, static_cast<uint32_t>(i)); };
  }
  struct Sampled {
    std::vector<float> action, raw, logp;
  };
  Sampled sample(const Observations& o) const {
    Sampled s{std::vector<float>(o.size * width()), std::vector<float>(o.size * width()),
              std::vector<float>(o.size)};
    auto workspace = policy_->workspace(o.size);
    policy_->sample(o.batch(), noise(), s.action.data(), s.raw.data(), s.logp.data(), *workspace);
    return s;
  }
  int width() const { return policy_->raw_width(); }

  // The largest deviation of a directional derivative from its finite difference, over the parameters,
  // relative to its size and a tenth of the largest gradient. A random direction within each parameter makes
  // every element count without drowning in f32 rounding.
  double gradient_error(uint32_t attempt) {
    Draws draws(test_seed(), Stream::kTest, 3, attempt);
    const Observations observations = observations_of(agent_.observation, kSize, draws);
    const Sampled s = sample(observations);
    auto workspace = policy_->workspace(kSize);
    std::vector<float> d_logp(kSize), d_entropy(kSize), logp(kSize), entropy(kSize);
    for (float& x : d_logp) x = draws.normal();
    for (float& x : d_entropy) x = draws.normal();
    const auto loss = [&] {
      policy_->evaluate(observations.batch(), s.raw.data(), logp.data(), entropy.data(), *workspace);
      double total = 0;
      for (int64_t i = 0; i < kSize; ++i)
        total += double{d_logp[i]} * logp[i] + double{d_entropy[i]} * entropy[i];
      return total;
    };
    loss();
    std::vector<float> gradient(policy_->parameters().size(), 0.0f);
    policy_->backward_policy(d_logp.data(), d_entropy.data(), gradient.data(), *workspace);
    double largest = 0, worst = 0;
    for (const float g : gradient) largest = std::max(largest, std::abs(double{g}));
    for (const ParameterInfo& info : policy_->parameter_infos()) {
      std::span<float> p = policy_->parameters().subspan(info.offset, info.size);
      const std::vector<float> start(p.begin(), p.end());
      std::vector<float> direction(info.size);
      double slope = 0, norm = 0;
      for (float& x : direction) x = draws.normal(), norm += x * x;
      for (int64_t k = 0; k < info.size; ++k) slope += double{gradient[info.offset + k]} * direction[k];
      const auto move = [&](double t) {
        for (int64_t k = 0; k < info.size; ++k) p[k] = start[k] + static_cast<float>(t * direction[k]);
        return loss();
      };
      const double h = 2e-3 / std::sqrt(norm);
      const double numeric = (8 * (move(h) - move(-h)) - (move(2 * h) - move(-2 * h))) / (12 * h);
      move(0);
      worst =
          std::max(worst, std::abs(numeric - slope) / (std::abs(slope) + 0.1 * largest * std::sqrt(norm)));
    }
    return worst;
  }

  static constexpr int64_t kSize = 13;
  AgentSpec agent_;
  ControllerOptions options_;
  std::unique_ptr<Controller> policy_;
  Observations observations_;
};

TEST_P(ControllerCase, RecordedLogProbabilityIsRecomputedExactly) {
  const Sampled s = sample(observations_);
  auto workspace = policy_->workspace(kSize);
  std::vector<float> logp(kSize), entropy(kSize);
  policy_->evaluate(observations_.batch(), s.raw.data(), logp.data(), entropy.data(), *workspace);
  EXPECT_EQ(logp, s.logp);
  for (const float h : entropy) EXPECT_TRUE(std::isfinite(h));
}

TEST_P(ControllerCase, RowsDoNotDependOnTheBatchTheyAreIn) {
  const Sampled whole = sample(observations_);
  for (const int64_t size : {1, 7, 64}) {
    auto workspace = policy_->workspace(size);
    const ObservationSpec& spec = agent_.observation;
    for (int64_t i = 0; i < kSize; ++i) {
      // Decision i alone, then others behind it.
      Observations o{size, {}, {}, {}};
      for (int64_t k = 0; k < size; ++k) {
        const int64_t from = (i + k) % kSize;
        const auto copy = [from](auto& to, const auto& source, int64_t n) {
          to.insert(to.end(), source.begin() + from * n, source.begin() + (from + 1) * n);
        };
        copy(o.context, observations_.context, spec.context_size());
        copy(o.items, observations_.items, spec.max_items * spec.item_size());
        copy(o.mask, observations_.mask, spec.max_items);
      }
      std::vector<float> raw(size * width()), logp(size), entropy(size);
      for (int64_t k = 0; k < size; ++k)
        std::copy_n(whole.raw.begin() + (i + k) % kSize * width(), width(), raw.begin() + k * width());
      policy_->evaluate(o.batch(), raw.data(), logp.data(), entropy.data(), *workspace);
      for (int64_t k = 0; k < size; ++k)
        ASSERT_EQ(logp[k], whole.logp[(i + k) % kSize]) << "batch of " << size;
    }
  }
}

TEST_P(ControllerCase, GradientsMatchFiniteDifferences) {
  // With thousands of relu units some observations lie so near a kink that no step is short enough: the best
  // of three.
  double error = INFINITY;
  for (uint32_t attempt = 0; attempt < 3 && error > 0.02; ++attempt)
    error = std::min(error, gradient_error(attempt));
  EXPECT_LT(error, 0.02);
}

TEST_P(ControllerCase, BackwardAddsToTheGradient) {
  const Sampled s = sample(observations_);
  auto workspace = policy_->workspace(kSize);
  const std::vector<float> ones(kSize, 1.0f);
  std::vector<float> logp(kSize), entropy(kSize), once(policy_->parameters().size(), 0.0f), twice = once;
  const auto run = [&](std::vector<float>& gradient) {
    policy_->evaluate(observations_.batch(), s.raw.data(), logp.data(), entropy.data(), *workspace);
    policy_->backward_policy(ones.data(), ones.data(), gradient.data(), *workspace);
  };
  run(once), run(twice), run(twice);
  for (size_t k = 0; k < once.size(); ++k) ASSERT_NEAR(twice[k], 2 * once[k], 1e-4 * (1 + std::abs(once[k])));
}

TEST_P(ControllerCase, ModeIsWithinBoundsAndIgnoresAbsentItems) {
  auto workspace = policy_->workspace(kSize);
  std::vector<float> action(kSize * width());
  policy_->mode(observations_.batch(), action.data(), *workspace);
  for (const std::vector<float>& actions : {action, sample(observations_).action}) {
    for (int64_t i = 0; i < kSize; ++i) {
      const float* a = actions.data() + i * width();
      if (GetParam().kind == HeadKind::kCategorical) {
        EXPECT_TRUE(a[0] >= 0 && a[0] < GetParam().head_size && a[0] == std::floor(a[0]));
      } else if (GetParam().kind == HeadKind::kChoice) {
        const uint8_t* mask = observations_.mask.data() + i * GetParam().max_items;
        const bool any = std::count(mask, mask + GetParam().max_items, 1) > 0;
        EXPECT_TRUE(any ? a[0] == std::floor(a[0]) && mask[static_cast<int>(a[0])] == 1 : a[0] == 0);
      } else if (GetParam().kind == HeadKind::kSubset) {
        for (int k = 0; k < width(); ++k)
          EXPECT_TRUE(observations_.mask[i * width() + k] ? a[k] >= 0 && a[k] <= 1 : a[k] == 0);
      } else if (GetParam().kind == HeadKind::kOrder) {
        const uint8_t* mask = observations_.mask.data() + i * GetParam().max_items;
        const int64_t picked = std::min<int64_t>(width(), std::count(mask, mask + GetParam().max_items, 1));
        std::set<float> seen;
        for (int k = 0; k < width(); ++k)
          EXPECT_TRUE(k >= picked ? a[k] == -1 : mask[static_cast<int>(a[k])] == 1 && seen.insert(a[k]).second) << a[k];
      } else if (GetParam().kind == HeadKind::kGaussian) {
        for (int j = 0; j < width(); ++j) EXPECT_TRUE(a[j] >= -1 && a[j] <= 1);
      } else {
        float total = 0;
        int present = 0;
        for (int k = 0; k < width(); ++k) {
          total += a[k];
          present += observations_.mask[i * width() + k];
          EXPECT_GE(a[k], 0);
          EXPECT_TRUE(observations_.mask[i * width() + k] || a[k] == 0);
        }
        EXPECT_NEAR(total, present ? 1 : 0, 1e-5);
      }
    }
  }
  // What stands in an absent item's place makes no difference.
  Observations garbage = observations_;
  for (size_t k = 0; k < garbage.mask.size(); ++k)
    if (!garbage.mask[k])
      for (int j = 0; j < agent_.observation.item_size(); ++j)
        garbage.items[k * agent_.observation.item_size() + j] = NAN;
  std::vector<float> again(kSize * width());
  policy_->mode(garbage.batch(), again.data(), *workspace);
  EXPECT_EQ(again, action);
}

TEST_P(ControllerCase, SetPoliciesArePermutationEquivariant) {
  const ObservationSpec& spec = agent_.observation;
  if (spec.item_size() == 0) GTEST_SKIP() << "no set";
  Observations reversed = observations_;
  for (int64_t i = 0; i < kSize; ++i) {
    for (int k = 0; k < spec.max_items; ++k) {
      const int64_t to = i * spec.max_items + k, from = i * spec.max_items + spec.max_items - 1 - k;
      reversed.mask[to] = observations_.mask[from];
      std::copy_n(observations_.items.begin() + from * spec.item_size(), spec.item_size(),
                  reversed.items.begin() + to * spec.item_size());
    }
  }
  auto workspace = policy_->workspace(kSize);
  std::vector<float> action(kSize * width()), other(kSize * width());
  policy_->mode(observations_.batch(), action.data(), *workspace);
  policy_->mode(reversed.batch(), other.data(), *workspace);
  const bool by_item = GetParam().kind == HeadKind::kSimplex || GetParam().kind == HeadKind::kSubset;
  for (int64_t i = 0; i < kSize; ++i)
    for (int k = 0; k < width(); ++k) {
      if (GetParam().kind == HeadKind::kChoice) {
        const uint8_t* mask = observations_.mask.data() + i * spec.max_items;
        const bool any = std::count(mask, mask + spec.max_items, 1) > 0;
        EXPECT_EQ(action[i], any ? static_cast<float>(spec.max_items - 1) - other[i] : 0);
        continue;
      }
      const float mirrored = other[i * width() + (by_item ? width() - 1 - k : k)];
      const bool order = GetParam().kind == HeadKind::kOrder && mirrored >= 0;
      EXPECT_NEAR(action[i * width() + k], order ? static_cast<float>(spec.max_items - 1) - mirrored : mirrored, 1e-5);
    }
}

TEST_P(ControllerCase, SaveAndLoadRestoreEverything) {
  policy_->accumulate_statistics(observations_.batch());
  policy_->refresh_normaliser();
  TensorFile file;
  policy_->save(file, "policy.agent.");
  auto other = Controller::policy(agent_, options_, test_seed() + 1);
  const Sampled before = sample(observations_);
  other->load(file, "policy.agent.");
  std::swap(other, policy_);
  const Sampled after = sample(observations_);
  EXPECT_EQ(before.action, after.action);
  EXPECT_EQ(before.logp, after.logp);
  // The running statistics go on from where they were.
  for (Controller* c : {policy_.get(), other.get()}) {
    const Observations more = observations_of(agent_.observation, 5, Draws(test_seed(), Stream::kTest, 9));
    c->accumulate_statistics(more.batch());
    c->refresh_normaliser();
  }
  TensorFile a, b;
  policy_->save(a, "");
  other->save(b, "");
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) EXPECT_EQ(tensor.bytes, b.at(name).bytes) << name;
}

INSTANTIATE_TEST_SUITE_P(All, ControllerCase, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(Critic, GradientsMatchFiniteDifferences) {
  for (const auto& [set, attention] : {std::pair(false, 0), std::pair(true, 0), std::pair(true, 4), std::pair(false, 4)}) {
    const ObservationSpec view{features(4, "c"), features(set ? 3 : 0, "i"), set ? 6 : 0};
    ControllerOptions options;
    options.hidden = {24, 16};
    options.attention = attention;
    auto critic = Controller::critic(view, options, test_seed());
    Draws draws(test_seed(), Stream::kTest, 4);
    const Observations o = observations_of(view, 9, draws);
    auto workspace = critic->workspace(9);
    std::vector<float> value(9), d_value(9);
    for (float& x : d_value) x = draws.normal();
    const auto loss = [&] {
      critic->value(o.batch(), value.data(), *workspace);
      double total = 0;
      for (int i = 0; i < 9; ++i) total += double{d_value[i]} * value[i];
      return total;
    };
    loss();
    std::vector<float> gradient(critic->parameters().size(), 0.0f);
    critic->backward_value(d_value.data(), gradient.data(), *workspace);
    for (size_t k = 0; k < gradient.size(); k += 7) {
      float& p = critic->parameters()[k];
      const float start = p, h = 0.01f;
      const auto at = [&](float x) {
        p = x;
        return loss();
      };
      const double numeric =
          (8 * (at(start + h) - at(start - h)) - (at(start + 2 * h) - at(start - 2 * h))) / (12.0 * h);
      p = start;
      EXPECT_NEAR(numeric, gradient[k], 2e-3 * (1 + std::abs(gradient[k]))) << k;
    }
  }
}

TEST(Initialisation, WeightsAreOrthogonalAndDifferByNameAndSeed) {
  const Case c = cases()[0];
  AgentSpec agent = agent_of(c);
  ControllerOptions options = options_of(c);
  const auto policy = Controller::policy(agent, options, 1);
  const Controller::Layer layer = policy->layers()[1];  // 64 x 64, gain sqrt(2)
  for (int64_t a = 0; a < 64; ++a) {
    for (int64_t b = 0; b < 64; ++b) {
      double dot = 0;
      for (int64_t i = 0; i < 64; ++i) dot += double{layer.item[i * 64 + a]} * layer.item[i * 64 + b];
      ASSERT_NEAR(dot, a == b ? 2 : 0, 1e-5);
    }
  }
  const auto weights = [&](const std::string& name, uint64_t seed) {
    agent.name = name;
    const auto p = Controller::policy(agent, options, seed);
    return std::vector<float>(p->parameters().begin(), p->parameters().end());
  };
  EXPECT_EQ(weights("agent", 1),
            std::vector<float>(policy->parameters().begin(), policy->parameters().end()));
  EXPECT_NE(weights("agent", 1), weights("agent", 2));
  EXPECT_NE(weights("prb", 1), weights("power", 1));
}

TEST(Normaliser, MatchesTheWholeSampleAndPassesConstantsAsZero) {
  const AgentSpec agent = {"a", {features(2, "c"), features(1, "i"), 3}, {HeadKind::kSimplex, 3}};
  auto policy = Controller::policy(agent, {}, 1);
  Draws draws(test_seed(), Stream::kTest, 5);
  double sum = 0, squares = 0, item_sum = 0;
  int count = 0, items = 0;
  for (const int rows : {1, 5, 64}) {
    Observations o{rows, {}, {}, {}};
    for (int i = 0; i < rows; ++i) {
      o.context.push_back(1e4f + draws.normal());
      o.context.push_back(3.25f);
      sum += o.context[2 * i], squares += double{o.context[2 * i]} * o.context[2 * i], ++count;
      for (int k = 0; k < 3; ++k) {
        o.mask.push_back(draws.uniform() < 0.5f);
        o.items.push_back(o.mask.back() ? draws.normal() : 1e9f);
        if (o.mask.back()) item_sum += o.items.back(), ++items;
      }
    }
    policy->accumulate_statistics(o.batch());
  }
  EXPECT_EQ(policy->normaliser().context_scale[0], 1) << "statistics are not in use before a refresh";
  policy->refresh_normaliser();
  const Controller::Normaliser n = policy->normaliser();
  const double mean = sum / count;
  EXPECT_NEAR(n.context_mean[0], mean, 1e-3);
  EXPECT_NEAR(n.context_scale[0], 1 / std::sqrt(squares / count - mean * mean), 1e-3);
  EXPECT_EQ(n.context_scale[1], 0);
  EXPECT_NEAR(n.item_mean[0], item_sum / items, 1e-5);
}

TEST(Controller, ActionsFollowTheirDistributions) {
  // Empirical means of 20,000 samples of one decision against what the distribution says.
  const int64_t n = 20000;
  for (const std::string head : {"softmax_gaussian", "dirichlet"}) {
    const Case c = {"x", HeadKind::kSimplex, head, 1, 2, 4, 4, {8}, "tanh", ""};
    const auto policy = Controller::policy(agent_of(c), options_of(c), 3);
    Observations one = observations_of(agent_of(c).observation, 1, Draws(test_seed(), Stream::kTest, 6));
    Observations o{n, {}, {}, {}};
    for (int64_t i = 0; i < n; ++i) {
      o.context.insert(o.context.end(), one.context.begin(), one.context.end());
      o.items.insert(o.items.end(), one.items.begin(), one.items.end());
      o.mask.insert(o.mask.end(), one.mask.begin(), one.mask.end());
    }
    auto workspace = policy->workspace(n);
    std::vector<float> action(n * 4), raw(n * 4), logp(n), entropy(n), mode(4);
    policy->sample(
        o.batch(), [](int64_t i) { return Draws(test_seed(), Stream::kTest, 7, uint32_t(i)); }, action.data(),
        raw.data(), logp.data(), *workspace);
    policy->evaluate(o.batch(), raw.data(), logp.data(), entropy.data(), *workspace);
    double mean_logp = 0;
    for (const float l : logp) mean_logp += l / static_cast<double>(n);
    EXPECT_NEAR(-mean_logp, entropy[0], 0.05) << head << ": entropy is the mean of -log p";
    if (head != "dirichlet") continue;
    policy->mode(one.batch(), mode.data(), *workspace);
    for (int k = 0; k < 4; ++k) {
      double mean = 0;
      for (int64_t i = 0; i < n; ++i) mean += action[i * 4 + k] / static_cast<double>(n);
      EXPECT_NEAR(mean, mode[k], 0.01);
    }
  }
}

TEST(Controller, BadResidualIsAConfigErrorThatNamesTheFeatures) {
  Case c = cases()[5];
  c.residual = "nothing";
  try {
    Controller::policy(agent_of(c), options_of(c), 1);
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("item2"), std::string::npos);
  }
  c = cases()[0];
  c.residual = "context0";
  EXPECT_THROW(Controller::policy(agent_of(c), options_of(c), 1), ConfigError);
}

TEST(Controller, LoadingAnotherShapeIsACheckpointError) {
  Case c = cases()[0];
  TensorFile file;
  Controller::policy(agent_of(c), options_of(c), 1)->save(file, "");
  c.hidden = {32, 32};
  EXPECT_THROW(Controller::policy(agent_of(c), options_of(c), 1)->load(file, ""), CheckpointError);
}

TEST(LogGamma, MatchesTheRecurrenceAndTheLibrary) {
  for (double x = 0.01; x < 500; x *= 1.13) {
    const LogGamma at = log_gamma(x), next = log_gamma(x + 1);
    EXPECT_NEAR(at.value, std::lgamma(x), 1e-11 * (1 + std::abs(at.value)));
    EXPECT_NEAR(next.first - at.first, 1 / x, 1e-11 * (1 + 1 / x));
    EXPECT_NEAR(at.second - next.second, 1 / (x * x), 1e-10 * (1 + 1 / (x * x)));
    const double h = 1e-5 * x;
    EXPECT_NEAR((log_gamma(x + h).value - log_gamma(x - h).value) / (2 * h), at.first,
                1e-6 * (1 + std::abs(at.first)));
    EXPECT_NEAR((log_gamma(x + h).first - log_gamma(x - h).first) / (2 * h), at.second,
                1e-5 * (1 + at.second));
  }
}

}  // namespace
}  // namespace trimtab
