// Running normalisation of one block of features: count, mean and sum of squared deviations per feature in
// double (Chan, Golub and LeVeque 1983), and the frozen shift and scale that the network uses until the next
// refresh.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/ranks.h"
#include "core/safetensors.h"

namespace trimtab {

class FeatureNormaliser {
 public:
  static constexpr float kClip = 10.0f;  // in standard deviations

  FeatureNormaliser() = default;
  FeatureNormaliser(int64_t size, bool enabled);

  // `rows` rows of `size` features; a row counts when `mask` is null or its byte is not 0. The rows of all
  // ranks are one block.
  void accumulate(const float* x, const uint8_t* mask, int64_t rows, Ranks& ranks);
  void refresh();  // a feature that has never varied gets scale 0
  void apply(const float* x, float* y) const;

  const std::vector<float>& mean() const { return mean_; }
  const std::vector<float>& scale() const { return scale_; }

  void save(TensorFile& file, const std::string& prefix) const;
  void load(const TensorFile& file, const std::string& prefix);

 private:
  int64_t size_ = 0;
  bool enabled_ = false;
  double count_ = 0;
  std::vector<double> running_mean_, running_m2_;
  std::vector<double> sum_, block_mean_, block_m2_;  // scratch of accumulate
  std::vector<float> mean_, scale_;                  // in use
};

// The tensor `name` of `file`, of type F32 or F64 and this many elements; CheckpointError otherwise.
std::vector<float> load_f32(const TensorFile& file, const std::string& name,
                            const std::vector<int64_t>& shape);

}  // namespace trimtab
