/* Softmax down the columns of a panel; scaled and dot products of rows. Sums run in lanes,
 * added in a fixed tree. */
#include "simd/conv_ops.h"
#include "simd/layer_ops.h"
#include "simd/vec.h"

/* Sums of a column are made in SUMS parts. */
enum { SUMS = 4 };

DAD_INLINE vf four(const vf *part) { return (part[0] + part[1]) + (part[2] + part[3]); }

static void exponentials(float *p, float *factors, ptrdiff_t rows) {
    for (int v = 0; v < DAD_PANEL; v += VL, p += VL) {
        vf best = vload(p), total[SUMS] = {{0}};
        for (ptrdiff_t i = 1; i < rows; i++) {
            best = vmax(vload(p + i * DAD_PANEL), best);
        }
        for (ptrdiff_t i = 0; i < rows; i += SUMS) {
#pragma GCC unroll 4
            for (int part = 0; part < SUMS; part++) {
                if (i + part < rows) {
                    const vf e = vexp(vload(p + (i + part) * DAD_PANEL) - best);
                    vstore(p + (i + part) * DAD_PANEL, e);
                    total[part] += e;
                }
            }
        }
        vstore(factors + v, 1.0f / four(total));
    }
}

static void softmax_backward(float *dp, float *p, const float *factors, ptrdiff_t rows) {
    for (int v = 0; v < DAD_PANEL; v += VL, p += VL, dp += VL) {
        const vf factor = vload(factors + v);
        vf total[SUMS] = {{0}};
        for (ptrdiff_t i = 0; i < rows; i += SUMS) {
#pragma GCC unroll 4
            for (int part = 0; part < SUMS; part++) {
                if (i + part < rows) {
                    const ptrdiff_t at = (i + part) * DAD_PANEL;
                    const vf probability = vload(p + at) * factor;
                    vstore(p + at, probability);
                    total[part] += probability * vload(dp + at);
                }
            }
        }
        const vf mean = four(total);
        for (ptrdiff_t i = 0; i < rows; i++) {
            vstore(dp + i * DAD_PANEL,
                   vload(p + i * DAD_PANEL) * (vload(dp + i * DAD_PANEL) - mean));
        }
    }
}

static void scale(float *y, const float *x, float factor, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        vstore(y + i, vload(x + i) * factor);
    }
    if (i < n) {
        vstore_n(y + i, vload_n(x + i, n - i) * factor, n - i);
    }
}

static float dot(const float *a, const float *b, ptrdiff_t n) {
    vf even = {0}, odd = {0};
    ptrdiff_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        even += vload(a + i) * vload(b + i);
        odd += vload(a + i + VL) * vload(b + i + VL);
    }
    for (; i < n; i += VL) {
        ptrdiff_t count = n - i < VL ? n - i : VL;
        even += vload_n(a + i, count) * vload_n(b + i, count);
    }
    return vsum(even + odd);
}

extern const dad_row_ops DAD_AT_LEVEL(dad_row_ops);
const dad_row_ops DAD_AT_LEVEL(dad_row_ops) = {
    .exponentials = exponentials,
    .softmax_backward = softmax_backward,
    .scale = scale,
    .dot = dot,
};
