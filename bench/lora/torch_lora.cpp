// The peer of the adapters' benchmark: PyTorch's own operators, called from C++ so that Python's share is not counted.
//
//   bench_torch_lora --what WORK --threads T [--rows N] [--layers L]
//
//   rows          a loop over the adapters: their rows are gathered, multiplied by A and by B, and added
//   dense         all rows with one adapter: two products
//   materialise   for every agent V + scale Z B, then scaled_dot_product_attention, the heads of a group as query positions
//   made          the same on values that were made before
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/version.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/lora/lora.h"
#include "bench/worker.h"
#include "core/error.h"

namespace trimtab {
namespace {

constexpr double kWhile = 0.1;

template <class Call>
void serve_repeated(const Call& call) {
  call(0);
  serve({{"ready", true}, {"version", TORCH_VERSION}}, [&] {
    const auto start = Clock::now();
    int64_t calls = 0;
    while (seconds_since(start) < kWhile) call(calls++);
    return nlohmann::json{{"us", seconds_since(start) * 1e6 / static_cast<double>(calls)}};
  });
}

void rows(const LoraSizes& s, int64_t layers, bool one) {
  const int64_t adapters = one ? 1 : s.adapters;
  const at::Tensor x = at::randn({s.rows, s.hidden}), y = at::zeros({s.rows, s.hidden});
  const at::Tensor a = at::randn({layers, adapters, s.hidden, s.rank}), b = at::randn({layers, adapters, s.rank, s.hidden}) * 0.001;
  std::vector<at::Tensor> mine;   // rows of each adapter: interleaved, or segments
  for (int64_t i = 0; i < adapters; ++i)
    mine.push_back(s.rows > 64 ? at::arange(s.rows * i / adapters, s.rows * (i + 1) / adapters, at::kLong) : at::arange(i, s.rows, adapters, at::kLong));
  serve_repeated([&](int64_t call) {
    const at::Tensor down = a[call % layers], up = b[call % layers];
    if (one) {
      y.addmm_(x.mm(down[0]), up[0], 1, kLoraScale);
      return;
    }
    for (int64_t i = 0; i < adapters; ++i) {
      const int64_t first = s.rows * i / adapters, end = s.rows * (i + 1) / adapters;
      if (s.rows > 64) y.slice(0, first, end).addmm_(x.slice(0, first, end).mm(down[i]), up[i], 1, kLoraScale);
      else y.index_add_(0, mine[i], x.index_select(0, mine[i]).mm(down[i]).mm(up[i]), kLoraScale);
    }
  });
}

void agents(const AgentSizes& s, bool anew) {
  const at::Tensor keys = at::randn({1, s.kv_heads, s.context, s.head_dim}), values = at::randn({s.kv_heads, s.context, s.head_dim});
  const at::Tensor z = at::randn({s.agents, 1, s.context, s.rank}), b = at::randn({s.agents, s.kv_heads, s.rank, s.head_dim}) * 0.1;
  const at::Tensor q = at::randn({s.agents, 1, s.kv_heads, s.group, s.head_dim});
  const auto make = [&](int64_t agent) { return at::baddbmm(values, z[agent].expand({s.kv_heads, s.context, s.rank}), b[agent], 1, kLoraScale).unsqueeze(0); };
  std::vector<at::Tensor> made;
  for (int64_t agent = 0; !anew && agent < s.agents; ++agent) made.push_back(make(agent));
  serve_repeated([&](int64_t) {
    for (int64_t agent = 0; agent < s.agents; ++agent) at::scaled_dot_product_attention(q[agent], keys, anew ? make(agent) : made[agent]);
  });
}

int work(const Arguments& a) {
  at::set_num_threads(static_cast<int>(a.number("--threads", 1)));
  const c10::InferenceMode inference;
  LoraSizes s;
  s.rows = a.number("--rows", s.rows);
  const std::string what = a.text("--what", "rows");
  if (what == "rows" || what == "dense") rows(s, a.number("--layers", 1), what == "dense");
  else if (what == "materialise" || what == "made") agents({}, what == "materialise");
  else throw ConfigError("bench_torch_lora: --what " + what + " is unknown: rows, dense, materialise or made");
  return 0;
}

}  // namespace
}  // namespace trimtab

int main(int count, char** words) { return trimtab::work(trimtab::Arguments(count, words)); }
