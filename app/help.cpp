// `trimtab help [UNIT|VERB]`: the keys of a unit, from its describe(), or the usage of a verb.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/units.h"

namespace trimtab {
namespace {

struct HelpOptions {
  std::vector<std::string> names;
  bool json = false;
};

void print_keys(const HelpSection& section) {
  fmt::print("Keys of {}:\n", section.title);
  for (const FieldLine& key : section.keys) {
    std::string facts = key.type;
    if (!key.range.empty()) facts += " " + key.range;
    if (!key.unit.empty()) facts += ", " + key.unit;
    if (!key.fallback.empty()) facts += ", default " + key.fallback;
    fmt::print("  {}\n      {}\n", key.path, key.doc);
    if (!facts.empty()) fmt::print("      ({})\n", facts);
  }
}

nlohmann::json keys_json(const std::vector<HelpSection>& sections) {
  nlohmann::json out = nlohmann::json::array();
  for (const HelpSection& section : sections) {
    for (const FieldLine& key : section.keys) {
      out.push_back({{"section", section.title},
                     {"path", key.path},
                     {"type", key.type},
                     {"default", key.fallback},
                     {"range", key.range},
                     {"unit", key.unit},
                     {"doc", key.doc}});
    }
  }
  return out;
}

int help(const HelpOptions& options) {
  if (options.names.empty()) return run_command({"--help"});
  for (const std::string& name : options.names) {
    const std::vector<std::string> verbs = Registry<Verb>::instance().names();
    if (std::find(verbs.begin(), verbs.end(), name) != verbs.end()) {
      run_command({name, "--help"});
      continue;
    }
    const std::vector<HelpSection> sections = help_of_unit(name);
    if (options.json) {
      fmt::print("{}\n", keys_json(sections).dump(2));
    } else {
      for (const HelpSection& section : sections) print_keys(section);
    }
  }
  return 0;
}

TT_REGISTER(Verb, help,
            {.name = "help",
             .doc = "Show the keys of a unit (environment, policy, trainer) or the usage of a verb",
             .declare = [](Arguments& a) {
               auto options = std::make_shared<HelpOptions>();
               a.words("UNIT", options->names, "name of a unit or a verb");
               a.flag("--json", options->json, "machine-readable output");
               return [options] { return help(*options); };
             }});

}  // namespace
}  // namespace trimtab
