/* Inner loops over a row: softmax and dot products. Sums run in lanes, added in a fixed
 * tree. */
#include "simd/layer_ops.h"
#include "simd/vec.h"

static float largest(const float *row, ptrdiff_t n) {
    vf best = vset1(row[0]);
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        best = vmax(vload(row + i), best);
    }
    float result = row[0];
    for (int lane = 0; lane < VL; lane++) {
        result = best[lane] > result ? best[lane] : result;
    }
    for (; i < n; i++) {
        result = row[i] > result ? row[i] : result;
    }
    return result;
}

static float exponentials(float *row, ptrdiff_t n) {
    vf offset = vset1(largest(row, n)), total = {0};
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf e = vexp(vload(row + i) - offset);
        vstore(row + i, e);
        total += e;
    }
    if (i < n) {
        vf e = vexp(vload_n(row + i, n - i) - offset);
        vstore_n(row + i, e, n - i);
        total += vload_n(row + i, n - i); /* the lanes past the end are zero */
    }
    return vsum(total);
}

static void softmax_backward(float *dp, float *p, float factor, ptrdiff_t n) {
    vf total = {0};
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf probability = vload(p + i) * factor;
        vstore(p + i, probability);
        total += probability * vload(dp + i);
    }
    if (i < n) {
        vf probability = vload_n(p + i, n - i) * factor;
        vstore_n(p + i, probability, n - i);
        total += probability * vload_n(dp + i, n - i);
    }
    vf mean = vset1(vsum(total));
    for (i = 0; i + VL <= n; i += VL) {
        vstore(dp + i, vload(p + i) * (vload(dp + i) - mean));
    }
    if (i < n) {
        vstore_n(dp + i, vload_n(p + i, n - i) * (vload_n(dp + i, n - i) - mean), n - i);
    }
}

static void scale(float *row, float factor, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        vstore(row + i, vload(row + i) * factor);
    }
    if (i < n) {
        vstore_n(row + i, vload_n(row + i, n - i) * factor, n - i);
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
