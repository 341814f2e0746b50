// One update's forward and backward of a small Llama, with the group's prompt encoded once (a trie of segments) and once per
// response (packed rows, no padding). Worker of bench/harness.py: every "go" runs both, in turn, and answers with both times.
// Peak activation memory is measured before, by counting what ATen's allocator holds at once.
//
//   bench_shared_prefix --prompt 1024 --response 128 --group 8 [--prompts 1] [--threads 1] [--workers 1] [--width 256]
//                       [--layers 4] [--heads 4] [--ragged 1] [--write FOLDER]
#include <c10/core/CPUAllocator.h>
#include <time.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "policies/language/ops/linear_logprob.h"
#include "policies/language/transformer.h"

namespace {

using trimtab::Transformer;
using trimtab::Trie;

// ATen's own CPU allocator with a count of the bytes held and of their highest number.
class CountingAllocator : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::Allocator* inner) : inner_(inner) {}
  c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr inner = inner_->allocate(bytes);
    const int64_t now = held_ += static_cast<int64_t>(bytes);
    int64_t peak = peak_;
    while (now > peak && !peak_.compare_exchange_weak(peak, now)) {}
    void* data = inner.get();
    auto* block = new Block{std::move(inner), bytes};
    return {data, block, &release, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
  int64_t restart() { return peak_ = held_.load(); }
  int64_t peak() const { return peak_; }

 private:
  struct Block {
    c10::DataPtr inner;
    size_t bytes;
  };
  static void release(void* block) {
    auto* b = static_cast<Block*>(block);
    held_ -= static_cast<int64_t>(b->bytes);
    delete b;
  }
  static inline std::atomic<int64_t> held_{0}, peak_{0};
  c10::Allocator* inner_;
};

struct Options {
  std::map<std::string, std::string> values;
  int64_t get(const std::string& name, int64_t otherwise) const {
    const auto it = values.find(name);
    return it == values.end() ? otherwise : std::atoll(it->second.c_str());
  }
};

struct Batch {
  Trie trie;
  at::Tensor tokens, rows, targets, advantage;   // [T], [N], [N], [N]: rows predict targets
};

// The peer computes the same formulas.
int64_t prompt_token(int64_t prompt, int64_t j, int64_t vocab) { return (7 * j * j + 3 * j + 5 + 13 * prompt) % vocab; }
int64_t response_token(int64_t g, int64_t j, int64_t vocab) { return (31 * (g + 1) + 11 * j * j + 17 * j) % vocab; }
float advantage(int64_t g, int64_t j) { return static_cast<float>((37 * g + 13 * j) % 21 - 10) / 10; }

struct Shape {
  int64_t prompts, prompt, response, group, vocab;
  bool ragged;   // responses of 20 to 100 tokens instead of `response`
  int64_t length(int64_t p, int64_t g) const { return ragged ? 20 + (p * 37 + g * 29) % 81 : response; }
};

Batch make_batch(const Shape& s, bool shared) {
  Batch b;
  std::vector<int64_t> tokens, rows, targets;
  std::vector<float> weights;
  for (int64_t p = 0; p < s.prompts; ++p) {
    int64_t root = -1;
    for (int64_t g = 0; g < s.group; ++g) {
      const bool with_prompt = !shared || g == 0;
      const int64_t length = s.length(p, g);
      if (with_prompt) {
        root = b.trie.add(-1, shared ? s.prompt : s.prompt + length);
        for (int64_t j = 0; j < s.prompt; ++j) tokens.push_back(prompt_token(p, j, s.vocab));
      }
      const int64_t last_of_prompt = shared ? b.trie.segments[root].first + s.prompt - 1 : static_cast<int64_t>(tokens.size()) - 1;
      if (shared) b.trie.add(root, length);
      for (int64_t j = 0; j < length; ++j) {
        rows.push_back(j == 0 ? last_of_prompt : static_cast<int64_t>(tokens.size()) - 1);
        targets.push_back(response_token(g, j, s.vocab));
        weights.push_back(advantage(g, j));
        tokens.push_back(targets.back());
      }
    }
  }
  b.tokens = at::tensor(tokens, at::kLong), b.rows = at::tensor(rows, at::kLong), b.targets = at::tensor(targets, at::kLong);
  b.advantage = at::tensor(weights, at::kFloat);
  return b;
}

double update(const Transformer& model, const Batch& b) {
  const at::Tensor hidden = model.hidden(b.tokens, b.trie).index_select(0, b.rows);
  const auto [logp, entropy] = trimtab::linear_logprob(hidden, model.head(), b.targets);
  const at::Tensor loss = -(logp * b.advantage).mean();
  loss.backward();
  return loss.item<double>();
}

double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class F>
double seconds(const F& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Every worker updates a model of its own with the whole batch; the time is that of one update.
double timed(const std::vector<Transformer>& models, const Batch& b, int threads) {
  if (models.size() == 1) return seconds([&] { update(models[0], b); });
  const double wall = seconds([&] {
    std::vector<std::thread> workers;
    for (const Transformer& model : models)
      workers.emplace_back([&] {
        at::set_num_threads(threads);
        update(model, b);
      });
    for (std::thread& w : workers) w.join();
  });
  return wall / static_cast<double>(models.size());
}

struct First {
  double loss;
  int64_t peak_bytes;   // above what was held before the update
};
First first_update(CountingAllocator& allocator, const Transformer& model, const Batch& b) {
  const int64_t before = allocator.restart();
  const double loss = update(model, b);
  return {loss, allocator.peak() - before};
}

Transformer make_model(const Options& o) {
  trimtab::TransformerConfig c;
  c.vocab_size = o.get("vocab", 512), c.hidden_size = o.get("width", 256), c.num_layers = o.get("layers", 4);
  c.num_heads = o.get("heads", 4), c.num_kv_heads = o.get("kv-heads", c.num_heads), c.head_dim = c.hidden_size / c.num_heads;
  c.intermediate_size = o.get("intermediate", (c.hidden_size * 8 / 3 + 7) / 8 * 8), c.max_positions = 4096;
  return Transformer(c, 1);
}

}  // namespace

int main(int argc, char** argv) {
  static CountingAllocator allocator(c10::GetDefaultCPUAllocator());
  c10::SetCPUAllocator(&allocator, 1);
  Options o;
  for (int i = 1; i + 1 < argc; i += 2) o.values[std::string(argv[i]).substr(2)] = argv[i + 1];
  const int threads = static_cast<int>(o.get("threads", 1));
  at::set_num_threads(threads);
  std::vector<Transformer> models;
  for (int64_t w = 0; w < o.get("workers", 1); ++w) models.push_back(make_model(o));
  if (o.values.count("write")) models[0].write(o.values.at("write"));
  const Shape shape{o.get("prompts", 1), o.get("prompt", 1024), o.get("response", 128), o.get("group", 8), models[0].config().vocab_size,
                    o.get("ragged", 0) != 0};
  const Batch shared = make_batch(shape, true), repeated = make_batch(shape, false);
  const First first_shared = first_update(allocator, models[0], shared), first_repeated = first_update(allocator, models[0], repeated);
  timed(models, shared, threads), timed(models, repeated, threads);
  std::printf("{\"ready\": true, \"shared_loss\": %.9g, \"repeated_loss\": %.9g, \"shared_rows\": %lld, \"repeated_rows\": %lld, "
              "\"shared_bytes\": %lld, \"repeated_bytes\": %lld}\n",
              first_shared.loss, first_repeated.loss, static_cast<long long>(shared.trie.num_rows), static_cast<long long>(repeated.trie.num_rows),
              static_cast<long long>(first_shared.peak_bytes), static_cast<long long>(first_repeated.peak_bytes));
  std::fflush(stdout);
  bool shared_first = true;
  char line[64];
  while (std::fgets(line, sizeof line, stdin)) {
    double times[2], processor[2];
    for (int turn = 0; turn < 2; ++turn) {
      const bool is_shared = shared_first == (turn == 0);
      const double before = processor_seconds();
      times[is_shared ? 0 : 1] = timed(models, is_shared ? shared : repeated, threads);
      processor[is_shared ? 0 : 1] = (processor_seconds() - before) / static_cast<double>(models.size());
    }
    shared_first = !shared_first;
    std::printf("{\"shared\": %.6f, \"repeated\": %.6f, \"shared_processor\": %.6f, \"repeated_processor\": %.6f}\n", times[0], times[1],
                processor[0], processor[1]);
    std::fflush(stdout);
  }
}
