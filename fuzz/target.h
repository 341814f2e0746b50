// Readers of files that somebody else wrote, each as a function of bytes: what libFuzzer calls (main.cpp) and an ordinary test replays
// (replay_test.cpp). A target either reads its input or throws the error its reader promises; whatever else happens is a defect.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace trimtab::fuzz {

using Bytes = std::span<const uint8_t>;
inline std::string text_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

struct Target {
  std::string name;                // its corpus is fuzz/corpus/NAME
  void (*run)(Bytes input);
  double memory_per_byte = 4;      // most memory of a run: memory_per_byte * (bytes of input) + kFixedMemory
};
constexpr size_t kFixedMemory = size_t{16} << 20;

// What a target, or the bound on its memory, does not keep to.
struct Broken : std::logic_error {
  using std::logic_error::logic_error;
};
#define FUZZ_CHECK(condition) \
  if (!(condition)) throw ::trimtab::fuzz::Broken(std::string(__FILE__) + ": " #condition)

// Runs the target on a copy of exactly the input's size and holds its memory, the copy included, against the bound. Broken when it goes
// beyond; other exceptions are the target's.
void run_bounded(const Target& target, Bytes input);
// Most memory of the last run_bounded, bytes; 0 where it cannot be measured.
size_t last_peak();

// A file in a folder of this process's own, overwritten at each call: for readers that take a path. A name each.
std::string write_input(const std::string& name, Bytes input);

}  // namespace trimtab::fuzz
