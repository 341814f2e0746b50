// Threads that wait for a round number to change; see pool.h.
#include "core/pool.h"

#include <utility>

namespace trimtab {
namespace {

thread_local bool inside_task = false;

}  // namespace

Pool::Pool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { loop(); });
}

Pool::~Pool() {
  round_.fetch_or(1);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::run_erased(int64_t count, Call call, void* context) {
  if (count <= 0) return;
  if (inside_task || workers_.empty() || count == 1) {
    for (int64_t i = 0; i < count; ++i) call(context, i);
    return;
  }
  count_ = count;
  call_ = call;
  context_ = context;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(2, std::memory_order_release);
  round_.notify_all();
  work();
  for (int left = busy_.load(std::memory_order_acquire); left != 0;
       left = busy_.load(std::memory_order_acquire)) {
    busy_.wait(left, std::memory_order_acquire);
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Pool::work() {
  inside_task = true;
  for (int64_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) {
    try {
      call_(context_, i);
    } catch (...) {
      const std::lock_guard lock(error_mutex_);
      if (!error_ || i < error_task_) {
        error_ = std::current_exception();
        error_task_ = i;
      }
    }
  }
  inside_task = false;
}

void Pool::loop() {
  uint64_t seen = 0;
  while (true) {
    round_.wait(seen, std::memory_order_acquire);
    const uint64_t now = round_.load(std::memory_order_acquire);
    if (now & 1) return;
    if (now == seen) continue;
    seen = now;
    work();
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

}  // namespace trimtab
