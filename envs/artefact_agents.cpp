#include "envs/artefact_agents.h"

#include <mutex>
#include <vector>

#include "core/error.h"
#include "trimtab/runtime.h"

namespace trimtab {
namespace {

using OpenController = std::unique_ptr<tt_controller, decltype(&tt_close)>;

OpenController open_artefact(const std::string& file) {
  tt_open_options options = TT_OPEN_OPTIONS_INIT;
  options.max_items = TT_MAX_ITEMS;
  char why[512] = "";
  tt_controller* controller = nullptr;
  if (tt_open(file.c_str(), &options, &controller, why, sizeof why) != TT_OK)
    throw DataError(fmt::format("{} (trimtab export writes such files)", why));
  return {controller, tt_close};
}

// Controllers of one file that nobody uses at the moment: opening one checks all of it, self-tests and all, which takes longer than many decisions.
class OpenControllers : public std::enable_shared_from_this<OpenControllers> {
 public:
  explicit OpenControllers(std::string file) : file_(std::move(file)) { idle_.push_back(open_artefact(file_)); }   // a broken file is an error here and now, not in an evaluation thread
  // Comes back by itself when the last agent lets go of it.
  std::shared_ptr<tt_controller> borrow() {
    return {take().release(), [home = shared_from_this()](tt_controller* one) { home->put({one, tt_close}); }};
  }

 private:
  OpenController take() {
    std::unique_lock lock(mutex_);
    if (idle_.empty()) {
      lock.unlock();   // others need not wait for the checks
      return open_artefact(file_);
    }
    OpenController one = std::move(idle_.back());
    idle_.pop_back();
    return one;
  }
  void put(OpenController one) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(one));
  }

  std::string file_;
  std::mutex mutex_;
  std::vector<OpenController> idle_;
};

class ArtefactAgent final : public AgentFunction {
 public:
  ArtefactAgent(std::shared_ptr<tt_controller> controller, int agent) : controller_(std::move(controller)), agent_(agent) {}
  // Bad input gives the runtime's safe action, as it would in the field.
  void decide(const float* context, const float* items, const uint8_t* mask, int num_items, float* action) override {
    const tt_status status = tt_decide(controller_.get(), agent_, context, items, mask, num_items, action);
    TT_CHECK(status != TT_BAD_ARGUMENT, "{}", tt_status_text(status));
  }

 private:
  std::shared_ptr<tt_controller> controller_;
  int agent_;
};

}  // namespace

AgentFactory artefact_agents(const std::filesystem::path& file) {
  const auto open = std::make_shared<OpenControllers>(file.string());
  return [open] {
    const std::shared_ptr<tt_controller> controller = open->borrow();
    std::map<std::string, std::unique_ptr<AgentFunction>> agents;
    for (int a = 0; a < tt_num_agents(controller.get()); ++a) {
      tt_agent_info info{};
      info.struct_size = sizeof info;
      TT_CHECK_EQ(static_cast<int>(tt_get_agent_info(controller.get(), a, &info)), static_cast<int>(TT_OK));
      agents[info.name] = std::make_unique<ArtefactAgent>(controller, a);
    }
    return agents;
  };
}

ArtefactOrigin artefact_origin(const std::filesystem::path& file) {
  const OpenController controller = open_artefact(file.string());
  const auto text = [&](const char* key) {
    const char* value = tt_get_text(controller.get(), key);
    return std::string(value ? value : "");
  };
  return {text("environment"), text("config"), text("training_data_hash")};
}

}  // namespace trimtab
