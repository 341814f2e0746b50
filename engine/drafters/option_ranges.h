// Options that were set in code, held to the ranges their describe() states: the same sentence a configuration file would get.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "core/options.h"

namespace trimtab {

class RangeFields : public Fields {
 protected:
  void visit(std::string_view key, FieldValue value, const FieldInfo& info) override {
    std::visit([&](const auto* v) { check(key, *v, info); }, value);
  }
  bool enter(std::string_view, const std::string&) override { return true; }
  void leave() override {}

 private:
  template <class T>
  static void check(std::string_view key, const std::vector<T>& values, const FieldInfo& info) {
    for (const T& value : values) check(key, value, info);
  }
  static void check(std::string_view key, const std::string& word, const FieldInfo& info) {
    if (info.choices.empty() || std::find(info.choices.begin(), info.choices.end(), word) != info.choices.end()) return;
    throw ConfigError(fmt::format("{} = '{}', but it must be one of: {}", key, word, fmt::join(info.choices, ", ")));
  }
  template <class T>
    requires std::is_arithmetic_v<T>
  static void check(std::string_view key, T value, const FieldInfo& info) {
    const double number = static_cast<double>(value);
    if (!(number >= info.low && number <= info.high)) {
      throw ConfigError(fmt::format("{} = {}, but it must be in [{}, {}]", key, value, info.low, info.high));
    }
  }
};

// Takes and gives back, for member initialisers.
template <class Options>
Options checked(Options options) {
  RangeFields ranges;
  options.describe(ranges);
  options.validate();
  return options;
}

}  // namespace trimtab
