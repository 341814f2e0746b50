#include "engine/diffusion/row_cache.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace trimtab {
namespace {

constexpr size_t kProbes = 4;

double cosine(const float* a, const float* b, int64_t n) {
  double ab = 0, aa = 0, bb = 0;
  for (int64_t i = 0; i < n; ++i) ab += double{a[i]} * b[i], aa += double{a[i]} * a[i], bb += double{b[i]} * b[i];
  return ab / std::max(std::sqrt(aa * bb), 1e-30);
}

}  // namespace

RowCache::Kind RowCache::kind_of(const std::string& name) {
  if (name == "prefix") return Kind::kPrefix;
  if (name == "dual") return Kind::kDual;
  if (name == "delayed") return Kind::kDelayed;
  if (name == "drift") return Kind::kDrift;
  TT_CHECK(name == "none", "cache '{}'", name);
  return Kind::kNone;
}

RowCache::RowCache(const DiffusionModel& model, const DiffusionOptions& options, int64_t prompt, int64_t hidden_size)
    : model_(model), options_(options), kind_(kind_of(options.cache)), prompt_(prompt), hidden_size_(hidden_size) {}

int64_t RowCache::visible(int64_t row, int64_t total) const {
  if (model_.block == 0) return total;
  return row < prompt_ ? prompt_ : std::min(total, prompt_ + ((row - prompt_) / model_.block + 1) * model_.block);
}

bool RowCache::due(const CanvasPass& pass) const {
  if (since_ == 0 || drifted_ || (options_.refresh > 0 && since_ >= options_.refresh)) return true;
  return pass.opens && (kind_ == Kind::kPrefix || kind_ == Kind::kDual);
}

bool RowCache::must(const CanvasPass& pass, int64_t row) const {
  if (written_[row] < 0) return true;
  const int64_t position = row - prompt_ + (model_.shifted ? 1 : 0);
  return position >= pass.window.begin && position < pass.window.end && masked(pass, prompt_ + position);
}

bool RowCache::wanted(const CanvasPass& pass, CacheRefresh wish, int64_t row) const {
  if (everything_) return kind_ == Kind::kNone || !final_[row];
  const int64_t begin = prompt_ + pass.window.begin, end = prompt_ + pass.window.end;
  if (wish == CacheRefresh::kNothing) return false;
  if (wish == CacheRefresh::kWindow) return row >= begin && row < end;
  if (written_[row] != pass.tokens[row]) return true;
  switch (kind_) {
    case Kind::kNone: return true;
    case Kind::kPrefix: return row >= begin;
    case Kind::kDual: return row >= begin && row < end;
    case Kind::kDelayed: return masked(pass, row);
    case Kind::kDrift: break;
  }
  return (row >= begin - options_.neighbourhood && row < end + options_.neighbourhood) || std::find(probes_.begin(), probes_.end(), row) != probes_.end();
}

// The rows committed last that have been read as tokens already.
void RowCache::choose_probes(const CanvasPass& pass) {
  probes_.clear();
  for (size_t i = committed_.size(); i-- > 0 && probes_.size() < kProbes;)
    if (written_[committed_[i]] == pass.tokens[committed_[i]]) probes_.push_back(committed_[i]);
}

void RowCache::plan(const CanvasPass& pass, CacheRefresh wish, std::vector<int32_t>& rows) {
  const int64_t total = static_cast<int64_t>(pass.tokens.size());
  written_.resize(total, -1), final_.resize(total, 0);
  everything_ = kind_ == Kind::kNone || wish == CacheRefresh::kEverything || (wish == CacheRefresh::kAsPlanned && due(pass));
  if (wants_hidden()) choose_probes(pass);
  rows.clear();
  const int64_t limit = visible(predictor(pass.proposed_end - 1), total);
  for (int64_t row = 0; row < limit; ++row)
    if (must(pass, row) || wanted(pass, wish, row)) rows.push_back(static_cast<int32_t>(row));
}

void RowCache::done(const CanvasPass& pass, const std::vector<int32_t>& rows, std::span<const float> hidden) {
  const int64_t total = static_cast<int64_t>(pass.tokens.size());
  if (wants_hidden()) measure(pass, rows, hidden);
  since_ = everything_ ? 1 : since_ + 1;
  int64_t first_mask = prompt_;
  while (first_mask < total && !masked(pass, first_mask)) ++first_mask;
  for (const int32_t row : rows) {
    written_[row] = pass.tokens[row];
    if (everything_) final_[row] = visible(row, total) <= first_mask;
  }
}

void RowCache::measure(const CanvasPass& pass, const std::vector<int32_t>& rows, std::span<const float> hidden) {
  reference_.resize((static_cast<int64_t>(pass.tokens.size()) - prompt_) * hidden_size_);
  const auto state = [&](int64_t row) { return hidden.data() + (row - prompt_ + 1) * hidden_size_; };
  double least = 1;
  for (const int64_t row : probes_)
    if (std::binary_search(rows.begin(), rows.end(), row)) least = std::min(least, cosine(state(row), reference_.data() + (row - prompt_) * hidden_size_, hidden_size_));
  drifted_ = least < options_.drift_threshold;
  for (const int32_t row : rows)
    if (row >= prompt_ && (everything_ || written_[row] != pass.tokens[row]))
      std::copy_n(state(row), hidden_size_, reference_.data() + (row - prompt_) * hidden_size_);
}

}  // namespace trimtab
