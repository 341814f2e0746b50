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

void Network::prepare(const ObservationSpec& view, const TrainerOptions& options, RowCount rows, Ranks& ranks) {
  options_ = options;
  const int64_t size = static_cast<int64_t>(controller_->parameters().size());
  if (!adam_) {
    adam_ = std::make_unique<ShardedAdam>(size, options.adam.options(), ranks);
    gradient_.resize(size);
  } else {
    adam_->set_options(options.adam.options());
  }
  if (!guard_) guard_.emplace(options.guard);
  if (!saved_guard_.empty()) guard_->restore(nlohmann::json::parse(std::exchange(saved_guard_, {})));
  const int64_t minibatches = options.num_minibatches(rows.all), batch = (rows.own + minibatches - 1) / minibatches;
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
  order_.reserve(rows.all);
}

// An order of the rows, or episodes, of all ranks: the same on each.
void Network::shuffle(const FitPlan& plan, int64_t units, uint32_t epoch) {
  order_.resize(units);
  std::iota(order_.begin(), order_.end(), 0u);
  Draws draws(plan.seed, Stream::kShuffle, plan.update, epoch);
  for (uint32_t i = static_cast<uint32_t>(units); i > 1; --i) std::swap(order_[i - 1], order_[draws.below(i)]);
}

// What this rank has of part k of them; episodes stay whole where there are any.
Network::Minibatch Network::minibatch(const FitPlan& plan, int64_t k, int64_t parts) {
  const bool whole = !plan.sequence_begin.empty();
  const int64_t units = static_cast<int64_t>(order_.size()), first = units * k / parts, end = units * (k + 1) / parts;
  const int64_t own = static_cast<int64_t>(whole ? plan.sequence_begin.size() - 1 : plan.rows.size());
  const int64_t before = whole ? plan.first_sequence : plan.first_row;
  batch_rows_.clear();
  batch_begin_.assign(whole ? 1 : 0, 0);
  for (int64_t u = first; u < end; ++u) {
    const int64_t unit = int64_t{order_[u]} - before;
    if (unit < 0 || unit >= own) continue;
    if (!whole) {
      batch_rows_.push_back(plan.rows[unit]);
      continue;
    }
    batch_rows_.insert(batch_rows_.end(), plan.rows.begin() + plan.sequence_begin[unit], plan.rows.begin() + plan.sequence_begin[unit + 1]);
    batch_begin_.push_back(static_cast<int64_t>(batch_rows_.size()));
  }
  const int64_t total = whole ? over_ranks(static_cast<int64_t>(batch_rows_.size()), *plan.ranks) : end - first;
  return {.rows = batch_rows_, .sequence_begin = batch_begin_, .total_rows = total};
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

// The gradient of one minibatch over all ranks, of which this rank's piece is left in gradient_, and its squared norm; the sums of its
// loss are returned.
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
  ranks.sum_scatter(gradient_);
  squares_ = adam_->squares(gradient_, all);
  return {all[0], all[1], all[2], all[3], all[4], all[5], all[6], all[7], all[8]};
}

// before(batch), then the gradient by chunk(batch, rows, scratch), then a step; for every minibatch of every
// epoch.
template <class Before, class Chunk>
FitStats Network::fit(const FitPlan& plan, const float* whiten, Pool& pool, const Explain& explain, Before&& before, Chunk&& chunk) {
  FitStats stats;
  const int64_t units = plan.sequence_begin.empty() ? plan.total_rows : plan.total_sequences;
  const int64_t parts = std::min(options_.num_minibatches(plan.total_rows), units);
  for (int64_t epoch = 0; epoch < options_.epochs && !stats.stopped_early && plan.total_rows > 0; ++epoch) {
    shuffle(plan, units, static_cast<uint32_t>(epoch));
    for (int64_t k = 0; k < parts; ++k) {
      Minibatch batch = minibatch(plan, k, parts);
      if (whiten && batch.total_rows > 1)
        std::tie(batch.shift, batch.scale) = moments(whiten, batch.rows, batch.total_rows, *plan.ranks);
      before(batch);
      const PolicyLossSums sums = gradient_of(batch, pool, *plan.ranks, chunk);
      const double norm = std::sqrt(squares_);
      const bool take = guard_->take(sums.loss, norm, [&] {
        plan.ranks->gather_pieces(gradient_);
        return explain({non_finite_tensor(sums.loss), batch.rows});
      });
      if (!take) continue;
      stats.loss.add(sums);
      stats.grad_norm += norm;
      ++stats.minibatches;
      if (options_.target_kl > 0 && sums.kl > kStopFactor * options_.target_kl) {
        stats.stopped_early = true;
        break;
      }
      adam_->step(controller_->parameters(), gradient_, clip_scale(squares_, options_.max_grad_norm), plan.lr);
    }
  }
  return stats;
}

FitStats Network::fit_policy(const FitPlan& plan, const PolicyData& data, Pool& pool) {
  const float* whiten = options_.normalise_advantage == "minibatch" ? data.advantage : nullptr;
  const Explain explain = [&](const NonFinite& bad) {
    TensorFile file;
    dump_observations(file, *data.observation, bad.rows);
    file.tensors["raw_action"] = gathered(bad.rows, data.raw, controller_->raw_width());
    file.tensors["logp_old"] = gathered(bad.rows, data.logp, 1);
    file.tensors["advantage"] = gathered(bad.rows, data.advantage, 1);
    return report(plan, bad, file);
  };
  if (!plan.sequence_begin.empty()) {
    return fit(
        plan, whiten, pool, explain, [&](const Minibatch& batch) { whole_loss(plan, data, batch, pool); },
        [&](const Minibatch& batch, std::span<const uint32_t> rows, Scratch& s) {
          whole_chunk(plan, data, batch, rows, s);
        });
  }
  return fit(
      plan, whiten, pool, explain, [](const Minibatch&) {},
      [&](const Minibatch& batch, std::span<const uint32_t> rows, Scratch& s) {
        policy_chunk(plan, data, batch, rows, s);
      });
}

FitStats Network::fit_value(const FitPlan& plan, const ValueData& data, Pool& pool) {
  const Explain explain = [&](const NonFinite& bad) {
    TensorFile file;
    dump_observations(file, *data.observation, bad.rows);
    file.tensors["value_old"] = gathered(bad.rows, data.value, 1);
    file.tensors["target"] = gathered(bad.rows, data.target, 1);
    return report(plan, bad, file);
  };
  return fit(
      plan, nullptr, pool, explain, [](const Minibatch&) {},
      [&](const Minibatch& batch, std::span<const uint32_t> rows, Scratch& s) {
        value_chunk(plan, data, batch, rows, s);
      });
}

std::string Network::report(const FitPlan& plan, const NonFinite& bad, TensorFile& file) const {
  const std::string dump =
      fmt::format("{}-{}.safetensors", plan.dump_stem, name_);  // networks may fit at the same time
  write_safetensors(dump, file);
  return fmt::format("update {}: {} of '{}' is not finite; the minibatch is in {}. Lower trainer.lr or "
                     "trainer.max_grad_norm, or look for "
                     "extreme observations and rewards in it",
                     plan.update, bad.what, name_, dump);
}

std::string Network::non_finite_tensor(double loss) const {
  for (const ParameterInfo& info : controller_->parameter_infos()) {
    const std::span<const float> values = std::as_const(*controller_).parameters().subspan(info.offset, info.size);
    if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); })) return "the weight " + info.name;
  }
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

void Network::save(TensorFile& file) {
  controller_->save(file, "policy." + name_ + ".");
  file.tensors["normaliser." + name_ + ".warm"] = Tensor::u8({1}, std::array<uint8_t, 1>{warm});
  if (guard_ && !guard_->metrics().empty()) {
    const std::string text = guard_->to_json().dump();
    file.tensors["guard." + name_] = Tensor::u8({static_cast<int64_t>(text.size())}, std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  }
  if (!adam_) return;
  const int64_t size = static_cast<int64_t>(gradient_.size());
  const std::string prefix = "optimiser." + name_;
  const ShardedAdam::Moments moments = adam_->moments();
  file.tensors[prefix + ".first_moment"] = Tensor::f32({size}, moments.first);
  file.tensors[prefix + ".second_moment"] = Tensor::f32({size}, moments.second);
  file.tensors[prefix + ".steps"] = Tensor::i64({1}, std::array<int64_t, 1>{adam_->steps()});
}

void Network::load(const TensorFile& file, Ranks& ranks) {
  controller_->load(file, "policy." + name_ + ".");
  warm = file.at("normaliser." + name_ + ".warm").as_u8()[0];
  if (file.tensors.contains("guard." + name_)) {
    const auto text = file.at("guard." + name_).as_u8();
    saved_guard_.assign(text.begin(), text.end());
  }
  const std::string prefix = "optimiser." + name_;
  if (!file.tensors.contains(prefix + ".steps")) return;
  const size_t size = controller_->parameters().size();
  const auto m = file.at(prefix + ".first_moment").as_f32(), v = file.at(prefix + ".second_moment").as_f32();
  if (m.size() != size || v.size() != size) {
    throw CheckpointError(
        fmt::format("optimiser state of '{}' has {} numbers, the network has {}", name_, m.size(), size));
  }
  adam_ = std::make_unique<ShardedAdam>(static_cast<int64_t>(size), options_.adam.options(), ranks);
  gradient_.resize(size);
  adam_->restore(m, v, file.at(prefix + ".steps").as_i64()[0]);
}

}  // namespace trimtab
