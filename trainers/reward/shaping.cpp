// Shaping of rewards; see shaping.h.
#include "trainers/reward/shaping.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace trimtab {

double soft_overlong(int64_t length, int64_t limit, int64_t cache) {
  const int64_t beyond = length - (limit - cache);
  if (beyond <= 0) return 0;
  return length >= limit ? -1 : -static_cast<double>(beyond) / static_cast<double>(cache);
}

void filter_truncated(std::span<const int64_t> sequence_begin, std::span<const uint8_t> truncated,
                      std::span<uint8_t> mask) {
  for (size_t i = 0; i < truncated.size(); ++i) {
    if (truncated[i]) std::fill(mask.begin() + sequence_begin[i], mask.begin() + sequence_begin[i + 1], 0);
  }
}

double budget_barrier(int64_t length, int64_t bucket, double softness, double weight) {
  if (length <= bucket) return 0;
  const double over = static_cast<double>(length) / static_cast<double>(bucket) - 1;
  return weight * std::expm1(-over / softness);
}

int64_t bucket_of(int64_t length, std::span<const int64_t> buckets) {
  TT_CHECK(!buckets.empty(), "no buckets");
  const auto it = std::lower_bound(buckets.begin(), buckets.end(), length);
  return it == buckets.end() ? buckets.back() : *it;
}

void EffortControl::record(const std::string& prompt, std::span<const int64_t> lengths) {
  Lengths& of = lengths_.see(prompt);
  for (const int64_t length : lengths) of.sum += static_cast<double>(length);
  of.count += static_cast<int64_t>(lengths.size());
}

double EffortControl::mean_length(const std::string& prompt) const {
  const Lengths* of = lengths_.find(prompt);
  return of == nullptr || of->count == 0 ? 0 : of->sum / static_cast<double>(of->count);
}

double EffortControl::reward(const std::string& prompt, bool correct, int64_t length, double effort,
                             double reward) const {
  const double mean = mean_length(prompt);
  const bool in_time = mean == 0 || static_cast<double>(length) <= effort * mean;
  return correct && in_time ? reward : 0;
}

nlohmann::json EffortControl::to_json() const {
  return lengths_.to_json([](const Lengths& of) { return nlohmann::json{of.count, of.sum}; });
}

EffortControl EffortControl::from_json(const nlohmann::json& json) {
  EffortControl out;
  out.lengths_.restore(json, 2, [](const nlohmann::json& row) { return Lengths{row.at(0).get<int64_t>(), row.at(1).get<double>()}; });
  return out;
}

void CostHistory::record(double cost) {
  const double root = std::sqrt(std::max(cost, 0.0));
  if (static_cast<int64_t>(roots_.size()) < kWindow) {
    roots_.push_back(root);
    return;
  }
  roots_[next_] = root;
  next_ = (next_ + 1) % kWindow;
}

double CostHistory::quantile(double share) const {
  std::vector<double> sorted = roots_;
  std::sort(sorted.begin(), sorted.end());
  const double place = share * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(place), above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double CostHistory::score(double cost) const {
  if (roots_.empty()) return 0.5;
  const double low = quantile(0.05), high = quantile(0.95);
  if (high <= low) return 0.5;
  return 1 - std::clamp((std::sqrt(std::max(cost, 0.0)) - low) / (high - low), 0.0, 1.0);
}

nlohmann::json CostHistory::to_json() const { return {{"roots", roots_}, {"next", next_}}; }

CostHistory CostHistory::from_json(const nlohmann::json& json) {
  CostHistory out;
  out.roots_ = json.at("roots").get<std::vector<double>>();
  out.next_ = json.at("next").get<int64_t>();
  if (static_cast<int64_t>(out.roots_.size()) > kWindow || out.next_ < 0 || out.next_ >= kWindow)
    throw CheckpointError("the history of costs is damaged");
  return out;
}

double hierarchical_reward(bool well_formed, double outcome, double format, double cost_score,
                           double cost_share) {
  if (!well_formed) return -1;
  return (1 - cost_share) * (outcome + format) + (outcome > 0 ? cost_share * cost_score : 0);
}

int64_t DifficultyLimit::limit(const std::string& prompt) const {
  const State* state = prompts_.find(prompt);
  const double limit = state == nullptr ? static_cast<double>(options_.start) : state->limit;
  return std::clamp(static_cast<int64_t>(std::llround(limit)), options_.low, options_.high);
}

void DifficultyLimit::record(const std::string& prompt, double solved_share) {
  const bool fresh = prompts_.find(prompt) == nullptr;
  State& state = prompts_.see(prompt);
  if (fresh) state.limit = static_cast<double>(options_.start);
  const double before = state.solved;
  state.solved = fresh ? solved_share : options_.decay * before + (1 - options_.decay) * solved_share;
  const bool rises = state.solved > before || (state.solved == before && before == 1);
  const bool falls = state.solved < before || (state.solved == before && before == 0);
  if (rises) state.limit *= options_.factor;
  if (falls) state.limit /= options_.factor;
  state.limit =
      std::clamp(state.limit, static_cast<double>(options_.low), static_cast<double>(options_.high));
}

nlohmann::json DifficultyLimit::to_json() const {
  return prompts_.to_json([](const State& state) { return nlohmann::json{state.solved, state.limit}; });
}

void DifficultyLimit::restore(const nlohmann::json& json) {
  prompts_.restore(json, 2, [](const nlohmann::json& row) { return State{row.at(0).get<double>(), row.at(1).get<double>()}; });
}

}  // namespace trimtab
