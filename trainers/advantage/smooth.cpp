// Statistics of prompts over their visits; see smooth.h.
#include "trainers/advantage/smooth.h"

namespace trimtab {
namespace {

double standardised(double reward, const RewardMoments& of) {
  return of.variance > 0 ? (reward - of.mean) / std::sqrt(of.variance) : 0;
}

}  // namespace

double SmoothVisit::advantage(double reward) const {
  const double now = 1 / static_cast<double>(visits), past = 1 - now;
  const double by_group = standardised(reward, group), by_total = standardised(reward, total);
  const double smooth_group = past * by_group + now * by_total,
               smooth_total = now * by_group + past * by_total;
  return std::abs(smooth_group) < std::abs(smooth_total) ? smooth_group : smooth_total;
}

SmoothVisit SmoothStatistics::visit(const std::string& prompt, const RewardMoments& group) {
  Past& past = past_[prompt];
  const double before = static_cast<double>(past.visits), i = before + 1,
               apart = group.mean - past.total.mean;
  ++past.visits;
  past.total = {past.total.mean + apart / i,  // exact where the means agree
                (before * past.total.variance + group.variance + before / i * apart * apart) / i};
  return {past.visits, group, past.total};
}

nlohmann::json SmoothStatistics::to_json() const {
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [prompt, past] : past_) json[prompt] = {past.visits, past.total.mean, past.total.variance};
  return json;
}

SmoothStatistics SmoothStatistics::from_json(const nlohmann::json& json) {
  SmoothStatistics out;
  for (const auto& [prompt, past] : json.items()) {
    out.past_[prompt] = {past.at(0).get<int64_t>(), {past.at(1).get<double>(), past.at(2).get<double>()}};
  }
  return out;
}

}  // namespace trimtab
