/* What happens to an image between the file and the network, and between the network and a
 * score, in flow order:
 *
 *   resize.c      uint8 and float maps to the network's size
 *   texture.c     a procedural texture, where no folder of anomaly images is given
 *   augment.c     the appearance of an anomaly: three random changes of an image
 *   perlin.c      the shape of an anomaly: gradient noise
 *   synthesize.c  image, foreground, appearance, seed -> anomalous image, mask, label
 *   schedule.c    the noise scale of every step t
 *   diffuse.c     x0, t, eps -> x_t; x_t, t, eps -> x0; one ancestral step
 *   guide.c       norm-guided one-step denoising, forward and backward
 *   normality.c   a map relative to what good images show
 *   metrics.h     masks -> image scores; AUROC, AP, F1-max, AUPRO
 *
 * Said once, true everywhere: buffers are contiguous and belong to the caller; outputs do
 * not overlap inputs; `abar` is alphas_cumprod at each image's step, in (0, 1]; a random
 * result is a function of its seed alone, and every result the same at any thread count. */
#ifndef DAD_PIPELINE_H
#define DAD_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/rng.h"

/* ---- resize.c: bilinear, half-pixel centres -------------------------------------- */

typedef struct {
    ptrdiff_t N, H, W, C; /* x [N, H, W, C], sides below 2^31, C 1 or 3 */
    ptrdiff_t HO, WO;     /* y [N, HO, WO, C] */
} dad_resize_shape;

/* For the current thread count. */
ptrdiff_t dad_resize_scratch(const dad_resize_shape *shape);
void dad_resize_bytes(uint8_t *y, const uint8_t *x, const dad_resize_shape *shape,
                      float *scratch);
/* C = 1. */
void dad_resize_floats(float *y, const float *x, const dad_resize_shape *shape,
                       float *scratch);

/* ---- texture.c: one thread ------------------------------------------------------- */

/* RGB in [0, 1]: one of several kinds of surface, of random scale, colours and grain. */
void dad_texture(float *texture /* [H, W, 3] */, ptrdiff_t H, ptrdiff_t W, dad_rng *rng);

/* ---- augment.c: one thread ------------------------------------------------------- */

typedef enum {
    DAD_GAMMA,          /* p: an exponent per channel */
    DAD_BRIGHTNESS,     /* p: factor, shift in levels, 1 if the shift comes first */
    DAD_SHARPNESS,      /* p[0]: 0 smooth, 1 as it is, above 1 sharper */
    DAD_HUE_SATURATION, /* p: shifts in 255ths */
    DAD_SOLARIZE,       /* p[0]: values from here on are inverted */
    DAD_POSTERIZE,      /* p[0]: bits kept, 1 .. 8 */
    DAD_INVERT,
    DAD_AUTOCONTRAST, /* p[0]: percent left out at either end */
    DAD_EQUALIZE,
    DAD_ROTATION, /* p[0]: degrees */
    DAD_AUGMENTERS
} dad_augmenter;

typedef struct {
    dad_augmenter kind;
    double p[3];
} dad_augmentation;

/* `count` <= DAD_AUGMENTERS different ones, in the order in which to apply them. */
void dad_augment_draw(dad_augmentation *chosen, ptrdiff_t count, dad_rng *rng);
/* In place; scratch holds as many bytes as the image. */
void dad_augment(uint8_t *image /* [H, W, 3] */, const dad_augmentation *change,
                 ptrdiff_t H, ptrdiff_t W, uint8_t *scratch);

/* ---- perlin.c: one thread -------------------------------------------------------- */

/* RY <= H and RX <= W cells; angles [RY + 1, RX + 1], the first axis' gradient is cos. */
ptrdiff_t dad_perlin_scratch(ptrdiff_t W, ptrdiff_t RY, ptrdiff_t RX);
void dad_perlin(float *noise /* [H, W] */, const double *angles, ptrdiff_t H, ptrdiff_t W,
                ptrdiff_t RY, ptrdiff_t RX, float *scratch);

/* ---- synthesize.c ---------------------------------------------------------------- */

typedef struct {
    double anomaly_probability; /* 0.5: else the image stays as it is */
    double self_probability;    /* 0.5: that the appearance is made from the image */
    double beta_low, beta_high; /* 0.2, 0.8: how much of the image shows through */
    int fewest_exponent;        /* 0, 5: the noise has 2^i x 2^j cells, */
    int most_exponent;          /*       i and j between these; at most 10 */
    float threshold;            /* 0.5: of the noise */
    bool random_part;           /* confine the anomaly to a random part of the foreground */
} dad_synthesis_options;

typedef struct {
    const float *images;      /* [N, H, W, 3] in [0, 1] */
    const float *foregrounds; /* [N, H, W] in [0, 1]; NULL: everywhere */
    const float *appearances; /* [N, H, W, 3] in [0, 1]; NULL: procedural textures */
    const uint64_t *seeds;    /* [N] */
} dad_sources;

typedef struct {
    float *samples;  /* [N, 3, H, W] */
    float *masks;    /* [N, 1, H, W]: 0, or the foreground's value */
    int64_t *labels; /* [N]: 1 where the mask is not empty */
    /* What they were made of, for a look at it; NULL: not wanted. 0 where the label is. */
    float *noises;      /* [N, H, W]: rotated, before the threshold */
    float *parts;       /* [N, H, W]: where the anomaly could lie */
    float *appearances; /* [N, 3, H, W] */
} dad_samples;

/* For the current thread count. */
ptrdiff_t dad_synthesize_scratch(const dad_synthesis_options *options, ptrdiff_t H,
                                 ptrdiff_t W);
void dad_synthesize(const dad_samples *out, const dad_sources *in,
                    const dad_synthesis_options *options, ptrdiff_t N, ptrdiff_t H,
                    ptrdiff_t W, float *scratch);

/* ---- schedule.c ------------------------------------------------------------------ */

typedef enum { DAD_SCHEDULE_LINEAR, DAD_SCHEDULE_COSINE } dad_schedule_kind;

enum {
    DAD_BETAS,
    DAD_ALPHAS_CUMPROD,
    DAD_SQRT_ALPHAS_CUMPROD,
    DAD_SQRT_ONE_MINUS_ALPHAS_CUMPROD,
    DAD_SQRT_RECIP_ALPHAS_CUMPROD,
    DAD_SQRT_RECIPM1_ALPHAS_CUMPROD,
    DAD_POSTERIOR_VARIANCE,
    DAD_POSTERIOR_LOG_VARIANCE, /* the first entry clipped */
    DAD_POSTERIOR_MEAN_COEF1,
    DAD_POSTERIOR_MEAN_COEF2,
    DAD_SCHEDULE_TABLES
};

/* The smallest T whose betas all lie below 1. */
ptrdiff_t dad_schedule_fewest_steps(dad_schedule_kind kind);
void dad_schedule_tables(double *tables /* [DAD_SCHEDULE_TABLES, T] */,
                         dad_schedule_kind kind, ptrdiff_t T);

/* ---- diffuse.c: N images of `size` elements -------------------------------------- */

void dad_q_sample(float *x_t, const float *x0, const float *noise,
                  const double *abar /* [N] */, ptrdiff_t N, ptrdiff_t size);
void dad_predict_x0(float *x0, const float *x_t, const float *eps, const double *abar,
                    bool clip, ptrdiff_t N, ptrdiff_t size);

/* Noise from the output of a preconditioned network (Karras et al. 2022, table 1, for x_t
 * of unit signal and noise power): with s^2 = (1 - abar) / abar and the data's spread d =
 * 1/4 about 1/2, eps = (1 - c) / sqrt(1 - abar) (x_t - sqrt(abar) / 2) - sqrt(c) output,  c
 * = d^2 / (s^2 + d^2). Backward: doutput and, unless NULL, the part of dx_t that does not
 * go through the network. */
void dad_precondition(float *eps, const float *x_t, const float *output, const double *abar,
                      ptrdiff_t N, ptrdiff_t size);
void dad_precondition_backward(float *doutput, float *dx_t, const float *deps,
                               const double *abar, ptrdiff_t N, ptrdiff_t size);

typedef struct {
    double abar, abar_prev; /* at t and t - 1 (1 at t = 0) */
    double beta, variance;  /* at t */
} dad_ancestral;

/* noise NULL: none is added, as at t = 0. */
void dad_ancestral_step(float *x_next, const float *x_t, const float *eps,
                        const float *noise, const dad_ancestral *steps /* [N] */,
                        ptrdiff_t N, ptrdiff_t size);

/* ---- guide.c --------------------------------------------------------------------- */

typedef struct {
    const float *x_s, *x_b;        /* [N, size]: noised to t_s and to t_b */
    const float *e_s, *e_b;        /* [N, size]: the network's predictions for them */
    const double *abar_s, *abar_b; /* [N] */
    float w;                       /* weight of the guidance */
} dad_guide_inputs;

/* Each [N, size], or NULL: not wanted. */
typedef struct {
    float *x0_hat, *x0_s, *x0_b, *x_s_from_b, *eps_hat;
} dad_guide_outputs;

void dad_guide_forward(const dad_guide_outputs *out, const dad_guide_inputs *in,
                       ptrdiff_t N, ptrdiff_t size);
/* Gradients of the two predictions, given that of x0_hat. */
void dad_guide_backward(float *de_s, float *de_b, const float *dx0_hat,
                        const dad_guide_inputs *in, ptrdiff_t N, ptrdiff_t size);

/* ---- normality.c: P = H W pixels an image, C channels ---------------------------- */

/* departures [N, 2, P]: log odds of the map, and mean |image - repair|. */
void dad_departures(float *departures, const float *maps /* [N, P] */,
                    const float *images /* [N, C, P] */,
                    const float *repairs /* [N, C, P] */, ptrdiff_t N, ptrdiff_t C,
                    ptrdiff_t P);

/* departures [N, 2, P] with each error the mean over the square around it, in multiples of
 * the image's mean. */
void dad_relate_errors(float *related, const float *departures, ptrdiff_t N, ptrdiff_t H,
                       ptrdiff_t W, ptrdiff_t radius);

/* maps [N, P] in [0, 1], by the mean and deviation of good images: [2, P], or pooled, of
 * related errors, [2]. */
void dad_standardise(float *maps, const float *departures /* [N, 2, P] */,
                     const float *mean, const float *deviation, ptrdiff_t N, ptrdiff_t P,
                     bool pooled);

#endif
