/* A pixel's word: brightness, two ratios of colours and local contrast, each in a few
 * steps.
 *
 *   light  sqrt(mean of R, G, B)              R, G, B: means over 3 x 3 pixels, in [0, 1]
 *   red    (R - G) / t                        t = R + G + B + 0.06: light falls out
 *   blue   (B - (R + G) / 2) / t
 *   grain  deviation / (mean + 0.04)          of grey, over 9 x 9 pixels
 *
 * Sums over windows are integers. Counts are in double and in the pixels' order. One thread
 * per image. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/foreground.h"

enum { NEAR = 1, WIDE = 4, SMOOTH = 2, PLANES = 6 };

static const double COLOUR_RANGE = 0.25, MOST_GRAIN = 0.6;
static const double RARE = 1e-5, MOST_EVIDENCE = 4.0;

/* ---- words ----------------------------------------------------------------------- */

static void box_sum(int32_t *out, const int32_t *in, ptrdiff_t radius, int32_t *column,
                    ptrdiff_t H, ptrdiff_t W) {
    memset(column, 0, (size_t)W * sizeof(*column));
    for (ptrdiff_t y = -radius; y < H; y++) {
        for (ptrdiff_t x = 0; y + radius < H && x < W; x++) {
            column[x] += in[(y + radius) * W + x];
        }
        for (ptrdiff_t x = 0; y > radius && x < W; x++) {
            column[x] -= in[(y - radius - 1) * W + x];
        }
        int32_t sum = 0;
        for (ptrdiff_t x = -radius; y >= 0 && x < W; x++) {
            sum += x + radius < W ? column[x + radius] : 0;
            sum -= x > radius ? column[x - radius - 1] : 0;
            if (x >= 0) {
                out[y * W + x] = sum;
            }
        }
    }
}

/* Step of a value in [0, 1), held at the ends. */
static int step_of(double value, int steps) {
    double place = value * steps;
    return place <= 0.0 ? 0 : place >= steps ? steps - 1 : (int)place;
}

typedef struct {
    int32_t *colour[3], *grey, *squares; /* sums over windows, [H, W] */
} sums;

static uint16_t word_at(const sums *s, ptrdiff_t y, ptrdiff_t x, ptrdiff_t H, ptrdiff_t W) {
    ptrdiff_t i = y * W + x;
    double near = 255.0 * (double)(dad_box_side(y, NEAR, H) * dad_box_side(x, NEAR, W));
    double wide = 765.0 * (double)(dad_box_side(y, WIDE, H) * dad_box_side(x, WIDE, W));
    double r = s->colour[0][i] / near, g = s->colour[1][i] / near;
    double b = s->colour[2][i] / near, t = r + g + b + 0.06;
    double mean = s->grey[i] / wide;
    double variance = s->squares[i] / (wide * 765.0) - mean * mean;
    double grain = sqrt(variance > 0.0 ? variance : 0.0) / (mean + 0.04);
    double red = (r - g) / t, blue = (b - 0.5 * (r + g)) / t;
    int word = step_of(sqrt((r + g + b) / 3.0), DAD_WORD_LIGHT);
    word =
        word * DAD_WORD_COLOUR + step_of(0.5 + red / (2.0 * COLOUR_RANGE), DAD_WORD_COLOUR);
    word = word * DAD_WORD_COLOUR +
           step_of(0.5 + blue / (2.0 * COLOUR_RANGE), DAD_WORD_COLOUR);
    return (uint16_t)(word * DAD_WORD_GRAIN + step_of(grain / MOST_GRAIN, DAD_WORD_GRAIN));
}

static void words_of(uint16_t *words, const uint8_t *image, ptrdiff_t H, ptrdiff_t W,
                     int32_t *scratch) {
    ptrdiff_t P = H * W;
    int32_t *plane = scratch, *column = scratch + PLANES * dad_padded(P);
    sums s = {
        {scratch + dad_padded(P), scratch + 2 * dad_padded(P), scratch + 3 * dad_padded(P)},
        scratch + 4 * dad_padded(P),
        scratch + 5 * dad_padded(P)};
    for (int c = 0; c < 3; c++) {
        for (ptrdiff_t i = 0; i < P; i++) {
            plane[i] = image[3 * i + c];
        }
        box_sum(s.colour[c], plane, NEAR, column, H, W);
    }
    for (ptrdiff_t i = 0; i < P; i++) {
        plane[i] = image[3 * i] + image[3 * i + 1] + image[3 * i + 2];
    }
    box_sum(s.grey, plane, WIDE, column, H, W);
    for (ptrdiff_t i = 0; i < P; i++) {
        plane[i] *= plane[i];
    }
    box_sum(s.squares, plane, WIDE, column, H, W);
    for (ptrdiff_t y = 0; y < H; y++) {
        for (ptrdiff_t x = 0; x < W; x++) {
            words[y * W + x] = word_at(&s, y, x, H, W);
        }
    }
}

static ptrdiff_t words_scratch_each(ptrdiff_t H, ptrdiff_t W) {
    return PLANES * dad_padded(H * W) + dad_padded(W);
}

ptrdiff_t dad_words_scratch(ptrdiff_t H, ptrdiff_t W) {
    return dad_num_threads() * words_scratch_each(H, W);
}

void dad_words(uint16_t *words, const uint8_t *images, ptrdiff_t N, ptrdiff_t H,
               ptrdiff_t W, float *scratch) {
    ptrdiff_t P = H * W;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        float *own = scratch + dad_thread_id() * words_scratch_each(H, W);
        words_of(words + n * P, images + 3 * n * P, H, W, (int32_t *)own);
    }
}

/* ---- counts ---------------------------------------------------------------------- */

/* (1, 2, 1) / 4 along one of the four dimensions; the ends count themselves again. */
static void share_along(double *out, const double *in, ptrdiff_t steps, ptrdiff_t stride) {
    for (ptrdiff_t i = 0; i < DAD_WORDS; i++) {
        ptrdiff_t step = i / stride % steps;
        double before = in[step > 0 ? i - stride : i];
        double after = in[step + 1 < steps ? i + stride : i];
        out[i] = 0.25 * (before + 2.0 * in[i] + after);
    }
}

/* Within the tables, whatever another thread has written since the words were checked. */
static inline ptrdiff_t known_word(const uint16_t *words, ptrdiff_t i) {
    return dad_min(words[i], DAD_WORDS - 1);
}

static void count_words(double *counts, const uint16_t *words, const float *weights,
                        ptrdiff_t P, double *spare) {
    memset(counts, 0, DAD_WORDS * sizeof(*counts));
    for (ptrdiff_t i = 0; i < P; i++) {
        counts[known_word(words, i)] += weights != NULL ? (double)weights[i] : 1.0;
    }
    const ptrdiff_t blue = DAD_WORD_GRAIN, red = blue * DAD_WORD_COLOUR;
    share_along(spare, counts, DAD_WORD_GRAIN, 1);
    share_along(counts, spare, DAD_WORD_COLOUR, blue);
    share_along(spare, counts, DAD_WORD_COLOUR, red);
    share_along(counts, spare, DAD_WORD_LIGHT, red * DAD_WORD_COLOUR);
}

static ptrdiff_t table_floats(void) {
    return dad_padded(DAD_WORDS * (ptrdiff_t)(sizeof(double) / sizeof(float)));
}

ptrdiff_t dad_word_counts_scratch(void) { return dad_num_threads() * table_floats(); }

void dad_word_counts(double *counts, const uint16_t *words, const float *weights,
                     ptrdiff_t N, ptrdiff_t P, float *scratch) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        double *spare = (double *)(scratch + dad_thread_id() * table_floats());
        count_words(counts + n * DAD_WORDS, words + n * P,
                    weights != NULL ? weights + n * P : NULL, P, spare);
    }
}

/* ---- evidence -------------------------------------------------------------------- */

static ptrdiff_t evidence_scratch_each(ptrdiff_t H, ptrdiff_t W) {
    return dad_padded(DAD_WORDS) + dad_padded(H * W) + dad_padded(2 * W);
}

ptrdiff_t dad_word_evidence_scratch(ptrdiff_t H, ptrdiff_t W) {
    return dad_num_threads() * evidence_scratch_each(H, W);
}

static void evidence_of(float *evidence, const uint16_t *words, const double *object,
                        const double *background, ptrdiff_t H, ptrdiff_t W,
                        float *scratch) {
    float *table = scratch, *raw = table + dad_padded(DAD_WORDS);
    double *column = (double *)(raw + dad_padded(H * W));
    for (ptrdiff_t i = 0; i < DAD_WORDS; i++) {
        double odds = log((object[i] + RARE) / (background[i] + RARE));
        odds = odds > MOST_EVIDENCE ? MOST_EVIDENCE : odds;
        table[i] = (float)(odds < -MOST_EVIDENCE ? -MOST_EVIDENCE : odds);
    }
    for (ptrdiff_t i = 0; i < H * W; i++) {
        raw[i] = table[known_word(words, i)];
    }
    dad_box_mean(evidence, raw, SMOOTH, column, H, W);
}

void dad_word_evidence(float *evidence, const uint16_t *words, const double *object,
                       const double *background, ptrdiff_t N, ptrdiff_t H, ptrdiff_t W,
                       float *scratch) {
    ptrdiff_t P = H * W;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        float *own = scratch + dad_thread_id() * evidence_scratch_each(H, W);
        evidence_of(evidence + n * P, words + n * P, object + n * DAD_WORDS,
                    background + n * DAD_WORDS, H, W, own);
    }
}
