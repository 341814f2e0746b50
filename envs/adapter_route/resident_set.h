// The best adapters to keep resident for requests whose values are known (or believed). A request goes to the best of: a resident adapter or
// the base model at its quality, another at its quality less the price of paging it in:
//
//   F(C) = sum_t max_a [ value_t,a - price_a 1(a not in C) ] - sum over C without `before` of price_a
//
// Its first part is monotone and submodular, so taking the largest gain again and again is at least 1 - 1/e of the best (Nemhauser, Wolsey &
// Fisher, Math. Programming 14, 1978); exchanges of one for another follow while they gain.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "envs/adapter_route/paging.h"

namespace trimtab {

struct ResidentProblem {
  std::span<const double> values;   // [T, N + 1], the base model's last
  std::span<const double> prices;   // [N] of paging an adapter in, in units of value
  std::vector<uint8_t> before;      // [N] what is resident already
  double weight = 1;                // of the sum over requests: requests to come for each of these
};

double resident_value(const ResidentProblem& problem, std::span<const uint8_t> set);   // F
// [N], 1: resident. Never leaves an adapter of `before` unless another takes its room. O(K N T) for each round of exchanges.
std::vector<uint8_t> best_residents(const ResidentProblem& problem, const Paging& paging);

}  // namespace trimtab
