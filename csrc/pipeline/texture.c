/* Procedural surfaces: the look of anomalies where no folder of textures is given.
 *
 * A surface is a field (clouds, veins, bands, rings, cells, tiles, spots, fibres, weave,
 * speckle) over rotated, scaled and warped coordinates, sometimes with a second one in
 * patches of it; its value picks a colour of a random palette, and light, grain and
 * scratches come on top. All noise is read from one small table of random values: a hash
 * per pixel and corner was slower.
 *
 * The caller owns the image; state lives on the stack (22 KiB); one thread. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "pipeline/pipeline.h"

enum {
    LATTICE = 64,
    PITCH = LATTICE + 1, /* the first row and column again, for the last cells */
    COLOURS = 256,
    SEGMENT = 4, /* pixels between the places where slow changes are computed */
};

typedef struct surface surface;
typedef float (*field)(const surface *s, float x, float y); /* in [0, 1], nearly always */

struct surface {
    float lattice[PITCH * PITCH]; /* uniform in [0, 1] */
    float palette[COLOURS][3];
    field layers[2];
    bool patches;           /* the second layer shows in patches of the first */
    float cosine, sine;     /* from pixels to the first layer's units */
    float warp, warp_scale; /* how far coordinates are pushed, and by noise of which size */
    float ratio;            /* the second layer's units, relative to the first's */
    float p[3];             /* what each field reads, uniform in [0, 1] */
    int octaves;
};

/* ---- noise ----------------------------------------------------------------------- */

static inline int floor_of(float v) {
    int whole = (int)v;
    return whole - (v < (float)whole);
}

static inline float clamp01(float v) { return v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v; }
static inline float smooth(float v) { return v * v * (3.0f - 2.0f * v); }
static inline float mix(float a, float b, float t) { return a + t * (b - a); }

/* 0 below low, 1 above high, smooth between. */
static inline float ramp(float v, float low, float high) {
    return smooth(clamp01((v - low) / (high - low)));
}

/* A smooth wave of period 1: 0 at whole numbers, 1 halfway between. */
static inline float wave(float v) {
    float phase = v - (float)floor_of(v);
    return smooth(1.0f - fabsf(2.0f * phase - 1.0f));
}

static inline const float *lattice_cell(const surface *s, int ix, int iy) {
    return s->lattice + (iy & (LATTICE - 1)) * PITCH + (ix & (LATTICE - 1));
}

static inline float lattice_at(const surface *s, int ix, int iy) {
    return *lattice_cell(s, ix, iy);
}

/* Another random value of the same cell. */
static inline float lattice_again(const surface *s, int ix, int iy, int which) {
    return lattice_at(s, ix + 17 * which + 5 * (iy >> 6), iy + 29 * which + 11 * (ix >> 6));
}

static float noise(const surface *s, float x, float y) {
    int ix = floor_of(x), iy = floor_of(y);
    float u = smooth(x - (float)ix), v = smooth(y - (float)iy);
    const float *cell = lattice_cell(s, ix, iy);
    return mix(mix(cell[0], cell[1], u), mix(cell[PITCH], cell[PITCH + 1], u), v);
}

/* Octaves of noise, each turned a little, so that their grids never coincide. */
static float octave_noise(const surface *s, float x, float y, int octaves) {
    float sum = 0.0f, amplitude = 0.5f, total = 0.0f;
    for (int k = 0; k < octaves; k++) {
        sum += amplitude * noise(s, x, y);
        total += amplitude;
        amplitude *= 0.5f;
        float turned = 1.6f * x + 1.2f * y + 7.3f;
        y = 1.6f * y - 1.2f * x + 3.1f;
        x = turned;
    }
    return ramp(sum / total, 0.15f, 0.85f);
}

/* ---- fields ---------------------------------------------------------------------- */

static float clouds(const surface *s, float x, float y) {
    return octave_noise(s, x, y, s->octaves);
}

static float veins(const surface *s, float x, float y) {
    float ridge = 1.0f - fabsf(2.0f * octave_noise(s, x, y, s->octaves) - 1.0f);
    return mix(ridge, ridge * ridge * ridge * ridge, s->p[0]);
}

static float bands(const surface *s, float x, float y) {
    float v = wave(x + 0.6f * s->p[0] * noise(s, 0.5f * x, 0.5f * y));
    float edge = 0.05f + 0.45f * s->p[1];
    return mix(ramp(v, 0.5f - edge, 0.5f + edge), lattice_at(s, floor_of(x), 0),
               0.6f * s->p[2]);
}

static float rings(const surface *s, float x, float y) {
    float long_axis = x * (0.2f + 0.8f * s->p[0]);
    float radius =
        sqrtf(long_axis * long_axis + y * y) + 0.5f * noise(s, 0.3f * x, 0.3f * y);
    float grain = noise(s, 0.5f * x, 12.0f * y);
    return mix(wave(radius), grain, 0.25f * s->p[1]);
}

typedef struct {
    float nearest, second; /* squared distances to the two nearest points */
    int ix, iy;            /* the nearest point's cell */
} neighbours;

/* One point in every cell, at a random place. */
static neighbours find_points(const surface *s, float x, float y) {
    float nearest = 9.0f, second = 9.0f;
    int cell_x = floor_of(x), cell_y = floor_of(y), which = 0;
    for (int k = 0; k < 9; k++) {
        int ix = cell_x + k % 3 - 1, iy = cell_y + k / 3 - 1;
        float dx = (float)ix + lattice_again(s, ix, iy, 1) - x;
        float dy = (float)iy + lattice_again(s, ix, iy, 2) - y;
        float distance = dx * dx + dy * dy;
        float further = distance > nearest ? distance : nearest;
        second = further < second ? further : second;
        which = distance < nearest ? k : which;
        nearest = distance < nearest ? distance : nearest;
    }
    return (neighbours){nearest, second, cell_x + which % 3 - 1, cell_y + which / 3 - 1};
}

/* Pebbles, scales or cracked mud: a shade per cell, darker towards its border. */
static float cells(const surface *s, float x, float y) {
    neighbours n = find_points(s, x, y);
    float to_border = sqrtf(n.second) - sqrtf(n.nearest);
    float shade = mix(sqrtf(n.nearest), lattice_again(s, n.ix, n.iy, 3), s->p[0]);
    return clamp01(shade) *
           mix(1.0f, ramp(to_border, 0.0f, 0.05f + 0.3f * s->p[1]), s->p[2]);
}

/* Discs of random size on a shaded ground. */
static float spots(const surface *s, float x, float y) {
    neighbours n = find_points(s, x, y);
    float radius = 0.15f + 0.35f * lattice_again(s, n.ix, n.iy, 3);
    float inside = 1.0f - ramp(sqrtf(n.nearest), radius * (1.0f - 0.6f * s->p[0]), radius);
    float ground = 0.35f * noise(s, 0.7f * x, 0.7f * y);
    return mix(ground, 0.55f + 0.45f * lattice_again(s, n.ix, n.iy, 4), inside);
}

/* Checks, tiles or bricks: a shade per tile, joints between. */
static float tiles(const surface *s, float x, float y) {
    int row = floor_of(y);
    x += s->p[0] > 0.5f && (row & 1) ? 0.5f : 0.0f;
    x *= s->p[0] > 0.5f ? 0.5f : 1.0f;
    int column = floor_of(x);
    float u = fabsf(x - (float)column - 0.5f), v = fabsf(y - (float)row - 0.5f);
    float joint = 0.5f - 0.12f * s->p[1];
    float in_tile = 1.0f - ramp(u > v ? u : v, joint - 0.04f, joint);
    float shade =
        s->p[2] > 0.5f ? (float)((row + column) & 1) : lattice_again(s, column, row, 1);
    return in_tile * mix(0.25f + 0.75f * shade, noise(s, 6.0f * x, 6.0f * y), 0.2f);
}

/* Brushed metal, straw or hair: noise drawn out along one direction, or along two. */
static float fibres(const surface *s, float x, float y) {
    float stretch = 0.02f + 0.15f * s->p[0];
    float along = octave_noise(s, stretch * x, 2.0f * y, 2);
    float across = s->p[1] > 0.6f ? octave_noise(s, 2.0f * x, stretch * y, 2) : along;
    return along > across ? along : across;
}

/* Threads over and under each other. */
static float weave(const surface *s, float x, float y) {
    int over = (floor_of(x) + floor_of(y)) & 1;
    float warp_thread = wave(x) * (0.55f + 0.45f * wave(y + 0.5f * (float)over));
    float weft_thread = wave(y) * (0.55f + 0.45f * wave(x + 0.5f * (float)!over));
    float v =
        over ? mix(warp_thread, weft_thread, 0.3f) : mix(weft_thread, warp_thread, 0.3f);
    float twill = wave(0.25f * (x + y)) * s->p[0];
    return clamp01(mix(v, twill, 0.3f) * (0.8f + 0.4f * noise(s, 0.3f * x, 3.0f * y)));
}

/* Granite, sand or rust: coarse and fine noise, cut into a few levels or not. */
static float speckle(const surface *s, float x, float y) {
    float v = mix(noise(s, 3.0f * x, 3.0f * y), noise(s, 9.1f * x, 9.1f * y),
                  0.3f + 0.4f * s->p[0]);
    float cut = ramp(v, 0.5f, 0.5f + 0.05f + 0.3f * s->p[1]);
    return mix(cut, octave_noise(s, x, y, 3), 0.2f + 0.6f * s->p[2]);
}

typedef struct {
    field shape;
    float fewest, most; /* units across the image's longer side */
} kind;

static const kind kinds[] = {
    {clouds, 2.0f, 16.0f},  {veins, 2.0f, 10.0f},   {bands, 4.0f, 40.0f},
    {rings, 4.0f, 24.0f},   {cells, 4.0f, 32.0f},   {spots, 4.0f, 24.0f},
    {tiles, 3.0f, 24.0f},   {fibres, 12.0f, 60.0f}, {weave, 8.0f, 48.0f},
    {speckle, 4.0f, 28.0f},
};

enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

/* ---- colours --------------------------------------------------------------------- */

static float channel_of(float hue, float saturation, float value, float n) {
    float k = fmodf(n + 6.0f * hue, 6.0f);
    return value - value * saturation * clamp01(k < 2.0f ? k : 4.0f - k);
}

/* Half of the hues lie between red and yellow, where most materials are. */
static double draw_hue(dad_rng *rng) {
    double hue = dad_rng_uniform(rng);
    return dad_rng_below(rng, 2) ? 0.01 + 0.14 * hue : hue;
}

/* Three to five colours of related hue, muted more often than not, joined by ramps. */
static void mix_palette(surface *s, dad_rng *rng) {
    float keys[5][3];
    int count = 3 + (int)dad_rng_below(rng, 3);
    double spread = dad_rng_below(rng, 3) == 0 ? 1.0 : 0.12, hue = draw_hue(rng);
    static const double vividness[] = {0.0, 0.15, 0.35, 0.5, 0.7, 1.0};
    double vivid = vividness[dad_rng_below(rng, 6)];
    double darkest = dad_rng_range(rng, 0.0, 0.45);
    double brightest = dad_rng_range(rng, 0.55, 1.0);
    for (int k = 0; k < count; k++) {
        double turn = hue + spread * (dad_rng_uniform(rng) - 0.5) + 1.0;
        float h = (float)(turn - floor(turn)), sat = (float)(vivid * dad_rng_uniform(rng));
        double place = ((double)k + dad_rng_uniform(rng)) / count;
        float value = (float)(darkest + (brightest - darkest) * place);
        for (int c = 0; c < 3; c++) {
            keys[k][c] = channel_of(h, sat, value, (float)(5 - 2 * c));
        }
    }
    int reversed = (int)dad_rng_below(rng, 2);
    for (int i = 0; i < COLOURS; i++) {
        float at =
            (float)(reversed ? COLOURS - 1 - i : i) / (COLOURS - 1) * (float)(count - 1);
        int k = at >= (float)(count - 1) ? count - 2 : (int)at;
        for (int c = 0; c < 3; c++) {
            s->palette[i][c] = mix(keys[k][c], keys[k + 1][c], at - (float)k);
        }
    }
}

/* ---- the image ------------------------------------------------------------------- */

static void fill_lattice(float *lattice, dad_rng *rng) {
    for (int y = 0; y < LATTICE; y++) {
        for (int x = 0; x < LATTICE; x++) {
            lattice[y * PITCH + x] = (float)dad_rng_uniform(rng);
        }
        lattice[y * PITCH + LATTICE] = lattice[y * PITCH];
    }
    memcpy(lattice + LATTICE * PITCH, lattice, PITCH * sizeof(*lattice));
}

static void draw_surface(surface *s, dad_rng *rng, double side) {
    fill_lattice(s->lattice, rng);
    mix_palette(s, rng);
    const kind *first = &kinds[dad_rng_below(rng, KINDS)];
    const kind *second = &kinds[dad_rng_below(rng, KINDS)];
    s->layers[0] = first->shape;
    s->layers[1] = second->shape;
    s->patches = dad_rng_below(rng, 4) == 0;
    double units = exp(dad_rng_range(rng, log(first->fewest), log(first->most)));
    double turn = dad_rng_range(rng, 0.0, 6.283185307179586);
    s->cosine = (float)(cos(turn) * units / side);
    s->sine = (float)(sin(turn) * units / side);
    s->ratio =
        (float)(exp(dad_rng_range(rng, log(second->fewest), log(second->most))) / units);
    s->warp = (float)(dad_rng_below(rng, 2) ? dad_rng_range(rng, 0.0, 1.2) : 0.0);
    s->warp_scale = (float)dad_rng_range(rng, 0.15, 0.6);
    for (int k = 0; k < 3; k++) {
        s->p[k] = (float)dad_rng_uniform(rng);
    }
    s->octaves = 2 + (int)dad_rng_below(rng, 4);
}

/* Where the image lies on the surface, and how it is lit. */
typedef struct {
    float x, y;               /* the first pixel */
    float light, light_scale; /* how uneven; noise cells per pixel */
    float grain;
} placement;

static placement draw_placement(dad_rng *rng, double side) {
    placement at;
    at.x = (float)dad_rng_range(rng, 0.0, LATTICE);
    at.y = (float)dad_rng_range(rng, 0.0, LATTICE);
    at.light = (float)dad_rng_range(rng, 0.0, 0.5);
    at.light_scale = (float)(2.5 / side);
    at.grain = (float)(dad_rng_below(rng, 3) ? dad_rng_range(rng, 0.0, 0.06)
                                             : dad_rng_range(rng, 0.06, 0.2));
    return at;
}

/* What changes slowly over the image: computed at every SEGMENT-th pixel only. */
typedef struct {
    float push_x, push_y; /* the warp */
    float there;          /* how much of the second layer */
    float light;
} slow;

static slow slow_at(const surface *s, const placement *at, float i, float j) {
    float x = at->x + s->cosine * i - s->sine * j, y = at->y + s->sine * i + s->cosine * j;
    slow v = {0.0f, 0.0f, 0.0f, 1.0f};
    if (s->warp > 0.0f) {
        float a = s->warp_scale * x, b = s->warp_scale * y;
        v.push_x = s->warp * (noise(s, a, b) - 0.5f);
        v.push_y = s->warp * (noise(s, a + 31.7f, b + 11.3f) - 0.5f);
    }
    if (s->patches) {
        v.there = ramp(octave_noise(s, 0.3f * x + 5.1f, 0.3f * y + 9.7f, 3), 0.45f, 0.55f);
    }
    v.light += at->light * (noise(s, at->light_scale * i, at->light_scale * j) - 0.5f);
    return v;
}

static float value_at(const surface *s, float x, float y, float there) {
    float value = s->layers[0](s, x, y);
    if (there > 0.0f) {
        value = mix(value, s->layers[1](s, s->ratio * x, s->ratio * y), there);
    }
    return clamp01(value);
}

/* SEGMENT pixels of row j from column i on, between two places where `slow` is known. */
static void paint_segment(float *pixel, const surface *s, const placement *at, slow from,
                          slow to, ptrdiff_t column, ptrdiff_t row, ptrdiff_t count,
                          dad_rng *rng) {
    for (ptrdiff_t k = 0; k < count; k++, pixel += 3) {
        float t = (float)k * (1.0f / SEGMENT), i = (float)(column + k), j = (float)row;
        float x = at->x + s->cosine * i - s->sine * j + mix(from.push_x, to.push_x, t);
        float y = at->y + s->sine * i + s->cosine * j + mix(from.push_y, to.push_y, t);
        float value = value_at(s, x, y, mix(from.there, to.there, t));
        const float *colour = s->palette[(int)(value * (COLOURS - 1) + 0.5f)];
        float light = mix(from.light, to.light, t);
        float dust = at->grain * ((float)(dad_rng_next(rng) >> 40) * 0x1.0p-24f - 0.5f);
        for (int c = 0; c < 3; c++) {
            pixel[c] = clamp01(colour[c] * light + dust);
        }
    }
}

static void paint(float *texture, const surface *s, const placement *at, ptrdiff_t H,
                  ptrdiff_t W, dad_rng *rng) {
    for (ptrdiff_t row = 0; row < H; row++) {
        slow to = slow_at(s, at, 0.0f, (float)row);
        for (ptrdiff_t column = 0; column < W; column += SEGMENT) {
            slow from = to;
            to = slow_at(s, at, (float)(column + SEGMENT), (float)row);
            ptrdiff_t count = W - column < SEGMENT ? W - column : SEGMENT;
            paint_segment(texture + 3 * (row * W + column), s, at, from, to, column, row,
                          count, rng);
        }
    }
}

/* Lines that bend a little, a pixel or two wide, of one colour each. */
static void scratch(float *texture, const surface *s, ptrdiff_t H, ptrdiff_t W,
                    dad_rng *rng) {
    double side = (double)(H > W ? H : W);
    double x = dad_rng_range(rng, 0.0, (double)W), y = dad_rng_range(rng, 0.0, (double)H);
    double angle = dad_rng_range(rng, 0.0, 6.283185307179586);
    double bend = dad_rng_range(rng, -3.0, 3.0) / side;
    double length = dad_rng_range(rng, 0.1, 1.0);
    const float *colour = s->palette[dad_rng_below(rng, COLOURS)];
    float strength = (float)dad_rng_range(rng, 0.3, 1.0);
    ptrdiff_t thickness = 1 + dad_rng_below(rng, 1 + (int64_t)(side / 96.0));
    ptrdiff_t steps = (ptrdiff_t)(length * side);
    for (ptrdiff_t k = 0; k < steps; k++) {
        x += cos(angle);
        y += sin(angle);
        angle += bend;
        ptrdiff_t top = (ptrdiff_t)floor(y), left = (ptrdiff_t)floor(x);
        ptrdiff_t bottom = dad_min(top + thickness, H),
                  right = dad_min(left + thickness, W);
        for (ptrdiff_t i = dad_max(top, 0); i < bottom; i++) {
            for (ptrdiff_t j = dad_max(left, 0); j < right; j++) {
                float *pixel = texture + 3 * (i * W + j);
                for (int c = 0; c < 3; c++) {
                    pixel[c] = mix(pixel[c], colour[c], strength);
                }
            }
        }
    }
}

void dad_texture(float *texture, ptrdiff_t H, ptrdiff_t W, dad_rng *rng) {
    surface s;
    double side = (double)(H > W ? H : W);
    draw_surface(&s, rng, side);
    placement at = draw_placement(rng, side);
    paint(texture, &s, &at, H, W, rng);
    if (dad_rng_below(rng, 4) == 0) {
        for (int64_t n = 1 + dad_rng_below(rng, 30); n > 0; n--) {
            scratch(texture, &s, H, W, rng);
        }
    }
}
