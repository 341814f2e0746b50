#include "trainers/language/gradient_shards.h"

#include <ATen/Parallel.h>

#include <tuple>

#include "core/error.h"
#include "policies/language/floats.h"

namespace trimtab {

std::pair<int64_t, int64_t> own_shards(int64_t shards, const Ranks& ranks) {
  if (ranks.size() > shards)
    throw ConfigError(fmt::format("{} ranks cannot share trainer.shards={}: start at most {} ranks, or raise trainer.shards", ranks.size(), shards, shards));
  return piece_of(shards, ranks.rank(), ranks.size());
}

GradientShards::GradientShards(const Transformer& model, int64_t shards, Ranks& ranks) : model_(model), ranks_(ranks), owner_(shards) {
  std::tie(first_, end_) = own_shards(shards, ranks);
  for (int r = 0; r < ranks.size(); ++r) {
    const auto [first, end] = piece_of(shards, r, ranks.size());
    std::fill(owner_.begin() + first, owner_.begin() + end, r);
  }
}

void GradientShards::make_replicas() {
  if (!replicas_.empty()) return;
  replicas_.reserve(end_ - first_);
  for (int64_t s = first_; s < end_; ++s) replicas_.push_back(model_.replica());
  if (ranks_.size() > 1) overlapped_ = std::make_unique<OverlappedSum>(model_, replicas_, ranks_);
}

const Transformer& GradientShards::replica() {
  make_replicas();
  return replicas_[0];
}

void GradientShards::backward(int64_t count, const Learn& learn, Pool& pool) {
  make_replicas();
  const auto shards = static_cast<int64_t>(owner_.size());
  const auto learn_shard = [&](int64_t own, const std::function<void()>& before_last) {
    at::set_num_threads(1);
    const Transformer& replica = replicas_[own];
    replica.flat_gradient().zero_();
    for (int64_t i = first_ + own; i < count; i += shards) {
      if (i + shards >= count && before_last) before_last();
      learn(replica, i);
    }
  };
  if (overlapped_) return overlapped_->run(pool, learn_shard);
  pool.run(end_ - first_, [&](int64_t own) { learn_shard(own, {}); });
  std::vector<std::span<float>> parts;
  for (const Transformer& replica : replicas_) parts.push_back(floats(replica.flat_gradient()));
  const std::span<float> sum = tree_sum<float>(parts), into = floats(model_.flat_gradient());
  for (size_t i = 0; i < sum.size(); ++i) into[i] += sum[i];
}

}  // namespace trimtab
