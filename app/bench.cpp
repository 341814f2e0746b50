// `trimtab bench [NAME] [--json OUT]`: hands over to scripts/bench of the source tree, which sets up the
// peers.
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "app/command.h"
#include "app/units.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

struct BenchOptions {
  std::vector<std::string> names;
  std::string json;
};

int run_script(const std::vector<std::string>& words) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) throw RunError(fmt::format("{} could not be started: {}", words[0], std::strerror(errno)));
  if (child == 0) {
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) throw RunError(fmt::format("{}: {}", words[0], std::strerror(errno)));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : static_cast<int>(ExitCode::kRunFailed);
}

int bench(const BenchOptions& options) {
  const fs::path script = source_tree() / "scripts" / "bench";
  if (!fs::exists(script))
    throw ConfigError(
        fmt::format("{}: benchmarks run from the source tree this program was built from", script.string()));
  if (options.names.empty()) return run_script({script.string(), "--list"});
  for (const std::string& name : options.names) {
    if (!fs::exists(source_tree() / "bench" / name / "run"))
      throw ConfigError(fmt::format("no benchmark is called '{}'; `trimtab bench` lists them", name));
  }
  if (options.names.size() > 1)
    throw ConfigError("bench runs one benchmark at a time, so that nothing else disturbs it");
  std::vector<std::string> words = {script.string(), options.names[0]};
  if (!options.json.empty()) words.insert(words.end(), {"--json", options.json});
  return run_script(words);
}

TT_REGISTER(Verb, bench,
            {.name = "bench",
             .doc = "Run a side-by-side benchmark against its peers; without a name, list them",
             .declare = [](Arguments& a) {
               auto options = std::make_shared<BenchOptions>();
               a.words("NAME", options->names, "the benchmark");
               a.text("--json", options->json, "where to write the results");
               return [options] { return bench(*options); };
             }});

}  // namespace
}  // namespace trimtab
