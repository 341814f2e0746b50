// The arithmetic of a controllers' run before it starts, for `trimtab train CONFIG --dry-run`.
#pragma once

#include <cstdint>
#include <string>

namespace trimtab {

class Job;

// Opens every phase's environment. ConfigError, DataError as training would throw.
std::string plan_of(const Job& job);

std::string grouped_digits(int64_t number);   // 1 234 567
std::string mebibytes(double bytes);          // "12.3 MiB"
std::string counted(int64_t number, const std::string& what);   // "1 update", "2 updates"

}  // namespace trimtab
