/* GroupNorm, y = act((x - mean) * rstd * gamma + beta), statistics per image and group.
 *
 * Forward: one pass sums x and x^2 in double, one writes y = act(x * scale + shift) with
 * scale and shift per image and channel. Backward recomputes z = x * scale + shift from x;
 * with g = dy * act'(z), m elements in a group, x^ = (x - mean) * rstd and sums over the
 * group:
 *
 *   - dgamma = sum g x^
 *   - dbeta = sum g
 *   - dx = rstd * (gamma g - sum(gamma g) / m - x^ sum(gamma g x^) / m)
 *
 * Scratch: the caller's. Threads: norm.h. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
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
        double mean = sum / count, variance = dad_norm_variance(mean, square / count);
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
    dad_group_norm_again(y, stats, x, gamma, beta, shape, scratch);
}

void dad_group_norm_again(float *y, const float *stats, const float *x, const float *gamma,
                          const float *beta, const dad_group_norm_shape *shape,
                          float *scratch) {
    dad_norm_shape norm = norm_shape(shape);
    dad_norm_workspace work = dad_norm_cut(scratch, &norm);
    set_channels(&work, stats, gamma, beta, shape);
    dad_norm_apply(y, x, 0, shape->C, &work, &norm);
}

/* ---- evaluation ------------------------------------------------------------------ */

enum { LANES = 16 }; /* channels whose slices one task adds up */

/* sum and square [width] of one image, from its slices [slices, DAD_MOMENTS, C]. */
static void add_moments(double *sum, double *square, const float *moments, ptrdiff_t slices,
                        ptrdiff_t C, ptrdiff_t width) {
    double sums[LANES] = {0}, squares[LANES] = {0};
    for (ptrdiff_t i = 0; i < slices; i++, moments += DAD_MOMENTS * C) {
        for (ptrdiff_t c = 0; c < width; c++) {
            const double count = moments[c], shift = moments[C + c];
            const double part = moments[2 * C + c];
            sums[c] += count * shift + part;
            squares[c] += moments[3 * C + c] + shift * (2.0 * part + count * shift);
        }
    }
    memcpy(sum, sums, (size_t)width * sizeof(double));
    memcpy(square, squares, (size_t)width * sizeof(double));
}

/* The sums over images of a part, into its channels, first .. of work->sums. */
static void part_sums(const dad_norm_workspace *work, const dad_group_norm_part *part,
                      ptrdiff_t first, const dad_norm_shape *whole, float *scratch) {
    const ptrdiff_t C = whole->C, blocks = dad_ceil_div(part->C, LANES);
    dad_norm_shape shape = *whole;
    shape.C = part->C;
    const dad_norm_workspace own = dad_norm_cut(scratch, &shape);
    if (part->moments == NULL) {
        dad_norm_moments(&own, part->x, &shape);
    }
#pragma omp parallel for collapse(2) num_threads(dad_num_threads())
    for (ptrdiff_t n = 0; n < whole->images; n++) {
        for (ptrdiff_t b = 0; b < blocks; b++) {
            const ptrdiff_t c = b * LANES, width = dad_min(LANES, part->C - c);
            double *sum = work->sums + n * 2 * C + first + c, *square = sum + C;
            if (part->moments != NULL) {
                const ptrdiff_t image = part->slices * DAD_MOMENTS * part->C;
                add_moments(sum, square, part->moments + n * image + c, part->slices,
                            part->C, width);
            } else {
                const double *sums = own.sums + n * 2 * part->C + c;
                memcpy(sum, sums, (size_t)width * sizeof(double));
                memcpy(square, sums + part->C, (size_t)width * sizeof(double));
            }
        }
    }
}

/* [statistics][workspace of the whole][workspace of a part] */
ptrdiff_t dad_group_norm_evaluate_scratch(const dad_group_norm_shape *shape) {
    return dad_round_up(shape->N * 2 * shape->G, 2) + 2 * dad_group_norm_scratch(shape);
}

/* The channels of the whole, in the workspace that is returned. */
static dad_norm_workspace evaluate_channels(const dad_group_norm_part *parts, int count,
                                            const float *gamma, const float *beta,
                                            const dad_group_norm_shape *shape,
                                            float *scratch) {
    const dad_norm_shape norm = norm_shape(shape);
    float *rest = scratch + dad_round_up(shape->N * 2 * shape->G, 2);
    const dad_norm_workspace work = dad_norm_cut(rest, &norm);
    ptrdiff_t first = 0;
    for (int i = 0; i < count; i++) {
        part_sums(&work, &parts[i], first, &norm, rest + dad_group_norm_scratch(shape));
        first += parts[i].C;
    }
    set_statistics(scratch, &work, shape);
    set_channels(&work, scratch, gamma, beta, shape);
    return work;
}

void dad_group_norm_coefficients(float *coefficients, const dad_group_norm_part *parts,
                                 int count, const float *gamma, const float *beta,
                                 const dad_group_norm_shape *shape, float *scratch) {
    const dad_norm_workspace work =
        evaluate_channels(parts, count, gamma, beta, shape, scratch);
    const ptrdiff_t C = shape->C;
    const size_t size = (size_t)C * sizeof(float);
    for (ptrdiff_t n = 0; n < shape->N; n++, coefficients += 2 * C) {
        memcpy(coefficients, dad_norm_channel_array(&work, n, DAD_NORM_SCALE, C), size);
        memcpy(coefficients + C, dad_norm_channel_array(&work, n, DAD_NORM_SHIFT, C), size);
    }
}

void dad_group_norm_evaluate(float *y, const dad_group_norm_part *parts, int count,
                             const float *gamma, const float *beta,
                             const dad_group_norm_shape *shape, float *scratch) {
    const dad_norm_shape norm = norm_shape(shape);
    const dad_norm_workspace work =
        evaluate_channels(parts, count, gamma, beta, shape, scratch);
    ptrdiff_t first = 0;
    for (int i = 0; i < count; i++) {
        dad_norm_apply(y, parts[i].x, first, parts[i].C, &work, &norm);
        first += parts[i].C;
    }
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
