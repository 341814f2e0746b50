// Training by evaluations alone: simultaneous perturbation stochastic approximation with shared randomness and one byte per gradient.
//
// Spall, "Multivariate stochastic approximation using a simultaneous perturbation gradient approximation", IEEE TAC 1992; on language
// models MeZO (Malladi et al., arXiv 2305.17333); the exchange is that of Zelikman et al., "Just One Byte (per gradient)",
// arXiv 2306.10015. For each direction z, drawn by key (seed, phase, step, direction) and never stored,
//
//   p = (L(theta + eps z) - L(theta - eps z)) / (2 eps),      b = code of p, one byte
//   theta <- theta - lr_t / directions * sum over directions of value(b) z,      lr_t = lr / (1 + t / decay)
//
// Ranks share the directions, each with examples of its own; bytes alone are exchanged, and every rank draws the others' directions
// again. So the start and the bytes are the whole run: replay_spsa() makes its parameters again, bit for bit.
//
// Two differences: perturbed parameters are written from a copy (eps is not added and taken off again), because rounding would
// otherwise leave traces that no byte tells of; and signs (Rademacher) are the default direction, whose draws are integers alone.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/options.h"
#include "core/pool.h"
#include "core/ranks.h"

namespace trimtab {

// The byte of a projected gradient: bit 7 is its sign, bits 0 to 6 a level. Level 0 is zero, level k is 2^((k - 65) / 8): from 2^-8 to
// 2^7.75, neighbours 9 % apart. The nearest level in logarithms is taken, so a value is off by at most 4.5 %; what is larger than the
// largest becomes the largest, what is below 2^-8.5 becomes zero.
uint8_t projection_code(double projection);   // a finite number
float projection_value(uint8_t code);

struct SpsaOptions {
  double lr = 1e-4, epsilon = 1e-3, decay = 0;
  int64_t directions = 1;
  std::string direction = "sign";
  void describe(Fields& f);
};

// What directions are drawn from.
struct SpsaKey {
  uint64_t seed = 0, phase = 0;
};

class Spsa {
 public:
  // `parameters`, `ranks` and `pool` outlive this. ConfigError when there are more ranks than directions.
  Spsa(std::span<float> parameters, const SpsaOptions& options, SpsaKey key, Ranks& ranks, Pool& pool);

  struct Step {
    double loss = 0;         // mean of this rank's evaluations
    double projection = 0;   // mean absolute projected gradient of this rank, before its byte
    double saturated = 0;    // share of this rank's bytes that are the largest
    double lr = 0;
  };
  using Loss = std::function<double(int64_t k)>;
  // A loss that is not finite: throws, or returns for direction k to be left out (its byte is 0, and a replay leaves it out too).
  using NotFinite = std::function<void(int64_t k, double loss)>;
  // `loss` evaluates direction k's examples at the parameters as they are; called twice for every direction, and whatever is random
  // in it must be the same in both. `not_finite` is called with the parameters as before; without it RunError.
  Step step(const Loss& loss, const NotFinite& not_finite = {});
  int64_t steps() const;

  // Everything so far: a line of JSON with the options, the key and the numbers of directions and parameters; then one byte per
  // step and direction, in that order.
  const std::string& log() const { return log_; }
  // The log of a checkpoint. CheckpointError when it is of other options.
  void restore(std::string log);

 private:
  double project(int64_t k, const Loss& loss, const NotFinite& not_finite, Step& out);

  std::span<float> parameters_;
  SpsaOptions options_;
  SpsaKey key_;
  Ranks& ranks_;
  Pool& pool_;
  std::vector<float> base_;   // the parameters while they are perturbed
  std::string log_;
  size_t header_;             // bytes of the line
};

// Takes a run's steps again, from the parameters it began with. DataError when the log is damaged or of another number of parameters.
void replay_spsa(std::span<float> parameters, const std::string& log, Pool& pool);

}  // namespace trimtab
