/* Where the object is in an image, without a network, in flow order:
 *
 *   otsu.c     an object on a plain background: one grey level parts the two
 *   scene.c    a background that stays the same while the object moves: robust medians
 *   words.c    pixels as words of colour and texture; what words say about the object
 *   regions.c  evidence per pixel -> a share of object that respects edges -> a tidy mask
 *
 * Images are uint8 [N, H, W, 3] with H W < 2^28; threads share out images (scene.c's
 * medians: rows). Evidence is a logarithm of odds, above 0 for the object. Buffers are the
 * caller's;
 * `..._scratch` counts floats for the current thread count. */
#ifndef DAD_FOREGROUND_H
#define DAD_FOREGROUND_H

#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

/* ---- otsu.c ---------------------------------------------------------------------- */

/* What tells whether one threshold was enough. */
enum {
    DAD_SEPARABILITY, /* between-class over total variance of the grey levels, 0 .. 1 */
    DAD_BORDER,       /* share of the image's border that the mask covers */
    DAD_AREA,         /* share of the image that the mask covers */
    DAD_SOLID,        /* share of the mask in regions that are not specks */
    DAD_GAP,          /* distance of the classes' means over the background's spread */
    DAD_OTSU_FACTS
};

ptrdiff_t dad_otsu_scratch(ptrdiff_t H, ptrdiff_t W);
void dad_otsu(uint8_t *masks /* [N, H, W] */, double *facts /* [N, DAD_OTSU_FACTS] */,
              const uint8_t *images, ptrdiff_t N, ptrdiff_t H, ptrdiff_t W, float *scratch);

/* ---- scene.c --------------------------------------------------------------------- */

ptrdiff_t dad_scene_scratch(ptrdiff_t N, ptrdiff_t H, ptrdiff_t W);
/* Each image under even light: log grey loses the smooth surface that fits most of it. */
void dad_level_light(uint8_t *level, const uint8_t *images, ptrdiff_t N, ptrdiff_t H,
                     ptrdiff_t W, float *scratch);
/* The background [H, W, 3] in [0, 1], with each image's smooth change of light taken out.
 */
void dad_scene_background(float *background, const uint8_t *images, ptrdiff_t N,
                          ptrdiff_t H, ptrdiff_t W, float *scratch);
/* The largest difference of a channel, light taken out: [N, H, W]. */
void dad_scene_difference(float *difference, const uint8_t *images, const float *background,
                          ptrdiff_t N, ptrdiff_t H, ptrdiff_t W, float *scratch);
/* Its usual size: [H, W], as a standard deviation. */
void dad_scene_spread(float *spread, const float *difference, ptrdiff_t N, ptrdiff_t H,
                      ptrdiff_t W, float *scratch);
/* Evidence, in place of the difference. */
void dad_scene_evidence(float *difference, const float *spread, ptrdiff_t N, ptrdiff_t H,
                        ptrdiff_t W, float *scratch);

/* ---- words.c --------------------------------------------------------------------- */

enum {
    DAD_WORD_LIGHT = 12,  /* steps of the root of brightness */
    DAD_WORD_COLOUR = 13, /* of red against green; of blue against both */
    DAD_WORD_GRAIN = 6,   /* of local contrast */
    DAD_WORDS = DAD_WORD_LIGHT * DAD_WORD_COLOUR * DAD_WORD_COLOUR * DAD_WORD_GRAIN
};

ptrdiff_t dad_words_scratch(ptrdiff_t H, ptrdiff_t W);
void dad_words(uint16_t *words /* [N, H, W] */, const uint8_t *images, ptrdiff_t N,
               ptrdiff_t H, ptrdiff_t W, float *scratch);
/* How often each word occurs, [N, DAD_WORDS], each pixel counted by its weight [N, P]
 * (NULL: 1) and shared with the neighbouring words. */
ptrdiff_t dad_word_counts_scratch(void);
void dad_word_counts(double *counts, const uint16_t *words, const float *weights,
                     ptrdiff_t N, ptrdiff_t P, float *scratch);
/* Mean over 5 x 5 pixels of log(object / background), each [N, DAD_WORDS], sums 1. */
ptrdiff_t dad_word_evidence_scratch(ptrdiff_t H, ptrdiff_t W);
void dad_word_evidence(float *evidence, const uint16_t *words, const double *object,
                       const double *background, ptrdiff_t N, ptrdiff_t H, ptrdiff_t W,
                       float *scratch);

/* ---- regions.c ------------------------------------------------------------------- */

/* share [N, H, W] in [0, 1]: mean field of an Ising model over evidence + offset, whose
 * neighbours hold together where the image has no edge. */
ptrdiff_t dad_settle_scratch(ptrdiff_t H, ptrdiff_t W);
void dad_settle(float *share, const float *evidence, const uint8_t *images, float offset,
                ptrdiff_t N, ptrdiff_t H, ptrdiff_t W, float *scratch);
/* Keeps 8-connected regions of at least `keep` times the largest one's pixels, and fills
 * their holes; in place. */
ptrdiff_t dad_tidy_scratch(ptrdiff_t H, ptrdiff_t W);
void dad_tidy(uint8_t *masks, double keep, ptrdiff_t N, ptrdiff_t H, ptrdiff_t W,
              float *scratch);
/* The pixels connected to `start` that have its value, which becomes `mark`; they are
 * listed in queue [H W]. Returns how many. */
ptrdiff_t dad_flood(uint8_t *values, ptrdiff_t start, uint8_t mark, int neighbours,
                    int32_t *queue, ptrdiff_t H, ptrdiff_t W);

/* Pixels along one side of a box of 2 radius + 1 around `at`: fewer at the borders. */
static inline ptrdiff_t dad_box_side(ptrdiff_t at, ptrdiff_t radius, ptrdiff_t size) {
    return dad_min(at + radius, size - 1) - dad_max(at - radius, 0) + 1;
}
/* Means over (2 radius + 1)^2 pixels, fewer at the borders; column [W]. */
void dad_box_mean(float *out, const float *in, ptrdiff_t radius, double *column,
                  ptrdiff_t H, ptrdiff_t W);

#endif
