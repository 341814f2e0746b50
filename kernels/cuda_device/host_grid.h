// A grid of CUDA threads on the host, for tests: blocks run one after the other, a block's threads are fibers that run from barrier to
// barrier. What it finds: wrong arithmetic, masks and addresses; barriers that not every thread reaches (the program stops with a word);
// and most missing barriers, since a warp runs as far as it can before the next one does, in ascending or in descending order, as `order`
// says. What it does not find: how fast a kernel is, shared memory that only another block has written, misaligned loads, and what needs threads at the same
// instant.
//
// A kernel's file is included with TRIMTAB_HOST_GRID defined; its __global__ functions are then ordinary ones.
#pragma once

#include <setjmp.h>   // NOLINT: _setjmp is POSIX's
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "core/half.h"
#include "kernels/cuda_device/cuda_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define TRIMTAB_UNROLL

namespace trimtab {

typedef uint32_t __attribute__((may_alias)) Word;
struct __attribute__((may_alias)) Chunk {
  uint32_t words[4];
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}   // NOLINT: an int is a dim3, as in CUDA
};

namespace host_grid {

enum class Order { kAscending, kDescending };
enum class Waits { kNot, kForWarp, kForBlock, kDone };

struct Copy {   // copy_async's, not yet done
  Chunk* to;
  const Chunk* from;
  bool inside;
};

// Begun by its context, gone on with by a jump: a context's switch asks the kernel for the signal mask each time.
struct Fiber {
  ucontext_t context;
  jmp_buf place;
  bool begun = false;
  std::unique_ptr<char[]> stack;
  Waits waits = Waits::kNot;
  dim3 index;
  std::deque<std::vector<Copy>> copies;   // groups, the last one still open
};

struct Block {
  dim3 index, threads, blocks;
  std::function<void()> body;
  std::vector<Fiber> fibers;
  std::vector<float> exchange;      // kNumbers per thread
  jmp_buf scheduler;
  size_t now = 0;                   // the running fiber
};

inline Order& order() {
  static Order value = Order::kAscending;
  return value;
}
inline Block*& running() {
  static Block* value = nullptr;
  return value;
}
inline Fiber& fiber() { return running()->fibers[running()->now]; }

inline void wait(Waits kind) {
  fiber().waits = kind;
  if (_setjmp(fiber().place) == 0) _longjmp(running()->scheduler, 1);
}
inline void go_on(Block& block) {
  if (_setjmp(block.scheduler) != 0) return;
  if (fiber().begun) _longjmp(fiber().place, 1);
  fiber().begun = true;
  setcontext(&fiber().context);
}
inline void enter() {
  running()->body();
  wait(Waits::kDone);
}

constexpr size_t kStack = 128 * 1024, kNumbers = 12;

// Whoever waits for a barrier that all others have reached too goes on. Returns whether anyone does.
inline bool release(Block& block, size_t first, size_t end, Waits kind) {
  bool any = false;
  for (size_t i = first; i < end; ++i) {
    if (block.fibers[i].waits != kind) return false;
    any = true;
  }
  for (size_t i = first; i < end; ++i) block.fibers[i].waits = Waits::kNot;
  return any;
}

// A warp as far as it comes by itself: to a barrier of the block, or its end.
inline void run_warp(Block& block, size_t first, size_t end) {
  do {
    for (size_t i = first; i < end; ++i) {
      block.now = order() == Order::kAscending ? i : first + end - 1 - i;
      if (fiber().waits == Waits::kNot) go_on(block);
    }
  } while (release(block, first, end, Waits::kForWarp));
}

inline void run(Block& block) {
  const size_t count = block.fibers.size(), warps = (count + 31) / 32;
  for (;;) {
    for (size_t i = 0; i < warps; ++i) {
      const size_t w = order() == Order::kAscending ? i : warps - 1 - i;
      run_warp(block, 32 * w, std::min(32 * w + 32, count));
    }
    if (std::all_of(block.fibers.begin(), block.fibers.end(), [](const Fiber& f) { return f.waits == Waits::kDone; })) return;
    if (!release(block, 0, count, Waits::kForBlock)) {
      std::fprintf(stderr, "host_grid: block (%u, %u, %u) stands still: a barrier was not reached by all of its threads\n", block.index.x, block.index.y, block.index.z);
      std::abort();
    }
  }
}

inline void start(Block& block) {
  const dim3 n = block.threads;
  block.exchange.resize(size_t{n.x} * n.y * n.z * kNumbers);
  block.fibers.resize(size_t{n.x} * n.y * n.z);
  for (size_t i = 0; i < block.fibers.size(); ++i) {
    Fiber& f = block.fibers[i];
    f.index = {static_cast<unsigned>(i % n.x), static_cast<unsigned>(i / n.x % n.y), static_cast<unsigned>(i / n.x / n.y)};
    f.waits = Waits::kNot, f.begun = false, f.copies.assign(1, {});
    if (!f.stack) f.stack = std::make_unique<char[]>(kStack);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = kStack, f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
  }
}

// This thread's numbers in what threads tell one another, and those of `lane` of its warp.
inline float* told() { return &running()->exchange[running()->now * kNumbers]; }
inline const float* told_by(size_t lane) { return &running()->exchange[(running()->now / 32 * 32 + lane) * kNumbers]; }

}  // namespace host_grid

// Of the running thread, as CUDA names them.
#define threadIdx (::trimtab::host_grid::fiber().index)
#define blockIdx (::trimtab::host_grid::running()->index)
#define blockDim (::trimtab::host_grid::running()->threads)
#define gridDim (::trimtab::host_grid::running()->blocks)

inline void __syncthreads() { host_grid::wait(host_grid::Waits::kForBlock); }
inline void __syncwarp() { host_grid::wait(host_grid::Waits::kForWarp); }
inline int __syncthreads_or(int predicate) {
  host_grid::told()[0] = predicate != 0;
  __syncthreads();
  bool any = false;
  for (size_t i = 0; i < host_grid::running()->exchange.size(); i += host_grid::kNumbers) any |= host_grid::running()->exchange[i] != 0;
  __syncthreads();
  return any;
}
inline float __shfl_xor_sync(unsigned, float x, int lanes) {
  host_grid::told()[0] = x;
  __syncwarp();
  const float out = host_grid::told_by((host_grid::running()->now % 32) ^ static_cast<size_t>(lanes))[0];
  __syncwarp();
  return out;
}

// As late as they may happen, so that a missing wait shows.
inline void copy_async(Chunk* to, const Chunk* from, bool inside) { host_grid::fiber().copies.back().push_back({to, from, inside}); }
inline void commit_copies() { host_grid::fiber().copies.emplace_back(); }
template <int kPending>
void wait_for_copies() {
  auto& groups = host_grid::fiber().copies;
  for (; groups.size() > kPending + 1; groups.pop_front())
    for (const host_grid::Copy& c : groups.front()) *c.to = c.inside ? *c.from : Chunk{};
}

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }

inline float bits_to_float(uint32_t bits) {
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
inline uint32_t float_to_bits(float x) {
  uint32_t out;
  std::memcpy(&out, &x, sizeof out);
  return out;
}
inline float to_float(Float16 x) { return half_to_float(x.bits); }
inline void from_float(float x, Float16& to) { to.bits = float_to_half(x); }
inline float to_float(Bfloat16 x);   // as on the device

template <class T>
float half_of(uint32_t word, int half) {
  return to_float(T{static_cast<uint16_t>(word >> (16 * half))});
}

// By the fragments' definition (cuda_device.cuh), in float.
template <class T>
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  float* mine = host_grid::told();   // eight numbers of a, then four of b
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 4; ++i) mine[2 * i + half] = half_of<T>(a[i], half);
    mine[8 + half] = half_of<T>(b0, half), mine[10 + half] = half_of<T>(b1, half);
  }
  __syncwarp();
  const int lane = static_cast<int>(host_grid::running()->now % 32), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      const float* from_a = host_grid::told_by(row % 8 * 4 + k % 8 / 2);
      const float* from_b = host_grid::told_by(column * 4 + k % 8 / 2);
      d[i] += from_a[2 * (row / 8 + k / 8 * 2) + k % 2] * from_b[8 + 2 * (k / 8) + k % 2];
    }
  }
  __syncwarp();
}

inline void mma_16x8x32(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
  std::memcpy(host_grid::told(), words, sizeof words);
  __syncwarp();
  const int lane = static_cast<int>(host_grid::running()->now % 32), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int k = 0; k < 32; ++k) {
      int8_t left[24];
      uint8_t right[24];
      std::memcpy(left, host_grid::told_by(row % 8 * 4 + k % 16 / 4), sizeof left);
      std::memcpy(right, host_grid::told_by(column * 4 + k % 16 / 4), sizeof right);
      d[i] += left[4 * (row / 8 + k / 16 * 2) + k % 4] * right[16 + 4 * (k / 16) + k % 4];
    }
  }
  __syncwarp();
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, cudaStream_t, const Arguments&... arguments) {
  host_grid::Block block;
  block.threads = threads, block.blocks = blocks;
  block.body = [&] { kernel(arguments...); };
  host_grid::running() = &block;
  for (unsigned z = 0; z < blocks.z; ++z)
    for (unsigned y = 0; y < blocks.y; ++y)
      for (unsigned x = 0; x < blocks.x; ++x) {
        block.index = {x, y, z};
        host_grid::start(block);
        host_grid::run(block);
      }
  host_grid::running() = nullptr;
  return cudaSuccess;
}

// Device memory of the host's grid, under the interface of the one in tests/gpu/device.h.
template <class T>
class HostArray {
 public:
  explicit HostArray(const std::vector<T>& host) : data_(host) {}
  T* data() { return data_.data(); }
  std::vector<T> host() const { return data_; }

 private:
  std::vector<T> data_;
};

}  // namespace trimtab
