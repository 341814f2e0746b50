// examples/commit_strategy decodes a block as the generator does: the same tokens in the same passes, from the same logits and artefact.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>

#include "core/random.h"
#include "core/test_support.h"
#include "engine/diffusion/answer.h"
#include "envs/token_commit/agent_commit.h"
#include "envs/token_commit/strategy_python.h"
#include "policies/controllers/export.h"

namespace trimtab {
namespace {

constexpr int64_t kLength = 14, kVocab = 11, kMask = 4;
const std::vector<int32_t> kEndings = {1, 7};

// Logits of every pass, whatever was committed: an answer settles, ends somewhere, and is uncertain on the way.
std::vector<std::vector<std::vector<float>>> draw_logits(Draws& d) {
  std::vector<int32_t> text(kLength);
  const int64_t words = kLength - d.below(6);
  for (int64_t p = 0; p < kLength; ++p) text[p] = p < words ? static_cast<int32_t>(d.below(kVocab)) : kEndings[0];
  std::vector<std::vector<std::vector<float>>> out(kLength + 1);
  for (size_t pass = 0; pass < out.size(); ++pass)
    for (int64_t p = 0; p < kLength; ++p) {
      auto& row = out[pass].emplace_back(kVocab);
      for (float& x : row) x = d.normal();
      row[text[p]] += static_cast<float>(pass) * d.uniform(0.0f, 1.5f) + (text[p] == kEndings[0] ? 3 : 1);
    }
  return out;
}

class PolicyAgent final : public AgentFunction {
 public:
  explicit PolicyAgent(const Controller& policy) : policy_(policy), workspace_(policy.workspace(1)) {}
  void decide(const float* context, const float* items, const uint8_t* mask, int, float* action) override {
    policy_.mode({.size = 1, .context = context, .items = items, .mask = mask}, action, *workspace_);
  }

 private:
  const Controller& policy_;
  std::unique_ptr<ControllerWorkspace> workspace_;
};

struct Decoded {
  std::vector<std::vector<int32_t>> passes;   // the answer before each, -1 where masked; then the last
  int64_t forced = 0;
};

Decoded decode(const std::vector<std::vector<std::vector<float>>>& logits, const Controller& policy, const TokenCommitOptions& options) {
  const DiffusionModel model = {.mask_id = kMask, .eos_ids = kEndings};
  const std::vector<int32_t> prompt = {0, 2};
  DiffusionOptions engine;
  engine.passes = options.passes;
  std::map<std::string, std::unique_ptr<AgentFunction>> agents;
  agents["commit"] = std::make_unique<PolicyAgent>(policy);
  AgentCommit control(options, 0, std::move(agents));
  DiffusionAnswer answer({.model = model, .options = engine, .prompt = prompt, .length = kLength, .vocab = kVocab});
  Proposer proposer(kVocab, kMask, 0);
  Decoded out;
  std::vector<float> row(TokenDraw::padded(kVocab));
  for (size_t pass = 0; !answer.over(); ++pass) {
    answer.plan();
    for (const int32_t r : answer.rows())
      if (const int64_t p = answer.position_of(r); p >= 0) {
        std::copy(logits[pass][p].begin(), logits[pass][p].end(), row.begin());
        answer.propose(p, row.data(), proposer, {}, 0);
      }
    answer.look(), answer.open(control);
    const CommitState s = answer.state();
    out.passes.emplace_back(s.tokens.begin(), s.tokens.end());
    answer.decide(control, {});
  }
  out.passes.push_back(answer.completion().canvas);
  out.forced = control.forced();
  return out;
}

constexpr const char* kDecode = R"(
from types import SimpleNamespace as Named
from trimtab_commit import Algorithm
settings = {"controller": case["artefact"], "eos_ids": case["endings"], "threshold": case["threshold"], "most": case["most"], "passes": case["planned"]}
strategy = Algorithm(Named(block_size=2 + case["length"], mask_id=case["mask"], algorithm_config=settings, first_done_first_out_mode=False))
answers = []
for logits in case["answers"]:
    passes, states = [], []
    class Runner:
        def forward(self, batch, pp_proxy_tensors=None):
            rows = logits[min(len(passes), len(logits) - 1)]
            passes.append([-1 if token == case["mask"] else token for token in batch.input_ids[2:]])
            return Named(logits_output=Named(full_logits=[[0.0] * len(rows[0])] * 2 + rows), can_run_graph=False)
    begin = strategy.init_step_state
    strategy.init_step_state = lambda batch: states.extend(begin(batch)) or states
    batch = Named(batch_size=1, input_ids=[0, 2] + [case["mask"]] * case["length"])
    tokens = strategy.run(Runner(), batch)[1]
    strategy.init_step_state = begin
    assert tokens == [batch.input_ids[2:]] == [passes[-1]]
    answers.append({"passes": passes, "forced": states[0].answer.forced})
print(json.dumps(answers))
)";

// The strategy fills what stands behind an ending, the generator leaves masks there.
void expect_same(const nlohmann::json& seen, const Decoded& expected, const std::string& what) {
  ASSERT_EQ(seen["passes"].size(), expected.passes.size()) << what;
  EXPECT_EQ(seen["forced"], expected.forced) << what;
  for (size_t pass = 0; pass + 1 < expected.passes.size(); ++pass)
    EXPECT_EQ(seen["passes"][pass].get<std::vector<int32_t>>(), expected.passes[pass]) << what << " pass " << pass;
  auto last = seen["passes"].back().get<std::vector<int32_t>>();
  const auto ending = std::find_first_of(last.begin(), last.end(), kEndings.begin(), kEndings.end());
  for (size_t p = 0; p < last.size(); ++p) {
    if (expected.passes.back()[p] >= 0) EXPECT_EQ(last[p], expected.passes.back()[p]) << what << " position " << p;
    else EXPECT_EQ(last[p], *ending) << what << " position " << p;
  }
}

class StrategyAnswer : public testing::TestWithParam<int> {};

TEST_P(StrategyAnswer, IsTheGenerators) {
  if (const std::string why = why_no_strategy(); !why.empty()) GTEST_SKIP() << why;
  const TemporaryFolder folder;
  const std::string artefact = (folder.path() / "c.ttc.safetensors").string();
  TokenCommitOptions options;
  options.items = 9, options.length = kLength, options.most = GetParam() == 1 ? 2 : 0, options.threshold = GetParam() == 2 ? 0.9 : 0.5;
  options.passes = GetParam() == 3 ? 6 : 0;
  const AgentSpec agent = token_commit_spec(options, CommitView({.items = options.items})).agents[0];
  ControllerOptions random;
  random.hidden = {16, 24}, random.attention = 2, random.residual = "sureness", random.last_layer_gain = 1;
  const auto policy = Controller::policy(agent, random, test_seed() + GetParam());
  export_artefact(artefact, {{.spec = agent, .policy = policy.get(), .meaning = "commit", .fallback = {}}}, {});

  Draws d(test_seed(), Stream::kTest, static_cast<uint32_t>(GetParam()), 313);
  nlohmann::json input = {{"artefact", artefact},   {"endings", kEndings},   {"mask", kMask},         {"length", kLength},
                          {"threshold", options.threshold}, {"most", options.most}, {"planned", options.passes}, {"answers", nlohmann::json::array()}};
  std::vector<Decoded> expected;
  for (int i = 0; i < 25; ++i) {
    const auto logits = draw_logits(d);
    expected.push_back(decode(logits, *policy, options));
    input["answers"].push_back(logits);
  }
  const nlohmann::json seen = run_strategy(folder.path(), kDecode, input);
  size_t passes = 0;
  for (size_t i = 0; i < expected.size(); ++i) expect_same(seen[i], expected[i], fmt::format("answer {}", i)), passes += expected[i].passes.size() - 1;
  EXPECT_GT(passes, 2 * expected.size());   // there was something to decide
}

INSTANTIATE_TEST_SUITE_P(Options, StrategyAnswer, testing::Range(0, 4));

}  // namespace
}  // namespace trimtab
