// Proportional fair scheduling with Sionna SYS's order and precision: T <- beta T + (1 - beta) R_last, then
// per frequency resource the user with the largest R / T (Kelly, "Charging and rate control for elastic
// traffic", 1997, is the origin).
#include "core/error.h"
#include "domain/radio/link.h"

namespace trimtab::radio {

void ProportionalFair::schedule(std::span<const float> rate_last, std::span<const float> rate,
                                std::span<int> user) {
  const size_t num_users = rate_last.size();
  if (average.empty()) average.assign(num_users, 1.0f);
  TT_CHECK_EQ(average.size(), num_users);
  TT_CHECK_EQ(rate.size(), user.size() * num_users);
  const float keep = static_cast<float>(beta), take = static_cast<float>(1 - beta);
  for (size_t u = 0; u < num_users; ++u) average[u] = keep * average[u] + take * rate_last[u];
  for (size_t f = 0; f < user.size(); ++f) {
    const float* rates = rate.data() + f * num_users;
    size_t best = 0;
    float best_metric = rates[0] / average[0];
    for (size_t u = 1; u < num_users; ++u) {
      const float metric = rates[u] / average[u];
      if (metric > best_metric) best = u, best_metric = metric;
    }
    user[f] = static_cast<int>(best);
  }
}

}  // namespace trimtab::radio
