#include "envs/draft_length/acceptance_fit.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/random.h"
#include "kernels/adam/adam.h"

namespace trimtab {
namespace {

constexpr double kWarmUp = 0.03;   // of the steps
constexpr int64_t kLossRows = 1024;

struct Sample {
  int32_t text, position, depth;
};

std::vector<Sample> samples_of(const DraftSource& source) {
  std::vector<Sample> out;
  DraftPlace place;
  for (int64_t text = 0; text < source.texts(); ++text)
    for (source.begin(place, text); source.left(place) > 0; source.advance(place, 1))
      for (int64_t d = 0; d < std::min(source.most_drafted(), source.left(place) - 1); ++d)
        out.push_back({static_cast<int32_t>(text), static_cast<int32_t>(place.position), static_cast<int32_t>(d)});
  if (out.empty()) throw DataError("the recordings hold no token that could be drafted: every text is one token long");
  return out;
}

// Samples as a head sees them.
class Shower {
 public:
  Shower(const AcceptanceHead& head, const DraftSource& source) : head_(head), source_(source) {}

  // The inputs [inputs]; returns p.
  float show(const Sample& sample, bool normalised, float* out) {
    DraftPlace place;
    source_.begin(place, sample.text);
    place.position = sample.position;
    drafted_.clear();
    float accept = 0;
    for (int64_t d = head_.shape().scalars ? 0 : sample.depth; d <= sample.depth; ++d) {   // scalars sum over the round's tokens
      const DraftCandidate c = source_.look(place, d);
      drafted_.push_back(c.token), accept = c.accept;
    }
    const DraftState state{.sequence = sample.text, .committed = sample.position, .last_entropy = source_.last_entropy(place), .drafted = drafted_};
    normalised ? head_.show(state, out) : head_.show_raw(state, out);
    return accept;
  }

 private:
  const AcceptanceHead& head_;
  const DraftSource& source_;
  std::vector<DraftedToken> drafted_;
};

void normalise(AcceptanceHead& head, const DraftSource& source, const std::vector<Sample>& samples) {
  const int64_t n = head.shape().inputs();
  std::vector<double> sum(n), squares(n);
  std::vector<float> first(n), row(n), mean(n), scale(n);
  Shower shower(head, source);
  shower.show(samples[0], false, first.data());
  for (const Sample& s : samples) {
    shower.show(s, false, row.data());
    for (int64_t i = 0; i < n; ++i) {
      const double x = static_cast<double>(row[i]) - first[i];   // near the mean, so that squares do not cancel
      sum[i] += x, squares[i] += x * x;
    }
  }
  const double count = static_cast<double>(samples.size());
  for (int64_t i = 0; i < n; ++i) {
    const double shift = sum[i] / count, deviation = std::sqrt(std::max(0.0, squares[i] / count - shift * shift));
    mean[i] = static_cast<float>(first[i] + shift);
    scale[i] = deviation > 1e-6 * std::abs(mean[i]) ? static_cast<float>(1 / deviation) : 0;   // below: rounding of a constant
  }
  head.normalise(std::move(mean), std::move(scale));
}

struct LossSum {
  double loss = 0, weight = 0;
};
LossSum sum_loss(std::span<const float> logits, std::span<const float> accept, double weight, float* d_logits) {
  LossSum out;
  for (size_t r = 0; r < accept.size(); ++r) {
    const double rejected = logits[2 * r], accepted = logits[2 * r + 1], top = std::max(rejected, accepted);
    const double log_sum = top + std::log(std::exp(rejected - top) + std::exp(accepted - top));
    const double w_rejected = weight * (1 - static_cast<double>(accept[r])), w_accepted = accept[r], both = w_rejected + w_accepted;
    out.loss += w_rejected * (log_sum - rejected) + w_accepted * (log_sum - accepted), out.weight += both;
    if (d_logits == nullptr) continue;
    d_logits[2 * r] = static_cast<float>(both * std::exp(rejected - log_sum) - w_rejected);
    d_logits[2 * r + 1] = static_cast<float>(both * std::exp(accepted - log_sum) - w_accepted);
  }
  return out;
}

void shuffle(std::vector<uint32_t>& order, uint64_t seed, int64_t epoch) {
  Draws d(seed, Stream::kShuffle, static_cast<uint32_t>(epoch));
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[d.below(static_cast<uint32_t>(i))]);
}

double rate_at(int64_t step, int64_t steps, double peak) {
  const double done = static_cast<double>(step) / static_cast<double>(steps);
  return done < kWarmUp ? peak * (done / kWarmUp) : peak * 0.5 * (1 + std::cos(std::numbers::pi * (done - kWarmUp) / (1 - kWarmUp)));
}

// The head being fitted, step by step.
class Fit {
 public:
  Fit(const DraftSource& source, const AcceptanceFitOptions& o)
      : o_(o), head_({.hidden = source.hidden_size(), .blocks = o.blocks, .share = o.share, .scalars = o.features == "all"}, o.seed), samples_(samples_of(source)), shower_(head_, source) {
    normalise(head_, source, samples_);
    order_.resize(samples_.size());
    for (size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<uint32_t>(i);
    const int64_t size = static_cast<int64_t>(head_.parameters().size());
    gradient_.resize(size), m_.resize(size), v_.resize(size);
    in_epoch_ = (static_cast<int64_t>(samples_.size()) + o.batch - 1) / o.batch;
  }
  AcceptanceHead& head() { return head_; }

  double epoch(int64_t epoch) {
    shuffle(order_, o_.seed, epoch);
    LossSum sum;
    for (size_t first = 0; first < order_.size(); first += static_cast<size_t>(o_.batch)) {
      const LossSum step_sum = step({order_.data() + first, std::min(static_cast<size_t>(o_.batch), order_.size() - first)});
      sum.loss += step_sum.loss, sum.weight += step_sum.weight;
    }
    return sum.loss / sum.weight;
  }

 private:
  LossSum step(std::span<const uint32_t> chosen) {
    const int64_t rows = static_cast<int64_t>(chosen.size()), n = head_.shape().inputs();
    inputs_.resize(rows * n), accept_.resize(rows), d_logits_.resize(2 * rows);
    for (int64_t r = 0; r < rows; ++r) accept_[r] = shower_.show(samples_[chosen[r]], true, inputs_.data() + r * n);
    head_.forward(rows, inputs_.data(), workspace_);
    const LossSum sum = sum_loss(workspace_.logits, accept_, o_.weight, d_logits_.data());
    std::fill(gradient_.begin(), gradient_.end(), 0.0f);
    head_.backward(d_logits_.data(), gradient_.data(), workspace_);
    ++steps_;
    adam_step({.size = static_cast<int64_t>(gradient_.size()), .parameters = head_.parameters().data(), .gradient = gradient_.data(), .m = m_.data(), .v = v_.data(),
               .lr = rate_at(steps_, in_epoch_ * o_.epochs, o_.learning_rate), .step = steps_, .gradient_scale = 1 / sum.weight});
    return sum;
  }

  AcceptanceFitOptions o_;
  AcceptanceHead head_;
  std::vector<Sample> samples_;
  Shower shower_;
  std::vector<uint32_t> order_;
  std::vector<float> gradient_, m_, v_, inputs_, accept_, d_logits_;
  AcceptanceWorkspace workspace_;
  int64_t steps_ = 0, in_epoch_ = 0;
};

}  // namespace

void AcceptanceFitOptions::validate() const {
  if (features != "hidden" && features != "all") throw ConfigError(fmt::format("features '{}': choose hidden or all", features));
  if (!(weight > 0 && weight <= 1000)) throw ConfigError(fmt::format("the weight of rejections is {}, but it must be above 0 and at most 1000", weight));
  if (!(learning_rate > 0 && learning_rate <= 1)) throw ConfigError(fmt::format("the learning rate is {}, but it must be above 0 and at most 1", learning_rate));
  if (epochs < 1 || epochs > 10000 || batch < 1 || batch > 1 << 20) throw ConfigError(fmt::format("{} epochs of batches of {}: give 1 to 10000, and 1 to {}", epochs, batch, 1 << 20));
}

double acceptance_loss(std::span<const float> logits, std::span<const float> accept, double weight, float* d_logits) {
  const LossSum sum = sum_loss(logits, accept, weight, d_logits);
  for (size_t i = 0; d_logits != nullptr && i < logits.size(); ++i) d_logits[i] = static_cast<float>(d_logits[i] / sum.weight);
  return sum.loss / sum.weight;
}

double acceptance_loss(const AcceptanceHead& head, const DraftSource& source, double weight) {
  const std::vector<Sample> samples = samples_of(source);
  const int64_t n = head.shape().inputs();
  Shower shower(head, source);
  AcceptanceWorkspace workspace;
  std::vector<float> inputs(kLossRows * n), accept;
  LossSum sum;
  for (size_t first = 0; first < samples.size(); first += kLossRows) {
    const int64_t rows = std::min<int64_t>(kLossRows, static_cast<int64_t>(samples.size() - first));
    accept.resize(rows);
    for (int64_t r = 0; r < rows; ++r) accept[r] = shower.show(samples[first + r], true, inputs.data() + r * n);
    head.forward(rows, inputs.data(), workspace);
    const LossSum part = sum_loss(workspace.logits, accept, weight, nullptr);
    sum.loss += part.loss, sum.weight += part.weight;
  }
  return sum.loss / sum.weight;
}

AcceptanceHead fit_acceptance(const DraftSource& train, const DraftSource& validation, const AcceptanceFitOptions& options,
                              const std::function<void(const AcceptanceEpoch&)>& progress) {
  options.validate();
  if (train.hidden_size() == 0) throw DataError("the training recordings hold no hidden states, which the head reads: record them without --no-hidden");
  if (train.hidden_size() != validation.hidden_size())
    throw DataError(fmt::format("the training recordings hold hidden states of {} numbers, the validation recordings of {}: record both with one draft model", train.hidden_size(),
                                validation.hidden_size()));
  Fit fit(train, options);
  for (int64_t e = 0; e < options.epochs; ++e) {
    const double loss = fit.epoch(e);
    if (!std::isfinite(loss)) throw RunError(fmt::format("the loss of epoch {} is {}: lower the learning rate", e + 1, loss));
    if (progress) progress({e + 1, loss, acceptance_loss(fit.head(), validation, options.weight)});
  }
  return std::move(fit.head());
}

}  // namespace trimtab
