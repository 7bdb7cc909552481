/* Inner loops of the losses: values summed in double, gradients as PyTorch's autograd has
 * them. */
#include "simd/layer_ops.h"
#include "simd/vec.h"

/* The loss of a vector of elements; *derivative is by a. */
typedef vf loss(vf *derivative, vf a, vf b);

DAD_INLINE double each(loss *function, float *da, const float *a, const float *b,
                       float scale, ptrdiff_t n) {
    vd total = {0};
    vf derivative;
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        total = vaccumulate(total, function(&derivative, vload(a + i), vload(b + i)));
        if (da != NULL) {
            vstore(da + i, derivative * scale);
        }
    }
    if (i < n) {
        vf values = function(&derivative, vload_n(a + i, n - i), vload_n(b + i, n - i));
        values = vselect(viota() < (int32_t)(n - i), values, vset1(0.0f));
        total = vaccumulate(total, values);
        if (da != NULL) {
            vstore_n(da + i, derivative * scale, n - i);
        }
    }
    return vsum_double(total);
}

DAD_INLINE vf squared(vf *derivative, vf a, vf b) {
    vf d = a - b;
    *derivative = 2.0f * d;
    return d * d;
}

/* -(t log p + (1 - t) log(1 - p)), logarithms not below -100. The derivative stays that of
 * the unclamped one, its denominator not below 1e-12, as in torch.nn.functional. */
DAD_INLINE vf cross_entropy(vf *derivative, vf p, vf t) {
    vf positive = vmax(vset1(-100.0f), vlog(p));
    vf negative = vmax(vset1(-100.0f), vlog1p(-p));
    *derivative = (p - t) / vmax(vset1(1e-12f), (1.0f - p) * p);
    return (t - 1.0f) * negative - t * positive;
}

/* 0.5 (1 - e^-b)^4 b with b the cross-entropy. */
DAD_INLINE vf focal_loss(vf *derivative, vf p, vf t) {
    vf inner, b = cross_entropy(&inner, p, t);
    vf e = vexp(-b), rest = 1.0f - e;
    vf cube = rest * rest * rest;
    *derivative = 0.5f * cube * (rest + 4.0f * b * e) * inner;
    return 0.5f * cube * rest * b;
}

DAD_INLINE vf smooth_absolute(vf *derivative, vf p, vf t) {
    vf d = p - t, size = vselect(d < 0.0f, -d, d);
    *derivative = vmax(vset1(-1.0f), vmin(vset1(1.0f), d));
    return vselect(size < 1.0f, 0.5f * d * d, size - 0.5f);
}

DAD_INLINE vf product_of(vf *derivative, vf p, vf t) {
    *derivative = t;
    return p * t;
}
DAD_INLINE vf sum_of(vf *derivative, vf p, vf t) {
    *derivative = vset1(1.0f);
    return p + t;
}

static double squared_error(float *da, const float *a, const float *b, float scale,
                            ptrdiff_t n) {
    return each(squared, da, a, b, scale, n);
}
static double focal(float *dp, const float *p, const float *t, float scale, ptrdiff_t n) {
    return each(focal_loss, dp, p, t, scale, n);
}
static double smooth_l1(float *dp, const float *p, const float *t, float scale,
                        ptrdiff_t n) {
    return each(smooth_absolute, dp, p, t, scale, n);
}
static double bce(float *dp, const float *p, const float *t, float scale, ptrdiff_t n) {
    return each(cross_entropy, dp, p, t, scale, n);
}
static double product(const float *p, const float *t, ptrdiff_t n) {
    return each(product_of, NULL, p, t, 0.0f, n);
}
static double sum(const float *p, const float *t, ptrdiff_t n) {
    return each(sum_of, NULL, p, t, 0.0f, n);
}

static void line(float *y, const float *x, float factor, float offset, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        vstore(y + i, vload(x + i) * factor + offset);
    }
    if (i < n) {
        vstore_n(y + i, vload_n(x + i, n - i) * factor + offset, n - i);
    }
}

extern const dad_loss_ops DAD_AT_LEVEL(dad_loss_ops);
const dad_loss_ops DAD_AT_LEVEL(dad_loss_ops) = {
    .squared_error = squared_error,
    .focal = focal,
    .smooth_l1 = smooth_l1,
    .bce = bce,
    .product = product,
    .sum = sum,
    .line = line,
};
