// A slot's decision allocates nothing: every function of the runtime that a base station calls between a
// report and watts per PRB, with a malloc that counts. The agents are 2x64 networks over the users, plain and with attention.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/random.h"
#include "policies/controllers/export.h"
#include "runtime/test/count_allocations.h"
#include "trimtab/cell.h"
#include "trimtab/glue.h"
#include "trimtab/runtime.h"

namespace trimtab {
namespace {

constexpr int kNumMcs = 28;

int64_t allocations_of(const std::function<void()>& call) {
  const int64_t before = allocations();
  call();
  return allocations() - before;
}

struct Closer {
  void operator()(tt_controller* c) const { tt_close(c); }
};

std::vector<Feature> features(const char* const* names, int count) {
  std::vector<Feature> out;
  for (int i = 0; i < count; ++i) out.push_back({names[i], "1", -100, 100});
  return out;
}

std::unique_ptr<tt_controller, Closer> open_agents(int users, int64_t attention) {
  const auto agent = [&](const char* name, const char* const* names, int count) {
    return AgentSpec{name,
                     {features(tt_cell_context_names, TT_CELL_CONTEXT), features(names, count), users},
                     {HeadKind::kSimplex, users}};
  };
  const AgentSpec prb = agent("prb", tt_cell_prb_feature_names, TT_CELL_PRB_FEATURES);
  const AgentSpec power = agent("power", tt_cell_power_feature_names, TT_CELL_POWER_FEATURES);
  ControllerOptions options;
  options.hidden = {64, 64};
  options.attention = attention;
  const auto prb_policy = Controller::policy(prb, options, 1),
             power_policy = Controller::policy(power, options, 2);
  const std::string bytes = artefact_bytes(
      {{.spec = prb, .policy = prb_policy.get(), .meaning = "shares of PRBs", .fallback = {}},
       {.spec = power, .policy = power_policy.get(), .meaning = "shares of power", .fallback = {}}},
      {});
  tt_open_options open = TT_OPEN_OPTIONS_INIT;
  open.deadline_us = 1e9;  // the clock is read, too
  tt_controller* controller = nullptr;
  char why[256] = "";
  EXPECT_EQ(tt_open_memory(bytes.data(), bytes.size(), &open, &controller, why, sizeof why), TT_OK) << why;
  return std::unique_ptr<tt_controller, Closer>(controller);
}

// A cell with users near and far, one without data and one with a failed block.
class Slot {
 public:
  Slot(int users, int prbs)
      : users_(users), prbs_(prbs), thresholds_(kNumMcs * (prbs + 1)), bits_(thresholds_.size()) {
    Draws draws(20260101, Stream::kWorld, static_cast<uint32_t>(users), static_cast<uint32_t>(prbs));
    for (int m = 0; m < kNumMcs; ++m) {
      betas_.push_back(1.0f + static_cast<float>(m));
      for (int n = 1; n <= prbs; ++n) {
        thresholds_[n * kNumMcs + m] = std::pow(10.0f, (static_cast<float>(m) - 6) / 10);
        bits_[n * kNumMcs + m] = 24 * (m + 1) * n;
      }
    }
    setup_.num_prb = prbs;
    setup_.rbg_size = 1;
    setup_.max_power_w = 1;
    setup_.num_mcs = kNumMcs;
    setup_.threshold_sinr = thresholds_.data();
    setup_.beta = betas_.data();
    setup_.bits = bits_.data();
    setup_.max_efficiency = 5.5f;
    setup_.min_sinr = thresholds_[1];
    setup_.fairness_exponent = 1;
    setup_.levelling = 0.5f;
    setup_.report_ceiling_sinr = 100;
    setup_.probe_db = 1;
    for (int u = 0; u < users; ++u) {
      const float mean_db = draws.uniform(0, 30);
      for (int f = 0; f < prbs; ++f)
        gain_.push_back(static_cast<float>(prbs) * std::pow(10.0f, (mean_db + draws.uniform(-6, 6)) / 10));
      average_.push_back(draws.uniform(100, 10000));
    }
    offset_.assign(users, 0);
    reliability_.assign(users, 0.7f);
    backlog_.assign(users, 1e6f);
    delay_.assign(users, 3);
    active_.assign(users, 1);
    active_[1] = 0;
    retx_prbs_.assign(users, 0);
    retx_mcs_.assign(users, 0);
    retx_prbs_[0] = 5, retx_mcs_[0] = 3;
    slot_.num_users = users;
    slot_.sinr_per_watt = gain_.data();
    slot_.average_bits = average_.data();
    slot_.offset_db = offset_.data();
    slot_.reliability = reliability_.data();
    slot_.backlog_bits = backlog_.data();
    slot_.delay_slots = delay_.data();
    slot_.active = active_.data();
    slot_.retx_prbs = retx_prbs_.data();
    slot_.retx_mcs = retx_mcs_.data();
    const size_t floats = static_cast<size_t>(tt_cell_scratch_floats(users, prbs));
    memory_.reset(static_cast<float*>(std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64)));
    tt_cell_scratch_init(&scratch_, users, prbs, memory_.get());
    workspace_.resize(tt_assign_workspace_size(users, prbs));
    context_.resize(TT_CELL_CONTEXT);
    items_.resize(static_cast<size_t>(users) * std::max(TT_CELL_PRB_FEATURES, TT_CELL_POWER_FEATURES));
    shares_.resize(users), weight_.resize(users), prices_.resize(users), user_power_.resize(users);
    quotas_.resize(users), counts_.resize(users), mask_.resize(users), state_.resize(3);
    owner_.resize(prbs), power_.resize(prbs);
  }

  // From reports to watts by the agents, then every other rule on the same slot.
  void decide(tt_controller* agents) {
    tt_cell_efficiency(&setup_, &slot_, &scratch_);
    tt_cell_prb_features(&setup_, &slot_, &scratch_, context_.data(), items_.data());
    answered_ =
        tt_decide(agents, 0, context_.data(), items_.data(), slot_.active, users_, shares_.data()) == TT_OK;
    tt_cell_resolve(&setup_, &slot_, &scratch_, shares_.data(), 0, owner_.data(), counts_.data(),
                    workspace_.data());
    tt_cell_fair_weights(&slot_, 1, weight_.data());
    tt_cell_place_retransmissions(&setup_, &slot_, weight_.data(), scratch_.efficiency, owner_.data(),
                                  counts_.data());
    tt_cell_ladder(&setup_, &slot_, owner_.data(), counts_.data(), &scratch_);
    tt_cell_power_features(&setup_, &slot_, owner_.data(), counts_.data(), &scratch_, context_.data(),
                           items_.data());
    for (int u = 0; u < users_; ++u) mask_[u] = counts_[u] > 0;
    answered_ &=
        tt_decide(agents, 1, context_.data(), items_.data(), mask_.data(), users_, shares_.data()) == TT_OK;
    tt_cell_spread_power(&setup_, &slot_, shares_.data(), owner_.data(), &scratch_, power_.data());
  }
  void decide_by_rules(tt_controller* agents) {
    tt_cell_fill_power(&setup_, &slot_, counts_.data(), &scratch_, user_power_.data());
    tt_safe_action(agents, 0, slot_.active, users_, shares_.data());
    tt_quotas(shares_.data(), slot_.active, users_, prbs_, quotas_.data());
    tt_assign_fast(scratch_.efficiency, users_, prbs_, quotas_.data(), owner_.data(), prices_.data(),
                   workspace_.data());
    tt_cell_resolve(&setup_, &slot_, &scratch_, shares_.data(), 1, owner_.data(), counts_.data(),
                    workspace_.data());
    tt_cell_argmax(&setup_, &slot_, weight_.data(), &scratch_, owner_.data(), counts_.data());
    tt_spread_power(shares_.data(), users_, owner_.data(), prbs_, setup_.max_power_w, power_.data());
    tt_csi_track(state_.data(), gain_.data(), gain_.data(), prbs_, 0.9f);
    reliability_[0] = tt_csi_reliability(state_.data());
  }
  // An input that is not a number is answered by the safe action.
  tt_status decide_on_nothing(tt_controller* agents) {
    context_[0] = std::nanf("");
    return tt_decide(agents, 0, context_.data(), items_.data(), slot_.active, users_, shares_.data());
  }

  bool answered() const { return answered_; }
  float watts() const {
    float sum = 0;
    for (const float w : power_) sum += w;
    return sum;
  }

 private:
  int users_, prbs_;
  std::vector<float> thresholds_, betas_;
  std::vector<int32_t> bits_;
  tt_cell_setup setup_{};
  tt_cell_slot slot_{};
  tt_cell_scratch scratch_{};
  std::vector<float> gain_, average_, offset_, reliability_, backlog_, delay_;
  std::vector<uint8_t> active_, mask_, workspace_;
  std::vector<int32_t> retx_prbs_, retx_mcs_;
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> memory_;
  std::vector<float> context_, items_, shares_, weight_, prices_, user_power_, power_, state_;
  std::vector<int> quotas_, counts_, owner_;
  bool answered_ = false;
};

class RuntimeAllocation : public testing::TestWithParam<std::pair<int, int>> {
 protected:
  void SetUp() override {
    if (!TT_COUNTS_ALLOCATIONS) GTEST_SKIP() << "counting needs glibc's malloc: no sanitizer, no other libc";
    void* volatile kept = nullptr;  // an allocation that is never used may be left out
    ASSERT_GT(allocations_of([&] { kept = std::malloc(16); }), 0) << "the count does not count";
    std::free(kept);
  }
};

TEST_P(RuntimeAllocation, ADecisionOfASlotAllocatesNothing) {
  const auto [users, prbs] = GetParam();
  for (const int64_t attention : {0, 4}) {
    const auto agents = open_agents(users, attention);
    ASSERT_TRUE(agents);
    Slot slot(users, prbs);
    for (int t = 0; t < 3; ++t) {  // the first decision is one, too: nothing is put off until it
      EXPECT_EQ(allocations_of([&] { slot.decide(agents.get()); }), 0) << "slot " << t;
      EXPECT_TRUE(slot.answered());
      EXPECT_NEAR(slot.watts(), 1, 1e-4);
      EXPECT_EQ(allocations_of([&] { slot.decide_by_rules(agents.get()); }), 0) << "slot " << t;
      tt_status status = TT_OK;
      EXPECT_EQ(allocations_of([&] { status = slot.decide_on_nothing(agents.get()); }), 0) << "slot " << t;
      EXPECT_EQ(status, TT_BAD_INPUT);
    }
  }
}

// Subsets and orders of up to the most items, attended over.
TEST_P(RuntimeAllocation, ASubsetAndAnOrderAllocateNothing) {
  const int items = GetParam().first;
  const ObservationSpec view{{{"load", "1", -10, 10}}, {{"gain", "1", -10, 10}, {"cost", "1", -10, 10}}, items};
  const AgentSpec subset{"subset", view, {.kind = HeadKind::kSubset, .size = items}},
      order{"order", view, {.kind = HeadKind::kOrder, .size = items, .picks = 5}};
  ControllerOptions options;
  options.hidden = {32, 64};
  options.attention = 4;
  const auto first = Controller::policy(subset, options, 1), second = Controller::policy(order, options, 2);
  const std::string bytes = artefact_bytes({{.spec = subset, .policy = first.get(), .meaning = "what is taken", .fallback = {}},
                                            {.spec = order, .policy = second.get(), .meaning = "what comes first", .fallback = {}}},
                                           {});
  tt_open_options open = TT_OPEN_OPTIONS_INIT;
  open.max_items = TT_MAX_ITEMS;
  tt_controller* opened = nullptr;
  ASSERT_EQ(tt_open_memory(bytes.data(), bytes.size(), &open, &opened, nullptr, 0), TT_OK);
  const std::unique_ptr<tt_controller, Closer> controller(opened);
  Draws draws(20260101, Stream::kWorld, 3, static_cast<uint32_t>(items));
  std::vector<float> features(2 * TT_MAX_ITEMS), action(TT_MAX_ITEMS), context = {0.5f};
  for (float& x : features) x = draws.normal();
  for (const int count : {items, int{TT_MAX_ITEMS}}) {
    for (const int agent : {0, 1}) {
      tt_status status = TT_BAD_ARGUMENT;
      EXPECT_EQ(allocations_of([&] {
                  status = tt_decide(controller.get(), agent, context.data(), features.data(), nullptr, count, action.data());
                }),
                0);
      EXPECT_EQ(status, TT_OK);
      EXPECT_EQ(allocations_of([&] { tt_safe_action(controller.get(), agent, nullptr, count, action.data()); }), 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cells, RuntimeAllocation, testing::Values(std::pair(10, 51), std::pair(32, 273)));

}  // namespace
}  // namespace trimtab
