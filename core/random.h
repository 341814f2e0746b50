// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// There is no generator state anywhere. A draw is a pure function of (seed, stream, counter), where the counter says what
// the draw belongs to (episode, slot, user, attempt; or update, row, epoch). So a resumed run needs no random state, and
// two policies under comparison meet the same draws whatever they do.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace trimtab {

// What a family of draws is for. Draws of different streams are independent for equal counters.
enum class Stream : uint32_t {
  kInitialise = 1,   // parameters of networks
  kShuffle = 2,      // minibatch permutations
  kAction = 3,       // exploration noise of policies
  kWorld = 4,        // reset state of environments: which drop, which offset
  kChannel = 5,      // synthetic fading
  kAck = 6,          // transport-block success
  kArrival = 7,      // traffic
  kBootstrap = 8,    // resampling in evaluation
  kTest = 9,         // cases of property tests
  kToken = 10,       // sampled tokens of language models: (prompt key, sample, position)
};

struct Counter {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

// Ten rounds of Philox4x32 on counter `x` under a 64-bit key.
inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> x, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * x[0], p1 = uint64_t{0xCD9E8D57u} * x[2];
    x = {static_cast<uint32_t>(p1 >> 32) ^ x[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ x[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return x;
}

inline uint64_t mix64(uint64_t x) {  // SplitMix64's finaliser
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// [0, 1) with 24 bits.
inline float uniform01(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

// Four independent words for one (seed, stream, counter).
inline std::array<uint32_t, 4> random_words(uint64_t seed, Stream stream, Counter n) {
  return philox4x32({n.a, n.b, n.c, n.d}, mix64(seed ^ (uint64_t{static_cast<uint32_t>(stream)} << 56)));
}

// A sequence of draws that all belong to one (seed, stream, counter); the last counter word is consumed by the sequence.
class Draws {
 public:
  Draws(uint64_t seed, Stream stream, uint32_t a = 0, uint32_t b = 0, uint32_t c = 0)
      : key_(mix64(seed ^ (uint64_t{static_cast<uint32_t>(stream)} << 56))), counter_{a, b, c, 0} {}

  uint32_t bits() {
    if (used_ == 4) {
      words_ = philox4x32(counter_, key_);
      ++counter_[3];
      used_ = 0;
    }
    return words_[used_++];
  }
  float uniform() { return uniform01(bits()); }                                  // [0, 1)
  float uniform(float low, float high) { return low + (high - low) * uniform(); }  // [low, high)
  // Uniform integer in [0, n), by Lemire's multiply-shift; the bias is below n / 2^32.
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((uint64_t{bits()} * n) >> 32); }
  // Standard normal by Box-Muller; both numbers of a pair are used.
  float normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    const float u = (static_cast<float>(bits() >> 8) + 0.5f) * 0x1p-24f, v = uniform();
    const float r = std::sqrt(-2.0f * std::log(u)), phi = 6.28318530717958648f * v;
    spare_ = r * std::sin(phi);
    has_spare_ = true;
    return r * std::cos(phi);
  }
  float exponential() { return -std::log((static_cast<float>(bits() >> 8) + 0.5f) * 0x1p-24f); }  // mean 1

 private:
  uint64_t key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> words_{};
  int used_ = 4;
  bool has_spare_ = false;
  float spare_ = 0;
};

}  // namespace trimtab
