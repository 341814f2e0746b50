// Registries: a unit makes itself known by one macro in its own .cpp, so that adding a unit edits no other file.
// Units are compiled into OBJECT libraries, so the linker cannot drop a registration; a contract test lists them all.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"

namespace trimtab {

std::string nearest(const std::string& word, const std::vector<std::string>& known);  // "" when nothing is near

// A registry of units of one kind. `Entry` is a plain struct of factory functions with `std::string name, doc`.
template <class Entry>
class Registry {
 public:
  static Registry& instance() {
    static Registry registry;
    return registry;
  }
  bool add(Entry entry) {
    TT_CHECK(!entries_.contains(entry.name), "two units are called '{}'", entry.name);
    entries_.emplace(entry.name, std::move(entry));
    return true;
  }
  // `kind` names the registry in the error: "environment", "trainer preset", ...
  const Entry& get(const std::string& name, const std::string& kind) const {
    if (const auto it = entries_.find(name); it != entries_.end()) return it->second;
    const std::string near = nearest(name, names());
    throw ConfigError(fmt::format("unknown {} '{}'{}; `trimtab list` shows what there is", kind, name,
                                  near.empty() ? "" : fmt::format(", did you mean '{}'?", near)));
  }
  bool has(const std::string& name) const { return entries_.contains(name); }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& [name, entry] : entries_) out.push_back(name);
    return out;
  }

 private:
  std::map<std::string, Entry> entries_;
};

}  // namespace trimtab

// At namespace scope in a .cpp: TT_REGISTER(EnvironmentEntry, cartpole, {.name = "cartpole", ...});
#define TT_REGISTER(EntryType, tag, ...) \
  [[maybe_unused]] static const bool tt_registered_##tag = ::trimtab::Registry<EntryType>::instance().add(EntryType __VA_ARGS__)
