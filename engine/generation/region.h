// Zeroed memory in whole pages that the system provides as it is touched: a cache may be as long as the longest answer allowed
// and costs what the answers use.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/error.h"

namespace trimtab {

class Region {
 public:
  Region() = default;
  explicit Region(int64_t numbers) { reserve(numbers); }
  ~Region() { release(); }
  Region(Region&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Region& operator=(Region&& other) noexcept {
    std::swap(data_, other.data_), std::swap(bytes_, other.bytes_);
    return *this;
  }

  // Room for `numbers` floats; what was in it is lost when it has to grow.
  void reserve(int64_t numbers) {
    const size_t bytes = static_cast<size_t>(numbers) * sizeof(float);
    if (bytes <= bytes_) return;
    release();
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) throw RunError(fmt::format("no {} MB of memory for generation: lower max_sequences or max_tokens", bytes >> 20));
    data_ = static_cast<float*>(data), bytes_ = bytes;
    if (bytes <= kHugeUpTo) madvise(data, bytes, MADV_HUGEPAGE);   // fewer misses of the address cache; a wish, not a need
  }
  float* data() const { return data_; }

 private:
  static constexpr size_t kHugeUpTo = size_t{1} << 30;   // huge pages cost memory where little of a region is used
  void release() {
    if (data_ != nullptr) munmap(data_, bytes_);
    data_ = nullptr, bytes_ = 0;
  }
  float* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace trimtab
