/* What the files of the convolution share. Only conv2d_*.c include this.
 *
 *   dad_winograd_*    conv2d_winograd.c, conv2d_winograd_filter.c: 3x3, stride 1, padding 1
 *   dad_doubled_*     conv2d_doubled.c: the same of maps at half the size
 *   dad_matmul_*      conv2d_matmul.c: 1x1 as a product, anything else through patches
 *   dad_filter_*      conv2d_filter.c: what each of them multiplies by
 *
 * The gradient of the input is itself a convolution, of dy with the filter turned round and
 * its channels exchanged, so one forward code serves both. */
#ifndef DAD_CONV2D_H
#define DAD_CONV2D_H

#include "kernels/kernels.h"
#include "simd/simd.h"

/* The transforms of a Winograd algorithm; NULL for the others. */
const dad_winograd_ops *dad_winograd_transforms(dad_conv_algorithm algorithm);

/* The panels w as seen by a pass: `outputs` by `inputs` channels, the latter being summed
 * over. */
typedef struct {
    const float *w;
    ptrdiff_t outputs, inputs, taps; /* taps = KH * KW */
    dad_conv_pass pass;
    bool bfloat16; /* what is made of it is */
} dad_filter_view;

/* Floats that hold an operand's channels; see conv_ops.h. */
static inline ptrdiff_t dad_operand_size(ptrdiff_t channels, bool bfloat16) {
    return bfloat16 ? channels / 2 : channels;
}
static inline dad_product *dad_product_of(bool bfloat16) {
    const dad_conv_ops *ops = dad_simd()->conv;
    return bfloat16 ? ops->product_bfloat16 : ops->product;
}

dad_filter_view dad_filter_of(const float *w, const dad_conv2d_shape *shape,
                              dad_conv_pass pass);

/* Floats from one point of u to the next: off a power of two, else all points of a channel
 * fall into the same cache set. */
static inline ptrdiff_t dad_filter_point(const dad_filter_view *view) {
    return (dad_operand_size(view->inputs, view->bfloat16) + 1) * DAD_PANEL;
}
/* u [point][inputs][16] of one panel: inputs first .. + count, first a multiple of 16. */
void dad_filter_winograd(float *u, const dad_filter_view *view, const dad_winograd_ops *ops,
                         ptrdiff_t panel, ptrdiff_t first, ptrdiff_t count);
/* u [panel][point][inputs][16] of the pair of panels from output o on, as far as there are
 * any. */
void dad_filter_pair_winograd(float *u, const dad_filter_view *view,
                              const dad_winograd_ops *ops, ptrdiff_t o);
/* u [panel][point][inputs][16] of all panels, shared out to the threads of a parallel
 * region, who all call this and wait for each other at its end. */
void dad_filter_all_winograd(float *u, const dad_filter_view *view,
                             const dad_winograd_ops *ops);
/* out [panel][tap][inputs][16]: the same for products with patches. The panels serve as
 * they are where they `are ready`. */
bool dad_filter_is_ready(const dad_filter_view *view);
void dad_filter_all_matmul(float *out, const dad_filter_view *view);

/* Whether an output of `floats` goes past the caches: it is larger than they are, and its
 * panels are whole cache lines. The threads that wrote it then call dad_stream_end. */
enum { DAD_STREAM_FLOATS = 4 << 20 };
static inline bool dad_is_streamed(const float *y, ptrdiff_t floats, ptrdiff_t O) {
    return floats > DAD_STREAM_FLOATS && O % DAD_PANEL == 0 && (uintptr_t)y % 64 == 0;
}
static inline void dad_stream_end(void) {
#if defined(__SSE2__)
    __builtin_ia32_sfence();
#endif
}

/* y [N, H, W, outputs]; shape->algorithm is one of Winograd's, and shape->C and O are the
 * view's inputs and outputs. */
ptrdiff_t dad_winograd_scratch(const dad_conv2d_shape *shape);
void dad_winograd_forward(float *y, const dad_conv2d_input *input,
                          const dad_filter_view *filter,
                          const dad_conv2d_epilogue *epilogue,
                          const dad_conv2d_shape *shape, float *scratch);
ptrdiff_t dad_winograd_moment_slices(const dad_conv2d_shape *shape);
ptrdiff_t dad_winograd_filter_scratch(const dad_conv2d_shape *shape);
void dad_winograd_backward_filter(float *dw, const float *x, const float *dy,
                                  const dad_conv2d_shape *shape, float *scratch);

/* The same for DAD_CONV_DOUBLED. */
ptrdiff_t dad_doubled_scratch(const dad_conv2d_shape *shape);
void dad_doubled_forward(float *y, const dad_conv2d_input *input,
                         const dad_filter_view *filter, const dad_conv2d_epilogue *epilogue,
                         const dad_conv2d_shape *shape, float *scratch);
ptrdiff_t dad_doubled_moment_slices(const dad_conv2d_shape *shape);

/* How output pixels find their input pixels: output i and tap k meet input
 * (i * stride + k - pad) / dilation, where that is whole and inside. */
typedef struct {
    ptrdiff_t N, H, W, C; /* input */
    ptrdiff_t HO, WO, O;  /* output */
    ptrdiff_t KH, KW, stride, dilation, pad_y, pad_x;
    bool bfloat16; /* forward, 1x1: as in dad_conv2d_shape */
} dad_patch_shape;

dad_patch_shape dad_patches_forward(const dad_conv2d_shape *shape);
dad_patch_shape dad_patches_backward_data(const dad_conv2d_shape *shape);

ptrdiff_t dad_matmul_scratch(const dad_patch_shape *shape);
void dad_matmul_forward(float *y, const dad_conv2d_input *input,
                        const dad_filter_view *filter, const dad_conv2d_epilogue *epilogue,
                        const dad_patch_shape *shape, float *scratch);
ptrdiff_t dad_matmul_filter_scratch(const dad_patch_shape *shape);
void dad_matmul_backward_filter(float *dw, const float *x, const float *dy,
                                const dad_patch_shape *shape, float *scratch);

/* A panel's 16 elements of dw += those of `count` partial gradients, `stride` apart, in
 * order. */
static inline void dad_add_partials(float *dw, const float *partials, ptrdiff_t stride,
                                    ptrdiff_t count) {
    float sum[DAD_PANEL] = {0};
    for (ptrdiff_t i = 0; i < count; i++) {
        for (int lane = 0; lane < DAD_PANEL; lane++) {
            sum[lane] += partials[i * stride + lane];
        }
    }
    for (int lane = 0; lane < DAD_PANEL; lane++) {
        dw[lane] += sum[lane];
    }
}

/* The part of an input of C channels that has the group of channels from c on. */
typedef struct {
    const float *x;             /* [N, H, W, C] */
    ptrdiff_t C, c;             /* of this part; the group's place in it */
    const float *scale, *shift; /* [C] for image 0, or NULL: see dad_strip_source */
    ptrdiff_t stride;           /* ... from one image to the next */
} dad_input_part;

dad_input_part dad_input_part_of(const dad_conv2d_input *input, ptrdiff_t C, ptrdiff_t c);

/* A panel's part of the epilogue for image n. */
dad_output_stage dad_output_stage_of(const dad_conv2d_epilogue *epilogue, ptrdiff_t n,
                                     ptrdiff_t o, ptrdiff_t O);

typedef struct {
    float *y; /* [N, H, W, O] */
    ptrdiff_t H, W, O;
    const dad_conv2d_epilogue *epilogue;
    bool stream; /* y goes past the caches */
} dad_output_map;

dad_output_map dad_output_map_of(float *y, const dad_conv2d_epilogue *epilogue,
                                 const dad_conv2d_shape *shape);
/* Where pixel (i, j) of image n goes, and a panel's moments to their slice; the caller says
 * how many pixels there are. */
dad_output_place dad_output_place_of(const dad_output_map *map, ptrdiff_t n, ptrdiff_t i,
                                     ptrdiff_t j, ptrdiff_t o, ptrdiff_t slice);

#endif
