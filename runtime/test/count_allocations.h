// Counts every allocation of the process, libraries included, by standing in for glibc's malloc and its relatives. For programs
// that show that a decision makes none: include it in one source of the program.
#pragma once

#include <malloc.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

// glibc's own names stand behind the counting ones. A sanitizer has a malloc of its own that must stay in place.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TT_COUNTS_ALLOCATIONS 1
static std::atomic<int64_t> g_allocations{0};
static void count_allocation() { g_allocations.fetch_add(1, std::memory_order_relaxed); }
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* memory, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void* malloc(size_t size) { return count_allocation(), __libc_malloc(size); }
void* calloc(size_t count, size_t size) { return count_allocation(), __libc_calloc(count, size); }
void* realloc(void* memory, size_t size) { return count_allocation(), __libc_realloc(memory, size); }
void* memalign(size_t alignment, size_t size) { return count_allocation(), __libc_memalign(alignment, size); }
void* aligned_alloc(size_t alignment, size_t size) { return count_allocation(), __libc_memalign(alignment, size); }
int posix_memalign(void** memory, size_t alignment, size_t size) {
  count_allocation();
  *memory = __libc_memalign(alignment, size);
  return *memory ? 0 : 12;  // ENOMEM
}
}
static int64_t allocations() { return g_allocations.load(); }
#else
#define TT_COUNTS_ALLOCATIONS 0
static int64_t allocations() { return 0; }
#endif
