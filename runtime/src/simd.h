/* One source, several instruction sets: the compiler makes a copy of a loop per set and the loader picks one. Sanitizers
 * instrument the picking code before their own start-up, so they get the plain copy. */
#ifndef TRIMTAB_SIMD_H
#define TRIMTAB_SIMD_H

#include <features.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TT_CLONES
#endif

/* For what a clone calls, so that it is compiled for the clone's instruction set. */
#define TT_INLINE static inline __attribute__((always_inline))

#endif
