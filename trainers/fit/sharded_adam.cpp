#include "trainers/fit/sharded_adam.h"

#include "core/error.h"
#include "kernels/adam/adam.h"

namespace trimtab {
namespace {

int64_t own_size(int64_t size, const Ranks& ranks) {
  const auto [first, end] = ranks.piece(size, ranks.rank());
  return end - first;
}

double squares_of_blocks(std::span<const float> values, int64_t first, int64_t end) {
  const auto size = static_cast<int64_t>(values.size());
  if (first >= end) return 0;
  if (end - first == 1) return squared_norm(values.data() + first * kRankBlock, std::min(kRankBlock, size - first * kRankBlock));
  const int64_t middle = (first + end) / 2;
  return squares_of_blocks(values, first, middle) + squares_of_blocks(values, middle, end);
}

}  // namespace

double tree_squares(std::span<const float> values) {
  return squares_of_blocks(values, 0, (static_cast<int64_t>(values.size()) + kRankBlock - 1) / kRankBlock);
}

ShardedAdam::ShardedAdam(int64_t size, const AdamOptions& options, Ranks& ranks) : ranks_(ranks), size_(size), adam_(own_size(size, ranks), options) {}

double ShardedAdam::squares(std::span<const float> gradient, std::span<double> more) {
  sums_.assign(more.begin(), more.end());
  sums_.push_back(tree_squares(ranks_.own_piece(gradient)));
  ranks_.sum(std::span<double>(sums_));
  std::copy(sums_.begin(), sums_.end() - 1, more.begin());
  return sums_.back();
}

void ShardedAdam::step(std::span<float> parameters, std::span<const float> gradient, double scale, double lr) {
  TT_CHECK_EQ(static_cast<int64_t>(parameters.size()), size_);
  adam_.step(ranks_.own_piece(parameters), ranks_.own_piece(gradient), scale, lr);
  ranks_.gather_pieces(parameters);
}

ShardedAdam::Moments ShardedAdam::moments() {
  Moments out{std::vector<float>(size_), std::vector<float>(size_)};
  const auto give = [&](std::span<const float> own, std::vector<float>& all) {
    std::copy(own.begin(), own.end(), ranks_.own_piece(std::span<float>(all)).begin());
    ranks_.gather_pieces(all);
  };
  give(adam_.first_moment(), out.first);
  give(adam_.second_moment(), out.second);
  return out;
}

void ShardedAdam::restore(std::span<const float> first, std::span<const float> second, int64_t steps) {
  TT_CHECK_EQ(static_cast<int64_t>(first.size()), size_);
  TT_CHECK_EQ(static_cast<int64_t>(second.size()), size_);
  const auto take = [&](std::span<const float> all, std::span<float> own) {
    const std::span<const float> piece = ranks_.own_piece(all);
    std::copy(piece.begin(), piece.end(), own.begin());
  };
  take(first, adam_.first_moment());
  take(second, adam_.second_moment());
  adam_.set_steps(steps);
}

}  // namespace trimtab
