// Our side of the adapters' benchmark: a worker (bench/harness.py); every "go" repeats one kind of work for a while and tells us per call.
//
//   bench_lora --what WORK --threads T [--rows N] [--layers L] [--bf16]
//
//   rows           shrink and expand of N rows, 8 adapters of rank 16, hidden 1024; up to 64 rows by row, more by segments;
//                  --bf16: adapters in bfloat16
//   dense          kernels/dense on the same rows with one weight of rank 16: equal arithmetic, an eighth of the weights
//   dense_equal    kernels/dense on N / 8 rows with a weight of rank 128: equal arithmetic, equal weights
//   attention      attention_lora of 4 agents on a shared cache of 8192 keys
//   materialise    V + scale Z B is made for every agent, then the same attention on it
//   made           the same without making: every agent has kept values of its own, which takes 4 times the memory
//
// L layers have weights of their own and take turns, so that many layers' weights come from farther away than one's.
#include <bit>
#include <new>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/lora/lora.h"
#include "bench/worker.h"
#include "core/error.h"
#include "core/pool.h"
#include "core/random.h"
#include "kernels/dense/dense.h"
#include "kernels/lora/lora.h"

namespace trimtab {
namespace {

constexpr double kWhile = 0.1;   // seconds of one measurement

// Arrays begin at a cache line, as those of PyTorch do, ours in its memory and the peer's.
template <class T>
struct AtCacheLine {
  using value_type = T;
  AtCacheLine() = default;
  template <class U>
  AtCacheLine(const AtCacheLine<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t{64}); }
  bool operator==(const AtCacheLine&) const { return true; }
};
template <class T>
using Array = std::vector<T, AtCacheLine<T>>;

Array<float> numbers(int64_t n, float scale = 1) {
  Array<float> out(n);
  Draws draws(1, Stream::kTest, static_cast<uint32_t>(n));
  for (float& x : out) x = scale * draws.normal();
  return out;
}

template <class Call>
void serve_repeated(const Call& call) {
  call(0);
  serve({{"ready", true}}, [&] {
    const auto start = Clock::now();
    int64_t calls = 0;
    while (seconds_since(start) < kWhile) call(calls++);
    return nlohmann::json{{"us", seconds_since(start) * 1e6 / static_cast<double>(calls)}};
  });
}

void rows(const LoraSizes& s, int64_t layers, bool bfloat, Pool& pool) {
  const Array<float> x = numbers(s.rows * s.hidden), weights = numbers(layers * s.adapters * 2 * s.hidden * s.rank, 0.01f);
  Array<float> v(s.rows * s.rank), y(s.rows * s.hidden);
  Array<uint16_t> halves;
  for (const float w : weights) halves.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(w) >> 16));
  std::vector<LoraAdapter> adapters;
  for (int64_t i = 0; i < layers * s.adapters; ++i) {
    const int64_t a = i * 2 * s.hidden * s.rank, b = a + s.hidden * s.rank;
    if (bfloat) adapters.push_back({halves.data() + a, halves.data() + b, static_cast<int32_t>(s.rank), kLoraScale, LoraNumbers::kBfloat16});
    else adapters.push_back({weights.data() + a, weights.data() + b, static_cast<int32_t>(s.rank), kLoraScale});
  }
  std::vector<int32_t> adapter, start;
  const bool segments = s.rows > 64;
  for (int64_t r = 0; r < (segments ? s.adapters : s.rows); ++r) adapter.push_back(static_cast<int32_t>(r % s.adapters));
  for (int64_t a = 0; segments && a <= s.adapters; ++a) start.push_back(static_cast<int32_t>(s.rows * a / s.adapters));
  serve_repeated([&](int64_t call) {
    const int64_t parts = pool.threads();
    pool.run(parts, [&](int64_t p) {
      const LoraRows mine{adapters.data() + call % layers * s.adapters, s.adapters, adapter.data(), segments ? start.data() : nullptr,
                          segments ? s.adapters : 0, s.rows * p / parts, s.rows * (p + 1) / parts};
      lora_shrink({mine, s.hidden, x.data(), s.hidden, v.data(), s.rank});
      lora_expand({mine, s.hidden, v.data(), s.rank, y.data(), s.hidden, 0, lora_panels(s.hidden)});
    });
  });
}

void dense(int64_t rows, int64_t rank, int64_t hidden, int64_t layers, Pool& pool) {
  const Array<float> x = numbers(rows * hidden), weights = numbers(layers * 2 * hidden * rank, 0.01f);
  Array<float> v(rows * rank), y(rows * hidden);
  serve_repeated([&](int64_t call) {
    const float* a = weights.data() + call % layers * 2 * hidden * rank;
    const int64_t parts = pool.threads();
    pool.run(parts, [&](int64_t p) {
      const int64_t first = rows * p / parts, n = rows * (p + 1) / parts - first;
      dense_forward({n, hidden, rank, x.data() + first * hidden, hidden, a, rank, {}, Activation::kNone, v.data() + first * rank, rank});
      dense_forward({n, rank, hidden, v.data() + first * rank, rank, a + hidden * rank, hidden, {y.data() + first * hidden, hidden, nullptr}, Activation::kNone,
                     y.data() + first * hidden, hidden});
    });
  });
}

class Agents {
 public:
  explicit Agents(const AgentSizes& s)
      : s_(s), keys_(numbers(s.kv_heads * s.context * s.head_dim)), values_(numbers(s.kv_heads * s.context * s.head_dim)),
        z_(numbers(s.agents * s.context * s.rank)), b_(numbers(s.agents * s.rank * s.kv_heads * s.head_dim, 0.1f)),
        q_(numbers(s.kv_heads * queries() * s.head_dim, 0.09f)), out_(q_.size()) {}

  void attention(Pool& pool) {
    serve_repeated([&](int64_t) { pool.run(s_.kv_heads, [&](int64_t head) { attend(head, nullptr); }); });
  }
  // Values of an agent for a head: made anew each time in a thread's own memory, or kept from before.
  void materialised(Pool& pool, bool anew) {
    const int64_t size = s_.context * s_.head_dim, kept = anew ? s_.agents : s_.agents * s_.kv_heads;
    Array<float> made((anew ? s_.kv_heads : 1) * kept * size);
    const auto place = [&](int64_t head) { return made.data() + head * s_.agents * size; };
    for (int64_t head = 0; head < s_.kv_heads; ++head) make(head, place(head));
    serve_repeated([&](int64_t) {
      pool.run(s_.kv_heads, [&](int64_t head) {
        if (anew) make(head, place(head));
        attend(head, place(head));
      });
    });
  }

 private:
  int64_t queries() const { return s_.agents * s_.group; }
  const float* values(int64_t head) const { return values_.data() + head * s_.context * s_.head_dim; }
  const float* z(int64_t agent) const { return z_.data() + agent * s_.context * s_.rank; }
  int64_t b_stride() const { return s_.kv_heads * s_.head_dim; }
  const float* b(int64_t agent, int64_t head) const { return b_.data() + agent * s_.rank * b_stride() + head * s_.head_dim; }

  void make(int64_t head, float* to) const {
    for (int64_t agent = 0; agent < s_.agents; ++agent)   // the scale is taken to be in b already
      dense_forward({s_.context, s_.rank, s_.head_dim, z(agent), s_.rank, b(agent, head), b_stride(), {values(head), s_.head_dim, nullptr}, Activation::kNone,
                     to + agent * s_.context * s_.head_dim, s_.head_dim});
  }
  // `made`: null, or the agents' values for this head.
  void attend(int64_t head, const float* made) {
    std::vector<LoraCache> caches;
    std::vector<LoraQuery> queries;
    for (int64_t agent = 0; agent < s_.agents; ++agent) {
      if (made != nullptr || agent == 0)
        caches.push_back({keys_.data() + head * s_.context * s_.head_dim, made ? made + agent * s_.context * s_.head_dim : values(head), s_.head_dim});
      for (int64_t h = 0; h < s_.group; ++h) {
        const int64_t at = ((head * s_.agents + agent) * s_.group + h) * s_.head_dim;
        queries.push_back({static_cast<int32_t>(caches.size() - 1), made ? 0 : static_cast<int32_t>(s_.rank), s_.context, q_.data() + at, z(agent), s_.rank,
                           b(agent, head), b_stride(), kLoraScale, out_.data() + at});
      }
    }
    attention_lora({s_.head_dim, caches.data(), queries.data(), static_cast<int64_t>(queries.size())});
  }

  AgentSizes s_;
  Array<float> keys_, values_, z_, b_, q_, out_;
};

int work(const Arguments& a) {
  Pool pool(static_cast<int>(a.number("--threads", 1)));
  LoraSizes s;
  s.rows = a.number("--rows", s.rows);
  const int64_t layers = a.number("--layers", 1);
  const std::string what = a.text("--what", "rows");
  if (what == "rows") rows(s, layers, a.has("--bf16"), pool);
  else if (what == "dense") dense(s.rows, s.rank, s.hidden, layers, pool);
  else if (what == "dense_equal") dense(s.rows / s.adapters, s.rank * s.adapters, s.hidden, layers, pool);
  else if (what == "attention") Agents({}).attention(pool);
  else if (what == "materialise" || what == "made") Agents({}).materialised(pool, what == "materialise");
  else throw ConfigError("bench_lora: --what " + what + " is unknown: rows, dense, dense_equal, attention, materialise or made");
  return 0;
}

}  // namespace
}  // namespace trimtab

int main(int count, char** words) { return trimtab::work(trimtab::Arguments(count, words)); }
