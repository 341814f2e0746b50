/* Quotas by largest remainders, and power spreading: see trimtab/glue.h. */
#include "trimtab/glue.h"

#include <math.h>
#include <string.h>

/* Largest share over all present users, 0 when the shares cannot be used. */
static float largest_share(const float* shares, const uint8_t* mask, int num_users) {
  float largest = 0;
  for (int u = 0; u < num_users; ++u) {
    if (mask && !mask[u]) continue;
    if (!(shares[u] >= 0) || isinf(shares[u])) return 0;
    if (shares[u] > largest) largest = shares[u];
  }
  return largest;
}

/* Hands the `left` units that floors left over to the largest remainders, lowest index first among equals. */
static void give_remainders(int64_t* remainders, int num_users, int64_t left, int* quotas) {
  for (; left > 0; --left) {
    int best = 0;
    for (int u = 1; u < num_users; ++u)
      if (remainders[u] > remainders[best]) best = u;
    ++quotas[best];
    remainders[best] = -1;
  }
}

tt_status tt_quotas(const float* shares, const uint8_t* mask, int num_users, int num_prb, int* quotas) {
  if (!shares || !quotas || num_users < 1 || num_users > TT_GLUE_MAX_USERS || num_prb < 0 || num_prb > TT_GLUE_MAX_PRB)
    return TT_BAD_ARGUMENT;
  /* 2^40 * 2^16 PRBs and the sum over 2^10 users stay below 2^63, and a share's last place is finer than any quota. */
  const double scale = 1099511627776.0;
  int64_t parts[TT_GLUE_MAX_USERS];
  const float largest = largest_share(shares, mask, num_users);
  int64_t total = 0;
  for (int u = 0; u < num_users; ++u) {
    const int present = !mask || mask[u];
    const double part = largest > 0 ? (double)shares[u] / (double)largest : 1.0;
    parts[u] = present ? (int64_t)(part * scale + 0.5) : 0;
    total += parts[u];
  }
  memset(quotas, 0, (size_t)num_users * sizeof *quotas);
  if (total == 0) return TT_NO_ITEMS;
  int64_t left = num_prb;
  for (int u = 0; u < num_users; ++u) {
    const int64_t ideal = parts[u] * num_prb; /* in units of 1 / total */
    quotas[u] = (int)(ideal / total);
    left -= quotas[u];
    parts[u] = !mask || mask[u] ? ideal % total : -1;
  }
  give_remainders(parts, num_users, left, quotas);
  return largest > 0 ? TT_OK : TT_BAD_INPUT;
}

tt_status tt_spread_power(const float* shares, int num_users, const int* owner, int num_prb, float budget_w,
                          float* power_w) {
  if (!shares || !owner || !power_w || num_users < 1 || num_users > TT_GLUE_MAX_USERS || num_prb < 0 ||
      num_prb > TT_GLUE_MAX_PRB || !(budget_w >= 0) || isinf(budget_w))
    return TT_BAD_ARGUMENT;
  int counts[TT_GLUE_MAX_USERS] = {0};
  int num_owned = 0;
  for (int f = 0; f < num_prb; ++f) {
    if (owner[f] < -1 || owner[f] >= num_users) return TT_BAD_ARGUMENT;
    if (owner[f] < 0) continue;
    ++counts[owner[f]];
    ++num_owned;
  }
  double total = 0;
  int valid = 1;
  for (int u = 0; u < num_users; ++u) {
    if (!counts[u]) continue;
    valid = valid && shares[u] >= 0 && !isinf(shares[u]);
    total += (double)shares[u];
  }
  valid = valid && total > 0;
  for (int f = 0; f < num_prb; ++f) {
    if (owner[f] < 0)
      power_w[f] = 0;
    else if (valid)
      power_w[f] = (float)((double)budget_w * ((double)shares[owner[f]] / total) / counts[owner[f]]);
    else
      power_w[f] = budget_w / (float)num_owned;
  }
  if (!num_owned) return TT_NO_ITEMS;
  return valid ? TT_OK : TT_BAD_INPUT;
}
