/* Noise in and noise out, element by element, each image at its own step.
 *
 *   q_sample         x_t = sqrt(abar) x0 + sqrt(1 - abar) eps
 *   predict_x0       x0  = x_t / sqrt(abar) - sqrt(1 / abar - 1) eps        (paper, eq. 6)
 *   precondition     eps = a (x_t - centre) + b output, a and b by t
 *   ancestral_step   x_{t-1} = posterior mean of x_t and clip(x0), + sqrt(variance) noise
 *
 * Any layout. The caller owns every buffer; threads share out blocks of an image. */
#include <math.h>

#include "base/threads.h"
#include "pipeline/pipeline.h"
#include "pipeline/scale.h"

void dad_q_sample(float *x_t, const float *x0, const float *noise, const double *abar,
                  ptrdiff_t N, ptrdiff_t size) {
    ptrdiff_t blocks = dad_block_count(N, size);
#pragma omp parallel for num_threads(dad_num_threads()) if (N * size >= DAD_PARALLEL_FROM)
    for (ptrdiff_t i = 0; i < blocks; i++) {
        dad_block block = dad_block_at(i, size);
        dad_scale scale = dad_scale_at(abar[block.image]);
        for (ptrdiff_t j = block.begin; j < block.end; j++) {
            x_t[j] = dad_noised(scale, x0[j], noise[j]);
        }
    }
}

void dad_predict_x0(float *x0, const float *x_t, const float *eps, const double *abar,
                    bool clip, ptrdiff_t N, ptrdiff_t size) {
    ptrdiff_t blocks = dad_block_count(N, size);
#pragma omp parallel for num_threads(dad_num_threads()) if (N * size >= DAD_PARALLEL_FROM)
    for (ptrdiff_t i = 0; i < blocks; i++) {
        dad_block block = dad_block_at(i, size);
        dad_scale scale = dad_scale_at(abar[block.image]);
        for (ptrdiff_t j = block.begin; j < block.end; j++) {
            float v = dad_denoised(scale, x_t[j], eps[j]);
            x0[j] = clip ? dad_clip(v) : v;
        }
    }
}

/* eps = of_x_t * (x_t - centre) + of_output * output. */
typedef struct {
    float of_x_t, centre, of_output;
} preconditioner;

static preconditioner preconditioner_at(double abar) {
    const double variance = 0.25 * 0.25; /* of images in [0, 1], about 1/2 */
    double share = variance / ((1.0 - abar) / abar + variance);
    /* (1 - share) / sqrt(1 - abar), which is 0 / 0 without noise */
    double of_x_t = sqrt(1.0 - abar) / (1.0 - abar + abar * variance);
    return (preconditioner){(float)of_x_t, (float)(0.5 * sqrt(abar)), (float)-sqrt(share)};
}

void dad_precondition(float *eps, const float *x_t, const float *output, const double *abar,
                      ptrdiff_t N, ptrdiff_t size) {
    ptrdiff_t blocks = dad_block_count(N, size);
#pragma omp parallel for num_threads(dad_num_threads()) if (N * size >= DAD_PARALLEL_FROM)
    for (ptrdiff_t i = 0; i < blocks; i++) {
        dad_block block = dad_block_at(i, size);
        preconditioner p = preconditioner_at(abar[block.image]);
        for (ptrdiff_t j = block.begin; j < block.end; j++) {
            eps[j] = p.of_x_t * (x_t[j] - p.centre) + p.of_output * output[j];
        }
    }
}

void dad_precondition_backward(float *doutput, float *dx_t, const float *deps,
                               const double *abar, ptrdiff_t N, ptrdiff_t size) {
    ptrdiff_t blocks = dad_block_count(N, size);
#pragma omp parallel for num_threads(dad_num_threads()) if (N * size >= DAD_PARALLEL_FROM)
    for (ptrdiff_t i = 0; i < blocks; i++) {
        dad_block block = dad_block_at(i, size);
        preconditioner p = preconditioner_at(abar[block.image]);
        for (ptrdiff_t j = block.begin; j < block.end; j++) {
            doutput[j] = p.of_output * deps[j];
            if (dx_t != NULL) {
                dx_t[j] = p.of_x_t * deps[j];
            }
        }
    }
}

void dad_ancestral_step(float *x_next, const float *x_t, const float *eps,
                        const float *noise, const dad_ancestral *steps, ptrdiff_t N,
                        ptrdiff_t size) {
    ptrdiff_t blocks = dad_block_count(N, size);
#pragma omp parallel for num_threads(dad_num_threads()) if (N * size >= DAD_PARALLEL_FROM)
    for (ptrdiff_t i = 0; i < blocks; i++) {
        dad_block block = dad_block_at(i, size);
        dad_ancestral at = steps[block.image];
        dad_scale scale = dad_scale_at(at.abar);
        float of_x0 = (float)(at.beta * sqrt(at.abar_prev) / (1.0 - at.abar));
        double rest = 1.0 - at.abar_prev;
        float of_x_t = (float)(rest * sqrt(1.0 - at.beta) / (1.0 - at.abar));
        float deviation = (float)sqrt(at.variance);
        for (ptrdiff_t j = block.begin; j < block.end; j++) {
            float x0 = dad_clip(dad_denoised(scale, x_t[j], eps[j]));
            float mean = of_x0 * x0 + of_x_t * x_t[j];
            x_next[j] = noise != NULL ? mean + deviation * noise[j] : mean;
        }
    }
}
