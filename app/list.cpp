// `trimtab list [envs|policies|trainers|kernels|configs]`: what is in this program.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/units.h"

namespace trimtab {
namespace {

struct ListOptions {
  std::vector<std::string> kinds;
  bool json = false;
};

int list(const ListOptions& options) {
  nlohmann::json out = nlohmann::json::object();
  for (const std::string& kind : options.kinds.empty() ? kUnitKinds : options.kinds) {
    const std::vector<UnitLine> units = units_of(kind);
    if (options.json) {
      out[kind] = nlohmann::json::array();
      for (const UnitLine& unit : units) out[kind].push_back({{"name", unit.name}, {"doc", unit.doc}});
      continue;
    }
    size_t width = 0;
    for (const UnitLine& unit : units) width = std::max(width, unit.name.size());
    fmt::print("{}\n", kind);
    for (const UnitLine& unit : units) fmt::print("  {:<{}}  {}\n", unit.name, width, unit.doc);
  }
  if (options.json) fmt::print("{}\n", out.dump(2));
  return 0;
}

TT_REGISTER(Verb, list,
            {.name = "list",
             .doc = "List environments, policies, trainers, kernels and configurations",
             .declare = [](Arguments& a) {
               auto options = std::make_shared<ListOptions>();
               a.words("KIND", options->kinds,
                       "envs, policies, trainers, kernels or configs; all when absent");
               a.flag("--json", options->json, "machine-readable output");
               return [options] { return list(*options); };
             }});

}  // namespace
}  // namespace trimtab
