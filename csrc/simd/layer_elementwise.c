/* Inner loops over single elements: activations, dropout, the optimizer.
 *
 * One pattern: a function of vectors, run over whole vectors and then once over the tail.
 */
#include "simd/layer_ops.h"
#include "simd/vec.h"

typedef vf unary(vf x);
typedef vf binary(vf a, vf b);

DAD_INLINE void map1(unary *function, float *y, const float *x, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        vstore(y + i, function(vload(x + i)));
    }
    if (i < n) {
        vstore_n(y + i, function(vload_n(x + i, n - i)), n - i);
    }
}

DAD_INLINE void map2(binary *function, float *y, const float *a, const float *b,
                     ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        vstore(y + i, function(vload(a + i), vload(b + i)));
    }
    if (i < n) {
        vstore_n(y + i, function(vload_n(a + i, n - i), vload_n(b + i, n - i)), n - i);
    }
}

DAD_INLINE vf silu_gradient(vf dy, vf x) { return dy * vsilu_derivative(x); }
DAD_INLINE vf relu_gradient(vf dy, vf y) { return vselect(y <= 0.0f, vset1(0.0f), dy); }
DAD_INLINE vf sigmoid_gradient(vf dy, vf y) { return dy * (y * (1.0f - y)); }
DAD_INLINE vf sum(vf a, vf b) { return a + b; }

static void silu(float *y, const float *x, ptrdiff_t n) { map1(vsilu, y, x, n); }
static void silu_backward(float *dx, const float *dy, const float *x, ptrdiff_t n) {
    map2(silu_gradient, dx, dy, x, n);
}
static void relu(float *y, const float *x, ptrdiff_t n) { map1(vrelu, y, x, n); }
static void relu_backward(float *dx, const float *dy, const float *y, ptrdiff_t n) {
    map2(relu_gradient, dx, dy, y, n);
}
static void sigmoid(float *y, const float *x, ptrdiff_t n) { map1(vsigmoid, y, x, n); }
static void sigmoid_backward(float *dx, const float *dy, const float *y, ptrdiff_t n) {
    map2(sigmoid_gradient, dx, dy, y, n);
}
static void add(float *y, const float *a, const float *b, ptrdiff_t n) {
    map2(sum, y, a, b, n);
}

static void mix(float *y, const float *x, float keep, float take, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        vstore(y + i, vload(y + i) * keep + vload(x + i) * take);
    }
    if (i < n) {
        vf mixed = vload_n(y + i, n - i) * keep + vload_n(x + i, n - i) * take;
        vstore_n(y + i, mixed, n - i);
    }
}

/* Two rounds of the murmur3 finaliser, half of the key before each. */
DAD_INLINE vu hash_numbers(vu h, uint64_t key) {
    for (int round = 0; round < 2; round++) {
        h ^= (uint32_t)(key >> (32 * round));
        h = (h ^ (h >> 16)) * UINT32_C(0x85EBCA6B);
        h = (h ^ (h >> 13)) * UINT32_C(0xC2B2AE35);
        h ^= h >> 16;
    }
    return h;
}

static void dropout(float *y, const float *x, float scale, uint32_t threshold, uint64_t key,
                    uint32_t first, ptrdiff_t n) {
    vu numbers = (vu)viota() + first;
    for (ptrdiff_t i = 0; i < n; i += VL, numbers += VL) {
        ptrdiff_t count = n - i < VL ? n - i : VL;
        vi kept = hash_numbers(numbers, key) >= threshold;
        vf scaled = vload_n(x + i, count) * scale;
        vstore_n(y + i, vselect(kept, scaled, vset1(0.0f)), count);
    }
}

DAD_INLINE void adam_step(float *w, float *m, float *v, const float *dw,
                          const dad_adam_factors *f, ptrdiff_t n) {
    vf g = vload_n(dw, n);
    vf first = f->beta1 * vload_n(m, n) + f->rest1 * g;
    vf second = f->beta2 * vload_n(v, n) + f->rest2 * (g * g);
    vf root = vsqrt(second) * f->inverse_root + f->eps;
    vstore_n(m, first, n);
    vstore_n(v, second, n);
    vstore_n(w, vload_n(w, n) * f->decay - f->step_size * (first / root), n);
}

static void adam(float *w, float *m, float *v, const float *dw,
                 const dad_adam_factors *factors, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        adam_step(w + i, m + i, v + i, dw + i, factors, VL);
    }
    if (i < n) {
        adam_step(w + i, m + i, v + i, dw + i, factors, n - i);
    }
}

extern const dad_elementwise_ops DAD_AT_LEVEL(dad_elementwise_ops);
const dad_elementwise_ops DAD_AT_LEVEL(dad_elementwise_ops) = {
    .silu = silu,
    .silu_backward = silu_backward,
    .relu = relu,
    .relu_backward = relu_backward,
    .sigmoid = sigmoid,
    .sigmoid_backward = sigmoid_backward,
    .add = add,
    .mix = mix,
    .dropout = dropout,
    .adam = adam,
};
