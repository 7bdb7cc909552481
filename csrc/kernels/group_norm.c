/* GroupNorm, y = act((x - mean) * rstd * gamma + beta), statistics per image and group.
 *
 * Forward: one pass sums x and x^2 in double, one writes y = act(x * scale + shift) with
 * scale and shift per image and channel. Backward recomputes z = x * scale + shift from x;
 * with g = dy * act'(z), m elements in a group and x^ = (x - mean) * rstd: dgamma = sum g
 * x^,  dbeta = sum g dx = rstd * (gamma g - sum(gamma g) / m - x^ sum(gamma g x^) / m),
 * sums over the group. Scratch: the caller's. Threads: norm.h. */
#include <math.h>

#include "base/memory.h"
#include "kernels/norm.h"

static dad_norm_shape norm_shape(const dad_group_norm_shape *shape) {
    return (dad_norm_shape){.images = shape->N,
                            .rows = shape->P,
                            .C = shape->C,
                            .activation = shape->activation};
}

ptrdiff_t dad_group_norm_scratch(const dad_group_norm_shape *shape) {
    dad_norm_shape norm = norm_shape(shape);
    return dad_norm_scratch(&norm);
}

/* scale = rstd * gamma, shift = beta - mean * scale, and the mean, per image and channel.
 */
static void set_channels(const dad_norm_workspace *work, const float *stats,
                         const float *gamma, const float *beta,
                         const dad_group_norm_shape *shape) {
    const ptrdiff_t C = shape->C, width = C / shape->G;
    for (ptrdiff_t n = 0; n < shape->N; n++) {
        float *scale = dad_norm_channel_array(work, n, DAD_NORM_SCALE, C);
        float *shift = dad_norm_channel_array(work, n, DAD_NORM_SHIFT, C);
        float *mean = dad_norm_channel_array(work, n, DAD_NORM_MEAN, C);
        for (ptrdiff_t c = 0; c < C; c++) {
            const float *group = stats + (n * shape->G + c / width) * 2;
            mean[c] = group[0];
            scale[c] = group[1] * gamma[c];
            shift[c] = (float)(beta[c] - (double)group[0] * scale[c]);
        }
    }
}

static void set_statistics(float *stats, const dad_norm_workspace *work,
                           const dad_group_norm_shape *shape) {
    const ptrdiff_t C = shape->C, width = C / shape->G;
    const double count = (double)(width * shape->P);
    for (ptrdiff_t i = 0; i < shape->N * shape->G; i++) {
        ptrdiff_t n = i / shape->G, first = i % shape->G * width;
        const double *sums = work->sums + n * 2 * C + first;
        double sum = 0.0, square = 0.0;
        for (ptrdiff_t c = 0; c < width; c++) {
            sum += sums[c];
            square += sums[C + c];
        }
        double mean = sum / count, variance = fmax(square / count - mean * mean, 0.0);
        stats[2 * i] = (float)mean;
        stats[2 * i + 1] = (float)(1.0 / sqrt(variance + shape->eps));
    }
}

void dad_group_norm_forward(float *y, float *stats, const float *x, const float *gamma,
                            const float *beta, const dad_group_norm_shape *shape,
                            float *scratch) {
    dad_norm_shape norm = norm_shape(shape);
    dad_norm_workspace work = dad_norm_cut(scratch, &norm);
    dad_norm_moments(&work, x, &norm);
    set_statistics(stats, &work, shape);
    set_channels(&work, stats, gamma, beta, shape);
    dad_norm_apply(y, x, &work, &norm);
}

static void add_parameter_gradients(float *dgamma, float *dbeta, const float *stats,
                                    const dad_norm_workspace *work,
                                    const dad_group_norm_shape *shape) {
    const ptrdiff_t C = shape->C, width = C / shape->G;
    for (ptrdiff_t c = 0; c < C; c++) {
        double gamma_sum = 0.0, beta_sum = 0.0;
        for (ptrdiff_t n = 0; n < shape->N; n++) {
            const double *sums = work->sums + n * 2 * C + c;
            float rstd = stats[(n * shape->G + c / width) * 2 + 1];
            beta_sum += sums[0];
            gamma_sum += sums[C] * rstd;
        }
        if (dgamma != NULL) {
            dgamma[c] += (float)gamma_sum;
        }
        if (dbeta != NULL) {
            dbeta[c] += (float)beta_sum;
        }
    }
}

/* slope and level of dx = scale * g + slope * (x - mean) + level. */
static void set_gradient_channels(const dad_norm_workspace *work, const float *stats,
                                  const float *gamma, const dad_group_norm_shape *shape) {
    const ptrdiff_t C = shape->C, width = C / shape->G;
    const double count = (double)(width * shape->P);
    for (ptrdiff_t i = 0; i < shape->N * shape->G; i++) {
        ptrdiff_t n = i / shape->G, first = i % shape->G * width;
        const double *sums = work->sums + n * 2 * C;
        const double rstd = stats[2 * i + 1];
        double sum = 0.0, product = 0.0;
        for (ptrdiff_t c = first; c < first + width; c++) {
            sum += gamma[c] * sums[c];
            product += gamma[c] * sums[C + c] * rstd;
        }
        float *slope = dad_norm_channel_array(work, n, DAD_NORM_SLOPE, C);
        float *level = dad_norm_channel_array(work, n, DAD_NORM_LEVEL, C);
        for (ptrdiff_t c = first; c < first + width; c++) {
            slope[c] = (float)(-rstd * rstd * product / count);
            level[c] = (float)(-rstd * sum / count);
        }
    }
}

void dad_group_norm_backward(float *dx, float *dgamma, float *dbeta, const float *dy,
                             const float *x, const float *stats, const float *gamma,
                             const float *beta, const dad_group_norm_shape *shape,
                             float *scratch) {
    dad_norm_shape norm = norm_shape(shape);
    dad_norm_workspace work = dad_norm_cut(scratch, &norm);
    set_channels(&work, stats, gamma, beta, shape);
    dad_norm_gradient_sums(&work, dy, x, &norm);
    add_parameter_gradients(dgamma, dbeta, stats, &work, shape);
    if (dx != NULL) {
        set_gradient_channels(&work, stats, gamma, shape);
        dad_norm_input_gradient(dx, dy, x, &work, &norm);
    }
}
