/* Inner loops of the normalisations: rows of C channels, channels side by side.
 *
 * Memory-bound: each reads its rows once, in order; sums per channel stay in the
 * first-level cache meanwhile. The activation is inlined, hence one function per
 * activation. */
#include "simd/layer_ops.h"
#include "simd/vec.h"

DAD_INLINE vf same(vf z) { return z; }
DAD_INLINE vf one(vf z) {
    (void)z;
    return vset1(1.0f);
}
DAD_INLINE vf relu_derivative(vf z) { return vselect(z <= 0.0f, vset1(0.0f), vset1(1.0f)); }

enum { ROWS = 4 }; /* rows summed before the running sums are read and written */

/* sum[0 .. n - 1] += the lanes of the two halves of a vector. */
DAD_INLINE void add_halves(double *sum, const vd halves[2], ptrdiff_t n) {
    if (__builtin_constant_p(n) && n == VL) {
        vd_unaligned *sums = (vd_unaligned *)sum;
        sums[0] += halves[0];
        sums[1] += halves[1];
        return;
    }
    double lanes[VL];
    memcpy(lanes, halves, sizeof lanes);
    for (ptrdiff_t i = 0; i < n; i++) {
        sum[i] += lanes[i];
    }
}

DAD_INLINE void add_lanes(double *sum, vf v, ptrdiff_t n) {
    const vd halves[2] = {vlower(v), vupper(v)};
    add_halves(sum, halves, n);
}

DAD_INLINE void moments_step(double *sum, double *square, const float *x, ptrdiff_t rows,
                             ptrdiff_t C, ptrdiff_t n) {
    vd sums[2] = {{0}}, squares[2] = {{0}};
    for (ptrdiff_t r = 0; r < rows; r++) {
        vf v = vload_n(x + r * C, n);
        vd lower = vlower(v), upper = vupper(v);
        sums[0] += lower;
        sums[1] += upper;
        squares[0] += lower * lower;
        squares[1] += upper * upper;
    }
    add_halves(sum, sums, n);
    add_halves(square, squares, n);
}

static void moments(double *sum, double *square, const float *x, ptrdiff_t rows,
                    ptrdiff_t C) {
    memset(sum, 0, (size_t)C * sizeof(double));
    memset(square, 0, (size_t)C * sizeof(double));
    for (ptrdiff_t r = 0; r < rows; r += ROWS, x += ROWS * C) {
        ptrdiff_t count = rows - r < ROWS ? rows - r : ROWS, c = 0;
        for (; c + VL <= C; c += VL) {
            moments_step(sum + c, square + c, x + c, count, C, VL);
        }
        if (c < C) {
            moments_step(sum + c, square + c, x + c, count, C, C - c);
        }
    }
}

typedef vf function(vf z);

DAD_INLINE void apply_step(function *activation, float *y, const float *x,
                           const dad_norm_channels *channels, ptrdiff_t c, ptrdiff_t n) {
    vf z = vload_n(x + c, n) * vload_n(channels->scale + c, n) +
           vload_n(channels->shift + c, n);
    vstore_n(y + c, activation(z), n);
}

DAD_INLINE void apply(function *activation, float *y, ptrdiff_t ldy, const float *x,
                      ptrdiff_t ldx, const dad_norm_channels *channels, ptrdiff_t rows,
                      ptrdiff_t C) {
    for (ptrdiff_t r = 0; r < rows; r++, x += ldx, y += ldy) {
        ptrdiff_t c = 0;
        for (; c + VL <= C; c += VL) {
            apply_step(activation, y, x, channels, c, VL);
        }
        if (c < C) {
            apply_step(activation, y, x, channels, c, C - c);
        }
    }
}

/* g = dy * act'(z) at channels c .. c + n - 1. */
DAD_INLINE vf gradient(function *derivative, const float *dy, const float *x,
                       const dad_norm_channels *channels, ptrdiff_t c, ptrdiff_t n) {
    vf z = vload_n(x + c, n) * vload_n(channels->scale + c, n) +
           vload_n(channels->shift + c, n);
    return vload_n(dy + c, n) * derivative(z);
}

/* At most ROWS rows are added in float before they go into the sums in double. */
DAD_INLINE void sums_step(function *derivative, double *sum, double *product,
                          const float *dy, const float *x,
                          const dad_norm_channels *channels, ptrdiff_t rows, ptrdiff_t C,
                          ptrdiff_t c, ptrdiff_t n) {
    vf mean = vload_n(channels->mean + c, n), sums = {0}, products = {0};
    for (ptrdiff_t r = 0; r < rows; r++) {
        vf g = gradient(derivative, dy + r * C, x + r * C, channels, c, n);
        sums += g;
        products += g * (vload_n(x + r * C + c, n) - mean);
    }
    add_lanes(sum + c, sums, n);
    add_lanes(product + c, products, n);
}

DAD_INLINE void gradient_sums(function *derivative, double *sum, double *product,
                              const float *dy, const float *x,
                              const dad_norm_channels *channels, ptrdiff_t rows,
                              ptrdiff_t C) {
    memset(sum, 0, (size_t)C * sizeof(double));
    memset(product, 0, (size_t)C * sizeof(double));
    for (ptrdiff_t r = 0; r < rows; r += ROWS, x += ROWS * C, dy += ROWS * C) {
        ptrdiff_t count = rows - r < ROWS ? rows - r : ROWS, c = 0;
        for (; c + VL <= C; c += VL) {
            sums_step(derivative, sum, product, dy, x, channels, count, C, c, VL);
        }
        if (c < C) {
            sums_step(derivative, sum, product, dy, x, channels, count, C, c, C - c);
        }
    }
}

DAD_INLINE void input_step(function *derivative, float *dx, const float *dy, const float *x,
                           const dad_norm_channels *channels, ptrdiff_t c, ptrdiff_t n) {
    vf g = gradient(derivative, dy, x, channels, c, n);
    vf centred = vload_n(x + c, n) - vload_n(channels->mean + c, n);
    vf rest = centred * vload_n(channels->slope + c, n) + vload_n(channels->level + c, n);
    vstore_n(dx + c, g * vload_n(channels->scale + c, n) + rest, n);
}

DAD_INLINE void input_gradient(function *derivative, float *dx, const float *dy,
                               const float *x, const dad_norm_channels *channels,
                               ptrdiff_t rows, ptrdiff_t C) {
    for (ptrdiff_t r = 0; r < rows; r++, x += C, dy += C, dx += C) {
        ptrdiff_t c = 0;
        for (; c + VL <= C; c += VL) {
            input_step(derivative, dx, dy, x, channels, c, VL);
        }
        if (c < C) {
            input_step(derivative, dx, dy, x, channels, c, C - c);
        }
    }
}

/* The three functions of an activation. */
#define ACTIVATION(name, function, derivative)                                           \
    static void apply_##name(float *y, ptrdiff_t ldy, const float *x, ptrdiff_t ldx,     \
                             const dad_norm_channels *channels, ptrdiff_t rows,          \
                             ptrdiff_t C) {                                              \
        apply(function, y, ldy, x, ldx, channels, rows, C);                              \
    }                                                                                    \
    static void gradient_sums_##name(double *sum, double *product, const float *dy,      \
                                     const float *x, const dad_norm_channels *channels,  \
                                     ptrdiff_t rows, ptrdiff_t C) {                      \
        gradient_sums(derivative, sum, product, dy, x, channels, rows, C);               \
    }                                                                                    \
    static void input_gradient_##name(float *dx, const float *dy, const float *x,        \
                                      const dad_norm_channels *channels, ptrdiff_t rows, \
                                      ptrdiff_t C) {                                     \
        input_gradient(derivative, dx, dy, x, channels, rows, C);                        \
    }

ACTIVATION(none, same, one)
ACTIVATION(silu, vsilu, vsilu_derivative)
ACTIVATION(relu, vrelu, relu_derivative)

extern const dad_norm_ops DAD_AT_LEVEL(dad_norm_ops);
const dad_norm_ops DAD_AT_LEVEL(dad_norm_ops) = {
    .moments = moments,
    .apply = {apply_none, apply_silu, apply_relu},
    .gradient_sums = {gradient_sums_none, gradient_sums_silu, gradient_sums_relu},
    .input_gradient = {input_gradient_none, input_gradient_silu, input_gradient_relu},
};
