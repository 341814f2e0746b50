// 16-bit numbers on the host, by the toolkit's conversions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda_device/cuda_types.h"

namespace trimtab::gpu {

inline Float16 half_of(float x) { return {__half_raw(__float2half_rn(x)).x}; }
inline double half_value(Float16 x) { return __half2float(__half_raw{x.bits}); }
inline Bfloat16 bfloat_of(float x) { return {__nv_bfloat16_raw(__float2bfloat16_rn(x)).x}; }
inline double bfloat_value(Bfloat16 x) { return __bfloat162float(__nv_bfloat16_raw{x.bits}); }
inline float float_of(float x) { return x; }
inline double float_value(float x) { return x; }

}  // namespace trimtab::gpu
