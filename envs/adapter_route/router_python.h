// For tests of examples/adapter_router: Python runs it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/error.h"
#include "core/test_command.h"

namespace trimtab {

inline std::filesystem::path router_folder() { return TRIMTAB_SOURCE_DIR "/examples/adapter_router"; }

inline bool python_is_here() { return std::system("python3 --version > /dev/null 2>&1") == 0; }

// What the router prints for a file of requests, errors included.
inline Printed run_router_script(const std::filesystem::path& residents, const std::filesystem::path& requests, const std::string& options = "") {
  return run_command(
      fmt::format("PYTHONDONTWRITEBYTECODE=1 python3 '{}' '{}' {} < '{}' 2>&1", (router_folder() / "router.py").string(), residents.string(), options, requests.string()));
}

}  // namespace trimtab
