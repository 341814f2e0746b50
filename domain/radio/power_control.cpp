// Downlink fair power control, the problem that Sionna SYS's downlink_fair_power_control states:
//     max sum_u g_f(r_u ln(1 + p_u q_u)),  sum_u r_u p_u = P,  r_u p_u >= rho P / U,
// g_f the alpha-fair utility of Mo and Walrand (2000), q_u = 1 / (pathloss_u (I + N)). Above the guaranteed
// share the optimum satisfies (r ln(1 + p q))^f (1 + p q) = q / mu. With y = ln(1 + p q) and t = ln(1 / mu)
// that is
//     f ln(y) + y = t + ln q - f ln r,
// solved per user by Newton's method in ln y, and for t by Newton's method inside a bracket: to rounding,
// where Sionna's own nested bisection stops at its tolerance.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "domain/radio/link.h"

namespace trimtab::radio {
namespace {

constexpr int kMaxIterations = 200;       // bisection alone would need about 60
constexpr double kRelativeSlack = 1e-14;  // of the budget

struct User {
  double q, r, p_floor, p_ceiling;  // ceiling: infinite unless a single user's multiplier is undetermined
};

// Root of f ln y + y = c for f > 0: convex and increasing in ln y, so Newton's method from above never leaves
// that side.
double solve_y(double f, double c) {
  double z = c >= 1 ? std::min(c / f, std::log(c)) : c / f;
  for (int i = 0; i < kMaxIterations; ++i) {
    const double y = std::exp(z), step = (f * z + y - c) / (f + y);
    z -= step;
    if (std::abs(step) < 1e-15 * std::max(1.0, std::abs(z))) break;
  }
  return std::exp(z);
}

struct Power {
  double p, slope;  // watts per resource element and its derivative with respect to t; slope 0 at a bound
};
Power power_at(const User& user, double fairness, double t) {
  const double c = t + std::log(user.q) - fairness * std::log(user.r);
  const double y = fairness > 0 ? solve_y(fairness, c) : c;
  const double p = std::expm1(y) / user.q;
  if (!(p > user.p_floor)) return {user.p_floor, 0};
  if (p >= user.p_ceiling) return {user.p_ceiling, 0};
  return {p, std::exp(y) / user.q * (fairness > 0 ? y / (fairness + y) : 1.0)};
}

double t_at(const User& user, double fairness, double p) {
  const double y = std::log1p(p * user.q);
  return (fairness > 0 ? fairness * std::log(user.r * y) : 0.0) + y - std::log(user.q);
}

// t at which the powers add up to the budget.
double solve_t(const std::vector<User>& users, double fairness, double budget_w) {
  // Where every user has at most (at least) an equal share, the sum is at most (at least) the budget.
  double low = 0, high = 0;
  for (size_t i = 0; i < users.size(); ++i) {
    const double t = t_at(users[i], fairness, budget_w / static_cast<double>(users.size()) / users[i].r);
    low = i == 0 ? t : std::min(low, t);
    high = i == 0 ? t : std::max(high, t);
  }
  double t = 0.5 * (low + high);
  for (int i = 0; i < kMaxIterations && high - low > 1e-16 * std::abs(t); ++i) {
    double sum = 0, slope = 0;
    for (const User& user : users) {
      const Power power = power_at(user, fairness, t);
      sum += user.r * power.p;
      slope += user.r * power.slope;
    }
    const double excess = sum - budget_w;
    if (std::abs(excess) <= kRelativeSlack * budget_w) break;
    (excess > 0 ? high : low) = t;
    const double newton = slope > 0 ? t - excess / slope : low;
    t = newton > low && newton < high ? newton : 0.5 * (low + high);
  }
  return t;
}

// 1 / mu where the optimum does not determine it. Powers do not depend on it; the value is the one on which
// the bracket of Sionna's bisection, [0, 1000] widened to the right, ends.
double any_mu_inv_above(double least) {  // a single user at its ceiling: everything from `least` on fits
  double left = 0, right = 1000;
  if (least > right) {
    left = right;
    for (double step = 1; right < least; step *= 2) right += step;
  }
  double middle = 0.5 * (left + right);
  while (middle < least) {
    left = middle;
    middle = 0.5 * (left + right);
  }
  return middle;
}
double any_mu_inv_below(double most) {  // everybody at the guaranteed share: everything up to `most` fits
  double middle = 500;
  while (middle > most) middle *= 0.5;
  return middle;
}

double solve_mu_inv(const std::vector<User>& users, double fairness, double budget_w, bool all_guaranteed) {
  if (std::isfinite(users[0].p_ceiling))
    return any_mu_inv_above(all_guaranteed ? 0 : std::exp(t_at(users[0], fairness, users[0].p_ceiling)));
  if (!all_guaranteed) return std::exp(solve_t(users, fairness, budget_w));
  double most = std::exp(t_at(users[0], fairness, users[0].p_floor));
  for (const User& user : users) most = std::min(most, std::exp(t_at(user, fairness, user.p_floor)));
  return any_mu_inv_below(most);
}

}  // namespace

FairPower fair_power(const FairPowerProblem& problem) {
  const size_t num_users = problem.pathloss.size();
  TT_CHECK_EQ(problem.num_re.size(), num_users);
  TT_CHECK_GE(problem.fairness, 0.0);
  TT_CHECK(problem.guaranteed_power_ratio >= 0 && problem.guaranteed_power_ratio <= 1, "{}",
           problem.guaranteed_power_ratio);
  FairPower result;
  result.tx_power_w.assign(num_users, 0);
  result.utility.assign(num_users, 0);
  const double budget_w = std::pow(10.0, problem.max_power_dbm / 10 - 3);
  const auto num_scheduled =
      std::count_if(problem.num_re.begin(), problem.num_re.end(), [](double r) { return r > 0; });
  const bool single = num_scheduled == 1 && problem.fairness > 0;
  std::vector<User> users;
  std::vector<size_t> index;
  for (size_t u = 0; u < num_users; ++u) {
    const double r = problem.num_re[u];
    if (!(r > 0)) continue;
    const double q = 1 / (problem.pathloss[u] * problem.interference_plus_noise_w);
    users.push_back({q, r, problem.guaranteed_power_ratio * budget_w / static_cast<double>(num_scheduled) / r,
                     single ? budget_w / r : std::numeric_limits<double>::infinity()});
    index.push_back(u);
  }
  if (users.empty()) return result;
  result.mu_inv = solve_mu_inv(users, problem.fairness, budget_w, problem.guaranteed_power_ratio >= 1);
  const double t = std::log(result.mu_inv);
  for (size_t i = 0; i < users.size(); ++i) {
    const double p = power_at(users[i], problem.fairness, t).p;
    result.tx_power_w[index[i]] = p * users[i].r;
    result.utility[index[i]] = users[i].r * std::log1p(p * users[i].q);
  }
  return result;
}

}  // namespace trimtab::radio
