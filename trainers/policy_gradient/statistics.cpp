#include "trainers/policy_gradient/statistics.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace trimtab {

void add_statistic(Statistics& all, BatchEnvironment::Statistic s) {
  const auto have = std::find_if(all.begin(), all.end(), [&](const auto& other) { return other.name == s.name; });
  if (have == all.end()) {
    all.push_back(std::move(s));
  } else {
    have->sum += s.sum;
    have->count += s.count;
  }
}

Statistics over_ranks(Statistics own, Ranks& ranks) {
  if (ranks.size() == 1) return own;
  nlohmann::json json = nlohmann::json::array();
  for (const BatchEnvironment::Statistic& s : own) json.push_back({s.name, s.sum, s.count});
  Statistics all;
  for (const std::string& part : ranks.gather(json.dump()))
    for (const nlohmann::json& s : nlohmann::json::parse(part)) add_statistic(all, {s[0], s[1], s[2]});
  return all;
}

}  // namespace trimtab
