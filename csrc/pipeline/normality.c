/* What tells a defect, relative to what good images show at the same pixel.
 *
 * Two numbers per pixel: the log odds of the map, and how far the repair is from the
 * image, the mean of |x - x0_hat| over the channels. A map by itself fires wherever good
 * parts vary; measured by the mean and deviation over good images it fires where this one
 * differs. Per pixel, with floors so that what never varies is not magnified:
 *   z   = (d0 - mean0) / (deviation0 + FLOOR_ODDS) + (d1 - mean1) / (deviation1 + FLOOR)
 *   map = (1 + u / sqrt(1 + u^2)) / 2,  u = (z - CENTRE) / CENTRE
 * which keeps the order of z and, unlike a sigmoid, does not saturate in float32.
 * The caller owns every buffer; threads share out images. */
#include <math.h>

#include "base/threads.h"
#include "pipeline/pipeline.h"

static const float EDGE = 1e-4f; /* log odds reach from -9.2 to 9.2 */
static const float FLOOR_ODDS = 0.5f, FLOOR_REPAIR = 0.01f;
static const float CENTRE = 4.0f; /* deviations that make 1/2 */

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

void dad_standardise(float *maps, const float *departures, const float *mean,
                     const float *deviation, ptrdiff_t N, ptrdiff_t P) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t n = 0; n < N; n++) {
        const float *odds = departures + 2 * n * P, *error = odds + P;
        for (ptrdiff_t i = 0; i < P; i++) {
            float z = (odds[i] - mean[i]) / (deviation[i] + FLOOR_ODDS) +
                      (error[i] - mean[P + i]) / (deviation[P + i] + FLOOR_REPAIR);
            float u = (z - CENTRE) / CENTRE;
            maps[n * P + i] = 0.5f * (1.0f + u / sqrtf(1.0f + u * u));
        }
    }
}
