#include "trainers/language/overlapped_sum.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <exception>
#include <thread>

#include "core/error.h"
#include "policies/language/floats.h"

namespace trimtab {
namespace {

constexpr int64_t kBucket = int64_t{1} << 18;   // numbers: a mebibyte is on its way in about the time the next one takes to make

// Runs after autograd has added to a parameter's gradient.
class AfterAdding final : public torch::autograd::FunctionPostHook {
 public:
  explicit AfterAdding(std::function<void()> call) : call_(std::move(call)) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs, const torch::autograd::variable_list&) override {
    call_();
    return outputs;
  }

 private:
  std::function<void()> call_;
};

}  // namespace

OverlappedSum::OverlappedSum(const Transformer& model, std::span<const Transformer> replicas, Ranks& ranks)
    : model_(model), replicas_(replicas), ranks_(ranks), shards_(replicas.size()), missing_((model.trainable().numel() + kBucket - 1) / kBucket) {
  const float* start = replicas_[0].flat_gradient().data_ptr<float>();
  for (const auto& [name, parameter] : replicas_[0].trainable_parameters()) {
    const int64_t first = parameter.grad().data_ptr<float>() - start;
    parameters_.push_back({first / kBucket, (first + parameter.numel() - 1) / kBucket});
  }
  for (size_t s = 0; s < replicas_.size(); ++s) watch(s, replicas_[s]);
}

int64_t OverlappedSum::begin_of(int64_t bucket) const { return std::min(bucket * kBucket, model_.trainable().numel()); }

void OverlappedSum::watch(size_t shard, const Transformer& replica) {
  size_t p = 0;
  for (const auto& [name, parameter] : replica.trainable_parameters()) {
    accumulators_.push_back(torch::autograd::impl::grad_accumulator(parameter));
    accumulators_.back()->add_post_hook(std::make_unique<AfterAdding>([this, shard, p] {
      if (shards_[shard].last) added(shard, p);
    }));
    ++p;
  }
}

void OverlappedSum::added(size_t shard, size_t parameter) {
  if (shards_[shard].added[parameter]) return;
  shards_[shard].added[parameter] = 1;
  const std::lock_guard lock(mutex_);
  bool complete = false;
  for (int64_t b = parameters_[parameter].first_bucket; b <= parameters_[parameter].last_bucket; ++b) complete |= --missing_[b] == 0;
  if (complete) changed_.notify_one();
}

// Shards first, in halves; then ranks.
void OverlappedSum::add_bucket(int64_t bucket) {
  const int64_t first = begin_of(bucket), size = begin_of(bucket + 1) - first;
  std::vector<std::span<float>> parts;
  for (const Transformer& replica : replicas_) parts.push_back(floats(replica.flat_gradient()).subspan(first, size));
  const std::span<float> sum = tree_sum<float>(parts), whole = floats(replicas_[0].flat_gradient());
  ranks_.sum_scatter(whole, first, first + size);
  const std::span<float> into = floats(model_.flat_gradient()).subspan(first, size);
  for (int64_t i = 0; i < size; ++i) into[i] += sum[i];
}

void OverlappedSum::send() {
  for (int64_t bucket = num_buckets() - 1; bucket >= 0; --bucket) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return missing_[bucket] == 0 || given_up_; });
      if (given_up_) return;
    }
    add_bucket(bucket);
  }
}

void OverlappedSum::run(Pool& pool, const Learn& learn) {
  std::fill(missing_.begin(), missing_.end(), 0);
  for (const Parameter& p : parameters_)
    for (int64_t b = p.first_bucket; b <= p.last_bucket; ++b) missing_[b] += static_cast<int64_t>(shards_.size());
  for (Shard& shard : shards_) shard = {.last = false, .added = std::vector<uint8_t>(parameters_.size())};
  given_up_ = false;
  std::exception_ptr failure;
  std::thread sender([&] {
    try {
      send();
    } catch (...) {
      failure = std::current_exception();
    }
  });
  try {
    pool.run(static_cast<int64_t>(shards_.size()), [&](int64_t shard) {
      learn(shard, [&] { shards_[shard].last = true; });
      for (size_t p = 0; p < parameters_.size(); ++p) added(shard, p);   // also what no micro-batch needed
    });
  } catch (...) {
    {
      const std::lock_guard lock(mutex_);
      given_up_ = true;
    }
    changed_.notify_one();
    sender.join();
    throw;
  }
  sender.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace trimtab
