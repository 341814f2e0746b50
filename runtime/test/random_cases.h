// Random cases of the property tests: one seed from TRIMTAB_TEST_SEED (fixed by default), printed with every failure.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>

inline uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 20260101;
}

class RandomCases {
 public:
  RandomCases() : generator_(test_seed()) {}
  float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(generator_); }
  float normal() { return normal_(generator_); }
  int integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator_); }
  std::mt19937_64& generator() { return generator_; }
  std::string seed_text() const { return "TRIMTAB_TEST_SEED=" + std::to_string(test_seed()); }

 private:
  std::mt19937_64 generator_;
  std::normal_distribution<float> normal_;
};
