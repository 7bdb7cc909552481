/* Per-region overlap: pixels ranked for the exact AUPRO, and the reference code's own PRO.
 *
 * Exact: each pixel of a defect carries the size of its 8-connected region into the
 * ranking, where it weighs 1 / size, so that every region of the category counts alike,
 * small or large.
 *
 * The reference code's: a fixed list of thresholds, and regions with their holes filled. A
 * region's holes are what cannot be reached from outside its bounding box through
 * 8-connected steps off the region; pixels of other regions in there belong to them too.
 *
 * One thread per image, with its own scratch; the images' sums are added in image order. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/metrics.h"

/* ---- Exact ----------------------------------------------------------------------- */

/* One thread's scratch: labels, then sizes [regions + 1]. */
static ptrdiff_t sizes_scratch(const dad_maps_shape *s) {
    return s->H * s->W + dad_max_regions(s->H, s->W) + 1;
}

/* Marks of one image, over its labels; adds its defect pixels to *positives. */
static int32_t mark_regions(uint32_t *scratch, const uint8_t *mask, const dad_maps_shape *s,
                            ptrdiff_t *positives) {
    int32_t *labels = (int32_t *)scratch;
    uint32_t *sizes = scratch + s->H * s->W;
    int32_t regions = dad_label_image(labels, mask, s->H, s->W);
    memset(sizes, 0, ((size_t)regions + 1) * sizeof(*sizes));
    for (ptrdiff_t p = 0; p < s->H * s->W; p++) {
        sizes[labels[p]]++;
    }
    *positives += s->H * s->W - sizes[0];
    sizes[0] = 0;
    for (ptrdiff_t p = 0; p < s->H * s->W; p++) {
        scratch[p] = sizes[labels[p]];
    }
    return regions;
}

dad_status dad_rank_pixels(dad_ranking *ranking, const uint8_t *masks, dad_scores maps,
                           const dad_maps_shape *shape) {
    ptrdiff_t pixels = shape->H * shape->W, stride = sizes_scratch(shape);
    uint32_t *scratch = (uint32_t *)dad_alloc(stride * dad_num_threads());
    dad_status status = dad_ranking_begin(ranking, maps);
    if (scratch == NULL || status != DAD_OK) {
        dad_ranking_free(ranking);
        status = DAD_NO_MEMORY;
        goto done;
    }
    ptrdiff_t positives = 0, regions = 0;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic) \
    reduction(+ : positives, regions)
    for (ptrdiff_t n = 0; n < shape->N; n++) {
        uint32_t *marks = scratch + dad_thread_id() * stride;
        regions += mark_regions(marks, masks + n * pixels, shape, &positives);
        dad_ranking_set(ranking, maps, n * pixels, pixels, marks);
    }
    ranking->positives = positives;
    ranking->regions = regions;
    status = dad_ranking_finish(ranking);
done:
    dad_free((float *)scratch);
    return status;
}

/* ---- The reference code's -------------------------------------------------------- */

typedef struct {
    int32_t top, bottom, left, right; /* bottom and right not included */
    int32_t area;
} region_box;

/* One thread's scratch. */
typedef struct {
    int32_t *labels;   /* [H, W] */
    int32_t *first;    /* [H, W]: the first threshold below the pixel's score; K: none */
    int32_t *stack;    /* [H * W] */
    uint8_t *outside;  /* [H, W], of the box in hand */
    region_box *boxes; /* [regions + 1] */
} pro_scratch;

/* What each threshold adds: false positives, and overlap summed over regions. */
typedef struct {
    double *negatives, *overlap; /* [K + 1] */
} pro_steps;

static void find_boxes(region_box *boxes, int32_t regions, const int32_t *labels,
                       ptrdiff_t H, ptrdiff_t W) {
    for (int32_t r = 0; r <= regions; r++) {
        boxes[r] = (region_box){(int32_t)H, 0, (int32_t)W, 0, 0};
    }
    for (int32_t y = 0; y < H; y++) {
        for (int32_t x = 0; x < W; x++) {
            region_box *box = &boxes[labels[y * W + x]];
            box->top = box->top < y ? box->top : y;
            box->bottom = y + 1;
            box->left = box->left < x ? box->left : x;
            box->right = box->right > x + 1 ? box->right : x + 1;
            box->area++;
        }
    }
}

/* outside [h, w] of the box = 1 where the outside reaches. */
static void flood_outside(pro_scratch *s, int32_t region, ptrdiff_t W) {
    const region_box *box = &s->boxes[region];
    int32_t h = box->bottom - box->top, w = box->right - box->left, depth = 0;
    const int32_t *labels = s->labels + box->top * W + box->left;
    memset(s->outside, 0, (size_t)h * (size_t)w);
    for (int32_t y = 0; y < h; y++) {
        int32_t step = y == 0 || y == h - 1 || w == 1 ? 1 : w - 1; /* the border */
        for (int32_t x = 0; x < w; x += step) {
            if (labels[y * W + x] != region) {
                s->outside[y * w + x] = 1;
                s->stack[depth++] = y * w + x;
            }
        }
    }
    while (depth > 0) {
        int32_t pixel = s->stack[--depth], y = pixel / w, x = pixel % w;
        for (int32_t v = y > 0 ? y - 1 : 0; v <= y + 1 && v < h; v++) {
            for (int32_t u = x > 0 ? x - 1 : 0; u <= x + 1 && u < w; u++) {
                if (!s->outside[v * w + u] && labels[v * W + u] != region) {
                    s->outside[v * w + u] = 1;
                    s->stack[depth++] = v * w + u;
                }
            }
        }
    }
}

static void add_region(pro_steps steps, pro_scratch *s, int32_t region, ptrdiff_t W) {
    flood_outside(s, region, W);
    const region_box *box = &s->boxes[region];
    const uint8_t *outside = s->outside;
    for (int32_t y = box->top; y < box->bottom; y++) {
        for (int32_t x = box->left; x < box->right; x++) {
            if (!*outside++) {
                steps.overlap[s->first[y * W + x]] += 1.0 / box->area;
            }
        }
    }
}

/* The first of the falling thresholds that lies below `score`, or K. */
static int32_t first_below(const double *thresholds, ptrdiff_t K, double score) {
    ptrdiff_t low = 0, high = K;
    while (low < high) {
        ptrdiff_t middle = low + (high - low) / 2;
        if (thresholds[middle] < score) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return (int32_t)low;
}

static double score_at(dad_scores maps, ptrdiff_t i) {
    return maps.wide ? ((const double *)maps.values)[i]
                     : (double)((const float *)maps.values)[i];
}

/* All steps of image n; returns its regions. */
static int32_t add_image(pro_steps steps, pro_scratch *s, const uint8_t *masks,
                         dad_scores maps, ptrdiff_t n, const double *thresholds,
                         ptrdiff_t K, const dad_maps_shape *shape) {
    ptrdiff_t H = shape->H, W = shape->W;
    for (ptrdiff_t p = 0; p < H * W; p++) {
        s->first[p] = first_below(thresholds, K, score_at(maps, n * H * W + p));
        if (masks[n * H * W + p] == 0) {
            steps.negatives[s->first[p]] += 1.0;
        }
    }
    int32_t regions = dad_label_image(s->labels, masks + n * H * W, H, W);
    find_boxes(s->boxes, regions, s->labels, H, W);
    for (int32_t r = 1; r <= regions; r++) {
        add_region(steps, s, r, W);
    }
    return regions;
}

/* Each thread's pieces of one block; sizes in int32 words, the bytes of `outside` rounded
 * up. */
static ptrdiff_t pro_scratch_size(const dad_maps_shape *shape) {
    ptrdiff_t pixels = shape->H * shape->W;
    ptrdiff_t boxes = (dad_max_regions(shape->H, shape->W) + 1) *
                      (ptrdiff_t)(sizeof(region_box) / sizeof(int32_t));
    return 3 * pixels + dad_ceil_div(pixels, 4) + boxes;
}

static pro_scratch pro_scratch_at(int32_t *words, const dad_maps_shape *shape) {
    ptrdiff_t pixels = shape->H * shape->W;
    return (pro_scratch){
        .labels = words,
        .first = words + pixels,
        .stack = words + 2 * pixels,
        .outside = (uint8_t *)(words + 3 * pixels),
        .boxes = (region_box *)(words + 3 * pixels + dad_ceil_div(pixels, 4)),
    };
}

/* Steps of all images, added up to rates. */
static void add_up(double *fpr, double *pro, const double *steps, ptrdiff_t N, ptrdiff_t K,
                   ptrdiff_t regions) {
    double negatives = 0.0, false_positives = 0.0, overlap = 0.0;
    for (ptrdiff_t n = 0; n < N; n++) {
        for (ptrdiff_t k = 0; k <= K; k++) {
            negatives += steps[2 * n * (K + 1) + k];
        }
    }
    for (ptrdiff_t k = 0; k < K; k++) {
        for (ptrdiff_t n = 0; n < N; n++) {
            false_positives += steps[2 * n * (K + 1) + k];
            overlap += steps[(2 * n + 1) * (K + 1) + k];
        }
        fpr[k] = false_positives / negatives;
        pro[k] = overlap / (double)regions;
    }
}

dad_status dad_filled_pro(double *fpr, double *pro, const uint8_t *masks, dad_scores maps,
                          const double *thresholds, ptrdiff_t K,
                          const dad_maps_shape *shape) {
    dad_status status = DAD_NO_MEMORY;
    ptrdiff_t stride = pro_scratch_size(shape), regions = 0;
    int32_t *words = (int32_t *)dad_alloc(stride * dad_num_threads());
    double *steps = calloc((size_t)shape->N * 2 * ((size_t)K + 1), sizeof(*steps));
    if (words == NULL || steps == NULL) {
        goto done;
    }
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic) \
    reduction(+ : regions)
    for (ptrdiff_t n = 0; n < shape->N; n++) {
        pro_scratch scratch = pro_scratch_at(words + dad_thread_id() * stride, shape);
        double *here = steps + 2 * n * (K + 1);
        regions += add_image((pro_steps){here, here + K + 1}, &scratch, masks, maps, n,
                             thresholds, K, shape);
    }
    add_up(fpr, pro, steps, shape->N, K, regions);
    status = DAD_OK;
done:
    free(steps);
    dad_free((float *)words);
    return status;
}
