#include "engine/cached_forward/cached_forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/random.h"
#include "engine/generation/checks.h"
#include "engine/generation/token_draw.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/two_piece_attention/two_piece_attention.h"

namespace trimtab {

CachedModel::CachedModel(const Transformer& model, Pool& pool)
    : packed_(model, memory_, pool), rope_(rope_frequencies(model.config().rope, model.config().head_dim), model.config().max_positions) {}

CachedForward::CachedForward(const CachedModel& model, int64_t most_rows)
    : model_(model), config_(model.config()), most_rows_(most_rows), head_stride_(model.packed().head_stride()),
      group_(config_.num_heads / config_.num_kv_heads) {
  const PackedLayer& layer = model.packed().layers().front();
  hidden_stride_ = packed_panels(config_.hidden_size) * kPackedPanel;
  qkv_stride_ = layer.qkv.panels * kPackedPanel;
  mixed_stride_ = config_.num_heads * head_stride_;
  middle_stride_ = layer.gate_up.panels * (kPackedPanel / 2);
  logits_stride_ = model.packed().head().panels * kPackedPanel;
  x_.resize(most_rows * hidden_stride_), normed_.resize(most_rows * hidden_stride_), qkv_.resize(most_rows * qkv_stride_);
  mixed_.resize(most_rows * mixed_stride_), middle_.resize(most_rows * middle_stride_), logits_.resize(most_rows * logits_stride_);
  variance_.resize(config_.num_layers);
}

void CachedForward::check(std::span<const int32_t> tokens, const KvCache& cache) const {
  const int64_t n = static_cast<int64_t>(tokens.size());
  TT_CHECK(n >= 1 && n <= most_rows_ && n <= cache.room(), "{} tokens at once, {} fit the buffers and {} the cache", n, most_rows_, cache.room());
  if (cache.tokens() + n > config_.max_positions)
    throw DataError(fmt::format("a text of {} tokens or more exceeds the model's {} positions: cut it", cache.tokens() + n, config_.max_positions));
  for (int64_t i = 0; i < n; ++i)
    if (tokens[i] < 0 || tokens[i] >= config_.vocab_size)
      throw DataError(fmt::format("token {} is {}, but the model's vocabulary has {}: was it encoded with another tokenizer?", cache.tokens() + i, tokens[i],
                                  config_.vocab_size));
}

void CachedForward::run(std::span<const int32_t> tokens, KvCache& cache, bool track) {
  check(tokens, cache);
  const int64_t rows = static_cast<int64_t>(tokens.size());
  for (int64_t r = 0; r < rows; ++r)
    std::memcpy(x_.data() + r * hidden_stride_, model_.packed().embedding(tokens[r]), config_.hidden_size * sizeof(float));
  for (int64_t i = 0; i < config_.num_layers; ++i) run_layer(i, rows, cache, track);
  cache.commit(rows);
  rms_norm(RmsNorm<float>{rows, config_.hidden_size, x_.data(), hidden_stride_, model_.packed().final_norm(), config_.norm_eps, normed_.data(), hidden_stride_});
  const PackedMatrix& head = model_.packed().head();
  multiply_panels({head, normed_.data(), hidden_stride_, PackedFinish::kStore, logits_.data(), logits_stride_}, rows, 0, head.panels);
}

std::span<const float> CachedForward::logits(int64_t row) const {
  const std::span<const float> out(logits_.data() + row * logits_stride_, config_.vocab_size);
  float sum = 0;
  for (const float x : out) sum += x * 0;
  if (sum != 0) throw RunError("logits are not finite: has training diverged?");
  return out;
}

void CachedForward::run_layer(int64_t index, int64_t rows, KvCache& cache, bool track) {
  const PackedLayer& l = model_.packed().layers()[index];
  const auto norm = [&](const float* weight) {
    rms_norm(RmsNorm<float>{rows, config_.hidden_size, x_.data(), hidden_stride_, weight, config_.norm_eps, normed_.data(), hidden_stride_});
  };
  const auto multiply = [&](const PackedProduct& p) { multiply_panels(p, rows, 0, p.matrix.panels); };
  norm(l.input_norm);
  multiply({l.qkv, normed_.data(), hidden_stride_, PackedFinish::kStore, qkv_.data(), qkv_stride_});
  variance_[index] = attend(index, rows, cache, track);
  multiply({l.out, mixed_.data(), mixed_stride_, PackedFinish::kAdd, x_.data(), hidden_stride_});
  norm(l.post_norm);
  multiply({l.gate_up, normed_.data(), hidden_stride_, PackedFinish::kSiluProduct, middle_.data(), middle_stride_});
  multiply({l.down, middle_.data(), middle_stride_, PackedFinish::kAdd, x_.data(), hidden_stride_});
}

float CachedForward::attend(int64_t layer, int64_t rows, KvCache& cache, bool track) {
  const PackedLayer& l = model_.packed().layers()[layer];
  HeadPreparation p;
  p.head_dim = config_.head_dim, p.epsilon = static_cast<float>(config_.norm_eps);
  const float query_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(config_.head_dim)));
  double variance = 0;
  for (int64_t head = 0; head < config_.num_kv_heads; ++head) {
    float* queries = qkv_.data() + head * group_ * head_stride_;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t position = cache.tokens() + r;
      p.cosine = model_.rope().cosine(position), p.sine = model_.rope().sine(position);
      p.norm = l.q_norm, p.scale = query_scale;
      for (int64_t g = 0; g < group_; ++g) prepare_head(p, queries + r * qkv_stride_ + g * head_stride_);
      p.norm = l.k_norm, p.scale = 1;
      float* key = qkv_.data() + r * qkv_stride_ + (config_.num_heads + head) * head_stride_;
      prepare_head(p, key);
      cache.write(layer, head, r, key, key + config_.num_kv_heads * head_stride_);
    }
    variance += cache.attend(layer, head, {rows, group_, queries, qkv_stride_, head_stride_, mixed_.data() + head * group_ * head_stride_, mixed_stride_, head_stride_}, track);
  }
  return static_cast<float>(variance / static_cast<double>(config_.num_kv_heads));
}

void score_tokens(CachedForward& forward, std::span<const int32_t> tokens, KvCache& cache, const PackPages& pack,
                  const std::function<void(int64_t, std::span<const float>)>& visit, bool track) {
  for (int64_t first = 0; first < static_cast<int64_t>(tokens.size());) {
    if (cache.full()) pack(cache);
    const int64_t rows = std::min<int64_t>(static_cast<int64_t>(tokens.size()) - first, cache.room());
    forward.run(tokens.subspan(first, rows), cache, track);
    for (int64_t r = 0; r < rows; ++r) visit(first + r, forward.logits(r));
    first += rows;
  }
}

Completion generate_cached(const CachedModel& model, const GenerationRequest& request, const SamplingOptions& sampling, const StopRules& stop,
                           uint64_t seed, KvCache& cache, const PackPages& pack) {
  check_causal(model.config());
  check_sampling(sampling);
  check_stop(stop, model.config());
  check_requests({&request, 1}, sampling, model.config());
  CachedForward forward(model, cache.options().page_tokens + cache.options().sinks);
  TokenDraw draw(model.config().vocab_size, sampling);
  std::vector<float> logits(TokenDraw::padded(model.packed().head().panels * kPackedPanel));
  Completion out{0, request.first_sample, {}, {}, Finish::kLength};
  std::string text;
  const auto keep = [&](int64_t, std::span<const float> row) { std::copy(row.begin(), row.end(), logits.begin()); };
  score_tokens(forward, request.prompt, cache, pack, keep);
  for (const int64_t most = max_tokens_of(request, sampling); static_cast<int64_t>(out.tokens.size()) < most;) {
    const Counter counter{static_cast<uint32_t>(request.key), static_cast<uint32_t>(request.key >> 32), static_cast<uint32_t>(out.sample),
                          static_cast<uint32_t>(request.prompt.size() + out.tokens.size())};
    const DrawnToken drawn = draw.draw(logits.data(), random_words(seed, Stream::kToken, counter));
    out.tokens.push_back(drawn.token), out.logprobs.push_back(drawn.logprob);
    bool ends = std::ranges::find(stop.ids, drawn.token) != stop.ids.end();
    if (!stop.strings.empty()) text += stop.tokenizer->token_bytes(drawn.token);
    for (const std::string& s : stop.strings) ends = ends || text.find(s) != std::string::npos;
    if (ends) {
      out.finish = Finish::kStop;
      break;
    }
    if (static_cast<int64_t>(out.tokens.size()) < most) score_tokens(forward, {&out.tokens.back(), 1}, cache, pack, keep);
  }
  return out;
}

}  // namespace trimtab
