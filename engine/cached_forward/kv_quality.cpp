#include "engine/cached_forward/kv_quality.h"

#include <algorithm>
#include <cmath>

namespace trimtab {
namespace {

void log_softmax(std::span<const float> logits, std::vector<double>& out) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - most);
  const double log_sum = most + std::log(sum);
  for (size_t v = 0; v < logits.size(); ++v) out[v] = logits[v] - log_sum;
}

// A cache that is being filled, and what it has cost so far.
struct Reader {
  KvCache cache;
  const PackPages& pack;
  KvScore score;
};

}  // namespace

std::vector<KvScore> score_packings(const CachedModel& model, const KvCacheOptions& options, std::span<const int32_t> tokens,
                                    std::span<const PackPages> packings) {
  CachedForward forward(model, std::max(options.page_tokens, options.sinks));
  const PackPages plain = pack_all(std::vector<KvBits>(model.heads().count(), KvBits{16, 16}));
  const int64_t vocab = model.config().vocab_size, n = static_cast<int64_t>(tokens.size());
  KvCache truth(model.heads(), options);
  std::vector<Reader> readers;
  for (const PackPages& pack : packings) readers.push_back({KvCache(model.heads(), options), pack, {}});
  std::vector<double> mine(vocab);
  std::vector<std::vector<double>> expected(std::max(options.page_tokens, options.sinks), std::vector<double>(vocab));
  for (int64_t first = 0; first < n;) {
    const auto read = [&](KvCache& cache, const PackPages& pack) {
      if (cache.full()) pack(cache);
      const int64_t rows = std::min(n - first, cache.room());
      forward.run(tokens.subspan(first, rows), cache);
      return rows;
    };
    const int64_t rows = read(truth, plain);
    for (int64_t r = 0; r < rows; ++r) log_softmax(forward.logits(r), expected[r]);
    for (Reader& reader : readers) {
      read(reader.cache, reader.pack);
      for (int64_t r = 0; r < rows; ++r) {
        log_softmax(forward.logits(r), mine);
        for (int64_t v = 0; v < vocab; ++v) reader.score.kl += std::exp(expected[r][v]) * (expected[r][v] - mine[v]);
        if (first + r + 1 < n) reader.score.cross_entropy -= mine[tokens[first + r + 1]];
      }
    }
    first += rows;
  }
  std::vector<KvScore> out;
  for (Reader& reader : readers) {
    KvScore& s = out.emplace_back(reader.score);
    s.kl /= static_cast<double>(std::max<int64_t>(1, n)), s.cross_entropy /= static_cast<double>(std::max<int64_t>(1, n - 1));
    s.bytes = static_cast<double>(reader.cache.bytes()), s.bits_per_element = reader.cache.bits_per_element(), s.tokens = n;
  }
  return out;
}

}  // namespace trimtab
