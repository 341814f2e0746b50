#include "domain/kv_precision/allocation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

int num_pairs(const KvSensitivity& t) { return static_cast<int>(t.pairs.size()); }

void check_budget(const KvSensitivity& t, int64_t budget) {
  if (budget < least_bytes(t))
    throw ConfigError(fmt::format("a budget of {:.3f} bits cannot be met: the cheapest widths take {:.3f}; raise it or allow narrower widths", t.bits(budget),
                                  t.bits(least_bytes(t))));
}

// The order in which units are widened from pair `narrow` to pair `wide`.
std::vector<int> widening_order(const KvSensitivity& t, const std::string& name, int narrow, int wide, uint64_t seed) {
  const int units = static_cast<int>(t.units());
  std::vector<int> order(units);
  std::iota(order.begin(), order.end(), 0);
  if (name == "first_layers") return order;
  if (name == "last_layers") std::reverse(order.begin(), order.end());
  else if (name == "both_ends") std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return std::min(a, units - 1 - a) < std::min(b, units - 1 - b); });
  else if (name == "sensitive_first")
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return t.kl[a][narrow] - t.kl[a][wide] > t.kl[b][narrow] - t.kl[b][wide]; });
  else if (name == "random") {
    Draws draws(seed, Stream::kWorld, 0);
    for (int i = units - 1; i > 0; --i) std::swap(order[i], order[draws.below(static_cast<uint32_t>(i + 1))]);
  } else {
    TT_CHECK(false, "no heuristic is called {}", name);
  }
  return order;
}

// The unit's cheapest pair under a price of bytes: argmin kl + price * bytes.
int priced_pair(const KvSensitivity& t, int64_t unit, double price) {
  int best = 0;
  const auto cost = [&](int p) { return t.kl[unit][p] + price * static_cast<double>(t.unit_bytes(p)); };
  for (int p = 1; p < num_pairs(t); ++p)
    if (cost(p) < cost(best)) best = p;
  return best;
}

}  // namespace

double surrogate_kl(const KvSensitivity& t, const KvAllocation& a) {
  double sum = 0;
  for (int64_t u = 0; u < t.units(); ++u) sum += t.kl[u][a[u]];
  return sum;
}

int64_t allocation_bytes(const KvSensitivity& t, const KvAllocation& a) {
  int64_t sum = 0;
  for (const int p : a) sum += t.unit_bytes(p);
  return sum;
}

KvAllocation uniform_allocation(const KvSensitivity& t, int pair) { return KvAllocation(t.units(), pair); }
int cheapest_pair(const KvSensitivity& t) { return static_cast<int>(std::min_element(t.page_bytes.begin(), t.page_bytes.end()) - t.page_bytes.begin()); }
int64_t least_bytes(const KvSensitivity& t) { return t.units() * t.unit_bytes(cheapest_pair(t)); }

std::vector<int> pair_ladder(const KvSensitivity& t) {
  std::vector<int> out(num_pairs(t));
  std::iota(out.begin(), out.end(), 0);
  std::stable_sort(out.begin(), out.end(), [&](int a, int b) { return t.page_bytes[a] < t.page_bytes[b]; });
  out.erase(std::unique(out.begin(), out.end(), [&](int a, int b) { return t.page_bytes[a] == t.page_bytes[b]; }), out.end());
  return out;
}

int widest_uniform_pair(const KvSensitivity& t, int64_t budget) {
  int best = cheapest_pair(t);
  for (const int p : pair_ladder(t))
    if (t.units() * t.unit_bytes(p) <= budget) best = p;
  return best;
}

KvAllocation best_allocation(const KvSensitivity& t, int64_t budget) {
  check_budget(t, budget);
  int64_t step = 0;
  for (int p = 0; p < num_pairs(t); ++p) step = std::gcd(step, t.unit_bytes(p));
  if (step == 0) return uniform_allocation(t, priced_pair(t, 0, 0));   // nothing costs anything
  const int64_t most = budget / step, units = t.units();
  TT_CHECK(units * (most + 1) <= (int64_t{1} << 31), "{} units with {} steps of {} bytes", units, most, step);
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> best(most + 1, 0.0), next(most + 1);   // least KL of the units so far within a budget
  std::vector<int8_t> chosen(units * (most + 1));
  for (int64_t u = 0; u < units; ++u) {
    for (int64_t b = 0; b <= most; ++b) {
      next[b] = kNever;
      for (int p = 0; p < num_pairs(t); ++p) {
        const int64_t left = b - t.unit_bytes(p) / step;
        if (left < 0 || best[left] + t.kl[u][p] >= next[b]) continue;
        next[b] = best[left] + t.kl[u][p], chosen[u * (most + 1) + b] = static_cast<int8_t>(p);
      }
    }
    best.swap(next);
  }
  KvAllocation out(units);
  for (int64_t u = units - 1, b = most; u >= 0; --u) {
    out[u] = chosen[u * (most + 1) + b];
    b -= t.unit_bytes(out[u]) / step;
  }
  return out;
}

std::vector<std::string> heuristic_names() { return {"first_layers", "last_layers", "both_ends", "sensitive_first", "random"}; }

KvAllocation heuristic_allocation(const KvSensitivity& t, const std::string& name, int64_t budget, uint64_t seed) {
  check_budget(t, budget);
  const std::vector<int> pairs = pair_ladder(t);
  const int narrow = widest_uniform_pair(t, budget);
  KvAllocation out = uniform_allocation(t, narrow);
  if (narrow == pairs.back()) return out;
  const int wide = *(std::find(pairs.begin(), pairs.end(), narrow) + 1);
  const int64_t more = t.unit_bytes(wide) - t.unit_bytes(narrow);
  int64_t left = budget - allocation_bytes(t, out);
  for (const int u : widening_order(t, name, narrow, wide, seed)) {
    if (left < more) break;
    out[u] = wide, left -= more;
  }
  return out;
}

double byte_price(const KvSensitivity& t, int64_t first, int64_t budget) {
  const auto bytes_at = [&](double price) {
    int64_t sum = 0;
    for (int64_t u = first; u < t.units(); ++u) sum += t.unit_bytes(priced_pair(t, u, price));
    return sum;
  };
  if (bytes_at(0) <= budget) return 0;
  double low = 0, high = 1e-12;
  while (bytes_at(high) > budget && high < 1e6) high *= 4;
  for (int i = 0; i < 50; ++i) {
    const double middle = (low + high) / 2;
    (bytes_at(middle) > budget ? low : high) = middle;
  }
  return high;
}

double relaxed_kl(const KvSensitivity& t, int64_t budget) {
  const double price = byte_price(t, 0, budget);
  double dual = -price * static_cast<double>(budget);
  for (int64_t u = 0; u < t.units(); ++u) {
    const int p = priced_pair(t, u, price);
    dual += t.kl[u][p] + price * static_cast<double>(t.unit_bytes(p));
  }
  return dual;
}

std::vector<KvBits> head_widths(const KvSensitivity& t, const KvAllocation& a) {
  std::vector<KvBits> out;
  for (const int pair : a) out.insert(out.end(), t.heads_per_unit(), t.pairs[pair]);
  return out;
}

}  // namespace trimtab
