#include "domain/draft_schedule/schedule_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace trimtab {
namespace {

[[noreturn]] void bad_rates(const std::string& what, const std::string& fault) {
  throw DataError(fmt::format("{}: {}", what, fault));
}

void check_counts(const DraftRates& r, const std::string& what) {
  const auto batches = static_cast<int64_t>(r.batches.size());
  if (batches < 1 || batches > DraftRates::kMostBatches)
    bad_rates(what, fmt::format("{} batch sizes; expected 1 to {}", batches, DraftRates::kMostBatches));
  if (r.lengths < 1 || r.lengths > DraftSchedule::kMost + 1)
    bad_rates(what, fmt::format("{} draft lengths; expected 1 (k = 0 alone) to {}", r.lengths,
                                DraftSchedule::kMost + 1));
  if (static_cast<int64_t>(r.tokens_per_s.size()) != batches * r.lengths)
    bad_rates(what, fmt::format("{} rates for {} batch sizes and {} draft lengths; expected {}",
                                r.tokens_per_s.size(), batches, r.lengths, batches * r.lengths));
  if (!r.weights.empty() && static_cast<int64_t>(r.weights.size()) != batches)
    bad_rates(what, fmt::format("{} weights for {} batch sizes; expected as many, or none", r.weights.size(),
                                batches));
}

double best_rate(const DraftRates& r, int64_t row) {
  const auto first = r.tokens_per_s.begin() + row * r.lengths;
  return *std::max_element(first, first + r.lengths);
}

void check_row(const DraftRates& r, int64_t row, const std::string& what) {
  const int64_t batch = r.batches[row], above = row == 0 ? 0 : r.batches[row - 1];
  if (batch <= above || batch > DraftSchedule::kMostBatch)
    bad_rates(what, fmt::format("batch size {} after {}; expected rising ones from 1 to {}", batch, above,
                                DraftSchedule::kMostBatch));
  for (int64_t k = 0; k < r.lengths; ++k) {
    if (!(r.at(row, k) >= 0 && r.at(row, k) <= 1e12))
      bad_rates(what,
                fmt::format("batch size {}, k = {}: expected tokens per second from 0 to 1e12, found {}",
                            batch, k, r.at(row, k)));
  }
  if (!(best_rate(r, row) > 0))
    bad_rates(what, fmt::format("batch size {}: no draft length has a rate above 0; leave it out", batch));
  if (!(r.weight(row) >= 0 && r.weight(row) <= 1e12))
    bad_rates(what,
              fmt::format("batch size {}: expected a weight from 0 to 1e12, found {}", batch, r.weight(row)));
}

double total_weight(const DraftRates& r) {
  return r.weights.empty() ? static_cast<double>(r.batches.size())
                           : std::accumulate(r.weights.begin(), r.weights.end(), 0.0);
}

double lost_share(const DraftRates& r, int64_t row, int64_t k) {
  const double best = best_rate(r, row);
  return (best - r.at(row, k)) / best;
}

// The cheapest k for every batch size with at most `ranges` runs of equal k.
class RunSearch {
 public:
  RunSearch(const DraftRates& rates, int64_t ranges)
      : r_(rates),
        ranges_(ranges),
        opened_(rates.batches.size() * ranges * rates.lengths),
        source_(rates.batches.size() * ranges) {}

  std::vector<int64_t> solve() {
    const auto rows = static_cast<int64_t>(r_.batches.size());
    loss_.assign(ranges_ * r_.lengths, std::numeric_limits<double>::infinity());
    for (int64_t row = 0; row < rows; ++row) advance(row);
    return walk_back(rows);
  }

 private:
  // loss_[n, k]: least loss up to `row` with n + 1 runs of which the last has k. The runs of the row above
  // are read before they are overwritten because n goes down.
  void advance(int64_t row) {
    for (int64_t n = std::min(row, ranges_ - 1); n >= 0; --n) {
      const int64_t from = n == 0 ? 0 : cheapest(n - 1);
      source_[row * ranges_ + n] = from;
      for (int64_t k = 0; k < r_.lengths; ++k) {
        double& here = loss_[n * r_.lengths + k];
        if (row == 0) here = 0;
        const bool opens = n > 0 && loss_[(n - 1) * r_.lengths + from] < here;
        opened_[(row * ranges_ + n) * r_.lengths + k] = opens;
        here = (opens ? loss_[(n - 1) * r_.lengths + from] : here) + r_.weight(row) * lost_share(r_, row, k);
      }
    }
  }
  int64_t cheapest(int64_t n) const {
    const auto first = loss_.begin() + n * r_.lengths;
    return std::min_element(first, first + r_.lengths) - first;
  }
  std::vector<int64_t> walk_back(int64_t rows) const {
    const double rounding = 1e-12 * total_weight(r_);
    int64_t n = 0;
    for (int64_t more = 1; more < ranges_; ++more) {
      if (loss_[more * r_.lengths + cheapest(more)] < loss_[n * r_.lengths + cheapest(n)] - rounding)
        n = more;
    }
    int64_t k = cheapest(n);
    std::vector<int64_t> out(rows);
    for (int64_t row = rows - 1; row >= 0; --row) {
      out[row] = k;
      if (!opened_[(row * ranges_ + n) * r_.lengths + k]) continue;
      k = source_[row * ranges_ + n];
      --n;
    }
    return out;
  }
  const DraftRates& r_;
  int64_t ranges_;
  std::vector<bool> opened_;     // [rows, ranges, lengths] a run begins at this row
  std::vector<int64_t> source_;  // [rows, ranges] the k of the run before it
  std::vector<double> loss_;     // [ranges, lengths]
};

DraftEntry entry_of(const DraftRates& r, int64_t begin, int64_t end, int64_t k) {
  double weight = 0, rate = 0;
  for (int64_t row = begin; row < end; ++row) {
    weight += r.weight(row);
    rate += r.weight(row) * r.at(row, k);
  }
  DraftEntry out;
  out.first_batch = begin == 0 ? 1 : r.batches[begin - 1] + 1;
  out.last_batch = r.batches[end - 1];
  out.k = k;
  if (weight > 0) out.tokens_per_s = rate / weight;
  return out;
}

}  // namespace

void check_draft_rates(const DraftRates& rates, const std::string& what) {
  check_counts(rates, what);
  for (int64_t row = 0; row < static_cast<int64_t>(rates.batches.size()); ++row) check_row(rates, row, what);
  if (!(total_weight(rates) > 0)) bad_rates(what, "all weights are 0; expected some above it");
}

ScheduleLoss schedule_loss(const DraftRates& rates, const DraftSchedule& schedule) {
  check_draft_rates(rates, "the rates");
  check_draft_schedule(schedule, "the draft schedule");
  if (rates.batches.back() > schedule.entries.back().last_batch)
    throw DataError(fmt::format("the rates go to batch size {}, the draft schedule to {}; give both the same",
                                rates.batches.back(), schedule.entries.back().last_batch));
  ScheduleLoss out;
  double sum = 0;
  for (size_t row = 0; row < rates.batches.size(); ++row) {
    const int64_t batch = rates.batches[row], k = schedule.at(batch).k;
    if (k >= rates.lengths)
      throw DataError(fmt::format(
          "the draft schedule has k = {} at batch size {}, the rates go to {}; measure longer drafts", k,
          batch, rates.lengths - 1));
    const double share = lost_share(rates, static_cast<int64_t>(row), k);
    out.share.push_back(share);
    sum += rates.weight(static_cast<int64_t>(row)) * share;
    if (out.worst_batch != 0 && share <= out.worst) continue;
    out.worst = share;
    out.worst_batch = batch;
  }
  out.mean = sum / total_weight(rates);
  return out;
}

std::string schedule_loss_text(const ScheduleLoss& loss) {
  return fmt::format("loses {:.2g} % of the best rate on average, {:.2g} % at worst (batch size {})",
                     100 * loss.mean, 100 * loss.worst, loss.worst_batch);
}

std::vector<DraftEntry> best_schedule(const DraftRates& rates, int64_t most_entries) {
  check_draft_rates(rates, "the rates");
  if (most_entries < 1 || most_entries > DraftSchedule::kMostEntries)
    throw DataError(
        fmt::format("{} entries asked for; expected 1 to {}", most_entries, DraftSchedule::kMostEntries));
  const auto rows = static_cast<int64_t>(rates.batches.size());
  const std::vector<int64_t> k = RunSearch(rates, std::min(most_entries, rows)).solve();
  std::vector<DraftEntry> out;
  for (int64_t begin = 0; begin < rows;) {
    int64_t end = begin + 1;
    while (end < rows && k[end] == k[begin]) ++end;
    out.push_back(entry_of(rates, begin, end, k[begin]));
    begin = end;
  }
  return out;
}

}  // namespace trimtab
