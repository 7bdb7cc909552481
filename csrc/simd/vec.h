/* Vectors of floats, as wide as the level this file is compiled for. Only files in simd/
 * include this: each is compiled once per level, with DAD_LEVEL set to its name.
 *
 *   - VL: lanes, 4 (baseline), 8 (AVX2), 16 (AVX-512)
 *   - vf, vi: float and int32 vectors
 *   - vstream: past the caches, where p is aligned and VL floats are a cache line
 *   - vload, vstore: unaligned; vload_n, vstore_n the first n lanes (the rest zero, or
 *     untouched)
 *   - vset1: every lane the same
 *   - vd, vlower, ...: double vectors of half as many lanes, for sums of many floats
 *   - vexp, vsilu, ...: polynomial exponential (max. relative error 2e-7), and what uses it
 *   - vlog, vlog1p: polynomial logarithm (max. relative error 2e-7)
 *   - DAD_AT_LEVEL(name): name_avx2, ..., the symbol of this level
 */
#ifndef DAD_VEC_H
#define DAD_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX2__)
#define VL 8
#else
#define VL 4
#endif

/* Whether this level has products of bfloat16: by a compiler that knows them, and for
 * processors that dispatch.c asks. */
#if VL == 16 && (defined(__clang__) ? __clang_major__ >= 9 : __GNUC__ >= 10)
#define DAD_BFLOAT16 1
#else
#define DAD_BFLOAT16 0
#endif

#define DAD_JOIN_(a, b) a##_##b
#define DAD_JOIN(a, b) DAD_JOIN_(a, b)
#define DAD_AT_LEVEL(name) DAD_JOIN(name, DAD_LEVEL)

#define DAD_INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef double vd __attribute__((vector_size(VL * 4)));
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef float vf_half __attribute__((vector_size(VL * 2)));
typedef uint16_t vu_half __attribute__((vector_size(VL * 2)));
typedef double vd_unaligned __attribute__((vector_size(VL * 4), aligned(8), may_alias));

/* The compiler forgets what it knows about a value. */
#if defined(__GNUC__)
#define DAD_OPAQUE(value) __asm__("" : "+r"(value))
#else
#define DAD_OPAQUE(value) ((void)0)
#endif

DAD_INLINE vf vload(const float *p) { return *(const vf_unaligned *)p; }
DAD_INLINE void vstore(float *p, vf v) { *(vf_unaligned *)p = v; }
#if defined(__AVX512F__)
DAD_INLINE void vstream(float *p, vf v) { _mm512_stream_ps(p, v); }
#else
DAD_INLINE void vstream(float *p, vf v) { vstore(p, v); }
#endif
DAD_INLINE vf vset1(float s) { return s - (vf){0}; }

/* 0, 1, .. VL - 1. */
DAD_INLINE vi viota(void) {
    vi lanes;
    for (int i = 0; i < VL; i++) {
        lanes[i] = i;
    }
    return lanes;
}

/* n in 1 .. VL; where the compiler sees that it is VL these are vload and vstore. */
DAD_INLINE vf vload_n(const float *p, ptrdiff_t n) {
    if (__builtin_constant_p(n) && n == VL) {
        return vload(p);
    }
#if defined(__AVX512F__)
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif defined(__AVX2__)
    return _mm256_maskload_ps(p, (__m256i)(viota() < (int32_t)n));
#else
    float lanes[VL] = {0};
    memcpy(lanes, p, (size_t)n * sizeof(float));
    return vload(lanes);
#endif
}

DAD_INLINE void vstore_n(float *p, vf v, ptrdiff_t n) {
    if (__builtin_constant_p(n) && n == VL) {
        vstore(p, v);
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
#elif defined(__AVX2__)
    _mm256_maskstore_ps(p, (__m256i)(viota() < (int32_t)n), v);
#else
    float lanes[VL];
    vstore(lanes, v);
    memcpy(p, lanes, (size_t)n * sizeof(float));
#endif
}

DAD_INLINE vf vselect(vi mask, vf a, vf b) { /* mask ? a : b, lanes all ones or zero */
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}
/* The larger, the smaller; b where either is NaN. Written as selections, GCC 12 takes five
 * instructions for one. */
#if defined(__AVX512F__)
DAD_INLINE vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
DAD_INLINE vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
#elif defined(__AVX2__)
DAD_INLINE vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
DAD_INLINE vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
#elif defined(__SSE2__)
DAD_INLINE vf vmax(vf a, vf b) { return _mm_max_ps(a, b); }
DAD_INLINE vf vmin(vf a, vf b) { return _mm_min_ps(a, b); }
#else
DAD_INLINE vf vmax(vf a, vf b) { return vselect(a > b, a, b); }
DAD_INLINE vf vmin(vf a, vf b) { return vselect(a < b, a, b); }
#endif

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

/* The lower and the upper half of v, as doubles. GCC 12 splits the conversion of a 512-bit
 * vector in two and joins the results. */
#if defined(__AVX512F__)
DAD_INLINE vd vlower(vf v) { return _mm512_cvtps_pd(_mm512_castps512_ps256(v)); }
DAD_INLINE vd vupper(vf v) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)); }
#else
DAD_INLINE vd vlower(vf v) {
    vf_half half[2];
    memcpy(half, &v, sizeof v);
    return __builtin_convertvector(half[0], vd);
}
DAD_INLINE vd vupper(vf v) {
    vf_half half[2];
    memcpy(half, &v, sizeof v);
    return __builtin_convertvector(half[1], vd);
}
#endif
DAD_INLINE vd vaccumulate(vd total, vf v) { return total + vlower(v) + vupper(v); }
DAD_INLINE double vsum_double(vd v) {
    double lanes[VL / 2];
    memcpy(lanes, &v, sizeof v);
    for (int half = VL / 4; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            lanes[i] += lanes[i + half];
        }
    }
    return lanes[0];
}

DAD_INLINE vf vsqrt(vf x) {
    for (int i = 0; i < VL; i++) {
        x[i] = __builtin_sqrtf(x[i]);
    }
    return x;
}

/* To bfloat16, the upper half of each lane: to the nearest, ties to even. A NaN's upper
 * half stays, and is made quiet: rounded up, it could be zero. */
DAD_INLINE vu vround_bfloat16(vf v) {
    const vu bits = (vu)v, nan = (vu)(v != v);
    return (nan & (bits | 0x400000)) | (~nan & (bits + 0x7FFF + (bits >> 16 & 1)));
}
DAD_INLINE void vstore_bfloat16(void *p, vf v) {
    const vu_half rounded = __builtin_convertvector(vround_bfloat16(v) >> 16, vu_half);
    memcpy(p, &rounded, sizeof rounded);
}
/* Two in each lane, the first below. */
DAD_INLINE vf vpair_bfloat16(vf low, vf high) {
    return (vf)(vround_bfloat16(low) >> 16 | (vround_bfloat16(high) & 0xFFFF0000));
}

/* exp(sign * x) for a sign of 1 or -1, sign * x clamped to [-87, 88]: a power of two times
 * a polynomial on what remains. Adding `magic` rounds to a multiple of its last bit. A NaN
 * stays one: it comes second in vmin and vmax, and goes into the polynomial. */
DAD_INLINE vf vexp_clamp(vf x, const float sign) {
    const float low = sign > 0.0f ? -87.0f : -88.0f;
    return vmax(vset1(low), vmin(vset1(low + 175.0f), x));
}
#if defined(__AVX512F__)
/* Powers n + i/16, and degree 3 on [-ln2/32, ln2/32]: two thirds of the time of whole n.
 * The table has 2^(i/16) less i << 19, which `shifted << 19` adds beside the exponent. */
static const uint32_t vexp_table[VL] = {0x3F800000, 0x3F7DAAC3, 0x3F7B95C2, 0x3F79C3D3,
                                        0x3F7837F0, 0x3F76F532, 0x3F75FED7, 0x3F75583F,
                                        0x3F7504F3, 0x3F7508A4, 0x3F75672A, 0x3F76248C,
                                        0x3F7744FD, 0x3F78CCDF, 0x3F7AC0C7, 0x3F7D257D};

DAD_INLINE vf vexp_signed(vf x, const float sign) {
    x = vexp_clamp(x, sign);
    const float magic = 786432.0f; /* 1.5 * 2^19 */
    vf shifted = x * (sign * 1.44269504088896341f) + magic;
    vf f = shifted - magic;
    vf r = sign * x - f * 0.693359375f + f * 2.12194440e-4f;
    vi entry =
        (vi)_mm512_permutexvar_epi32((__m512i)shifted, _mm512_loadu_si512(vexp_table));
    vf power = (vf)(entry + ((vi)shifted << 19));
    vf p = r * 0.166660741f + 0.500016212f;
    return power + power * (r * (r * p + 1.0f));
}
#else
/* Whole powers, and degree 6 on [-ln2/2, ln2/2] (Cephes). */
DAD_INLINE vf vexp_signed(vf x, const float sign) {
    x = vexp_clamp(x, sign);
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    vf shifted = x * (sign * 1.44269504088896341f) + magic;
    vi n = (vi)shifted - 0x4B400000;
    vf f = shifted - magic;
    vf r = sign * x - f * 0.693359375f + f * 2.12194440e-4f;
    vf p = vset1(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * (vf)((n + 127) << 23);
}
#endif
DAD_INLINE vf vexp(vf x) { return vexp_signed(x, 1.0f); }

/* 1 / x for x in [1, 2^127]: a 512-bit division takes 16 cycles, an estimate (14 bits) with
 * one Newton step about 4. */
DAD_INLINE vf vreciprocal(vf x) {
#if defined(__AVX512F__)
    vf y = _mm512_rcp14_ps(x);
    return y + y * (1.0f - x * y);
#else
    return 1.0f / x;
#endif
}
DAD_INLINE vf vsigmoid(vf x) { return vreciprocal(1.0f + vexp_signed(x, -1.0f)); }
DAD_INLINE vf vsilu(vf x) { return x * vsigmoid(x); }
DAD_INLINE vf vsilu_derivative(vf x) {
    vf s = vsigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}
DAD_INLINE vf vrelu(vf x) { return vmax(vset1(0.0f), x); } /* NaN stays */

/* log(x): exponent * ln2 plus a degree-8 polynomial on [sqrt(1/2), sqrt(2)] (Cephes).
 * Zero gives -infinity, negative numbers and NaN give NaN, infinity itself. */
DAD_INLINE vf vlog(vf x) {
    vi subnormal = x < 1.17549435e-38f;
    vf scaled = vselect(subnormal, x * 8388608.0f, x);
    vi e = ((vi)scaled - 0x3F3504F3) >> 23; /* 0x3F3504F3: sqrt(1/2) */
    vf f = (vf)((vi)scaled - (e << 23)) - 1.0f;
    vf exponent = __builtin_convertvector(e - (subnormal & 23), vf);
    vf p = vset1(7.0376836292e-2f);
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    vf square = f * f;
    p = p * f * square - exponent * 2.12194440e-4f - 0.5f * square;
    vf y = f + p + exponent * 0.693359375f;
    y = vselect(x == 0.0f, vset1(-__builtin_inff()), y);
    y = vselect(x == __builtin_inff(), x, y);
    return vselect(x >= 0.0f, y, vset1(__builtin_nanf("")));
}

/* log(1 + x): the logarithm of the rounded sum u, plus what the rounding lost, over u. */
DAD_INLINE vf vlog1p(vf x) {
    vf u = 1.0f + x;
    vf lost = x - (u - 1.0f);
    return vselect(u > 0.0f, vlog(u) + lost / u, vlog(u));
}

#endif
