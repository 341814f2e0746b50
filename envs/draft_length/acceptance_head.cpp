#include "envs/draft_length/acceptance_head.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "envs/draft_length/draft_length.h"
#include "kernels/dense/dense.h"
#include "kernels/swiglu/swiglu.h"

namespace trimtab {
namespace {

constexpr float kClip = 10;   // of normalised inputs
constexpr int64_t kMostHidden = 65536, kMostBlocks = 32;
constexpr const char *kFormat = "acceptance_head", *kVersion = "1";

// Of draft_features what depends on the round's tokens alone: prices, batch and the rounds before say nothing of a token's acceptance that a recording knows.
constexpr std::array<std::string_view, 10> kScalars = {"depth", "last_entropy", "log_q", "entropy", "top", "margin", "log_q_product", "entropy_sum", "log_top_product", "least_top"};

struct ScalarPlaces {
  size_t all = 0;
  std::array<size_t, kScalars.size()> at = {};
};
const ScalarPlaces& scalar_places() {
  static const ScalarPlaces kPlaces = [] {
    const std::vector<Feature> features = draft_features(1, 0);
    ScalarPlaces out{.all = features.size()};
    for (size_t i = 0; i < kScalars.size(); ++i) {
      const auto found = std::find_if(features.begin(), features.end(), [&](const Feature& f) { return f.name == kScalars[i]; });
      TT_CHECK(found != features.end(), "draft_features has no '{}'", kScalars[i]);
      out.at[i] = static_cast<size_t>(found - features.begin());
    }
    return out;
  }();
  return kPlaces;
}

// ---- the file ----

[[noreturn]] void refuse(const std::filesystem::path& file, const std::string& what) {
  throw DataError(fmt::format("{}: {}; make it with `trimtab fit acceptance`", file.string(), what));
}

// Text of a file as it may stand in a message.
std::string printable(const std::string& text) {
  std::string out = text.substr(0, 40);
  for (char& c : out) c = c < 0x20 || c >= 0x7F ? '?' : c;
  return out;
}

class HeadFile {
 public:
  explicit HeadFile(const std::filesystem::path& file) : file_(file), contents_(read_safetensors(file)) {
    if (!contents_.metadata.contains(kFormat)) refuse(file_, fmt::format("has no metadata '{}', so it is no acceptance head", kFormat));
    if (const std::string& version = contents_.metadata.at(kFormat); version != kVersion)
      refuse(file_, fmt::format("is an acceptance head of version '{}', expected {}", printable(version), kVersion));
  }
  AcceptanceShape shape() const {
    for (const auto& [key, value] : contents_.metadata)
      if (key != kFormat && key != "hidden" && key != "blocks" && key != "share" && key != "features") refuse(file_, fmt::format("has the unknown metadata '{}'", printable(key)));
    return {.hidden = whole("hidden", 1, kMostHidden), .blocks = whole("blocks", 0, kMostBlocks), .share = word("share", "false", "true"), .scalars = word("features", "hidden", "all")};
  }
  // Copies a tensor behind `out`'s end.
  void take(const std::string& name, const std::vector<int64_t>& shape, std::vector<float>& out) {
    const auto found = contents_.tensors.find(name);
    if (found == contents_.tensors.end()) refuse(file_, fmt::format("tensor '{}' is missing", name));
    const Tensor& t = found->second;
    if (t.dtype != "F32" || t.shape != shape)
      refuse(file_, fmt::format("tensor '{}' is {} [{}], expected F32 [{}]", name, t.dtype, fmt::join(t.shape, ", "), fmt::join(shape, ", ")));
    const std::span<const float> values = t.as_f32();
    for (size_t i = 0; i < values.size(); ++i)
      if (!std::isfinite(values[i])) refuse(file_, fmt::format("tensor '{}', number {} is {}, expected a finite number", name, i, values[i]));
    out.insert(out.end(), values.begin(), values.end());
    contents_.tensors.erase(found);
  }
  void nothing_left() const {
    if (!contents_.tensors.empty()) refuse(file_, fmt::format("has the unknown tensor '{}'", printable(contents_.tensors.begin()->first)));
  }

 private:
  const std::string& text(const char* key) const {
    const auto found = contents_.metadata.find(key);
    if (found == contents_.metadata.end()) refuse(file_, fmt::format("does not say its '{}'", key));
    return found->second;
  }
  int64_t whole(const char* key, int64_t low, int64_t high) const {
    const std::string& t = text(key);
    int64_t value = -1;
    const auto [end, error] = std::from_chars(t.data(), t.data() + t.size(), value);
    if (error != std::errc() || end != t.data() + t.size() || value < low || value > high)
      refuse(file_, fmt::format("metadata '{}' is '{}', expected a whole number from {} to {}", key, printable(t), low, high));
    return value;
  }
  bool word(const char* key, const char* no, const char* yes) const {
    const std::string& t = text(key);
    if (t != no && t != yes) refuse(file_, fmt::format("metadata '{}' is '{}', expected {} or {}", key, printable(t), no, yes));
    return t == yes;
  }

  std::filesystem::path file_;
  TensorFile contents_;
};

std::string block_name(int64_t i) { return fmt::format("block.{}", i); }

}  // namespace

int64_t AcceptanceShape::inputs() const { return hidden + (scalars ? static_cast<int64_t>(kScalars.size()) : 0); }
int64_t AcceptanceShape::parameters() const {
  const int64_t n = inputs(), own = share ? std::min<int64_t>(1, blocks) : blocks;
  return own * n * (n + 1) + 2 * (n + 1);
}

AcceptanceHead::AcceptanceHead(const AcceptanceShape& shape, uint64_t seed) : shape_(shape) {
  if (shape.hidden < 1 || shape.hidden > kMostHidden) throw ConfigError(fmt::format("an acceptance head reads hidden states of 1 to {} numbers, not {}", kMostHidden, shape.hidden));
  if (shape.blocks < 0 || shape.blocks > kMostBlocks) throw ConfigError(fmt::format("an acceptance head has 0 to {} blocks, not {}", kMostBlocks, shape.blocks));
  parameters_.resize(shape.parameters());
  mean_.assign(shape.inputs(), 0), scale_.assign(shape.inputs(), 1);
  const float most = 1 / std::sqrt(static_cast<float>(shape.inputs()));   // as torch initialises a linear layer
  Draws d(seed, Stream::kInitialise);
  for (float& p : parameters_) p = d.uniform(-most, most);
}

int64_t AcceptanceHead::block_size() const { return shape_.inputs() * (shape_.inputs() + 1); }
AcceptanceHead::Layer AcceptanceHead::block(int64_t i) const {
  const float* const at = parameters_.data() + (shape_.share ? 0 : i * block_size());
  return {at, at + shape_.inputs() * shape_.inputs()};
}
AcceptanceHead::Layer AcceptanceHead::last() const {
  const float* const at = parameters_.data() + parameters_.size() - 2 * (shape_.inputs() + 1);
  return {at, at + 2 * shape_.inputs()};
}

void AcceptanceHead::normalise(std::vector<float> mean, std::vector<float> scale) {
  TT_CHECK_EQ(mean.size(), mean_.size());
  TT_CHECK_EQ(scale.size(), scale_.size());
  mean_ = std::move(mean), scale_ = std::move(scale);
}

void AcceptanceHead::show_raw(const DraftState& s, float* out) const {
  TT_CHECK(!s.drafted.empty());
  const std::span<const float> state = s.drafted.back().hidden;
  if (static_cast<int64_t>(state.size()) != shape_.hidden)
    throw ConfigError(fmt::format("the acceptance head reads a hidden state of {} numbers, but the draft shows {}: use the draft model that it was fitted for, with its hidden states",
                                  shape_.hidden, state.size()));
  std::copy(state.begin(), state.end(), out);
  if (!shape_.scalars) return;
  const ScalarPlaces& places = scalar_places();
  std::array<float, 64> all;
  TT_CHECK_LE(places.all, all.size());
  show_draft(s, {}, 0, all.data());
  for (size_t i = 0; i < places.at.size(); ++i) out[shape_.hidden + static_cast<int64_t>(i)] = all[places.at[i]];
}

void AcceptanceHead::show(const DraftState& s, float* out) const {
  show_raw(s, out);
  for (int64_t i = 0; i < shape_.inputs(); ++i) out[i] = std::clamp((out[i] - mean_[i]) * scale_[i], -kClip, kClip);
}

void AcceptanceHead::forward(int64_t rows, const float* inputs, AcceptanceWorkspace& w) const {
  const int64_t n = shape_.inputs(), size = rows * n;
  w.rows = rows;
  w.x.resize((shape_.blocks + 1) * size), w.gate_up.resize(2 * shape_.blocks * size), w.logits.resize(2 * rows);
  if (inputs != w.x.data()) std::copy_n(inputs, size, w.x.data());
  for (int64_t b = 0; b < shape_.blocks; ++b) {
    const float* const x = w.x.data() + b * size;
    float *const gate_up = w.gate_up.data() + 2 * b * size, *const y = w.x.data() + (b + 1) * size;
    dense_forward({.rows = rows, .in = n, .out = n, .x = x, .x_stride = n, .weight = block(b).weight, .weight_stride = n, .base = {block(b).bias, 0}, .y = gate_up, .y_stride = 2 * n});
    for (int64_t r = 0; r < rows; ++r) std::fill_n(gate_up + (2 * r + 1) * n, n, 1.0f);
    swiglu({.rows = rows, .width = n, .gate_up = gate_up, .y = y});
    for (int64_t i = 0; i < size; ++i) y[i] += x[i];
  }
  dense_forward({.rows = rows, .in = n, .out = 2, .x = w.x.data() + shape_.blocks * size, .x_stride = n, .weight = last().weight, .weight_stride = 2, .base = {last().bias, 0},
                 .y = w.logits.data(), .y_stride = 2});
}

void AcceptanceHead::backward(const float* d_logits, float* gradient, AcceptanceWorkspace& w) const {
  const int64_t n = shape_.inputs(), rows = w.rows, size = rows * n;
  w.d_x.resize(size), w.d_gate_up.resize(2 * size), w.d_before.resize(size), w.transposed.resize(n * std::max<int64_t>(n, 2));
  const auto slot = [&](const float* parameter) { return gradient + (parameter - parameters_.data()); };
  // From a layer's dy to its weights' gradient and, with what reaches x past the layer, dx.
  const auto layer_back = [&](const Layer& layer, int64_t out, const float* x, const float* dy, int64_t dy_stride, const float* past, float* dx) {
    dense_weight_gradient({.rows = rows, .in = n, .out = out, .x = x, .x_stride = n, .dy = dy, .dy_stride = dy_stride, .dw = slot(layer.weight), .dw_stride = out});
    dense_column_sums(rows, out, dy, dy_stride, slot(layer.bias));
    dense_transpose(n, out, layer.weight, out, w.transposed.data(), n);
    dense_input_gradient({.rows = rows, .in = n, .out = out, .dy = dy, .dy_stride = dy_stride, .weight_transposed = w.transposed.data(), .weight_stride = n, .base = {past, n},
                          .dx = dx, .dx_stride = n});
  };
  layer_back(last(), 2, w.x.data() + shape_.blocks * size, d_logits, 2, nullptr, w.d_x.data());
  for (int64_t b = shape_.blocks - 1; b >= 0; --b) {
    swiglu_gradient({.rows = rows, .width = n, .gate_up = w.gate_up.data() + 2 * b * size, .dy = w.d_x.data(), .d_gate_up = w.d_gate_up.data(), .y = w.d_before.data()});
    layer_back(block(b), n, w.x.data() + b * size, w.d_gate_up.data(), 2 * n, w.d_x.data(), w.d_before.data());
    w.d_x.swap(w.d_before);
  }
}

double AcceptanceHead::log_accept(const DraftState& s, AcceptanceWorkspace& w) const {
  w.x.resize((shape_.blocks + 1) * shape_.inputs());
  show(s, w.x.data());
  forward(1, w.x.data(), w);
  const double against = static_cast<double>(w.logits[0]) - w.logits[1];
  return against > 0 ? -against - std::log1p(std::exp(-against)) : -std::log1p(std::exp(against));
}

void AcceptanceHead::save(const std::filesystem::path& file) const {
  const int64_t n = shape_.inputs();
  TensorFile out;
  out.metadata = {{kFormat, kVersion}, {"hidden", fmt::to_string(shape_.hidden)}, {"blocks", fmt::to_string(shape_.blocks)}, {"share", shape_.share ? "true" : "false"},
                  {"features", shape_.scalars ? "all" : "hidden"}};
  out.tensors["mean"] = Tensor::f32({n}, mean_), out.tensors["scale"] = Tensor::f32({n}, scale_);
  const auto add = [&](const std::string& name, const Layer& layer, int64_t columns) {
    out.tensors[name + ".weight"] = Tensor::f32({n, columns}, {layer.weight, static_cast<size_t>(n * columns)});
    out.tensors[name + ".bias"] = Tensor::f32({columns}, {layer.bias, static_cast<size_t>(columns)});
  };
  for (int64_t b = 0; b < (shape_.share ? std::min<int64_t>(1, shape_.blocks) : shape_.blocks); ++b) add(block_name(b), block(b), n);
  add("logits", last(), 2);
  write_safetensors(file, out);
}

AcceptanceHead AcceptanceHead::load(const std::filesystem::path& file) {
  HeadFile in(file);
  const AcceptanceShape shape = in.shape();
  const int64_t n = shape.inputs();
  std::vector<float> mean, scale, parameters;
  in.take("mean", {n}, mean), in.take("scale", {n}, scale);
  for (int64_t b = 0; b < (shape.share ? std::min<int64_t>(1, shape.blocks) : shape.blocks); ++b)
    in.take(block_name(b) + ".weight", {n, n}, parameters), in.take(block_name(b) + ".bias", {n}, parameters);
  in.take("logits.weight", {n, 2}, parameters), in.take("logits.bias", {2}, parameters);
  in.nothing_left();
  AcceptanceHead out(shape, 0);
  out.normalise(std::move(mean), std::move(scale));
  out.parameters_ = std::move(parameters);
  return out;
}

namespace {

class AcceptanceControl final : public DraftControl {
 public:
  AcceptanceControl(std::shared_ptr<const AcceptanceHead> head, double most_risk) : head_(std::move(head)), most_risk_(most_risk) {}

  bool go_on(const DraftState& s) override {
    if (s.drafted.empty()) return true;
    Path& path = paths_[s.sequence];
    if (path.committed != s.committed || path.depth >= s.drafted.size()) path = {s.committed, 0, 0};   // another round
    DraftState before = s;
    for (; path.depth < s.drafted.size(); ++path.depth) {
      before.drafted = s.drafted.first(path.depth + 1);
      path.log_accept += head_->log_accept(before, workspace_);
    }
    return -std::expm1(path.log_accept) <= most_risk_;
  }
  void learn(const DraftState& s, int64_t) override { paths_.erase(s.sequence); }

 private:
  struct Path {   // the tokens of a round that are judged already
    int64_t committed = -1;
    size_t depth = 0;
    double log_accept = 0;
  };
  std::shared_ptr<const AcceptanceHead> head_;
  double most_risk_;
  std::map<int64_t, Path> paths_;
  AcceptanceWorkspace workspace_;
};

}  // namespace

std::unique_ptr<DraftControl> make_acceptance_control(std::shared_ptr<const AcceptanceHead> head, double most_risk) {
  TT_CHECK(head != nullptr);
  return std::make_unique<AcceptanceControl>(std::move(head), most_risk);
}

}  // namespace trimtab
