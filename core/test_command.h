// For tests: what a command of the shell prints.
#pragma once

#include <cstdio>
#include <string>

#include "core/error.h"

namespace trimtab {

struct Printed {
  std::string text;
  int status = 0;   // as pclose gives it
};

// Standard output; add 2>&1 for errors too.
inline Printed run_command(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  TT_CHECK(pipe != nullptr);
  Printed out;
  char piece[4096];
  for (size_t size; (size = fread(piece, 1, sizeof(piece), pipe)) > 0;) out.text.append(piece, size);
  out.status = pclose(pipe);
  return out;
}

}  // namespace trimtab
