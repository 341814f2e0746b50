// What the tests of the link level share.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace trimtab::radio {

// Seed of the property tests: TRIMTAB_TEST_SEED, or 1.
inline uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

}  // namespace trimtab::radio
