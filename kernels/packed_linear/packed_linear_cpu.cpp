// Packed linear layer on the CPU. A tile of R rows by one panel stays in registers over the whole inner loop: an iteration loads
// the panel's 32 weights, broadcasts R inputs and does 32 R multiply-adds. Compiled once per instruction set.
#include "kernels/packed_linear/packed_linear.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "hwy/cache_control.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)  // AVX-512, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/packed_linear/packed_linear_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "kernels/activation/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
constexpr int kVectors = static_cast<int>(kPackedPanel) / kLanes;
// Sums that fit beside the weights and a broadcast: 14 x 2 of the 32 registers of AVX-512, 3 x 4 of AVX2's 16.
constexpr int kMostRows = kLanes == 16 ? 14 : kLanes == 8 ? 3 : 1;
// Weights are asked for this far ahead: the processor's own prefetching stops at the end of a page.
constexpr int64_t kAhead = 2048;   // numbers

HWY_INLINE V silu_product(V gate, V value) {
  const D d;
  const V grown = hn::Exp(d, at_most(hn::Set(d, 88.0f), hn::Neg(gate)));
  return hn::Mul(hn::Div(gate, hn::Add(hn::Set(d, 1.0f), grown)), value);
}

template <int kRows>
HWY_INLINE void finish_tile(const V (&sum)[kRows][kVectors], PackedFinish finish, float* y, int64_t y_stride) {
  const D d;
#pragma GCC unroll 14
  for (int r = 0; r < kRows; ++r) {
    float* to = y + r * y_stride;
    if (finish == PackedFinish::kSiluProduct) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors / 2; ++v) hn::StoreU(silu_product(sum[r][v], sum[r][v + kVectors / 2]), d, to + v * kLanes);
      continue;
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const V old = finish == PackedFinish::kAdd ? hn::LoadU(d, to + v * kLanes) : hn::Zero(d);
      hn::StoreU(hn::Add(sum[r][v], old), d, to + v * kLanes);
    }
  }
}

template <int kRows>
HWY_NOINLINE void tile(const PackedLinear& p, int64_t row, int64_t panel, bool first_pass) {
  const D d;
  V sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const V start = p.bias ? hn::LoadU(d, p.bias + panel * kPackedPanel + v * kLanes) : hn::Zero(d);
#pragma GCC unroll 14
    for (int r = 0; r < kRows; ++r) sum[r][v] = start;
  }
  const float* x = p.x + row * p.x_stride;
  const float* w = p.weight + panel * p.in * kPackedPanel;
  for (int64_t k = 0; k < p.in; ++k, ++x, w += kPackedPanel) {
    if (first_pass) {
      hwy::Prefetch(w + kAhead);
      hwy::Prefetch(w + kAhead + 16);
    }
    V weight[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) weight[v] = hn::LoadU(d, w + v * kLanes);
#pragma GCC unroll 14
    for (int r = 0; r < kRows; ++r) {
      const V factor = hn::Set(d, x[r * p.x_stride]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::MulAdd(factor, weight[v], sum[r][v]);
    }
  }
  const int64_t width = p.finish == PackedFinish::kSiluProduct ? kPackedPanel / 2 : kPackedPanel;
  finish_tile<kRows>(sum, p.finish, p.y + row * p.y_stride + panel * width, p.y_stride);
}

using Tile = void (*)(const PackedLinear&, int64_t row, int64_t panel, bool first_pass);

template <int... kRows>
void linear_with(const PackedLinear& p, std::integer_sequence<int, kRows...>) {
  static constexpr Tile kTiles[] = {tile<kRows + 1>...};
  const int64_t tiles = (p.rows + kMostRows - 1) / kMostRows;   // of nearly equal height
  for (int64_t panel = p.first_panel; panel < p.last_panel; ++panel) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = p.rows * t / tiles, end = p.rows * (t + 1) / tiles;
      kTiles[end - row - 1](p, row, panel, t == 0);
    }
  }
}

void linear(const PackedLinear& p) { linear_with(p, std::make_integer_sequence<int, kMostRows>()); }

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {

HWY_EXPORT(linear);

void packed_linear(const PackedLinear& p) {
  TT_CHECK(p.rows >= 0 && p.in >= 0 && p.first_panel >= 0, "{} rows, {} inputs, panels from {}", p.rows, p.in, p.first_panel);
  if (p.rows == 0 || p.first_panel >= p.last_panel) return;
  TT_CHECK_GE(p.x_stride, p.rows > 1 ? p.in : 0);
  TT_CHECK((p.x && p.weight) || p.in == 0, "an input is missing");
  TT_CHECK(p.y, "the output is missing");
  HWY_DYNAMIC_DISPATCH(linear)(p);
}

void pack_panel(const float* const* rows, const PackedInputs& inputs, float* panel) {
  std::memset(panel, 0, static_cast<size_t>(inputs.total() * kPackedPanel) * sizeof(float));
  for (int64_t b = 0; b < inputs.blocks; ++b) {
    float* to = panel + b * inputs.padded * kPackedPanel;
    for (int64_t first = 0; first < inputs.block; first += 16) {   // a cache line of every row at a time
      const int64_t end = std::min(first + 16, inputs.block);
      for (int64_t c = 0; c < kPackedPanel; ++c) {
        if (rows[c] == nullptr) continue;
        const float* from = rows[c] + b * inputs.block;
        for (int64_t k = first; k < end; ++k) to[k * kPackedPanel + c] = from[k];
      }
    }
  }
}

}  // namespace trimtab
#endif  // HWY_ONCE
