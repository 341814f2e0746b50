// The learner where rows can be looked at: what a rollout stores, and that stepping and fitting do not
// allocate.
#include "trainers/policy_gradient/learner.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>

#include "envs/classic/classic.h"

namespace {
std::atomic<int64_t> allocations = 0;
}

[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
// Not inlined: the compiler would take free() on what a library allocated for a mistake.
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace trimtab {
namespace {

TrainerOptions small(int64_t horizon) {
  TrainerOptions t;
  t.num_envs = 6;
  t.horizon = horizon;
  t.minibatch_size = 32;
  t.epochs = 2;
  return t;
}

Rollout::MakeEnvironment cartpole(int64_t time_limit = 500) {
  return [time_limit](int64_t size) -> std::unique_ptr<BatchEnvironment> {
    return make_cartpole({time_limit}, size);
  };
}

Learner::Setup setup(uint64_t seed, int threads) {
  return {.seed = seed,
          .threads = threads,
          .controller_options = [](const std::string&) { return ControllerOptions{}; },
          .dump_stem = "unused"};
}

int64_t allocations_of_update(int64_t horizon) {
  Learner learner(setup(3, 1));
  learner.begin_phase(
      {.options = small(horizon), .learn = {}, .make_environment = cartpole(1000000), .first_episode = 0});
  learner.update(0);  // the first one may size what is kept
  const int64_t before = allocations;
  learner.update(0);
  return allocations - before;
}

TEST(Learner, LongerRolloutsDoNotAllocateMore) {
  const int64_t few = allocations_of_update(64), many = allocations_of_update(1024);
  EXPECT_EQ(few, many);
}

TEST(Learner, SeveralLearnersOfOneSeedAgree) {
  Learner a(setup(5, 1)), b(setup(5, 2));
  for (Learner* learner : {&a, &b}) {
    learner->begin_phase(
        {.options = small(40), .learn = {}, .make_environment = cartpole(), .first_episode = 0});
    learner->warm_up();
    learner->update(0);
  }
  const auto left = a.policy("cart").parameters(), right = b.policy("cart").parameters();
  EXPECT_TRUE(std::equal(left.begin(), left.end(), right.begin(), right.end()));
}

// A rollout's rows: truncated episodes have their final view, and the values of rows are those of the states
// seen.
TEST(Rollout, StoresFinalViewsOfTruncatedEpisodes) {
  TrainerOptions t = small(50);
  Pool pool(1);
  Rollout rollout(cartpole(7), {.trainer = t, .seed = 1, .first_episode = 0});
  ControllerOptions options;
  options.normalise_observations = false;
  const auto policy = Controller::policy(rollout.spec().agents[0], options, 1);
  rollout.set_actors(std::vector<Actor>{{policy.get(), true}});
  rollout.collect(0, pool);
  int64_t truncations = 0;
  for (const uint8_t x : rollout.truncated) truncations += x;
  EXPECT_EQ(truncations, 6 * (50 / 7));
  ASSERT_EQ(static_cast<int64_t>(rollout.finals.size()), truncations);
  for (const Rollout::Final& f : rollout.finals) {
    EXPECT_TRUE(rollout.truncated[f.row]);
    // One step moves the cart by 0.02 s times its velocity.
    const float* before = rollout.critic.batch(f.row, 1).context;
    const float* after = rollout.final_critic.batch(f.place, 1).context;
    EXPECT_NEAR(after[0], before[0] + 0.02f * before[1], 1e-6);
    EXPECT_NEAR(after[2], before[2] + 0.02f * before[3], 1e-6);
  }
}

TEST(Rollout, StoredLogProbabilitiesAreThoseOfTheStoredActions) {
  Pool pool(2);
  Rollout rollout(cartpole(), {.trainer = small(30), .seed = 1, .first_episode = 0});
  const auto policy = Controller::policy(rollout.spec().agents[0], {}, 1);
  rollout.set_actors(std::vector<Actor>{{policy.get(), true}});
  rollout.collect(4, pool);
  const AgentRows& rows = rollout.agents[0];
  const auto workspace = policy->workspace(rollout.rows());
  std::vector<float> logp(rollout.rows()), entropy(rollout.rows());
  policy->evaluate(rows.observation.batch(0, rollout.rows()), rows.raw.data(), logp.data(), entropy.data(),
                   *workspace);
  for (int64_t r = 0; r < rollout.rows(); ++r) EXPECT_NEAR(logp[r], rows.logp[r], 1e-5);
}

TrainerOptions grouped(int64_t worlds) {
  TrainerOptions t;
  t.critic = "none";
  t.advantage = "group_mean";
  t.normalise_advantage = "none";
  t.group_score = "return";
  t.group_size = 2;
  t.num_envs = 8;
  t.horizon = 5;
  t.worlds = worlds;
  return t;
}

// Four groups, six worlds: update 0 has worlds 0 to 3, update 1 has 4, 5, 0 and 1, update 3 those of update
// 0.
TEST(Rollout, WorldsComeBack) {
  Pool pool(1);
  Rollout rollout(cartpole(), {.trainer = grouped(6), .seed = 1, .first_episode = 100});
  EXPECT_EQ(rollout.world(0, 3), 103u);
  EXPECT_EQ(rollout.world(1, 1), 105u);
  EXPECT_EQ(rollout.world(1, 2), 100u);
  const auto policy = Controller::policy(rollout.spec().agents[0], {}, 1);
  rollout.set_actors(std::vector<Actor>{{policy.get(), true}});
  const auto starts = [&](uint32_t update) {
    rollout.collect(update, pool);
    std::vector<std::vector<float>> out(8);  // first view of every instance
    for (int64_t s = 0; s < rollout.num_shards(); ++s) {
      for (int64_t i = 0; i < rollout.count(s); ++i) {
        const float* view = rollout.agents[0].observation.batch(rollout.base(s) + i, 1).context;
        out[rollout.first(s) + i].assign(view, view + 4);
      }
    }
    return out;
  };
  const auto first = starts(0), second = starts(1), third = starts(3);
  EXPECT_EQ(first, third);
  EXPECT_EQ(first[0], first[1]);   // a group's
  EXPECT_EQ(first[0], second[4]);  // world 100
  EXPECT_EQ(first[2], second[6]);
  EXPECT_NE(first[4], second[0]);
  Rollout fresh(cartpole(), {.trainer = grouped(0), .seed = 1, .first_episode = 100});
  EXPECT_EQ(fresh.world(3, 1), 113u);
}

// Episodes of one step: their ratio is that of the step, whichever way the loss is made.
TEST(Learner, RatiosOfEpisodesOfOneStepAreThoseOfSteps) {
  std::vector<std::vector<float>> parameters;
  for (const char* ratio : {"token", "sequence", "sequence_token"}) {
    TrainerOptions t = grouped(0);
    t.advantage = "none";  // every step pays 1, so a group would have nothing to compare
    t.horizon = 1;
    t.num_envs = 600;  // several chunks and parts
    t.epochs = 3;
    t.minibatches = 2;
    t.ratio = ratio;
    Learner learner(setup(3, 2));
    learner.begin_phase({.options = t, .learn = {}, .make_environment = cartpole(), .first_episode = 0});
    learner.update(0);
    const auto values = learner.policy("cart").parameters();
    parameters.emplace_back(values.begin(), values.end());
  }
  EXPECT_EQ(parameters[0], parameters[1]);
  EXPECT_EQ(parameters[0], parameters[2]);
}

}  // namespace
}  // namespace trimtab
