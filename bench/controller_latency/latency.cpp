// Latency of one decision, ours and onnxruntime's C API in one process: the 16-64-64-2 tanh network of
// make_models.py, one call after another, each call's input depending on the last one's output so that calls
// cannot overlap. Worker of bench/harness.py: every "go" alternates blocks of calls of both sides and answers
// with percentiles in microseconds, clock overhead (measured in the same block) taken off, and with the
// allocations made while our calls ran.
//
// onnxruntime's wheel ships the library but not its header. Its C API is a table of functions whose order
// never changes; the few entries used here are named by their place in the table (version 1 of the API, which
// every later library serves).
#include <dlfcn.h>
#include <x86intrin.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/test/count_allocations.h"
#include "trimtab/runtime.h"

namespace {

constexpr int kIn = 16, kOut = 2, kCases = 64;

struct Cases {
  std::vector<float> inputs, outputs;  // [64, 16], [64, 2]
};

Cases read_cases(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  in.seekg(-static_cast<std::streamoff>(kCases * (kIn + kOut) * sizeof(float)), std::ios::end);
  Cases cases{std::vector<float>(kCases * kIn), std::vector<float>(kCases * kOut)};
  in.read(reinterpret_cast<char*>(cases.inputs.data()),
          static_cast<std::streamsize>(cases.inputs.size() * sizeof(float)));
  in.read(reinterpret_cast<char*>(cases.outputs.data()),
          static_cast<std::streamsize>(cases.outputs.size() * sizeof(float)));
  if (!in) throw std::runtime_error("cannot read " + file);
  return cases;
}

// A side answers `y` for `x`, both fixed buffers.
struct Side {
  alignas(64) float x[kIn] = {};
  alignas(64) float y[kOut] = {};
  virtual ~Side() = default;
  virtual void call() = 0;
};

class Ours final : public Side {
 public:
  explicit Ours(const std::string& file) {
    char why[256];
    if (tt_open(file.c_str(), nullptr, &controller_, why, sizeof why) != TT_OK) throw std::runtime_error(why);
  }
  ~Ours() override { tt_close(controller_); }
  void call() override { tt_decide(controller_, 0, x, nullptr, nullptr, 0, y); }

 private:
  tt_controller* controller_ = nullptr;
};

class OnnxRuntime final : public Side {
 public:
  OnnxRuntime(const char* library, const std::string& model) {
    void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!handle) throw std::runtime_error(dlerror());
    struct Base {
      const void* const* (*get_api)(uint32_t version);
      const char* (*version)();
    };
    const auto base = reinterpret_cast<const Base* (*)()>(dlsym(handle, "OrtGetApiBase"))();
    version_ = base->version();
    api_ = base->get_api(1);
    void *environment, *options, *memory;
    check(at<void*(int, const char*, void**)>(kCreateEnv)(3, "bench", &environment));
    check(at<void*(void**)>(kCreateSessionOptions)(&options));
    check(at<void*(void*, int)>(kSetGraphOptimizationLevel)(options, 99));
    check(at<void*(void*, int)>(kSetIntraOpNumThreads)(options, 1));
    check(at<void*(void*, int)>(kSetInterOpNumThreads)(options, 1));
    check(at<void*(void*, const char*, void*, void**)>(kCreateSession)(environment, model.c_str(), options,
                                                                       &session_));
    check(at<void*(int, int, void**)>(kCreateCpuMemoryInfo)(0, 0, &memory));
    const auto tensor =
        at<void*(void*, void*, size_t, const int64_t*, size_t, int, void**)>(kCreateTensorWithData);
    const int64_t in_shape[2] = {1, kIn}, out_shape[2] = {1, kOut};
    check(tensor(memory, x, sizeof x, in_shape, 2, 1, &input_));
    check(tensor(memory, y, sizeof y, out_shape, 2, 1, &output_));
    run_ = at<Run>(kRun);
  }
  const char* version() const { return version_; }
  // Input and output bound to fixed memory, one thread: its fastest way.
  void call() override {
    const char *in = "x", *out = "y";
    run_(session_, nullptr, &in, &input_, 1, &out, 1, &output_);
  }

 private:
  enum Place {
    kGetErrorMessage = 2,
    kCreateEnv = 3,
    kCreateSession = 7,
    kRun = 9,
    kCreateSessionOptions = 10,
    kSetGraphOptimizationLevel = 23,
    kSetIntraOpNumThreads = 24,
    kSetInterOpNumThreads = 25,
    kCreateTensorWithData = 49,
    kCreateCpuMemoryInfo = 69
  };
  using Run = void*(void*, const void*, const char* const*, void* const*, size_t, const char* const*, size_t,
                    void**);
  template <class F>
  F* at(Place place) const {
    return reinterpret_cast<F*>(const_cast<void*>(api_[place]));
  }
  void check(void* status) const {
    if (status) throw std::runtime_error(at<const char*(void*)>(kGetErrorMessage)(status));
  }

  const void* const* api_ = nullptr;
  const char* version_ = "";
  void *session_ = nullptr, *input_ = nullptr, *output_ = nullptr;
  Run* run_ = nullptr;
};

double largest_error(Side& side, const Cases& cases) {
  double worst = 0;
  for (int c = 0; c < kCases; ++c) {
    std::copy_n(&cases.inputs[c * kIn], kIn, side.x);
    side.call();
    for (int k = 0; k < kOut; ++k)
      worst = std::max<double>(worst, std::fabs(side.y[k] - cases.outputs[c * kOut + k]));
  }
  return worst;
}

uint64_t ticks() {
  unsigned core;
  _mm_lfence();
  const uint64_t t = __rdtscp(&core);
  _mm_lfence();
  return t;
}

double ticks_per_us() {
  const auto begin = std::chrono::steady_clock::now();
  const uint64_t first = ticks();
  while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(50)) {
  }
  const uint64_t last = ticks();
  return static_cast<double>(last - first) /
         std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
}

// Times `count` dependent calls one by one into `times` (ticks).
void time_calls(Side& side, const Cases& cases, int count, std::vector<uint64_t>& times) {
  for (int i = 0; i < count; ++i) {
    const uint64_t begin = ticks();
    side.call();
    times.push_back(ticks() - begin);
    side.x[0] = cases.inputs[(i % kCases) * kIn] + 1e-6f * side.y[0];
  }
}

std::string percentiles(std::vector<uint64_t> times, double overhead, double scale) {
  const uint64_t first = times.front();
  std::sort(times.begin(), times.end());
  const auto at = [&](double p) {
    return std::max(0.0, static_cast<double>(
                             times[static_cast<size_t>(p * static_cast<double>(times.size() - 1))]) -
                             overhead) /
           scale;
  };
  char text[256];
  std::snprintf(text, sizeof text,
                "{\"p50\": %.4f, \"p99\": %.4f, \"p999\": %.4f, \"max\": %.2f, \"first\": %.3f}", at(0.5),
                at(0.99), at(0.999), at(1.0), (static_cast<double>(first) - overhead) / scale);
  return text;
}

void serve(const std::string& folder, const char* library, int calls) {
  const Cases cases = read_cases(folder + "/weights.bin");
  Ours ours(folder + "/net.ttc.safetensors");
  OnnxRuntime peer(library, folder + "/net.onnx");
  const double our_error = largest_error(ours, cases), peer_error = largest_error(peer, cases);
  const double scale = ticks_per_us();
  std::vector<uint64_t> overheads(1000);
  std::printf("{\"ready\": true, \"onnxruntime\": \"%s\", \"our_error\": %.3g, \"peer_error\": %.3g}\n",
              peer.version(), our_error, peer_error);
  std::fflush(stdout);
  char line[64];
  constexpr int kBlock = 1000;
  while (std::fgets(line, sizeof line, stdin)) {
    std::vector<uint64_t> our_times, peer_times;
    our_times.reserve(calls);
    peer_times.reserve(calls);
    for (uint64_t& t : overheads) {
      const uint64_t begin = ticks();
      t = ticks() - begin;
    }
    std::nth_element(overheads.begin(), overheads.begin() + 500, overheads.end());
    uint64_t allocations = 0;
    for (int done = 0; done < calls; done += kBlock) {
      const int64_t before = ::allocations();
      time_calls(ours, cases, kBlock, our_times);
      allocations += ::allocations() - before;
      time_calls(peer, cases, kBlock, peer_times);
    }
    const auto overhead = static_cast<double>(overheads[500]);
    std::printf("{\"ours\": %s, \"peer\": %s, \"allocations\": %llu, \"clock_us\": %.4f}\n",
                percentiles(our_times, overhead, scale).c_str(),
                percentiles(peer_times, overhead, scale).c_str(),
                static_cast<unsigned long long>(allocations), overhead / scale);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: bench_latency FOLDER libonnxruntime.so [CALLS]\n"), 2;
  try {
    serve(argv[1], argv[2], argc > 3 ? std::atoi(argv[3]) : 20000);
  } catch (const std::exception& e) {
    return std::fprintf(stderr, "bench_latency: %s\n", e.what()), 4;
  }
}
