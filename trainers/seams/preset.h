// Presets: an algorithm as a few lines of YAML over the options of a family of learners, registered under
// its name:
//
//   TT_REGISTER(TrainerPreset, rloo, {.name = "rloo", .doc = ..., .common = ..., .yaml = ..., .language =
//   ...})
#pragma once

#include <string>

#include "core/config.h"

namespace trimtab {

struct TrainerPreset {
  std::string name, doc;
  std::string yaml = {};      // keys of TrainerOptions, over `common`; empty: not for controllers
  std::string language = {};  // keys of a language model's trainer, over `common`; empty: not for those
  std::string common = {};    // keys of SeamOptions that hold for both
};

// `common` with the family's own keys over it. ConfigError when the preset is not for that family.
Config controller_preset(const TrainerPreset& preset);
Config language_preset(const TrainerPreset& preset);

}  // namespace trimtab
