// See link_tables_simd.h. The mapping is written as
//     sinr_eff = s - beta ln(1 + mean(expm1(-(sinr - s) / beta))),   s = min sinr,
// which neither underflows nor loses the digits of small SINRs in single precision.
//
// The search goes down from the top MCS and must find the same one as trying them all. What makes it short: the effective
// SINR grows with beta, which grows with the MCS, and never exceeds the arithmetic mean. So the mean bounds every
// candidate, a candidate that failed bounds those below it, and an MCS is not evaluated if even the bound is below the
// lowest SINR at which it meets the target.
#include "domain/radio/link_tables_simd.h"

#include <algorithm>
#include <cmath>

#include "domain/radio/link.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "domain/radio/link_tables_simd.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace trimtab::radio {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Rounding slack, in dB, of an effective SINR against its bound; a grid step is 0.1 dB.
constexpr float kBoundSlackDb = 0.01f;

HWY_INLINE float to_db(float x) { return std::clamp(4.342944819f * std::log(x), -30.0f, 30.0f); }

// Up to one vector from p, `fill` in the lanes from n on.
HWY_INLINE V load(D d, const float* p, size_t n, V fill) {
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN float lanes[HWY_LANES(float)] = {};
  for (size_t i = 0; i < std::min(n, hn::Lanes(d)); ++i) lanes[i] = p[i];
  return hn::IfThenElse(hn::FirstN(d, n), hn::Load(d, lanes), fill);
#else
  const auto mask = hn::FirstN(d, n);
  return hn::IfThenElse(mask, hn::MaskedLoad(mask, d, p), fill);
#endif
}

HWY_INLINE float sum_of(D d, V v) { return hn::GetLane(hn::SumOfLanes(d, v)); }

// One user's SINRs with what the mapping needs of them.
class UserSinr {
 public:
  UserSinr(const float* sinr, size_t n, bool skip_zeros) : sinr_(sinr), n_(n), skip_zeros_(skip_zeros) {
    const D d;
    const V huge = hn::Set(d, 3e38f), zero = hn::Zero(d);
    V smallest = huge, sum = zero, count = zero;
    for (size_t i = 0; i < n; i += hn::Lanes(d)) {
      const V v = load(d, sinr + i, n - i, zero);
      const auto used = skip_zeros ? hn::Gt(v, zero) : hn::FirstN(d, n - i);
      smallest = hn::Min(smallest, hn::IfThenElse(used, v, huge));
      count = hn::Add(count, hn::IfThenElseZero(used, hn::Set(d, 1.0f)));
      sum = hn::Add(sum, v);
    }
    used_ = skip_zeros ? static_cast<int>(sum_of(d, count)) : static_cast<int>(n);
    smallest_ = hn::GetLane(hn::MinOfLanes(d, smallest));
    inverse_used_ = used_ > 0 ? 1.0f / static_cast<float>(used_) : 0.0f;
    mean_ = sum_of(d, sum) * inverse_used_;
    first_ = shifted(d, 0);
  }
  int used() const { return used_; }
  float mean_db() const { return to_db(mean_); }

  HWY_INLINE float effective_db(float beta, float inverse_beta) const {
    const D d;
    const V scale = hn::Set(d, inverse_beta);
    V sum = hn::Expm1(d, hn::Mul(first_, scale));
    for (size_t i = hn::Lanes(d); i < n_; i += hn::Lanes(d)) sum = hn::Add(sum, hn::Expm1(d, hn::Mul(shifted(d, i), scale)));
    const float mean = sum_of(d, sum) * inverse_used_;
    return to_db(smallest_ - beta * static_cast<float>(std::log(1.0 + static_cast<double>(mean))));
  }

 private:
  // smallest - sinr, 0 in unused lanes so that they add nothing.
  HWY_INLINE V shifted(D d, size_t i) const {
    const V smallest = hn::Set(d, smallest_);
    V v = load(d, sinr_ + i, n_ - i, smallest);
    if (skip_zeros_) v = hn::IfThenElse(hn::Gt(v, hn::Zero(d)), v, smallest);
    return hn::Sub(smallest, v);
  }
  const float* sinr_;
  size_t n_;
  bool skip_zeros_;
  int used_ = 0;
  float smallest_ = 0, mean_ = 0, inverse_used_ = 0;
  V first_;
};

HWY_INLINE int32_t search_user(const McsSearch& search, const UserSinr& user, float offset_db, float target) {
  const int16_t* first_met =
      search.first_met == nullptr ? nullptr : search.first_met + static_cast<size_t>(user.used()) * search.num_mcs;
  int bound = LinkTables::grid_index(user.mean_db() - offset_db + kBoundSlackDb);
  for (int mcs = search.num_mcs - 1; mcs > search.min_mcs; --mcs) {
    if (first_met != nullptr && first_met[mcs] > bound) continue;
    const float sinr_db = user.effective_db(search.beta[mcs], search.inverse_beta[mcs]) - offset_db;
    const int32_t row = search.row[mcs * (search.num_prb + 1) + user.used()];
    if (search.tbler[static_cast<size_t>(row) * search.grid + LinkTables::grid_index(sinr_db)] <= target) return mcs;
    bound = std::min(bound, LinkTables::grid_index(sinr_db + kBoundSlackDb));
  }
  return search.min_mcs;
}

void SearchMcs(const McsSearch& search, const SlotSinr& slot, const float* offset_db, float target, int32_t* mcs) {
  for (size_t u = 0; u < slot.num_users; ++u) {
    const UserSinr user(slot.sinr + slot.begin[u], slot.begin[u + 1] - slot.begin[u], search.skip_zeros);
    mcs[u] = user.used() == 0 ? 0 : search_user(search, user, offset_db[u], target);
  }
}

void SlotEffectiveSinrDb(const McsSearch& search, const SlotSinr& slot, const int32_t* mcs, float* sinr_eff_db) {
  for (size_t u = 0; u < slot.num_users; ++u) {
    const UserSinr user(slot.sinr + slot.begin[u], slot.begin[u + 1] - slot.begin[u], search.skip_zeros);
    sinr_eff_db[u] = user.used() == 0 ? -30.0f : user.effective_db(search.beta[mcs[u]], search.inverse_beta[mcs[u]]);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab::radio
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab::radio {

HWY_EXPORT(SearchMcs);
HWY_EXPORT(SlotEffectiveSinrDb);

void search_mcs(const McsSearch& search, const SlotSinr& slot, const float* offset_db, float target, int32_t* mcs) {
  HWY_DYNAMIC_DISPATCH(SearchMcs)(search, slot, offset_db, target, mcs);
}

void slot_effective_sinr_db(const McsSearch& search, const SlotSinr& slot, const int32_t* mcs, float* sinr_eff_db) {
  HWY_DYNAMIC_DISPATCH(SlotEffectiveSinrDb)(search, slot, mcs, sinr_eff_db);
}

}  // namespace trimtab::radio
#endif  // HWY_ONCE
