// Our side of the generation benchmark: greedy decoding, tokens per second of a whole generate() call, packing of the weights and
// reading of the prompts included.
//
//   bench_generate --model FOLDER --threads T --batch 8 --prompt 128 --new 128      a worker (bench/harness.py)
//   bench_generate --make FOLDER --vocab 512                                        writes model and prompts, which both sides load
//   bench_generate --roof                                                           measured bandwidth and peak, as JSON
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "bench/worker.h"
#include "core/files.h"
#include "core/random.h"
#include "engine/generation/generator.h"
#include "kernels/packed_linear/packed_linear.h"

namespace trimtab {
namespace {

// Llama: width 256, 4 layers, 4 heads, 688 inside the MLP. Or the small model of the arithmetic runs.
TransformerConfig config_of(const Arguments& a) {
  TransformerConfig c;
  c.vocab_size = a.number("--vocab", 512), c.hidden_size = 256, c.num_layers = 4, c.num_heads = c.num_kv_heads = 4, c.head_dim = 64, c.intermediate_size = 688;
  if (a.has("--small")) c.vocab_size = 45, c.hidden_size = 96, c.num_layers = 3, c.num_heads = c.num_kv_heads = 3, c.head_dim = 32, c.intermediate_size = 256;
  return c;
}

// Weights several times larger than at the start of training: greedy answers that do not repeat one token.
Transformer make_model(const Arguments& a) {
  Transformer model(config_of(a), 1);
  const at::NoGradGuard no_grad;
  for (const auto& [name, p] : model.parameters())
    if (p.dim() == 2) p.mul_(3);
  return model;
}

std::vector<GenerationRequest> requests_of(const Arguments& a, const TransformerConfig& config) {
  std::vector<GenerationRequest> requests;
  for (int64_t r = 0; r < a.number("--batch", 8); ++r) {
    Draws draws(1, Stream::kTest, static_cast<uint32_t>(r));
    GenerationRequest& request = requests.emplace_back();
    request.key = static_cast<uint64_t>(r), request.samples = a.number("--samples", 1);
    for (int64_t i = 0; i < a.number("--prompt", 128); ++i) request.prompt.push_back(static_cast<int32_t>(draws.below(static_cast<uint32_t>(config.vocab_size))));
  }
  return requests;
}

int work(const Arguments& a) {
  const Transformer model = a.has("--model") ? Transformer::read(a.values.at("--model")) : make_model(a);
  const auto requests = requests_of(a, model.config());
  Pool pool(static_cast<int>(a.number("--threads", 1)));
  Generator generator(model, {.max_sequences = a.number("--sequences", 256)});
  const SamplingOptions sampling{.max_tokens = a.number("--new", 128), .temperature = a.has("--sample") ? 1.0 : 0.0};
  const auto measure = [&] {
    const auto start = Clock::now();
    const std::clock_t processor = std::clock();
    const auto completions = generator.generate(requests, sampling, {}, 1, pool);
    const double seconds = seconds_since(start);
    nlohmann::json out;
    int64_t made = 0;
    for (const Completion& c : completions) made += static_cast<int64_t>(c.tokens.size());
    if (a.has("--model"))
      for (const Completion& c : completions) out["tokens"].push_back(c.tokens);
    out["rate"] = static_cast<double>(made) / seconds, out["seconds"] = seconds, out["made"] = made;
    out["processor_seconds"] = static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC;
    return out;
  };
  measure();
  serve({{"ready", true}}, measure);
  return 0;
}

// Best of many, each long beside waking the threads: packed_linear over `bytes` of weights for `rows` rows, split among the threads by panels.
double packed_rate(Pool& pool, int64_t bytes, int64_t rows, int64_t repeats) {
  constexpr int kRounds = 40;
  constexpr int64_t kIn = 256;
  const int64_t panels = bytes / (kIn * kPackedPanel * 4);
  std::vector<float> weight(panels * kIn * kPackedPanel, 0.5f), x(rows * kIn, 0.25f), y(rows * panels * kPackedPanel);
  double best = 1e9;
  for (int i = 0; i < kRounds; ++i) {
    const auto start = Clock::now();
    pool.run(pool.threads(), [&](int64_t t) {
      for (int64_t repeat = 0; repeat < repeats; ++repeat)
        packed_linear({rows, kIn, x.data(), kIn, weight.data(), nullptr, panels * t / pool.threads(), panels * (t + 1) / pool.threads(),
                       PackedFinish::kStore, y.data(), panels * kPackedPanel});
    });
    best = std::min(best, seconds_since(start));
  }
  return static_cast<double>(panels * kIn * kPackedPanel * repeats) / best;   // weights per second
}

int roof() {
  nlohmann::json out;
  for (const int threads : {1, 2}) {
    Pool pool(threads);
    const std::string name = std::to_string(threads) + " threads";
    out[name]["stream_gb_s"] = packed_rate(pool, 17 << 20, 1, 20) * 4e-9;
    out[name]["peak_gflop_s"] = packed_rate(pool, 256 << 10, 112, 200) * 112 * 2e-9;
  }
  std::cout << out << std::endl;
  return 0;
}

int run(const Arguments& a) {
  at::set_num_threads(1);
  if (a.has("--roof")) return roof();
  if (!a.has("--make")) return work(a);
  const Transformer model = make_model(a);
  model.write(a.values.at("--make"));
  nlohmann::json prompts;
  for (const GenerationRequest& r : requests_of(a, model.config())) prompts.push_back(r.prompt);
  write_file_atomically(std::filesystem::path(a.values.at("--make")) / "prompts.json", prompts.dump());
  return 0;
}

}  // namespace
}  // namespace trimtab

int main(int count, char** words) { return trimtab::run(trimtab::Arguments(count, words)); }
