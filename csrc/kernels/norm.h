/* What GroupNorm and BatchNorm share: passes over images of rows of C channels.
 *
 * Rows are cut into blocks whose number depends on the shape only; a block's sums are kept
 * apart and added in order, so results do not depend on threads, nor an image's on its
 * batch. For BatchNorm the whole batch is one image. */
#ifndef DAD_NORM_H
#define DAD_NORM_H

#include <stddef.h>

#include "kernels/kernels.h"
#include "simd/simd.h"

typedef struct {
    ptrdiff_t images, rows, C;
    dad_activation activation;
} dad_norm_shape;

/* The scratch of both directions, cut up. */
typedef struct {
    double *sums;    /* [images, 2, C] */
    double *blocks;  /* [images, blocks, 2, C] */
    float *channels; /* [images, 5, C]: scale, shift, mean, slope, level */
} dad_norm_workspace;

/* Not below zero for rounding; NaN, which infinite values make, stays. */
static inline double dad_norm_variance(double mean, double mean_square) {
    double variance = mean_square - mean * mean;
    return variance < 0.0 ? 0.0 : variance;
}

ptrdiff_t dad_norm_scratch(const dad_norm_shape *shape);
dad_norm_workspace dad_norm_cut(float *scratch, const dad_norm_shape *shape);

/* The arrays of one image, and how to write them. */
enum { DAD_NORM_SCALE, DAD_NORM_SHIFT, DAD_NORM_MEAN, DAD_NORM_SLOPE, DAD_NORM_LEVEL };
static inline float *dad_norm_channel_array(const dad_norm_workspace *work, ptrdiff_t image,
                                            int which, ptrdiff_t C) {
    return work->channels + (image * 5 + which) * C;
}

/* work->sums = of x and x^2 per image and channel. */
void dad_norm_moments(const dad_norm_workspace *work, const float *x,
                      const dad_norm_shape *shape);
/* y = act(x * scale + shift); x [images, rows, width] holds the channels first .. + width.
 */
void dad_norm_apply(float *y, const float *x, ptrdiff_t first, ptrdiff_t width,
                    const dad_norm_workspace *work, const dad_norm_shape *shape);
/* work->sums = of g and g * (x - mean), g = dy * act'(x * scale + shift). */
void dad_norm_gradient_sums(const dad_norm_workspace *work, const float *dy, const float *x,
                            const dad_norm_shape *shape);
/* dx = scale * g + slope * (x - mean) + level. */
void dad_norm_input_gradient(float *dx, const float *dy, const float *x,
                             const dad_norm_workspace *work, const dad_norm_shape *shape);

#endif
