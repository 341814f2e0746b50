// What the GPU tests share: device arrays, a check that ends the program, and the exit code that ctest counts
// as skipped.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/random.h"

namespace trimtab::gpu {

constexpr int kSkipped = 77;

inline bool no_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return false;
  std::puts("skipped: no CUDA device");
  return true;
}

inline void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

inline void require_near(double actual, double expected, double bound, const char* what, int64_t index) {
  if (std::abs(actual - expected) <= bound) return;  // false for NaN too
  std::printf("%s[%lld]: %.9g, expected %.9g within %.3g\n", what, static_cast<long long>(index), actual,
              expected, bound);
  std::exit(1);
}

// Ends the test with what is wrong in a case, unless that is nothing.
inline void require_nothing(const std::string& mismatch, uint32_t number) {
  if (mismatch.empty()) return;
  std::printf("case %u: %s\n", number, mismatch.c_str());
  std::exit(1);
}

inline uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 20260101;
}

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& host) : size_(host.size()) {
    require(cudaMalloc(reinterpret_cast<void**>(&data_), (size_ + 1) * sizeof(T)), "cudaMalloc");
    require(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "copy to the device");
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* data() { return data_; }
  std::vector<T> host() const {
    std::vector<T> out(size_);
    require(cudaMemcpy(out.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "copy from the device");
    return out;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

inline std::vector<float> random_numbers(int64_t size, Draws& draws) {
  std::vector<float> out(size);
  const float scales[] = {1.0f, 1.0f, 0.0f, 1e-40f, 1e12f, 1e-3f};
  for (float& x : out) x = draws.normal() * (draws.below(8) ? 1.0f : scales[draws.below(6)]);
  return out;
}

}  // namespace trimtab::gpu
