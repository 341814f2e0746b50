// Self-attention over items: the formula by hand, what its absence leaves unchanged, and refusals. Gradients, permutations
// and independence of rows are tested with the controllers that have it (controller_test.cpp).
#include "policies/controllers/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/test_support.h"
#include "policies/controllers/controller.h"

namespace trimtab {
namespace {

AgentSpec agent(int items) {
  return {"a", {{{"c", "1", -1, 1}}, {{"x", "1", -1, 1}, {"y", "1", -1, 1}}, items}, {HeadKind::kSubset, items}};
}
ControllerOptions options(std::vector<int64_t> hidden, int64_t attention) {
  ControllerOptions o;
  o.hidden = std::move(hidden);
  o.attention = attention;
  o.last_layer_gain = 1;
  return o;
}

// In double, one head and one pair of items at a time.
TEST(Attention, IsTheFormulaWithinEachDecision) {
  constexpr int64_t kWidth = 6, kHeads = 2, kRows = 8, d = kWidth / kHeads;
  const int32_t offsets[] = {0, 3, 3, 4, 8};
  const Attention attention(kWidth, kHeads, 5);
  Draws draws(test_seed(), Stream::kTest, 30);
  std::vector<float> parameters(5 + attention.num_parameters());
  for (float& p : parameters) p = 0.7f * draws.normal();
  RowBuffer h(kRows, kWidth);
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t j = 0; j < kWidth; ++j) h.row(r)[j] = draws.normal();
  ItemAttentionState state = attention.state(kRows);
  AttentionScratch scratch = Attention::scratch(kRows, kWidth, 4);
  attention.forward(parameters.data(), 4, offsets, h, state, scratch);
  const auto product = [&](int weight, int64_t row, int64_t column) {
    double sum = 0;
    for (int64_t i = 0; i < kWidth; ++i)
      sum += double{h.row(row)[i]} * parameters[attention.weight_offset(weight) + i * kWidth + column];
    return sum;
  };
  for (int i = 0; i < 4; ++i) {
    for (int32_t r = offsets[i]; r < offsets[i + 1]; ++r) {
      double mixed[kWidth] = {};
      for (int64_t a = 0; a < kHeads; ++a) {
        std::vector<double> weight;
        double total = 0;
        for (int32_t k = offsets[i]; k < offsets[i + 1]; ++k) {
          double score = 0;
          for (int64_t j = a * d; j < (a + 1) * d; ++j) score += product(0, r, j) * product(1, k, j);
          total += weight.emplace_back(std::exp(score / std::sqrt(double{d})));
        }
        for (int32_t k = offsets[i]; k < offsets[i + 1]; ++k)
          for (int64_t j = a * d; j < (a + 1) * d; ++j) mixed[j] += weight[k - offsets[i]] / total * product(2, k, j);
      }
      for (int64_t j = 0; j < kWidth; ++j) {
        double y = h.row(r)[j];
        for (int64_t k = 0; k < kWidth; ++k) y += mixed[k] * parameters[attention.weight_offset(3) + k * kWidth + j];
        EXPECT_NEAR(state.output.row(r)[j], y, 1e-4 * (1 + std::abs(y)));
      }
    }
  }
}

TEST(Attention, StandsAfterEveryHiddenLayerButTheLast) {
  const auto names = [](const Controller& c) {
    std::vector<std::string> out;
    int64_t next = 0;
    for (const ParameterInfo& info : c.parameter_infos()) {
      EXPECT_EQ(info.offset, next) << info.name;
      next += info.size;
      if (info.name.find("attention") != std::string::npos) out.push_back(info.name);
    }
    return out;
  };
  EXPECT_EQ(names(*Controller::policy(agent(4), options({8, 6}, 4), 1)),
            (std::vector<std::string>{"layer0.attention.query", "layer0.attention.key", "layer0.attention.value", "layer0.attention.out"}));
  EXPECT_EQ(names(*Controller::critic(agent(4).observation, options({8, 4, 7}, 4), 1)).size(), 8u);
  EXPECT_TRUE(names(*Controller::policy(agent(4), options({8, 6}, 0), 1)).empty());
  // An agent without items has nothing to attend to.
  const AgentSpec plain{"a", {{{"c", "1", -1, 1}}, {}, 0}, {HeadKind::kCategorical, 2}};
  EXPECT_TRUE(names(*Controller::policy(plain, options({7}, 4), 1)).empty());
}

TEST(Attention, LayersStartTheSameWithAndWithout) {
  const auto with = Controller::policy(agent(4), options({8, 6}, 2), 3), without = Controller::policy(agent(4), options({8, 6}, 0), 3);
  for (const ParameterInfo& info : without->parameter_infos()) {
    const auto same = std::find_if(with->parameter_infos().begin(), with->parameter_infos().end(),
                                   [&](const ParameterInfo& other) { return other.name == info.name; });
    ASSERT_NE(same, with->parameter_infos().end());
    for (int64_t k = 0; k < info.size; ++k)
      ASSERT_EQ(with->parameters()[same->offset + k], without->parameters()[info.offset + k]) << info.name;
  }
  const Controller::Layer::Attention a = with->layers()[0].attention;
  EXPECT_EQ(a.heads, 2);
  EXPECT_EQ(without->layers()[0].attention.heads, 0);
  for (const auto& [weight, gain] : {std::pair(a.query, 1.0), std::pair(a.key, 1.0), std::pair(a.value, 1.0), std::pair(a.mix, 0.1)})
    for (int i = 0; i < 8; ++i) {
      double squares = 0;
      for (int j = 0; j < 8; ++j) squares += double{weight[i * 8 + j]} * weight[i * 8 + j];
      EXPECT_NEAR(squares, gain * gain, 1e-5);
    }
}

// The same state serves sets of another size.
TEST(Attention, ServesAnyNumberOfItems) {
  const auto small = Controller::policy(agent(3), options({8, 8, 6}, 2), 1), large = Controller::policy(agent(40), options({8, 8, 6}, 2), 2);
  TensorFile file;
  small->save(file, "");
  large->load(file, "");
  Draws draws(test_seed(), Stream::kTest, 31);
  std::vector<float> context = {draws.normal()}, few(6), many(80), a(3), b(40);
  for (float& x : few) x = draws.normal();
  std::copy(few.begin(), few.end(), many.begin());
  const std::vector<uint8_t> all(3, 1);
  std::vector<uint8_t> first(40, 0);
  std::fill_n(first.begin(), 3, uint8_t{1});
  small->mode({1, context.data(), few.data(), all.data()}, a.data(), *small->workspace(1));
  large->mode({1, context.data(), many.data(), first.data()}, b.data(), *large->workspace(1));
  for (int k = 0; k < 3; ++k) EXPECT_EQ(a[k], b[k]);
}

TEST(Attention, BadWidthsAreConfigErrorsThatNameBothKeys) {
  for (const ControllerOptions& bad : {options({8}, 2), options({}, 2), options({9, 8}, 2), options({8, 9, 4}, 4)}) {
    try {
      Controller::policy(agent(4), bad, 1);
      FAIL();
    } catch (const ConfigError& e) {
      EXPECT_NE(std::string(e.what()).find("hidden"), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("attention"), std::string::npos) << e.what();
    }
    EXPECT_THROW(Controller::critic(agent(4).observation, bad, 1), ConfigError);
  }
  EXPECT_NO_THROW(Controller::policy(agent(4), options({8, 9}, 2), 1));  // nothing attends to the last
}

}  // namespace
}  // namespace trimtab
