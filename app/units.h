// What the program is made of, by kind: for `trimtab list`, `trimtab help UNIT` and `trimtab doctor`.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/config.h"

namespace trimtab {

struct UnitLine {
  std::string kind;  // "environment", "policy", "trainer preset", "kernel", "config"
  std::string name, doc;
};
inline const std::vector<std::string> kUnitKinds = {"envs", "policies", "trainers", "kernels", "configs"};

// Units of one kind of kUnitKinds; ConfigError for another word.
std::vector<UnitLine> units_of(const std::string& kind);

// The keys of a unit by its name ("prb_power", "mappo", "set_encoder"); several lists where several families
// of learners know the name. ConfigError naming the nearest one.
struct HelpSection {
  std::string title;  // "grpo (controllers)"
  std::vector<FieldLine> keys;
};
std::vector<HelpSection> help_of_unit(const std::string& name);

// The source tree this program was built from; configs and kernels are listed from it.
std::filesystem::path source_tree();

}  // namespace trimtab
