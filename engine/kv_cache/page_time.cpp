#include "engine/kv_cache/page_time.h"

#include <algorithm>
#include <chrono>

#include "core/random.h"

namespace trimtab {
namespace {

constexpr int64_t kPages = 64;
constexpr int kReadings = 31;

KvCache filled_cache(int64_t head_dim, const KvCacheOptions& options, KvBits bits) {
  KvCache cache({1, 1, head_dim}, options);
  Draws draws(1, Stream::kWorld, 0);
  std::vector<float> key(head_dim), value(head_dim);
  while (cache.num_pages() < kPages) {
    const int64_t rows = cache.room();
    for (int64_t r = 0; r < rows; ++r) {
      for (float& x : key) x = draws.normal();
      for (float& x : value) x = draws.normal();
      cache.write(0, 0, r, key.data(), value.data());
    }
    cache.commit(rows);
    if (cache.full() && cache.tokens() > options.sinks) cache.pack({&bits, 1});
  }
  cache.write(0, 0, 0, key.data(), value.data());   // the token that looks
  return cache;
}

}  // namespace

std::vector<double> measure_page_ns(int64_t head_dim, int64_t group, const KvCacheOptions& options, std::span<const KvBits> pairs) {
  std::vector<double> out;
  std::vector<float> q(group * head_dim, 0.01f), result(group * head_dim);
  for (const KvBits bits : pairs) {
    if (bits == KvBits{0, 0}) {
      out.push_back(0);
      continue;
    }
    KvCache cache = filled_cache(head_dim, options, bits);
    std::vector<double> readings(kReadings);
    for (double& ns : readings) {
      const auto start = std::chrono::steady_clock::now();
      cache.attend(0, 0, {1, group, q.data(), group * head_dim, head_dim, result.data(), group * head_dim, head_dim});
      ns = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
    }
    std::nth_element(readings.begin(), readings.begin() + kReadings / 2, readings.end());
    out.push_back(readings[kReadings / 2] / kPages);
  }
  return out;
}

}  // namespace trimtab
