#include "app/policy_agents.h"

#include <map>
#include <mutex>
#include <vector>

#include "policies/controllers/controller.h"
#include "trainers/train.h"

namespace trimtab {
namespace {

constexpr const char* kPrefix = "policy";
constexpr uint64_t kAnySeed = 0;  // initial parameters are overwritten by load()

bool is_over_items(HeadKind kind) {
  return kind == HeadKind::kSimplex || kind == HeadKind::kChoice || kind == HeadKind::kSubset || kind == HeadKind::kOrder;
}

// Parameters do not depend on the number of items, so a controller for another number is the same state in
// another shape. Each shape is made once: that takes longer than many decisions.
class LoadedAgent {
 public:
  LoadedAgent(AgentSpec spec, std::unique_ptr<Controller> policy) : spec_(std::move(spec)), options_(policy->options()) {
    policy->save(state_, kPrefix);
    made_[spec_.observation.max_items] = std::move(policy);
  }
  const AgentSpec& spec() const { return spec_; }
  std::shared_ptr<const Controller> shaped(int num_items) const {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<const Controller>& it = made_[num_items];
    if (!it) it = make(num_items);
    return it;
  }

 private:
  std::shared_ptr<const Controller> make(int num_items) const {
    AgentSpec spec = spec_;
    spec.observation.max_items = num_items;
    if (is_over_items(spec.head.kind)) spec.head.size = num_items;
    std::unique_ptr<Controller> out = Controller::policy(spec, options_, kAnySeed);
    out->load(state_, kPrefix);
    return out;
  }

  AgentSpec spec_;
  ControllerOptions options_;
  TensorFile state_;
  mutable std::mutex mutex_;
  mutable std::map<int, std::shared_ptr<const Controller>> made_;   // by number of items
};

class ModeAgent final : public AgentFunction {
 public:
  explicit ModeAgent(std::shared_ptr<const LoadedAgent> loaded) : loaded_(std::move(loaded)) { shape(loaded_->spec().observation.max_items); }

  void decide(const float* context, const float* items, const uint8_t* mask, int num_items,
              float* action) override {
    if (num_items != num_items_) shape(num_items);
    controller_->mode({.size = 1, .context = context, .items = items, .mask = mask}, action, *workspace_);
  }

 private:
  void shape(int num_items) {
    controller_ = loaded_->shaped(num_items);
    workspace_ = controller_->workspace(1);
    num_items_ = num_items;
  }

  std::shared_ptr<const LoadedAgent> loaded_;
  std::shared_ptr<const Controller> controller_;
  std::unique_ptr<ControllerWorkspace> workspace_;
  int num_items_ = 0;
};

}  // namespace

AgentFactory policy_agents(const std::filesystem::path& run_folder, const std::string& which) {
  Policies policies = load_policies(run_folder, which);
  auto agents = std::make_shared<std::vector<std::shared_ptr<const LoadedAgent>>>();
  for (const AgentSpec& spec : load_agents(run_folder, which)) {
    const auto policy = policies.find(spec.name);
    if (policy != policies.end()) agents->push_back(std::make_shared<const LoadedAgent>(spec, std::move(policy->second)));
  }
  return [agents] {
    std::map<std::string, std::unique_ptr<AgentFunction>> out;
    for (const auto& agent : *agents) out.emplace(agent->spec().name, std::make_unique<ModeAgent>(agent));
    return out;
  };
}

}  // namespace trimtab
