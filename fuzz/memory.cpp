// How much memory is held at once: every allocation of the process, the C library's and third parties' included, is counted by the
// bytes it takes. With a sanitizer through its hooks, else by standing in for glibc's malloc.
#include <malloc.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

#include "core/error.h"
#include "fuzz/target.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FUZZ_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define FUZZ_SANITIZED 1
#endif

namespace {
std::atomic<int64_t> g_held{0}, g_peak{0};

void take(size_t bytes) {
  const int64_t held = g_held.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed) + static_cast<int64_t>(bytes);
  int64_t peak = g_peak.load(std::memory_order_relaxed);
  while (held > peak && !g_peak.compare_exchange_weak(peak, held, std::memory_order_relaxed)) {
  }
}
void give(size_t bytes) { g_held.fetch_sub(static_cast<int64_t>(bytes), std::memory_order_relaxed); }
}  // namespace

#if defined(FUZZ_SANITIZED)
extern "C" {
size_t __sanitizer_get_allocated_size(const volatile void* memory);
int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*, size_t), void (*free_hook)(const volatile void*));
}
static void count_all_allocations() {
  static const bool once = [] {
    return __sanitizer_install_malloc_and_free_hooks([](const volatile void*, size_t size) { take(size); },
                                                     [](const volatile void* memory) {
                                                       if (memory != nullptr) give(__sanitizer_get_allocated_size(memory));
                                                     }) != 0;
  }();
  TT_CHECK(once, "the sanitizer takes no more hooks");
}
constexpr bool kMeasures = true;
#elif defined(__GLIBC__) && !defined(__SANITIZE_THREAD__)
static void* taken(void* memory) {
  if (memory != nullptr) take(malloc_usable_size(memory));
  return memory;
}
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* memory, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* memory);
void* malloc(size_t size) { return taken(__libc_malloc(size)); }
void* calloc(size_t count, size_t size) { return taken(__libc_calloc(count, size)); }
void* realloc(void* memory, size_t size) {
  if (memory != nullptr) give(malloc_usable_size(memory));
  return taken(__libc_realloc(memory, size));
}
void* memalign(size_t alignment, size_t size) { return taken(__libc_memalign(alignment, size)); }
void* aligned_alloc(size_t alignment, size_t size) { return taken(__libc_memalign(alignment, size)); }
int posix_memalign(void** memory, size_t alignment, size_t size) {
  *memory = taken(__libc_memalign(alignment, size));
  return *memory != nullptr ? 0 : ENOMEM;
}
void free(void* memory) {
  if (memory != nullptr) give(malloc_usable_size(memory));
  __libc_free(memory);
}
}
static void count_all_allocations() {}
constexpr bool kMeasures = true;
#else
static void count_all_allocations() {}
constexpr bool kMeasures = false;
#endif

namespace trimtab::fuzz {
namespace {
size_t g_last_peak = 0;
}

size_t last_peak() { return g_last_peak; }

void run_bounded(const Target& target, Bytes input) {
  count_all_allocations();
  const int64_t before = g_held.load();
  g_peak.store(before);
  const std::vector<uint8_t> exact(input.begin(), input.end());   // so that reading beyond the end is seen
  target.run(exact);
  g_last_peak = kMeasures ? static_cast<size_t>(g_peak.load() - before) : 0;
  const auto most = static_cast<size_t>(target.memory_per_byte * static_cast<double>(input.size())) + kFixedMemory;
  if (g_last_peak > most)
    throw Broken(fmt::format("{}: {} bytes of memory for {} bytes of input, at most {} are allowed", target.name, g_last_peak, input.size(), most));
}

}  // namespace trimtab::fuzz
