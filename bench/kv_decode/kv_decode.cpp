// Our side of the KV decode benchmark: one query (or one group of heads) per KV head over a packed cache that no processor cache holds.
//
//   bench_kv_decode --widths 8 --threads T [--group Q] [--head-dim 128] [--tokens 64] [--keys channel|token] [--bytes N]
//                                          a worker (bench/harness.py): every "go" decodes once over all pages
//   bench_kv_decode --read --threads T     the same for plain reading: what the memory gives
//
// --widths: 16, 8, 4, 2, KEYxVALUE like 8x4, or several with commas, which take turns page by page (sorted into buckets, as the cache
// keeps them). The heads' pages lie one after another, KV head by KV head; threads share heads and the keys within them.
#include <sys/mman.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "bench/worker.h"
#include "core/pool.h"
#include "core/random.h"
#include "kernels/attention_decode/attention_decode.h"
#include "kernels/kv_pack/kv_pack.h"

namespace trimtab {
namespace {

std::vector<KvBits> widths_of(const std::string& text) {
  std::vector<KvBits> out;
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    const size_t x = word.find('x');
    const int key = std::stoi(word), value = x == std::string::npos ? key : std::stoi(word.substr(x + 1));
    out.push_back({static_cast<uint8_t>(key), static_cast<uint8_t>(value)});
  }
  return out;
}

uint8_t* memory_of(int64_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::runtime_error("no memory");
  madvise(p, bytes, MADV_HUGEPAGE);
  return static_cast<uint8_t*>(p);
}

// Pages of one head of `per_head` tokens after the other until `bytes` are full.
class Cache {
 public:
  Cache(const Arguments& a, const std::vector<KvBits>& widths) : shape_{a.number("--head-dim", 128), a.number("--tokens", 64)} {
    quantiser_.key_groups = a.text("--keys", "channel") == "token" ? KeyGroups::kToken : KeyGroups::kChannel;
    for (const KvBits bits : widths) samples_.push_back(sample(bits));
    int64_t bucket = 0;
    for (const auto& s : samples_) bucket += static_cast<int64_t>(s.size());
    const int64_t want = a.number("--bytes", int64_t{1200} << 20), per_head = std::max<int64_t>(1, a.number("--length", 32768) / shape_.tokens / static_cast<int64_t>(widths.size()));
    heads_ = std::max<int64_t>(1, (want + per_head * bucket - 1) / (per_head * bucket));
    bytes_ = heads_ * per_head * bucket;
    uint8_t* at = memory_of(bytes_);
    for (int64_t h = 0; h < heads_; ++h)
      for (size_t w = 0; w < widths.size(); ++w)
        for (int64_t p = 0; p < per_head; ++p, at += samples_[w].size()) {
          std::copy(samples_[w].begin(), samples_[w].end(), at);
          pages_.push_back({at, widths[w], static_cast<int32_t>(shape_.tokens), 0});
        }
  }
  const KvShape& shape() const { return shape_; }
  const KvQuantiser& quantiser() const { return quantiser_; }
  std::span<const KvPage> head(int64_t h) const {
    const size_t n = pages_.size() / heads_;
    return std::span(pages_).subspan(h * n, n);
  }
  int64_t heads() const { return heads_; }
  int64_t bytes() const { return bytes_; }
  int64_t keys() const { return static_cast<int64_t>(pages_.size()) * shape_.tokens; }

 private:
  std::vector<uint8_t> sample(KvBits bits) const {
    Draws draws(1, Stream::kTest, bits.key, bits.value);
    std::vector<float> keys(shape_.tokens * shape_.head_dim), values(keys.size());
    for (float& x : keys) x = static_cast<float>(draws.normal());
    for (float& x : values) x = static_cast<float>(draws.normal());
    std::vector<uint8_t> page(kv_layout(shape_, quantiser_, bits).bytes);
    kv_pack({shape_, quantiser_, bits, keys.data(), values.data(), shape_.head_dim, page.data()});
    return page;
  }
  KvShape shape_;
  KvQuantiser quantiser_;
  std::vector<std::vector<uint8_t>> samples_;
  std::vector<KvPage> pages_;
  int64_t heads_ = 0, bytes_ = 0;
};

// One decode step over the whole cache: every thread takes parts of a head's keys.
double decode(const Cache& cache, int64_t group, Pool& pool) {
  const int64_t d = cache.shape().head_dim, parts = pool.threads();
  Draws draws(2, Stream::kTest, 0);
  std::vector<float> q(group * d), out(cache.heads() * parts * group * d);
  for (float& x : q) x = static_cast<float>(draws.normal()) / 11.3f;
  std::vector<const float*> queries;
  for (int64_t i = 0; i < group; ++i) queries.push_back(q.data() + i * d);
  std::vector<AttentionState> states(cache.heads() * parts * group);
  for (size_t i = 0; i < states.size(); ++i) states[i].out = out.data() + i * d;
  const auto start = Clock::now();
  pool.run(cache.heads() * parts, [&](int64_t unit) {
    const auto pages = cache.head(unit / parts);
    const int64_t n = static_cast<int64_t>(pages.size()), first = n * (unit % parts) / parts, end = n * (unit % parts + 1) / parts;
    const std::span mine = std::span(states).subspan(unit * group, group);
    begin_attention(mine, d);
    attention_decode({cache.shape(), cache.quantiser(), pages.subspan(first, end - first), queries, mine, nullptr, 0});
  });
  for (int64_t h = 0; h < cache.heads(); ++h) {
    const auto head = std::span(states).subspan(h * parts * group, parts * group);
    for (int64_t p = 1; p < parts; ++p)
      for (int64_t i = 0; i < group; ++i) merge_attention(head[p * group + i], d, head[i]);
    finish_attention(head.first(group), d);
  }
  return seconds_since(start);
}

double read_all(const std::vector<uint64_t>& memory, Pool& pool, uint64_t& sum) {
  const auto start = Clock::now();
  std::vector<uint64_t> sums(pool.threads());
  const int64_t n = static_cast<int64_t>(memory.size());
  pool.run(pool.threads(), [&](int64_t t) {
    uint64_t s[8] = {};
    for (int64_t i = n * t / pool.threads(); i + 8 <= n * (t + 1) / pool.threads(); i += 8) {
      __builtin_prefetch(memory.data() + i + 512);   // 4 KB ahead: more than the processor's own prefetching alone
      for (int k = 0; k < 8; ++k) s[k] += memory[i + k];
    }
    sums[t] = std::accumulate(s, s + 8, uint64_t{0});
  });
  sum += std::accumulate(sums.begin(), sums.end(), uint64_t{0});
  return seconds_since(start);
}

int work(const Arguments& a) {
  Pool pool(static_cast<int>(a.number("--threads", 1)));
  if (a.has("--read")) {
    const std::vector<uint64_t> memory((a.number("--bytes", int64_t{1200} << 20)) / 8, 1);
    uint64_t sum = 0;
    read_all(memory, pool, sum);
    serve({{"ready", true}}, [&] {
      const double s = read_all(memory, pool, sum);
      return nlohmann::json{{"seconds", s}, {"gb_s", static_cast<double>(memory.size() * 8) / s / 1e9}, {"sum", sum}};
    });
    return 0;
  }
  const Cache cache(a, widths_of(a.text("--widths", "8")));
  const int64_t group = a.number("--group", 1);
  decode(cache, group, pool);
  serve({{"ready", true}, {"heads", cache.heads()}, {"bits", 4.0 * static_cast<double>(cache.bytes()) / static_cast<double>(cache.keys() * cache.shape().head_dim)}}, [&] {
    const double s = decode(cache, group, pool);
    return nlohmann::json{{"seconds", s}, {"ns_per_key", s * 1e9 / static_cast<double>(cache.keys())}, {"keys_per_s", static_cast<double>(cache.keys()) / s},
                          {"gb_s", static_cast<double>(cache.bytes()) / s / 1e9}};
  });
  return 0;
}

}  // namespace
}  // namespace trimtab

int main(int count, char** words) { return trimtab::work(trimtab::Arguments(count, words)); }
