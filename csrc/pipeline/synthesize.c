/* Synthetic anomalies (paper, section 3.4) from image x, foreground F, appearance and seed:
 *
 *   M = (rotated Perlin noise > threshold) * F     drawn again while it is empty
 *   A = the appearance (or x itself, then cut up and shuffled) after three random changes
 *   S = x (1 - M) + (1 - beta) A M + beta x M
 *
 * A sample is a function of its own inputs and seed. Threads share out the samples, each
 * with its part of the scratch; the caller owns every buffer. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/pipeline.h"
#include "pipeline/rotation.h"

enum { ATTEMPTS = 50, AUGMENTATIONS = 3, GRID = 8, PIXELS_PER_CELL = 4, PART_CELLS = 3 };

#define TWO_PI 6.283185307179586

/* One thread's buffers. */
typedef struct {
    float *noise, *mask, *part; /* [H, W] */
    float *texture;             /* [H, W, 3] */
    uint8_t *picture, *copy;    /* [H, W, 3] */
    double *angles;             /* of the finest grid */
    float *perlin;              /* dad_perlin's scratch */
    int32_t *rows, *columns;    /* [H], [W]: where the shuffle reads */
    double degrees;             /* by which the mask's noise was turned */
    const float *within;        /* [H, W]: where the anomaly could lie; NULL: anywhere */
} workspace;

/* 2^exponent, or fewer where a cell would have less than PIXELS_PER_CELL pixels a side. */
static ptrdiff_t most_cells(ptrdiff_t size, int exponent) {
    ptrdiff_t cells = (ptrdiff_t)1 << exponent;
    while (cells > 1 && cells * PIXELS_PER_CELL > size) {
        cells /= 2;
    }
    return cells;
}

static void *take(float *scratch, ptrdiff_t *used, ptrdiff_t floats) {
    void *place = scratch != NULL ? scratch + *used : NULL;
    *used += dad_padded(floats);
    return place;
}

/* Hands out parts of the scratch (NULL: only counts) and returns the floats used. */
static ptrdiff_t lay_out(workspace *w, float *scratch, const dad_synthesis_options *o,
                         ptrdiff_t H, ptrdiff_t W) {
    ptrdiff_t RY = dad_max(most_cells(H, o->most_exponent), dad_min(PART_CELLS, H));
    ptrdiff_t RX = dad_max(most_cells(W, o->most_exponent), dad_min(PART_CELLS, W));
    ptrdiff_t bytes = dad_ceil_div(3 * H * W, sizeof(float)), used = 0;
    w->noise = take(scratch, &used, H * W);
    w->mask = take(scratch, &used, H * W);
    w->part = take(scratch, &used, H * W);
    w->texture = take(scratch, &used, 3 * H * W);
    w->picture = take(scratch, &used, bytes);
    w->copy = take(scratch, &used, bytes);
    w->angles = take(scratch, &used, 2 * (RY + 1) * (RX + 1));
    w->perlin = take(scratch, &used, dad_perlin_scratch(W, RY, RX));
    w->rows = take(scratch, &used, H);
    w->columns = take(scratch, &used, W);
    return used;
}

/* ---- the mask -------------------------------------------------------------------- */

static void draw_noise(workspace *w, ptrdiff_t H, ptrdiff_t W, ptrdiff_t RY, ptrdiff_t RX,
                       dad_rng *rng) {
    for (ptrdiff_t i = 0; i < (RY + 1) * (RX + 1); i++) {
        w->angles[i] = dad_rng_range(rng, 0.0, TWO_PI);
    }
    dad_perlin(w->noise, w->angles, H, W, RY, RX, w->perlin);
}

/* A random part of the image: where coarse noise exceeds a low threshold. */
static void draw_part(workspace *w, const float *foreground, ptrdiff_t H, ptrdiff_t W,
                      dad_rng *rng) {
    ptrdiff_t RY = 1 + dad_rng_below(rng, dad_min(PART_CELLS, H));
    ptrdiff_t RX = 1 + dad_rng_below(rng, dad_min(PART_CELLS, W));
    float threshold = (float)dad_rng_range(rng, -0.3, 0.1);
    draw_noise(w, H, W, RY, RX, rng);
    for (ptrdiff_t i = 0; i < H * W; i++) {
        float whole = foreground != NULL ? foreground[i] : 1.0f;
        w->part[i] = w->noise[i] > threshold ? whole : 0.0f;
    }
}

static bool any_above(const float *values, ptrdiff_t count, float threshold) {
    float most = values[0];
    for (ptrdiff_t i = 1; i < count; i++) {
        most = values[i] > most ? values[i] : most;
    }
    return most > threshold;
}

/* Bilinear; 0 outside. */
static float read_noise(const float *noise, int64_t y, int64_t x, ptrdiff_t H,
                        ptrdiff_t W) {
    const float unit = 1.0f / DAD_FIXED_ONE;
    ptrdiff_t i = y >> DAD_FIXED_BITS, j = x >> DAD_FIXED_BITS;
    float below = (float)(y & (DAD_FIXED_ONE - 1)) * unit;
    float right = (float)(x & (DAD_FIXED_ONE - 1)) * unit;
    if (i >= 0 && i + 1 < H && j >= 0 && j + 1 < W) {
        const float *v = noise + i * W + j;
        float upper = v[0] + right * (v[1] - v[0]);
        float lower = v[W] + right * (v[W + 1] - v[W]);
        return upper + below * (lower - upper);
    }
    float sum = 0.0f;
    for (int k = 0; k < 4; k++) {
        ptrdiff_t row = i + (k >> 1), column = j + (k & 1);
        if (row >= 0 && row < H && column >= 0 && column < W) {
            float weight = (k & 1 ? right : 1.0f - right) * (k >> 1 ? below : 1.0f - below);
            sum += weight * noise[row * W + column];
        }
    }
    return sum;
}

/* mask = (the noise, rotated, > threshold) * foreground; false: it is empty. */
static bool cut_mask(workspace *w, const float *foreground, float threshold, double degrees,
                     ptrdiff_t H, ptrdiff_t W) {
    dad_rotation rotation = dad_rotation_by(degrees, H, W);
    float sum = 0.0f;
    for (ptrdiff_t y = 0; y < H; y++) {
        dad_rotated_row at = dad_rotation_row(&rotation, y);
        for (ptrdiff_t x = 0; x < W; x++) {
            float m = 0.0f;
            if (read_noise(w->noise, at.y, at.x, H, W) > threshold) {
                m = foreground != NULL ? foreground[y * W + x] : 1.0f;
            }
            w->mask[y * W + x] = m;
            sum += m;
            at.y += at.step_y;
            at.x += at.step_x;
        }
    }
    return sum > 0.0f;
}

static bool draw_mask(workspace *w, const float *foreground, const dad_synthesis_options *o,
                      ptrdiff_t H, ptrdiff_t W, dad_rng *rng) {
    int choices = o->most_exponent - o->fewest_exponent + 1;
    ptrdiff_t RY = most_cells(H, o->fewest_exponent + (int)dad_rng_below(rng, choices));
    ptrdiff_t RX = most_cells(W, o->fewest_exponent + (int)dad_rng_below(rng, choices));
    if (o->random_part) {
        draw_part(w, foreground, H, W, rng);
        foreground = w->part;
    }
    w->within = foreground;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        draw_noise(w, H, W, RY, RX, rng);
        w->degrees = dad_rng_range(rng, -90.0, 90.0);
        if (any_above(w->noise, H * W, o->threshold) && /* a rotation only averages */
            cut_mask(w, foreground, o->threshold, w->degrees, H, W)) {
            return true;
        }
    }
    return false;
}

/* ---- the appearance -------------------------------------------------------------- */

static void to_bytes(uint8_t *picture, const float *image, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) {
        float v = image[i] * 255.0f + 0.5f;
        picture[i] = (uint8_t)(v >= 255.0f ? 255.0f : v);
    }
}

static void shuffle(int *order, int count, dad_rng *rng) {
    for (int i = count - 1; i > 0; i--) {
        int j = (int)dad_rng_below(rng, i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

/* The strips of a side in their new order: the evens first, then the odds. Columns are
 * shuffled within either half, rows as a whole before they are parted. */
static void order_strips(int *order, int strips, bool whole, dad_rng *rng) {
    int given[GRID], evens = (strips + 1) / 2;
    for (int i = 0; i < strips; i++) {
        given[i] = i;
    }
    if (whole) {
        shuffle(given, strips, rng);
    }
    for (int i = 0; i < strips; i++) {
        order[i] = given[i < evens ? 2 * i : 2 * (i - evens) + 1];
    }
    if (!whole) {
        shuffle(order, evens, rng);
        shuffle(order + evens, strips - evens, rng);
    }
}

/* sources[i] = the row or column that moves to place i; what GRID does not divide stays. */
static void draw_sources(int32_t *sources, ptrdiff_t size, bool whole, dad_rng *rng) {
    int order[GRID], strips = (int)dad_min(GRID, size);
    ptrdiff_t width = size / strips;
    order_strips(order, strips, whole, rng);
    for (ptrdiff_t i = 0; i < size; i++) {
        ptrdiff_t place = i / width;
        sources[i] = (int32_t)(place < strips ? order[place] * width + i % width : i);
    }
}

static void shuffle_grid(workspace *w, ptrdiff_t H, ptrdiff_t W, dad_rng *rng) {
    draw_sources(w->columns, W, false, rng);
    draw_sources(w->rows, H, true, rng);
    memcpy(w->copy, w->picture, (size_t)(3 * H * W));
    for (ptrdiff_t y = 0; y < H; y++) {
        const uint8_t *row = w->copy + 3 * w->rows[y] * W;
        for (ptrdiff_t x = 0; x < W; x++) {
            memcpy(w->picture + 3 * (y * W + x), row + 3 * w->columns[x], 3);
        }
    }
}

static void draw_appearance(workspace *w, const float *image, const float *appearance,
                            const dad_synthesis_options *o, ptrdiff_t H, ptrdiff_t W,
                            dad_rng *rng) {
    dad_augmentation changes[AUGMENTATIONS];
    bool from_itself = dad_rng_uniform(rng) < o->self_probability;
    dad_augment_draw(changes, AUGMENTATIONS, rng);
    const float *source = from_itself ? image : appearance;
    if (source == NULL) {
        dad_texture(w->texture, H, W, rng);
        source = w->texture;
    }
    to_bytes(w->picture, source, 3 * H * W);
    for (int i = 0; i < AUGMENTATIONS; i++) {
        dad_augment(w->picture, &changes[i], H, W, w->copy);
    }
    if (from_itself) {
        shuffle_grid(w, H, W, rng);
    }
}

/* ---- the sample ------------------------------------------------------------------ */

/* mask NULL: the sample is the image. */
static void blend(float *sample /* [3, P] */, const float *image /* [P, 3] */,
                  const float *mask, const uint8_t *picture, float beta, ptrdiff_t P) {
    for (ptrdiff_t i = 0; i < P; i++) {
        float m = mask != NULL ? mask[i] : 0.0f;
        for (int c = 0; c < 3; c++) {
            float x = image[3 * i + c];
            if (m > 0.0f) {
                float a = (float)picture[3 * i + c] * (1.0f / 255.0f);
                x = x * (1.0f - m) + (1.0f - beta) * a * m + beta * x * m;
            }
            sample[c * P + i] = x;
        }
    }
}

/* Sample n's part of an output of `size` floats each; NULL stays NULL. */
static float *part_of(float *all, ptrdiff_t n, ptrdiff_t size) {
    return all != NULL ? all + n * size : NULL;
}

static void clear(float *values, ptrdiff_t count) {
    if (values != NULL) {
        memset(values, 0, (size_t)count * sizeof(*values));
    }
}

static void show_noise(float *noise, const workspace *w, ptrdiff_t H, ptrdiff_t W) {
    dad_rotation rotation = dad_rotation_by(w->degrees, H, W);
    for (ptrdiff_t y = 0; noise != NULL && y < H; y++) {
        dad_rotated_row at = dad_rotation_row(&rotation, y);
        for (ptrdiff_t x = 0; x < W; x++) {
            noise[y * W + x] = read_noise(w->noise, at.y, at.x, H, W);
            at.y += at.step_y;
            at.x += at.step_x;
        }
    }
}

/* What the sample was made of, as far as it is wanted. */
static void show_stages(const dad_samples *out, ptrdiff_t n, const workspace *w,
                        ptrdiff_t H, ptrdiff_t W) {
    ptrdiff_t P = H * W;
    float *part = part_of(out->parts, n, P);
    float *appearance = part_of(out->appearances, n, 3 * P);
    show_noise(part_of(out->noises, n, P), w, H, W);
    for (ptrdiff_t i = 0; part != NULL && i < P; i++) {
        part[i] = w->within != NULL ? w->within[i] : 1.0f;
    }
    for (ptrdiff_t i = 0; appearance != NULL && i < 3 * P; i++) {
        appearance[i % 3 * P + i / 3] = (float)w->picture[i] * (1.0f / 255.0f);
    }
}

static void synthesize_one(const dad_samples *out, const dad_sources *in, ptrdiff_t n,
                           const dad_synthesis_options *o, ptrdiff_t H, ptrdiff_t W,
                           workspace *w) {
    ptrdiff_t P = H * W;
    const float *image = in->images + 3 * n * P;
    const float *foreground = in->foregrounds != NULL ? in->foregrounds + n * P : NULL;
    const float *appearance = in->appearances != NULL ? in->appearances + 3 * n * P : NULL;
    float *sample = out->samples + 3 * n * P, *mask = out->masks + n * P;
    dad_rng rng = dad_rng_seed(in->seeds[n], 0);
    if (dad_rng_uniform(&rng) >= o->anomaly_probability ||
        !draw_mask(w, foreground, o, H, W, &rng)) {
        clear(mask, P);
        clear(part_of(out->noises, n, P), P);
        clear(part_of(out->parts, n, P), P);
        clear(part_of(out->appearances, n, 3 * P), 3 * P);
        blend(sample, image, NULL, NULL, 0.0f, P);
        out->labels[n] = 0;
        return;
    }
    float beta = (float)dad_rng_range(&rng, o->beta_low, o->beta_high);
    draw_appearance(w, image, appearance, o, H, W, &rng);
    memcpy(mask, w->mask, (size_t)P * sizeof(*mask));
    blend(sample, image, w->mask, w->picture, beta, P);
    show_stages(out, n, w, H, W);
    out->labels[n] = 1;
}

ptrdiff_t dad_synthesize_scratch(const dad_synthesis_options *options, ptrdiff_t H,
                                 ptrdiff_t W) {
    workspace unused;
    return dad_num_threads() * lay_out(&unused, NULL, options, H, W);
}

void dad_synthesize(const dad_samples *out, const dad_sources *in,
                    const dad_synthesis_options *options, ptrdiff_t N, ptrdiff_t H,
                    ptrdiff_t W, float *scratch) {
    ptrdiff_t per_thread = dad_synthesize_scratch(options, H, W) / dad_num_threads();
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        workspace w;
        (void)lay_out(&w, scratch + dad_thread_id() * per_thread, options, H, W);
        synthesize_one(out, in, n, options, H, W, &w);
    }
}
