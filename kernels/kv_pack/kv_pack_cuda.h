// kv_pack on a CUDA device, one block per page: the same bytes as on the CPU, bit for bit, from rows of f16, bf16 or float. And the page
// format as CUDA kernels take it (kv_format.h has the definition; it is C++20, which CUDA sources here are not).
#pragma once

#include "kernels/cuda_device/cuda_types.h"

#if __cplusplus >= 202002L
#include "kernels/kv_pack/kv_format.h"
#endif

namespace trimtab {

// KvShape and KvQuantiser.
struct KvFormatCuda {
  int32_t head_dim = 0, tokens = 0;   // of a page
  int32_t value_group = 0;            // 0: the whole head
  bool keys_by_token = false, symmetric = false, key_norm = false, value_channel_scale = false;
};

// A page to pack. All pointers are in device memory; rows [tokens, head_dim] at `stride`.
template <class T>
struct KvPackPageCuda {
  const T *keys = nullptr, *values = nullptr;
  uint8_t* page = nullptr;            // [kv_layout().bytes], aligned to 64
  uint8_t key_bits = 16, value_bits = 16;   // both 0: nothing is written
};

// As KvPackResult; the errors are those of the CPU to a float's rounding, since they are summed in another order.
struct KvPackResultCuda {
  float key_error = 0, value_error = 0;
  int32_t bad_token = -1, bad_channel = -1;
  bool bad_value = false;
};

template <class T>
struct KvPackCuda {
  KvFormatCuda format;
  int64_t pages = 0;
  const KvPackPageCuda<T>* list = nullptr;   // [pages], in device memory; widths are 16, 8, 4 or 2, which is not checked
  int64_t stride = 0;
  KvPackResultCuda* results = nullptr;       // [pages], or null
};

// A format that kv_format_fault would fault is cudaErrorInvalidValue. Work is queued on `stream` and nothing waits. A page with a number
// that is not finite or beyond f16 says so in its result and holds nothing of use.
cudaError_t kv_pack_cuda(const KvPackCuda<float>& pack, cudaStream_t stream);
cudaError_t kv_pack_cuda(const KvPackCuda<Float16>& pack, cudaStream_t stream);
cudaError_t kv_pack_cuda(const KvPackCuda<Bfloat16>& pack, cudaStream_t stream);

#if __cplusplus >= 202002L
inline KvFormatCuda kv_format_cuda(const KvShape& s, const KvQuantiser& q) {
  return {static_cast<int32_t>(s.head_dim), static_cast<int32_t>(s.tokens), static_cast<int32_t>(q.value_group), q.key_groups == KeyGroups::kToken,
          q.symmetric, q.key_norm, q.value_channel_scale};
}
#endif

}  // namespace trimtab
