#include "policies/controllers/heads.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "policies/controllers/heads_of_sets.h"
#include "policies/controllers/logistic.h"
#include "policies/controllers/special.h"

namespace trimtab {
namespace {

constexpr float kHalfLog2Pi = 0.918938533204672742f;

class CategoricalHead final : public ActionHead {
 public:
  explicit CategoricalHead(const HeadSpec& spec) : ActionHead(spec) {}
  bool per_item() const override { return false; }
  int64_t outputs() const override { return spec_.size; }
  int64_t num_log_std() const override { return 0; }
  int64_t saved_width() const override { return 2 * spec_.size; }  // p and d(entropy)/d(logit) of every class

  void sample(const HeadInput& in, const std::function<Draws(int64_t)>& draws, float* action,
              float* raw) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      const float* logits = in.output + i * in.stride;
      const float top = *std::max_element(logits, logits + spec_.size);
      float total = 0;
      for (int k = 0; k < spec_.size; ++k) total += std::exp(logits[k] - top);
      float left = draws(i).uniform() * total;
      int choice = 0;  // the last class takes what rounding leaves over
      for (; choice + 1 < spec_.size; ++choice) {
        left -= std::exp(logits[choice] - top);
        if (left < 0) break;
      }
      action[i] = raw[i] = static_cast<float>(choice);
    }
  }
  void mode(const HeadInput& in, float* action) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      const float* logits = in.output + i * in.stride;
      action[i] = static_cast<float>(std::max_element(logits, logits + spec_.size) - logits);
    }
  }
  void evaluate(const HeadInput& in, const float* raw, float* logp, float* entropy,
                float* saved) const override {
    const int n = spec_.size;
    for (int64_t i = 0; i < in.size; ++i) {
      const float* logits = in.output + i * in.stride;
      float* p = saved + i * saved_width();
      float* d_entropy = p + n;
      const float top = *std::max_element(logits, logits + n);
      float total = 0, h = 0;
      for (int k = 0; k < n; ++k) total += p[k] = std::exp(logits[k] - top);
      const float log_total = top + std::log(total);
      for (int k = 0; k < n; ++k) {
        p[k] /= total;
        h -= p[k] * (logits[k] - log_total);
      }
      for (int k = 0; k < n; ++k) d_entropy[k] = -p[k] * (logits[k] - log_total + h);
      logp[i] = logits[chosen(raw[i])] - log_total;
      entropy[i] = h;
    }
  }
  void backward(const HeadInput& in, const float* raw, const float* saved, const float* d_logp,
                const float* d_entropy, float* d_output, int64_t d_stride, float*) const override {
    const int n = spec_.size;
    for (int64_t i = 0; i < in.size; ++i) {
      const float* p = saved + i * saved_width();
      float* d = d_output + i * d_stride;
      for (int k = 0; k < n; ++k) d[k] = d_entropy[i] * p[n + k] - d_logp[i] * p[k];
      d[chosen(raw[i])] += d_logp[i];
    }
  }

 private:
  int chosen(float raw) const {
    const int index = static_cast<int>(raw);
    TT_CHECK(index >= 0 && index < spec_.size, "action {} of {} classes", raw, spec_.size);
    return index;
  }
};

class GaussianHead final : public ActionHead {
 public:
  explicit GaussianHead(const HeadSpec& spec) : ActionHead(spec) {}
  bool per_item() const override { return false; }
  int64_t outputs() const override { return spec_.size; }
  int64_t num_log_std() const override { return spec_.size; }
  int64_t saved_width() const override { return spec_.size; }  // (a - mu) / sigma

  void sample(const HeadInput& in, const std::function<Draws(int64_t)>& draws, float* action,
              float* raw) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      Draws noise = draws(i);
      for (int64_t j = 0; j < spec_.size; ++j) {
        const float a = in.output[i * in.stride + j] + std::exp(in.log_std[j]) * noise.normal();
        raw[i * spec_.size + j] = a;
        action[i * spec_.size + j] = std::clamp(a, spec_.low, spec_.high);
      }
    }
  }
  void mode(const HeadInput& in, float* action) const override {
    for (int64_t i = 0; i < in.size; ++i)
      for (int64_t j = 0; j < spec_.size; ++j)
        action[i * spec_.size + j] = std::clamp(in.output[i * in.stride + j], spec_.low, spec_.high);
  }
  void evaluate(const HeadInput& in, const float* raw, float* logp, float* entropy,
                float* saved) const override {
    std::fill_n(logp, in.size, 0.0f);
    float total_entropy = 0;
    for (int64_t j = 0; j < spec_.size; ++j) {
      const float precision = std::exp(-in.log_std[j]), constant = -in.log_std[j] - kHalfLog2Pi;
      total_entropy += 0.5f - constant;
      for (int64_t i = 0; i < in.size; ++i) {
        const float t = (raw[i * spec_.size + j] - in.output[i * in.stride + j]) * precision;
        saved[i * spec_.size + j] = t;
        logp[i] += constant - 0.5f * t * t;
      }
    }
    std::fill_n(entropy, in.size, total_entropy);
  }
  void backward(const HeadInput& in, const float*, const float* saved, const float* d_logp,
                const float* d_entropy, float* d_output, int64_t d_stride, float* d_log_std) const override {
    for (int64_t j = 0; j < spec_.size; ++j) {
      const float precision = std::exp(-in.log_std[j]);
      float total = 0;
      for (int64_t i = 0; i < in.size; ++i) {
        const float t = saved[i * spec_.size + j];
        d_output[i * d_stride + j] = d_logp[i] * t * precision;
        total += d_logp[i] * (t * t - 1) + d_entropy[i];
      }
      d_log_std[j] += total;
    }
  }
};

class SoftmaxGaussianHead final : public ItemHead {
 public:
  explicit SoftmaxGaussianHead(const HeadSpec& spec) : ItemHead(spec) {}
  int64_t num_log_std() const override { return 1; }
  int64_t saved_width() const override { return spec_.size; }  // (z - mu) / sigma by item

  void sample(const HeadInput& in, const std::function<Draws(int64_t)>& draws, float* action,
              float* raw) const override {
    const float sigma = std::exp(in.log_std[0]);
    std::fill_n(raw, in.size * spec_.size, 0.0f);
    for (int64_t i = 0; i < in.size; ++i) {
      Draws noise = draws(i);
      float* z = raw + i * spec_.size;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
        z[in.slot[r]] = logit(in, r) + sigma * noise.normal();
      shares(
          in, i, [&](int32_t r) { return z[in.slot[r]]; }, action + i * spec_.size);
    }
  }
  void mode(const HeadInput& in, float* action) const override {
    for (int64_t i = 0; i < in.size; ++i)
      shares(
          in, i, [&](int32_t r) { return logit(in, r); }, action + i * spec_.size);
  }
  void evaluate(const HeadInput& in, const float* raw, float* logp, float* entropy,
                float* saved) const override {
    const float precision = std::exp(-in.log_std[0]), constant = -in.log_std[0] - kHalfLog2Pi;
    for (int64_t i = 0; i < in.size; ++i) {
      float squares = 0;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) {
        const int64_t at = i * spec_.size + in.slot[r];
        const float t = (raw[at] - logit(in, r)) * precision;
        saved[at] = t;
        squares += t * t;
      }
      const float present = static_cast<float>(in.ends[i] - in.offsets[i]);
      logp[i] = present * constant - 0.5f * squares;
      entropy[i] = present * (0.5f - constant);
    }
  }
  void backward(const HeadInput& in, const float*, const float* saved, const float* d_logp,
                const float* d_entropy, float* d_output, int64_t d_stride, float* d_log_std) const override {
    const float precision = std::exp(-in.log_std[0]);
    float total = 0;
    for (int64_t i = 0; i < in.size; ++i) {
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) {
        const float t = saved[i * spec_.size + in.slot[r]];
        d_output[r * d_stride] = d_logp[i] * t * precision;
        total += d_logp[i] * (t * t - 1) + d_entropy[i];
      }
    }
    d_log_std[0] += total;
  }

 private:
  template <class Value>
  void shares(const HeadInput& in, int64_t i, Value value, float* share) const {
    std::fill_n(share, spec_.size, 0.0f);
    float top = -INFINITY, total = 0;
    for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) top = std::max(top, value(r));
    for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
      total += share[in.slot[r]] = std::exp(value(r) - top);
    for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) share[in.slot[r]] /= total;
  }
};

// One of the present items. A decision without any has index 0, log-probability 0 and no gradient.
class ChoiceHead final : public ItemHead {
 public:
  explicit ChoiceHead(const HeadSpec& spec) : ItemHead(spec) {}
  int64_t num_log_std() const override { return 0; }
  int64_t saved_width() const override { return 2 * spec_.size; }  // p and d(entropy)/d(logit) of every item

  void sample(const HeadInput& in, const std::function<Draws(int64_t)>& draws, float* action,
              float* raw) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      const float top = largest(in, i);
      float total = 0;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) total += std::exp(logit(in, r) - top);
      float left = draws(i).uniform() * total;
      int32_t choice = in.offsets[i];  // the last item takes what rounding leaves over
      for (; choice + 1 < in.ends[i]; ++choice) {
        left -= std::exp(logit(in, choice) - top);
        if (left < 0) break;
      }
      action[i] = raw[i] = index_of(in, i, choice);
    }
  }
  void mode(const HeadInput& in, float* action) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      int32_t best = in.offsets[i];
      for (int32_t r = best; r < in.ends[i]; ++r)
        if (logit(in, r) > logit(in, best)) best = r;
      action[i] = index_of(in, i, best);
    }
  }
  void evaluate(const HeadInput& in, const float* raw, float* logp, float* entropy,
                float* saved) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      float *p = saved + i * saved_width(), *d_entropy = p + spec_.size;
      const float top = largest(in, i);
      float total = 0, h = 0;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
        total += p[in.slot[r]] = std::exp(logit(in, r) - top);
      const float log_total = top + std::log(total);
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) {
        p[in.slot[r]] /= total;
        h -= p[in.slot[r]] * (logit(in, r) - log_total);
      }
      logp[i] = entropy[i] = 0;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) {
        d_entropy[in.slot[r]] = -p[in.slot[r]] * (logit(in, r) - log_total + h);
        if (in.slot[r] == static_cast<int32_t>(raw[i])) logp[i] = logit(in, r) - log_total;
        entropy[i] = h;
      }
    }
  }
  void backward(const HeadInput& in, const float* raw, const float* saved, const float* d_logp,
                const float* d_entropy, float* d_output, int64_t d_stride, float*) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      const float *p = saved + i * saved_width(), *d = p + spec_.size;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) {
        const int32_t k = in.slot[r];
        const float chosen = k == static_cast<int32_t>(raw[i]) ? 1.0f : 0.0f;
        d_output[r * d_stride] = d_entropy[i] * d[k] + d_logp[i] * (chosen - p[k]);
      }
    }
  }

 private:
  static float largest(const HeadInput& in, int64_t i) {
    float top = -INFINITY;
    for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) top = std::max(top, logit(in, r));
    return top;
  }
  static float index_of(const HeadInput& in, int64_t i, int32_t row) {
    return in.offsets[i] == in.ends[i] ? 0.0f : static_cast<float>(in.slot[row]);
  }
};

// Gamma(shape, 1) for shape >= 1: Marsaglia and Tsang, "A simple method for generating gamma variables",
// 2000.
double gamma_draw(double shape, Draws& draws) {
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = draws.normal(), root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root, u = 1 - static_cast<double>(draws.uniform());  // (0, 1]
    if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

class DirichletHead final : public ItemHead {
 public:
  explicit DirichletHead(const HeadSpec& spec) : ItemHead(spec) {}
  static constexpr float kSmallestShare = 1e-6f;
  int64_t num_log_std() const override { return 0; }
  int64_t saved_width() const override {
    return 2 * spec_.size;
  }  // d(logp)/d(logit) and d(entropy)/d(logit) by item

  void sample(const HeadInput& in, const std::function<Draws(int64_t)>& draws, float* action,
              float* raw) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      Draws noise = draws(i);
      float* share = action + i * spec_.size;
      std::fill_n(share, spec_.size, 0.0f);
      float total = 0;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
        total += share[in.slot[r]] = static_cast<float>(gamma_draw(alpha(in, r), noise));
      float clamped = 0;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
        clamped += share[in.slot[r]] = std::max(share[in.slot[r]] / total, kSmallestShare);
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) share[in.slot[r]] /= clamped;
      std::copy_n(share, spec_.size, raw + i * spec_.size);
    }
  }
  void mode(const HeadInput& in, float* action) const override {  // the mean
    for (int64_t i = 0; i < in.size; ++i) {
      float* share = action + i * spec_.size;
      std::fill_n(share, spec_.size, 0.0f);
      double total = 0;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) total += alpha(in, r);
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
        share[in.slot[r]] = static_cast<float>(alpha(in, r) / total);
    }
  }
  void evaluate(const HeadInput& in, const float* raw, float* logp, float* entropy,
                float* saved) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      const int64_t present = in.ends[i] - in.offsets[i];
      if (present == 0) {
        logp[i] = entropy[i] = 0;
        continue;
      }
      double total = 0;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) total += alpha(in, r);
      const LogGamma sum = log_gamma(total);
      const double excess = total - static_cast<double>(present);
      double log_density = sum.value, h = excess * sum.first - sum.value;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) {
        const double a = alpha(in, r), slope = sigmoid<double>(logit(in, r));
        const double log_share = std::log(static_cast<double>(raw[i * spec_.size + in.slot[r]]));
        const LogGamma one = log_gamma(a);
        log_density += (a - 1) * log_share - one.value;
        h += one.value - (a - 1) * one.first;
        float* derivative = saved + i * saved_width() + 2 * in.slot[r];
        derivative[0] = static_cast<float>(slope * (sum.first - one.first + log_share));
        derivative[1] = static_cast<float>(slope * (excess * sum.second - (a - 1) * one.second));
      }
      logp[i] = static_cast<float>(log_density);
      entropy[i] = static_cast<float>(h);
    }
  }
  void backward(const HeadInput& in, const float*, const float* saved, const float* d_logp,
                const float* d_entropy, float* d_output, int64_t d_stride, float*) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) {
        const float* derivative = saved + i * saved_width() + 2 * in.slot[r];
        d_output[r * d_stride] = d_logp[i] * derivative[0] + d_entropy[i] * derivative[1];
      }
    }
  }

 private:
  static double alpha(const HeadInput& in, int64_t row) { return 1 + softplus<double>(logit(in, row)); }
};

}  // namespace

std::unique_ptr<ActionHead> ActionHead::make(const HeadSpec& spec, const std::string& simplex_head) {
  switch (spec.kind) {
    case HeadKind::kCategorical:
      return std::make_unique<CategoricalHead>(spec);
    case HeadKind::kGaussian:
      return std::make_unique<GaussianHead>(spec);
    case HeadKind::kChoice:
      return std::make_unique<ChoiceHead>(spec);
    case HeadKind::kSubset:
      return make_subset_head(spec);
    case HeadKind::kOrder:
      return make_order_head(spec);
    case HeadKind::kSimplex:
      break;
  }
  if (simplex_head == "dirichlet") return std::make_unique<DirichletHead>(spec);
  return std::make_unique<SoftmaxGaussianHead>(spec);
}

}  // namespace trimtab
