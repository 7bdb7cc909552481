/* What a step t means for an image: four factors made of alphas_cumprod[t], computed in
 * double and cast where they meet the image; and the blocks by which images are shared out
 * to threads. */
#ifndef DAD_SCALE_H
#define DAD_SCALE_H

#include <math.h>
#include <stddef.h>

typedef struct {
    float signal;        /* sqrt(abar) */
    float noise;         /* sqrt(1 - abar) */
    float inverse;       /* 1 / sqrt(abar) */
    float inverse_noise; /* sqrt(1 / abar - 1) */
} dad_scale;

static inline dad_scale dad_scale_at(double abar) {
    return (dad_scale){(float)sqrt(abar), (float)sqrt(1.0 - abar), (float)sqrt(1.0 / abar),
                       (float)sqrt(1.0 / abar - 1.0)};
}

static inline float dad_noised(dad_scale a, float x0, float eps) {
    return a.signal * x0 + a.noise * eps;
}

static inline float dad_denoised(dad_scale a, float x_t, float eps) {
    return a.inverse * x_t - a.inverse_noise * eps;
}

/* torch.clamp to [-1, 1]: NaN stays NaN. */
static inline float dad_clip(float v) { return v < -1.0f ? -1.0f : v > 1.0f ? 1.0f : v; }

/* Piece number `index` of N images of `size` elements, cut by size alone. */
enum { DAD_BLOCK = 8192, DAD_PARALLEL_FROM = 1 << 15 };

typedef struct {
    ptrdiff_t image, begin, end; /* elements begin .. end - 1 of the whole batch */
} dad_block;

static inline ptrdiff_t dad_block_count(ptrdiff_t N, ptrdiff_t size) {
    return N * ((size + DAD_BLOCK - 1) / DAD_BLOCK);
}

static inline dad_block dad_block_at(ptrdiff_t index, ptrdiff_t size) {
    ptrdiff_t per_image = (size + DAD_BLOCK - 1) / DAD_BLOCK;
    ptrdiff_t image = index / per_image;
    ptrdiff_t first = (index % per_image) * DAD_BLOCK;
    ptrdiff_t last = first + DAD_BLOCK < size ? first + DAD_BLOCK : size;
    return (dad_block){image, image * size + first, image * size + last};
}

#endif
