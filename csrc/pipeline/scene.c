/* A background that stays while the object moves: per pixel the median over the images,
 * after each image's light is brought to that of all.
 *
 *   log gain = c . (1, x, y, x^2, x y, y^2), x and y in -1 .. 1, fitted to
 *   log((grey + 0.04) / (background's grey + 0.04)) on a grid of up to 64 x 64 pixels, four
 *   times with weights 1 / (1 + (error / (2 spread))^2)^2: the object hardly counts
 *
 *   evidence = mean over 3 x 3 of difference / max(spread, 0.012) - 3, held in -2 .. 4
 *
 * Threads share out the images where light is fitted, the rows where medians are taken. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/foreground.h"

enum { TERMS = 6, GRID = 64, ROUNDS = 4, SAMPLES = GRID * GRID };

static const double DARK = 0.04;
static const float LEAST_SPREAD = 0.012f, NORMAL = 1.4826f;

/* The value at `rank` of n, which are put in another order. */
static float at_rank(float *values, ptrdiff_t n, ptrdiff_t rank) {
    ptrdiff_t low = 0, high = n - 1;
    while (low < high) {
        float pivot = values[low + (high - low) / 2];
        ptrdiff_t i = low, j = high;
        while (i <= j) {
            for (; values[i] < pivot; i++) {
            }
            for (; values[j] > pivot; j--) {
            }
            if (i <= j) {
                float kept = values[i];
                values[i++] = values[j];
                values[j--] = kept;
            }
        }
        if (rank <= j) {
            high = j;
        } else if (rank >= i) {
            low = i;
        } else {
            break;
        }
    }
    return values[rank];
}

static float median(float *values, ptrdiff_t n) {
    float upper = at_rank(values, n, n / 2);
    return n % 2 != 0 ? upper : 0.5f * (upper + at_rank(values, n, n / 2 - 1));
}

static ptrdiff_t light_floats(ptrdiff_t N) {
    return dad_padded(N * TERMS * (ptrdiff_t)(sizeof(double) / sizeof(float)));
}

static ptrdiff_t scene_scratch_each(ptrdiff_t N) {
    return dad_padded(dad_max(3 * N, 2 * SAMPLES));
}

/* ---- light ----------------------------------------------------------------------- */

static void terms_at(double *terms, ptrdiff_t y, ptrdiff_t x, ptrdiff_t H, ptrdiff_t W) {
    double v = (double)(2 * y + 1) / (double)H - 1.0;
    double u = (double)(2 * x + 1) / (double)W - 1.0;
    double all[TERMS] = {1.0, u, v, u * u, u * v, v * v};
    memcpy(terms, all, sizeof(all));
}

/* NULL: even and white. */
static double brightness(const float *background) {
    return background == NULL
               ? 1.0
               : (double)(background[0] + background[1] + background[2]) / 3.0 + DARK;
}

static double brightness_of_bytes(const uint8_t *v) {
    return (double)(v[0] + v[1] + v[2]) / 765.0 + DARK;
}

/* Solves the symmetric system a x = b, in place; x ends in b. */
static void solve(double a[TERMS][TERMS], double *b) {
    for (int i = 0; i < TERMS; i++) {
        for (int row = i + 1; row < TERMS; row++) {
            double factor = a[row][i] / a[i][i];
            for (int k = i; k < TERMS; k++) {
                a[row][k] -= factor * a[i][k];
            }
            b[row] -= factor * b[i];
        }
    }
    for (int i = TERMS - 1; i >= 0; i--) {
        for (int k = i + 1; k < TERMS; k++) {
            b[i] -= a[i][k] * b[k];
        }
        b[i] /= a[i][i];
    }
}

static double value_of(const double *coefficients, const double *terms) {
    double sum = 0.0;
    for (int i = 0; i < TERMS; i++) {
        sum += coefficients[i] * terms[i];
    }
    return sum;
}

static void refit(double *coefficients, const float *ratios, float *errors, ptrdiff_t rows,
                  ptrdiff_t columns) {
    double terms[TERMS], a[TERMS][TERMS] = {{0}}, b[TERMS] = {0};
    ptrdiff_t n = rows * columns;
    for (ptrdiff_t i = 0; i < n; i++) {
        terms_at(terms, i / columns, i % columns, rows, columns);
        errors[i] = fabsf(ratios[i] - (float)value_of(coefficients, terms));
    }
    double spread = (double)(NORMAL * median(errors, n)) + 0.01;
    for (ptrdiff_t i = 0; i < n; i++) {
        terms_at(terms, i / columns, i % columns, rows, columns);
        double error = ((double)ratios[i] - value_of(coefficients, terms)) / (2.0 * spread);
        double weight = 1.0 / ((1.0 + error * error) * (1.0 + error * error));
        for (int row = 0; row < TERMS; row++) {
            for (int k = 0; k < TERMS; k++) {
                a[row][k] += weight * terms[row] * terms[k];
            }
            b[row] += weight * terms[row] * (double)ratios[i];
        }
    }
    for (int i = 0; i < TERMS; i++) {
        a[i][i] += 1e-3;
    }
    solve(a, b);
    memcpy(coefficients, b, sizeof(b));
}

/* Coefficients of an image's log gain; scratch [2, SAMPLES]. */
static void fit_light(double *coefficients, const uint8_t *image, const float *background,
                      ptrdiff_t H, ptrdiff_t W, float *scratch) {
    ptrdiff_t rows = dad_min(H, GRID), columns = dad_min(W, GRID);
    float *ratios = scratch, *errors = scratch + SAMPLES;
    for (ptrdiff_t i = 0; i < rows * columns; i++) {
        ptrdiff_t y = (2 * (i / columns) + 1) * H / (2 * rows);
        ptrdiff_t x = (2 * (i % columns) + 1) * W / (2 * columns);
        ptrdiff_t pixel = 3 * (y * W + x);
        const float *there = background != NULL ? background + pixel : NULL;
        ratios[i] = (float)log(brightness_of_bytes(image + pixel) / brightness(there));
    }
    memcpy(errors, ratios, (size_t)(rows * columns) * sizeof(*errors));
    memset(coefficients, 0, TERMS * sizeof(*coefficients));
    coefficients[0] = (double)median(errors, rows * columns);
    for (int round = 0; round < ROUNDS; round++) {
        refit(coefficients, ratios, errors, rows, columns);
    }
}

static float gain_at(const double *coefficients, ptrdiff_t y, ptrdiff_t x, ptrdiff_t H,
                     ptrdiff_t W) {
    double terms[TERMS];
    terms_at(terms, y, x, H, W);
    return expf((float)value_of(coefficients, terms));
}

static float without_light(uint8_t value, float gain) {
    const float dark = (float)DARK;
    return ((float)value * (1.0f / 255.0f) + dark) / gain - dark;
}

static void level_one(uint8_t *level, const uint8_t *image, ptrdiff_t H, ptrdiff_t W,
                      float *scratch) {
    double light[TERMS];
    fit_light(light, image, NULL, H, W, scratch);
    light[0] = -(light[3] + light[5]) / 3.0; /* a mean of 0 over the image */
    for (ptrdiff_t i = 0; i < H * W; i++) {
        float gain = gain_at(light, i / W, i % W, H, W);
        for (int c = 0; c < 3; c++) {
            float v = without_light(image[3 * i + c], gain) * 255.0f + 0.5f;
            level[3 * i + c] = (uint8_t)(v <= 0.0f ? 0.0f : v >= 255.0f ? 255.0f : v);
        }
    }
}

void dad_level_light(uint8_t *level, const uint8_t *images, ptrdiff_t N, ptrdiff_t H,
                     ptrdiff_t W, float *scratch) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        level_one(level + 3 * n * H * W, images + 3 * n * H * W, H, W,
                  scratch + dad_thread_id() * scene_scratch_each(N));
    }
}

/* ---- the background -------------------------------------------------------------- */

/* lights [N, TERMS]; NULL: as the images are. values [3, N]. */
static void median_row(float *background, const uint8_t *images, const double *lights,
                       ptrdiff_t y, ptrdiff_t N, ptrdiff_t H, ptrdiff_t W, float *values) {
    for (ptrdiff_t x = 0; x < W; x++) {
        ptrdiff_t pixel = 3 * (y * W + x);
        for (ptrdiff_t n = 0; n < N; n++) {
            const uint8_t *v = images + 3 * n * H * W + pixel;
            float gain = lights != NULL ? gain_at(lights + n * TERMS, y, x, H, W) : 1.0f;
            for (int c = 0; c < 3; c++) {
                values[c * N + n] = without_light(v[c], gain);
            }
        }
        for (int c = 0; c < 3; c++) {
            background[pixel + c] = median(values + c * N, N);
        }
    }
}

ptrdiff_t dad_scene_scratch(ptrdiff_t N, ptrdiff_t H, ptrdiff_t W) {
    ptrdiff_t rows = dad_padded(H * W) + dad_padded(2 * W);
    return light_floats(N) + dad_num_threads() * dad_max(scene_scratch_each(N), rows);
}

static void fit_lights(double *lights, const uint8_t *images, const float *background,
                       ptrdiff_t N, ptrdiff_t H, ptrdiff_t W, float *scratch) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        fit_light(lights + n * TERMS, images + 3 * n * H * W, background, H, W,
                  scratch + dad_thread_id() * scene_scratch_each(N));
    }
}

static void take_medians(float *background, const uint8_t *images, const double *lights,
                         ptrdiff_t N, ptrdiff_t H, ptrdiff_t W, float *scratch) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t y = 0; y < H; y++) {
        median_row(background, images, lights, y, N, H, W,
                   scratch + dad_thread_id() * scene_scratch_each(N));
    }
}

void dad_scene_background(float *background, const uint8_t *images, ptrdiff_t N,
                          ptrdiff_t H, ptrdiff_t W, float *scratch) {
    double *lights = (double *)scratch;
    float *own = scratch + light_floats(N);
    take_medians(background, images, NULL, N, H, W, own);
    for (int round = 0; round < 2; round++) {
        fit_lights(lights, images, background, N, H, W, own);
        take_medians(background, images, lights, N, H, W, own);
    }
}

/* ---- what differs from it -------------------------------------------------------- */

static void difference_of(float *difference, const uint8_t *image, const float *background,
                          const double *light, ptrdiff_t H, ptrdiff_t W) {
    for (ptrdiff_t i = 0; i < H * W; i++) {
        float gain = gain_at(light, i / W, i % W, H, W), most = 0.0f;
        for (int c = 0; c < 3; c++) {
            float d = fabsf(without_light(image[3 * i + c], gain) - background[3 * i + c]);
            most = d > most ? d : most;
        }
        difference[i] = most;
    }
}

void dad_scene_difference(float *difference, const uint8_t *images, const float *background,
                          ptrdiff_t N, ptrdiff_t H, ptrdiff_t W, float *scratch) {
    double *lights = (double *)scratch;
    fit_lights(lights, images, background, N, H, W, scratch + light_floats(N));
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        difference_of(difference + n * H * W, images + 3 * n * H * W, background,
                      lights + n * TERMS, H, W);
    }
}

void dad_scene_spread(float *spread, const float *difference, ptrdiff_t N, ptrdiff_t H,
                      ptrdiff_t W, float *scratch) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t y = 0; y < H; y++) {
        float *values = scratch + dad_thread_id() * scene_scratch_each(N);
        for (ptrdiff_t i = y * W; i < (y + 1) * W; i++) {
            for (ptrdiff_t n = 0; n < N; n++) {
                values[n] = difference[n * H * W + i];
            }
            spread[i] = NORMAL * median(values, N);
        }
    }
}

void dad_scene_evidence(float *difference, const float *spread, ptrdiff_t N, ptrdiff_t H,
                        ptrdiff_t W, float *scratch) {
    ptrdiff_t P = H * W, each = dad_padded(P) + dad_padded(2 * W);
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        float *raw = scratch + dad_thread_id() * each, *own = difference + n * P;
        for (ptrdiff_t i = 0; i < P; i++) {
            float usual = spread[i] > LEAST_SPREAD ? spread[i] : LEAST_SPREAD;
            float v = own[i] / usual - 3.0f;
            raw[i] = v < -2.0f ? -2.0f : v > 4.0f ? 4.0f : v;
        }
        dad_box_mean(own, raw, 1, (double *)(raw + dad_padded(P)), H, W);
    }
}
