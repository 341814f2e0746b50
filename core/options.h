// Options: one list per unit that drives everything.
//
// A unit's options are a plain struct with `void describe(Fields&)` that lists every key once: name, variable, range, unit
// and one line of text. That list reads YAML, applies `a.b=c` overrides, validates, prints `trimtab help UNIT`, makes the
// reference in docs/ and writes the resolved configuration of a run. Example:
//
//   struct AdamOptions {
//     double lr = 3e-4;
//     std::string schedule = "constant";
//     void describe(Fields& f) {
//       f.number("lr", lr, {.low = 0, .unit = "1", .doc = "step size"});
//       f.choice("schedule", schedule, {"constant", "linear"}, "how lr moves over the run");
//     }
//   };
//
// Cross-field rules live in an optional `void validate() const`, which throws ConfigError.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace trimtab {

// What is known about one key beside its value.
struct FieldInfo {
  double low = -std::numeric_limits<double>::infinity();   // smallest allowed value (numbers, and elements of lists)
  double high = std::numeric_limits<double>::infinity();   // largest allowed value
  std::string unit = {};                                   // "dBm", "slots", ...; empty: dimensionless
  std::string doc = {};                                    // one line
  bool required = false;                                   // no default: must be given
  std::vector<std::string> choices = {};                   // allowed words of a text field; empty: any
};

using FieldValue = std::variant<bool*, int64_t*, double*, std::string*, std::vector<int64_t>*, std::vector<double>*,
                                std::vector<std::string>*>;

// The visitor a describe() talks to. Implementations (core/config.h): reading YAML, writing the resolved config, listing help.
class Fields {
 public:
  virtual ~Fields() = default;

  void flag(std::string_view key, bool& value, std::string doc) { visit(key, &value, {.doc = std::move(doc)}); }
  void integer(std::string_view key, int64_t& value, FieldInfo info) { visit(key, &value, info); }
  void number(std::string_view key, double& value, FieldInfo info) { visit(key, &value, info); }
  void text(std::string_view key, std::string& value, FieldInfo info) { visit(key, &value, info); }
  void choice(std::string_view key, std::string& value, std::vector<std::string> choices, std::string doc) {
    visit(key, &value, {.doc = std::move(doc), .choices = std::move(choices)});
  }
  void integers(std::string_view key, std::vector<int64_t>& value, FieldInfo info) { visit(key, &value, info); }
  void numbers(std::string_view key, std::vector<double>& value, FieldInfo info) { visit(key, &value, info); }
  void texts(std::string_view key, std::vector<std::string>& value, FieldInfo info) { visit(key, &value, info); }

  // A nested block: `key: {...}` with its own describe().
  template <class Options>
  void block(std::string_view key, Options& options, std::string doc) {
    if (!enter(key, doc)) return;
    options.describe(*this);
    leave();
    if constexpr (requires { options.validate(); }) validate_block(key, [&] { options.validate(); });
  }

 protected:
  virtual void visit(std::string_view key, FieldValue value, const FieldInfo& info) = 0;
  virtual bool enter(std::string_view key, const std::string& doc) = 0;  // false: skip this block
  virtual void leave() = 0;
  // Runs a block's cross-field check when values were read; the other visitors have nothing to check.
  virtual void validate_block(std::string_view /*key*/, const std::function<void()>& /*check*/) {}
};

}  // namespace trimtab
