/* The tile transforms of 3x3 convolutions of a map whose pixels stand for 2x2 each: eight
 * by eight outputs from five by five pixels and nine by nine products.
 *
 * In one dimension, with d the pixels, outputs alternate between two filters of two taps,
 *
 *   y[2k]     = (g0 + g1) d[k] + g2 d[k + 1]
 *   y[2k + 1] = g0 d[k] + (g1 + g2) d[k + 1]        k = 0 .. 3
 *
 * and F(4, 2) gives four outputs of either from the same five pixels, with the points 0,
 * -1/2, -2, infinity and 1. At 1 both filters are g0 + g1 + g2, so their product is shared:
 * nine instead of ten. Products 0 .. 3 belong to the first filter, 4 to both, 5 .. 8 to the
 * second; product i reads point i % 5 of the input. Of other points tried, 0, 1, -1 and +-2
 * or +-1/2 lose 1.6 times as much. */
#include "simd/conv_ops.h"
#include "simd/vec.h"

enum {
    PIXELS = 5,
    PRODUCTS = 9,
    OUTPUTS = 8,
    STEP = 4, /* pixels from one tile to the next */
};

DAD_INLINE void input_line(vf *o, const vf *d) {
    o[0] = (d[3] - d[0]) + 1.5f * (d[2] - d[1]);
    o[1] = (d[2] + d[3]) - 2.0f * d[1];
    o[2] = 2.0f * d[3] - (d[1] + d[2]);
    o[3] = (d[4] - d[1]) + 1.5f * (d[3] - d[2]);
    o[4] = (d[1] + d[3]) + 2.5f * d[2];
}

/* A filter of two taps at all points but 1. */
DAD_INLINE void filter_half(vf *u, vf first, vf second) {
    u[0] = -first;
    u[1] = (8.0f / 9.0f) * first - (4.0f / 9.0f) * second;
    u[2] = (1.0f / 9.0f) * second - (1.0f / 18.0f) * first;
    u[3] = second;
}

DAD_INLINE void filter_line(vf *u, const vf *g) {
    const vf left = g[0] + g[1], right = g[1] + g[2];
    filter_half(u, left, g[2]);
    u[4] = (2.0f / 9.0f) * (left + g[2]);
    filter_half(u + PIXELS, g[0], right);
}

/* Every second output, from the products of its filter and the shared one. */
DAD_INLINE void output_half(vf *y, const vf *m, vf shared) {
    y[0] = (m[0] + shared) + (m[1] + m[2]);
    y[2] = shared - (0.5f * m[1] + 2.0f * m[2]);
    y[4] = shared + (0.25f * m[1] + 4.0f * m[2]);
    y[6] = (m[3] + shared) - (0.125f * m[1] + 8.0f * m[2]);
}

DAD_INLINE void output_line(vf *y, const vf *m) {
    output_half(y, m, m[4]);
    output_half(y + 1, m + PIXELS, m[4]);
}

static void filter_tile(float *u, ptrdiff_t point_stride, const float *g) {
    for (int v = 0; v < DAD_PANEL; v += VL) {
        vf rows[3][PRODUCTS], line[3], out[PRODUCTS];
        for (int i = 0; i < 3; i++) {
            for (int j = 0; j < 3; j++) {
                line[j] = vload(g + (i * 3 + j) * DAD_PANEL + v);
            }
            filter_line(rows[i], line);
        }
        for (int j = 0; j < PRODUCTS; j++) {
            for (int i = 0; i < 3; i++) {
                line[i] = rows[i][j];
            }
            filter_line(out, line);
            for (int i = 0; i < PRODUCTS; i++) {
                vstore(u + (i * PRODUCTS + j) * point_stride + v, out[i]);
            }
        }
    }
}

static void input_tiles(float *out, ptrdiff_t point_stride, ptrdiff_t tile_stride,
                        const float *strip, ptrdiff_t columns, ptrdiff_t tiles) {
    for (ptrdiff_t t = 0; t < tiles; t++) {
        for (int v = 0; v < DAD_PANEL; v += VL) {
            const float *d = strip + t * STEP * DAD_PANEL + v;
            float *point = out + t * tile_stride + v;
            vf rows[PIXELS][PIXELS], line[PIXELS], mapped[PIXELS];
            for (int i = 0; i < PIXELS; i++) {
                for (int j = 0; j < PIXELS; j++) {
                    line[j] = vload(d + (i * columns + j) * DAD_PANEL);
                }
                input_line(rows[i], line);
            }
            for (int j = 0; j < PIXELS; j++) {
                for (int i = 0; i < PIXELS; i++) {
                    line[i] = rows[i][j];
                }
                input_line(mapped, line);
                for (int i = 0; i < PIXELS; i++) {
                    vstore(point + (i * PIXELS + j) * point_stride, mapped[i]);
                }
            }
        }
    }
}

/* One vector of channels, v of the panel; n < VL only past the last channel. A tile is a
 * slice of the moments of its own. */
DAD_INLINE void output_vector(const dad_output_place *place, ptrdiff_t v, ptrdiff_t n,
                              const int whole, const int with_moments, const int stream,
                              const float *m, ptrdiff_t point_stride,
                              const dad_output_stage *stage) {
    const vf scale = vload(stage->scale + v), bias = vload(stage->bias + v);
    const vf floor = vset1(stage->floor);
    const float *residual = place->residual;
    const ptrdiff_t above = whole ? 0 : place->above, left = whole ? 0 : place->left;
    const ptrdiff_t rows = whole ? OUTPUTS : place->rows;
    const ptrdiff_t columns = whole ? OUTPUTS : place->columns;
    const int halve = place->residual_doubled;
    vf shift = {0}, sum = {0}, square = {0};
    vf lines[PRODUCTS][OUTPUTS], line[PRODUCTS], pixels[OUTPUTS];
    for (int i = 0; i < PRODUCTS; i++) {
        for (int j = 0; j < PRODUCTS; j++) {
            line[j] = vload(m + (i * PRODUCTS + j) * point_stride + v);
        }
        output_line(lines[i], line);
    }
    for (ptrdiff_t j = left; j < left + columns; j++) {
        for (int i = 0; i < PRODUCTS; i++) {
            line[i] = lines[i][j];
        }
        output_line(pixels, line);
        for (int i = 0; i < OUTPUTS; i++) {
            if (i < above || i >= above + rows) {
                continue;
            }
            vf value = pixels[i] * scale + bias;
            if (residual != NULL) { /* a tile starts with the second half of a pixel */
                const ptrdiff_t row = halve ? (i + 1) / 2 : i;
                const ptrdiff_t column = halve ? (j + 1) / 2 : j;
                value += vload_n(residual + (row - above) * place->residual_row_stride +
                                     (column - left) * place->pixel_stride + v,
                                 n);
            }
            value = vmax(floor, value);
            float *y = place->y + (i - above) * place->row_stride +
                       (j - left) * place->pixel_stride + v;
            if (stream) {
                vstream(y, value);
            } else {
                vstore_n(y, value, n);
            }
            if (with_moments) {
                if (i == above && j == left) {
                    shift = value;
                }
                sum += value - shift;
                square += (value - shift) * (value - shift);
            }
        }
    }
    if (with_moments) {
        float *moments = place->moments + v;
        vstore(moments, vset1((float)(rows * columns)));
        vstore(moments + place->moments_stride, shift);
        vstore(moments + 2 * place->moments_stride, sum);
        vstore(moments + 3 * place->moments_stride, square);
    }
}

static void output_tile(const dad_output_place *place, const float *m,
                        ptrdiff_t point_stride, const dad_output_stage *stage) {
    const int moments = place->moments != NULL, stream = place->stream;
    for (ptrdiff_t v = 0; v < place->channels; v += VL) {
        const ptrdiff_t n = place->channels - v;
        const int whole = n >= VL && place->rows == OUTPUTS && place->columns == OUTPUTS;
        if (whole && moments && stream) {
            output_vector(place, v, VL, 1, 1, 1, m, point_stride, stage);
        } else if (whole && moments) {
            output_vector(place, v, VL, 1, 1, 0, m, point_stride, stage);
        } else if (moments) {
            output_vector(place, v, VL, 0, 1, 0, m, point_stride, stage);
        } else if (whole && stream) {
            output_vector(place, v, VL, 1, 0, 1, m, point_stride, stage);
        } else if (whole) {
            output_vector(place, v, VL, 1, 0, 0, m, point_stride, stage);
        } else if (n >= VL) {
            output_vector(place, v, VL, 0, 0, 0, m, point_stride, stage);
        } else {
            output_vector(place, v, n, 0, 0, 0, m, point_stride, stage);
        }
    }
}

extern const dad_winograd_ops DAD_AT_LEVEL(dad_winograd_doubled_ops);
const dad_winograd_ops DAD_AT_LEVEL(dad_winograd_doubled_ops) = {
    .tile = OUTPUTS,
    .points = PRODUCTS * PRODUCTS,
    .filter = filter_tile,
    .input = input_tiles,
    .output = output_tile,
};
