/* Inner loops of the convolutions: products with packed panels, and the tile transforms of
 * Winograd's algorithm.
 *
 * An operand of a product may be in bfloat16 instead of float: a float's place then holds
 * two, of an even channel (the low half) and of the next, and there are half as many.
 *
 * Filters are packed in panels of DAD_PANEL output channels at every level, so one packed
 * form serves all of them: b [panel][k][DAD_PANEL], zero where the last panel reaches past
 * the last channel. Maps come as strips: groups of DAD_PANEL channels copied out with their
 * zero padding, so that no transform knows of borders or of channel counts. */
#ifndef DAD_CONV_OPS_H
#define DAD_CONV_OPS_H

#include <stddef.h>

enum {
    DAD_PANEL = 16,     /* channels in a panel, and in a group of a strip */
    DAD_PANEL_PAIR = 2, /* panels that one product takes at most */
    DAD_MOMENTS = 4,    /* rows: how many values, a shift, the sums of value - shift and of
                           its square */
};

/* Panels of a product from channel o on. */
static inline int dad_panels_at(ptrdiff_t o, ptrdiff_t channels) {
    return channels - o > DAD_PANEL ? DAD_PANEL_PAIR : 1;
}

/* Where a strip is cut from: one image [H, W, C]; doubled: [H / 2, W / 2, C], each pixel
 * standing for 2x2. With a scale, silu(x * scale + shift) is what the strip gets. */
typedef struct {
    const float *image;
    ptrdiff_t H, W, C;
    int doubled;
    const float *scale, *shift; /* [C], or NULL */
} dad_strip_source;

/* What becomes of a result on its way out: max(r * scale + bias + residual, floor). */
typedef struct {
    float scale[DAD_PANEL], bias[DAD_PANEL], floor;
} dad_output_stage;

/* Where an output tile goes: pixels [rows][columns][channels], the first at y. */
typedef struct {
    float *y;
    ptrdiff_t row_stride, pixel_stride;
    ptrdiff_t rows, columns, channels; /* that exist */
    ptrdiff_t above, left; /* of the tile's outputs do not, before them (doubled maps) */
    const float *residual; /* as y, or NULL */
    int residual_doubled;  /* each of its pixels stands for 2x2 */
    ptrdiff_t residual_row_stride;
    float *moments; /* [DAD_MOMENTS] rows of DAD_PANEL, moments_stride apart, to which those
                       of y are added; for whole panels only. Or NULL */
    ptrdiff_t moments_stride;
    int first;  /* of the tiles that these moments add up */
    int stream; /* y is larger than the caches, and its panels are cache lines */
} dad_output_place;

/* strip [rows][columns][DAD_PANEL] = the tiles of F(m x m, 3x3) side by side, m columns
 * apart; out: point p of tile t at p * point_stride + t * tile_stride, DAD_PANEL floats
 * each. */
typedef void dad_tile_transform(float *out, ptrdiff_t point_stride, ptrdiff_t tile_stride,
                                const float *strip, ptrdiff_t columns, ptrdiff_t tiles);

/* c [panel][rows][DAD_PANEL] = or += a [rows, K] b [panel][K][DAD_PANEL]. Panels of b and c
 * lie b_panel and c_panel apart. Every row is summed in the same order, wherever it stands.
 */
typedef void dad_product(float *c, ptrdiff_t c_panel, const float *a, ptrdiff_t lda,
                         const float *b, ptrdiff_t b_panel, int panels, ptrdiff_t rows,
                         ptrdiff_t K, int add);

/* F(m x m, 3x3): (m + 2)^2 points. y = A^T [(G g G^T) . (B^T d B)] A. Of doubled maps,
 * whose gradients nobody asks for: 81 points of u and m, 25 of the input. */
typedef struct {
    ptrdiff_t tile;   /* m */
    ptrdiff_t points; /* of u and m */
    /* u = G g G^T and its adjoint g = G^T u G; g [9][DAD_PANEL], point p of u at p *
     * stride. */
    void (*filter)(float *u, ptrdiff_t point_stride, const float *g);
    void (*filter_adjoint)(float *g, const float *u, ptrdiff_t point_stride);
    dad_tile_transform *input;          /* B^T d B, strips of m + 2 rows */
    dad_tile_transform *input_bfloat16; /* the same in bfloat16, DAD_PANEL / 2 floats of
                                           each point; NULL for doubled maps */
    dad_tile_transform *gradient;       /* A dy A^T, strips of m rows */
    /* One tile of one panel: A^T m A, through its stage to its place. */
    void (*output)(const dad_output_place *place, const float *m, ptrdiff_t point_stride,
                   const dad_output_stage *stage);
} dad_winograd_ops;

typedef struct {
    dad_product *product;
    dad_product *product_bfloat16; /* K pairs; NULL at levels that have none, and only to be
                                      called where dad_simd_has_bfloat16() */
    /* To bfloat16: x [n], n a multiple of DAD_PANEL; rows [2 pairs][DAD_PANEL], those of
     * out `stride` apart. */
    void (*round_bfloat16)(float *out, const float *x, ptrdiff_t n);
    void (*pair_bfloat16)(float *out, ptrdiff_t stride, const float *rows, ptrdiff_t pairs);
    /* c [panel][DAD_PANEL][DAD_PANEL] = or += a^T b, a [T][DAD_PANEL], b
     * [panel][T][DAD_PANEL]. */
    void (*outer_product)(float *c, ptrdiff_t c_panel, const float *a, const float *b,
                          ptrdiff_t b_panel, int panels, ptrdiff_t T, int add);
    /* y [rows][channels] = c [rows][DAD_PANEL] through its stage; rows of y and residual
     * lie ldy apart; stream: as in dad_output_place. */
    void (*emit)(float *y, ptrdiff_t ldy, const float *c, ptrdiff_t rows,
                 ptrdiff_t channels, const dad_output_stage *stage,
                 const float *residual /* or NULL */, int stream);
    /* strip = rows by columns pixels from (row, column) on, zero outside the image;
     * channels c .. c + DAD_PANEL - 1, zero past the last. */
    void (*strip)(float *strip, const dad_strip_source *source, ptrdiff_t c, ptrdiff_t row,
                  ptrdiff_t column, ptrdiff_t rows, ptrdiff_t columns);
    /* sums [C] = the column sums of x [rows, C], lines ldx apart, in double from 32 rows
     * on. */
    void (*column_sums)(float *sums, const float *x, ptrdiff_t ldx, ptrdiff_t rows,
                        ptrdiff_t C);
    const dad_winograd_ops *winograd2, *winograd4, *winograd6, *winograd_doubled;
} dad_conv_ops;

#endif
