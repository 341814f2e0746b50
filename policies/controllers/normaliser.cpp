#include "policies/controllers/normaliser.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace trimtab {

FeatureNormaliser::FeatureNormaliser(int64_t size, bool enabled)
    : size_(size),
      enabled_(enabled),
      running_mean_(size),
      running_m2_(size),
      sum_(size),
      block_mean_(size),
      block_m2_(size),
      mean_(size, 0.0f),
      scale_(size, 1.0f) {}

void FeatureNormaliser::accumulate(const float* x, const uint8_t* mask, int64_t rows, Ranks& ranks) {
  if (!enabled_ || size_ == 0) return;
  double count = 0;
  std::fill(sum_.begin(), sum_.end(), 0.0);
  for (int64_t r = 0; r < rows; ++r) {
    if (mask && !mask[r]) continue;
    count += 1;
    for (int64_t j = 0; j < size_; ++j) sum_[j] += x[r * size_ + j];
  }
  ranks.sum(std::span(&count, 1));
  ranks.sum(sum_);
  if (count == 0) return;
  for (int64_t j = 0; j < size_; ++j) block_mean_[j] = sum_[j] / count, block_m2_[j] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    if (mask && !mask[r]) continue;
    for (int64_t j = 0; j < size_; ++j) {
      const double deviation = x[r * size_ + j] - block_mean_[j];
      block_m2_[j] += deviation * deviation;
    }
  }
  ranks.sum(block_m2_);
  const double total = count_ + count;
  for (int64_t j = 0; j < size_; ++j) {
    const double delta = block_mean_[j] - running_mean_[j];
    running_mean_[j] += delta * count / total;
    running_m2_[j] += block_m2_[j] + delta * delta * count_ * count / total;
  }
  count_ = total;
}

void FeatureNormaliser::refresh() {
  if (!enabled_ || count_ == 0) return;
  for (int64_t j = 0; j < size_; ++j) {
    const double deviation = std::sqrt(running_m2_[j] / count_);
    // Features are f32: a spread below their resolution is rounding, not information.
    const bool varies = deviation > 1e-6 * std::abs(running_mean_[j]);
    mean_[j] = static_cast<float>(running_mean_[j]);
    scale_[j] = varies ? static_cast<float>(1 / deviation) : 0.0f;
  }
}

void FeatureNormaliser::apply(const float* x, float* y) const {
  if (!enabled_) {
    std::copy_n(x, size_, y);
    return;
  }
  for (int64_t j = 0; j < size_; ++j) y[j] = std::clamp((x[j] - mean_[j]) * scale_[j], -kClip, kClip);
}

void FeatureNormaliser::save(TensorFile& file, const std::string& prefix) const {
  file.tensors[prefix + ".mean"] = Tensor::f32({size_}, mean_);
  file.tensors[prefix + ".scale"] = Tensor::f32({size_}, scale_);
  const double count[1] = {count_};
  file.tensors[prefix + ".running_count"] = Tensor::f64({1}, count);
  file.tensors[prefix + ".running_mean"] = Tensor::f64({size_}, running_mean_);
  file.tensors[prefix + ".running_m2"] = Tensor::f64({size_}, running_m2_);
}

void FeatureNormaliser::load(const TensorFile& file, const std::string& prefix) {
  mean_ = load_f32(file, prefix + ".mean", {size_});
  scale_ = load_f32(file, prefix + ".scale", {size_});
  const auto running = [&](const std::string& name, int64_t size) {
    const Tensor& tensor = file.at(prefix + name);
    if (tensor.shape != std::vector<int64_t>{size})
      throw CheckpointError(fmt::format(
          "tensor '{}' does not have the {} elements that this policy's observation has: it was saved "
          "for another environment",
          prefix + name, size));
    const auto values = tensor.as_f64();
    return std::vector<double>(values.begin(), values.end());
  };
  count_ = running(".running_count", 1)[0];
  running_mean_ = running(".running_mean", size_);
  running_m2_ = running(".running_m2", size_);
}

std::vector<float> load_f32(const TensorFile& file, const std::string& name,
                            const std::vector<int64_t>& shape) {
  const Tensor& tensor = file.at(name);
  if (tensor.shape != shape)
    throw CheckpointError(
        fmt::format("tensor '{}' has shape [{}], this policy needs [{}]: it was saved with other policy "
                    "options or for another environment",
                    name, fmt::join(tensor.shape, ", "), fmt::join(shape, ", ")));
  const auto values = tensor.as_f32();
  return {values.begin(), values.end()};
}

}  // namespace trimtab
