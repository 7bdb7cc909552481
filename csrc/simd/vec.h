/* Vectors of floats, as wide as the level this file is compiled for. Only files in simd/ include
 * this: each is compiled once per level, with DAD_LEVEL set to its name.
 *
 *   VL                 lanes: 4 (baseline), 8 (AVX2), 16 (AVX-512)
 *   vf, vi             float and int32 vectors
 *   vload, vstore      unaligned; vload_n, vstore_n the first n lanes (the rest zero / untouched)
 *   vset1              every lane the same
 *   vexp, vsilu, ...   polynomial exponential (max. relative error 2e-7), and what uses it
 *   DAD_AT_LEVEL(name) name_avx2, ...: the symbol of this level
 */
#ifndef DAD_VEC_H
#define DAD_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX2__)
#define VL 8
#else
#define VL 4
#endif

#define DAD_JOIN_(a, b) a##_##b
#define DAD_JOIN(a, b) DAD_JOIN_(a, b)
#define DAD_AT_LEVEL(name) DAD_JOIN(name, DAD_LEVEL)

#define DAD_INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));

DAD_INLINE vf vload(const float *p) { return *(const vf_unaligned *)p; }
DAD_INLINE void vstore(float *p, vf v) { *(vf_unaligned *)p = v; }
DAD_INLINE vf vset1(float s) { return s - (vf){0}; }

DAD_INLINE vf vload_n(const float *p, ptrdiff_t n) {
    float lanes[VL] = {0};
    memcpy(lanes, p, (size_t)n * sizeof(float));
    return vload(lanes);
}

DAD_INLINE void vstore_n(float *p, vf v, ptrdiff_t n) {
    float lanes[VL];
    vstore(lanes, v);
    memcpy(p, lanes, (size_t)n * sizeof(float));
}

DAD_INLINE vf vselect(vi mask, vf a, vf b) { /* mask ? a : b, lanes all ones or zero */
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}
DAD_INLINE vf vmax(vf a, vf b) { return vselect(a > b, a, b); }
DAD_INLINE vf vmin(vf a, vf b) { return vselect(a < b, a, b); }

/* Lanes added in a fixed tree, so that a level's result is always the same. */
DAD_INLINE float vsum(vf v) {
    float lanes[VL];
    vstore(lanes, v);
    for (int half = VL / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            lanes[i] += lanes[i + half];
        }
    }
    return lanes[0];
}

/* exp(x), x clamped to [-87, 88]: 2^n times a degree-6 polynomial on [-ln2/2, ln2/2] (Cephes). */
DAD_INLINE vf vexp(vf x) {
    x = vmax(vmin(x, vset1(88.0f)), vset1(-87.0f));
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    vf shifted = x * 1.44269504088896341f + magic;
    vi n = (vi)shifted - 0x4B400000;
    vf f = shifted - magic;
    vf r = x - f * 0.693359375f + f * 2.12194440e-4f;
    vf p = vset1(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return (vf)((vi)p + (n << 23));
}
DAD_INLINE vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }
DAD_INLINE vf vsilu(vf x) { return x / (1.0f + vexp(-x)); }

#endif
