/* Exact pixel metrics without sorting the good pixels.
 *
 *   masks, maps ─ split ─► good scores, defect items ─ steps ─► distinct scores of defects
 *   good scores, steps ─ count ─► good pixels between and at them ─ tally ─► metrics
 *
 * AUROC, AP, F1-max and AUPRO change only where a defect pixel is passed: good pixels need
 * no order among themselves, only their number between two distinct scores of defects. So
 * the few defects are sorted, and each good pixel is looked up once.
 *
 *   pixels.c      maps to good scores and defect items; items to steps
 *   count.c       where good pixels lie among the steps
 *   tally.c       the metrics, in one pass over the steps, which may come in parts
 *   bootstrap.c   the metrics again for images that count several times or not at all
 *
 * Maps are float32 and finite. All sums of counts are integers, also those of regions'
 * shares, so that neither threads nor parts change a result. */
#ifndef DAD_PIXELS_H
#define DAD_PIXELS_H

#include "pipeline/metrics.h"
#include "pipeline/ranks.h"

/* ---- pixels.c -------------------------------------------------------------------- */

/* counts [N]: defect pixels of each mask. */
void dad_count_defects(int64_t *counts, const uint8_t *masks /* [N, size] */, ptrdiff_t N,
                       ptrdiff_t size);

/* Each map's good scores and defect items (key in the upper half, size of the 8-connected
 * region in the lower), in pixel order; image n writes from good_starts[n] and
 * defect_starts[n] to the next image's, also where another thread has changed the masks
 * since they were counted. good may be NULL: not wanted. regions [N]. */
typedef struct {
    float *good;
    dad_narrow_item *defects;
    int64_t *regions;
    const int64_t *good_starts, *defect_starts; /* [N + 1] */
} dad_split;
DAD_MUST_CHECK dad_status dad_split_pixels(const dad_split *split, const uint8_t *masks,
                                           const float *maps, const dad_maps_shape *shape);

/* Distinct scores of defect pixels, from high to low. */
typedef struct {
    uint32_t *keys;     /* [count] rising */
    int64_t *positives; /* [count] pixels with this score */
    dad_share *shares;  /* [count] what they are of their regions */
    ptrdiff_t count;
} dad_steps;

/* The number of distinct keys of sorted items; the steps that they make (room for them is
 * the caller's). */
ptrdiff_t dad_count_steps(const dad_narrow_item *items, ptrdiff_t count);
void dad_fill_steps(const dad_steps *steps, const dad_narrow_item *items, ptrdiff_t count);

/* The steps of both lists; room for a.count + b.count. Returns how many there are. */
ptrdiff_t dad_merge_steps(const dad_steps *merged, const dad_steps *a, const dad_steps *b);

/* All of the above, count and tally, for maps in memory; *positives and *regions are found
 * before the masks are known to hold both classes, and the summary holds only where they
 * do. */
DAD_MUST_CHECK dad_status dad_pixel_summary(dad_summary *summary, int64_t *positives,
                                            const uint8_t *masks, const float *maps,
                                            const dad_maps_shape *shape, double fpr_limit);

/* ---- count.c --------------------------------------------------------------------- */

/* Intervals of keys, rising and apart: step i is first[i] .. last[i]. */
typedef struct {
    const uint32_t *first, *last; /* [count]; the same array where each step is one key */
    ptrdiff_t count;
    int32_t *starts; /* owned: where the search of a key begins, by its upper bits */
    int shift;
} dad_step_index;

DAD_MUST_CHECK dad_status dad_index_steps(dad_step_index *index, const uint32_t *first,
                                          const uint32_t *last, ptrdiff_t count);
void dad_index_free(dad_step_index *index);

/* counts [2 count + 1] += scores before step 0, in it, between 0 and 1, in 1, ..., behind
 * the last. masks [n] or NULL: only where they are 0. */
DAD_MUST_CHECK dad_status dad_count_scores(int64_t *counts, const dad_step_index *index,
                                           const float *scores, const uint8_t *masks,
                                           ptrdiff_t n);

/* Counts of each image by itself: good [N, 2 count + 1], positives and shares [N, count].
 * Image n has the good scores from good_starts[n] to good_starts[n + 1], and its defect
 * items likewise; defects outside all steps are left out. */
typedef struct {
    int64_t *good, *positives;
    double *shares;
} dad_image_counts;
void dad_count_images(const dad_image_counts *counts, const dad_step_index *index,
                      const float *good, const int64_t *good_starts,
                      const dad_narrow_item *defects, const int64_t *defect_starts,
                      ptrdiff_t N);

/* ---- tally.c --------------------------------------------------------------------- */

typedef struct {
    int64_t positives, negatives, regions;
    double fpr_limit;
} dad_totals;

/* What the steps so far have found; all zero before the first. */
typedef struct {
    int64_t tp, fp;
    dad_share overlap;
    double twice_area; /* of the ROC curve, in counts */
    double precisions, pro_area, f1_max;
    uint32_t f1_key;
} dad_tally;

/* `counts` as dad_count_scores() finds them among ALL good pixels, also those that earlier
 * steps have counted. */
void dad_tally_steps(dad_tally *tally, const dad_steps *steps, const int64_t *counts,
                     const dad_totals *totals);
dad_summary dad_tally_summary(const dad_tally *tally, const dad_totals *totals);

/* ---- bootstrap.c ----------------------------------------------------------------- */

/* What each image adds at each step, from high scores to low: entries starts[s] to
 * starts[s + 1]. The pixels of one step count as tied. */
typedef struct {
    const int64_t *starts; /* [steps + 1] */
    const int32_t *images; /* [starts[steps]] */
    const double *good, *found, *shares;
    ptrdiff_t steps;
} dad_image_steps;

/* result [B, 4]: AUROC, AP, F1-max, AUPRO where image n counts weights[b, n] times; NaN
 * where one class has no weight. */
DAD_MUST_CHECK dad_status dad_weighted_metrics(double *result, const dad_image_steps *steps,
                                               const double *weights, ptrdiff_t B,
                                               ptrdiff_t N, double fpr_limit);

#endif
