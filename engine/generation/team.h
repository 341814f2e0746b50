// The threads of one generate() call. They stay awake from step to step, since a step of a small model is shorter than waking up.
//
// The calling thread leads; the pool's other threads join when they get there, and a step is shared among those that have joined
// by then. So nobody waits for a thread that never comes (a call from inside a task of the pool runs alone).
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>

#include "core/pool.h"

namespace trimtab {

class Team {
 public:
  // Runs lead() on the calling thread while the pool's threads serve its work(); returns when all have left.
  template <class Lead>
  void run(Pool& pool, Lead&& lead) {
    const std::thread::id leader = std::this_thread::get_id();
    bool led = false;
    std::exception_ptr error;
    pool.run(pool.threads(), [&](int64_t) {
      if (std::this_thread::get_id() != leader) return serve();
      if (led) return;
      led = true;
      try {
        lead();
      } catch (...) {
        error = std::current_exception();
      }
      order_.store(kOver, std::memory_order_release);
    });
    if (error) std::rethrow_exception(error);
  }

  int size() const { return 1 + joined_.load(std::memory_order_relaxed); }

  // task(rank) on `size` threads, at most size(). It must not throw.
  template <class Task>
  void work(int size, Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    call_ = [](void* context, int rank) { (*static_cast<Plain*>(context))(rank); };
    context_ = &task;
    members_ = size;
    left_.store(size - 1, std::memory_order_relaxed);
    ++round_;
    order_.store(round_ << 16 | static_cast<uint64_t>(size), std::memory_order_release);
    task(0);
    wait([&] { return left_.load(std::memory_order_acquire) == 0; });
  }

  // Inside a task: until every member of it is here.
  void barrier() {
    if (members_ == 1) return;
    const uint64_t phase = phase_.load(std::memory_order_acquire);
    if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_) {
      waiting_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    wait([&] { return phase_.load(std::memory_order_acquire) != phase; });
  }

 private:
  static constexpr uint64_t kOver = ~uint64_t{0};

  void serve() {
    const int rank = 1 + joined_.fetch_add(1);
    uint64_t seen = 0;
    while (true) {
      uint64_t order = seen;
      wait([&] { return (order = order_.load(std::memory_order_acquire)) != seen; });
      if (order == kOver) return;
      seen = order;
      if (rank >= static_cast<int>(order & 0xffff)) continue;
      call_(context_, rank);
      left_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  // Awake for about 50 us, then giving way to whoever else wants the core.
  template <class Ready>
  static void wait(const Ready& ready) {
    for (int i = 0; !ready(); ++i) {
      if (i > 1000) std::this_thread::yield();
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

  alignas(64) std::atomic<uint64_t> order_{0};   // round << 16 | members
  void (*call_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int members_ = 1;
  uint64_t round_ = 0;
  alignas(64) std::atomic<int> joined_{0};
  alignas(64) std::atomic<int> left_{0};
  alignas(64) std::atomic<int> waiting_{0};
  alignas(64) std::atomic<uint64_t> phase_{0};
};

}  // namespace trimtab
