#include "trainers/run/family.h"

#include "core/registry.h"
#include "envs/environment.h"
#include "envs/text_environment.h"

namespace trimtab {

const LearnerFamily& family_of(const Config& config) {
  const std::string type = config.text("env.type", "");
  const auto& families = Registry<LearnerFamily>::instance();
  for (const std::string& name : families.names()) {
    const LearnerFamily& family = families.get(name, "family of learners");
    if (family.trains(type)) return family;
  }
  if (type.empty()) config.fail("env.type", "missing: which environment to train in; `trimtab list envs` names them");
  const std::vector<std::string> text = Registry<TextEnvironmentEntry>::instance().names();
  if (std::find(text.begin(), text.end(), type) != text.end())
    config.fail("env.type", fmt::format("'{}' trains language models, and this program was built without LibTorch; run scripts/setup "
                                        "--torch and build with -DTRIMTAB_TORCH=ON", type));
  std::vector<std::string> known = Registry<EnvironmentEntry>::instance().names();
  known.insert(known.end(), text.begin(), text.end());
  const std::string near = nearest(type, known);
  config.fail("env.type", fmt::format("unknown environment '{}'{}; `trimtab list envs` shows what there is", type,
                                      near.empty() ? "" : fmt::format(", did you mean '{}'?", near)));
}

std::string resolve_config(const Config& config) { return family_of(config).resolve(config); }
std::string training_plan(const Config& config) { return family_of(config).plan(config); }
TrainResult train(const Config& config, const TrainHooks& hooks) { return family_of(config).train(config, hooks); }

}  // namespace trimtab
