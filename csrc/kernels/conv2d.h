/* What the files of the convolution share. Only conv2d_*.c include this.
 *
 *   dad_winograd_*    conv2d_winograd.c, conv2d_winograd_filter.c: 3x3, stride 1, padding 1
 *   dad_matmul_*      conv2d_matmul.c: 1x1 as a product, anything else through patches
 *   dad_pack_*        conv2d_pack.c
 *
 * The gradient of the input is itself a convolution, of dy with the filter turned round and
 * its channels exchanged, so one forward code serves both. */
#ifndef DAD_CONV2D_H
#define DAD_CONV2D_H

#include "kernels/kernels.h"
#include "simd/simd.h"

/* The transforms of a Winograd algorithm; NULL for the others. */
const dad_winograd_ops *dad_winograd_transforms(dad_conv_algorithm algorithm);

/* w as seen by a pass: `outputs` by `inputs` channels, the latter being summed over. */
typedef struct {
    ptrdiff_t outputs, inputs, taps; /* taps = KH * KW */
    dad_conv_pass pass;
} dad_filter_view;

dad_filter_view dad_filter_of(const dad_conv2d_shape *shape, dad_conv_pass pass);

void dad_pack_winograd(float *packed /* [panel][point][inputs][16] */, const float *w,
                       const dad_filter_view *view, const dad_winograd_ops *ops);
void dad_pack_matmul(float *packed /* [panel][tap][inputs][16] */, const float *w,
                     const dad_filter_view *view);

/* y [N, H, W, O] from x [N, H, W, C]; shape->algorithm is one of Winograd's. */
ptrdiff_t dad_winograd_scratch(const dad_conv2d_shape *shape);
void dad_winograd_forward(float *y, const float *x, const float *packed,
                          const dad_conv2d_epilogue *epilogue,
                          const dad_conv2d_shape *shape, float *scratch);
ptrdiff_t dad_winograd_filter_scratch(const dad_conv2d_shape *shape);
void dad_winograd_backward_filter(float *dw, const float *x, const float *dy,
                                  const dad_conv2d_shape *shape, float *scratch);

/* How output pixels find their input pixels: output i and tap k meet input
 * (i * stride + k - pad) / dilation, where that is whole and inside. */
typedef struct {
    ptrdiff_t N, H, W, C; /* input */
    ptrdiff_t HO, WO, O;  /* output */
    ptrdiff_t KH, KW, stride, dilation, pad_y, pad_x;
} dad_patch_shape;

dad_patch_shape dad_patches_forward(const dad_conv2d_shape *shape);
dad_patch_shape dad_patches_backward_data(const dad_conv2d_shape *shape);

ptrdiff_t dad_matmul_scratch(const dad_patch_shape *shape);
void dad_matmul_forward(float *y, const float *x, const float *packed,
                        const dad_conv2d_epilogue *epilogue, const dad_patch_shape *shape,
                        float *scratch);
ptrdiff_t dad_matmul_filter_scratch(const dad_patch_shape *shape);
void dad_matmul_backward_filter(float *dw, const float *x, const float *dy,
                                const dad_patch_shape *shape, float *scratch);

/* A panel's part of the biases of one image: zero where there are none, or no channel. */
void dad_epilogue_bias(float *bias /* [DAD_PANEL] */, const dad_conv2d_epilogue *epilogue,
                       ptrdiff_t n, ptrdiff_t o, ptrdiff_t O);

#endif
