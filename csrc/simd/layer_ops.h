/* Inner loops of everything that is no convolution, one table per file.
 *
 *   dad_elementwise_ops   layer_elementwise.c   activations, dropout, optimizer
 *   dad_norm_ops          layer_norm.c          GroupNorm, BatchNorm
 *   dad_map_ops           layer_map.c           upsampling, pooling
 *   dad_row_ops           layer_row.c           softmax, dot products
 *   dad_loss_ops          layer_loss.c          losses and their gradients
 *
 * `n` is a count of floats. Maps are rows of W pixels of C channels. */
#ifndef DAD_LAYER_OPS_H
#define DAD_LAYER_OPS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    float decay;        /* 1 - lr * weight_decay */
    float beta1, rest1; /* rest: 1 - beta */
    float beta2, rest2;
    float step_size;         /* lr / (1 - beta1^t) */
    float inverse_root, eps; /* 1 / sqrt(1 - beta2^t) */
} dad_adam_factors;

typedef struct {
    /* In place allowed in all; gradients from x, or from y where the function's own is
     * cheaper. */
    void (*silu)(float *y, const float *x, ptrdiff_t n);
    void (*silu_backward)(float *dx, const float *dy, const float *x, ptrdiff_t n);
    void (*relu)(float *y, const float *x, ptrdiff_t n);
    void (*relu_backward)(float *dx, const float *dy, const float *y, ptrdiff_t n);
    void (*sigmoid)(float *y, const float *x, ptrdiff_t n);
    void (*sigmoid_backward)(float *dx, const float *dy, const float *y, ptrdiff_t n);
    void (*add)(float *y, const float *a, const float *b, ptrdiff_t n);
    void (*mix)(float *y, const float *x, float keep, float take, ptrdiff_t n);
    /* Element i has number first + i (mod 2^32) under `key`; kept where its hash >=
     * threshold. */
    void (*dropout)(float *y, const float *x, float scale, uint32_t threshold, uint64_t key,
                    uint32_t first, ptrdiff_t n);
    void (*adam)(float *w, float *m, float *v, const float *dw,
                 const dad_adam_factors *factors, ptrdiff_t n);
} dad_elementwise_ops;

/* Per channel: z = x * scale + shift goes into the activation. */
typedef struct {
    const float *scale, *shift; /* [C] */
    const float *mean;          /* [C], backward */
    const float *slope,
        *level; /* [C], backward: dx = scale * g + slope * (x - mean) + level */
} dad_norm_channels;

enum { DAD_NORM_ACTIVATIONS = 3 };

typedef struct {
    /* sum[c] and square[c]: of x and x^2 over the rows (written). */
    void (*moments)(double *sum, double *square, const float *x, ptrdiff_t rows,
                    ptrdiff_t C);
    /* These three per activation, indexed by dad_activation; g = dy * act'(z). */
    void (*apply[DAD_NORM_ACTIVATIONS])(float *y, ptrdiff_t ldy, const float *x,
                                        ptrdiff_t ldx, const dad_norm_channels *channels,
                                        ptrdiff_t rows, ptrdiff_t C);
    /* sum[c] and product[c]: of g and g * (x - mean) over the rows (written). */
    void (*gradient_sums[DAD_NORM_ACTIVATIONS])(double *sum, double *product,
                                                const float *dy, const float *x,
                                                const dad_norm_channels *channels,
                                                ptrdiff_t rows, ptrdiff_t C);
    void (*input_gradient[DAD_NORM_ACTIVATIONS])(float *dx, const float *dy, const float *x,
                                                 const dad_norm_channels *channels,
                                                 ptrdiff_t rows, ptrdiff_t C);
} dad_norm_ops;

typedef struct {
    /* y [W, C] = scale * (the sum of each 2x2 window of the rows top and bottom [2W, C]).
     */
    void (*sum_windows)(float *y, const float *top, const float *bottom, float scale,
                        ptrdiff_t W, ptrdiff_t C);
    /* y [2W, C]: each pixel of x [W, C] twice, times scale. */
    void (*spread)(float *y, const float *x, float scale, ptrdiff_t W, ptrdiff_t C);
    void (*max_windows)(float *y, uint8_t *which, const float *top, const float *bottom,
                        ptrdiff_t W, ptrdiff_t C);
    void (*max_scatter)(float *top, float *bottom, const float *dy, const uint8_t *which,
                        ptrdiff_t W, ptrdiff_t C);
    /* y [2W, C] between the rows top and bottom [W, C] of the input, bottom weighing
     * `weight`. */
    void (*bilinear)(float *y, const float *top, const float *bottom, float weight,
                     ptrdiff_t W, ptrdiff_t C);
    /* dx [W, C] from `count` rows dy [2W, C], the first given, with these weights. */
    void (*bilinear_backward)(float *dx, const float *dy, const float *weights, int count,
                              ptrdiff_t W, ptrdiff_t C);
} dad_map_ops;

typedef struct {
    /* For each column of p [rows][DAD_PANEL]: p = exp(p - max(p)), factor = 1 / sum(p). */
    void (*exponentials)(float *p, float *factors, ptrdiff_t rows);
    /* The same: p *= factor (now probabilities), then dp = p * (dp - sum(p * dp)). */
    void (*softmax_backward)(float *dp, float *p, const float *factors, ptrdiff_t rows);
    void (*scale)(float *y, const float *x, float factor, ptrdiff_t n);
    float (*dot)(const float *a, const float *b, ptrdiff_t n);
} dad_row_ops;

typedef struct {
    /* Each returns the sum of its loss and writes scale * its derivative unless NULL. */
    double (*squared_error)(float *da, const float *a, const float *b, float scale,
                            ptrdiff_t n);
    double (*focal)(float *dp, const float *p, const float *t, float scale, ptrdiff_t n);
    double (*smooth_l1)(float *dp, const float *p, const float *t, float scale,
                        ptrdiff_t n);
    double (*bce)(float *dp, const float *p, const float *t, float scale, ptrdiff_t n);
    double (*product)(const float *p, const float *t, ptrdiff_t n); /* sum of p * t */
    double (*sum)(const float *p, const float *t, ptrdiff_t n);     /* sum of p + t */
    void (*line)(float *y, const float *x, float factor, float offset, ptrdiff_t n);
} dad_loss_ops;

typedef struct {
    const dad_elementwise_ops *elementwise;
    const dad_norm_ops *norm;
    const dad_map_ops *map;
    const dad_row_ops *row;
    const dad_loss_ops *loss;
} dad_layer_ops;

#endif
