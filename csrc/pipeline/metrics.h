/* How well scores tell good from defective, exactly: every distinct score is a threshold.
 *
 *   sort.c         parallel radix sort of keys that carry a mark
 *   ranking.c      scores ranked from high to low; AUROC, average precision, F1-max and
 *                  AUPRO in one pass over the ranks; whole curves
 *   components.c   8-connected regions of masks
 *   pro.c          pixels ranked with the size of their region; PRO at given thresholds
 *   score.c        anomaly map -> image score
 *   nearest.c      distance to the nearest training image: the baseline of the demo
 *
 * Scores are float32 or float64 and finite (dad_first_not_finite says whether they are).
 * Counts are integers and sums run in double in an order that depends on the shapes alone,
 * so results are the same bit for bit at any thread count. What allocates returns a
 * status. */
#ifndef DAD_METRICS_H
#define DAD_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* ---- sort.c ---------------------------------------------------------------------- */

/* What is sorted: float32 scores as one word (key in the upper half, mark in the lower),
 * float64 scores as two. */
typedef uint64_t dad_narrow_item;
typedef struct {
    uint64_t key, mark;
} dad_wide_item;

/* Sorts `count` items by key, ascending, stable; *items and *spare (of the same size) may
 * change places, the result is in *items. */
DAD_MUST_CHECK dad_status dad_sort_narrow(dad_narrow_item **items, dad_narrow_item **spare,
                                          ptrdiff_t count);
DAD_MUST_CHECK dad_status dad_sort_wide(dad_wide_item **items, dad_wide_item **spare,
                                        ptrdiff_t count);

/* ---- ranking.c ------------------------------------------------------------------- */

typedef struct {
    const void *values; /* [count] float32, or float64 when wide */
    ptrdiff_t count;
    bool wide;
} dad_scores;

/* Scores from high to low. A mark is 0 for a negative, else the size of the region that the
 * positive belongs to (1: it counts by itself). */
typedef struct {
    void *items; /* [count] dad_narrow_item or dad_wide_item; owned, see dad_ranking_free */
    ptrdiff_t count, positives, regions;
    bool wide;
} dad_ranking;

/* The index of the first NaN or infinity, or -1. */
ptrdiff_t dad_first_not_finite(dad_scores scores);

/* labels [count]: non-zero is positive; each positive is its own region. */
DAD_MUST_CHECK dad_status dad_rank_labels(dad_ranking *ranking, const uint8_t *labels,
                                          dad_scores scores);
void dad_ranking_free(dad_ranking *ranking);

/* For rankings made elsewhere: fill items by dad_ranking_set between begin and finish
 * (sort). `finish` frees the ranking when it fails. */
DAD_MUST_CHECK dad_status dad_ranking_begin(dad_ranking *ranking, dad_scores scores);
void dad_ranking_set(dad_ranking *ranking, dad_scores scores, ptrdiff_t first,
                     ptrdiff_t count,
                     const uint32_t *marks /* [count], of the elements from `first` on */);
DAD_MUST_CHECK dad_status dad_ranking_finish(dad_ranking *ranking);

typedef struct {
    double auroc;             /* ties count half */
    double average_precision; /* sum of precision times the step in recall */
    double f1_max;
    double f1_threshold; /* the highest score with F1(score >= threshold) = f1_max */
    double aupro;        /* area under the mean overlap up to the limit, / limit */
} dad_summary;

/* Needs positives and negatives; 0 < fpr_limit <= 1. */
dad_summary dad_summarize(const dad_ranking *ranking, double fpr_limit);

/* One point per distinct score, from high to low: what score >= threshold finds. */
typedef struct {
    int64_t *false_positives, *true_positives;
    double *overlap; /* sum over regions of the part found; NULL: not wanted */
    double *thresholds;
} dad_curve;

ptrdiff_t dad_curve_length(const dad_ranking *ranking);
void dad_fill_curve(const dad_curve *curve, const dad_ranking *ranking);

/* ---- components.c ---------------------------------------------------------------- */

/* 8-connected regions of one mask (non-zero is inside), numbered from 1 in raster order of
 * their first pixels; returns how many. H * W < INT32_MAX. */
int32_t dad_label_image(int32_t *labels /* [H, W] */, const uint8_t *mask /* [H, W] */,
                        ptrdiff_t H, ptrdiff_t W);

/* The same for N masks, each numbered by itself. */
void dad_label_components(int32_t *labels /* [N, H, W] */, int32_t *counts /* [N] */,
                          const uint8_t *masks /* [N, H, W] */, ptrdiff_t N, ptrdiff_t H,
                          ptrdiff_t W);

/* No mask of this size has more 8-connected regions. */
static inline ptrdiff_t dad_max_regions(ptrdiff_t H, ptrdiff_t W) {
    return ((H + 1) / 2) * ((W + 1) / 2);
}

/* ---- pro.c ----------------------------------------------------------------------- */

typedef struct {
    ptrdiff_t N, H, W;
} dad_maps_shape;

/* Ranks all pixels of N maps; a defect pixel's mark is the size of its region. */
DAD_MUST_CHECK dad_status dad_rank_pixels(dad_ranking *ranking,
                                          const uint8_t *masks /* [N, H, W] */,
                                          dad_scores maps /* [N, H, W] */,
                                          const dad_maps_shape *shape);

/* Mean overlap with the regions, holes filled, and false-positive rate of score >
 * threshold: the public reference code's PRO. A filled hole adds to the overlap but not to
 * the region's size, so that the overlap can pass 1. thresholds [K] do not rise; masks hold
 * both classes. */
DAD_MUST_CHECK dad_status dad_filled_pro(double *fpr /* [K] */, double *pro /* [K] */,
                                         const uint8_t *masks /* [N, H, W] */,
                                         dad_scores maps /* [N, H, W] */,
                                         const double *thresholds, ptrdiff_t K,
                                         const dad_maps_shape *shape);

/* ---- score.c --------------------------------------------------------------------- */

/* result [N] = mean of each map's top_k largest values; 1 <= top_k <= size. */
DAD_MUST_CHECK dad_status dad_image_scores(double *result, dad_scores maps /* [N, size] */,
                                           ptrdiff_t N, ptrdiff_t top_k);

/* ---- nearest.c ------------------------------------------------------------------- */

/* result [N] = min over m of |test[n] - train[m]|, differences and sums in double. */
DAD_MUST_CHECK dad_status dad_nearest_distance(double *result,
                                               const float *train /* [M, D] */,
                                               const float *test /* [N, D] */, ptrdiff_t M,
                                               ptrdiff_t N, ptrdiff_t D);

#endif
