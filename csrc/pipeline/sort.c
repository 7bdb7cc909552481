/* Least-significant-digit radix sort, 11 bits a pass: 3 passes for float32 keys, 6 for
 * float64.
 *
 * The items are cut into blocks. Each block counts its digits, the counts become the places
 * where each block writes its items of each digit, and the blocks move their items there. A
 * stable sort has one result, whatever the blocks and threads. A digit that all keys share
 * costs only its counting. The caller owns both buffers; the counts are allocated here. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/metrics.h"

enum { DIGIT_BITS = 11, BUCKETS = 1 << DIGIT_BITS, MAX_BLOCKS = 64, MIN_BLOCK = 1 << 14 };

typedef struct {
    char *to;
    const char *from;
    ptrdiff_t count, block; /* items; items per block */
    size_t size;            /* bytes of an item */
    int shift;              /* of the digit, in the item's first word */
    ptrdiff_t *places;      /* [blocks, BUCKETS] */
} sort_pass;

/* Both loops below are compiled once per item size: `size` is a constant where they are
 * called. */
static inline size_t digit_of(const char *item, int shift) {
    uint64_t word;
    memcpy(&word, item, sizeof(word));
    return (size_t)(word >> shift) & (BUCKETS - 1);
}

static inline void count_digits(const sort_pass *pass, ptrdiff_t b, size_t size) {
    ptrdiff_t *counts = pass->places + b * BUCKETS;
    memset(counts, 0, BUCKETS * sizeof(*counts));
    ptrdiff_t end = dad_min((b + 1) * pass->block, pass->count);
    for (ptrdiff_t i = b * pass->block; i < end; i++) {
        counts[digit_of(pass->from + (size_t)i * size, pass->shift)]++;
    }
}

static inline void move_items(const sort_pass *pass, ptrdiff_t b, size_t size) {
    ptrdiff_t *places = pass->places + b * BUCKETS;
    ptrdiff_t end = dad_min((b + 1) * pass->block, pass->count);
    for (ptrdiff_t i = b * pass->block; i < end; i++) {
        const char *item = pass->from + (size_t)i * size;
        ptrdiff_t place = places[digit_of(item, pass->shift)]++;
        memcpy(pass->to + (size_t)place * size, item, size);
    }
}

static void count_block(const sort_pass *pass, ptrdiff_t b) {
    if (pass->size == sizeof(dad_narrow_item)) {
        count_digits(pass, b, sizeof(dad_narrow_item));
    } else {
        count_digits(pass, b, sizeof(dad_wide_item));
    }
}

static void move_block(const sort_pass *pass, ptrdiff_t b) {
    if (pass->size == sizeof(dad_narrow_item)) {
        move_items(pass, b, sizeof(dad_narrow_item));
    } else {
        move_items(pass, b, sizeof(dad_wide_item));
    }
}

/* Counts to places: by digit, then by block. False when all items share one digit. */
static bool find_places(ptrdiff_t *places, ptrdiff_t blocks, ptrdiff_t count) {
    ptrdiff_t place = 0;
    for (ptrdiff_t d = 0; d < BUCKETS; d++) {
        ptrdiff_t first = place;
        for (ptrdiff_t b = 0; b < blocks; b++) {
            ptrdiff_t here = places[b * BUCKETS + d];
            places[b * BUCKETS + d] = place;
            place += here;
        }
        if (place - first == count) {
            return false;
        }
    }
    return true;
}

/* Sorts by the bits from `low` to 63 of each item's first word. */
static dad_status sort_items(char **items, char **spare, ptrdiff_t count, size_t size,
                             int low) {
    ptrdiff_t block = dad_max(dad_ceil_div(count, MAX_BLOCKS), MIN_BLOCK);
    ptrdiff_t blocks = dad_ceil_div(count, block);
    ptrdiff_t *places = malloc((size_t)dad_max(blocks, 1) * BUCKETS * sizeof(*places));
    if (places == NULL) {
        return DAD_NO_MEMORY;
    }
    for (int shift = low; shift < 64; shift += DIGIT_BITS) {
        sort_pass pass = {*spare, *items, count, block, size, shift, places};
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic) if (blocks > 1)
        for (ptrdiff_t b = 0; b < blocks; b++) {
            count_block(&pass, b);
        }
        if (!find_places(places, blocks, count)) {
            continue;
        }
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic) if (blocks > 1)
        for (ptrdiff_t b = 0; b < blocks; b++) {
            move_block(&pass, b);
        }
        char *sorted = *spare;
        *spare = *items;
        *items = sorted;
    }
    free(places);
    return DAD_OK;
}

dad_status dad_sort_narrow(dad_narrow_item **items, dad_narrow_item **spare,
                           ptrdiff_t count) {
    char *a = (char *)*items, *b = (char *)*spare;
    dad_status status = sort_items(&a, &b, count, sizeof(**items), 32);
    *items = (dad_narrow_item *)a;
    *spare = (dad_narrow_item *)b;
    return status;
}

dad_status dad_sort_wide(dad_wide_item **items, dad_wide_item **spare, ptrdiff_t count) {
    char *a = (char *)*items, *b = (char *)*spare;
    dad_status status = sort_items(&a, &b, count, sizeof(**items), 0);
    *items = (dad_wide_item *)a;
    *spare = (dad_wide_item *)b;
    return status;
}
