// One suite over every registered environment: what trainers and evaluations rely on.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "tests/training_support.h"

namespace trimtab {
namespace {

constexpr int64_t kInstances = 5;
constexpr int kSteps = 40;

// What an environment needs to be made here. One not listed is made with no keys and no files.
struct Setting {
  std::string yaml;
  std::vector<std::string> files;
};
Setting setting_of(const std::string& name) {
  if (name == "cartpole" || name == "pendulum") return {"{type: " + name + ", time_limit: 25}", {}};
  if (name == "prb_power")
    return {"{type: prb_power, episode_slots: 30}", {TRIMTAB_SOURCE_DIR "/data/traces/umi-train.h5"}};
  if (name == "kv_precision")
    return {"{type: kv_precision, low_bits: 3.2}", {TRIMTAB_SOURCE_DIR "/data/kv/layers-train.safetensors"}};
  if (name == "draft_length") return {"{type: draft_length, mode: synthetic, synthetic: {length: 24}}", {}};
  if (name == "draft_tree") return {"{type: draft_tree, mode: synthetic, synthetic: {texts: 4, length: 24}}", {}};
  if (name == "draft_serving") return {"{type: draft_serving, mode: synthetic, synthetic: {length: 12}, requests: 6, max_batch: 3, low_rate: 20, high_rate: 80}", {}};
  if (name == "token_commit") return {"{type: token_commit, mode: synthetic, length: 12, items: 8, window: block, block: 6}", {}};
  return {"{type: " + name + "}", {}};
}

struct Step {
  std::vector<float> views, reward, terms, finals;
  std::vector<uint8_t> terminated, truncated;
  bool operator==(const Step&) const = default;
};

// An environment driven by actions that depend on the step and instance alone.
class Driver {
 public:
  explicit Driver(const std::string& name) {
    const Setting setting = setting_of(name);
    const Config config = Config::parse("env: " + setting.yaml, name).at("env");
    env_ = Registry<EnvironmentEntry>::instance()
               .get(name, "environment")
               .make(config, {.files = setting.files}, kInstances);
  }
  BatchEnvironment& env() { return *env_; }
  void reset(uint64_t seed, uint64_t first = 0, uint64_t stride = kInstances, bool same = false) {
    std::vector<WorldKey> keys;
    for (uint64_t i = 0; i < kInstances; ++i) keys.push_back({seed, first + (same ? 0 : i)});
    env_->reset(keys, stride);
  }
  Step step(int t, bool same_actions = false) {
    const EnvSpec& spec = env_->spec();
    Step out;
    View critic(spec.critic);
    env_->observe_critic(critic.rows());
    critic.append(out.views);
    for (size_t a = 0; a < spec.agents.size(); ++a) {
      View view(spec.agents[a].observation);
      env_->observe(static_cast<int>(a), view.rows());
      view.append(out.views);
      env_->act(static_cast<int>(a), actions(spec.agents[a], view, t, same_actions).data());
    }
    View ended(spec.critic, kUntouched);
    out.reward.resize(kInstances);
    out.terms.resize(kInstances * spec.reward_terms.size());
    out.terminated.resize(kInstances);
    out.truncated.resize(kInstances);
    env_->step(
        {out.reward.data(), out.terms.data(), out.terminated.data(), out.truncated.data(), ended.rows()});
    ended.append(out.finals);
    return out;
  }
  static constexpr float kUntouched = -12345.0f;

 private:
  struct View {
    explicit View(const ObservationSpec& s, float fill = 0)
        : context(kInstances * s.context_size(), fill),
          items(kInstances * s.max_items * s.item_size(), fill),
          mask(kInstances * s.max_items) {}
    std::vector<float> context, items;
    std::vector<uint8_t> mask;
    ObservationRows rows() { return {context.data(), items.data(), mask.data()}; }
    void append(std::vector<float>& to) const {
      to.insert(to.end(), context.begin(), context.end());
      to.insert(to.end(), items.begin(), items.end());
      to.insert(to.end(), mask.begin(), mask.end());
    }
  };
  std::vector<float> actions(const AgentSpec& agent, const View& view, int t, bool same) const {
    const int width = agent.head.width();
    std::vector<float> out(kInstances * width, 0.0f);
    for (int64_t i = 0; i < kInstances; ++i) {
      Draws draws(11, Stream::kTest, static_cast<uint32_t>(t), same ? 0 : static_cast<uint32_t>(i));
      float* action = out.data() + i * width;
      if (agent.head.kind == HeadKind::kCategorical)
        action[0] = static_cast<float>(draws.below(agent.head.size));
      if (agent.head.kind == HeadKind::kChoice) {
        int32_t left = static_cast<int32_t>(draws.below(agent.head.size));   // the left-th present item, round and round
        const uint8_t* mask = view.mask.data() + i * agent.head.size;
        const bool any = std::count(mask, mask + agent.head.size, 1) > 0;
        for (int k = 0; any && left >= 0; k = (k + 1) % agent.head.size)
          if (mask[k] && left-- == 0) action[0] = static_cast<float>(k);
      }
      if (agent.head.kind == HeadKind::kSubset) {
        for (int k = 0; k < width; ++k) action[k] = view.mask[i * width + k] && draws.uniform() < 0.4f ? 1.0f : 0.0f;
      }
      if (agent.head.kind == HeadKind::kGaussian) {
        for (int k = 0; k < width; ++k) action[k] = draws.uniform(agent.head.low, agent.head.high);
      }
      if (agent.head.kind == HeadKind::kSimplex) {
        float sum = 0;
        for (int k = 0; k < width; ++k)
          sum += action[k] = view.mask[i * width + k] ? draws.exponential() : 0.0f;
        for (int k = 0; k < width; ++k) action[k] = sum > 0 ? action[k] / sum : 0.0f;
      }
    }
    return out;
  }
  std::unique_ptr<BatchEnvironment> env_;
};

std::vector<Step> steps_of(Driver& driver, int count, int first = 0) {
  std::vector<Step> out;
  for (int t = first; t < first + count; ++t) out.push_back(driver.step(t));
  return out;
}

bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

class EveryEnvironment : public testing::TestWithParam<std::string> {};

TEST_P(EveryEnvironment, SpecIsWhole) {
  Driver driver(GetParam());
  const EnvSpec& spec = driver.env().spec();
  EXPECT_EQ(driver.env().size(), kInstances);
  EXPECT_FALSE(spec.agents.empty());
  EXPECT_FALSE(spec.reward_terms.empty());
  for (const AgentSpec& agent : spec.agents) {
    EXPECT_FALSE(agent.name.empty());
    EXPECT_GT(agent.head.size, 0);
    EXPECT_GT(agent.observation.context_size() + agent.observation.item_size(), 0);
    for (const auto& features : {agent.observation.context, agent.observation.item}) {
      for (const Feature& f : features) EXPECT_LT(f.low, f.high) << f.name;
    }
    if (agent.head.kind == HeadKind::kSimplex) {
      EXPECT_EQ(agent.head.size, agent.observation.max_items);
    }
  }
}

TEST_P(EveryEnvironment, NumbersAreFiniteAndTermsAddUp) {
  Driver driver(GetParam());
  driver.reset(1);
  const size_t num_terms = driver.env().spec().reward_terms.size();
  for (const Step& s : steps_of(driver, kSteps)) {
    EXPECT_TRUE(all_finite(s.views));
    EXPECT_TRUE(all_finite(s.terms));
    for (int64_t i = 0; i < kInstances; ++i) {
      const float sum =
          std::accumulate(s.terms.begin() + i * num_terms, s.terms.begin() + (i + 1) * num_terms, 0.0f);
      EXPECT_NEAR(s.reward[i], sum, 1e-5 * (1 + std::abs(sum)));
      EXPECT_FALSE(s.terminated[i] && s.truncated[i]);
    }
  }
}

TEST_P(EveryEnvironment, SameKeySameTrajectoryOtherKeyAnother) {
  Driver a(GetParam()), b(GetParam()), c(GetParam());
  a.reset(1);
  b.reset(1);
  c.reset(2);
  const std::vector<Step> first = steps_of(a, kSteps);
  EXPECT_TRUE(first == steps_of(b, kSteps));
  EXPECT_FALSE(first == steps_of(c, kSteps));
  a.reset(1);  // nothing is left over from before
  EXPECT_TRUE(first == steps_of(a, kSteps));
}

// What happens in a world does not depend on the place in the batch.
TEST_P(EveryEnvironment, MembersOfAGroupMeetTheSameWorld) {
  Driver driver(GetParam());
  driver.reset(3, 9, 1, true);
  for (int t = 0; t < kSteps; ++t) {
    const Step s = driver.step(t, true);
    for (int64_t i = 1; i < kInstances; ++i) EXPECT_EQ(s.reward[i], s.reward[0]) << "step " << t;
  }
}

TEST_P(EveryEnvironment, SavedAndRestoredGoesOnBitEqual) {
  Driver a(GetParam()), b(GetParam());
  a.reset(5);
  steps_of(a, kSteps / 2);
  Archive saved = Archive::writer();
  a.env().serialise(saved);
  const std::vector<Step> expected = steps_of(a, kSteps, kSteps / 2);
  b.reset(77);
  steps_of(b, 3);
  Archive loaded = Archive::reader(saved.bytes());
  b.env().serialise(loaded);
  EXPECT_TRUE(loaded.at_end());
  EXPECT_TRUE(expected == steps_of(b, kSteps, kSteps / 2));
}

TEST_P(EveryEnvironment, CutOffStateIsRefused) {
  Driver a(GetParam());
  a.reset(5);
  Archive saved = Archive::writer();
  a.env().serialise(saved);
  Archive cut = Archive::reader(saved.bytes().substr(0, saved.bytes().size() / 2));
  EXPECT_THROW(a.env().serialise(cut), CheckpointError);
}

TEST_P(EveryEnvironment, EndsComeWithTheFinalViewAndStatistics) {
  Driver driver(GetParam());
  driver.reset(4);
  driver.env().take_statistics();
  constexpr int64_t kLongest = 3000;
  const bool limited = driver.env().spec().time_limit > 0;   // else episodes end by themselves
  const int64_t limit = limited ? driver.env().spec().time_limit : kLongest;
  const int64_t critic_width = driver.env().spec().critic.context_size();
  std::vector<int64_t> length(kInstances, 0);
  int64_t ends = 0;
  for (int64_t t = 0; t < std::min(limit + 1, kLongest); ++t) {
    const Step s = driver.step(static_cast<int>(t));
    for (int64_t i = 0; i < kInstances; ++i) {
      ++length[i];
      EXPECT_LE(length[i], limit);
      EXPECT_EQ(s.truncated[i] != 0, limited && length[i] == limit && !s.terminated[i]);
      const bool written = critic_width == 0 || s.finals[i * critic_width] != Driver::kUntouched;
      if (!(s.terminated[i] | s.truncated[i])) {
        EXPECT_TRUE(critic_width == 0 || !written) << "rows of episodes that go on stay untouched";
        continue;
      }
      EXPECT_TRUE(written);
      length[i] = 0;
      ++ends;
    }
  }
  if (limit > kLongest) GTEST_SKIP() << "episodes of " << GetParam() << " are longer than this test";
  ASSERT_GT(ends, 0);
  int64_t counted = 0;
  for (const auto& s : driver.env().take_statistics()) {
    EXPECT_TRUE(std::isfinite(s.sum)) << s.name;
    if (s.name == "return") counted = s.count;
  }
  EXPECT_EQ(counted, ends);
  EXPECT_TRUE(driver.env().take_statistics().empty());
}

TEST_P(EveryEnvironment, HelpAndResolvedConfigAgree) {
  const EnvironmentEntry& entry = Registry<EnvironmentEntry>::instance().get(GetParam(), "environment");
  EXPECT_FALSE(entry.doc.empty());
  const std::string yaml = setting_of(GetParam()).yaml;
  const std::string resolved = entry.resolved(Config::parse("env: " + yaml, "x").at("env"));
  EXPECT_EQ(resolved, entry.resolved(Config::parse(resolved.empty() ? "{}" : resolved, "resolved")));
  EXPECT_THROW(entry.resolved(Config::parse("env: {type: x, no_such_key: 1}", "x").at("env")), ConfigError);
}

std::string plain(const testing::TestParamInfo<std::string>& info) { return info.param; }
INSTANTIATE_TEST_SUITE_P(Registered, EveryEnvironment,
                         testing::ValuesIn(Registry<EnvironmentEntry>::instance().names()), plain);

// The adaptor's own environments: a toy per kind of head.
TEST(LightBatch, RestoresMidEpisode) {
  LightBatch<Chain> a(std::make_shared<const Chain>(), 2), b(std::make_shared<const Chain>(), 2),
      other(std::make_shared<const Chain>(), 3);
  const std::vector<WorldKey> keys = {{1, 0}, {1, 1}};
  a.reset(keys, 2);
  const std::vector<float> right = {1, 1};
  std::vector<float> reward(2), terms(2), seen(2 * Chain::kStates), again(2 * Chain::kStates);
  std::vector<uint8_t> terminated(2), truncated(2);
  for (int t = 0; t < 3; ++t) {
    a.act(0, right.data());
    a.step({reward.data(), terms.data(), terminated.data(), truncated.data(), {}});
  }
  Archive saved = Archive::writer();
  a.serialise(saved);
  Archive loaded = Archive::reader(saved.bytes());
  b.serialise(loaded);
  a.observe(0, {seen.data(), nullptr, nullptr});
  b.observe(0, {again.data(), nullptr, nullptr});
  EXPECT_EQ(seen, again);
  EXPECT_EQ(seen[3], 1.0f);
  Archive wrong = Archive::reader(saved.bytes());
  EXPECT_THROW(other.serialise(wrong), CheckpointError);
}

}  // namespace
}  // namespace trimtab
