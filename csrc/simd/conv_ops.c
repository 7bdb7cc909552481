/* Products with packed panels (product.inc), and the copies around them. */
#include "simd/conv_ops.h"

#include "simd/vec.h"

enum {
    OUTER_ROWS = VL == 16 ? 8 : 6, /* of an outer product's result */
    SUM_ROWS = 32,                 /* added in float before they go to a double */
    SUM_WIDTH = 64,                /* channels at a time */
};

#define PRODUCT_TARGET
#define PRODUCT_FACTOR(p) vset1(*(p))
#define PRODUCT_ADD(c, a, b) ((c) + (a) * (b))
#include "simd/product.inc"

/* c = (add ? c : 0) + a^T b for `rows` columns of a. The sum over T is made apart and added
 * as a whole: long sums lose less that way. */
DAD_INLINE void outer_block(const int rows, const int vectors, const operands *p, int add) {
    vf acc[OUTER_ROWS][2];
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            acc[i][j] = vset1(0.0f);
        }
    }
    accumulate(acc, acc, rows, vectors, p, 1, DAD_PANEL, p->depth, 0);
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            float *c = p->c + i * DAD_PANEL + j * p->c_gap;
            vstore(c, add ? vload(c) + acc[i][j] : acc[i][j]);
        }
    }
}

/* The DAD_PANEL rows of the result for one or two vectors of columns. */
DAD_INLINE void outer_columns(const int vectors, const operands *all, int add) {
    operands p = *all;
    for (int i = 0; i + OUTER_ROWS <= DAD_PANEL; i += OUTER_ROWS) {
        outer_block(OUTER_ROWS, vectors, &p, add);
        p.a += OUTER_ROWS;
        p.c += OUTER_ROWS * DAD_PANEL;
    }
    if (DAD_PANEL % OUTER_ROWS > 0) {
        outer_block(DAD_PANEL % OUTER_ROWS, vectors, &p, add);
    }
}

static void outer_product(float *c, ptrdiff_t c_panel, const float *a, const float *b,
                          ptrdiff_t b_panel, int panels, ptrdiff_t T, int add) {
#if VL == 16
    operands p = {c, c_panel, a, 1, b, b_panel, T, 0};
    if (panels == 2) {
        outer_columns(2, &p, add);
    } else {
        outer_columns(1, &p, add);
    }
#else
    for (int panel = 0; panel < panels; panel++) {
        for (int j = 0; j < DAD_PANEL; j += 2 * VL) {
            operands p = {c + panel * c_panel + j, VL, a, 1,
                          b + panel * b_panel + j, VL, T, 0};
            outer_columns(2, &p, add);
        }
    }
#endif
}

/* One vector of columns; n < VL only past the last channel. */
DAD_INLINE void emit_column(float *y, ptrdiff_t ldy, const float *c, ptrdiff_t rows,
                            ptrdiff_t n, vf scale, vf bias, vf floor, const float *residual,
                            const int stream) {
    for (ptrdiff_t i = 0; i < rows; i++) {
        vf value = vload(c + i * DAD_PANEL) * scale + bias;
        if (residual != NULL) {
            value += vload_n(residual + i * ldy, n);
        }
        if (stream) {
            vstream(y + i * ldy, vmax(floor, value));
        } else {
            vstore_n(y + i * ldy, vmax(floor, value), n);
        }
    }
}

static void emit(float *y, ptrdiff_t ldy, const float *c, ptrdiff_t rows,
                 ptrdiff_t channels, const dad_output_stage *stage, const float *residual,
                 int stream) {
    const vf floor = vset1(stage->floor);
    for (ptrdiff_t j = 0; j < channels; j += VL) {
        const float *r = residual ? residual + j : NULL;
        const vf scale = vload(stage->scale + j), bias = vload(stage->bias + j);
        const ptrdiff_t n = channels - j;
        if (n >= VL && stream) {
            emit_column(y + j, ldy, c + j, rows, VL, scale, bias, floor, r, 1);
        } else if (n >= VL) {
            emit_column(y + j, ldy, c + j, rows, VL, scale, bias, floor, r, 0);
        } else {
            emit_column(y + j, ldy, c + j, rows, n, scale, bias, floor, r, 0);
        }
    }
}

/* A group of channels of one row of pixels: whole groups only are taken as vectors. */
typedef struct {
    const float *row; /* [.., C] */
    ptrdiff_t C, channels;
    float scale[DAD_PANEL], shift[DAD_PANEL]; /* zero past the last channel */
} pixel_row;

/* dst [pixels][DAD_PANEL] = the pixels from `column` on, or those whose doubles they are.
 */
DAD_INLINE void copy_pixels(float *dst, const pixel_row *from, ptrdiff_t column,
                            ptrdiff_t pixels, const int doubled, const int normalize) {
    const size_t width = (size_t)from->channels * sizeof(float);
    float part[DAD_PANEL] = {0};
    for (ptrdiff_t i = 0; i < pixels; i++, dst += DAD_PANEL) {
        const float *pixel =
            from->row + (doubled ? (column + i) / 2 : column + i) * from->C;
        __builtin_prefetch(pixel + DAD_PANEL, 0, 2); /* of the next group of channels */
        if (from->channels < DAD_PANEL) {
            memcpy(part, pixel, width);
            pixel = part;
        }
#pragma GCC unroll 4
        for (int j = 0; j < DAD_PANEL; j += VL) {
            vf x = vload(pixel + j);
            vstore(dst + j, normalize
                                ? vsilu(x * vload(from->scale + j) + vload(from->shift + j))
                                : x);
        }
    }
}

static void copy_any(float *dst, const pixel_row *from, ptrdiff_t column, ptrdiff_t pixels,
                     int doubled, int normalize) {
    if (normalize) {
        if (doubled) {
            copy_pixels(dst, from, column, pixels, 1, 1);
        } else {
            copy_pixels(dst, from, column, pixels, 0, 1);
        }
    } else if (doubled) {
        copy_pixels(dst, from, column, pixels, 1, 0);
    } else {
        copy_pixels(dst, from, column, pixels, 0, 0);
    }
}

static void strip(float *dst, const dad_strip_source *source, ptrdiff_t c, ptrdiff_t row,
                  ptrdiff_t column, ptrdiff_t rows, ptrdiff_t columns) {
    const ptrdiff_t W = source->W, C = source->C;
    const int doubled = source->doubled, normalize = source->scale != NULL;
    pixel_row from = {.C = C, .channels = C - c < DAD_PANEL ? C - c : DAD_PANEL};
    if (normalize) {
        memcpy(from.scale, source->scale + c, (size_t)from.channels * sizeof(float));
        memcpy(from.shift, source->shift + c, (size_t)from.channels * sizeof(float));
    }
    const ptrdiff_t begin = column < 0 ? 0 : column;
    const ptrdiff_t end = column + columns > W ? W : column + columns;
    const size_t pixel = DAD_PANEL * sizeof(float);
    for (ptrdiff_t i = row; i < row + rows; i++, dst += columns * DAD_PANEL) {
        if (i < 0 || i >= source->H || begin >= end) {
            memset(dst, 0, (size_t)columns * pixel);
            continue;
        }
        float *inside = dst + (begin - column) * DAD_PANEL;
        memset(dst, 0, (size_t)(begin - column) * pixel);
        from.row = source->image + (doubled ? i / 2 * (W / 2) : i * W) * C + c;
        copy_any(inside, &from, begin, end - begin, doubled, normalize);
        memset(dst + (end - column) * DAD_PANEL, 0,
               (size_t)(column + columns - end) * pixel);
    }
}

static void round_bfloat16(float *out, const float *x, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += VL) {
        vstore_bfloat16(out + i / 2, vload(x + i));
    }
}

static void pair_bfloat16(float *out, ptrdiff_t stride, const float *rows,
                          ptrdiff_t pairs) {
    for (ptrdiff_t i = 0; i < pairs; i++, out += stride, rows += 2 * DAD_PANEL) {
        for (int v = 0; v < DAD_PANEL; v += VL) {
            vstore(out + v, vpair_bfloat16(vload(rows + v), vload(rows + DAD_PANEL + v)));
        }
    }
}

/* totals [width] += the column sums of x [rows <= SUM_ROWS, width]. */
static void add_rows(double *totals, const float *x, ptrdiff_t ldx, ptrdiff_t rows,
                     ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j += VL) {
        const ptrdiff_t n = width - j < VL ? width - j : VL;
        vf sum = vset1(0.0f);
        for (ptrdiff_t i = 0; i < rows; i++) {
            sum += n == VL ? vload(x + i * ldx + j) : vload_n(x + i * ldx + j, n);
        }
        for (ptrdiff_t lane = 0; lane < n; lane++) {
            totals[j + lane] += (double)sum[lane];
        }
    }
}

static void column_sums(float *sums, const float *x, ptrdiff_t ldx, ptrdiff_t rows,
                        ptrdiff_t C) {
    for (ptrdiff_t c = 0; c < C; c += SUM_WIDTH) {
        double totals[SUM_WIDTH] = {0};
        const ptrdiff_t width = C - c < SUM_WIDTH ? C - c : SUM_WIDTH;
        for (ptrdiff_t i = 0; i < rows; i += SUM_ROWS) {
            add_rows(totals, x + i * ldx + c, ldx,
                     rows - i < SUM_ROWS ? rows - i : SUM_ROWS, width);
        }
        for (ptrdiff_t j = 0; j < width; j++) {
            sums[c + j] = (float)totals[j];
        }
    }
}

#if DAD_BFLOAT16
extern dad_product DAD_AT_LEVEL(dad_product_bfloat16);
#endif
extern const dad_winograd_ops DAD_AT_LEVEL(dad_winograd2_ops);
extern const dad_winograd_ops DAD_AT_LEVEL(dad_winograd4_ops);
extern const dad_winograd_ops DAD_AT_LEVEL(dad_winograd6_ops);
extern const dad_winograd_ops DAD_AT_LEVEL(dad_winograd_doubled_ops);

extern const dad_conv_ops DAD_AT_LEVEL(dad_conv_ops);
const dad_conv_ops DAD_AT_LEVEL(dad_conv_ops) = {
    .product = product,
#if DAD_BFLOAT16
    .product_bfloat16 = DAD_AT_LEVEL(dad_product_bfloat16),
#endif
    .round_bfloat16 = round_bfloat16,
    .pair_bfloat16 = pair_bfloat16,
    .outer_product = outer_product,
    .emit = emit,
    .strip = strip,
    .column_sums = column_sums,
    .winograd2 = &DAD_AT_LEVEL(dad_winograd2_ops),
    .winograd4 = &DAD_AT_LEVEL(dad_winograd4_ops),
    .winograd6 = &DAD_AT_LEVEL(dad_winograd6_ops),
    .winograd_doubled = &DAD_AT_LEVEL(dad_winograd_doubled_ops),
};
