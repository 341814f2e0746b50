// A block of floats whose rows start on 64-byte boundaries; zero at first.
#pragma once

#include <cstdint>

#include "hwy/aligned_allocator.h"

namespace trimtab {

class RowBuffer {
 public:
  RowBuffer() = default;
  RowBuffer(int64_t rows, int64_t columns);
  float* row(int64_t i) { return data_.get() + i * stride_; }
  const float* row(int64_t i) const { return data_.get() + i * stride_; }
  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  int64_t stride() const { return stride_; }

 private:
  hwy::AlignedFreeUniquePtr<float[]> data_;
  int64_t stride_ = 0;
};

}  // namespace trimtab
