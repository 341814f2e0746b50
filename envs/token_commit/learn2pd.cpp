#include "envs/token_commit/learn2pd.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/safetensors.h"
#include "envs/token_commit/picks.h"
#include "kernels/adam/adam.h"
#include "kernels/dense/dense.h"
#include "policies/controllers/logistic.h"

namespace trimtab {
namespace {

constexpr int64_t kMostBlock = 1024, kReports = 40;
constexpr const char *kFormat = "learn2pd", *kVersion = "1";

[[noreturn]] void refuse(const std::filesystem::path& file, const std::string& what) {
  throw DataError(fmt::format("{}: {}; make it with `trimtab fit learn2pd`", file.string(), what));
}

std::vector<float> taken(const std::filesystem::path& file, const TensorFile& contents, const std::string& name, const std::vector<int64_t>& shape) {
  const auto found = contents.tensors.find(name);
  if (found == contents.tensors.end()) refuse(file, fmt::format("tensor '{}' is missing", name));
  const Tensor& t = found->second;
  if (t.dtype != "F32" || t.shape != shape)
    refuse(file, fmt::format("tensor '{}' is {} [{}], expected F32 [{}]", name, t.dtype, fmt::join(t.shape, ", "), fmt::join(shape, ", ")));
  const std::span<const float> values = t.as_f32();
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i])) refuse(file, fmt::format("tensor '{}', number {} is {}, expected a finite number", name, i, values[i]));
  return {values.begin(), values.end()};
}

// Blocks of traces with a labelled position.
struct Blocks {
  int64_t block = 0, rows = 0, labelled = 0;
  std::vector<float> confidences;   // [rows, block]
  std::vector<int8_t> labels;       // [rows, block]; -1: none

  Blocks(const CommitTraceReader& traces, int64_t size, const char* which) : block(size) {
    TracedPass p;
    for (int64_t i = 0; i < traces.passes(); ++i) traces.look(i, p), add(p);
    if (rows == 0) throw DataError(fmt::format("the {} traces hold no proposal that is known to be stable or not: record more answers", which));
  }
  void add(const TracedPass& p) {
    const std::vector<float> all = block_confidences(p.state, block);
    std::vector<int8_t> known(all.size(), -1);
    for (size_t i = 0; i < p.state.masked.size(); ++i)
      known[p.state.masked[i].position - p.state.window.begin] = static_cast<int8_t>(stability(p.state.masked[i], p.final_tokens[i]));
    for (int64_t first = 0; first < static_cast<int64_t>(all.size()); first += block) {
      const auto count = block - std::count(known.begin() + first, known.begin() + first + block, -1);
      if (count == 0) continue;
      confidences.insert(confidences.end(), all.begin() + first, all.begin() + first + block);
      labels.insert(labels.end(), known.begin() + first, known.begin() + first + block);
      ++rows, labelled += count;
    }
  }
};

void all_logits(const Learn2PdFilter& f, const Blocks& blocks, std::vector<float>& out) {
  const int64_t n = f.block;
  out.resize(blocks.rows * n);
  dense_forward({.rows = blocks.rows, .in = n, .out = n, .x = blocks.confidences.data(), .x_stride = n, .weight = f.weight.data(), .weight_stride = n,
                 .base = {f.bias.data(), 0}, .y = out.data(), .y_stride = n});
}
// Mean over labelled positions.
double mean_loss(const Blocks& blocks, const std::vector<float>& logits) {
  double loss = 0;
  for (size_t i = 0; i < logits.size(); ++i)
    if (blocks.labels[i] >= 0) loss += softplus<double>(blocks.labels[i] == 1 ? -logits[i] : logits[i]);
  return loss / static_cast<double>(blocks.labelled);
}
// Logits become the loss's derivatives by them.
void derive(const Blocks& blocks, std::vector<float>& logits) {
  const float each = 1 / static_cast<float>(blocks.labelled);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = blocks.labels[i] < 0 ? 0 : (1 / (1 + std::exp(-logits[i])) - static_cast<float>(blocks.labels[i])) * each;
}

class Learn2Pd final : public CommitControl {
 public:
  Learn2Pd(std::shared_ptr<const Learn2PdFilter> filter, double threshold) : filter_(std::move(filter)), threshold_(threshold) {}
  void choose(const CommitState& s, std::vector<int32_t>& picks) override {
    const std::vector<float> confidences = block_confidences(s, filter_->block);
    logits_.resize(confidences.size());
    for (size_t first = 0; first < confidences.size(); first += static_cast<size_t>(filter_->block))
      filter_->logits(confidences.data() + first, logits_.data() + first);
    chance_.resize(s.masked.size());
    for (size_t i = 0; i < chance_.size(); ++i) chance_[i] = static_cast<float>(sigmoid<double>(logits_[s.masked[i].position - s.window.begin]));
    picks_above(s, chance_, threshold_, picks);
  }

 private:
  std::shared_ptr<const Learn2PdFilter> filter_;
  double threshold_;
  std::vector<float> logits_, chance_;
};

}  // namespace

std::vector<float> block_confidences(const CommitState& s, int64_t block) {
  const int64_t extent = s.window.end - s.window.begin, blocks = (extent + block - 1) / block;
  std::vector<float> out(blocks * block, 1);
  for (int64_t i = 0; i < static_cast<int64_t>(out.size()); ++i)
    if (const int64_t p = s.window.begin + i; p < s.length && s.tokens[p] < 0) out[i] = 0;
  for (const MaskedPosition& m : s.masked) out[m.position - s.window.begin] = m.confidence;
  return out;
}

void Learn2PdFilter::logits(const float* confidences, float* out) const {
  std::copy(bias.begin(), bias.end(), out);
  for (int64_t i = 0; i < block; ++i)
    for (int64_t j = 0; j < block; ++j) out[j] += confidences[i] * weight[i * block + j];
}

void Learn2PdFilter::save(const std::filesystem::path& file) const {
  TensorFile out;
  out.metadata = {{kFormat, kVersion}, {"block", fmt::to_string(block)}};
  out.tensors["weight"] = Tensor::f32({block, block}, weight), out.tensors["bias"] = Tensor::f32({block}, bias);
  write_safetensors(file, out);
}

Learn2PdFilter Learn2PdFilter::load(const std::filesystem::path& file) {
  const TensorFile contents = read_safetensors(file);
  const auto version = contents.metadata.find(kFormat), block = contents.metadata.find("block");
  if (version == contents.metadata.end() || block == contents.metadata.end())
    refuse(file, fmt::format("has no metadata '{}' and 'block', so it is no filter of Learn2PD", kFormat));
  if (version->second != kVersion || contents.metadata.size() != 2)
    refuse(file, fmt::format("is of another version than {}, or has metadata that this one does not know", kVersion));
  Learn2PdFilter out;
  const char* const last = block->second.data() + block->second.size();
  const auto [end, error] = std::from_chars(block->second.data(), last, out.block);
  if (error != std::errc() || end != last || out.block < 1 || out.block > kMostBlock)
    refuse(file, fmt::format("its block is no whole number from 1 to {}", kMostBlock));
  if (contents.tensors.size() > 2) refuse(file, "has tensors beside 'weight' and 'bias'");
  out.weight = taken(file, contents, "weight", {out.block, out.block}), out.bias = taken(file, contents, "bias", {out.block});
  return out;
}

void Learn2PdOptions::validate() const {
  if (block < 1 || block > kMostBlock) throw ConfigError(fmt::format("a block of {} positions: give 1 to {}", block, kMostBlock));
  if (epochs < 1 || epochs > 1000000) throw ConfigError(fmt::format("{} epochs: give 1 to 1000000", epochs));
  if (!(learning_rate > 0 && learning_rate <= 1)) throw ConfigError(fmt::format("the learning rate is {}, but it must be above 0 and at most 1", learning_rate));
  if (!(weight_decay >= 0 && weight_decay <= 1)) throw ConfigError(fmt::format("the weight decay is {}, but it must be from 0 to 1", weight_decay));
}

Learn2PdFilter fit_learn2pd(const CommitTraceReader& train, const CommitTraceReader& validation, const Learn2PdOptions& o,
                            const std::function<void(const Learn2PdEpoch&)>& progress) {
  o.validate();
  const int64_t n = o.block, every = std::max<int64_t>(1, o.epochs / kReports);
  const Blocks blocks(train, n, "training"), judged(validation, n, "validation");
  Learn2PdFilter now{n, std::vector<float>(n * n), std::vector<float>(n)}, best = now;
  std::vector<float> logits, judged_logits, d_weight(n * n), d_bias(n), moments[4];
  for (int i = 0; i < 4; ++i) moments[i].resize(i < 2 ? n * n : n);
  double least = INFINITY;
  for (int64_t e = 1; e <= o.epochs; ++e) {
    const bool told = e % every == 0 || e == o.epochs;
    all_logits(now, blocks, logits);
    const double loss = told ? mean_loss(blocks, logits) : 0;
    if (!std::isfinite(loss)) throw RunError(fmt::format("the loss of epoch {} is {}: lower the learning rate", e, loss));
    derive(blocks, logits);
    std::fill(d_weight.begin(), d_weight.end(), 0.0f), std::fill(d_bias.begin(), d_bias.end(), 0.0f);
    dense_weight_gradient({.rows = blocks.rows, .in = n, .out = n, .x = blocks.confidences.data(), .x_stride = n, .dy = logits.data(), .dy_stride = n,
                           .dw = d_weight.data(), .dw_stride = n});
    dense_column_sums(blocks.rows, n, logits.data(), n, d_bias.data());
    const auto step = [&](std::vector<float>& parameters, const std::vector<float>& gradient, int first) {
      adam_step({.size = static_cast<int64_t>(gradient.size()), .parameters = parameters.data(), .gradient = gradient.data(), .m = moments[first].data(),
                 .v = moments[first + 1].data(), .lr = o.learning_rate, .weight_decay = o.weight_decay, .step = e});
    };
    step(now.weight, d_weight, 0), step(now.bias, d_bias, 2);
    if (!told) continue;
    all_logits(now, judged, judged_logits);
    const double judged_loss = mean_loss(judged, judged_logits);
    const bool better = judged_loss < least;
    if (better) least = judged_loss, best = now;
    if (progress) progress({e, loss, judged_loss, better});
  }
  return best;
}

std::unique_ptr<CommitControl> make_learn2pd(std::shared_ptr<const Learn2PdFilter> filter, double threshold) {
  TT_CHECK(filter != nullptr);
  if (!(threshold >= 0 && threshold <= 1)) throw ConfigError(fmt::format("the threshold of Learn2PD is {}, but it must be from 0 to 1", threshold));
  return std::make_unique<Learn2Pd>(std::move(filter), threshold);
}

}  // namespace trimtab
