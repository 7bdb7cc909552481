/* One threshold of the grey levels (Otsu 1979): the one with the largest variance between
 * the classes. The class that holds less of the image's border is the object. With it come
 * the facts that tell whether the background really was plain. One thread per image. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/foreground.h"

enum { LEVELS = 256, BORDER_PART = 50, SPECK_PART = 500, SPECK_LEAST = 4 };

static int grey(const uint8_t *v) { return (v[0] + v[1] + v[2] + 1) / 3; }

/* The last level of the lower class, and the variance between the classes. */
static int best_level(double *between, const ptrdiff_t *histogram, double pixels,
                      double total) {
    int best = 0;
    double below = 0.0, sum = 0.0, most = -1.0;
    for (int level = 0; level < LEVELS - 1; level++) {
        below += (double)histogram[level];
        sum += (double)histogram[level] * level;
        if (below > 0.0 && below < pixels) {
            double shift = total * below - sum * pixels;
            double variance =
                shift / pixels * (shift / pixels) / (below * (pixels - below));
            if (variance > most) {
                most = variance;
                best = level;
            }
        }
    }
    *between = most > 0.0 ? most : 0.0;
    return best;
}

/* Share of the border that the mask covers. */
static double border_share(const uint8_t *mask, ptrdiff_t H, ptrdiff_t W) {
    ptrdiff_t k = dad_max(2, dad_min(H, W) / BORDER_PART), covered = 0, count = 0;
    for (ptrdiff_t y = 0; y < H; y++) {
        bool whole = y < k || y >= H - k;
        for (ptrdiff_t x = 0; x < W; x++) {
            if (whole || x < k || x >= W - k) {
                covered += mask[y * W + x] != 0;
                count++;
            }
        }
    }
    return (double)covered / (double)count;
}

static double solid_share(uint8_t *mask, ptrdiff_t area, int32_t *queue, ptrdiff_t H,
                          ptrdiff_t W) {
    ptrdiff_t least = dad_max(SPECK_LEAST, H * W / SPECK_PART), solid = 0;
    for (ptrdiff_t i = 0; i < H * W; i++) {
        if (mask[i] == 1) {
            ptrdiff_t count = dad_flood(mask, i, 2, 8, queue, H, W);
            solid += count >= least ? count : 0;
        }
    }
    for (ptrdiff_t i = 0; i < H * W; i++) {
        mask[i] = mask[i] != 0;
    }
    return area > 0 ? (double)solid / (double)area : 0.0;
}

/* Distance of the classes' means over the background's standard deviation, plus one level.
 */
static double gap(const ptrdiff_t *histogram, int level, bool object_is_dark) {
    double count[2] = {0}, sum[2] = {0}, squares[2] = {0};
    for (int v = 0; v < LEVELS; v++) {
        int object = (v <= level) == object_is_dark;
        count[object] += (double)histogram[v];
        sum[object] += (double)histogram[v] * v;
        squares[object] += (double)histogram[v] * v * v;
    }
    if (count[0] == 0.0 || count[1] == 0.0) {
        return 0.0;
    }
    double mean = sum[0] / count[0];
    double variance = squares[0] / count[0] - mean * mean;
    double spread = sqrt(variance > 0.0 ? variance : 0.0);
    return fabs(sum[1] / count[1] - mean) / (spread + 1.0);
}

static void otsu_one(uint8_t *mask, double *facts, const uint8_t *image, ptrdiff_t H,
                     ptrdiff_t W, int32_t *queue) {
    ptrdiff_t P = H * W, histogram[LEVELS] = {0}, area = 0;
    double total = 0.0, squares = 0.0, between;
    for (ptrdiff_t i = 0; i < P; i++) {
        int v = grey(image + 3 * i);
        histogram[v]++;
        total += v;
        squares += (double)v * v;
    }
    int level = best_level(&between, histogram, (double)P, total);
    for (ptrdiff_t i = 0; i < P; i++) {
        mask[i] = grey(image + 3 * i) <= level;
    }
    bool object_is_dark = border_share(mask, H, W) <= 0.5;
    for (ptrdiff_t i = 0; i < P; i++) {
        mask[i] = object_is_dark ? mask[i] : !mask[i];
        area += mask[i];
    }
    double mean = total / (double)P, variance = squares / (double)P - mean * mean;
    facts[DAD_SEPARABILITY] = variance > 0.0 ? between / variance : 0.0;
    facts[DAD_BORDER] = border_share(mask, H, W);
    facts[DAD_AREA] = (double)area / (double)P;
    facts[DAD_SOLID] = solid_share(mask, area, queue, H, W);
    facts[DAD_GAP] = gap(histogram, level, object_is_dark);
}

ptrdiff_t dad_otsu_scratch(ptrdiff_t H, ptrdiff_t W) {
    return dad_num_threads() * dad_padded(H * W);
}

void dad_otsu(uint8_t *masks, double *facts, const uint8_t *images, ptrdiff_t N,
              ptrdiff_t H, ptrdiff_t W, float *scratch) {
    ptrdiff_t P = H * W;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        int32_t *queue = (int32_t *)(scratch + dad_thread_id() * dad_padded(P));
        otsu_one(masks + n * P, facts + n * DAD_OTSU_FACTS, images + 3 * n * P, H, W,
                 queue);
    }
}
