// Files of one record a line: the lines that hold something, each with its place for messages.
#pragma once

#include <cstdint>
#include <string>

#include "core/error.h"
#include "core/text.h"

namespace trimtab {

// visit("file:3", line) for every line of `contents` that is not blank, in order.
template <class Visit>
void filled_lines(const std::string& file, const std::string& contents, const Visit& visit) {
  int64_t number = 0;
  for (const std::string& line : split(contents, '\n')) {
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string::npos) visit(fmt::format("{}:{}", file, number), line);
  }
}

}  // namespace trimtab
