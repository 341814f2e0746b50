// Seam 2, shaping: terms that language models' rewards get beside being right. Lengths are in tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "trainers/reward/prompt_memory.h"

namespace trimtab {

// DLER (arXiv 2510.15110; stop_properly_penalty of its code): a response that was cut off keeps a tenth of
// its reward.
inline double stop_properly(double reward, bool stopped, double factor = 0.1) {
  return stopped ? reward : factor * reward;
}

// Soft overlong shaping (DAPO, arXiv 2503.14476, equation 13): 0 up to limit - cache, from there on falling
// to -1 at `limit`, and -1 beyond (as in TRL; verl goes on falling).
double soft_overlong(int64_t length, int64_t limit, int64_t cache);

// Overlong filtering (DAPO; TRL's mask_truncated_completions): rows of episodes that were cut off no longer
// count. sequence_begin [episodes + 1]: episode i is rows [sequence_begin[i], sequence_begin[i + 1]).
void filter_truncated(std::span<const int64_t> sequence_begin, std::span<const uint8_t> truncated,
                      std::span<uint8_t> mask);

// Budget forcing: the prompt names a bucket of length, tokens beyond it cost. The idea is that of Efficient
// Reasoning on the Edge (arXiv 2603.16867), which does not state its formula; this one is ours:
//   0 up to the bucket, beyond it -weight (1 - exp(-(length / bucket - 1) / softness)),
// continuous, falling with every token, and never below -weight, so that being right and too long can stay
// better than being wrong.
double budget_barrier(int64_t length, int64_t bucket, double softness = 0.25, double weight = 0.5);
// The smallest of `buckets` (increasing) that holds `length`; the last when none does.
int64_t bucket_of(int64_t length, std::span<const int64_t> buckets);

// Adaptive effort control (e1, arXiv 2510.27042): the prompt names an effort r, and a response earns its
// reward only if it is correct and its length is at most r times the mean length for that prompt. The mean
// here is over all responses the prompt got in this run, the present group included.
class EffortControl {
 public:
  void record(const std::string& prompt, std::span<const int64_t> lengths);  // a group, before reward()
  double mean_length(const std::string& prompt) const;                       // 0: nothing recorded
  // `reward` or 0. A prompt without a record has no limit yet.
  double reward(const std::string& prompt, bool correct, int64_t length, double effort,
                double reward = 1) const;
  nlohmann::json to_json() const;  // bit-equal through from_json
  static EffortControl from_json(const nlohmann::json& json);

 private:
  struct Lengths {
    int64_t count = 0;
    double sum = 0;
  };
  PromptMemory<Lengths> lengths_;
};

// Router-R1 (ulab-uiuc/Router-R1): the cost of what a response called, scored against the recent costs.
//   score = 1 - clip((sqrt(c) - p5) / (p95 - p5), 0, 1), p5 and p95 of sqrt(c) over the last 1000 costs with
// linear interpolation; 0.5 while they are equal.
class CostHistory {
 public:
  static constexpr int64_t kWindow = 1000;
  void record(double cost);
  double score(double cost) const;
  nlohmann::json to_json() const;  // bit-equal through from_json
  static CostHistory from_json(const nlohmann::json& json);

 private:
  double quantile(double share) const;
  std::vector<double> roots_;  // of the last costs, a ring once it is full
  int64_t next_ = 0;           // where the next one goes then
};

// Its hierarchical reward: a format fault is -1 and nothing else; otherwise (outcome + format) (1 - cost_share)
// and, for a correct response alone, cost_share times the score of its cost: a wrong one has nothing to gain
// from being cheap.
double hierarchical_reward(bool well_formed, double outcome, double format, double cost_score,
                           double cost_share);

struct DifficultyLimitOptions {
  int64_t start = 4000, low = 1000, high = 4000;  // tokens
  double factor = 0.9;                            // of tightening; relaxing divides by it
  double decay = 0.5;                             // weight of the past in a prompt's solved share
};

// Truncation by difficulty: prompts the model solves get less room. Difficulty-Aware DLER (arXiv 2510.15110)
// does this by a schedule that is not public; this one is ours. A prompt's solved share is averaged over its
// visits, newer ones counting more. When a visit raises that average (or leaves it at 1), the prompt's limit
// is multiplied by `factor`; when it lowers it (or leaves it at 0), divided; kept in [low, high]. The first
// visit is compared with 1/2.
class DifficultyLimit {
 public:
  explicit DifficultyLimit(DifficultyLimitOptions options = {}) : options_(options) {}
  int64_t limit(const std::string& prompt) const;
  void record(const std::string& prompt, double solved_share);  // of the responses of one visit
  nlohmann::json to_json() const;                               // bit-equal through restore
  void restore(const nlohmann::json& json);

 private:
  struct State {
    double solved = 0.5, limit = 0;
  };
  DifficultyLimitOptions options_;
  PromptMemory<State> prompts_;
};

}  // namespace trimtab
