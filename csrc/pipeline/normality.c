/* What tells a defect, relative to what good images show.
 *
 * Two numbers per pixel: the log odds of the map, and how far the repair is from the
 * image, the mean of |x - x0_hat| over the channels. A map by itself fires wherever good
 * parts vary; measured by the mean and deviation over good images it fires where this one
 * differs. Floors keep what never varies from being magnified:
 *   z   = (d0 - mean0) / (deviation0 + FLOOR_ODDS) + w (d1 - mean1) / (deviation1 + FLOOR)
 *   map = (1 + u / sqrt(1 + u^2)) / 2,  u = (z - CENTRE) / CENTRE
 * which keeps the order of z and, unlike a sigmoid, does not saturate in float32.
 *
 * Where parts keep their place each pixel has a mean and a deviation of its own, and w
 * is 1. Elsewhere all pixels have one of each. A single pixel's error is then hardly news,
 * so d1 is its mean over the (2 radius + 1)^2 pixels around, in multiples of the image's
 * mean, and w is 1/2. The caller owns every buffer; threads share out images. */
#include <math.h>

#include "base/threads.h"
#include "pipeline/pipeline.h"

static const float EDGE = 1e-4f; /* log odds reach from -9.2 to 9.2 */
static const float FLOOR_ODDS = 0.5f, FLOOR_REPAIR = 0.01f;
static const float POOLED_WEIGHT = 0.5f; /* of the error, without each pixel's own */
static const float CENTRE = 4.0f;        /* deviations that make 1/2 */

/* Means over the 2 radius + 1 values around each; what lies beyond the ends is left out. */
static void smooth_line(float *out, const float *in, ptrdiff_t count, ptrdiff_t stride,
                        ptrdiff_t radius) {
    double sum = 0.0;
    ptrdiff_t first = 0, end = 0; /* of those in the sum */
    for (ptrdiff_t i = 0; i < count; i++) {
        while (end < count && end <= i + radius) {
            sum += in[end++ * stride];
        }
        while (first < i - radius) {
            sum -= in[first++ * stride];
        }
        out[i * stride] = (float)(sum / (double)(end - first));
    }
}

/* Errors of an image, smoothed, in multiples of their mean. */
static void relate_errors(float *error, float *scratch, ptrdiff_t H, ptrdiff_t W,
                          ptrdiff_t radius) {
    double sum = 0.0;
    for (ptrdiff_t y = 0; y < H; y++) {
        for (ptrdiff_t x = 0; x < W; x++) {
            sum += error[y * W + x];
        }
        smooth_line(scratch + y * W, error + y * W, W, 1, radius);
    }
    double scale = sum > 0.0 ? (double)(H * W) / sum : 0.0;
    for (ptrdiff_t x = 0; x < W; x++) {
        smooth_line(error + x, scratch + x, H, W, radius);
    }
    for (ptrdiff_t i = 0; i < H * W; i++) {
        error[i] = (float)(error[i] * scale);
    }
}

void dad_departures(float *departures, const float *maps, const float *images,
                    const float *repairs, ptrdiff_t N, ptrdiff_t C, ptrdiff_t H,
                    ptrdiff_t W, ptrdiff_t radius) {
    ptrdiff_t P = H * W;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t n = 0; n < N; n++) {
        const float *map = maps + n * P;
        const float *x = images + n * C * P, *repair = repairs + n * C * P;
        float *odds = departures + 2 * n * P, *error = odds + P;
        for (ptrdiff_t i = 0; i < P; i++) {
            float sum = 0.0f;
            for (ptrdiff_t c = 0; c < C; c++) {
                sum += fabsf(x[c * P + i] - repair[c * P + i]);
            }
            error[i] = sum / (float)C;
        }
        if (radius > 0) {
            relate_errors(error, odds, H, W, radius); /* there are no odds yet */
        }
        for (ptrdiff_t i = 0; i < P; i++) {
            odds[i] = logf((map[i] + EDGE) / (1.0f - map[i] + EDGE));
        }
    }
}

static inline float bent(float z) {
    float u = (z - CENTRE) / CENTRE;
    return 0.5f * (1.0f + u / sqrtf(1.0f + u * u));
}

void dad_standardise(float *maps, const float *departures, const float *mean,
                     const float *deviation, ptrdiff_t N, ptrdiff_t P) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t n = 0; n < N; n++) {
        const float *odds = departures + 2 * n * P, *error = odds + P;
        for (ptrdiff_t i = 0; i < P; i++) {
            float z = (odds[i] - mean[i]) / (deviation[i] + FLOOR_ODDS) +
                      (error[i] - mean[P + i]) / (deviation[P + i] + FLOOR_REPAIR);
            maps[n * P + i] = bent(z);
        }
    }
}

void dad_standardise_pooled(float *maps, const float *departures, const float *mean,
                            const float *deviation, ptrdiff_t N, ptrdiff_t P) {
    float per_odds = 1.0f / (deviation[0] + FLOOR_ODDS);
    float per_error = POOLED_WEIGHT / (deviation[1] + FLOOR_REPAIR);
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t n = 0; n < N; n++) {
        const float *odds = departures + 2 * n * P, *error = odds + P;
        for (ptrdiff_t i = 0; i < P; i++) {
            maps[n * P + i] =
                bent((odds[i] - mean[0]) * per_odds + (error[i] - mean[1]) * per_error);
        }
    }
}
