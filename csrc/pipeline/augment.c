/* Ten random changes of an RGB image, three of which make the appearance of an anomaly
 * (paper, section 3.4). On uint8 values, as in the libraries they come from.
 *
 * Most are a table per channel; brightness, hue and saturation are per pixel; sharpness and
 * rotation read neighbours from a copy. The caller owns the buffers; one thread. */
#include <math.h>
#include <string.h>

#include "pipeline/pipeline.h"
#include "pipeline/rotation.h"

typedef uint8_t channel_tables[3][256];

/* At the baseline fminf and fmaxf are calls, because of NaN; these are instructions. */
static inline float least(float a, float b) { return a < b ? a : b; }
static inline float greatest(float a, float b) { return a > b ? a : b; }

static uint8_t to_byte(double v) {
    return (uint8_t)(v <= 0.0 ? 0 : v >= 255.0 ? 255 : (int)v);
}

/* ---- tables ---------------------------------------------------------------------- */

static void gamma_table(uint8_t *table, double gamma) {
    for (int v = 0; v < 256; v++) {
        table[v] = to_byte(255.0 * pow(v / 255.0, gamma) + 0.5);
    }
}

/* The middle of each of 2^bits equal steps. */
static void posterize_table(uint8_t *table, int bits) {
    int step = 256 >> bits;
    for (int v = 0; v < 256; v++) {
        table[v] = (uint8_t)(v / step * step + step / 2);
    }
}

static void count_values(ptrdiff_t *histogram, const uint8_t *image, int channel,
                         ptrdiff_t pixels) {
    memset(histogram, 0, 256 * sizeof(*histogram));
    for (ptrdiff_t i = 0; i < pixels; i++) {
        histogram[image[3 * i + channel]]++;
    }
}

static int first_kept(const ptrdiff_t *histogram, ptrdiff_t cut, int from, int step) {
    int v = from;
    for (ptrdiff_t dropped = histogram[v]; dropped <= cut && v != 255 - from; v += step) {
        dropped += histogram[v + step];
    }
    return v;
}

/* What is left when `cutoff` percent are dropped at either end is stretched to 0 .. 255. */
static void autocontrast_table(uint8_t *table, const ptrdiff_t *histogram, ptrdiff_t pixels,
                               double cutoff) {
    ptrdiff_t cut = (ptrdiff_t)((double)pixels * cutoff / 100.0);
    int low = first_kept(histogram, cut, 0, 1), high = first_kept(histogram, cut, 255, -1);
    double scale = high > low ? 255.0 / (high - low) : 1.0;
    double offset = high > low ? -low * scale : 0.0;
    for (int v = 0; v < 256; v++) {
        table[v] = to_byte(v * scale + offset);
    }
}

/* Pillow's equalisation: the last occupied value is left out of the step. */
static void equalize_table(uint8_t *table, const ptrdiff_t *histogram, ptrdiff_t pixels) {
    int last = 255;
    while (last > 0 && histogram[last] == 0) {
        last--;
    }
    ptrdiff_t step = (pixels - histogram[last]) / 255, sum = step / 2;
    for (int v = 0; v < 256; v++) {
        table[v] = step > 0 ? to_byte((double)(sum / step)) : (uint8_t)v;
        sum += histogram[v];
    }
}

static void make_table(uint8_t *table, const dad_augmentation *change, int channel,
                       const uint8_t *image, ptrdiff_t pixels) {
    ptrdiff_t histogram[256];
    switch (change->kind) {
    case DAD_GAMMA:
        gamma_table(table, change->p[channel]);
        break;
    case DAD_POSTERIZE:
        posterize_table(table, (int)change->p[0]);
        break;
    case DAD_AUTOCONTRAST:
        count_values(histogram, image, channel, pixels);
        autocontrast_table(table, histogram, pixels, change->p[0]);
        break;
    case DAD_EQUALIZE:
        count_values(histogram, image, channel, pixels);
        equalize_table(table, histogram, pixels);
        break;
    default: /* solarize; invert is solarize from 0 */
        for (int v = 0; v < 256; v++) {
            table[v] = (uint8_t)(v >= change->p[0] ? 255 - v : v);
        }
    }
}

static void apply_tables(uint8_t *image, const dad_augmentation *change, ptrdiff_t pixels) {
    channel_tables tables;
    for (int c = 0; c < 3; c++) {
        make_table(tables[c], change, c, image, pixels);
    }
    for (ptrdiff_t i = 0; i < pixels; i++) {
        for (int c = 0; c < 3; c++) {
            image[3 * i + c] = tables[c][image[3 * i + c]];
        }
    }
}

/* ---- per pixel ------------------------------------------------------------------- */

static uint8_t clamp_byte(float v) {
    return (uint8_t)(v <= 0.0f ? 0.0f : v >= 254.5f ? 255.0f : v + 0.5f);
}

/* Luma is multiplied and shifted, the chroma stay: all three channels move by the same. */
static void change_brightness(uint8_t *image, const double *p, ptrdiff_t pixels) {
    float multiply = (float)p[0];
    float add = (float)(p[2] != 0.0 ? p[1] * p[0] : p[1]); /* a first shift is multiplied */
    for (ptrdiff_t i = 0; i < pixels; i++) {
        uint8_t *v = image + 3 * i;
        float luma = 0.299f * v[0] + 0.587f * v[1] + 0.114f * v[2];
        float wanted = least(greatest(luma * multiply + add, 0.0f), 255.0f);
        for (int c = 0; c < 3; c++) {
            v[c] = clamp_byte((float)v[c] + (wanted - luma));
        }
    }
}

/* Red, green or blue (n = 5, 3, 1); the hue in sixths of a turn. */
static float from_hsv(float hue, float saturation, float value, float n) {
    float k = hue + n;
    k = k >= 6.0f ? k - 6.0f : k;
    float down = greatest(0.0f, least(least(k, 4.0f - k), 1.0f));
    return value - value * saturation * down;
}

static float hue_of(float r, float g, float b, float most, float range) {
    if (range <= 0.0f) {
        return 0.0f;
    }
    float hue = most == r   ? (g - b) / range
                : most == g ? 2.0f + (b - r) / range
                            : 4.0f + (r - g) / range;
    return hue < 0.0f ? hue + 6.0f : hue;
}

/* p in 255ths: of a turn for the hue, of the whole range for the saturation. */
static void change_hue_saturation(uint8_t *image, const double *p, ptrdiff_t pixels) {
    float turn = (float)(p[0] / 255.0 * 6.0), add = (float)(p[1] / 255.0);
    for (ptrdiff_t i = 0; i < pixels; i++) {
        uint8_t *v = image + 3 * i;
        float r = v[0], g = v[1], b = v[2];
        float most = greatest(r, greatest(g, b)), range = most - least(r, least(g, b));
        float hue = hue_of(r, g, b, most, range) + turn;
        hue = hue < 0.0f ? hue + 6.0f : hue >= 6.0f ? hue - 6.0f : hue;
        float saturation = most > 0.0f ? range / most : 0.0f;
        saturation = least(greatest(saturation + add, 0.0f), 1.0f);
        v[0] = clamp_byte(from_hsv(hue, saturation, most, 5.0f));
        v[1] = clamp_byte(from_hsv(hue, saturation, most, 3.0f));
        v[2] = clamp_byte(from_hsv(hue, saturation, most, 1.0f));
    }
}

/* ---- neighbours ------------------------------------------------------------------ */

/* Away from (factor > 1) or towards a smoothed copy; the outermost pixels stay. */
static void change_sharpness(uint8_t *image, const uint8_t *copy, double factor,
                             ptrdiff_t H, ptrdiff_t W) {
    ptrdiff_t across = 3 * W;
    for (ptrdiff_t y = 1; y < H - 1; y++) {
        const uint8_t *row = copy + y * across;
        for (ptrdiff_t i = 3; i < across - 3; i++) {
            const uint8_t *v = row + i, *above = v - across, *below = v + across;
            int sum = above[-3] + above[0] + above[3] + v[-3] + 5 * v[0] + v[3] +
                      below[-3] + below[0] + below[3];
            float smooth = (float)((2 * sum + 13) / 26);
            float sharp = smooth + (float)factor * (v[0] - smooth);
            image[y * across + i] = (uint8_t)least(greatest(sharp, 0.0f), 255.0f);
        }
    }
}

/* Bilinear with 8-bit weights; black outside. */
static void read_rotated(uint8_t *out, const uint8_t *copy, int64_t y, int64_t x,
                         ptrdiff_t H, ptrdiff_t W) {
    int b = (int)(y >> (DAD_FIXED_BITS - 8)) & 255;
    int r = (int)(x >> (DAD_FIXED_BITS - 8)) & 255;
    int weights[4] = {(256 - b) * (256 - r), (256 - b) * r, b * (256 - r), b * r};
    ptrdiff_t row = y >> DAD_FIXED_BITS, column = x >> DAD_FIXED_BITS;
    int sums[3] = {1 << 15, 1 << 15, 1 << 15};
    for (int k = 0; k < 4; k++) {
        ptrdiff_t i = row + (k >> 1), j = column + (k & 1);
        if (i >= 0 && i < H && j >= 0 && j < W) {
            const uint8_t *v = copy + 3 * (i * W + j);
            sums[0] += weights[k] * v[0];
            sums[1] += weights[k] * v[1];
            sums[2] += weights[k] * v[2];
        }
    }
    out[0] = (uint8_t)(sums[0] >> 16);
    out[1] = (uint8_t)(sums[1] >> 16);
    out[2] = (uint8_t)(sums[2] >> 16);
}

static void rotate(uint8_t *image, const uint8_t *copy, double degrees, ptrdiff_t H,
                   ptrdiff_t W) {
    dad_rotation rotation = dad_rotation_by(degrees, H, W);
    for (ptrdiff_t y = 0; y < H; y++) {
        dad_rotated_row at = dad_rotation_row(&rotation, y);
        for (ptrdiff_t x = 0; x < W; x++) {
            read_rotated(image + 3 * (y * W + x), copy, at.y, at.x, H, W);
            at.y += at.step_y;
            at.x += at.step_x;
        }
    }
}

/* ---- the choice ------------------------------------------------------------------ */

static dad_augmentation draw(dad_augmenter kind, dad_rng *rng) {
    dad_augmentation a = {.kind = kind};
    switch (kind) {
    case DAD_GAMMA:
        for (int c = 0; c < 3; c++) {
            a.p[c] = dad_rng_range(rng, 0.5, 2.0);
        }
        break;
    case DAD_BRIGHTNESS:
        a.p[0] = dad_rng_range(rng, 0.8, 1.2);
        a.p[1] = dad_rng_range(rng, -30.0, 30.0);
        a.p[2] = (double)dad_rng_below(rng, 2);
        break;
    case DAD_SHARPNESS:
        a.p[0] = dad_rng_range(rng, 0.0, 3.0);
        break;
    case DAD_HUE_SATURATION:
        a.p[0] = dad_rng_range(rng, -50.0, 50.0);
        a.p[1] = dad_rng_range(rng, -50.0, 50.0);
        break;
    case DAD_SOLARIZE: /* half of the time it does nothing */
        a.p[0] = dad_rng_below(rng, 2) ? 256.0 : (double)(32 + dad_rng_below(rng, 97));
        break;
    case DAD_POSTERIZE:
        a.p[0] = (double)(1 + dad_rng_below(rng, 8));
        break;
    case DAD_AUTOCONTRAST:
        a.p[0] = (double)dad_rng_below(rng, 21);
        break;
    case DAD_ROTATION:
        a.p[0] = dad_rng_range(rng, -45.0, 45.0);
        break;
    default: /* invert and equalize have no parameters */
        break;
    }
    return a;
}

void dad_augment_draw(dad_augmentation *chosen, ptrdiff_t count, dad_rng *rng) {
    dad_augmenter kinds[DAD_AUGMENTERS];
    for (int i = 0; i < DAD_AUGMENTERS; i++) {
        kinds[i] = (dad_augmenter)i;
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t other = i + dad_rng_below(rng, DAD_AUGMENTERS - i);
        dad_augmenter kind = kinds[other];
        kinds[other] = kinds[i];
        chosen[i] = draw(kind, rng);
    }
}

void dad_augment(uint8_t *image, const dad_augmentation *change, ptrdiff_t H, ptrdiff_t W,
                 uint8_t *scratch) {
    switch (change->kind) {
    case DAD_BRIGHTNESS:
        change_brightness(image, change->p, H * W);
        break;
    case DAD_HUE_SATURATION:
        change_hue_saturation(image, change->p, H * W);
        break;
    case DAD_SHARPNESS:
        memcpy(scratch, image, (size_t)(3 * H * W));
        change_sharpness(image, scratch, change->p[0], H, W);
        break;
    case DAD_ROTATION:
        memcpy(scratch, image, (size_t)(3 * H * W));
        rotate(image, scratch, change->p[0], H, W);
        break;
    default:
        apply_tables(image, change, H * W);
    }
}
