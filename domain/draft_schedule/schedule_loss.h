// What a table of draft lengths costs against the best length at every batch size, and the best table of a
// given size.
//
// A controller that answers per token or per round, put down as a table, loses what the table cannot say:
// schedule_loss prints that price from measured rates. best_schedule is an exact dynamic programme (a
// shortest path over batch sizes, ranges used and draft length): O(batch sizes x ranges x lengths) time and
// bits of memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "domain/draft_schedule/draft_schedule.h"

namespace trimtab {

// Tokens per second of the whole batch by batch size and draft length.
struct DraftRates {
  static constexpr int64_t kMostBatches = 4096;

  std::vector<int64_t> batches;      // [B] batch sizes measured, 1 or more, rising; there may be holes
  int64_t lengths = 0;               // K: draft lengths 0 to K - 1
  std::vector<double> tokens_per_s;  // [B, K] not negative; of every batch size some length above 0
  std::vector<double> weights;       // [B] how much a batch size counts, as its share of time; empty: alike

  double at(int64_t row, int64_t k) const { return tokens_per_s[row * lengths + k]; }
  double weight(int64_t row) const { return weights.empty() ? 1 : weights[row]; }
};

// DataError "WHAT: fault" on counts that disagree and on numbers that are no rates.
void check_draft_rates(const DraftRates& rates, const std::string& what);

struct ScheduleLoss {
  std::vector<double> share;  // [B] 1 - rate of the schedule / best rate, 0..1
  double mean = 0;            // weighted
  double worst = 0;
  int64_t worst_batch = 0;  // the batch size where it is lost
};

// An entry counts with its k; what its tiers do is not in the rates. DataError when the schedule has a k or a
// batch size that the rates or the schedule do not reach.
ScheduleLoss schedule_loss(const DraftRates& rates, const DraftSchedule& schedule);
// "loses 0.8 % of the best rate on average, 3.1 % at worst (batch size 24)"
std::string schedule_loss_text(const ScheduleLoss& loss);

// At most `most_entries` entries from batch size 1 to the last measured one with the least weighted mean
// loss; among equals the fewest entries. Batch sizes between two measured ones go with the larger.
// tokens_per_s of an entry: weighted mean over its batch sizes.
std::vector<DraftEntry> best_schedule(const DraftRates& rates, int64_t most_entries);

}  // namespace trimtab
