// Agents of an artefact, side by side in threads, and once more when the first ones are gone.
#include "envs/artefact_agents.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "core/error.h"
#include "core/test_support.h"
#include "policies/controllers/export.h"

namespace trimtab {
namespace {

using Agents = std::map<std::string, std::unique_ptr<AgentFunction>>;
constexpr int kFeatures = 3, kActions = 2;

class ArtefactAgents : public ::testing::Test {
 protected:
  ArtefactAgents() {
    ControllerOptions options;
    options.hidden = {8}, options.last_layer_gain = 1;
    policy_ = Controller::policy(spec_, options, test_seed());
    ExportInfo info;
    info.environment = "none";
    export_artefact(file_, {{.spec = spec_, .policy = policy_.get(), .meaning = "two numbers", .fallback = {}}}, info);
  }

  // How far an agent's answers are from the policy's, over observations of its own.
  double error(AgentFunction& agent, int first) const {
    const auto workspace = policy_->workspace(1);
    double out = 0;
    for (int i = first; i < first + 100; ++i) {
      const float context[kFeatures] = {std::sin(0.7f * i), std::cos(1.3f * i), std::sin(2.1f * i)};
      float expected[kActions], action[kActions];
      policy_->mode({.size = 1, .context = context}, expected, *workspace);
      agent.decide(context, nullptr, nullptr, 0, action);
      for (int k = 0; k < kActions; ++k) out = std::max<double>(out, std::abs(action[k] - expected[k]));
    }
    return out;
  }

  const AgentSpec spec_{.name = "level", .observation = {.context = {{"a", "", -2, 2}, {"b", "", -2, 2}, {"c", "", -2, 2}}, .item = {}},
                        .head = {.kind = HeadKind::kGaussian, .size = kActions, .low = -5, .high = 5}};
  const TemporaryFolder folder_;
  const std::filesystem::path file_ = folder_.path() / "level.ttc.safetensors";
  std::unique_ptr<Controller> policy_;
};

TEST_F(ArtefactAgents, OfThreadsAnswerAsThePolicy) {
  const AgentFactory factory = artefact_agents(file_);
  std::vector<double> errors(4);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int episode = 0; episode < 20; ++episode) {
        const Agents agents = factory();
        errors[t] = std::max(errors[t], error(*agents.at("level"), 1000 * t + episode));
      }
    });
  for (std::thread& t : threads) t.join();
  for (const double e : errors) EXPECT_LT(e, 1e-5);
}

TEST_F(ArtefactAgents, AreOpenedAnewOnlyWhereAllAreInUse) {
  const AgentFactory factory = artefact_agents(file_);
  std::filesystem::remove(file_);
  Agents first = factory();   // opened when the factory was made
  EXPECT_THROW(factory(), DataError);   // a second one at the same time is of the file, which is gone
  first.clear();
  EXPECT_LT(error(*factory().at("level"), 0), 1e-5);
}

TEST_F(ArtefactAgents, ABrokenFileIsRefusedAtOnce) {
  std::filesystem::resize_file(file_, std::filesystem::file_size(file_) / 2);
  try {
    artefact_agents(file_);
    FAIL() << "opened";
  } catch (const DataError& e) {
    EXPECT_NE(std::string(e.what()).find(file_.string()), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace trimtab
