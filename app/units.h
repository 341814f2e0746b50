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

// The keys of a unit by its name ("prb_power", "mappo", "controller"); ConfigError naming the nearest one.
std::vector<FieldLine> help_of_unit(const std::string& name);

// The source tree this program was built from; configs and kernels are listed from it.
std::filesystem::path source_tree();

}  // namespace trimtab
