/* The shape specification of every kernel: forward and backward stand together, one .c file
 * each.
 *
 *   layout.c       NCHW <-> NHWC
 *   conv2d.c       convolution: the choice of algorithm, sums; conv2d_winograd.c 3x3,
 *                  conv2d_doubled.c 3x3 of upsampled maps, conv2d_matmul.c 1x1 and im2col,
 *                  conv2d_filter.c their filters
 *   group_norm.c   GroupNorm, with SiLU
 *   batch_norm.c   BatchNorm, with ReLU, training and evaluation
 *   attention.c    multi-head self-attention over a map
 *   linear.c       fully connected layer; sinusoidal time embedding
 *   activations.c  SiLU, ReLU, sigmoid, dropout, addition, concatenation
 *   resample.c     nearest and bilinear upsampling, space to depth and back
 *   pool.c         average and max pooling
 *   losses.c       squared error, focal, smooth L1, BCE, Dice
 *   adam.c         the optimizer's update
 *   gemm.c         matrix products: the only caller of BLAS
 *
 * Said once, true everywhere:
 *   - Tensors are float32, contiguous, NHWC; parameters have PyTorch's layout but for the
 *     filters, which are panels (conv2d.c). P = H * W pixels.
 *   - Arguments: outputs, inputs, shape, scratch. Gradients are named dx, dw, db, dy.
 *   - Activation gradients are written (=), parameter gradients accumulated (+=).
 *     NULL: not wanted.
 *   - Kernels cannot fail and never allocate; `scratch` holds as many floats as the
 * function named
 *     *_scratch says for the current thread count (0: pass NULL), from a multiple of 8
 * bytes on.
 *   - Outputs may not overlap inputs, unless a comment says "in place allowed".
 *   - The result is the same bit for bit at any thread count. Forward results of an image
 * do not depend on the other images of its batch (batch statistics excepted). */
#ifndef DAD_KERNELS_H
#define DAD_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "simd/conv_ops.h" /* DAD_PANEL */

typedef enum { DAD_NO_ACTIVATION = 0, DAD_SILU, DAD_RELU } dad_activation;

/* ---- layout.c -------------------------------------------------------------------- */

void dad_nchw_to_nhwc(float *y /* [N, P, C] */, const float *x /* [N, C, P] */, ptrdiff_t N,
                      ptrdiff_t C, ptrdiff_t P);
void dad_nhwc_to_nchw(float *y /* [N, C, P] */, const float *x /* [N, P, C] */, ptrdiff_t N,
                      ptrdiff_t C, ptrdiff_t P);

/* ---- gemm.c ---------------------------------------------------------------------- */

/* C [M, N] = op(A) [M, K] * op(B) [K, N] + beta * C, row-major, one thread. */
void dad_gemm(bool transpose_a, bool transpose_b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K,
              const float *A, ptrdiff_t lda, const float *B, ptrdiff_t ldb, float beta,
              float *C, ptrdiff_t ldc);

/* Keeps BLAS at one thread; called once when the module is loaded. False where BLAS
 * computes wrong products. */
bool dad_gemm_init(void);
const char *dad_blas_name(void); /* version, options, processor */

/* ---- conv2d.c (with conv2d_*.c) -------------------------------------------------- */

typedef enum {
    DAD_CONV_AUTO = 0,  /* chosen from the shape of one image, never from N */
    DAD_CONV_POINTWISE, /* 1x1, stride 1: a matrix product */
    DAD_CONV_IM2COL,    /* any shape: patches, then a matrix product */
    DAD_CONV_WINOGRAD2, /* 3x3, stride 1, padding 1: F(2x2, 3x3) */
    DAD_CONV_WINOGRAD4, /* F(4x4, 3x3) */
    DAD_CONV_WINOGRAD6, /* F(6x6, 3x3) */
    DAD_CONV_DOUBLED,   /* of a map at half the size */
} dad_conv_algorithm;

typedef struct {
    ptrdiff_t N, H, W, C;  /* x [N, H, W, C] */
    ptrdiff_t O, KH, KW;   /* w [O, C, KH, KW] */
    ptrdiff_t stride, pad; /* the same both ways */
    bool doubled; /* forward, Winograd's algorithms: x is [N, H / 2, W / 2, C], as before an
                     upsampling, and a pixel stands for 2x2; H, W even */
    bool bfloat16; /* forward, where dad_simd_has_bfloat16(): what Winograd's F(m x m, 3x3)
                      and pointwise products multiply is rounded to it; C a multiple of 32,
                      else floats stay */
    dad_conv_algorithm algorithm;
} dad_conv2d_shape;

/* The algorithm that a shape gets: the one it names; what suits one image where it names
 * none, or one that cannot do this kernel, stride and padding. */
dad_conv_algorithm dad_conv2d_algorithm(const dad_conv2d_shape *shape);

/* y [N, HO, WO, O] with HO = (H + 2 pad - KH) / stride + 1. */
static inline ptrdiff_t dad_conv2d_out(ptrdiff_t size, ptrdiff_t kernel, ptrdiff_t stride,
                                       ptrdiff_t pad) {
    return (size + 2 * pad - kernel) / stride + 1;
}

/* Filters are kept as panels, w [panel][C][KH * KW][16]: 16 output channels side by side,
 * zero past the last. So are their gradients, and nothing else of a filter stays in memory
 * between calls. */
static inline ptrdiff_t dad_filter_size(ptrdiff_t O, ptrdiff_t C, ptrdiff_t taps) {
    return (O + DAD_PANEL - 1) / DAD_PANEL * DAD_PANEL * C * taps;
}
void dad_filter_to_panels(float *panels, const float *w /* [O, C, taps] */, ptrdiff_t O,
                          ptrdiff_t C, ptrdiff_t taps);
void dad_filter_from_panels(float *w, const float *panels, ptrdiff_t O, ptrdiff_t C,
                            ptrdiff_t taps);

/* The map that a convolution reads. It may come in two parts, as a concatenation that was
 * never made; and, for 3x3 filters with stride 1, before a GroupNorm with SiLU that was
 * never applied. */
typedef struct {
    const float *x;  /* [N, H, W, C]; with x2 its first C1 channels, [N, H, W, C1] */
    const float *x2; /* [N, H, W, C - C1], or NULL; C1 is a multiple of 16 */
    ptrdiff_t C1;
    const float *norm; /* [N, 2, C]: silu(x * norm[n, 0] + norm[n, 1]) is read; or NULL */
} dad_conv2d_input;

/* What happens to a convolution's output on its way out, y = act(conv * scale + bias +
 * image_bias + residual); each may be NULL. */
typedef struct {
    const float *bias;       /* [O] */
    const float *image_bias; /* [N, O]: the time embedding */
    const float *residual;   /* [N, HO, WO, O] */
    bool residual_doubled;   /* it is [N, HO / 2, WO / 2, O] (Winograd's algorithms) */
    const float *scale;      /* [O]: a BatchNorm, folded */
    dad_activation activation;
    float *moments; /* [N, slices, DAD_MOMENTS, O]: of y, for a GroupNorm to come, where
                       dad_conv2d_moment_slices says how many */
} dad_conv2d_epilogue;

/* Into how many slices the pixels of an image are cut for the moments; 0: this shape has
 * none. A slice holds, per channel, how many y it has, a shift s near them, the sum of
 * y - s and of its square. */
ptrdiff_t dad_conv2d_moment_slices(const dad_conv2d_shape *shape);

/* Which passes see the filter how: the gradient of the input is itself a convolution. */
typedef enum { DAD_CONV_FORWARD, DAD_CONV_BACKWARD_DATA } dad_conv_pass;

ptrdiff_t dad_conv2d_forward_scratch(const dad_conv2d_shape *shape);
void dad_conv2d_forward(float *y, const dad_conv2d_input *input, const float *w,
                        const dad_conv2d_epilogue *epilogue /* or NULL */,
                        const dad_conv2d_shape *shape, float *scratch);

ptrdiff_t dad_conv2d_backward_data_scratch(const dad_conv2d_shape *shape);
void dad_conv2d_backward_data(float *dx, const float *dy, const float *w,
                              const dad_conv2d_shape *shape, float *scratch);

/* dw += (panels), db [O] += (either may be NULL). */
ptrdiff_t dad_conv2d_backward_filter_scratch(const dad_conv2d_shape *shape);
void dad_conv2d_backward_filter(float *dw, float *db, const float *x, const float *dy,
                                const dad_conv2d_shape *shape, float *scratch);

/* dst [N, C] = sum over P of src [N, P, C]: the gradient of a per-image bias. */
void dad_sum_pixels(float *dst, const float *src, ptrdiff_t N, ptrdiff_t P, ptrdiff_t C);

/* ---- group_norm.c ---------------------------------------------------------------- */

typedef struct {
    ptrdiff_t N, P, C, G; /* x, y [N, P, C]; G groups of C / G channels */
    float eps;
    dad_activation activation; /* none or SiLU, applied after the affine map */
} dad_group_norm_shape;

/* y = act((x - mean) * rstd * gamma + beta); stats [N, G, 2] = mean and 1 / sqrt(var +
 * eps). */
ptrdiff_t dad_group_norm_scratch(const dad_group_norm_shape *shape); /* both directions */
void dad_group_norm_forward(float *y, float *stats, const float *x, const float *gamma,
                            const float *beta, const dad_group_norm_shape *shape,
                            float *scratch);
/* The same y from the statistics that forward has left. */
void dad_group_norm_again(float *y, const float *stats, const float *x, const float *gamma,
                          const float *beta, const dad_group_norm_shape *shape,
                          float *scratch);
/* The same for a map in one or two parts whose sums may be known (see dad_conv2d_epilogue),
 * without statistics to keep; and norm [N, 2, C], the scale and shift that it would apply
 * (see dad_conv2d_input). */
typedef struct {
    const float *x;       /* [N, P, C] */
    ptrdiff_t C;          /* of this part: both together have shape->C */
    const float *moments; /* [N, slices, DAD_MOMENTS, C], or NULL */
    ptrdiff_t slices;
} dad_group_norm_part;
ptrdiff_t dad_group_norm_evaluate_scratch(const dad_group_norm_shape *shape);
void dad_group_norm_evaluate(float *y, const dad_group_norm_part *parts, int count,
                             const float *gamma, const float *beta,
                             const dad_group_norm_shape *shape, float *scratch);
void dad_group_norm_coefficients(float *norm, const dad_group_norm_part *parts, int count,
                                 const float *gamma, const float *beta,
                                 const dad_group_norm_shape *shape, float *scratch);
void dad_group_norm_backward(float *dx, float *dgamma, float *dbeta, const float *dy,
                             const float *x, const float *stats, const float *gamma,
                             const float *beta, const dad_group_norm_shape *shape,
                             float *scratch);

/* ---- batch_norm.c ---------------------------------------------------------------- */

typedef struct {
    ptrdiff_t N, P, C; /* x, y [N, P, C]; statistics over N * P */
    float eps, momentum;
    dad_activation activation; /* none or ReLU */
} dad_batch_norm_shape;

ptrdiff_t dad_batch_norm_scratch(const dad_batch_norm_shape *shape); /* all of them */
/* With the batch's own statistics; stats [C, 2] = mean and 1 / sqrt(var + eps). The running
 * ones (unbiased variance) move by `momentum`; NULL: they stay. */
void dad_batch_norm_forward_training(float *y, float *stats, float *running_mean,
                                     float *running_var, const float *x, const float *gamma,
                                     const float *beta, const dad_batch_norm_shape *shape,
                                     float *scratch);
/* The same y from the statistics that it has left. */
void dad_batch_norm_again(float *y, const float *stats, const float *x, const float *gamma,
                          const float *beta, const dad_batch_norm_shape *shape,
                          float *scratch);
void dad_batch_norm_forward_evaluation(float *y, const float *x, const float *gamma,
                                       const float *beta, const float *running_mean,
                                       const float *running_var,
                                       const dad_batch_norm_shape *shape, float *scratch);
/* scale and bias [C] that turn x into its BatchNorm in evaluation; with the bias of a
 * convolution before it (or NULL) folded in. */
void dad_batch_norm_fold(float *scale, float *bias, const float *conv_bias,
                         const float *gamma, const float *beta, const float *running_mean,
                         const float *running_var, ptrdiff_t C, float eps);
void dad_batch_norm_backward(float *dx, float *dgamma, float *dbeta, const float *dy,
                             const float *x, const float *stats, const float *gamma,
                             const float *beta, const dad_batch_norm_shape *shape,
                             float *scratch);

/* ---- attention.c ----------------------------------------------------------------- */

typedef struct {
    ptrdiff_t N, T, heads, D; /* T = H * W positions, D channels per head */
} dad_attention_shape;

/* qkv [N, T, heads * 3 * D], per head [q, k, v]; y [N, T, heads * D].
 * softmax(q k^T / sqrt(D)) v, q scaled by D^(-1/2). The backward pass recomputes the
 * probabilities. */
ptrdiff_t dad_attention_scratch(const dad_attention_shape *shape); /* both directions */
void dad_attention_forward(float *y, const float *qkv, const dad_attention_shape *shape,
                           float *scratch);
void dad_attention_backward(float *dqkv, const float *dy, const float *qkv,
                            const dad_attention_shape *shape, float *scratch);

/* ---- linear.c -------------------------------------------------------------------- */

typedef struct {
    ptrdiff_t N, C, O; /* x [N, C], w [O, C], y [N, O] */
} dad_linear_shape;

void dad_linear_forward(float *y, const float *x, const float *w, const float *b,
                        const dad_linear_shape *shape);
void dad_linear_backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                         const float *w, const dad_linear_shape *shape);

/* y [N, dim] = [sin, cos](t * exp(-ln(10000) / (dim / 2) * k)), k = 0 .. dim / 2 - 1; dim
 * even. */
void dad_time_embedding(float *y, const float *t, ptrdiff_t N, ptrdiff_t dim);

/* ---- activations.c (in place allowed in all) ------------------------------------- */

void dad_silu_forward(float *y, const float *x, ptrdiff_t count);
void dad_silu_backward(float *dx, const float *dy, const float *x, ptrdiff_t count);
void dad_relu_forward(float *y, const float *x, ptrdiff_t count);
void dad_relu_backward(float *dx, const float *dy, const float *y, ptrdiff_t count);
void dad_sigmoid_forward(float *y, const float *x, ptrdiff_t count);
void dad_sigmoid_backward(float *dx, const float *dy, const float *y, ptrdiff_t count);

/* y = x / (1 - p) where a draw keyed by (seed, element) keeps it, else 0; its own backward.
 */
void dad_dropout(float *y, const float *x, float p, uint64_t seed, ptrdiff_t count);

void dad_add(float *y, const float *a, const float *b, ptrdiff_t count); /* y = a + b */

/* y [rows, A + B] = [a | b], and back (either gradient may be NULL); not in place. */
void dad_concat_forward(float *y, const float *a, const float *b, ptrdiff_t rows,
                        ptrdiff_t A, ptrdiff_t B);
void dad_concat_backward(float *da, float *db, const float *dy, ptrdiff_t rows, ptrdiff_t A,
                         ptrdiff_t B);

/* ---- resample.c, pool.c ---------------------------------------------------------- */

typedef struct {
    ptrdiff_t N, H, W, C; /* of the input x */
} dad_map_shape;

/* y [N, 2H, 2W, C]. */
void dad_upsample_nearest_forward(float *y, const float *x, const dad_map_shape *shape);
void dad_upsample_nearest_backward(float *dx, const float *dy, const dad_map_shape *shape);
/* y [N, 2H, 2W, C], corners aligned: output i reads input i * (H - 1) / (2H - 1). */
void dad_upsample_bilinear_forward(float *y, const float *x, const dad_map_shape *shape);
void dad_upsample_bilinear_backward(float *dx, const float *dy, const dad_map_shape *shape);

/* y [N, H / B, W / B, B * B * C] from x, and back: each BxB block of pixels as one, its
 * channels in the order (row, column, channel). Either is the other's gradient. B divides H
 * and W. */
void dad_space_to_depth(float *y, const float *x, ptrdiff_t B, const dad_map_shape *shape);
void dad_depth_to_space(float *x, const float *y, ptrdiff_t B, const dad_map_shape *shape);

/* 2x2 windows, stride 2; y [N, H / 2, W / 2, C], an odd last row or column is left out. */
void dad_avg_pool_forward(float *y, const float *x, const dad_map_shape *shape);
void dad_avg_pool_backward(float *dx, const float *dy, const dad_map_shape *shape);
/* which [N, H / 2, W / 2, C]: 0..3, the first of the largest (row-major), as bytes. */
void dad_max_pool_forward(float *y, uint8_t *which, const float *x,
                          const dad_map_shape *shape);
void dad_max_pool_backward(float *dx, const float *dy, const uint8_t *which,
                           const dad_map_shape *shape);

/* ---- losses.c: each returns the mean, in double, and writes its gradient unless NULL  */

/* sum_i weight[i] * mean((a_i - b_i)^2) over N images of `size` elements; da accordingly.
 * Returned per image in loss [N] (unweighted means). */
void dad_squared_error(double *loss, float *da, const float *a, const float *b,
                       const float *weight /* [N] */, ptrdiff_t N, ptrdiff_t size);
/* mean(alpha * (1 - exp(-BCE))^gamma * BCE), alpha 0.5, gamma 4, logarithms clamped at
 * -100. */
double dad_focal_loss(float *dp, const float *p, const float *target, ptrdiff_t count);
/* mean of 0.5 d^2 where |d| < 1, else |d| - 0.5. */
double dad_smooth_l1_loss(float *dp, const float *p, const float *target, ptrdiff_t count);
/* mean binary cross-entropy on probabilities, logarithms clamped at -100. */
double dad_bce_loss(float *dp, const float *p, const float *target, ptrdiff_t count);
/* 1 - (2 sum(p t) + 1) / (sum p + sum t + 1) over the whole batch. */
double dad_dice_loss(float *dp, const float *p, const float *target, ptrdiff_t count);

/* ---- adam.c ---------------------------------------------------------------------- */

typedef struct {
    double lr, beta1, beta2, eps, weight_decay; /* weight_decay: decoupled (AdamW) */
    int64_t step;                               /* 1 for the first update */
} dad_adam_options;

/* One update of `count` parameters, PyTorch's order of operations; m and v move too. */
void dad_adam(float *w, float *m, float *v, const float *dw,
              const dad_adam_options *options, ptrdiff_t count);
/* average = decay * average + (1 - decay) * w. */
void dad_moving_average(float *average, const float *w, double decay, ptrdiff_t count);

#endif
