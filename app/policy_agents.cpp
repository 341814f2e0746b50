#include "app/policy_agents.h"

#include <algorithm>
#include <vector>

#include "policies/controllers/controller.h"
#include "trainers/train.h"

namespace trimtab {
namespace {

struct LoadedAgent {
  AgentSpec spec;
  ControllerOptions options;
  TensorFile state;
};
constexpr const char* kPrefix = "policy";
constexpr uint64_t kAnySeed = 0;  // initial parameters are overwritten by load()

bool is_over_items(HeadKind kind) {
  return kind == HeadKind::kSimplex || kind == HeadKind::kChoice || kind == HeadKind::kSubset || kind == HeadKind::kOrder;
}

// Parameters do not depend on the number of items, so a controller for another number is the same state in
// another shape.
class ModeAgent final : public AgentFunction {
 public:
  explicit ModeAgent(std::shared_ptr<const LoadedAgent> loaded) : loaded_(std::move(loaded)) {}

  void decide(const float* context, const float* items, const uint8_t* mask, int num_items,
              float* action) override {
    if (!controller_ || num_items != num_items_) build(num_items);
    controller_->mode({.size = 1, .context = context, .items = items, .mask = mask}, action, *workspace_);
  }

 private:
  void build(int num_items) {
    AgentSpec spec = loaded_->spec;
    spec.observation.max_items = num_items;
    if (is_over_items(spec.head.kind)) spec.head.size = num_items;
    controller_ = Controller::policy(spec, loaded_->options, kAnySeed);
    controller_->load(loaded_->state, kPrefix);
    workspace_ = controller_->workspace(1);
    num_items_ = num_items;
  }

  std::shared_ptr<const LoadedAgent> loaded_;
  std::unique_ptr<Controller> controller_;
  std::unique_ptr<ControllerWorkspace> workspace_;
  int num_items_ = 0;
};

}  // namespace

AgentFactory policy_agents(const std::filesystem::path& run_folder, const std::string& which) {
  const Policies policies = load_policies(run_folder, which);
  auto agents = std::make_shared<std::vector<std::shared_ptr<const LoadedAgent>>>();
  for (const AgentSpec& spec : load_agents(run_folder, which)) {
    const auto policy = policies.find(spec.name);
    if (policy == policies.end()) continue;
    auto loaded = std::make_shared<LoadedAgent>();
    loaded->spec = spec;
    loaded->options = policy->second->options();
    policy->second->save(loaded->state, kPrefix);
    agents->push_back(loaded);
  }
  return [agents] {
    std::map<std::string, std::unique_ptr<AgentFunction>> out;
    for (const auto& agent : *agents) out.emplace(agent->spec.name, std::make_unique<ModeAgent>(agent));
    return out;
  };
}

}  // namespace trimtab
