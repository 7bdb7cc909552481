/* BatchNorm, y = act((x - mean) * rstd * gamma + beta), statistics per channel over the
 * batch.
 *
 * The passes of GroupNorm (norm.h) with the batch as one image and a channel as a group:
 *   dx = rstd * gamma * (g - sum(g) / m - x^ sum(g x^) / m), m = N * P.
 * Scratch: the caller's. Threads: norm.h. */
#include <math.h>

#include "base/memory.h"
#include "kernels/norm.h"

static dad_norm_shape norm_shape(const dad_batch_norm_shape *shape) {
    return (dad_norm_shape){.images = 1,
                            .rows = shape->N * shape->P,
                            .C = shape->C,
                            .activation = shape->activation};
}

ptrdiff_t dad_batch_norm_scratch(const dad_batch_norm_shape *shape) {
    dad_norm_shape norm = norm_shape(shape);
    return dad_norm_scratch(&norm);
}

static void set_channel(const dad_norm_workspace *work, ptrdiff_t c, float mean, float rstd,
                        const float *gamma, const float *beta, ptrdiff_t C) {
    float scale = rstd * gamma[c];
    dad_norm_channel_array(work, 0, DAD_NORM_MEAN, C)[c] = mean;
    dad_norm_channel_array(work, 0, DAD_NORM_SCALE, C)[c] = scale;
    dad_norm_channel_array(work, 0, DAD_NORM_SHIFT, C)[c] =
        (float)(beta[c] - (double)mean * scale);
}

void dad_batch_norm_forward_training(float *y, float *stats, float *running_mean,
                                     float *running_var, const float *x, const float *gamma,
                                     const float *beta, const dad_batch_norm_shape *shape,
                                     float *scratch) {
    dad_norm_shape norm = norm_shape(shape);
    dad_norm_workspace work = dad_norm_cut(scratch, &norm);
    dad_norm_moments(&work, x, &norm);
    const double count = (double)norm.rows, momentum = shape->momentum;
    const double unbiased = count / (count > 1.0 ? count - 1.0 : 1.0);
    for (ptrdiff_t c = 0; c < shape->C; c++) {
        double mean = work.sums[c] / count;
        double variance = dad_norm_variance(mean, work.sums[shape->C + c] / count);
        stats[2 * c] = (float)mean;
        stats[2 * c + 1] = (float)(1.0 / sqrt(variance + shape->eps));
        if (running_mean != NULL) {
            running_mean[c] = (float)((1.0 - momentum) * running_mean[c] + momentum * mean);
        }
        if (running_var != NULL) {
            running_var[c] =
                (float)((1.0 - momentum) * running_var[c] + momentum * unbiased * variance);
        }
    }
    dad_batch_norm_again(y, stats, x, gamma, beta, shape, scratch);
}

static void set_channels(const dad_norm_workspace *work, const float *stats,
                         const float *gamma, const float *beta, ptrdiff_t C) {
    for (ptrdiff_t c = 0; c < C; c++) {
        set_channel(work, c, stats[2 * c], stats[2 * c + 1], gamma, beta, C);
    }
}

void dad_batch_norm_again(float *y, const float *stats, const float *x, const float *gamma,
                          const float *beta, const dad_batch_norm_shape *shape,
                          float *scratch) {
    dad_norm_shape norm = norm_shape(shape);
    dad_norm_workspace work = dad_norm_cut(scratch, &norm);
    set_channels(&work, stats, gamma, beta, shape->C);
    dad_norm_apply(y, x, 0, shape->C, &work, &norm);
}

void dad_batch_norm_forward_evaluation(float *y, const float *x, const float *gamma,
                                       const float *beta, const float *running_mean,
                                       const float *running_var,
                                       const dad_batch_norm_shape *shape, float *scratch) {
    dad_norm_shape norm = norm_shape(shape);
    dad_norm_workspace work = dad_norm_cut(scratch, &norm);
    for (ptrdiff_t c = 0; c < shape->C; c++) {
        float rstd = (float)(1.0 / sqrt((double)running_var[c] + shape->eps));
        set_channel(&work, c, running_mean[c], rstd, gamma, beta, shape->C);
    }
    dad_norm_apply(y, x, 0, shape->C, &work, &norm);
}

void dad_batch_norm_fold(float *scale, float *bias, const float *conv_bias,
                         const float *gamma, const float *beta, const float *running_mean,
                         const float *running_var, ptrdiff_t C, float eps) {
    for (ptrdiff_t c = 0; c < C; c++) {
        const double factor = gamma[c] / sqrt((double)running_var[c] + eps);
        const double centre = (double)running_mean[c] - (conv_bias ? conv_bias[c] : 0.0f);
        scale[c] = (float)factor;
        bias[c] = (float)(beta[c] - centre * factor);
    }
}

void dad_batch_norm_backward(float *dx, float *dgamma, float *dbeta, const float *dy,
                             const float *x, const float *stats, const float *gamma,
                             const float *beta, const dad_batch_norm_shape *shape,
                             float *scratch) {
    dad_norm_shape norm = norm_shape(shape);
    dad_norm_workspace work = dad_norm_cut(scratch, &norm);
    const ptrdiff_t C = shape->C;
    set_channels(&work, stats, gamma, beta, C);
    dad_norm_gradient_sums(&work, dy, x, &norm);
    float *slope = dad_norm_channel_array(&work, 0, DAD_NORM_SLOPE, C);
    float *level = dad_norm_channel_array(&work, 0, DAD_NORM_LEVEL, C);
    for (ptrdiff_t c = 0; c < C; c++) {
        double rstd = stats[2 * c + 1], sum = work.sums[c],
               product = work.sums[C + c] * rstd;
        slope[c] = (float)(-rstd * rstd * gamma[c] * product / (double)norm.rows);
        level[c] = (float)(-rstd * gamma[c] * sum / (double)norm.rows);
        if (dgamma != NULL) {
            dgamma[c] += (float)product;
        }
        if (dbeta != NULL) {
            dbeta[c] += (float)sum;
        }
    }
    if (dx != NULL) {
        dad_norm_input_gradient(dx, dy, x, &work, &norm);
    }
}
