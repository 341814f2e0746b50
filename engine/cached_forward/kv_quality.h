// What caches of mixed widths cost a model on a text: any number of them read the same tokens side by side with a cache of 16 bits.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/cached_forward/cached_forward.h"

namespace trimtab {

struct KvScore {
  double kl = 0;                 // mean over tokens of KL(16 bits || this cache) of the next token, nats
  double cross_entropy = 0;      // mean over tokens but the last of -ln p(next token), nats: perplexity is its exponential
  double bytes = 0;              // held at the end of the text
  double bits_per_element = 0;   // at the end of the text, scales, sinks and tail included
  int64_t tokens = 0;
};

// The caches may differ in their quantiser, not in page_tokens and sinks: they are full at the same time, and then the caller packs each.
class KvSideBySide {
 public:
  // Row `row` of the last read, as cache `i` has it; log-probabilities [vocab].
  using Visit = std::function<void(size_t i, int64_t row, std::span<const double> log_probabilities)>;

  // With `track` the caches' masses grow and variance() is known. `truth`: plain_log_probabilities() of the same tokens, so that they are
  // not worked out again; empty: a cache of 16 bits reads along. The model, the tokens and the truth must outlive it.
  KvSideBySide(const CachedModel& model, std::span<const int32_t> tokens, std::span<const KvCacheOptions> caches, bool track = false,
               std::span<const double> truth = {});

  bool over() const { return read_ == static_cast<int64_t>(tokens_.size()); }
  bool full() const { return caches_.front().full(); }   // of all of them
  // The next tokens, as many as there is room for; returns how many. DataError as CachedForward::run.
  int64_t read(const Visit& visit = {});
  KvCache& cache(size_t i) { return caches_[i]; }
  int64_t tokens_read() const { return read_; }
  double last_kl(size_t i) const { return last_kl_[i]; }   // summed over the tokens of the last read
  // Of the last read by the last cache: attention's variance over keys in each layer, mean over heads and rows.
  const std::vector<float>& variance() const { return forward_.variance(); }
  KvScore score(size_t i) const;   // so far

 private:
  void expect(std::span<const int32_t> chunk);
  const CachedModel& model_;
  std::span<const int32_t> tokens_;
  bool track_;
  std::span<const double> known_;
  CachedForward forward_;
  KvCache plain_;
  std::vector<KvCache> caches_;
  std::vector<double> kl_, cross_entropy_, last_kl_, mine_;
  std::vector<double> expected_;   // [rows of a chunk, vocab]
  int64_t read_ = 0;
};

// Of the next token behind each of `tokens`, read with a cache of 16 bits: [tokens, vocab].
std::vector<double> plain_log_probabilities(const CachedModel& model, std::span<const int32_t> tokens, const KvCacheOptions& cache);

// A way of keeping a cache: its quantiser, and what happens whenever a page is full.
struct KvPacking {
  KvCacheOptions cache;
  PackPages pack;
  bool track = false;   // `pack` looks at the pages' masses
};

// One entry for each of `packings`, which must agree in page_tokens and sinks; the caches start empty. DataError as CachedForward::run.
std::vector<KvScore> score_packings(const CachedModel& model, std::span<const int32_t> tokens, std::span<const KvPacking> packings,
                                    std::span<const double> truth = {});

}  // namespace trimtab
