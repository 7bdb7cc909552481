/* Maps split into good scores and defect items, and the items' distinct scores.
 *
 * An item is a key with the size of the pixel's 8-connected region: what it weighs in the
 * mean overlap is 1 / size. Images are split in parallel, each by one thread into its own
 * places; the sort is sort.c's. Everything but the sort's buffers is the caller's. */
#include "pipeline/pixels.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"

void dad_count_defects(int64_t *counts, const uint8_t *masks, ptrdiff_t N, ptrdiff_t size) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t n = 0; n < N; n++) {
        int64_t count = 0;
        for (ptrdiff_t p = 0; p < size; p++) {
            count += masks[n * size + p] != 0;
        }
        counts[n] = count;
    }
}

/* ---- Split ----------------------------------------------------------------------- */

/* The masks may be other than when they were counted (the GIL is free): neither function
 * leaves its places, and what is missing in them is some valid value. */
static void copy_good(float *good, const float *end, const uint8_t *mask, const float *map,
                      ptrdiff_t size) {
    for (ptrdiff_t p = 0; p < size && good < end; p++) {
        if (mask[p] == 0) {
            *good++ = map[p];
        }
    }
    while (good < end) {
        *good++ = 0.0f;
    }
}

/* Returns the number of regions; scratch: labels [H, W], then sizes [regions + 1]. */
static int32_t fill_items(dad_narrow_item *items, const dad_narrow_item *end,
                          uint32_t *scratch, const uint8_t *mask, const float *map,
                          const dad_maps_shape *shape) {
    ptrdiff_t size = shape->H * shape->W;
    int32_t *labels = (int32_t *)scratch;
    uint32_t *sizes = scratch + size;
    int32_t regions = dad_label_image(labels, mask, shape->H, shape->W);
    memset(sizes, 0, ((size_t)regions + 1) * sizeof(*sizes));
    for (ptrdiff_t p = 0; p < size; p++) {
        sizes[labels[p]]++;
    }
    for (ptrdiff_t p = 0; p < size && items < end; p++) {
        if (labels[p] != 0) {
            *items++ = (uint64_t)dad_key_of_float(map[p]) << 32 | sizes[labels[p]];
        }
    }
    while (items < end) {
        *items++ = 1; /* a region of one pixel */
    }
    return regions;
}

dad_status dad_split_pixels(const dad_split *split, const uint8_t *masks, const float *maps,
                            const dad_maps_shape *shape) {
    ptrdiff_t size = shape->H * shape->W;
    ptrdiff_t stride = size + dad_max_regions(shape->H, shape->W) + 1;
    ptrdiff_t words;
    if (!dad_checked_product(&words, 2, (ptrdiff_t[]){stride, dad_num_threads()})) {
        return DAD_NO_MEMORY;
    }
    uint32_t *scratch = (uint32_t *)dad_alloc(words);
    if (scratch == NULL) {
        return DAD_NO_MEMORY;
    }
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < shape->N; n++) {
        const uint8_t *mask = masks + n * size;
        const float *map = maps + n * size;
        if (split->good != NULL) {
            copy_good(split->good + split->good_starts[n],
                      split->good + split->good_starts[n + 1], mask, map, size);
        }
        split->regions[n] = 0;
        if (split->defect_starts[n] < split->defect_starts[n + 1]) {
            split->regions[n] =
                fill_items(split->defects + split->defect_starts[n],
                           split->defects + split->defect_starts[n + 1],
                           scratch + dad_thread_id() * stride, mask, map, shape);
        }
    }
    dad_free((float *)scratch);
    return DAD_OK;
}

/* ---- Steps ----------------------------------------------------------------------- */

static inline uint32_t key_of(dad_narrow_item item) { return (uint32_t)(item >> 32); }

ptrdiff_t dad_count_steps(const dad_narrow_item *items, ptrdiff_t count) {
    ptrdiff_t steps = count > 0;
    for (ptrdiff_t i = 1; i < count; i++) {
        steps += key_of(items[i]) != key_of(items[i - 1]);
    }
    return steps;
}

void dad_fill_steps(const dad_steps *steps, const dad_narrow_item *items, ptrdiff_t count) {
    ptrdiff_t s = -1;
    for (ptrdiff_t i = 0; i < count; i++) {
        uint32_t key = key_of(items[i]);
        if (s < 0 || key != steps->keys[s]) {
            s++;
            steps->keys[s] = key;
            steps->positives[s] = 0;
            steps->shares[s] = (dad_share){0, 0};
        }
        steps->positives[s]++;
        dad_share_add(&steps->shares[s], dad_share_of_pixel((uint32_t)items[i]));
    }
}

ptrdiff_t dad_merge_steps(const dad_steps *merged, const dad_steps *a, const dad_steps *b) {
    ptrdiff_t i = 0, j = 0, s = 0;
    for (; i < a->count || j < b->count; s++) {
        bool from_a = j == b->count || (i < a->count && a->keys[i] <= b->keys[j]);
        bool from_b = !from_a || (j < b->count && b->keys[j] <= a->keys[i]);
        merged->keys[s] = from_a ? a->keys[i] : b->keys[j];
        merged->positives[s] = 0;
        merged->shares[s] = (dad_share){0, 0};
        if (from_a) {
            merged->positives[s] += a->positives[i];
            dad_share_add(&merged->shares[s], a->shares[i++]);
        }
        if (from_b) {
            merged->positives[s] += b->positives[j];
            dad_share_add(&merged->shares[s], b->shares[j++]);
        }
    }
    return s;
}

/* ---- All at once, for maps in memory --------------------------------------------- */

static dad_status allocate_steps(dad_steps *steps, ptrdiff_t count) {
    size_t n = (size_t)dad_max(count, 1);
    *steps =
        (dad_steps){malloc(n * sizeof(*steps->keys)), malloc(n * sizeof(*steps->positives)),
                    malloc(n * sizeof(*steps->shares)), count};
    bool ok = steps->keys != NULL && steps->positives != NULL && steps->shares != NULL;
    return ok ? DAD_OK : DAD_NO_MEMORY;
}

/* Sorted defect items of all maps as new steps; the caller frees what they hold, also after
 * a failure. */
static dad_status find_steps(dad_steps *steps, int64_t *positives, int64_t *regions,
                             const uint8_t *masks, const float *maps,
                             const dad_maps_shape *shape) {
    dad_status status = DAD_NO_MEMORY;
    dad_narrow_item *items = NULL, *spare = NULL;
    int64_t *starts = malloc((2 * (size_t)shape->N + 1) * sizeof(*starts));
    *positives = *regions = 0;
    if (starts == NULL) {
        goto done;
    }
    dad_count_defects(starts, masks, shape->N, shape->H * shape->W);
    for (ptrdiff_t n = 0; n < shape->N; n++) {
        int64_t here = starts[n];
        starts[n] = *positives;
        *positives += here;
    }
    starts[shape->N] = *positives;
    size_t bytes = (size_t)dad_max(*positives, 1) * sizeof(*items);
    items = malloc(bytes);
    spare = malloc(bytes);
    if (items == NULL || spare == NULL) {
        goto done;
    }
    dad_split split = {
        .defects = items, .regions = starts + shape->N + 1, .defect_starts = starts};
    status = dad_split_pixels(&split, masks, maps, shape);
    if (status != DAD_OK) {
        goto done;
    }
    for (ptrdiff_t n = 0; n < shape->N; n++) {
        *regions += split.regions[n];
    }
    status = dad_sort_narrow(&items, &spare, *positives);
    if (status == DAD_OK) {
        status = allocate_steps(steps, dad_count_steps(items, *positives));
    }
    if (status == DAD_OK) {
        dad_fill_steps(steps, items, *positives);
    }
done:
    free(starts);
    free(items);
    free(spare);
    return status;
}

dad_status dad_pixel_summary(dad_summary *summary, int64_t *positives, const uint8_t *masks,
                             const float *maps, const dad_maps_shape *shape,
                             double fpr_limit) {
    ptrdiff_t pixels = shape->N * shape->H * shape->W;
    dad_steps steps = {0};
    dad_step_index index = {0};
    int64_t *counts = NULL, regions;
    dad_status status = find_steps(&steps, positives, &regions, masks, maps, shape);
    if (status != DAD_OK) {
        goto done;
    }
    status = DAD_NO_MEMORY;
    counts = calloc(2 * (size_t)steps.count + 1, sizeof(*counts));
    if (counts != NULL) {
        status = dad_index_steps(&index, steps.keys, steps.keys, steps.count);
    }
    if (status == DAD_OK) {
        status = dad_count_scores(counts, &index, maps, masks, pixels);
    }
    if (status == DAD_OK) {
        dad_totals totals = {*positives, pixels - *positives, regions, fpr_limit};
        dad_tally tally = {0};
        dad_tally_steps(&tally, &steps, counts, &totals);
        *summary = dad_tally_summary(&tally, &totals);
    }
done:
    dad_index_free(&index);
    free(counts);
    free(steps.keys);
    free(steps.positives);
    free(steps.shares);
    return status;
}
