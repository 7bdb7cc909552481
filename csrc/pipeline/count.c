/* Where scores lie among steps: the exact place of each, by a table and a short search.
 *
 * The table has about two entries per step, by a key's upper bits counted from the first
 * step's, and most searches end at once. Where steps and counters outgrow the caches, the
 * scores of a block are first put into buckets of near keys, so that one bucket's steps
 * stay close by (2.6 million steps: 33 ns a score, and several times that without). Each
 * thread counts blocks into counters of its own, which are added up as integers; where
 * there are many steps, only so many threads count that their counters stay about as many
 * as the scores. The index owns its table; counters and buckets live here. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/pixels.h"

enum {
    LEAST_TABLE_BITS = 16,
    MOST_TABLE_BITS = 22,
    BLOCK = 1 << 14, /* scores counted as they come */
    BUCKET_BITS = 8,
    BUCKETED_BLOCK = 1 << 20, /* scores put into buckets first */
    MANY_STEPS = 1 << 16,     /* from here on */
};

dad_status dad_index_steps(dad_step_index *index, const uint32_t *first,
                           const uint32_t *last, ptrdiff_t count) {
    *index = (dad_step_index){.first = first, .last = last, .count = count};
    uint32_t span = count > 0 ? last[count - 1] - first[0] : 0;
    int bits = LEAST_TABLE_BITS;
    while (bits < MOST_TABLE_BITS && (ptrdiff_t)1 << bits < 2 * count) {
        bits++;
    }
    while (span >> index->shift >= UINT32_C(1) << bits) {
        index->shift++;
    }
    ptrdiff_t entries = (ptrdiff_t)(span >> index->shift) + 2;
    index->starts = malloc((size_t)entries * sizeof(*index->starts));
    if (index->starts == NULL) {
        return DAD_NO_MEMORY;
    }
    ptrdiff_t step = 0;
    for (ptrdiff_t entry = 0; entry < entries; entry++) {
        uint64_t low = (uint64_t)entry << index->shift;
        while (step < count && (uint64_t)(last[step] - first[0]) < low) {
            step++;
        }
        index->starts[entry] = (int32_t)step;
    }
    return DAD_OK;
}

void dad_index_free(dad_step_index *index) {
    free(index->starts);
    index->starts = NULL;
}

/* 2 s before step s (and behind step s - 1), 2 s + 1 in it. */
static inline ptrdiff_t place_of(const dad_step_index *index, uint32_t key) {
    ptrdiff_t count = index->count;
    if (count == 0 || key < index->first[0]) {
        return 0;
    }
    if (key > index->last[count - 1]) {
        return 2 * count;
    }
    ptrdiff_t entry = (ptrdiff_t)((key - index->first[0]) >> index->shift);
    ptrdiff_t low = index->starts[entry], high = index->starts[entry + 1];
    while (low < high) {
        ptrdiff_t middle = (low + high) / 2;
        if (index->last[middle] < key) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return 2 * low + (key >= index->first[low]);
}

/* ---- Counting, one thread -------------------------------------------------------- */

/* What one thread needs: its counters [2 steps + 1], and for many steps keys and buckets
 * [block] each. */
typedef struct {
    uint32_t *counters, *keys, *bucketed;
} count_scratch;

/* Keys of the good scores; returns how many. */
static ptrdiff_t good_keys(uint32_t *keys, const float *scores, const uint8_t *masks,
                           ptrdiff_t n) {
    ptrdiff_t kept = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        keys[kept] = dad_key_of_float(scores[i]);
        kept += masks == NULL || masks[i] == 0;
    }
    return kept;
}

static void count_keys(uint32_t *counters, const dad_step_index *index,
                       const uint32_t *keys, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        counters[place_of(index, keys[i])]++;
    }
}

/* Near keys together, as far as they lie among the steps; those outside are in the first
 * and the last bucket. */
static void to_buckets(uint32_t *bucketed, const uint32_t *keys, ptrdiff_t n,
                       const dad_step_index *index) {
    uint32_t low = index->first[0], high = index->last[index->count - 1];
    int shift = 0;
    while ((high - low) >> shift >> BUCKET_BITS != 0) {
        shift++;
    }
    ptrdiff_t places[(1 << BUCKET_BITS) + 1] = {0};
#define BUCKET_OF(key) \
    (((key) < low ? 0 : (key) > high ? high - low : (key) - low) >> shift)
    for (ptrdiff_t i = 0; i < n; i++) {
        places[BUCKET_OF(keys[i]) + 1]++;
    }
    for (int bucket = 0; bucket < 1 << BUCKET_BITS; bucket++) {
        places[bucket + 1] += places[bucket];
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        bucketed[places[BUCKET_OF(keys[i])]++] = keys[i];
    }
#undef BUCKET_OF
}

static void count_block(const count_scratch *scratch, const dad_step_index *index,
                        const float *scores, const uint8_t *masks, ptrdiff_t n) {
    if (scratch->bucketed != NULL) {
        ptrdiff_t kept = good_keys(scratch->keys, scores, masks, n);
        to_buckets(scratch->bucketed, scratch->keys, kept, index);
        count_keys(scratch->counters, index, scratch->bucketed, kept);
    } else {
        uint32_t keys[BLOCK];
        count_keys(scratch->counters, index, keys, good_keys(keys, scores, masks, n));
    }
}

/* ---- Counting, all threads ------------------------------------------------------- */

/* At most this many scores before the 32-bit counters are emptied. */
static const ptrdiff_t MOST = (ptrdiff_t)1 << 31;

/* Counters are cleared and added up, too: many more of them than scores gain nothing. */
static int counting_threads(ptrdiff_t places, ptrdiff_t n) {
    return (int)dad_max(1, dad_min(dad_num_threads(), 2 * n / places));
}

/* Scores counted at a time; large blocks go over many steps less often, but there are some
 * for every thread. */
static ptrdiff_t block_size(bool many, ptrdiff_t n) {
    return many ? dad_min(dad_max(n / 32, 4 * BLOCK), BUCKETED_BLOCK) : BLOCK;
}

static void count_some(int64_t *counts, uint32_t *words, ptrdiff_t stride, int threads,
                       const dad_step_index *index, const float *scores,
                       const uint8_t *masks, ptrdiff_t n) {
    bool many = index->count > MANY_STEPS;
    ptrdiff_t places = 2 * index->count + 1, block = block_size(many, n);
    ptrdiff_t blocks = dad_ceil_div(n, block);
    for (int t = 0; t < threads; t++) {
        memset(words + t * stride, 0, (size_t)places * sizeof(*words));
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (blocks > 1)
    for (ptrdiff_t b = 0; b < blocks; b++) {
        uint32_t *own = words + dad_thread_id() * stride, *keys = own + places;
        count_scratch scratch = {own, keys, many ? keys + block : NULL};
        ptrdiff_t first = b * block;
        count_block(&scratch, index, scores + first, masks == NULL ? NULL : masks + first,
                    dad_min(block, n - first));
    }
    for (int t = 0; t < threads; t++) {
        for (ptrdiff_t p = 0; p < places; p++) {
            counts[p] += words[t * stride + p];
        }
    }
}

dad_status dad_count_scores(int64_t *counts, const dad_step_index *index,
                            const float *scores, const uint8_t *masks, ptrdiff_t n) {
    ptrdiff_t places = 2 * index->count + 1, stride = places, total;
    if (index->count > MANY_STEPS) {
        stride += 2 * block_size(true, dad_min(MOST, n));
    }
    int threads = counting_threads(places, n);
    if (!dad_checked_product(&total, 2, (ptrdiff_t[]){stride, threads})) {
        return DAD_NO_MEMORY;
    }
    uint32_t *words = malloc((size_t)total * sizeof(*words));
    if (words == NULL) {
        return DAD_NO_MEMORY;
    }
    for (ptrdiff_t first = 0; first < n; first += MOST) {
        count_some(counts, words, stride, threads, index, scores + first,
                   masks == NULL ? NULL : masks + first, dad_min(MOST, n - first));
    }
    free(words);
    return DAD_OK;
}

void dad_count_images(const dad_image_counts *counts, const dad_step_index *index,
                      const float *good, const int64_t *good_starts,
                      const dad_narrow_item *defects, const int64_t *defect_starts,
                      ptrdiff_t N) {
    ptrdiff_t steps = index->count, places = 2 * steps + 1;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        int64_t *own = counts->good + n * places;
        memset(own, 0, (size_t)places * sizeof(*own));
        for (int64_t i = good_starts[n]; i < good_starts[n + 1]; i++) {
            own[place_of(index, dad_key_of_float(good[i]))]++;
        }
        int64_t *found = counts->positives + n * steps;
        double *shares = counts->shares + n * steps;
        for (ptrdiff_t s = 0; s < steps; s++) {
            found[s] = 0;
            shares[s] = 0.0;
        }
        for (int64_t i = defect_starts[n]; i < defect_starts[n + 1]; i++) {
            ptrdiff_t place = place_of(index, (uint32_t)(defects[i] >> 32));
            if (place % 2 == 1) {
                found[place / 2]++;
                shares[place / 2] += 1.0 / (double)(uint32_t)defects[i];
            }
        }
    }
}
