// For tests of examples/commit_strategy: Python runs it, with the runtime of this build.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "core/test_command.h"

namespace trimtab {

inline std::filesystem::path strategy_folder() { return TRIMTAB_SOURCE_DIR "/examples/commit_strategy"; }
inline std::filesystem::path shared_runtime() { return TRIMTAB_BINARY_DIR "/runtime/libtrimtab_runtime.so"; }

// Why it cannot run here; empty where it can.
inline std::string why_no_strategy() {
  if (std::system("python3 -c 'import ctypes' > /dev/null 2>&1") != 0) return "no python3 here";
  if (!std::filesystem::exists(shared_runtime())) return "build the target trimtab_runtime_shared first";
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return "an instrumented runtime cannot be loaded into Python";
#endif
  return "";
}

// Errors included.
inline Printed run_python(const std::string& arguments) {
  const std::string runtime = fmt::format("PYTHONDONTWRITEBYTECODE=1 TRIMTAB_RUNTIME='{}'", shared_runtime().string());
  return run_command(fmt::format("{} python3 {} 2>&1", runtime, arguments));
}

// The JSON that a script prints. It has `case`, which is `input`, and can import from the example's folder; its files lie in `folder`.
inline nlohmann::json run_strategy(const std::filesystem::path& folder, const std::string& script, const nlohmann::json& input) {
  std::ofstream(folder / "case.json") << input;
  std::ofstream(folder / "script.py") << fmt::format("import json, sys\nsys.path.insert(0, '{}')\ncase = json.load(open('{}'))\n", strategy_folder().string(),
                                                     (folder / "case.json").string())
                                      << script;
  const Printed out = run_python(fmt::format("'{}'", (folder / "script.py").string()));
  TT_CHECK(out.status == 0, "the script ended with status {}: {}", out.status, out.text);
  return nlohmann::json::parse(out.text);
}

}  // namespace trimtab
