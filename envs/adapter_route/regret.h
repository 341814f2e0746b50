// Regret: what the oracle had over a router, request by request, in expected quality less the price of paging. Its two parts:
//
//   routing = quality of the oracle's choice - quality of the router's        paging = price that the router paid - price that the oracle paid
//
// The oracle keeps the best residents of each period (routers.h); a router that changes residents with the requests can have less than none.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "envs/adapter_route/routers.h"

namespace trimtab {

struct Regret {
  std::vector<double> routing, paging;   // cumulative, by request
  double total(int64_t requests) const { return routing[requests - 1] + paging[requests - 1]; }
  // Slope of log total against log requests between two numbers of requests, over points that lie evenly in log requests. NaN where one has no
  // logarithm: from 0 requests on, or where there is no regret.
  double slope(int64_t from, int64_t to) const {
    constexpr int kPoints = 16;
    constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
    if (from < 1 || to <= from) return kNone;
    double x_sum = 0, y_sum = 0, xx = 0, xy = 0;
    for (int i = 0; i < kPoints; ++i) {
      const double x = std::log(static_cast<double>(from)) + std::log(static_cast<double>(to) / static_cast<double>(from)) * i / (kPoints - 1);
      const double regret = total(static_cast<int64_t>(std::lround(std::exp(x))));
      if (!(regret > 0)) return kNone;
      const double y = std::log(regret);
      x_sum += x, y_sum += y, xx += x * x, xy += x * y;
    }
    return (kPoints * xy - x_sum * y_sum) / (kPoints * xx - x_sum * x_sum);
  }
};

inline Regret regret_of(const Routed& routed, const Routed& oracle) {
  Regret out;
  double routing = 0, paging = 0;
  for (size_t t = 0; t < routed.quality.size(); ++t) {
    out.routing.push_back(routing += oracle.quality[t] - routed.quality[t]);
    out.paging.push_back(paging += routed.price[t] - oracle.price[t]);
  }
  return out;
}

}  // namespace trimtab
