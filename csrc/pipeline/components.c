/* 8-connected regions by union-find, two passes over the pixels and no memory of its own.
 *
 * While the first pass runs, a pixel's label is 1 + the index of another pixel of its
 * region, or of itself at the root. Trees are joined under the smaller index, so that a
 * parent always comes earlier in raster order; the second pass therefore meets each parent
 * with its final number. One thread per image. */
#include "base/threads.h"
#include "pipeline/metrics.h"

static int32_t find_root(int32_t *labels, int32_t pixel) {
    while (labels[pixel] != pixel + 1) {
        labels[pixel] = labels[labels[pixel] - 1];
        pixel = labels[pixel] - 1;
    }
    return pixel;
}

/* The label of the joined tree. */
static int32_t join(int32_t *labels, int32_t a, int32_t b) {
    int32_t root_a = find_root(labels, a), root_b = find_root(labels, b);
    if (root_a < root_b) {
        labels[root_b] = root_a + 1;
        return root_a + 1;
    }
    labels[root_a] = root_b + 1;
    return root_b + 1;
}

/* A pixel's first label, from its earlier neighbours: any two of them that touch each other
 * are joined already, so only north-east and one of west and north-west can be apart. */
static int32_t first_label(int32_t *labels, ptrdiff_t pixel, ptrdiff_t W, bool row_above,
                           bool column_before, bool column_after) {
    ptrdiff_t north = pixel - W;
    if (row_above && labels[north] != 0) {
        return labels[north];
    }
    ptrdiff_t before = -1;
    if (column_before && labels[pixel - 1] != 0) {
        before = pixel - 1;
    } else if (row_above && column_before && labels[north - 1] != 0) {
        before = north - 1;
    }
    if (row_above && column_after && labels[north + 1] != 0) {
        return before < 0 ? labels[north + 1]
                          : join(labels, (int32_t)before, (int32_t)(north + 1));
    }
    return before < 0 ? (int32_t)pixel + 1 : labels[before];
}

int32_t dad_label_image(int32_t *labels, const uint8_t *mask, ptrdiff_t H, ptrdiff_t W) {
    for (ptrdiff_t y = 0; y < H; y++) {
        for (ptrdiff_t x = 0; x < W; x++) {
            ptrdiff_t pixel = y * W + x;
            labels[pixel] = 0;
            if (mask[pixel] != 0) {
                labels[pixel] = first_label(labels, pixel, W, y > 0, x > 0, x + 1 < W);
            }
        }
    }
    int32_t count = 0;
    for (ptrdiff_t pixel = 0; pixel < H * W; pixel++) {
        if (labels[pixel] == pixel + 1) {
            labels[pixel] = ++count;
        } else if (labels[pixel] != 0) {
            labels[pixel] = labels[labels[pixel] - 1];
        }
    }
    return count;
}

void dad_label_components(int32_t *labels, int32_t *counts, const uint8_t *masks,
                          ptrdiff_t N, ptrdiff_t H, ptrdiff_t W) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        counts[n] = dad_label_image(labels + n * H * W, masks + n * H * W, H, W);
    }
}
