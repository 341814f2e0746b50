// Runs Python of the oracle environment (.deps/oracle, filled by scripts/setup from
// scripts/requirements/oracle.txt).
#pragma once

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/test_command.h"

namespace trimtab {

inline std::filesystem::path oracle_python() {
  return std::filesystem::path(TRIMTAB_SOURCE_DIR) / ".deps/oracle/bin/python";
}

// Whether `package` can be imported there.
inline bool oracle_has(const std::string& package) {
  if (!std::filesystem::exists(oracle_python())) return false;
  const std::string command =
      fmt::format("'{}' -c 'import {}' 2>/dev/null", oracle_python().string(), package);
  return std::system(command.c_str()) == 0;
}

// What `script` prints, run with the folder to work in as sys.argv[1]. The test fails loudly when Python
// does.
inline std::string run_oracle(const std::string& script, const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "oracle_script.py";
  std::ofstream(file) << script;
  const std::string command =
      fmt::format("'{}' '{}' '{}'", oracle_python().string(), file.string(), folder.string());
  Printed out = run_command(command);
  TT_CHECK(out.status == 0, "the oracle script ended with status {}", out.status);
  return std::move(out.text);
}

}  // namespace trimtab
