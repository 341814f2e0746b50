// Passes of one network over a rollout; see network.h.
#include "trainers/policy_gradient/network.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <tuple>

#include "core/error.h"
#include "core/random.h"
#include "kernels/adam/adam.h"

namespace trimtab {
namespace {

constexpr double kStopFactor = 1.5;  // an agent's epochs end when its divergence passes 1.5 times the target

// Mean and inverse deviation of the chosen rows of all ranks, `total` of them, as whiten() does it.
std::pair<float, float> moments(const float* values, std::span<const uint32_t> rows, int64_t total,
                                Ranks& ranks) {
  double sum = 0, squares = 0;
  for (const uint32_t r : rows) sum += values[r];
  ranks.sum(std::span(&sum, 1));
  const double mean = sum / static_cast<double>(total);
  for (const uint32_t r : rows) squares += (values[r] - mean) * (values[r] - mean);
  ranks.sum(std::span(&squares, 1));
  return {static_cast<float>(mean),
          static_cast<float>(1 / (std::sqrt(squares / static_cast<double>(total)) + 1e-8))};
}

int64_t over_ranks(int64_t count, Ranks& ranks) {
  double sum = static_cast<double>(count);
  ranks.sum(std::span(&sum, 1));
  return static_cast<int64_t>(sum);
}

Tensor gathered(std::span<const uint32_t> rows, const float* column, int64_t width) {
  std::vector<float> values;
  for (const uint32_t r : rows) values.insert(values.end(), column + r * width, column + (r + 1) * width);
  return Tensor::f32({static_cast<int64_t>(rows.size()), width}, values);
}

void dump_observations(TensorFile& file, const ObservationStore& store, std::span<const uint32_t> rows) {
  const ObservationBatch all = store.batch(0, 0);
  file.tensors["context"] = gathered(rows, all.context, store.context_size());
  if (store.item_size() == 0) return;
  file.tensors["items"] = gathered(rows, all.items, store.item_size());
  std::vector<uint8_t> mask;
  for (const uint32_t r : rows) {
    mask.insert(mask.end(), all.mask + r * store.mask_size(), all.mask + (r + 1) * store.mask_size());
  }
  file.tensors["mask"] = Tensor::u8({static_cast<int64_t>(rows.size()), store.mask_size()}, mask);
}

}  // namespace

void Network::prepare(const ObservationSpec& view, const TrainerOptions& options, int64_t rows) {
  options_ = options;
  const int64_t size = static_cast<int64_t>(controller_->parameters().size());
  if (!adam_) {
    adam_ = std::make_unique<Adam>(size, options.adam.options());
    gradient_.resize(size);
  } else {
    adam_->set_options(options.adam.options());
  }
  const int64_t batch = (rows + options.num_minibatches(rows) - 1) / options.num_minibatches(rows);
  const int64_t parts = std::clamp<int64_t>((batch + kChunk - 1) / kChunk, kScratch, kMaxParts);
  scratch_.clear();
  for (int64_t p = 0; p < parts; ++p) {
    Scratch& s = scratch_.emplace_back();
    s.observation = ObservationStore(view, kChunk);
    s.raw.resize(kChunk * controller_->raw_width());
    for (auto* column : {&s.a, &s.b, &s.c, &s.d, &s.e, &s.f, &s.g}) column->resize(kChunk);
    s.gradient.resize(size);
    s.workspace = controller_->workspace(kChunk);
  }
  order_.reserve(rows);
}

void Network::shuffle(const FitPlan& plan, uint32_t epoch) {
  order_.assign(plan.rows.begin(), plan.rows.end());
  Draws draws(plan.seed, Stream::kShuffle, plan.update, epoch);
  for (uint32_t i = static_cast<uint32_t>(order_.size()); i > 1; --i)
    std::swap(order_[i - 1], order_[draws.below(i)]);
}

void Network::shuffle_sequences(const FitPlan& plan, uint32_t epoch) {
  std::vector<uint32_t> sequence(plan.sequence_begin.size() - 1);
  std::iota(sequence.begin(), sequence.end(), 0u);
  Draws draws(plan.seed, Stream::kShuffle, plan.update, epoch);
  for (uint32_t i = static_cast<uint32_t>(sequence.size()); i > 1; --i)
    std::swap(sequence[i - 1], sequence[draws.below(i)]);
  order_.clear();
  order_begin_.assign(1, 0);
  for (const uint32_t i : sequence) {
    const int64_t first = plan.sequence_begin[i], end = plan.sequence_begin[i + 1];
    order_.insert(order_.end(), plan.rows.begin() + first, plan.rows.begin() + end);
    order_begin_.push_back(static_cast<int64_t>(order_.size()));
  }
}

// Part k of the rows in their present order; episodes stay whole where there are any.
Network::Minibatch Network::minibatch(const FitPlan& plan, int64_t k, int64_t parts) const {
  const int64_t units = static_cast<int64_t>(order_begin_.empty() ? order_.size() : order_begin_.size() - 1);
  int64_t first = units * k / parts, end = units * (k + 1) / parts;
  Minibatch batch;
  if (!order_begin_.empty()) {
    batch.sequence_begin = std::span(order_begin_).subspan(first, end - first + 1);
    first = batch.sequence_begin.front(), end = batch.sequence_begin.back();
  }
  batch.rows = std::span(order_).subspan(first, end - first);
  batch.total_rows = over_ranks(static_cast<int64_t>(batch.rows.size()), *plan.ranks);
  return batch;
}

// chunk(rows, scratch) over at most kChunk rows at a time, each part by one thread. Returns how many parts.
template <class Chunk>
int64_t Network::over_chunks(const Minibatch& batch, Pool& pool, Chunk&& chunk) {
  const int64_t rows = static_cast<int64_t>(batch.rows.size());
  const int64_t parts =
      std::clamp<int64_t>((rows + kChunk - 1) / kChunk, 1, static_cast<int64_t>(scratch_.size()));
  pool.run(parts, [&](int64_t p) {
    Scratch& s = scratch_[p];
    s.sums = {};
    std::fill(s.gradient.begin(), s.gradient.end(), 0.0f);
    for (int64_t first = rows * p / parts, end = rows * (p + 1) / parts; first < end; first += kChunk) {
      chunk(batch.rows.subspan(first, std::min(kChunk, end - first)), s);
    }
  });
  return parts;
}

// The gradient of one minibatch, left in gradient_; the sums of its loss are returned.
template <class Chunk>
PolicyLossSums Network::gradient_of(const Minibatch& batch, Pool& pool, Ranks& ranks, Chunk&& chunk) {
  const int64_t parts =
      over_chunks(batch, pool, [&](std::span<const uint32_t> rows, Scratch& s) { chunk(batch, rows, s); });
  PolicyLossSums sums = scratch_[0].sums;
  std::swap(gradient_, scratch_[0].gradient);  // each part clears its own before adding to it
  for (int64_t p = 1; p < parts; ++p) {
    sums.add(scratch_[p].sums);
    for (size_t i = 0; i < gradient_.size(); ++i) gradient_[i] += scratch_[p].gradient[i];
  }
  std::array<double, 9> all = {sums.loss,         sums.surrogate,    sums.entropy,
                               sums.kl,           sums.clipped,      sums.clipped_low,
                               sums.clipped_high, sums.clipped_dual, sums.reference_kl};
  ranks.sum(all);
  ranks.sum(gradient_);
  return {all[0], all[1], all[2], all[3], all[4], all[5], all[6], all[7], all[8]};
}

// before(batch), then the gradient by chunk(batch, rows, scratch), then a step; for every minibatch of every
// epoch.
template <class Before, class Chunk>
FitStats Network::fit(const FitPlan& plan, const float* whiten, Pool& pool, Before&& before, Chunk&& chunk) {
  FitStats stats;
  const bool whole = !plan.sequence_begin.empty();
  int64_t parts = options_.num_minibatches(plan.total_rows);  // the same on every rank
  if (whole) parts = std::min(parts, static_cast<int64_t>(plan.sequence_begin.size()) - 1);
  order_begin_.clear();
  for (int64_t epoch = 0; epoch < options_.epochs && !stats.stopped_early && plan.total_rows > 0; ++epoch) {
    if (whole)
      shuffle_sequences(plan, static_cast<uint32_t>(epoch));
    else
      shuffle(plan, static_cast<uint32_t>(epoch));
    for (int64_t k = 0; k < parts; ++k) {
      Minibatch batch = minibatch(plan, k, parts);
      if (whiten && batch.total_rows > 1)
        std::tie(batch.shift, batch.scale) = moments(whiten, batch.rows, batch.total_rows, *plan.ranks);
      before(batch);
      const PolicyLossSums sums = gradient_of(batch, pool, *plan.ranks, chunk);
      const double squares = squared_norm(gradient_.data(), static_cast<int64_t>(gradient_.size()));
      const double norm = std::sqrt(squares);
      if (!std::isfinite(norm) || !std::isfinite(sums.loss)) {
        throw NonFinite{non_finite_tensor(sums.loss),
                        std::vector<uint32_t>(batch.rows.begin(), batch.rows.end())};
      }
      stats.loss.add(sums);
      stats.grad_norm += norm;
      ++stats.minibatches;
      if (options_.target_kl > 0 && sums.kl > kStopFactor * options_.target_kl) {
        stats.stopped_early = true;
        break;
      }
      adam_->step(controller_->parameters(), gradient_, clip_scale(squares, options_.max_grad_norm), plan.lr);
    }
  }
  return stats;
}

FitStats Network::fit_policy(const FitPlan& plan, const PolicyData& data, Pool& pool) {
  const float* whiten = options_.normalise_advantage == "minibatch" ? data.advantage : nullptr;
  try {
    if (!plan.sequence_begin.empty()) {
      return fit(
          plan, whiten, pool, [&](const Minibatch& batch) { whole_loss(plan, data, batch, pool); },
          [&](const Minibatch& batch, std::span<const uint32_t> rows, Scratch& s) {
            whole_chunk(plan, data, batch, rows, s);
          });
    }
    return fit(
        plan, whiten, pool, [](const Minibatch&) {},
        [&](const Minibatch& batch, std::span<const uint32_t> rows, Scratch& s) {
          policy_chunk(plan, data, batch, rows, s);
        });
  } catch (const NonFinite& bad) {
    TensorFile file;
    dump_observations(file, *data.observation, bad.rows);
    file.tensors["raw_action"] = gathered(bad.rows, data.raw, controller_->raw_width());
    file.tensors["logp_old"] = gathered(bad.rows, data.logp, 1);
    file.tensors["advantage"] = gathered(bad.rows, data.advantage, 1);
    report(plan, bad, file);
  }
}

FitStats Network::fit_value(const FitPlan& plan, const ValueData& data, Pool& pool) {
  try {
    return fit(
        plan, nullptr, pool, [](const Minibatch&) {},
        [&](const Minibatch& batch, std::span<const uint32_t> rows, Scratch& s) {
          value_chunk(plan, data, batch, rows, s);
        });
  } catch (const NonFinite& bad) {
    TensorFile file;
    dump_observations(file, *data.observation, bad.rows);
    file.tensors["value_old"] = gathered(bad.rows, data.value, 1);
    file.tensors["target"] = gathered(bad.rows, data.target, 1);
    report(plan, bad, file);
  }
}

void Network::report(const FitPlan& plan, const NonFinite& bad, TensorFile& file) const {
  const std::string dump =
      fmt::format("{}-{}.safetensors", plan.dump_stem, name_);  // networks may fit at the same time
  write_safetensors(dump, file);
  throw RunError(
      fmt::format("update {}: {} of '{}' is not finite; the minibatch is in {}. Lower trainer.lr or "
                  "trainer.max_grad_norm, or look for "
                  "extreme observations and rewards in it",
                  plan.update, bad.what, name_, dump));
}

std::string Network::non_finite_tensor(double loss) const {
  for (const ParameterInfo& info : controller_->parameter_infos()) {
    for (int64_t i = info.offset; i < info.offset + info.size; ++i) {
      if (!std::isfinite(gradient_[i])) return "the gradient of " + info.name;
    }
  }
  return std::isfinite(loss) ? "the gradient's norm" : "the loss";
}

// The rows' observations and actions, and their columns of the loss in c, d and e.
void Network::load_policy_rows(const FitPlan& plan, const PolicyData& data, const Minibatch& batch,
                               std::span<const uint32_t> rows, Scratch& s) const {
  const int64_t n = static_cast<int64_t>(rows.size()), width = controller_->raw_width();
  const float per_row = 1.0f / static_cast<float>(batch.total_rows);
  float *old = s.c.data(), *advantage = s.d.data(), *weight = s.e.data();
  data.observation->gather(rows, s.observation);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t r = rows[i];
    std::copy_n(data.raw + r * width, width, s.raw.data() + i * width);
    old[i] = data.logp[r];
    advantage[i] = (data.advantage[r] - batch.shift) * batch.scale * (data.factor ? data.factor[r] : 1.0f);
    weight[i] = plan.weight[r] * per_row;
  }
}

void Network::policy_chunk(const FitPlan& plan, const PolicyData& data, const Minibatch& batch,
                           std::span<const uint32_t> rows, Scratch& s) const {
  const int64_t n = static_cast<int64_t>(rows.size());
  load_policy_rows(plan, data, batch, rows, s);
  controller_->evaluate(s.observation.batch(0, n), s.raw.data(), s.a.data(), s.b.data(), *s.workspace);
  const PolicyRows<float> in{.rows = n,
                             .logp = s.a.data(),
                             .logp_old = s.c.data(),
                             .entropy = s.b.data(),
                             .advantage = s.d.data(),
                             .weight = s.e.data()};
  s.sums.add(policy_loss(in, options_.loss_options(), s.f.data(), s.g.data()));
  controller_->backward_policy(s.f.data(), s.g.data(), s.gradient.data(), *s.workspace);
}

void Network::Whole::resize(size_t rows) {
  for (auto* column : {&logp, &old, &entropy, &advantage, &weight, &d_logp, &d_entropy}) column->resize(rows);
}

// The loss and its derivatives for a whole minibatch, into whole_.
void Network::whole_loss(const FitPlan& plan, const PolicyData& data, const Minibatch& batch, Pool& pool) {
  whole_.resize(batch.rows.size());
  over_chunks(batch, pool, [&](std::span<const uint32_t> rows, Scratch& s) {
    const int64_t n = static_cast<int64_t>(rows.size()), at = rows.data() - batch.rows.data();
    load_policy_rows(plan, data, batch, rows, s);
    controller_->evaluate(s.observation.batch(0, n), s.raw.data(), whole_.logp.data() + at,
                          whole_.entropy.data() + at, *s.workspace);
    std::copy_n(s.c.data(), n, whole_.old.data() + at);
    std::copy_n(s.d.data(), n, whole_.advantage.data() + at);
    std::copy_n(s.e.data(), n, whole_.weight.data() + at);
  });
  whole_.sequence_begin.clear();
  for (const int64_t begin : batch.sequence_begin)
    whole_.sequence_begin.push_back(begin - batch.sequence_begin.front());
  const PolicyRows<float> in{.rows = static_cast<int64_t>(batch.rows.size()),
                             .logp = whole_.logp.data(),
                             .logp_old = whole_.old.data(),
                             .entropy = whole_.entropy.data(),
                             .advantage = whole_.advantage.data(),
                             .weight = whole_.weight.data(),
                             .sequence_begin = whole_.sequence_begin.data(),
                             .num_sequences = static_cast<int64_t>(whole_.sequence_begin.size()) - 1};
  whole_.sums = policy_loss(in, options_.loss_options(), whole_.d_logp.data(), whole_.d_entropy.data());
}

// The gradient of rows whose derivatives are in whole_; their forward is made once more.
void Network::whole_chunk(const FitPlan& plan, const PolicyData& data, const Minibatch& batch,
                          std::span<const uint32_t> rows, Scratch& s) const {
  const int64_t n = static_cast<int64_t>(rows.size()), at = rows.data() - batch.rows.data();
  load_policy_rows(plan, data, batch, rows, s);
  controller_->evaluate(s.observation.batch(0, n), s.raw.data(), s.a.data(), s.b.data(), *s.workspace);
  if (at == 0) s.sums.add(whole_.sums);
  std::copy_n(whole_.d_logp.data() + at, n, s.f.data());
  std::copy_n(whole_.d_entropy.data() + at, n, s.g.data());
  controller_->backward_policy(s.f.data(), s.g.data(), s.gradient.data(), *s.workspace);
}

void Network::value_chunk(const FitPlan& plan, const ValueData& data, const Minibatch& batch,
                          std::span<const uint32_t> rows, Scratch& s) const {
  const int64_t n = static_cast<int64_t>(rows.size());
  const float per_row = 1.0f / static_cast<float>(batch.total_rows);
  float *value = s.a.data(), *old = s.b.data(), *target = s.c.data(), *weight = s.d.data(),
        *d_value = s.e.data();
  data.observation->gather(rows, s.observation);
  for (int64_t i = 0; i < n; ++i) {
    old[i] = data.value[rows[i]];
    target[i] = data.target[rows[i]];
    weight[i] = plan.weight[rows[i]] * per_row;
  }
  controller_->value(s.observation.batch(0, n), value, *s.workspace);
  s.sums.loss += value_loss(n, value, old, target, weight, options_.value.options(), d_value);
  controller_->backward_value(d_value, s.gradient.data(), *s.workspace);
}

// Calls block(first row, rows, scratch) over consecutive blocks, each scratch area by one thread.
template <class Block>
void Network::over_blocks(int64_t rows, Pool& pool, Block&& block) {
  const int64_t parts = static_cast<int64_t>(scratch_.size());
  pool.run(parts, [&](int64_t p) {
    for (int64_t first = rows * p / parts, end = rows * (p + 1) / parts; first < end; first += kChunk) {
      block(first, std::min(kChunk, end - first), scratch_[p]);
    }
  });
}

void Network::values(const ObservationStore& view, int64_t rows, float* value, Pool& pool) {
  over_blocks(rows, pool, [&](int64_t first, int64_t n, Scratch& s) {
    controller_->value(view.batch(first, n), value + first, *s.workspace);
  });
}

void Network::log_probabilities(const ObservationStore& view, const float* raw, int64_t rows, float* logp,
                                Pool& pool) {
  over_blocks(rows, pool, [&](int64_t first, int64_t n, Scratch& s) {
    controller_->evaluate(view.batch(first, n), raw + first * controller_->raw_width(), logp + first,
                          s.a.data(), *s.workspace);
  });
}

void Network::save(TensorFile& file) const {
  controller_->save(file, "policy." + name_ + ".");
  file.tensors["normaliser." + name_ + ".warm"] = Tensor::u8({1}, std::array<uint8_t, 1>{warm});
  if (!adam_) return;
  const int64_t size = static_cast<int64_t>(gradient_.size());
  const std::string prefix = "optimiser." + name_;
  file.tensors[prefix + ".first_moment"] = Tensor::f32({size}, adam_->first_moment());
  file.tensors[prefix + ".second_moment"] = Tensor::f32({size}, adam_->second_moment());
  file.tensors[prefix + ".steps"] = Tensor::i64({1}, std::array<int64_t, 1>{adam_->steps()});
}

void Network::load(const TensorFile& file) {
  controller_->load(file, "policy." + name_ + ".");
  warm = file.at("normaliser." + name_ + ".warm").as_u8()[0];
  const std::string prefix = "optimiser." + name_;
  if (!file.tensors.contains(prefix + ".steps")) return;
  const size_t size = controller_->parameters().size();
  const auto m = file.at(prefix + ".first_moment").as_f32(), v = file.at(prefix + ".second_moment").as_f32();
  if (m.size() != size || v.size() != size) {
    throw CheckpointError(
        fmt::format("optimiser state of '{}' has {} numbers, the network has {}", name_, m.size(), size));
  }
  adam_ = std::make_unique<Adam>(static_cast<int64_t>(size), options_.adam.options());
  gradient_.resize(size);
  std::copy(m.begin(), m.end(), adam_->first_moment().begin());
  std::copy(v.begin(), v.end(), adam_->second_moment().begin());
  adam_->set_steps(file.at(prefix + ".steps").as_i64()[0]);
}

}  // namespace trimtab
