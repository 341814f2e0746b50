// See link_tables_simd.h. The mapping, sinr_eff = -beta ln mean(exp(-sinr / beta)), is evaluated as it stands
// where single precision allows it. Where the mean is close to 1 (weak SINRs) or would underflow (strong
// ones), it is
//     sinr_eff = s - beta ln(1 + mean(expm1(-(sinr - s) / beta))),   s = min sinr,
// which loses nothing, but takes another pass.
//
// The search goes down from the top MCS and must find the same one as trying them all. What makes it short:
// the effective SINR grows with beta, which grows with the MCS, and never exceeds the arithmetic mean. So the
// mean bounds every candidate, a candidate that failed bounds those below it, and an MCS is not evaluated if
// even the bound is below the lowest SINR at which it meets the target.
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

// Rounding slack, in dB, of an effective SINR against its bound; a grid step is 0.1 dB.
constexpr float kBoundSlackDb = 0.01f;
// Means of exp(-sinr / beta) that give 1e-3 dB in single precision.
constexpr float kMeanLow = 1e-30f, kMeanHigh = 0.998f;
// Stands for "unused" in a lane: exp(-kUnused / beta) is 0 for every beta.
constexpr float kUnused = 1e9f;

HWY_INLINE float to_db(float x) { return std::clamp(4.342944819f * std::log(x), -30.0f, 30.0f); }

// Up to one vector from p, 0 in the lanes from n on.
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* p, size_t n) {
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN float lanes[HWY_LANES(float)] = {};
  for (size_t i = 0; i < std::min(n, hn::Lanes(d)); ++i) lanes[i] = p[i];
  return hn::Load(d, lanes);
#else
  return hn::MaskedLoad(hn::FirstN(d, n), d, p);
#endif
}

template <class D>
HWY_INLINE float sum_of(D d, hn::Vec<D> v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}

// One user's SINRs. D is a vector that fits their number, so that few PRBs do not pay for wide reductions.
template <class D>
class UserSinr {
 public:
  using V = hn::Vec<D>;

  UserSinr(const float* sinr, size_t n, bool skip_zeros) : sinr_(sinr), n_(n), skip_zeros_(skip_zeros) {
    const D d;
    used_ = static_cast<int>(n);
    if (skip_zeros) used_ = static_cast<int>(std::count_if(sinr, sinr + n, [](float s) { return s > 0; }));
    inverse_used_ = used_ > 0 ? 1.0f / static_cast<float>(used_) : 0.0f;
    first_ = marked(d, 0);
  }
  int used() const { return used_; }

  HWY_INLINE float mean_db() const {
    const D d;
    V sum = load(d, sinr_, n_);
    for (size_t i = hn::Lanes(d); i < n_; i += hn::Lanes(d)) sum = hn::Add(sum, load(d, sinr_ + i, n_ - i));
    return to_db(sum_of(d, sum) * inverse_used_);
  }

  HWY_INLINE float effective_db(float beta, float inverse_beta) const {
    const D d;
    const V scale = hn::Set(d, -inverse_beta);
    V sum = hn::Exp(d, hn::Mul(first_, scale));
    for (size_t i = hn::Lanes(d); i < n_; i += hn::Lanes(d))
      sum = hn::Add(sum, hn::Exp(d, hn::Mul(marked(d, i), scale)));
    const float mean = sum_of(d, sum) * inverse_used_;
    if (mean > kMeanLow && mean < kMeanHigh) return to_db(-beta * std::log(mean));
    return shifted_db(beta, inverse_beta);
  }

 private:
  // SINRs from i on, kUnused where there is none.
  HWY_INLINE V marked(D d, size_t i) const {
    const V v = load(d, sinr_ + i, n_ - i);
    const V unused = hn::Set(d, kUnused);
    return skip_zeros_ ? hn::IfThenElse(hn::Gt(v, hn::Zero(d)), v, unused)
                       : hn::IfThenElse(hn::FirstN(d, n_ - i), v, unused);
  }
  HWY_NOINLINE float shifted_db(float beta, float inverse_beta) const {
    const D d;
    V smallest = first_;
    for (size_t i = hn::Lanes(d); i < n_; i += hn::Lanes(d)) smallest = hn::Min(smallest, marked(d, i));
    smallest = hn::MinOfLanes(d, smallest);
    const V scale = hn::Set(d, inverse_beta), unused = hn::Set(d, kUnused);
    V sum = hn::Zero(d);
    for (size_t i = 0; i < n_; i += hn::Lanes(d)) {
      const V v = marked(d, i);
      const V term = hn::Expm1(d, hn::Mul(hn::Sub(smallest, v), scale));
      sum = hn::Add(sum, hn::IfThenElseZero(hn::Lt(v, unused), term));
    }
    const double mean = static_cast<double>(sum_of(d, sum) * inverse_used_);
    return to_db(hn::GetLane(smallest) - beta * static_cast<float>(std::log(1.0 + mean)));
  }

  const float* sinr_;
  size_t n_;
  bool skip_zeros_;
  int used_ = 0;
  float inverse_used_ = 0;
  V first_;
};

template <class User>
HWY_INLINE int32_t search_user(const McsSearch& search, const User& user, float offset_db, float target) {
  const int16_t* first_met = search.first_met == nullptr
                                 ? nullptr
                                 : search.first_met + static_cast<size_t>(user.used()) * search.num_mcs;
  int bound = LinkTables::grid_index(user.mean_db() - offset_db + kBoundSlackDb);
  for (int mcs = search.num_mcs - 1; mcs > search.min_mcs; --mcs) {
    if (first_met != nullptr && first_met[mcs] > bound) continue;
    const float sinr_db = user.effective_db(search.beta[mcs], search.inverse_beta[mcs]) - offset_db;
    const int32_t row = search.row[mcs * (search.num_prb + 1) + user.used()];
    if (search.tbler[static_cast<size_t>(row) * search.grid + LinkTables::grid_index(sinr_db)] <= target)
      return mcs;
    bound = std::min(bound, LinkTables::grid_index(sinr_db + kBoundSlackDb));
  }
  return search.min_mcs;
}

// Calls visit(u, UserSinr) for every user, with a vector that fits.
template <class Visit>
HWY_INLINE void for_each_user(const McsSearch& search, const SlotSinr& slot, Visit visit) {
  for (size_t u = 0; u < slot.num_users; ++u) {
    const float* sinr = slot.sinr + slot.begin[u];
    const size_t n = static_cast<size_t>(slot.begin[u + 1] - slot.begin[u]);
    if (n <= 4) {
      visit(u, UserSinr<hn::CappedTag<float, 4>>(sinr, n, search.skip_zeros));
    } else if (n <= 8) {
      visit(u, UserSinr<hn::CappedTag<float, 8>>(sinr, n, search.skip_zeros));
    } else {
      visit(u, UserSinr<hn::ScalableTag<float>>(sinr, n, search.skip_zeros));
    }
  }
}

void SearchMcs(const McsSearch& search, const SlotSinr& slot, const float* offset_db, float target,
               int32_t* mcs) {
  for_each_user(search, slot, [&](size_t u, const auto& user) HWY_ATTR {
    mcs[u] = user.used() == 0 ? 0 : search_user(search, user, offset_db[u], target);
  });
}

void SlotEffectiveSinrDb(const McsSearch& search, const SlotSinr& slot, const int32_t* mcs,
                         float* sinr_eff_db) {
  for_each_user(search, slot, [&](size_t u, const auto& user) HWY_ATTR {
    sinr_eff_db[u] =
        user.used() == 0 ? -30.0f : user.effective_db(search.beta[mcs[u]], search.inverse_beta[mcs[u]]);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab::radio
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab::radio {

HWY_EXPORT(SearchMcs);
HWY_EXPORT(SlotEffectiveSinrDb);

void search_mcs(const McsSearch& search, const SlotSinr& slot, const float* offset_db, float target,
                int32_t* mcs) {
  HWY_DYNAMIC_DISPATCH(SearchMcs)(search, slot, offset_db, target, mcs);
}

void slot_effective_sinr_db(const McsSearch& search, const SlotSinr& slot, const int32_t* mcs,
                            float* sinr_eff_db) {
  HWY_DYNAMIC_DISPATCH(SlotEffectiveSinrDb)(search, slot, mcs, sinr_eff_db);
}

}  // namespace trimtab::radio
#endif  // HWY_ONCE
