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

void dad_departures(float *departures, const float *maps, const float *images,
                    const float *repairs, ptrdiff_t N, ptrdiff_t C, ptrdiff_t P) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t n = 0; n < N; n++) {
        const float *map = maps + n * P;
        const float *x = images + n * C * P, *repair = repairs + n * C * P;
        float *odds = departures + 2 * n * P, *error = odds + P;
        for (ptrdiff_t i = 0; i < P; i++) {
            odds[i] = logf((map[i] + EDGE) / (1.0f - map[i] + EDGE));
        }
        for (ptrdiff_t i = 0; i < P; i++) {
            float sum = 0.0f;
            for (ptrdiff_t c = 0; c < C; c++) {
                sum += fabsf(x[c * P + i] - repair[c * P + i]);
            }
            error[i] = sum / (float)C;
        }
    }
}

void dad_relate_errors(float *related, const float *departures, ptrdiff_t N, ptrdiff_t H,
                       ptrdiff_t W, ptrdiff_t radius) {
    ptrdiff_t P = H * W;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t n = 0; n < N; n++) {
        const float *odds = departures + 2 * n * P, *error = odds + P;
        float *rows = related + 2 * n * P, *both = rows + P; /* odds replace the rows */
        double sum = 0.0;
        for (ptrdiff_t i = 0; i < P; i++) {
            sum += error[i];
        }
        double scale = sum > 0.0 ? (double)P / sum : 0.0;
        for (ptrdiff_t y = 0; y < H; y++) {
            smooth_line(rows + y * W, error + y * W, W, 1, radius);
        }
        for (ptrdiff_t x = 0; x < W; x++) {
            smooth_line(both + x, rows + x, H, W, radius);
        }
        for (ptrdiff_t i = 0; i < P; i++) {
            rows[i] = odds[i];
            both[i] = (float)(both[i] * scale);
        }
    }
}

void dad_standardise(float *maps, const float *departures, const float *mean,
                     const float *deviation, ptrdiff_t N, ptrdiff_t P, bool pooled) {
    ptrdiff_t step = pooled ? 0 : 1, of_error = pooled ? 1 : P;
    float weight = pooled ? POOLED_WEIGHT : 1.0f;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t n = 0; n < N; n++) {
        const float *odds = departures + 2 * n * P, *error = odds + P;
        for (ptrdiff_t i = 0; i < P; i++) {
            ptrdiff_t a = i * step, b = of_error + a;
            float z = (odds[i] - mean[a]) / (deviation[a] + FLOOR_ODDS) +
                      weight * (error[i] - mean[b]) / (deviation[b] + FLOOR_REPAIR);
            float u = (z - CENTRE) / CENTRE;
            maps[n * P + i] = 0.5f * (1.0f + u / sqrtf(1.0f + u * u));
        }
    }
}
