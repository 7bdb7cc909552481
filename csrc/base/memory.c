/* Aligned memory. Large buffers are placed on 2 MiB boundaries and advised to use huge
 * pages: a 256x256x128 activation spans 8,192 small pages, and the TLB misses show. Weights
 * do not ask: in a fresh process the kernel may have to make room for 2 MiB at a time,
 * which took half of the time to the first result of a large model. */
#define _GNU_SOURCE
#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef _WIN32 /* has no aligned_alloc, and memory that free() does not take back */
#include <malloc.h>
#define aligned_alloc(alignment, bytes) _aligned_malloc(bytes, alignment)
#define aligned_free _aligned_free
#else
#define aligned_free free
#endif

enum { CACHE_LINE = 64, HUGE_PAGE = 2 << 20 };

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define SANITIZED
#endif

#ifdef SANITIZED /* not a byte more than asked for, so that none can hide an overrun */
static float *allocate(ptrdiff_t count, bool sequential) {
    void *buffer = NULL;
    (void)sequential;
    if (count < 0 || count > (ptrdiff_t)(PTRDIFF_MAX / sizeof(float)) ||
        posix_memalign(&buffer, CACHE_LINE, (size_t)count * sizeof(float)) != 0) {
        return NULL;
    }
    return buffer;
}
#else

static float *allocate(ptrdiff_t count, bool sequential) {
    if (count < 0 || count > (ptrdiff_t)(PTRDIFF_MAX / sizeof(float)) - HUGE_PAGE) {
        return NULL;
    }
    size_t bytes = (size_t)count * sizeof(float);
    size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : CACHE_LINE;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    float *buffer = aligned_alloc(alignment, bytes > 0 ? bytes : alignment);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (buffer != NULL && alignment == HUGE_PAGE && !sequential) {
        (void)madvise(buffer, bytes, MADV_HUGEPAGE); /* only a hint */
    }
#else
    (void)sequential;
#endif
    return buffer;
}
#endif

float *dad_alloc(ptrdiff_t count) { return allocate(count, false); }

float *dad_alloc_sequential(ptrdiff_t count) { return allocate(count, true); }

void dad_free(float *buffer) { aligned_free(buffer); }

void *dad_grow(void *items, int *capacity, int count, size_t size) {
    if (count < *capacity) {
        return items;
    }
    int wanted = *capacity > 0 ? 2 * *capacity : 64;
    void *grown = realloc(items, (size_t)wanted * size);
    if (grown != NULL) {
        *capacity = wanted;
    }
    return grown;
}

bool dad_checked_product(ptrdiff_t *product, int count, const ptrdiff_t *factors) {
    ptrdiff_t result = 1;
    for (int i = 0; i < count; i++) {
        if (factors[i] < 0) {
            return false;
        }
        if (factors[i] != 0 && result > PTRDIFF_MAX / factors[i]) {
            return false;
        }
        result *= factors[i];
    }
    *product = result;
    return true;
}
