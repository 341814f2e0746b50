// The command line: `trimtab VERB ...`. A verb is one file in this folder that registers itself; the program,
// the help and the shell completions are made from the registry.
//
//   TT_REGISTER(Verb, report, {.name = "report", .doc = "...", .declare = [](Arguments& a) { ... return run;
//   }});
//
// Exit codes: core/error.h. Errors a user can cause are one sentence on standard error.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/registry.h"

namespace trimtab {

// What a verb declares. Variables must outlive the parse: keep them in a shared_ptr captured by the returned
// function.
class Arguments {
 public:
  virtual ~Arguments() = default;
  virtual void flag(const std::string& names, bool& value, const std::string& doc) = 0;         // "--new"
  virtual void text(const std::string& names, std::string& value, const std::string& doc) = 0;  // "--out"
  virtual void integer(const std::string& names, int64_t& value, const std::string& doc) = 0;
  virtual void number(const std::string& names, double& value, const std::string& doc) = 0;
  virtual void texts(const std::string& names, std::vector<std::string>& value,
                     const std::string& doc) = 0;  // takes several words
  virtual void words(const std::string& name, std::vector<std::string>& value,
                     const std::string& doc) = 0;  // the positional words
};

struct Verb {
  std::string name, doc;
  std::function<std::function<int()>(Arguments&)>
      declare;  // returns what to run; its result is the exit code
};

// Parses and runs; returns the exit code. `words` without the program's name.
int run_command(const std::vector<std::string>& words);

// The options of a verb ("--json", ...), for completion.
std::vector<std::string> option_names(const Verb& verb);

// Moves `a.b=c`, `+a.b=c` and `~a.b` out of `words` (what names an existing file stays) and returns them in
// order.
std::vector<std::string> take_overrides(std::vector<std::string>& words);

}  // namespace trimtab
