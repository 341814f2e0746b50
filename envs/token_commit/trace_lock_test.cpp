// The fitted controller: weights, crops and loss by hand, a world in which confidence is not enough, and the way into an artefact.
#include "envs/token_commit/trace_lock.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "core/error.h"
#include "core/files.h"
#include "core/test_support.h"
#include "envs/token_commit/replay.h"
#include "envs/token_commit/rules.h"
#include "envs/token_commit/traced_worlds.h"
#include "trimtab/runtime.h"

namespace trimtab {
namespace {

MaskedPosition word(int32_t position, int32_t token) { return {.position = position, .token = token}; }
MaskedPosition ending(int32_t position, int32_t token) { return {.position = position, .token = token, .ends = true}; }

TEST(commit_targets, weigh_as_tracelock_does) {
  const std::vector<MaskedPosition> shown = {word(4, 1), word(6, 2), ending(7, 9), word(8, 3), ending(9, 9), ending(11, 9), word(12, 4)};
  const std::vector<int32_t> finals = {1, 5, 9, 3, 8, -1, 4};
  const std::vector<CommitTarget> t = commit_targets(shown, finals);
  // Stable words fall from 1 at position 4 to 0.5 at 12; the unstable one has 2; two endings of known stability share 1; nobody knows of the last.
  const float labels[] = {1, 0, 1, 1, 0, 0, 1}, weights[] = {1, 2, 0.5f, 0.75f, 0.5f, 0, 0.5f};
  ASSERT_EQ(t.size(), shown.size());
  for (size_t i = 0; i < t.size(); ++i) {
    EXPECT_FLOAT_EQ(t[i].label, labels[i]) << i;
    EXPECT_FLOAT_EQ(t[i].weight, weights[i]) << i;
  }
  EXPECT_FLOAT_EQ(commit_targets({shown.data(), 1}, {finals.data(), 1})[0].weight, 1);
}

TEST(prefix_of, keeps_a_share_of_the_positions_shown_and_at_least_one) {
  const std::vector<MaskedPosition> masked = {word(4, 1), word(6, 1), word(8, 1), word(10, 1), word(12, 1), word(13, 1)};
  CommitState s;
  s.length = 20, s.window = {2, 16}, s.masked = masked;
  const auto kept = [&](int64_t shown, double share) { return prefix_of(s, shown, share); };
  EXPECT_EQ(kept(5, 0.5).masked.size(), 3u);   // of positions 4 to 12: 4 to 8
  EXPECT_EQ(kept(5, 0.5).window.end, 9);
  EXPECT_EQ(kept(5, 0.5).window.begin, 2);
  EXPECT_EQ(kept(5, 0.01).masked.size(), 1u);
  EXPECT_EQ(kept(5, 1).masked.size(), 5u);
  EXPECT_EQ(kept(6, 1).masked.size(), 6u);
}

TEST(trace_lock_loss, is_the_weighted_cross_entropy_and_its_gradient_that_of_finite_differences) {
  const float logits[] = {0, std::log(3.0f), 7, -std::log(3.0f), 5, 5};
  const uint8_t mask[] = {1, 1, 1, 1, 0, 0};
  const CommitTarget targets[] = {{1, 1}, {0, 2}, {0, 0}, {1, 0.5f}, {}, {}};
  const double weighted = (std::log(2.0) + 2 * std::log(4.0) + 0.5 * std::log(4.0)) / 3.5;
  const double means[] = {(std::log(3.0) + 7) / 3, -std::log(3.0)};
  EXPECT_NEAR(trace_lock_loss(2, 3, logits, mask, targets, nullptr), weighted + 1e-3 * (means[0] * means[0] + means[1] * means[1]) / 2, 1e-6);

  constexpr int64_t kDecisions = 3, kItems = 5;
  Draws d(test_seed(), Stream::kTest, 5);
  std::vector<float> x(kDecisions * kItems), gradient(x.size());
  std::vector<uint8_t> present(x.size());
  std::vector<CommitTarget> t(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = 2 * d.normal(), present[i] = i % kItems == 0 || d.below(3) > 0;
    if (present[i]) t[i] = {static_cast<float>(d.below(2)), d.below(4) == 0 ? 0 : d.uniform(0.5f, 2)};
  }
  trace_lock_loss(kDecisions, kItems, x.data(), present.data(), t.data(), gradient.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const float kept = x[i];
    double loss[2];
    for (const int side : {0, 1}) {
      x[i] = kept + (side ? 1e-2f : -1e-2f);
      loss[side] = trace_lock_loss(kDecisions, kItems, x.data(), present.data(), t.data(), nullptr);
    }
    const double step = (kept + 1e-2f) - (kept - 1e-2f);
    x[i] = kept;
    EXPECT_NEAR(gradient[i], (loss[1] - loss[0]) / step, 1e-4) << i;
  }
}

TEST(commit_scores, are_f05_of_precision_and_recall) {
  const CommitScores s = commit_scores(6, 8, 12);   // precision 3/4, recall 1/2
  EXPECT_DOUBLE_EQ(s.precision, 0.75);
  EXPECT_DOUBLE_EQ(s.recall, 0.5);
  EXPECT_NEAR(s.f05, 1.25 * 0.75 * 0.5 / (0.25 * 0.75 + 0.5), 1e-12);
  EXPECT_EQ(commit_scores(0, 0, 4).f05, 0);
}

struct Traces {
  TemporaryFolder folder;
  CommitTraceReader train, validation;
  explicit Traces(const TracedWorld& world = {}, int64_t answers = 150)
      : train({write_world(folder.path() / "t.safetensors", world, answers, test_seed(), {.hidden = world.hidden > 0})}),
        validation({write_world(folder.path() / "v.safetensors", world, answers / 2, test_seed() + 1000, {.hidden = world.hidden > 0})}) {}
};
const TraceLockOptions kQuick = {.view = {.items = 24}, .epochs = 12, .batch = 32, .learning_rate = 3e-3, .threshold = 0.8};

// Stable is what is certain and either held or next to a token: confidence alone says little.
TEST(fit_trace_lock, beats_every_threshold_on_confidence) {
  const Traces traces;
  double best = 0, seen = 0;
  for (int percent = 0; percent <= 100; ++percent)
    best = std::max(best, replay(*make_commit_rule(fmt::format("threshold_{}", percent)), traces.validation).scores.f05);
  TraceLockOptions options = kQuick;
  options.seed = test_seed();
  std::vector<TraceLockEpoch> epochs;
  const auto note = [&](const TraceLockEpoch& e) { epochs.push_back(e); };
  const auto lock = std::make_shared<const TraceLock>(fit_trace_lock(traces.train, traces.validation, options, note));
  const ReplayFigures fitted = replay(*make_trace_lock_control(lock, options.threshold), traces.validation);
  RecordProperty("f05", fmt::format("{:.3f}, of the best threshold {:.3f}", fitted.scores.f05, best));
  EXPECT_GT(fitted.scores.f05, best + 0.1);
  EXPECT_GT(fitted.scores.precision, 0.85);
  for (const TraceLockEpoch& e : epochs) seen = std::max(seen, e.scores.f05);
  ASSERT_FALSE(epochs.empty());
  EXPECT_LT(epochs.back().train, epochs.front().train);
  EXPECT_NEAR(fitted.scores.f05, seen, 0.02);   // the best checkpoint; replay commits the likeliest where nothing reaches the threshold
}

// Some tokens are always right and others never, and nothing else says so.
TEST(fit_trace_lock, learns_from_codes_what_confidence_does_not_say) {
  TracedWorld world;
  world.stable = [draws = std::make_shared<Draws>(test_seed(), Stream::kTest)](const MaskedPosition&, bool) { return draws->below(2) == 0; };
  world.confidence = [](bool, Draws& d) { return d.uniform(0.3f, 1.0f); };
  const Traces traces(world);
  const auto best_f05 = [&](int64_t codes) {
    TraceLockOptions options = kQuick;
    options.view.codes = codes;
    double best = 0;
    fit_trace_lock(traces.train, traces.validation, options, [&](const TraceLockEpoch& e) { best = std::max(best, e.scores.f05); });
    return best;
  };
  EXPECT_GT(best_f05(8), 0.9);
  EXPECT_LT(best_f05(0), 0.8);
}

TEST(fit_trace_lock, equal_options_give_equal_controllers_and_other_seeds_others) {
  const Traces traces({}, 20);
  const auto fitted = [&](uint64_t seed) {
    TraceLockOptions options = kQuick;
    options.seed = seed, options.epochs = 2;
    const TraceLock lock = fit_trace_lock(traces.train, traces.validation, options);
    return std::vector<float>(lock.policy->parameters().begin(), lock.policy->parameters().end());
  };
  EXPECT_EQ(fitted(1), fitted(1));
  EXPECT_NE(fitted(1), fitted(2));
}

// Validated where the opposite is stable: what is learned makes it worse.
TEST(fit_trace_lock, slows_down_and_ends_where_nothing_gets_better) {
  const TracedWorld certain = {.stable = [](const MaskedPosition& m, bool) { return m.entropy < 1; }};
  const TracedWorld doubtful = {.stable = [](const MaskedPosition& m, bool) { return m.entropy > 1; }};
  const Traces learned(certain, 20), opposite(doubtful, 20);
  TraceLockOptions options = kQuick;
  options.epochs = 100, options.plateau = 2, options.patience = 5, options.threshold = 0.5;
  std::vector<TraceLockEpoch> epochs;
  fit_trace_lock(learned.train, opposite.validation, options, [&](const TraceLockEpoch& e) { epochs.push_back(e); });
  ASSERT_LT(epochs.size(), 100u);
  ASSERT_GE(epochs.size(), 6u);
  for (size_t i = epochs.size() - 5; i < epochs.size(); ++i) EXPECT_FALSE(epochs[i].best) << i;
  EXPECT_TRUE(epochs[epochs.size() - 6].best);
  EXPECT_DOUBLE_EQ(epochs.back().learning_rate, epochs[epochs.size() - 6].learning_rate / 4);   // after 2 epochs, and after 4
}

TEST(fit_trace_lock, refuses_what_cannot_be) {
  const Traces plain({}, 4), hidden({.hidden = 3}, 4);
  const auto fit = [](const Traces& train, const Traces& validation, TraceLockOptions o) { return fit_trace_lock(train.train, validation.validation, o); };
  EXPECT_THROW(fit(plain, hidden, kQuick), DataError);
  EXPECT_THROW(fit(plain, plain, {.view = {.projected = 2}}), DataError);
  EXPECT_THROW(fit(plain, plain, {.hidden = {16}}), ConfigError);   // attention needs two layers
  EXPECT_THROW(fit(plain, plain, {.hidden = {}}), ConfigError);
  EXPECT_THROW(fit(plain, plain, {.view = {.items = 0}}), ConfigError);
  EXPECT_THROW(fit(plain, plain, {.learning_rate = 0}), ConfigError);
  EXPECT_THROW(fit(plain, plain, {.threshold = 1.5}), ConfigError);
}

TEST(trace_lock_control, commits_the_likeliest_that_does_not_wait_where_nothing_reaches_the_threshold) {
  const Traces traces({}, 10);
  TraceLockOptions options = kQuick;
  options.epochs = 1, options.view.items = 4;   // fewer than the window has
  const auto lock = std::make_shared<const TraceLock>(fit_trace_lock(traces.train, traces.validation, options));
  const auto none = make_trace_lock_control(lock, 1), all = make_trace_lock_control(lock, 0);
  TracedPass p;
  std::vector<int32_t> picks;
  for (int64_t i = 0; i < traces.validation.passes(); ++i) {
    traces.validation.look(i, p);
    none->choose(p.state, picks);
    ASSERT_EQ(picks.size(), 1u);
    EXPECT_FALSE(p.state.masked[picks[0]].waits);
    all->choose(p.state, picks);
    EXPECT_EQ(picks.size(), std::min<size_t>(4, p.state.masked.size()));
  }
}

// What the runtime answers is what was fitted.
TEST(export_trace_lock, is_read_back_by_the_runtime) {
  const Traces traces({.hidden = 5}, 12);
  TraceLockOptions options = kQuick;
  options.epochs = 1, options.view = {.items = 6, .projected = 2, .codes = 3, .places = 1, .committed = 2};
  const TraceLock lock = fit_trace_lock(traces.train, traces.validation, options);
  const auto file = traces.folder.path() / "c.ttc.safetensors", header = traces.folder.path() / "c.h";
  export_trace_lock(file, header, lock, "abc");
  EXPECT_NE(read_file(header).find("commit_decide"), std::string::npos);

  char why[256] = "";
  tt_controller* controller = nullptr;
  ASSERT_EQ(tt_open(file.c_str(), nullptr, &controller, why, sizeof why), TT_OK) << why;
  EXPECT_STREQ(tt_get_text(controller, "environment"), "token_commit");
  EXPECT_STREQ(tt_get_text(controller, "config"), "type: token_commit\nitems: 6\nprojected: 2\ncodes: 3\nplaces: 1\ncommitted: 2\nthreshold: 0.8\n");
  const int agent = tt_find_agent(controller, "commit");
  ASSERT_GE(agent, 0);
  const CommitView view(lock.view);
  const auto workspace = lock.policy->workspace(1);
  std::vector<float> context(view.spec().context_size()), items(view.spec().max_items * view.spec().item_size()), expected(view.spec().max_items), answer(expected.size());
  std::vector<uint8_t> mask(expected.size());
  int64_t committed = 0;
  TracedPass p;
  for (int64_t i = 0; i < std::min<int64_t>(40, traces.validation.passes()); ++i) {
    traces.validation.look(i, p);
    view.show(p.state, {context.data(), items.data(), mask.data()});
    lock.policy->mode({.size = 1, .context = context.data(), .items = items.data(), .mask = mask.data()}, expected.data(), *workspace);
    ASSERT_EQ(tt_decide(controller, agent, context.data(), items.data(), mask.data(), view.spec().max_items, answer.data()), TT_OK);
    committed += std::count(mask.begin(), mask.end(), kSeen);
    for (size_t k = 0; k < answer.size(); ++k) EXPECT_NEAR(answer[k], expected[k], 1e-5) << i << " " << k;   // those absent or only seen are 0
  }
  EXPECT_GT(committed, 0);
  tt_close(controller);
}

}  // namespace
}  // namespace trimtab
