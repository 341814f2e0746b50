// Errors. What a user can cause is an exception whose sentence says what to do; what only we can cause is a TT_CHECK,
// which is on in every build and prints both values. The exception's type decides the process's exit code.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace trimtab {

enum class ExitCode { kOk = 0, kUsage = 2, kData = 3, kRunFailed = 4, kInterrupted = 130 };

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// A wrong configuration or command line: exit code 2.
struct ConfigError : Error {
  explicit ConfigError(const std::string& message) : Error(ExitCode::kUsage, message) {}
};
// A trace, artefact or other input file that cannot be used: exit code 3.
struct DataError : Error {
  explicit DataError(const std::string& message) : Error(ExitCode::kData, message) {}
};
// A checkpoint that cannot be written or read: exit code 4.
struct CheckpointError : Error {
  explicit CheckpointError(const std::string& message) : Error(ExitCode::kRunFailed, message) {}
};
// A run that could not go on (non-finite numbers, no progress possible): exit code 4.
struct RunError : Error {
  explicit RunError(const std::string& message) : Error(ExitCode::kRunFailed, message) {}
};
// The user pressed Ctrl-C; the run can be resumed: exit code 130.
struct Interrupted : Error {
  explicit Interrupted(const std::string& message) : Error(ExitCode::kInterrupted, message) {}
};

[[noreturn]] void check_failed(const char* file, int line, const char* expression, const std::string& detail);

}  // namespace trimtab

#define TT_CHECK(condition, ...)                                                                     \
  do {                                                                                               \
    if (!(condition)) [[unlikely]]                                                                   \
      ::trimtab::check_failed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__));        \
  } while (false)

#define TT_CHECK_OP(a, op, b)                                                                        \
  do {                                                                                               \
    const auto& tt_a_ = (a);                                                                         \
    const auto& tt_b_ = (b);                                                                         \
    if (!(tt_a_ op tt_b_)) [[unlikely]]                                                              \
      ::trimtab::check_failed(__FILE__, __LINE__, #a " " #op " " #b,                                 \
                              ::fmt::format("{} against {}", tt_a_, tt_b_));                         \
  } while (false)
#define TT_CHECK_EQ(a, b) TT_CHECK_OP(a, ==, b)
#define TT_CHECK_LT(a, b) TT_CHECK_OP(a, <, b)
#define TT_CHECK_LE(a, b) TT_CHECK_OP(a, <=, b)
#define TT_CHECK_GT(a, b) TT_CHECK_OP(a, >, b)
#define TT_CHECK_GE(a, b) TT_CHECK_OP(a, >=, b)
