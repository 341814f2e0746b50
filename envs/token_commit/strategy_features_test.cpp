// examples/commit_strategy: its features are CommitView's, its answers the policy's, what it cannot serve is refused, and its demo runs as printed.
#include "envs/token_commit/features.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/random.h"
#include "core/test_support.h"
#include "envs/token_commit/strategy_python.h"
#include "policies/controllers/export.h"
#include "trimtab/runtime.h"

namespace trimtab {
namespace {

constexpr int64_t kLength = 12, kItems = 7, kVocab = 9;
constexpr int32_t kMask = 3;
const std::vector<int32_t> kEndings = {0, 5};

ControllerOptions random_controller() {
  ControllerOptions o;
  o.hidden = {16, 24}, o.attention = 4, o.residual = "sureness", o.last_layer_gain = 1;
  return o;
}

// What the options describe, untrained, as an artefact.
std::unique_ptr<Controller> write_artefact(const std::filesystem::path& file, const AgentSpec& agent, const ControllerOptions& options) {
  auto policy = Controller::policy(agent, options, test_seed());
  ExportInfo info;
  info.environment = "token_commit", info.config = "type: token_commit\nthreshold: 0.6\nmost: 3\n";
  export_artefact(file, {{.spec = agent, .policy = policy.get(), .meaning = "commit", .fallback = {}}}, info);
  return policy;
}
AgentSpec commit_agent(const CommitViewOptions& view, HeadKind kind = HeadKind::kSubset) {
  return {"commit", CommitView(view).spec(), {.kind = kind, .size = static_cast<int>(view.items), .picks = 2}};
}

// An answer whose logits are random and whose commits are, too: endings may stand right of masks.
class RandomAnswer {
 public:
  RandomAnswer(uint32_t index, int64_t planned) : draws_(test_seed(), Stream::kTest, index, 311), logits_(kLength * kVocab, 0.0f), tokens_(kLength, -1) {
    state_.length = kLength, state_.window = {0, kLength}, state_.window_masks = kLength, state_.window_passes = planned;
  }
  const CommitState* pass() {   // null: over
    for (float& x : logits_) x = 0.8f * x + 1.5f * draws_.normal();
    std::map<int32_t, MaskedPosition> last;
    for (const MaskedPosition& m : masked_) last[m.position] = m;
    masked_.clear();
    for (int32_t p = 0; p < kLength; ++p)
      if (tokens_[p] < 0) masked_.push_back(proposal(p, last.contains(p) ? &last[p] : nullptr));
    state_.tokens = tokens_, state_.masked = masked_;
    return masked_.empty() ? nullptr : &state_;
  }
  std::vector<int32_t> commit() {
    std::vector<int32_t> picks;
    for (int32_t i = 0; i < std::ssize(masked_); ++i)
      if (draws_.below(5) == 0) picks.push_back(i);
    for (const int32_t i : picks) tokens_[masked_[i].position] = masked_[i].token, state_.ended |= masked_[i].ends;
    ++state_.pass, ++state_.window_pass;
    return picks;
  }
  std::vector<std::vector<float>> logits() const {
    std::vector<std::vector<float>> out;
    for (int64_t p = 0; p < kLength; ++p) out.emplace_back(logits_.begin() + p * kVocab, logits_.begin() + (p + 1) * kVocab);
    return out;
  }

 private:
  MaskedPosition proposal(int32_t p, const MaskedPosition* last) {
    std::vector<double> q(logits_.begin() + p * kVocab, logits_.begin() + (p + 1) * kVocab);
    double sum = 0;
    for (int32_t j = 0; j < kVocab; ++j) q[j] = j == kMask ? 0 : std::exp(q[j]), sum += q[j];
    for (double& x : q) x /= sum;
    MaskedPosition m;
    m.position = p, m.token = static_cast<int32_t>(std::max_element(q.begin(), q.end()) - q.begin());
    double entropy = 0, drift = 0, other = 0;
    for (int32_t j = 0; j < kVocab; ++j) {
      if (j == kMask) continue;
      entropy -= q[j] * std::log(q[j]);
      if (last) drift += q[j] * std::log(q[j] / before_[p][j]);
      if (j != m.token) other = std::max(other, q[j]);
    }
    m.confidence = static_cast<float>(q[m.token]), m.margin = static_cast<float>(q[m.token] - other), m.entropy = static_cast<float>(entropy);
    m.drift = static_cast<float>(drift), m.held = last && last->token == m.token ? last->held + 1 : 0;
    m.ends = std::find(kEndings.begin(), kEndings.end(), m.token) != kEndings.end();
    before_[p] = q;
    return m;
  }

  Draws draws_;
  std::vector<float> logits_;
  std::vector<int32_t> tokens_;
  std::vector<MaskedPosition> masked_;
  std::map<int32_t, std::vector<double>> before_;
  CommitState state_;
};

class CommitStrategy : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_strategy(); !why.empty()) GTEST_SKIP() << why;
  }
  std::string file(const std::string& name) const { return (folder_.path() / name).string(); }
  TemporaryFolder folder_;
};

// ---- features and answers ----

constexpr const char* kObserve = R"(
from trimtab_commit import Answer, CommitController
controller = CommitController(case["artefact"])
answers = []
for given in case["answers"]:
    answer = Answer([-1] * case["length"], case["endings"], given["planned"])
    passes = []
    for p in given["passes"]:
        answer.look(p["logits"], case["mask"])
        context, items = controller.observe(answer)
        passes.append({"context": context, "items": items, "probabilities": controller.probabilities(answer)})
        answer.tokens = p["tokens"]   # as they are after the pass
        answer.ending = p["ending"]
        answer.passes += 1
    answers.append(passes)
print(json.dumps({"answers": answers, "threshold": controller.threshold, "most": controller.most}))
)";

struct Expected {
  std::vector<float> context, items, probabilities;   // of the items shown
};

Expected expect_of(const CommitView& view, const Controller& policy, const CommitState& s) {
  Expected e;
  e.context.resize(view.spec().context_size()), e.items.resize(kItems * view.spec().item_size()), e.probabilities.resize(kItems);
  std::vector<uint8_t> mask(kItems);
  view.show(s, {e.context.data(), e.items.data(), mask.data()});
  policy.mode({.size = 1, .context = e.context.data(), .items = e.items.data(), .mask = mask.data()}, e.probabilities.data(), *policy.workspace(1));
  e.items.resize(view.shown(s) * view.spec().item_size()), e.probabilities.resize(view.shown(s));
  return e;
}

void expect_near(const nlohmann::json& numbers, const std::vector<float>& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(numbers.size(), expected.size()) << what;
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(numbers[i].get<double>(), expected[i], tolerance * (1 + std::abs(expected[i]))) << what << " " << i;
}

TEST_F(CommitStrategy, SeesWhatCommitViewShowsAndAnswersAsThePolicy) {
  const CommitView view({.items = kItems});
  const auto policy = write_artefact(file("c.ttc.safetensors"), commit_agent({.items = kItems}), random_controller());
  nlohmann::json input = {{"artefact", file("c.ttc.safetensors")}, {"length", kLength}, {"endings", kEndings}, {"mask", kMask}};
  std::vector<std::vector<Expected>> expected;
  for (uint32_t index = 0; index < 20; ++index) {
    const int64_t planned = index % 2 * 5;
    RandomAnswer answer(index, planned);
    nlohmann::json passes = nlohmann::json::array();
    expected.emplace_back();
    while (const CommitState* s = answer.pass()) {
      expected.back().push_back(expect_of(view, *policy, *s));
      const auto logits = answer.logits();
      answer.commit();
      const auto ending = std::find_first_of(s->tokens.begin(), s->tokens.end(), kEndings.begin(), kEndings.end());
      passes.push_back({{"logits", logits}, {"tokens", std::vector<int32_t>(s->tokens.begin(), s->tokens.end())},
                        {"ending", ending == s->tokens.end() ? -1 : ending - s->tokens.begin()}});
    }
    input["answers"].push_back({{"planned", planned}, {"passes", passes}});
  }
  const nlohmann::json seen = run_strategy(folder_.path(), kObserve, input);
  EXPECT_NEAR(seen["threshold"].get<double>(), 0.6, 1e-6);   // as the artefact says
  EXPECT_EQ(seen["most"], 3);
  for (size_t a = 0; a < expected.size(); ++a)
    for (size_t p = 0; p < expected[a].size(); ++p) {
      const auto& pass = seen["answers"][a][p];
      nlohmann::json flat = nlohmann::json::array();
      for (const auto& row : pass["items"]) flat.insert(flat.end(), row.begin(), row.end());
      const std::string what = fmt::format("answer {} pass {}", a, p);
      expect_near(pass["context"], expected[a][p].context, 1e-5, what + " context");
      expect_near(flat, expected[a][p].items, 3e-5, what + " items");
      expect_near(pass["probabilities"], expected[a][p].probabilities, 1e-4, what + " probabilities");
    }
}

// ---- what cannot be served ----

constexpr const char* kOpen = R"(
from trimtab_commit import CommitController
try:
    CommitController(case["artefact"])
    print(json.dumps("opened"))
except ValueError as error:
    print(json.dumps(str(error)))
)";

TEST_F(CommitStrategy, RefusesWhatItCannotServe) {
  const auto opened = [&](const AgentSpec& agent) {
    ControllerOptions plain;
    plain.hidden = {8};
    write_artefact(file("r.ttc.safetensors"), agent, plain);
    return run_strategy(folder_.path(), kOpen, {{"artefact", file("r.ttc.safetensors")}}).get<std::string>();
  };
  EXPECT_EQ(opened(commit_agent({.items = 4})), "opened");
  EXPECT_NE(opened(commit_agent({.items = 4, .projected = 2, .hidden_size = 3})).find("item feature 'hidden0'"), std::string::npos);
  EXPECT_NE(opened(commit_agent({.items = 4, .codes = 2})).find("item feature 'code0'"), std::string::npos);
  EXPECT_NE(opened(commit_agent({.items = 4}, HeadKind::kOrder)).find("env.action=subset"), std::string::npos);
  AgentSpec other = commit_agent({.items = 4});
  other.name = "prb";
  EXPECT_NE(opened(other).find("its agents are prb"), std::string::npos);
  std::ofstream(file("broken")) << "no artefact";
  EXPECT_NE(run_strategy(folder_.path(), kOpen, {{"artefact", file("broken")}}).get<std::string>().find("broken: "), std::string::npos);
}

// ---- the demo and its controller ----

AgentSpec example_agent() { return commit_agent({.items = 32}); }
std::string example_file() { return (strategy_folder() / "controller.ttc.safetensors").string(); }

// Writes the example's file anew: --gtest_also_run_disabled_tests.
TEST(CommitStrategyExample, DISABLED_WriteTheController) {
  ControllerOptions begins;
  begins.hidden = {8}, begins.residual = "sureness", begins.last_layer_gain = 0, begins.normalise_observations = false;
  const auto policy = Controller::policy(example_agent(), begins, 1);
  ExportInfo info;
  info.environment = "token_commit", info.config = "type: token_commit\nitems: 32\nthreshold: 0.5\n";
  const std::string meaning = "commit: for each position the probability that it is taken";
  export_artefact(example_file(), {{.spec = example_agent(), .policy = policy.get(), .meaning = meaning, .fallback = {}}}, info);
}

TEST(CommitStrategyExample, TheControllerIsUntrainedAThresholdOfConfidence) {
  char why[256] = "";
  tt_controller* controller = nullptr;
  ASSERT_EQ(tt_open(example_file().c_str(), nullptr, &controller, why, sizeof why), TT_OK) << why;
  const ObservationSpec view = example_agent().observation;
  Draws d(test_seed(), Stream::kTest, 5, 311);
  std::vector<float> context(view.context_size()), items(8 * view.item_size()), answer(8);
  for (float& x : context) x = d.uniform();
  for (float& x : items) x = d.uniform(-5, 5);
  EXPECT_EQ(tt_decide(controller, tt_find_agent(controller, "commit"), context.data(), items.data(), nullptr, 8, answer.data()), TT_OK);
  tt_close(controller);
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(answer[i], 1 / (1 + std::exp(-items[i * view.item_size() + 1])), 1e-5);   // of sureness
}

TEST_F(CommitStrategy, TheDemoPrintsWhatIsExpected) {
  const std::string demo = (strategy_folder() / "demo.py").string(), expected = (strategy_folder() / "expected.txt").string();
  const Printed out = run_python(fmt::format("'{}' '{}' --check '{}'", demo, example_file(), expected));
  EXPECT_EQ(out.status, 0) << out.text;
  EXPECT_NE(run_python(fmt::format("'{}' '{}' --seed 2 --check '{}'", demo, example_file(), expected)).status, 0);
}

}  // namespace
}  // namespace trimtab
