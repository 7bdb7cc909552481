/* Products with packed panels, and the copies around them.
 *
 * A micro-kernel keeps ROWS by 2 vectors of the result in registers, 12 of the 16 that AVX2
 * and SSE have. AVX-512 has 32 and keeps two sums of each, of even and of odd k, instead of
 * more rows: sums then need to be half as short for the same rounding error, and are
 * stored half as often. With AVX-512 a vector is a panel and the two vectors come from two
 * panels; below it both come from one. Sums run over k in order, so the value of a row does
 * not depend on the block it falls into. */
#include "simd/conv_ops.h"

#include "simd/vec.h"

#if VL == 16
enum { PARTS = 2, OUTER_ROWS = 8, LONG_DEPTH = 512 };
#else
enum { PARTS = 1, OUTER_ROWS = 6, LONG_DEPTH = 128 };
#endif
enum {
    ROWS = 6,
    DEPTH = 256, /* of k at a time: a pair of panels this deep stays in the first cache */
    SUM = PARTS * 64, /* of k are summed apart: long sums lose less that way */
    PREFETCH = 32,    /* rows of b ahead, from LONG_DEPTH on: b then comes from L3 */
    SUM_ROWS = 32,    /* added in float before they go to a double */
    SUM_WIDTH = 64,   /* channels at a time */
};

typedef struct {
    float *c; /* element (i, vector j) at i * DAD_PANEL + j * c_gap */
    ptrdiff_t c_gap;
    const float *a; /* element (i, k) at i * a_row + k * a_step */
    ptrdiff_t a_row;
    const float *b; /* vector j of row k at k * DAD_PANEL + j * b_gap */
    ptrdiff_t b_gap;
    ptrdiff_t depth;
    int prefetch; /* b */
} operands;

/* acc [rows][vectors] += a b for one k. */
DAD_INLINE void accumulate_step(vf (*acc)[2], const int rows, const int vectors,
                                const float *a, ptrdiff_t a_row, const float *const *b,
                                const int prefetch) {
    vf row[2];
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) {
        row[j] = vload(b[j]);
        if (prefetch && (j == 0 || VL == DAD_PANEL)) { /* one for each cache line */
            __builtin_prefetch(b[j] + PREFETCH * DAD_PANEL);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        const vf factor = vset1(a[i * a_row]);
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            acc[i][j] += factor * row[j];
        }
    }
}

/* Pointers that the compiler must keep apart: it would compute each from the others. */
typedef struct {
    const float *a, *b[2];
} cursors;

DAD_INLINE void advance(cursors *at, ptrdiff_t a_step, ptrdiff_t steps) {
    at->a += steps * a_step;
    DAD_OPAQUE(at->a);
    for (int i = 0; i < 2; i++) {
        at->b[i] += steps * DAD_PANEL;
        DAD_OPAQUE(at->b[i]);
    }
}

/* even += a b over the even k of `depth`, odd over the odd ones: [rows][vectors]. */
DAD_INLINE void accumulate(vf (*even)[2], vf (*odd)[2], const int rows, const int vectors,
                           const operands *p, ptrdiff_t a_row, ptrdiff_t a_step,
                           const ptrdiff_t depth, const int prefetch) {
    cursors at = {p->a, {p->b, p->b + p->b_gap}};
    advance(&at, a_step, 0);
    ptrdiff_t k = 0;
    for (; k + 2 <= depth; k += 2) {
        const float *b[2] = {at.b[0] + DAD_PANEL, at.b[1] + DAD_PANEL};
        accumulate_step(even, rows, vectors, at.a, a_row, at.b, prefetch);
        accumulate_step(odd, rows, vectors, at.a + a_step, a_row, b, prefetch);
        advance(&at, a_step, 2);
    }
    if (k < depth) {
        accumulate_step(even, rows, vectors, at.a, a_row, at.b, prefetch);
    }
}

/* c = (add ? c : 0) + a b, summed apart over `depth` of k. */
DAD_INLINE void sum_block(const int rows, const int vectors, const operands *p,
                          const ptrdiff_t depth, int add, const int prefetch) {
    vf acc[PARTS][ROWS][2];
#pragma GCC unroll 2
    for (int part = 0; part < PARTS; part++) {
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) {
                acc[part][i][j] = vset1(0.0f);
            }
        }
    }
    accumulate(acc[0], acc[PARTS - 1], rows, vectors, p, p->a_row, 1, depth, prefetch);
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) {
        float *c = p->c + j * p->c_gap;
        DAD_OPAQUE(c);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++, c += DAD_PANEL) {
            const vf sum = PARTS > 1 ? acc[0][i][j] + acc[PARTS - 1][i][j] : acc[0][i][j];
            vstore(c, add ? vload(c) + sum : sum);
        }
    }
}

/* The same over all of p->depth, SUM at a time. */
DAD_INLINE void row_block(const int rows, const int vectors, const operands *all, int add,
                          const int prefetch) {
    operands p = *all;
    for (; p.depth >= SUM; p.depth -= SUM, p.a += SUM, p.b += SUM * DAD_PANEL) {
        sum_block(rows, vectors, &p, SUM, add, prefetch);
        add = 1;
    }
    if (p.depth > 0) {
        sum_block(rows, vectors, &p, p.depth, add, prefetch);
    }
}

typedef void row_kernel(const operands *p, int add);

#define ROW_KERNEL(vectors, rows)                                     \
    static void rows_##vectors##_##rows(const operands *p, int add) { \
        if (p->prefetch) {                                            \
            row_block(rows, vectors, p, add, 1);                      \
        } else {                                                      \
            row_block(rows, vectors, p, add, 0);                      \
        }                                                             \
    }
#define ROW_KERNELS(vectors)                                                 \
    ROW_KERNEL(vectors, 1)                                                   \
    ROW_KERNEL(vectors, 2)                                                   \
    ROW_KERNEL(vectors, 3)                                                   \
    ROW_KERNEL(vectors, 4)                                                   \
    ROW_KERNEL(vectors, 5)                                                   \
    ROW_KERNEL(vectors, 6)                                                   \
    static row_kernel *const with_##vectors[ROWS + 1] = {NULL,               \
                                                         rows_##vectors##_1, \
                                                         rows_##vectors##_2, \
                                                         rows_##vectors##_3, \
                                                         rows_##vectors##_4, \
                                                         rows_##vectors##_5, \
                                                         rows_##vectors##_6};

#if VL == 16
ROW_KERNELS(1)
#endif
ROW_KERNELS(2)

/* All rows of one or two vectors of columns, in blocks of nearly the same size: few rows
 * share too little of b. */
static void product_columns(row_kernel *const *kernels, const operands *all, ptrdiff_t rows,
                            int add) {
    for (ptrdiff_t k = 0; k < all->depth; k += DEPTH) {
        operands p = *all;
        p.depth = all->depth - k < DEPTH ? all->depth - k : DEPTH;
        p.a += k;
        p.b += k * DAD_PANEL;
        for (ptrdiff_t left = rows, n; left > 0; left -= n) {
            const ptrdiff_t blocks = (left + ROWS - 1) / ROWS;
            n = (left + blocks - 1) / blocks;
            kernels[n](&p, add || k > 0);
            p.a += n * p.a_row;
            p.c += n * DAD_PANEL;
            p.prefetch = 0; /* the first block has fetched b */
        }
    }
}

static void product(float *c, ptrdiff_t c_panel, const float *a, ptrdiff_t lda,
                    const float *b, ptrdiff_t b_panel, int panels, ptrdiff_t rows,
                    ptrdiff_t K, int add) {
#if VL == 16
    operands p = {c, c_panel, a, lda, b, b_panel, K, K >= LONG_DEPTH};
    product_columns(panels == 2 ? with_2 : with_1, &p, rows, add);
#else
    for (int panel = 0; panel < panels; panel++) {
        for (int j = 0; j < DAD_PANEL; j += 2 * VL) {
            operands p = {c + panel * c_panel + j, VL, a, lda,
                          b + panel * b_panel + j, VL, K, K >= LONG_DEPTH};
            product_columns(with_2, &p, rows, add);
        }
    }
#endif
}

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

extern const dad_winograd_ops DAD_AT_LEVEL(dad_winograd2_ops);
extern const dad_winograd_ops DAD_AT_LEVEL(dad_winograd4_ops);
extern const dad_winograd_ops DAD_AT_LEVEL(dad_winograd6_ops);
extern const dad_winograd_ops DAD_AT_LEVEL(dad_winograd_doubled_ops);

extern const dad_conv_ops DAD_AT_LEVEL(dad_conv_ops);
const dad_conv_ops DAD_AT_LEVEL(dad_conv_ops) = {
    .lanes = VL,
    .product = product,
    .outer_product = outer_product,
    .emit = emit,
    .strip = strip,
    .column_sums = column_sums,
    .winograd2 = &DAD_AT_LEVEL(dad_winograd2_ops),
    .winograd4 = &DAD_AT_LEVEL(dad_winograd4_ops),
    .winograd6 = &DAD_AT_LEVEL(dad_winograd6_ops),
    .winograd_doubled = &DAD_AT_LEVEL(dad_winograd_doubled_ops),
};
