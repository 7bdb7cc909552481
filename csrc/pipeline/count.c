/* Where scores lie among steps: the exact place of each, by a table and a short search.
 *
 * The table has one entry per value of a key's upper bits, counted from the first step's;
 * its size stays in the second-level cache, and most searches end at once. Each thread
 * counts blocks of scores into counters of its own, which are added up as integers. The
 * index owns its table, the counters live here. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/pixels.h"

enum { TABLE_BITS = 16, BLOCK = 1 << 14 };

dad_status dad_index_steps(dad_step_index *index, const uint32_t *first,
                           const uint32_t *last, ptrdiff_t count) {
    *index = (dad_step_index){.first = first, .last = last, .count = count};
    uint32_t span = count > 0 ? last[count - 1] - first[0] : 0;
    while (span >> index->shift >= UINT32_C(1) << TABLE_BITS) {
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

static void count_block(uint32_t *counts, const dad_step_index *index, const float *scores,
                        ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        counts[place_of(index, dad_key_of_float(scores[i]))]++;
    }
}

static void count_good_block(uint32_t *counts, const dad_step_index *index,
                             const float *scores, const uint8_t *masks, ptrdiff_t n) {
    float good[BLOCK];
    ptrdiff_t kept = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        good[kept] = scores[i];
        kept += masks[i] == 0;
    }
    count_block(counts, index, good, kept);
}

/* At most this many scores before the 32-bit counters are emptied. */
static const ptrdiff_t MOST = (ptrdiff_t)1 << 31;

static void count_some(int64_t *counts, uint32_t *counters, const dad_step_index *index,
                       const float *scores, const uint8_t *masks, ptrdiff_t n) {
    ptrdiff_t places = 2 * index->count + 1, blocks = dad_ceil_div(n, BLOCK);
    int threads = dad_num_threads();
    memset(counters, 0, (size_t)threads * (size_t)places * sizeof(*counters));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4) if (blocks > 1)
    for (ptrdiff_t b = 0; b < blocks; b++) {
        uint32_t *own = counters + dad_thread_id() * places;
        ptrdiff_t first = b * BLOCK, size = dad_min(BLOCK, n - first);
        if (masks == NULL) {
            count_block(own, index, scores + first, size);
        } else {
            count_good_block(own, index, scores + first, masks + first, size);
        }
    }
    for (int t = 0; t < threads; t++) {
        for (ptrdiff_t p = 0; p < places; p++) {
            counts[p] += counters[t * places + p];
        }
    }
}

dad_status dad_count_scores(int64_t *counts, const dad_step_index *index,
                            const float *scores, const uint8_t *masks, ptrdiff_t n) {
    ptrdiff_t places = 2 * index->count + 1, total;
    if (!dad_checked_product(&total, 2, (ptrdiff_t[]){places, dad_num_threads()})) {
        return DAD_NO_MEMORY;
    }
    uint32_t *counters = malloc((size_t)total * sizeof(*counters));
    if (counters == NULL) {
        return DAD_NO_MEMORY;
    }
    for (ptrdiff_t first = 0; first < n; first += MOST) {
        count_some(counts, counters, index, scores + first,
                   masks == NULL ? NULL : masks + first, dad_min(MOST, n - first));
    }
    free(counters);
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
