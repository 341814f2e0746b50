// A fixed set of threads that share out numbered tasks. Which thread runs a task never changes a result: a
// task writes only what belongs to its number, and whoever called run() reduces in task order.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace trimtab {

class Pool {
 public:
  explicit Pool(int threads);  // the caller counts as one
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(i) for i in [0, count) and returns when all are done; rethrows the exception of the lowest i.
  // Does not allocate. A run from inside a task is done by the calling thread alone.
  template <class Task>
  void run(int64_t count, Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    run_erased(
        count, [](void* context, int64_t i) { (*static_cast<Plain*>(context))(i); },
        const_cast<void*>(static_cast<const void*>(&task)));
  }

 private:
  using Call = void (*)(void*, int64_t);
  void run_erased(int64_t count, Call call, void* context);
  void work();  // takes tasks of the present round until none is left
  void loop();

  std::vector<std::thread> workers_;
  std::atomic<uint64_t> round_{0};  // bumped by 2; made odd to stop
  std::atomic<int> busy_{0};        // workers that have not finished the round
  std::atomic<int64_t> next_{0};
  int64_t count_ = 0;
  Call call_ = nullptr;
  void* context_ = nullptr;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  int64_t error_task_ = 0;
};

}  // namespace trimtab
