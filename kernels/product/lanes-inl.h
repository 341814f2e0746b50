// A vector of which only the first `lanes` exist in memory, for the ends of rows; for inclusion by kernels that are compiled
// once per instruction set (Highway's foreach_target). Nothing beyond the lanes is touched.
#if defined(TRIMTAB_KERNELS_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TRIMTAB_KERNELS_LANES_INL_H_
#undef TRIMTAB_KERNELS_LANES_INL_H_
#else
#define TRIMTAB_KERNELS_LANES_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {

template <class D, class T = hwy::HWY_NAMESPACE::TFromD<D>>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> load_lanes(D d, const T* p, int64_t lanes) {
  namespace hn = hwy::HWY_NAMESPACE;
#if HWY_TARGET <= HWY_AVX2
  return hn::MaskedLoad(hn::FirstN(d, lanes), d, p);
#else
  HWY_ALIGN T part[hn::MaxLanes(d)] = {};
  for (int64_t i = 0; i < lanes; ++i) part[i] = p[i];
  return hn::Load(d, part);
#endif
}

template <class D, class T = hwy::HWY_NAMESPACE::TFromD<D>>
HWY_INLINE void store_lanes(hwy::HWY_NAMESPACE::Vec<D> v, D d, T* p, int64_t lanes) {
  namespace hn = hwy::HWY_NAMESPACE;
#if HWY_TARGET <= HWY_AVX3
  hn::BlendedStore(v, hn::FirstN(d, lanes), d, p);
#else
  HWY_ALIGN T part[hn::MaxLanes(d)];
  hn::Store(v, d, part);
  for (int64_t i = 0; i < lanes; ++i) p[i] = part[i];
#endif
}

// visit(first, number of lanes) over [0, n), whole vectors first; `whole` tells the compiler that all lanes exist.
template <class D, class Whole, class Part>
HWY_INLINE void for_vectors(D d, int64_t n, const Whole& whole, const Part& part) {
  const int64_t lanes = hwy::HWY_NAMESPACE::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) whole(i);
  if (i < n) part(i, n - i);
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#endif
