#include "core/error.h"

#include <cstdio>
#include <cstdlib>

namespace trimtab {

void check_failed(const char* file, int line, const char* expression, const std::string& detail) {
  std::fprintf(stderr, "%s:%d: check failed: %s%s%s\nThis is a defect of trimtab, please report it.\n", file, line,
               expression, detail.empty() ? "" : ": ", detail.c_str());
  std::abort();
}

}  // namespace trimtab
