#include "engine/cached_forward/kv_quality.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace trimtab {
namespace {

void log_softmax(std::span<const float> logits, double* out) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - most);
  const double log_sum = most + std::log(sum);
  for (size_t v = 0; v < logits.size(); ++v) out[v] = logits[v] - log_sum;
}

int64_t longest_chunk(const KvCacheOptions& o) { return std::max(o.page_tokens, o.sinks); }

}  // namespace

KvSideBySide::KvSideBySide(const CachedModel& model, std::span<const int32_t> tokens, std::span<const KvCacheOptions> caches, bool track,
                           std::span<const double> truth)
    : model_(model), tokens_(tokens), track_(track), known_(truth), forward_(model, longest_chunk(caches.front())), plain_(model.heads(), caches.front()),
      kl_(caches.size()), cross_entropy_(caches.size()), last_kl_(caches.size()), mine_(model.config().vocab_size),
      expected_(longest_chunk(caches.front()) * model.config().vocab_size) {
  TT_CHECK(truth.empty() || truth.size() == tokens.size() * mine_.size(), "log-probabilities of another text");
  for (const KvCacheOptions& o : caches) {
    TT_CHECK(o.page_tokens == caches.front().page_tokens && o.sinks == caches.front().sinks, "caches that fill at different times");
    caches_.emplace_back(model.heads(), o);
  }
}

void KvSideBySide::expect(std::span<const int32_t> chunk) {
  const size_t vocab = mine_.size();
  if (!known_.empty()) {
    const auto rows = known_.subspan(read_ * vocab, chunk.size() * vocab);
    std::copy(rows.begin(), rows.end(), expected_.begin());
    return;
  }
  if (plain_.full()) plain_.pack(std::vector<KvBits>(model_.heads().count(), KvBits{16, 16}));
  forward_.run(chunk, plain_);
  for (size_t r = 0; r < chunk.size(); ++r) log_softmax(forward_.logits(static_cast<int64_t>(r)), expected_.data() + r * vocab);
}

int64_t KvSideBySide::read(const Visit& visit) {
  TT_CHECK(!over(), "the text is over after {} tokens", read_);
  const int64_t rows = std::min<int64_t>(static_cast<int64_t>(tokens_.size()) - read_, caches_.front().full() ? 0 : caches_.front().room());
  TT_CHECK(rows > 0, "the caches are full: pack them");
  const auto chunk = tokens_.subspan(read_, rows);
  expect(chunk);
  for (size_t i = 0; i < caches_.size(); ++i) {
    forward_.run(chunk, caches_[i], track_);
    last_kl_[i] = 0;
    for (int64_t r = 0; r < rows; ++r) {
      log_softmax(forward_.logits(r), mine_.data());
      const double* expected = expected_.data() + r * mine_.size();
      for (size_t v = 0; v < mine_.size(); ++v) last_kl_[i] += std::exp(expected[v]) * (expected[v] - mine_[v]);
      const size_t next = static_cast<size_t>(read_ + r + 1);
      if (next < tokens_.size()) cross_entropy_[i] -= mine_[tokens_[next]];
      if (visit) visit(i, r, mine_);
    }
    kl_[i] += last_kl_[i];
  }
  read_ += rows;
  return rows;
}

KvScore KvSideBySide::score(size_t i) const {
  const KvCache& cache = caches_[i];
  const double followed = static_cast<double>(std::max<int64_t>(1, std::min<int64_t>(read_, static_cast<int64_t>(tokens_.size()) - 1)));
  return {.kl = kl_[i] / static_cast<double>(std::max<int64_t>(1, read_)), .cross_entropy = cross_entropy_[i] / followed,
          .bytes = static_cast<double>(cache.bytes()), .bits_per_element = cache.bits_per_element(), .tokens = read_};
}

std::vector<double> plain_log_probabilities(const CachedModel& model, std::span<const int32_t> tokens, const KvCacheOptions& options) {
  CachedForward forward(model, longest_chunk(options));
  KvCache cache(model.heads(), options);
  const size_t vocab = model.config().vocab_size;
  std::vector<double> out(tokens.size() * vocab);
  score_tokens(forward, tokens, cache, pack_all(std::vector<KvBits>(model.heads().count(), KvBits{16, 16})),
               [&](int64_t i, std::span<const float> logits) { log_softmax(logits, out.data() + i * vocab); });
  return out;
}

std::vector<KvScore> score_packings(const CachedModel& model, std::span<const int32_t> tokens, std::span<const KvPacking> packings,
                                    std::span<const double> truth) {
  std::vector<KvCacheOptions> options;
  bool track = false;
  for (const KvPacking& p : packings) options.push_back(p.cache), track = track || p.track;
  KvSideBySide reader(model, tokens, options, track, truth);
  while (!reader.over()) {
    for (size_t i = 0; i < packings.size(); ++i)
      if (reader.cache(i).full()) packings[i].pack(reader.cache(i));
    reader.read();
  }
  std::vector<KvScore> out;
  for (size_t i = 0; i < packings.size(); ++i) out.push_back(reader.score(i));
  return out;
}

}  // namespace trimtab
