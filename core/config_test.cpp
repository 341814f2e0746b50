#include "core/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

struct ClipOptions {
  std::string kind = "symmetric";
  double low = 0.2, high = 0.2;
  void describe(Fields& f) {
    f.choice("kind", kind, {"symmetric", "dual", "none"}, "how ratios are clipped");
    f.number("low", low, {.low = 0, .high = 1, .doc = "lower clip"});
    f.number("high", high, {.low = 0, .high = 1, .doc = "upper clip"});
  }
  void validate() const {
    if (low > high) throw ConfigError("low must not exceed high");
  }
};

struct JobOptions {
  std::string name;
  int64_t steps = 1000;
  double lr = 3e-4;
  bool normalise = true;
  std::vector<int64_t> hidden = {64, 64};
  std::vector<double> weights = {0.5};
  std::vector<std::string> train;
  ClipOptions clip;
  void describe(Fields& f) {
    f.text("name", name, {.doc = "name of the run", .required = true});
    f.integer("steps", steps, {.low = 1, .unit = "slots", .doc = "length"});
    f.number("lr", lr, {.low = 0, .high = 1, .doc = "step size"});
    f.flag("normalise", normalise, "normalise observations");
    f.integers("hidden", hidden, {.low = 1, .high = 4096, .doc = "widths"});
    f.numbers("weights", weights, {.low = 0, .doc = "weights of the reward"});
    f.texts("train", train, {.doc = "trace files"});
    f.block("clip", clip, "ratio clipping");
  }
  void validate() const {
    if (hidden.empty()) throw ConfigError("hidden needs at least one layer");
  }
};

// The message a reader of `yaml` gets after `overrides`, or "no error".
std::string message_of(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    Config config = Config::parse(yaml, "job.yaml");
    for (const std::string& text : overrides) config.apply(text);
    JobOptions options;
    config.read(options);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

struct Golden {
  std::string what, yaml;
  std::vector<std::string> overrides;
  std::string message;
};

const std::vector<Golden>& goldens() {
  static const std::vector<Golden> all = {
      {"typo", "name: a\nstepz: 5\n", {}, "job.yaml:2:1: key 'stepz': unknown key; did you mean 'steps'?"},
      {"typo in a block",
       "name: a\nclip:\n  kidn: dual\n",
       {},
       "job.yaml:3:3: key 'clip.kidn': unknown key; did you mean 'clip.kind'?"},
      {"nothing near",
       "name: a\nclip: {temperature: 1}\n",
       {},
       "job.yaml:2:8: key 'clip.temperature': unknown key; known here: kind, low, high"},
      {"word for a number",
       "name: a\nlr: fast\n",
       {},
       "job.yaml:2:5: key 'lr': expected number in [0, 1], got 'fast'"},
      {"out of range",
       "name: a\nlr: 1.5\n",
       {},
       "job.yaml:2:5: key 'lr': expected number in [0, 1], got '1.5'"},
      {"fraction for an integer",
       "name: a\nsteps: 2.5\n",
       {},
       "job.yaml:2:8: key 'steps': expected integer in [1, inf), got '2.5'"},
      {"integer too large",
       "name: a\nsteps: 99999999999999999999\n",
       {},
       "job.yaml:2:8: key 'steps': expected integer in [1, inf), got '99999999999999999999'"},
      {"octal look",
       "name: a\nsteps: 010\n",
       {},
       "job.yaml:2:8: key 'steps': expected integer in [1, inf), got '010'"},
      {"number in quotes",
       "name: a\nlr: \"0.1\"\n",
       {},
       "job.yaml:2:5: key 'lr': expected number in [0, 1], got '0.1' in quotes"},
      {"not a number",
       "name: a\nlr: nan\n",
       {},
       "job.yaml:2:5: key 'lr': expected number in [0, 1], got 'nan'"},
      {"infinity",
       "name: a\nweights: [.inf]\n",
       {},
       "job.yaml:2:11: key 'weights.0': expected number in [0, inf), got '.inf'"},
      {"yes",
       "name: a\nnormalise: yes\n",
       {},
       "job.yaml:2:12: key 'normalise': expected true or false, got 'yes'; did you mean 'true'?"},
      {"off",
       "name: a\nnormalise: off\n",
       {},
       "job.yaml:2:12: key 'normalise': expected true or false, got 'off'; did you mean 'false'?"},
      {"bad choice",
       "name: a\nclip: {kind: duel}\n",
       {},
       "job.yaml:2:14: key 'clip.kind': expected one of symmetric, dual, none, got 'duel'; did you mean "
       "'dual'?"},
      {"duplicate",
       "name: a\nlr: 0.1\nlr: 0.2\n",
       {},
       "job.yaml:3:1: key 'lr': given twice, first at job.yaml:2:1"},
      {"duplicate in a block",
       "name: a\nclip:\n  low: 0\n  low: 0\n",
       {},
       "job.yaml:4:3: key 'clip.low': given twice, first at job.yaml:3:3"},
      {"duplicate by dots",
       "name: a\nclip: {low: 0}\nclip.low: 0\n",
       {},
       "job.yaml:3:1: key 'clip.low': given twice, first at job.yaml:2:8"},
      {"missing", "lr: 0.1\n", {}, "job.yaml:1:1: key 'name': missing; expected text (name of the run)"},
      {"misspelt and so missing",
       "nmae: a\n",
       {},
       "job.yaml:1:1: key 'nmae': unknown key; did you mean 'name'?"},
      {"nothing given", "name:\nlr: 0.1\n", {}, "job.yaml:1:1: key 'name': expected text, got nothing"},
      {"empty file", "# only a comment\n", {}, "job.yaml:1:1: expected a map of keys, got an empty file"},
      {"list instead of map", "- name: a\n- lr: 1\n", {}, "job.yaml:1:1: expected a map of keys, got a list"},
      {"word instead of map",
       "name: a\nclip: dual\n",
       {},
       "job.yaml:2:7: key 'clip': expected a map of keys, got 'dual'"},
      {"map instead of number",
       "name: a\nlr: {value: 1}\n",
       {},
       "job.yaml:2:5: key 'lr': expected number in [0, 1], got a map"},
      {"word instead of list",
       "name: a\ntrain: a.h5\n",
       {},
       "job.yaml:2:8: key 'train': expected list of text, got 'a.h5'; write [a.h5]"},
      {"bad element",
       "name: a\nhidden: [64, 0]\n",
       {},
       "job.yaml:2:14: key 'hidden.1': expected integer in [1, 4096], got '0'"},
      {"tab", "name: a\nclip:\n\tlow: 0\n", {}, "job.yaml:3:1: a tab in the indentation; use spaces"},
      {"broken YAML",
       "name: [a\nlr: 1\n",
       {},
       "job.yaml:2:3: not valid YAML: end of sequence flow not found"},
      {"anchor",
       "name: a\nclip: &c {low: 0}\n",
       {},
       "job.yaml:2:7: YAML anchors (&name) are not supported; repeat the value"},
      {"alias",
       "name: a\nlr: *c\n",
       {},
       "job.yaml:2:5: not valid YAML: the referenced anchor is not defined"},
      {"tag",
       "name: !!str a\n",
       {},
       "job.yaml:1:7: YAML tags (tag:yaml.org,2002:str) are not supported; write the plain value"},
      {"two documents",
       "name: a\n---\nname: b\n",
       {},
       "job.yaml: holds several YAML documents (---); one is expected"},
      {"key that is a list",
       "name: a\n? [b]\n: c\n",
       {},
       "job.yaml:2:3: a key must be a word, not a list or a map; is a bracket left open?"},
      {"dots",
       "name: a\nclip..low: 0\n",
       {},
       "job.yaml:2:1: key 'clip..low': expected words joined by single dots"},
      {"rule of a block",
       "name: a\nclip: {low: 0.5}\n",
       {},
       "job.yaml:2:7: key 'clip': low must not exceed high"},
      {"rule of the whole", "name: a\nhidden: []\n", {}, "job.yaml:1:1: hidden needs at least one layer"},
      {"override with a typo",
       "name: a\n",
       {"clip.lwo=0"},
       "override 'clip.lwo=0': key 'clip.lwo': unknown key; did you mean 'clip.low'?"},
      {"override out of range",
       "name: a\n",
       {"lr=2"},
       "override 'lr=2': key 'lr': expected number in [0, 1], got '2'"},
      {"override without a value",
       "name: a\n",
       {"lr"},
       "override 'lr': expected key=value, +key=value or ~key"},
      {"override adds what is there",
       "name: a\n",
       {"+name=b"},
       "override '+name=b': key 'name': already given at job.yaml:1:7; write it without the +"},
      {"override removes what is not there",
       "name: a\n",
       {"~nmae"},
       "override '~nmae': key 'nmae': there is no such key to remove; did you mean 'name'?"},
      {"override goes through a word",
       "name: a\nclip: dual\n",
       {"clip.low=0"},
       "override 'clip.low=0': key 'clip.low': 'clip' is 'dual', not a map"},
      {"override is broken YAML",
       "name: a\n",
       {"hidden=[64"},
       "override 'hidden=[64': a key must be a word, not a list or a map; is a bracket left open?"},
  };
  return all;
}

TEST(ConfigMessages, AreAsWritten) {
  for (const Golden& golden : goldens()) {
    EXPECT_EQ(message_of(golden.yaml, golden.overrides), golden.message) << golden.what;
  }
}

TEST(ConfigMessages, ReachTheReaderWithExitCodeTwo) {
  try {
    Config::parse("", "job.yaml");
    FAIL() << "an empty file was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
  }
}

TEST(Config, ReadsEveryKind) {
  JobOptions options;
  Config::parse(
      "name: run 1\nsteps: 500k\nlr: 1e-3\nnormalise: false\nhidden: [8, 1k]\nweights: [1, .5]\n"
      "train: [a.h5, 'b c.h5']\nclip: {kind: dual, low: 0.1}\n",
      "job.yaml")
      .read(options);
  EXPECT_EQ(options.name, "run 1");
  EXPECT_EQ(options.steps, 500000);
  EXPECT_DOUBLE_EQ(options.lr, 1e-3);
  EXPECT_FALSE(options.normalise);
  EXPECT_EQ(options.hidden, (std::vector<int64_t>{8, 1000}));
  EXPECT_EQ(options.weights, (std::vector<double>{1, 0.5}));
  EXPECT_EQ(options.train, (std::vector<std::string>{"a.h5", "b c.h5"}));
  EXPECT_EQ(options.clip.kind, "dual");
  EXPECT_DOUBLE_EQ(options.clip.low, 0.1);
  EXPECT_DOUBLE_EQ(options.clip.high, 0.2);
}

TEST(Config, IntegersMayCarrySuffixesAndExponents) {
  const std::vector<std::pair<std::string, int64_t>> cases = {
      {"1", 1},          {"+7", 7},          {"1M", 1000000},  {"1.5M", 1500000},
      {"1.1M", 1100000}, {"2G", 2000000000}, {"1e6", 1000000}, {"9223372036854775807", INT64_MAX}};
  for (const auto& [text, value] : cases) {
    JobOptions options;
    Config::parse("name: a\nsteps: " + text, "job.yaml").read(options);
    EXPECT_EQ(options.steps, value) << text;
  }
  for (const char* text :
       {"1K", "1.5", "0.0001k", "k", "+-1", "0x10", "1_000", "1e400", "10000000G", "--1", "1 000"}) {
    EXPECT_NE(message_of(std::string("name: a\nsteps: ") + text), "no error") << text;
  }
}

TEST(Config, OverridesSetAddAndRemove) {
  Config config = Config::parse("name: a\nhidden: [1, 2]\nclip: {low: 0.1}\n", "job.yaml");
  const Config before = config;
  config.apply("clip.high=0.3");
  config.apply("+lr=0.5");
  config.apply("~clip.low");
  config.apply("hidden.1=5");
  config.apply("train=[x.h5, y.h5]");
  JobOptions options;
  config.read(options);
  EXPECT_DOUBLE_EQ(options.clip.high, 0.3);
  EXPECT_DOUBLE_EQ(options.clip.low, 0.2);
  EXPECT_DOUBLE_EQ(options.lr, 0.5);
  EXPECT_EQ(options.hidden, (std::vector<int64_t>{1, 5}));
  EXPECT_EQ(options.train.size(), 2u);
  EXPECT_FALSE(before.has("lr")) << "an override changed a copy";
}

TEST(Config, OverridesMakeTheMapsBetween) {
  Config config = Config::empty("command line");
  config.apply("a.b.c=1");
  EXPECT_EQ(config.text("a.b.c", ""), "1");
}

TEST(Config, MergeLetsTheSecondWinKeyByKey) {
  const Config preset = Config::parse("lr: 0.5\nhidden: [1, 2, 3]\nclip: {kind: dual, low: 0.1}\n", "preset");
  const Config user = Config::parse("name: a\nhidden: [9]\nclip: {low: 0}\ntrain:\n", "job.yaml");
  const Config both = preset.merged_with(user);
  EXPECT_EQ(both.text("lr", ""), "0.5");
  EXPECT_EQ(both.list("hidden").size(), 1u);
  EXPECT_EQ(both.text("clip.kind", ""), "dual");
  EXPECT_EQ(both.text("clip.low", ""), "0");
  try {
    both.fail("clip.kind", "no");
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "preset:3:14: key 'clip.kind': no");
  }
  try {
    both.fail("clip.low", "no");
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "job.yaml:3:13: key 'clip.low': no");
  }
}

TEST(Config, AnEmptyBlockKeepsThePresets) {
  const Config both =
      Config::parse("clip: {low: 0.1}", "preset").merged_with(Config::parse("clip:\n", "job.yaml"));
  EXPECT_EQ(both.text("clip.low", ""), "0.1");
}

TEST(Config, SubTreesKnowTheirPathAndPlace) {
  const Config config =
      Config::parse("policy:\n  prb: {hidden: [1]}\nphases:\n  - {name: a, env.power: equal}\n", "job.yaml");
  EXPECT_EQ(config.keys(), (std::vector<std::string>{"policy", "phases"}));
  const Config prb = config.at("policy.prb");
  try {
    JobOptions options;
    prb.read(options, {"type"});
    FAIL() << "a missing key was accepted";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "job.yaml:2:8: key 'policy.prb.name': missing; expected text (name of the run)");
  }
  const std::vector<Config> phases = config.list("phases");
  ASSERT_EQ(phases.size(), 1u);
  EXPECT_EQ(phases[0].text("env.power", ""), "equal");
  EXPECT_EQ(phases[0].at("env").keys(), std::vector<std::string>{"power"});
  EXPECT_TRUE(config.at("policy.power").keys().empty());
  EXPECT_FALSE(config.has("policy.power"));
  EXPECT_TRUE(config.list("absent").empty());
  EXPECT_EQ(config.at("policy.prb").list("hidden")[0].text("", ""), "1");
}

TEST(Config, ExtraKeysAreLeftAlone) {
  JobOptions options;
  Config::parse("name: a\ntype: job\npreset: {any: thing}\n", "job.yaml").read(options, {"type", "preset"});
  EXPECT_EQ(options.name, "a");
}

TEST(Config, LimitsSizeAndDepth) {
  EXPECT_THROW(Config::parse("a: " + std::string((1 << 20) + 1, 'x'), "big.yaml"), ConfigError);
  EXPECT_THROW(Config::parse("a: " + std::string(100000, '['), "deep.yaml"), ConfigError);
  std::string nested = "1";
  for (int i = 0; i < 70; ++i) nested = "[" + nested + "]";
  EXPECT_THROW(Config::parse("a: " + nested, "deep.yaml"), ConfigError);
  std::string key = "a";
  for (int i = 0; i < 70; ++i) key += ".a";
  EXPECT_THROW(Config::parse(key + ": 1", "deep.yaml"), ConfigError);
  EXPECT_THROW(Config::empty("x").apply(key + "=1"), ConfigError);
  EXPECT_THROW(Config::parse("a: \xff\xfe", "bytes.yaml"), ConfigError);
  EXPECT_THROW(Config::parse(std::string("a: \0b", 5), "bytes.yaml"), ConfigError);
}

TEST(Config, LoadsAFileAndNamesItWhenItCannot) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "job.yaml") << "name: a\nlr: x\n";
  JobOptions options;
  const Config config = Config::load(folder.path() / "job.yaml");
  EXPECT_THROW(config.read(options), ConfigError);
  for (const std::filesystem::path& bad : {folder.path() / "absent.yaml", folder.path()}) {
    try {
      Config::load(bad);
      FAIL() << bad << " was loaded";
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(bad.string()), std::string::npos) << error.what();
    }
  }
}

TEST(Config, ResolvedYamlReadsBackTheSame) {
  JobOptions options;
  options.name = "a: \"b\"\n\t#c\\ \xc3\xa9";
  options.lr = 0.1 + 0.2;
  options.train = {"null", "true", "-", "~", "x/y.h5", "", "1", "- a", "[", "---", "a.b"};
  options.hidden = {1, INT64_C(4096)};
  options.weights = {1e-300, 1e300, 0.1f, 0};
  options.clip.kind = "dual";
  JobOptions again;
  Config::parse(yaml_of(options), "resolved").read(again);
  EXPECT_EQ(again.name, options.name);
  EXPECT_EQ(again.lr, options.lr);
  EXPECT_EQ(again.train, options.train);
  EXPECT_EQ(again.hidden, options.hidden);
  EXPECT_EQ(again.weights, options.weights);
  EXPECT_EQ(yaml_of(again), yaml_of(options));
  const Config tree = Config::parse(yaml_of(options), "resolved");
  EXPECT_EQ(Config::parse(tree.yaml(), "again").yaml(), tree.yaml());
}

TEST(Config, YamlTextKeepsNestingListsAndQuotes) {
  const std::string text = "a:\n  b: [1, {c: \"2\"}]\n  d: {}\ne: null\n";
  EXPECT_EQ(Config::parse(text, "x").yaml(), text);
}

TEST(Config, HelpListsEveryKey) {
  const std::vector<FieldLine> lines = help_of<JobOptions>();
  ASSERT_EQ(lines.size(), 11u);
  EXPECT_EQ(lines[0].path, "name");
  EXPECT_EQ(lines[0].fallback, "required");
  EXPECT_EQ(lines[1].type, "integer");
  EXPECT_EQ(lines[1].range, "[1, inf)");
  EXPECT_EQ(lines[1].unit, "slots");
  EXPECT_EQ(lines[4].fallback, "[64, 64]");
  EXPECT_EQ(lines[7].type, "block");
  EXPECT_EQ(lines[8].path, "clip.kind");
  EXPECT_EQ(lines[8].range, "symmetric | dual | none");
  EXPECT_EQ(lines[10].doc, "upper clip");
}

// Whatever the bytes, parsing ends in a tree or a ConfigError.
TEST(Config, DamagedTextNeverCrashes) {
  const std::string good =
      "name: a\nhidden: [1, {x: \"y\"}]\nclip:\n  low: 0.1 # note\n  kind: 'dual'\ntext: |\n  block\n";
  const std::string alphabet = "[]{}:,#&*!|>'\"%@`?-~ \n\tab01.\\";
  Draws draws(test_seed(), Stream::kTest);
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    const uint32_t changes = 1 + draws.below(6);
    for (uint32_t j = 0; j < changes; ++j) {
      const uint32_t at = draws.below(static_cast<uint32_t>(text.size()));
      const char c = draws.below(4) == 0 ? static_cast<char>(draws.below(256))
                                         : alphabet[draws.below(uint32_t(alphabet.size()))];
      if (draws.below(3) == 0) {
        text.insert(text.begin() + at, c);
      } else {
        text[at] = c;
      }
    }
    try {
      const Config config = Config::parse(text, "damaged");
      EXPECT_EQ(Config::parse(config.yaml() + "z: 1", "again").yaml(), config.yaml() + "z: 1\n") << text;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()), "");
    }
  }
}

}  // namespace
}  // namespace trimtab
