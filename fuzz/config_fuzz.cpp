// core/config: YAML and overrides, read into options with a field of every kind.
#include <sstream>

#include "core/config.h"
#include "core/error.h"
#include "fuzz/target.h"

namespace trimtab::fuzz {
namespace {

struct Inner {
  double low = 0, high = 1;
  bool on = false;
  void describe(Fields& f) {
    f.number("low", low, {.low = -10, .high = 10, .doc = "a number"});
    f.number("high", high, {.low = -10, .high = 10, .doc = "another"});
    f.flag("on", on, "a switch");
  }
  void validate() const {
    if (low > high) throw ConfigError("low is above high");
  }
};

struct Every {
  int64_t count = 1;
  std::string name, kind = "first";
  std::vector<int64_t> integers;
  std::vector<double> numbers;
  std::vector<std::string> words;
  Inner inner;
  void describe(Fields& f) {
    f.integer("count", count, {.low = 0, .high = 1e9, .doc = "a count"});
    f.text("name", name, {.doc = "a name"});
    f.choice("kind", kind, {"first", "second"}, "a choice");
    f.integers("integers", integers, {.doc = "integers"});
    f.numbers("numbers", numbers, {.low = 0, .doc = "numbers"});
    f.texts("words", words, {.doc = "words"});
    f.block("inner", inner, "a block");
  }
};

// Every way a Config is looked at; refusals are ConfigErrors.
void look_at(const Config& config) {
  Every options;
  try {
    config.read(options, {"type"});
    const std::string resolved = yaml_of(options);
    Every again;
    Config::parse(resolved, "resolved").read(again);
    FUZZ_CHECK(yaml_of(again) == resolved);
  } catch (const ConfigError&) {
  }
  for (const std::string& key : config.keys()) {
    try {
      config.text(key, "");
      for (const Config& element : config.list(key)) element.yaml();
    } catch (const ConfigError&) {
    }
  }
}

void run_config(Bytes input) {
  try {
    const Config config = Config::parse(text_of(input), "input.yaml");
    const std::string yaml = config.yaml();
    FUZZ_CHECK(Config::parse(yaml, "again.yaml").yaml() == yaml);
    look_at(config);
  } catch (const ConfigError&) {
  }
}

// One override a line, onto a small configuration.
void run_overrides(Bytes input) {
  Config config = Config::parse("name: a\ncount: 5\nnumbers: [1, 2]\ninner: {low: 0.5, on: true}\nwords:\n", "base.yaml");
  std::istringstream lines(text_of(input));
  std::string line;
  for (int count = 0; count < 50 && std::getline(lines, line); ++count) {   // each copies the tree
    try {
      config.apply(line);
    } catch (const ConfigError&) {
    }
  }
  try {
    look_at(config);
  } catch (const ConfigError&) {
  }
}

}  // namespace

extern const Target config, overrides;
const Target config{"config", run_config};
const Target overrides{"overrides", run_overrides};

}  // namespace trimtab::fuzz
