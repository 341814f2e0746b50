// Rotary position embedding on the CPU. Compiled once per instruction set.
#include "kernels/rotary/rotary.h"

#include "core/error.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)   // AVX-512, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rotary/rotary_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/product/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
HWY_INLINE void rotate_head(T* low, T* high, const T* cosine, const T* sine, T sign, int64_t half) {
  const hn::ScalableTag<T> d;
  const auto s = hn::Set(d, sign);
  for_vectors(d, half,
              [&](int64_t i) {
                const auto a = hn::LoadU(d, low + i), b = hn::LoadU(d, high + i), c = hn::LoadU(d, cosine + i),
                           turn = hn::Mul(s, hn::LoadU(d, sine + i));
                hn::StoreU(hn::NegMulAdd(b, turn, hn::Mul(a, c)), d, low + i);
                hn::StoreU(hn::MulAdd(a, turn, hn::Mul(b, c)), d, high + i);
              },
              [&](int64_t i, int64_t n) {
                const auto a = load_lanes(d, low + i, n), b = load_lanes(d, high + i, n), c = load_lanes(d, cosine + i, n),
                           turn = hn::Mul(s, load_lanes(d, sine + i, n));
                store_lanes(hn::NegMulAdd(b, turn, hn::Mul(a, c)), d, low + i, n);
                store_lanes(hn::MulAdd(a, turn, hn::Mul(b, c)), d, high + i, n);
              });
}

template <class T>
void rotate(const Rotary<T>& a) {
  const int64_t half = a.head_size / 2;
  for (int64_t row = 0; row < a.rows; ++row)
    for (int64_t head = 0; head < a.heads; ++head) {
      T* x = a.x + row * a.x_stride + head * a.head_size;
      rotate_head(x, x + half, a.cosine + row * half, a.sine + row * half, a.sine_sign, half);
    }
}

void rotate_f32(const Rotary<float>& a) { rotate(a); }
void rotate_f64(const Rotary<double>& a) { rotate(a); }

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {
namespace {

HWY_EXPORT(rotate_f32);
HWY_EXPORT(rotate_f64);

template <class T>
void check(const Rotary<T>& a) {
  TT_CHECK(a.rows >= 0 && a.heads >= 0 && a.head_size >= 2 && a.head_size % 2 == 0, "{} rows of {} heads of {}", a.rows, a.heads, a.head_size);
  TT_CHECK(a.rows == 0 || (a.x && a.cosine && a.sine && a.x_stride >= a.heads * a.head_size), "an array is missing, or its rows overlap");
}

}  // namespace

void rotary(const Rotary<float>& a) { check(a), HWY_DYNAMIC_DISPATCH(rotate_f32)(a); }
void rotary(const Rotary<double>& a) { check(a), HWY_DYNAMIC_DISPATCH(rotate_f64)(a); }

}  // namespace trimtab
#endif  // HWY_ONCE
