/* Aligned memory and checked sizes.
 *
 *   dad_alloc, dad_alloc_sequential, dad_free   float buffers on 64-byte boundaries
 *   dad_grow                 a growing list has room for one more
 *   dad_checked_product      the product of sizes, or a failure where it overflows
 *   dad_round_up, dad_padded the next multiple; of a cache line
 */
#ifndef DAD_MEMORY_H
#define DAD_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* A buffer of `count` floats, not initialised; NULL when there is no memory. count >= 0.
 * Large ones ask for pages of 2 MiB; sequential ones, which are read from one end to the
 * other, do not: huge pages take longer to get than such reading gains. */
float *dad_alloc(ptrdiff_t count);
float *dad_alloc_sequential(ptrdiff_t count);
void dad_free(float *buffer);

/* Room for one more than `count` items of `size` bytes in a list from malloc (or NULL) that
 * holds *capacity: the list, perhaps moved; NULL when there is no memory, and the list
 * stays. */
void *dad_grow(void *items, int *capacity, int count, size_t size);

/* *product = the product of `count` factors; false when one is negative or it overflows. */
DAD_MUST_CHECK bool dad_checked_product(ptrdiff_t *product, int count,
                                        const ptrdiff_t *factors);

static inline ptrdiff_t dad_round_up(ptrdiff_t value, ptrdiff_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

/* A count of floats up to whole cache lines. */
static inline ptrdiff_t dad_padded(ptrdiff_t floats) { return dad_round_up(floats, 16); }

static inline ptrdiff_t dad_min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t dad_max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t dad_ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

#endif
