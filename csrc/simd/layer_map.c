/* Inner loops over rows of a map: 2x2 windows, and twice the size. */
#include "simd/layer_ops.h"
#include "simd/vec.h"

/* Calls step(..., c, n) for all channels: whole vectors, then the tail. */
#define EACH_VECTOR(C, step)             \
    do {                                 \
        ptrdiff_t c = 0;                 \
        for (; c + VL <= (C); c += VL) { \
            const ptrdiff_t n = VL;      \
            step;                        \
        }                                \
        if (c < (C)) {                   \
            const ptrdiff_t n = (C) - c; \
            step;                        \
        }                                \
    } while (0)

DAD_INLINE void sum_step(float *y, const float *top, const float *bottom, float scale,
                         ptrdiff_t C, ptrdiff_t n) {
    vf upper = vload_n(top, n) + vload_n(top + C, n);
    vf lower = vload_n(bottom, n) + vload_n(bottom + C, n);
    vstore_n(y, (upper + lower) * scale, n);
}

static void sum_windows(float *y, const float *top, const float *bottom, float scale,
                        ptrdiff_t W, ptrdiff_t C) {
    for (ptrdiff_t w = 0; w < W; w++, y += C, top += 2 * C, bottom += 2 * C) {
        EACH_VECTOR(C, sum_step(y + c, top + c, bottom + c, scale, C, n));
    }
}

DAD_INLINE void spread_step(float *y, const float *x, float scale, ptrdiff_t C,
                            ptrdiff_t n) {
    vf v = vload_n(x, n) * scale;
    vstore_n(y, v, n);
    vstore_n(y + C, v, n);
}

static void spread(float *y, const float *x, float scale, ptrdiff_t W, ptrdiff_t C) {
    for (ptrdiff_t w = 0; w < W; w++, x += C, y += 2 * C) {
        EACH_VECTOR(C, spread_step(y + c, x + c, scale, C, n));
    }
}

typedef uint8_t vbytes __attribute__((vector_size(VL)));

/* The first of the largest; a NaN is larger than everything, and the last one counts. */
DAD_INLINE void max_step(float *y, uint8_t *which, const float *top, const float *bottom,
                         ptrdiff_t C, ptrdiff_t n) {
    const float *others[3] = {top + C, bottom, bottom + C};
    vf best = vload_n(top, n);
    vi index = {0};
    for (int k = 0; k < 3; k++) {
        vf v = vload_n(others[k], n);
        vi better = (v > best) | (v != v);
        best = vselect(better, v, best);
        index = (better & (k + 1)) | (~better & index);
    }
    vbytes bytes = __builtin_convertvector(index, vbytes);
    vstore_n(y, best, n);
    memcpy(which, &bytes, (size_t)n);
}

static void max_windows(float *y, uint8_t *which, const float *top, const float *bottom,
                        ptrdiff_t W, ptrdiff_t C) {
    for (ptrdiff_t w = 0; w < W; w++, y += C, which += C, top += 2 * C, bottom += 2 * C) {
        EACH_VECTOR(C, max_step(y + c, which + c, top + c, bottom + c, C, n));
    }
}

DAD_INLINE void scatter_step(float *top, float *bottom, const float *dy,
                             const uint8_t *which, ptrdiff_t C, ptrdiff_t n) {
    float *places[4] = {top, top + C, bottom, bottom + C};
    vbytes bytes = {0};
    memcpy(&bytes, which, (size_t)n);
    vi index = __builtin_convertvector(bytes, vi);
    vf v = vload_n(dy, n);
    for (int k = 0; k < 4; k++) {
        vstore_n(places[k], vselect(index == k, v, vset1(0.0f)), n);
    }
}

static void max_scatter(float *top, float *bottom, const float *dy, const uint8_t *which,
                        ptrdiff_t W, ptrdiff_t C) {
    for (ptrdiff_t w = 0; w < W; w++, dy += C, which += C, top += 2 * C, bottom += 2 * C) {
        EACH_VECTOR(C, scatter_step(top + c, bottom + c, dy + c, which + c, C, n));
    }
}

/* Output column 2k lies between the input's k - 1 and k, 2k + 1 between k and k + 1. */
DAD_INLINE void bilinear_step(float *y, const float *const corners[4],
                              const float weights[4], ptrdiff_t c, ptrdiff_t n) {
    vf v =
        vload_n(corners[0] + c, n) * weights[0] + vload_n(corners[1] + c, n) * weights[1] +
        (vload_n(corners[2] + c, n) * weights[2] + vload_n(corners[3] + c, n) * weights[3]);
    vstore_n(y + c, v, n);
}

static void bilinear(float *y, const float *top, const float *bottom, float weight,
                     ptrdiff_t W, ptrdiff_t C) {
    const float whole = (float)(2 * W - 1);
    for (ptrdiff_t j = 0; j < 2 * W; j++, y += C) {
        ptrdiff_t k = j / 2;
        ptrdiff_t left = j % 2 == 0 && k > 0 ? k - 1 : k;
        ptrdiff_t right = j % 2 == 1 && k + 1 < W ? k + 1 : k;
        float right_weight = (float)(j % 2 == 0 ? 2 * W - 1 - k : W - 1 - k) / whole;
        float left_weight = (float)(j % 2 == 0 ? k : W + k) / whole;
        const float *const corners[4] = {top + left * C, top + right * C, bottom + left * C,
                                         bottom + right * C};
        const float weights[4] = {(1.0f - weight) * left_weight,
                                  (1.0f - weight) * right_weight, weight * left_weight,
                                  weight * right_weight};
        EACH_VECTOR(C, bilinear_step(y, corners, weights, c, n));
    }
}

DAD_INLINE void gather_step(float *dx, const float *dy, ptrdiff_t row_size,
                            const float *row_weights, int rows, const float *weights,
                            int columns, ptrdiff_t C, ptrdiff_t n) {
    vf total = {0};
    for (int r = 0; r < rows; r++) {
        vf line = {0};
        for (int j = 0; j < columns; j++) {
            line += vload_n(dy + r * row_size + j * C, n) * weights[j];
        }
        total += line * row_weights[r];
    }
    vstore_n(dx, total, n);
}

/* Input column w is read by the outputs 2w - 1 .. 2w + 2 that exist. */
static void bilinear_backward(float *dx, const float *dy, const float *row_weights,
                              int rows, ptrdiff_t W, ptrdiff_t C) {
    const float whole = (float)(2 * W - 1);
    for (ptrdiff_t w = 0; w < W; w++, dx += C) {
        const float weights[4] = {(float)(W - w) / whole, (float)(2 * W - 1 - w) / whole,
                                  (float)(W + w) / whole, (float)(w + 1) / whole};
        int skipped = w == 0, columns = 4 - skipped - (w == W - 1);
        const float *first = dy + (2 * w - 1 + skipped) * C;
        EACH_VECTOR(C, gather_step(dx + c, first + c, 2 * W * C, row_weights, rows,
                                   weights + skipped, columns, C, n));
    }
}

extern const dad_map_ops DAD_AT_LEVEL(dad_map_ops);
const dad_map_ops DAD_AT_LEVEL(dad_map_ops) = {
    .sum_windows = sum_windows,
    .spread = spread,
    .max_windows = max_windows,
    .max_scatter = max_scatter,
    .bilinear = bilinear,
    .bilinear_backward = bilinear_backward,
};
