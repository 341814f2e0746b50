// Exports: the policy's own mode against the runtime and against the compiled C header, on vectors from a seed.
#include "policies/controllers/export.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

#include "core/files.h"
#include "trimtab/runtime.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 20260101;
}

std::vector<Feature> features(const std::string& name, int count, float low, float high) {
  std::vector<Feature> out;
  for (int j = 0; j < count; ++j) out.push_back({name + std::to_string(j), "1", low, high});
  return out;
}

struct Case {
  std::string name;
  AgentSpec spec;
  ControllerOptions options;
};

std::vector<Case> cases() {
  ControllerOptions plain;
  plain.last_layer_gain = 1.0;
  ControllerOptions dirichlet = plain, relu = plain, raw = plain;
  dirichlet.head = "dirichlet";
  dirichlet.residual = "item1";
  relu.activation = "relu";
  relu.hidden = {48};
  raw.normalise_observations = false;
  ControllerOptions attending = plain, attending_relu = relu;
  attending.hidden = {32, 48, 24};
  attending.attention = 4;
  attending_relu.hidden = {18, 30};   // no multiples of a vector
  attending_relu.attention = 3;
  ControllerOptions attending_residual = attending_relu;
  attending_residual.residual = "item2";
  const ObservationSpec set{features("context", 3, -4, 4), features("item", 5, -6, 6), 10};
  const ObservationSpec vector{features("context", 4, -2, 2), {}, 0};
  return {{"softmax", {"prb", set, {HeadKind::kSimplex, 10}}, plain},
          {"dirichlet", {"power", set, {HeadKind::kSimplex, 10}}, dirichlet},
          {"no_context", {"prb", {{}, set.item, 7}, {HeadKind::kSimplex, 7}}, relu},
          {"categorical", {"cart", vector, {HeadKind::kCategorical, 3}}, plain},
          {"choice", {"pages", set, {HeadKind::kChoice, 10}}, dirichlet},
          {"gaussian", {"pendulum", vector, {HeadKind::kGaussian, 2, -0.5f, 0.5f}}, raw},
          {"set_categorical", {"router", set, {HeadKind::kCategorical, 4}}, relu},
          {"set_gaussian", {"pool", set, {HeadKind::kGaussian, 2, -1, 1}}, plain},
          {"subset", {"nodes", set, {HeadKind::kSubset, 10}}, plain},
          {"subset_attention", {"nodes", {set.context, set.item, 21}, {HeadKind::kSubset, 21}}, attending_residual},
          {"order", {"heads", set, {.kind = HeadKind::kOrder, .size = 10, .picks = 4}}, dirichlet},
          {"order_attention", {"heads", {{}, set.item, 10}, {.kind = HeadKind::kOrder, .size = 10, .picks = 12}}, attending},
          {"softmax_attention", {"prb", set, {HeadKind::kSimplex, 10}}, attending},
          {"categorical_attention", {"router", set, {HeadKind::kCategorical, 4}}, attending_relu}};
}

// Each number of the action is an index, which is right or wrong and not nearly right.
bool has_indices(const HeadSpec& head) { return head.is_index() || head.kind == HeadKind::kOrder; }

// A policy with random weights and a normaliser that has seen data of its own mean and scale.
std::unique_ptr<Controller> make_policy(const Case& c) {
  auto policy = Controller::policy(c.spec, c.options, test_seed());
  const TestVectors seen = make_test_vectors({c.spec, policy.get(), "", 0, {}}, 512, test_seed() + 1);
  policy->accumulate_statistics({.size = seen.count, .context = seen.context.data(), .items = seen.items.data(), .mask = seen.mask.data()});
  policy->refresh_normaliser();
  return policy;
}

struct Closer {
  void operator()(tt_controller* c) const { tt_close(c); }
};
using Opened = std::unique_ptr<tt_controller, Closer>;

Opened open_bytes(const std::string& bytes, int max_items = 0) {
  tt_open_options options = TT_OPEN_OPTIONS_INIT;
  options.max_items = max_items;
  char why[256] = "";
  tt_controller* controller = nullptr;
  EXPECT_EQ(tt_open_memory(bytes.data(), bytes.size(), &options, &controller, why, sizeof why), TT_OK) << why;
  return Opened(controller);
}

class ExportTest : public testing::TestWithParam<size_t> {
 protected:
  Case case_ = cases()[GetParam()];
  std::unique_ptr<Controller> policy_ = make_policy(case_);
  std::vector<ExportedAgent> agents_ = {{case_.spec, policy_.get(), "what it means", 500, {}}};
};

TEST_P(ExportTest, RuntimeAgreesWithThePolicyOnTenThousandVectors) {
  const Opened controller = open_bytes(artefact_bytes(agents_, {.environment = "test", .config = "a: 1\n", .training_data_hash = "00", .glue = {}}));
  ASSERT_TRUE(controller);
  const TestVectors v = make_test_vectors(agents_[0], 10000, test_seed() + 2);
  const ObservationSpec& view = case_.spec.observation;
  const int num_items = view.item_size() ? view.max_items : 0, width = case_.spec.head.width();
  std::vector<float> action(width);
  float worst = 0;
  int64_t other_choice = 0;
  for (int64_t i = 0; i < v.count; ++i) {
    ASSERT_EQ(tt_decide(controller.get(), 0, v.context.data() + i * view.context_size(), v.items.data() + i * num_items * view.item_size(),
                        v.mask.data() + i * num_items, num_items, action.data()),
              TT_OK);
    for (int k = 0; k < width; ++k) {
      const float difference = std::abs(action[k] - v.actions[i * width + k]);
      if (has_indices(case_.spec.head)) other_choice += difference > 0;
      else worst = std::max(worst, difference);
    }
  }
  EXPECT_LE(worst, 1e-5f);
  // Different choices are possible only where two logits are within 1e-4; such ties are rare.
  EXPECT_LE(other_choice, 5);
}

// What the compiled header answers to one observation.
std::vector<float> answer_of_header(const std::vector<ExportedAgent>& agents, std::span<const float> context, std::span<const float> items, std::span<const uint8_t> mask) {
  const fs::path folder = fs::temp_directory_path() / ("trimtab_seen_" + agents[0].spec.name + "_" + std::to_string(getpid()));
  fs::create_directories(folder);
  export_header(folder / "controller.h", agents, {.environment = "test", .config = "", .training_data_hash = "00", .glue = {}, .seed = 1, .num_self_tests = 1});
  const std::string name = agents[0].spec.name, program = (folder / "main").string();
  std::ofstream(program + ".c") << fmt::format(
      "#include \"controller.h\"\n#include <stdio.h>\nstatic const float context[] = {{0, {:.9e}}}, items[] = {{{:.9e}}};\nstatic const unsigned char mask[] = {{{}}};\n"
      "int main(void) {{\n  float action[64];\n  trimtab_{}_decide(context + 1, items, mask, {}, action);\n"
      "  for (int i = 0; i < {}; ++i) printf(\"%.9g\\n\", (double)action[i]);\n  return 0;\n}}\n",
      fmt::join(context, ", "), fmt::join(items, ", "), fmt::join(mask, ", "), name, mask.size(), agents[0].spec.head.width());
  EXPECT_EQ(std::system(("cc -std=c11 -O1 -Wall -Wextra -Werror " + program + ".c -o " + program + " -lm && " + program + " > " + program + ".txt").c_str()), 0);
  std::istringstream text(read_file(program + ".txt"));
  std::vector<float> out;
  for (float x; text >> x;) out.push_back(x);
  fs::remove_all(folder);
  return out;
}

TEST_P(ExportTest, WithoutItemsTheSafeActionIsTheAnswer) {
  const ObservationSpec& view = case_.spec.observation;
  if (view.item_size() == 0) GTEST_SKIP() << "no set";
  const Opened controller = open_bytes(artefact_bytes(agents_, {}));
  ASSERT_TRUE(controller);
  const std::vector<float> context(view.context_size(), 0.5f), items(static_cast<size_t>(view.max_items) * view.item_size(), 0.5f);
  std::vector<uint8_t> mask(view.max_items, kAbsent);
  mask[1] = kSeen;
  std::vector<float> action(case_.spec.head.width(), 9.0f);
  EXPECT_EQ(tt_decide(controller.get(), 0, context.data(), items.data(), mask.data(), view.max_items, action.data()), TT_NO_ITEMS);
  if (std::system("cc --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "no C compiler here";
  EXPECT_EQ(answer_of_header(agents_, context, items, mask), action);
}

TEST_P(ExportTest, CompiledHeaderAgreesWithTheRuntime) {
  if (std::system("cc --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "no C compiler here";
  const fs::path folder = fs::temp_directory_path() / ("trimtab_header_" + case_.name + "_" + std::to_string(getpid()));
  fs::create_directories(folder);
  ExportInfo info{.environment = "test", .config = "", .training_data_hash = "00", .glue = {}, .seed = test_seed() + 3, .num_self_tests = 10000};
  export_header(folder / "controller.h", agents_, info);
  std::ofstream(folder / "main.c") << "#include \"controller.h\"\n#include <stdio.h>\nint main(void) {\n  const float worst = trimtab_self_test();\n"
                                      "  printf(\"%g\\n\", (double)worst);\n  return worst <= "
                                   << (has_indices(case_.spec.head) ? "11.0f" : "1e-5f") << " ? 0 : 1;\n}\n";
  const std::string program = (folder / "main").string();
  EXPECT_EQ(std::system(("cc -std=c11 -O1 -Wall -Wextra -Werror " + program + ".c -o " + program + " -lm").c_str()), 0);
  EXPECT_EQ(std::system((program + " > " + program + ".txt").c_str()), 0) << read_file(program + ".txt");
  fs::remove_all(folder);
}

TEST_P(ExportTest, ServesOtherNumbersOfItems) {
  const ObservationSpec& view = case_.spec.observation;
  if (view.item_size() == 0) GTEST_SKIP() << "no set";
  const Opened controller = open_bytes(artefact_bytes(agents_, {}), 32);
  ASSERT_TRUE(controller);
  for (const int num_items : {1, 4, 32}) {
    Case wide = case_;
    wide.spec.observation.max_items = num_items;
    if (wide.spec.head.kind != HeadKind::kCategorical && wide.spec.head.kind != HeadKind::kGaussian) wide.spec.head.size = num_items;
    const auto policy = Controller::policy(wide.spec, wide.options, 0);
    TensorFile state;
    policy_->save(state, "p.");
    policy->load(state, "p.");
    const TestVectors v = make_test_vectors({wide.spec, policy.get(), "", 0, {}}, 50, test_seed());
    std::vector<float> action(wide.spec.head.width());
    for (int64_t i = 0; i < v.count; ++i) {
      ASSERT_EQ(tt_decide(controller.get(), 0, v.context.data() + i * view.context_size(), v.items.data() + i * num_items * view.item_size(),
                          v.mask.data() + i * num_items, num_items, action.data()),
                TT_OK);
      for (size_t k = 0; k < action.size(); ++k) ASSERT_NEAR(action[k], v.actions[i * action.size() + k], 1e-5);
    }
  }
}

// By the policy, the runtime and the header.
TEST_P(ExportTest, WhatIsOnlySeenIsReadAndNotChosen) {
  const ObservationSpec& view = case_.spec.observation;
  const HeadSpec& head = case_.spec.head;
  if (view.item_size() == 0 || head.kind == HeadKind::kCategorical || head.kind == HeadKind::kGaussian) GTEST_SKIP() << "chooses no items";
  const Opened controller = open_bytes(artefact_bytes(agents_, {}));
  ASSERT_TRUE(controller);
  TestVectors v = make_test_vectors(agents_[0], 300, test_seed() + 4);
  const int items = view.max_items, width = head.width();
  Draws draws(test_seed(), Stream::kTest, 77);
  for (int64_t i = 0; i < v.count; ++i)
    for (int k = 0, first = 1; k < items; ++k)   // the first one present stays so
      if (uint8_t& m = v.mask[i * items + k]; m == kPresent && !std::exchange(first, 0) && draws.below(2) == 1) m = kSeen;
  const auto workspace = policy_->workspace(v.count);
  std::vector<float> expected(v.count * width), without(expected.size()), action(width);
  policy_->mode({v.count, v.context.data(), v.items.data(), v.mask.data()}, expected.data(), *workspace);
  for (int64_t i = 0; i < v.count; ++i) {
    const uint8_t* mask = v.mask.data() + i * items;
    ASSERT_EQ(tt_decide(controller.get(), 0, v.context.data() + i * view.context_size(), v.items.data() + i * items * view.item_size(), mask, items, action.data()), TT_OK);
    for (int k = 0; k < width; ++k) {
      if (!has_indices(head)) {
        EXPECT_NEAR(action[k], expected[i * width + k], 1e-5);
        EXPECT_TRUE(mask[k] == kPresent || action[k] == 0);
      } else if (action[k] >= 0) {
        EXPECT_EQ(mask[static_cast<int>(action[k])], kPresent);
      }
    }
  }
  if (std::system("cc --version > /dev/null 2>&1") == 0) {
    const size_t context = view.context_size(), all = static_cast<size_t>(items) * view.item_size();
    const std::vector<float> answer = answer_of_header(agents_, std::span(v.context).first(context), std::span(v.items).first(all), std::span(v.mask).first(items));
    ASSERT_EQ(std::ssize(answer), width);
    for (int k = 0; k < width; ++k) EXPECT_NEAR(answer[k], expected[k], 1e-5);
  }
  for (uint8_t& m : v.mask) m = m == kSeen ? uint8_t{kAbsent} : m;
  policy_->mode({v.count, v.context.data(), v.items.data(), v.mask.data()}, without.data(), *workspace);
  if (!has_indices(head)) {
    EXPECT_NE(expected, without) << "what is seen changes nothing";
  }
}

INSTANTIATE_TEST_SUITE_P(Heads, ExportTest, testing::Range<size_t>(0, cases().size()),
                         [](const testing::TestParamInfo<size_t>& info) { return cases()[info.param].name; });

}  // namespace
}  // namespace trimtab
