// Ranks: the processes that train together. Normalisers, sampling, statistics and checkpoints are written
// against this interface from the start; today there is one implementation, a single process.
#pragma once

#include <cstdint>
#include <span>

namespace trimtab {

class Ranks {
 public:
  virtual ~Ranks() = default;
  virtual int rank() const = 0;  // 0 .. size() - 1
  virtual int size() const = 0;
  // Element-wise sum over ranks, in rank order (so that the result does not depend on arrival); every rank
  // gets it.
  virtual void sum(std::span<double> values) = 0;
  virtual void sum(std::span<float> values) = 0;
  virtual void broadcast(std::span<float> values, int root) = 0;
  virtual void barrier() = 0;
  bool is_main() const { return rank() == 0; }
};

class OneProcess final : public Ranks {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void sum(std::span<double>) override {}
  void sum(std::span<float>) override {}
  void broadcast(std::span<float>, int) override {}
  void barrier() override {}
};

// What everything runs on unless told otherwise. Has no state, so one serves all.
inline Ranks& one_process() {
  static OneProcess alone;
  return alone;
}

}  // namespace trimtab
