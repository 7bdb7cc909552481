/* Bilinear resizing with half-pixel centres and no antialiasing: output i reads the input
 * at (i + 0.5) * in / out - 0.5, held at the borders.
 *
 * uint8 follows OpenCV's INTER_LINEAR bit for bit, so that a model sees the pixels its
 * reference saw: weights of 11 bits, the second pass on values cut to 15 bits, and exact
 * halving by the mean of 2 x 2. The caller owns the buffers; threads share out strips of
 * output rows. */
#include <math.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/pipeline.h"

enum { STRIP = 16, WEIGHT_ONE = 1 << 11 };

/* Where an output row or column reads: input `first` with weight 1 - fraction, `second`
 * with fraction; the integer weights are those of uint8. */
typedef struct {
    int32_t first, second;
    float fraction;
    int16_t first_weight, second_weight;
} tap;

enum { TAP_FLOATS = sizeof(tap) / sizeof(float) };

static int32_t within(ptrdiff_t index, ptrdiff_t size) {
    return (int32_t)(index < 0 ? 0 : index >= size ? size - 1 : index);
}

static tap tap_at(ptrdiff_t i, ptrdiff_t in, ptrdiff_t out) {
    double scale = 1.0 / ((double)out / (double)in);
    float position = (float)(((double)i + 0.5) * scale - 0.5);
    float whole = floorf(position), fraction = position - whole;
    return (tap){
        .first = within((ptrdiff_t)whole, in),
        .second = within((ptrdiff_t)whole + 1, in),
        .fraction = fraction,
        .first_weight = (int16_t)lrintf((1.0f - fraction) * WEIGHT_ONE),
        .second_weight = (int16_t)lrintf(fraction * WEIGHT_ONE),
    };
}

/* A column outside the outer pixel centres takes the outer pixel whole. A row reads it
 * twice, with both weights, which rounds differently. */
static tap column_tap(ptrdiff_t i, ptrdiff_t in, ptrdiff_t out) {
    tap t = tap_at(i, in, out);
    if (t.first == t.second) {
        t.fraction = 0.0f;
        t.first_weight = WEIGHT_ONE;
        t.second_weight = 0;
    }
    return t;
}

/* ---- one row across, two rows down ----------------------------------------------- */

/* Values of 19 bits, cut to 15: products with a weight then fit the upper half of 32 bits,
 * which is what OpenCV keeps. Called with a constant C. */
static inline void widen_channels_bytes(int16_t *row, const uint8_t *x, const tap *columns,
                                        ptrdiff_t WO, ptrdiff_t C) {
    for (ptrdiff_t i = 0; i < WO; i++) {
        const uint8_t *first = x + columns[i].first * C;
        const uint8_t *second = x + columns[i].second * C;
        int a = columns[i].first_weight, b = columns[i].second_weight;
        for (ptrdiff_t c = 0; c < C; c++) {
            row[i * C + c] = (int16_t)((first[c] * a + second[c] * b) >> 4);
        }
    }
}

static void widen_bytes(int16_t *row, const uint8_t *x, const tap *columns,
                        const dad_resize_shape *s) {
    if (s->C == 3) {
        widen_channels_bytes(row, x, columns, s->WO, 3);
    } else {
        widen_channels_bytes(row, x, columns, s->WO, 1);
    }
}

static void widen_floats(float *row, const float *x, const tap *columns, ptrdiff_t WO) {
    for (ptrdiff_t i = 0; i < WO; i++) {
        float b = columns[i].fraction;
        row[i] = x[columns[i].first] * (1.0f - b) + x[columns[i].second] * b;
    }
}

static void blend_bytes(uint8_t *restrict y, const int16_t *first, const int16_t *second,
                        tap t, ptrdiff_t count) {
    int16_t a = t.first_weight, b = t.second_weight;
    for (ptrdiff_t i = 0; i < count; i++) {
        int16_t upper = (int16_t)((a * first[i]) >> 16);
        int16_t lower = (int16_t)((b * second[i]) >> 16);
        y[i] = (uint8_t)((int16_t)(upper + lower + 2) >> 2);
    }
}

static void blend_floats(float *y, const float *first, const float *second, tap t,
                         ptrdiff_t count) {
    float b = t.fraction;
    for (ptrdiff_t i = 0; i < count; i++) {
        y[i] = first[i] * (1.0f - b) + second[i] * b;
    }
}

/* ---- strips of rows -------------------------------------------------------------- */

ptrdiff_t dad_resize_scratch(const dad_resize_shape *s) {
    return s->WO * TAP_FLOATS + dad_num_threads() * 2 * s->WO * s->C;
}

typedef struct {
    ptrdiff_t image, begin, end; /* output rows begin .. end - 1 of an image */
} strip;

static strip strip_at(ptrdiff_t index, const dad_resize_shape *s) {
    ptrdiff_t per_image = dad_ceil_div(s->HO, STRIP), begin = index % per_image * STRIP;
    return (strip){index / per_image, begin, dad_min(begin + STRIP, s->HO)};
}

/* Row r of the input, widened, is kept in rows[r & 1] until another takes its place: the
 * next output row often reads it again. */
static void resize_strip_bytes(uint8_t *y, const uint8_t *x, const tap *columns, strip part,
                               const dad_resize_shape *s, int16_t *rows) {
    ptrdiff_t width = s->WO * s->C;
    int32_t held[2] = {-1, -1};
    for (ptrdiff_t i = part.begin; i < part.end; i++) {
        tap t = tap_at(i, s->H, s->HO);
        for (int k = 0; k < 2; k++) {
            int32_t r = k == 0 ? t.first : t.second;
            if (held[r & 1] != r) {
                widen_bytes(rows + (r & 1) * width, x + r * s->W * s->C, columns, s);
                held[r & 1] = r;
            }
        }
        blend_bytes(y + i * width, rows + (t.first & 1) * width,
                    rows + (t.second & 1) * width, t, width);
    }
}

static void resize_strip_floats(float *y, const float *x, const tap *columns, strip part,
                                const dad_resize_shape *s, float *rows) {
    ptrdiff_t width = s->WO;
    int32_t held[2] = {-1, -1};
    for (ptrdiff_t i = part.begin; i < part.end; i++) {
        tap t = tap_at(i, s->H, s->HO);
        for (int k = 0; k < 2; k++) {
            int32_t r = k == 0 ? t.first : t.second;
            if (held[r & 1] != r) {
                widen_floats(rows + (r & 1) * width, x + r * s->W, columns, width);
                held[r & 1] = r;
            }
        }
        blend_floats(y + i * width, rows + (t.first & 1) * width,
                     rows + (t.second & 1) * width, t, width);
    }
}

static tap *place_columns(float *scratch, const dad_resize_shape *s) {
    tap *columns = (tap *)scratch;
    for (ptrdiff_t i = 0; i < s->WO; i++) {
        columns[i] = column_tap(i, s->W, s->WO);
    }
    return columns;
}

static inline void halve_row_bytes(uint8_t *restrict y, const uint8_t *above,
                                   const uint8_t *below, ptrdiff_t WO, ptrdiff_t C) {
    for (ptrdiff_t i = 0; i < WO; i++) {
        for (ptrdiff_t c = 0; c < C; c++) {
            ptrdiff_t j = 2 * i * C + c;
            int sum = above[j] + above[j + C] + below[j] + below[j + C];
            y[i * C + c] = (uint8_t)((sum + 2) >> 2);
        }
    }
}

static void halve_bytes(uint8_t *y, const uint8_t *x, const dad_resize_shape *s) {
#pragma omp parallel for num_threads(dad_num_threads())
    for (ptrdiff_t row = 0; row < s->N * s->HO; row++) {
        const uint8_t *above = x + 2 * row * s->W * s->C, *below = above + s->W * s->C;
        if (s->C == 3) {
            halve_row_bytes(y + row * s->WO * 3, above, below, s->WO, 3);
        } else {
            halve_row_bytes(y + row * s->WO, above, below, s->WO, 1);
        }
    }
}

void dad_resize_bytes(uint8_t *y, const uint8_t *x, const dad_resize_shape *s,
                      float *scratch) {
    if (s->H == 2 * s->HO && s->W == 2 * s->WO) {
        halve_bytes(y, x, s);
        return;
    }
    const tap *columns = place_columns(scratch, s);
    ptrdiff_t strips = s->N * dad_ceil_div(s->HO, STRIP), row_pair = 2 * s->WO * s->C;
#pragma omp parallel for num_threads(dad_num_threads())
    for (ptrdiff_t i = 0; i < strips; i++) {
        strip part = strip_at(i, s);
        int16_t *rows =
            (int16_t *)(scratch + s->WO * TAP_FLOATS) + dad_thread_id() * row_pair;
        resize_strip_bytes(y + part.image * s->HO * s->WO * s->C,
                           x + part.image * s->H * s->W * s->C, columns, part, s, rows);
    }
}

void dad_resize_floats(float *y, const float *x, const dad_resize_shape *s,
                       float *scratch) {
    const tap *columns = place_columns(scratch, s);
    ptrdiff_t strips = s->N * dad_ceil_div(s->HO, STRIP), row_pair = 2 * s->WO;
#pragma omp parallel for num_threads(dad_num_threads())
    for (ptrdiff_t i = 0; i < strips; i++) {
        strip part = strip_at(i, s);
        float *rows = scratch + s->WO * TAP_FLOATS + dad_thread_id() * row_pair;
        resize_strip_floats(y + part.image * s->HO * s->WO, x + part.image * s->H * s->W,
                            columns, part, s, rows);
    }
}
