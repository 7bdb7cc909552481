/* From evidence per pixel to a mask.
 *
 * Mean field of an Ising model: with m = 2 share - 1, and edges w = exp(-d^2 / (2 mean
 * d^2)) between neighbours whose colours are d apart,
 *
 *   m <- tanh((evidence + offset + 2 * sum of w m over the 4 neighbours) / 2)
 *
 * all pixels at once, STEPS times. tanh is the rational z (27 + z^2) / (27 + 9 z^2) up to
 * its end at z = 3, which vectorises. Then regions by flooding. One thread per image. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/foreground.h"

enum { STEPS = 12 };

static const float COUPLING = 2.0f;

/* ---- means over windows ---------------------------------------------------------- */

void dad_box_mean(float *out, const float *in, ptrdiff_t radius, double *column,
                  ptrdiff_t H, ptrdiff_t W) {
    memset(column, 0, (size_t)W * sizeof(*column));
    for (ptrdiff_t y = -radius; y < H; y++) {
        for (ptrdiff_t x = 0; y + radius < H && x < W; x++) {
            column[x] += in[(y + radius) * W + x];
        }
        for (ptrdiff_t x = 0; y > radius && x < W; x++) {
            column[x] -= in[(y - radius - 1) * W + x];
        }
        double sum = 0.0;
        for (ptrdiff_t x = -radius; y >= 0 && x < W; x++) {
            sum += x + radius < W ? column[x + radius] : 0.0;
            sum -= x > radius ? column[x - radius - 1] : 0.0;
            if (x >= 0) {
                double pixels =
                    (double)(dad_box_side(y, radius, H) * dad_box_side(x, radius, W));
                out[y * W + x] = (float)(sum / pixels);
            }
        }
    }
}

/* ---- the mean field -------------------------------------------------------------- */

static float squared_distance(const uint8_t *a, const uint8_t *b) {
    int r = a[0] - b[0], g = a[1] - b[1], blue = a[2] - b[2];
    return (float)(r * r + g * g + blue * blue);
}

/* across[i]: pixel i and the one to its right; down[i]: and the one below. 0 at the end. */
static void find_edges(float *across, float *down, const uint8_t *image, ptrdiff_t H,
                       ptrdiff_t W) {
    double sum = 0.0;
    for (ptrdiff_t y = 0; y < H; y++) {
        for (ptrdiff_t x = 0; x < W; x++) {
            ptrdiff_t i = y * W + x;
            const uint8_t *v = image + 3 * i;
            across[i] = x + 1 < W ? squared_distance(v, v + 3) : 0.0f;
            down[i] = y + 1 < H ? squared_distance(v, v + 3 * W) : 0.0f;
            sum += (double)across[i] + (double)down[i];
        }
    }
    double pairs = (double)dad_max(H * (W - 1) + (H - 1) * W, 1);
    float rate = (float)(1.0 / (2.0 * sum / pairs + 1e-6 * 255.0 * 255.0));
    for (ptrdiff_t y = 0; y < H; y++) {
        for (ptrdiff_t x = 0; x < W; x++) {
            ptrdiff_t i = y * W + x;
            across[i] = x + 1 < W ? expf(-rate * across[i]) : 0.0f;
            down[i] = y + 1 < H ? expf(-rate * down[i]) : 0.0f;
        }
    }
}

static inline float squash(float twice) {
    float z = 0.5f * twice;
    z = z < -3.0f ? -3.0f : z > 3.0f ? 3.0f : z;
    return z * (27.0f + z * z) / (27.0f + 9.0f * z * z);
}

/* A step for all P pixels. Beyond the image's ends, and where a row ends, edges are 0 and m
 * is 0, so that no pixel is a special case. */
static void settle_step(float *restrict next, const float *m, const float *evidence,
                        const float *across, const float *down, float offset, ptrdiff_t P,
                        ptrdiff_t W) {
    for (ptrdiff_t i = 0; i < P; i++) {
        float pull = across[i] * m[i + 1] + across[i - 1] * m[i - 1] + down[i] * m[i + W] +
                     down[i - W] * m[i - W];
        next[i] = squash(evidence[i] + offset + COUPLING * pull);
    }
}

/* A plane with W + 1 zeros before and after it. */
static ptrdiff_t plane_floats(ptrdiff_t H, ptrdiff_t W) {
    return dad_padded(H * W + 2 * (W + 1));
}

ptrdiff_t dad_settle_scratch(ptrdiff_t H, ptrdiff_t W) {
    return dad_num_threads() * 4 * plane_floats(H, W);
}

static void settle_one(float *share, const float *evidence, const uint8_t *image,
                       float offset, ptrdiff_t H, ptrdiff_t W, float *scratch) {
    ptrdiff_t P = H * W, plane = plane_floats(H, W);
    memset(scratch, 0, (size_t)(4 * plane) * sizeof(*scratch));
    float *across = scratch + W + 1, *down = across + plane;
    float *m = down + plane, *next = m + plane;
    find_edges(across, down, image, H, W);
    for (ptrdiff_t i = 0; i < P; i++) {
        m[i] = squash(evidence[i] + offset);
    }
    for (int step = 0; step < STEPS; step++) {
        settle_step(next, m, evidence, across, down, offset, P, W);
        float *kept = m;
        m = next;
        next = kept;
    }
    for (ptrdiff_t i = 0; i < P; i++) {
        float v = 0.5f + 0.5f * m[i]; /* rounding can bring m past its end */
        share[i] = v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v;
    }
}

void dad_settle(float *share, const float *evidence, const uint8_t *images, float offset,
                ptrdiff_t N, ptrdiff_t H, ptrdiff_t W, float *scratch) {
    ptrdiff_t P = H * W;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        settle_one(share + n * P, evidence + n * P, images + 3 * n * P, offset, H, W,
                   scratch + dad_thread_id() * 4 * plane_floats(H, W));
    }
}

/* ---- regions --------------------------------------------------------------------- */

ptrdiff_t dad_flood(uint8_t *values, ptrdiff_t start, uint8_t mark, int neighbours,
                    int32_t *queue, ptrdiff_t H, ptrdiff_t W) {
    static const int dy[8] = {-1, 1, 0, 0, -1, -1, 1, 1};
    static const int dx[8] = {0, 0, -1, 1, -1, 1, -1, 1};
    uint8_t wanted = values[start];
    ptrdiff_t count = 1;
    values[start] = mark;
    queue[0] = (int32_t)start;
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t y = queue[i] / W, x = queue[i] % W;
        for (int k = 0; k < neighbours; k++) {
            ptrdiff_t row = y + dy[k], column = x + dx[k];
            bool inside = row >= 0 && row < H && column >= 0 && column < W;
            if (inside && values[row * W + column] == wanted) {
                values[row * W + column] = mark;
                queue[count++] = (int32_t)(row * W + column);
            }
        }
    }
    return count;
}

enum { EMPTY, OBJECT, SEEN, OUTSIDE };

static void keep_large(uint8_t *mask, double keep, int32_t *queue, ptrdiff_t H,
                       ptrdiff_t W) {
    ptrdiff_t largest = 0;
    for (ptrdiff_t i = 0; i < H * W; i++) {
        if (mask[i] == OBJECT) {
            largest = dad_max(largest, dad_flood(mask, i, SEEN, 8, queue, H, W));
        }
    }
    for (ptrdiff_t i = 0; i < H * W; i++) {
        if (mask[i] == SEEN) {
            ptrdiff_t count = dad_flood(mask, i, OBJECT, 8, queue, H, W);
            for (ptrdiff_t k = 0; (double)count < keep * (double)largest && k < count;
                 k++) {
                mask[queue[k]] = EMPTY;
            }
        }
    }
}

static void fill_holes(uint8_t *mask, int32_t *queue, ptrdiff_t H, ptrdiff_t W) {
    for (ptrdiff_t i = 0; i < H * W; i++) {
        bool at_border = i < W || i >= (H - 1) * W || i % W == 0 || i % W == W - 1;
        if (at_border && mask[i] == EMPTY) {
            (void)dad_flood(mask, i, OUTSIDE, 4, queue, H, W);
        }
    }
    for (ptrdiff_t i = 0; i < H * W; i++) {
        mask[i] = mask[i] != OUTSIDE;
    }
}

ptrdiff_t dad_tidy_scratch(ptrdiff_t H, ptrdiff_t W) {
    return dad_num_threads() * dad_padded(H * W);
}

void dad_tidy(uint8_t *masks, double keep, ptrdiff_t N, ptrdiff_t H, ptrdiff_t W,
              float *scratch) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        int32_t *queue = (int32_t *)(scratch + dad_thread_id() * dad_padded(H * W));
        uint8_t *mask = masks + n * H * W;
        for (ptrdiff_t i = 0; i < H * W; i++) {
            mask[i] = mask[i] != 0 ? OBJECT : EMPTY;
        }
        keep_large(mask, keep, queue, H, W);
        fill_holes(mask, queue, H, W);
    }
}
