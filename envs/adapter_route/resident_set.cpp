#include "envs/adapter_route/resident_set.h"

#include <algorithm>

namespace trimtab {
namespace {

struct Search {
  const ResidentProblem& problem;
  const Paging& paging;
  int64_t adapters, requests;
  std::vector<uint8_t> set;
  int64_t count = 0, bytes = 0;

  Search(const ResidentProblem& p, const Paging& g)
      : problem(p), paging(g), adapters(std::ssize(p.prices)), requests(std::ssize(p.values) / (adapters + 1)), set(adapters) {}

  double value(int64_t t, int64_t a) const { return problem.values[t * (adapters + 1) + a]; }
  double joining(int64_t a) const { return problem.before[a] ? 0 : problem.prices[a]; }
  void put(int64_t a, bool in) {
    set[a] = in;
    count += in ? 1 : -1, bytes += in ? paging.bytes(a) : -paging.bytes(a);
  }
  // What each request gets with the present set.
  std::vector<double> served() const {
    std::vector<double> out(requests);
    for (int64_t t = 0; t < requests; ++t) {
      out[t] = value(t, adapters);
      for (int64_t a = 0; a < adapters; ++a) out[t] = std::max(out[t], value(t, a) - (set[a] ? 0 : problem.prices[a]));
    }
    return out;
  }
  double gain(int64_t a, const std::vector<double>& now) const {
    double out = 0;
    for (int64_t t = 0; t < requests; ++t) out += std::max(0.0, value(t, a) - now[t]);
    return problem.weight * out - joining(a);
  }
  // The one of largest gain that fits, if any gains; by the byte where room is in bytes.
  int64_t best_to_add() const {
    const std::vector<double> now = served();
    int64_t best = -1;
    double most = 0;
    for (int64_t a = 0; a < adapters; ++a) {
      if (set[a] || !paging.holds(count + 1, bytes + paging.bytes(a))) continue;
      const double g = gain(a, now) / (paging.by_bytes() ? static_cast<double>(paging.bytes(a)) : 1);
      if (g > most) best = a, most = g;
    }
    return best;
  }
  void fill() {
    for (int64_t a = best_to_add(); a >= 0; a = best_to_add()) put(a, true);
  }
  bool exchange() {
    const double now = resident_value(problem, set);
    for (int64_t out = 0; out < adapters; ++out) {
      if (!set[out]) continue;
      for (int64_t in = 0; in < adapters; ++in) {
        if (set[in] || in == out || !paging.holds(count, bytes - paging.bytes(out) + paging.bytes(in))) continue;
        put(out, false), put(in, true);
        if (resident_value(problem, set) > now + 1e-9) return true;
        put(in, false), put(out, true);
      }
    }
    return false;
  }
  // What was there may stay where there is room left.
  void keep() {
    for (int64_t a = 0; a < adapters; ++a)
      if (problem.before[a] && !set[a] && paging.holds(count + 1, bytes + paging.bytes(a))) put(a, true);
  }
};

}  // namespace

double resident_value(const ResidentProblem& problem, std::span<const uint8_t> set) {
  const int64_t adapters = std::ssize(problem.prices), requests = std::ssize(problem.values) / (adapters + 1);
  double sum = 0, joining = 0;
  for (int64_t t = 0; t < requests; ++t) {
    const double* row = problem.values.data() + t * (adapters + 1);
    double best = row[adapters];
    for (int64_t a = 0; a < adapters; ++a) best = std::max(best, row[a] - (set[a] ? 0 : problem.prices[a]));
    sum += best;
  }
  for (int64_t a = 0; a < adapters; ++a)
    if (set[a] && !problem.before[a]) joining += problem.prices[a];
  return problem.weight * sum - joining;
}

std::vector<uint8_t> best_residents(const ResidentProblem& problem, const Paging& paging) {
  Search search(problem, paging);
  search.fill();
  constexpr int kMostExchanges = 64;
  for (int i = 0; i < kMostExchanges && search.exchange(); ++i) {}
  search.keep();
  return search.set;
}

}  // namespace trimtab
