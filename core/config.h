// Config: a YAML file plus command-line overrides, read strictly.
//
// Every error a reader can cause is a ConfigError "file:line:col: key 'a.b': expected ..., got ...; did you
// mean 'x'?". Unknown key, duplicate key, wrong type, out of range, missing: all errors, never a silent
// default. Integers may carry a suffix (500k, 1M, 2G) or an exponent (1e6); true and false are the only
// booleans; NaN and infinity are refused. A block left empty (`env:`) is a map without keys. A dotted key
// `env.power: equal` is shorthand for `env: {power: equal}`.
//
// Paths are keys joined by dots; an element of a list is its index: "phases.0.steps".
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/options.h"

namespace trimtab {

// One node of a parsed configuration, with the place it came from. Copies are independent: apply() changes
// this one alone.
class Config {
 public:
  static Config load(
      const std::filesystem::path& file);  // ConfigError on anything malformed; files over 1 MiB are refused
  static Config parse(const std::string& yaml,
                      const std::string& name);  // `name` stands for the file in messages
  static Config empty(const std::string& name);

  // "a.b=c" sets a key (a wrong one shows when it is read), "+a.b=c" adds one that must not be there yet,
  // "~a.b" removes one that must be there. The value is parsed as YAML.
  void apply(const std::string& override_text);

  bool has(const std::string& path) const;  // "env.cell"
  Config at(
      const std::string& path) const;  // the sub-tree, still knowing its place; an absent one is an empty map
  std::vector<Config> list(const std::string& path) const;  // elements of a sequence; empty when absent
  std::vector<std::string> keys() const;                    // keys of this map, in file order
  std::string text(const std::string& path, const std::string& fallback) const;  // scalar as written
  std::string yaml() const;                                                      // this sub-tree as YAML text
  // `over` wins, maps merge key by key, sequences and scalars replace; places are kept.
  Config merged_with(const Config& over) const;
  // "file:line:col: key 'path': message"
  [[noreturn]] void fail(const std::string& path, const std::string& message) const;

  // Reads this map into `options` through its describe(). Keys in `also` are allowed and left alone (`type`,
  // `preset`).
  template <class Options>
  void read(Options& options, const std::vector<std::string>& also = {}) const {
    auto reader = make_reader(also);
    options.describe(*reader);
    finish(*reader);
    if constexpr (requires { options.validate(); }) validate_with([&] { options.validate(); });
  }

  struct Tree;  // defined in config.cpp

 private:
  explicit Config(std::shared_ptr<Tree> tree);
  std::unique_ptr<Fields> make_reader(const std::vector<std::string>& also) const;
  void finish(Fields& reader) const;  // unknown keys become errors here
  void validate_with(
      const std::function<void()>& check) const;  // adds file and path to a ConfigError without them
  std::shared_ptr<Tree> tree_;
};

// One line of help per key: "lr  number in [0, inf), default 0.0003, 1/step: step size".
struct FieldLine {
  std::string path, type, fallback, range, unit, doc;
};

std::vector<FieldLine> describe_fields(const std::function<void(Fields&)>& describe);
std::string resolved_yaml(const std::function<void(Fields&)>& describe);  // every key with its present value

template <class Options>
std::vector<FieldLine> help_of(Options options = {}) {
  return describe_fields([&](Fields& f) { options.describe(f); });
}
template <class Options>
std::string yaml_of(Options options) {
  return resolved_yaml([&](Fields& f) { options.describe(f); });
}

}  // namespace trimtab
