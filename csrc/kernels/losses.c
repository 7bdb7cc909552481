/* Losses: means in double, from the sums of at most PARTS parts whose number and size
 * depend on the count alone, added in order. Threads share the parts. */
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

enum { PARTS = 64, SMALLEST_PART = 4096 };

static ptrdiff_t part_size(ptrdiff_t count) {
    return dad_max(SMALLEST_PART, dad_round_up(dad_ceil_div(count, PARTS), 16));
}

static double total(const double *parts, ptrdiff_t count) {
    double sum = 0.0;
    for (ptrdiff_t i = 0; i < count; i++) {
        sum += parts[i];
    }
    return sum;
}

typedef double loss(float *da, const float *a, const float *b, float scale, ptrdiff_t n);

/* The sum of a loss over `count` elements; da = scale * its derivative unless NULL. */
static double sum_loss(loss *function, float *da, const float *a, const float *b,
                       float scale, ptrdiff_t count) {
    const ptrdiff_t size = part_size(count), used = dad_ceil_div(count, size);
    double parts[PARTS];
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static) if (used > 1)
    for (ptrdiff_t i = 0; i < used; i++) {
        ptrdiff_t first = i * size;
        parts[i] = function(da != NULL ? da + first : NULL, a + first, b + first, scale,
                            dad_min(size, count - first));
    }
    return total(parts, used);
}

static double mean_loss(loss *function, float *dp, const float *p, const float *target,
                        ptrdiff_t count) {
    const double scale = 1.0 / (double)count;
    return sum_loss(function, dp, p, target, (float)scale, count) * scale;
}

void dad_squared_error(double *loss_of, float *da, const float *a, const float *b,
                       const float *weight, ptrdiff_t N, ptrdiff_t size) {
    loss *function = dad_simd()->layer->loss->squared_error;
    for (ptrdiff_t n = 0; n < N; n++) {
        const ptrdiff_t first = n * size;
        const float scale = (float)(weight[n] / (double)size);
        loss_of[n] = sum_loss(function, da != NULL ? da + first : NULL, a + first,
                              b + first, scale, size) /
                     (double)size;
    }
}

double dad_focal_loss(float *dp, const float *p, const float *target, ptrdiff_t count) {
    return mean_loss(dad_simd()->layer->loss->focal, dp, p, target, count);
}

double dad_smooth_l1_loss(float *dp, const float *p, const float *target, ptrdiff_t count) {
    return mean_loss(dad_simd()->layer->loss->smooth_l1, dp, p, target, count);
}

double dad_bce_loss(float *dp, const float *p, const float *target, ptrdiff_t count) {
    return mean_loss(dad_simd()->layer->loss->bce, dp, p, target, count);
}

/* With A = 2 sum(p t) + 1 and B = sum(p) + sum(t) + 1: the derivative by p is A / B^2 - 2 t
 * / B. */
double dad_dice_loss(float *dp, const float *p, const float *target, ptrdiff_t count) {
    const dad_loss_ops *ops = dad_simd()->layer->loss;
    const ptrdiff_t size = part_size(count), used = dad_ceil_div(count, size);
    double products[PARTS], sums[PARTS];
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static) if (used > 1)
    for (ptrdiff_t i = 0; i < used; i++) {
        ptrdiff_t first = i * size, n = dad_min(size, count - first);
        products[i] = ops->product(p + first, target + first, n);
        sums[i] = ops->sum(p + first, target + first, n);
    }
    const double a = 2.0 * total(products, used) + 1.0, b = total(sums, used) + 1.0;
    if (dp != NULL) {
        const float factor = (float)(-2.0 / b), offset = (float)(a / (b * b));
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static) if (used > 1)
        for (ptrdiff_t i = 0; i < used; i++) {
            ptrdiff_t first = i * size;
            ops->line(dp + first, target + first, factor, offset,
                      dad_min(size, count - first));
        }
    }
    return 1.0 - a / b;
}
