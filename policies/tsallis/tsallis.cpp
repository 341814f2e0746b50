#include "policies/tsallis/tsallis.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>


namespace trimtab {
namespace {

// How many of the likeliest are kept; `order` has the experts from the likeliest on.
int64_t kept(std::span<const double> p, std::span<const int64_t> order, const TsallisRouting& routing) {
  const auto most = static_cast<int64_t>(p.size());
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  int64_t count = 0;
  for (double sum = 0; count < most && sum < routing.top_p * total; ++count) sum += p[order[count]];
  return std::clamp(count, std::min(routing.keep, most), most);
}

}  // namespace

void TsallisRouting::describe(Fields& f) {
  f.number("q", q, {.low = 1e-3, .high = 100, .doc = "index of the Tsallis entropy; 1: Shannon's"});
  f.number("threshold", threshold, {.low = 0, .high = 1, .doc = "a token whose entropy is a larger share of the largest there can be goes to all adapters; 1: none does"});
  f.number("top_p", top_p, {.low = 0, .high = 1, .doc = "others go to the fewest likeliest adapters that together have this probability"});
  f.integer("keep", keep, {.low = 1, .high = 65536, .doc = "and to at least so many"});
}

double tsallis_entropy(std::span<const double> p, double q) {
  double sum = 0;
  if (q == 1) {
    for (const double x : p) sum -= x > 0 ? x * std::log(x) : 0;
    return sum;
  }
  // sum p - sum p^q by expm1, which loses nothing near q = 1; equal to 1 - sum p^q where p sums to 1.
  for (const double x : p) sum -= x > 0 ? x * std::expm1((q - 1) * std::log(x)) : 0;
  return sum / (q - 1);
}

double largest_tsallis_entropy(int64_t experts, double q) {
  TT_CHECK_GE(experts, 1);
  const double log_n = std::log(static_cast<double>(experts));
  return q == 1 ? log_n : -std::expm1((1 - q) * log_n) / (q - 1);
}

bool route(std::span<const double> p, const TsallisRouting& routing, std::span<double> weights) {
  TT_CHECK_EQ(p.size(), weights.size());
  TT_CHECK(!p.empty(), "no experts");
  for (const double x : p)
    if (!std::isfinite(x)) throw NonFiniteRouting("a router's probabilities are not finite: lower trainer.lr, or look for a damaged adapter");
  const double largest = largest_tsallis_entropy(static_cast<int64_t>(p.size()), routing.q);
  if (routing.threshold < 1 && tsallis_entropy(p, routing.q) > routing.threshold * largest) {
    std::copy(p.begin(), p.end(), weights.begin());
    return true;
  }
  std::vector<int64_t> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return p[a] > p[b]; });
  order.resize(kept(p, order, routing));
  double sum = 0;
  for (const int64_t i : order) sum += p[i];
  std::fill(weights.begin(), weights.end(), 0.0);
  for (const int64_t i : order) weights[i] = p[i] / sum;
  return false;
}

}  // namespace trimtab
