// The parser behind command.h: CLI11 here only, so that verbs compile quickly.
#include "app/command.h"

#include <CLI/CLI.hpp>

#include <cctype>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <new>

namespace trimtab {
namespace {

class ParserArguments final : public Arguments {
 public:
  explicit ParserArguments(CLI::App& app) : app_(app) {}
  void flag(const std::string& names, bool& value, const std::string& doc) override {
    app_.add_flag(names, value, doc);
  }
  void text(const std::string& names, std::string& value, const std::string& doc) override {
    app_.add_option(names, value, doc);
  }
  void integer(const std::string& names, int64_t& value, const std::string& doc) override {
    app_.add_option(names, value, doc)->capture_default_str();
  }
  void number(const std::string& names, double& value, const std::string& doc) override {
    app_.add_option(names, value, doc);
  }
  void texts(const std::string& names, std::vector<std::string>& value, const std::string& doc) override {
    app_.add_option(names, value, doc);
  }
  void words(const std::string& name, std::vector<std::string>& value, const std::string& doc) override {
    app_.add_option(name, value, doc);
  }

 private:
  CLI::App& app_;
};

class NameCollector final : public Arguments {
 public:
  void flag(const std::string& names, bool&, const std::string&) override { out.push_back(names); }
  void text(const std::string& names, std::string&, const std::string&) override { out.push_back(names); }
  void integer(const std::string& names, int64_t&, const std::string&) override { out.push_back(names); }
  void number(const std::string& names, double&, const std::string&) override { out.push_back(names); }
  void texts(const std::string& names, std::vector<std::string>&, const std::string&) override {
    out.push_back(names);
  }
  void words(const std::string&, std::vector<std::string>&, const std::string&) override {}
  std::vector<std::string> out;
};

int say(const std::string& message, ExitCode code) {
  std::fflush(stdout);
  fmt::print(stderr, "trimtab: {}\n", message);
  return static_cast<int>(code);
}

int parse_failed(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
  return say(
      fmt::format("{}; `trimtab --help` and `trimtab VERB --help` list what is possible", error.what()),
      ExitCode::kUsage);
}

int run_guarded(const std::function<int()>& run) {
  try {
    return run();
  } catch (const Error& error) {
    return say(error.what(), error.code());
  } catch (const std::bad_alloc&) {
    return say("out of memory; use fewer environments, episodes or threads", ExitCode::kRunFailed);
  } catch (const std::exception& error) {
    return say(error.what(), ExitCode::kRunFailed);
  }
}

bool is_override(const std::string& word) {
  std::error_code too_long;   // a list of many words is longer than any file's name
  if (word.empty() || std::filesystem::exists(word, too_long)) return false;
  const size_t start = word[0] == '+' || word[0] == '~' ? 1 : 0;
  const size_t end = word[0] == '~' ? word.size() : word.find('=');
  if (end == std::string::npos || end == start) return false;
  for (size_t i = start; i < end; ++i) {
    const unsigned char c = word[i];
    if (!std::isalnum(c) && c != '.' && c != '_') return false;
  }
  return true;
}

}  // namespace

int run_command(const std::vector<std::string>& words) {
  CLI::App app(
      "Trains small learned controllers for big engines, evaluates them against the heuristics in use, and "
      "exports them to a runtime without dependencies.",
      "trimtab");
  app.set_version_flag("--version", "trimtab " TRIMTAB_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 2 wrong usage or configuration, 3 bad data, 4 run failed, 130 interrupted.");

  const auto& verbs = Registry<Verb>::instance();
  std::map<const CLI::App*, std::function<int()>> runs;
  for (const std::string& name : verbs.names()) {
    const Verb& verb = verbs.get(name, "verb");
    CLI::App* command = app.add_subcommand(verb.name, verb.doc);
    ParserArguments arguments(*command);
    runs[command] = verb.declare(arguments);
  }
  try {
    app.parse(std::vector<std::string>(words.rbegin(), words.rend()));  // CLI11 wants the words in reverse
  } catch (const CLI::ParseError& error) {
    return parse_failed(app, error);
  }
  return run_guarded(runs.at(app.get_subcommands().front()));
}

std::vector<std::string> option_names(const Verb& verb) {
  NameCollector collector;
  verb.declare(collector);
  collector.out.push_back("--help");
  return collector.out;
}

std::vector<std::string> take_overrides(std::vector<std::string>& words) {
  std::vector<std::string> overrides, rest;
  for (const std::string& word : words) (is_override(word) ? overrides : rest).push_back(word);
  words = std::move(rest);
  return overrides;
}

}  // namespace trimtab
