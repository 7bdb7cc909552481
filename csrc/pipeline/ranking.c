/* Scores ranked from high to low, and what one pass over the ranks tells.
 *
 *   AUROC   sum over thresholds of dFP (TP_before + dTP / 2), / (P N)
 *   AP      sum over thresholds of dTP / P * TP / (TP + FP)
 *   F1-max  largest 2 TP / (TP + FP + P)
 *   AUPRO   trapezoids under the mean over regions of the part found, over FP / N up to a
 *           limit, / limit
 *
 * Equal scores are one threshold: counts are taken after the last of them. A positive adds
 * 1 / size of its region to the overlap. The ranking owns its items. Filling and sorting
 * run in parallel; the pass over the ranks is one thread, which fixes the order of its sums
 * (it takes about a quarter of the time of the sort). */
#include <math.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/metrics.h"
#include "pipeline/ranks.h"

enum { BLOCK = 1 << 14 };

/* ---- Making a ranking ------------------------------------------------------------ */

static bool block_is_finite(dad_scores scores, ptrdiff_t first, ptrdiff_t end) {
    bool finite = true;
    if (scores.wide) {
        const double *values = scores.values;
        for (ptrdiff_t i = first; i < end; i++) {
            finite &= fabs(values[i]) <= 0x1.fffffffffffffp1023;
        }
    } else {
        const float *values = scores.values;
        for (ptrdiff_t i = first; i < end; i++) {
            finite &= fabsf(values[i]) <= 0x1.fffffep127f;
        }
    }
    return finite;
}

ptrdiff_t dad_first_not_finite(dad_scores scores) {
    ptrdiff_t blocks = dad_ceil_div(scores.count, BLOCK);
    ptrdiff_t bad = blocks;
#pragma omp parallel for num_threads(dad_num_threads()) reduction(min : bad) if (blocks > 1)
    for (ptrdiff_t b = 0; b < blocks; b++) {
        if (!block_is_finite(scores, b * BLOCK, dad_min((b + 1) * BLOCK, scores.count))) {
            bad = dad_min(bad, b);
        }
    }
    if (bad == blocks) {
        return -1;
    }
    ptrdiff_t i = bad * BLOCK;
    while (i + 1 < scores.count && block_is_finite(scores, i, i + 1)) {
        i++;
    }
    return i;
}

static void *allocate_items(ptrdiff_t count, bool wide) {
    ptrdiff_t size = wide ? sizeof(dad_wide_item) : sizeof(dad_narrow_item);
    ptrdiff_t floats;
    if (!dad_checked_product(&floats, 2,
                             (ptrdiff_t[]){count, size / (ptrdiff_t)sizeof(float)})) {
        return NULL;
    }
    return dad_alloc(floats);
}

dad_status dad_ranking_begin(dad_ranking *ranking, dad_scores scores) {
    *ranking = (dad_ranking){.count = scores.count, .wide = scores.wide};
    ranking->items = allocate_items(scores.count, scores.wide);
    return ranking->items != NULL ? DAD_OK : DAD_NO_MEMORY;
}

void dad_ranking_free(dad_ranking *ranking) {
    dad_free(ranking->items);
    ranking->items = NULL;
}

void dad_ranking_set(dad_ranking *ranking, dad_scores scores, ptrdiff_t first,
                     ptrdiff_t count, const uint32_t *marks) {
    if (scores.wide) {
        const double *values = (const double *)scores.values + first;
        dad_wide_item *items = (dad_wide_item *)ranking->items + first;
        for (ptrdiff_t i = 0; i < count; i++) {
            items[i] = (dad_wide_item){dad_key_of_double(values[i]), marks[i]};
        }
    } else {
        const float *values = (const float *)scores.values + first;
        dad_narrow_item *items = (dad_narrow_item *)ranking->items + first;
        for (ptrdiff_t i = 0; i < count; i++) {
            items[i] = (uint64_t)dad_key_of_float(values[i]) << 32 | marks[i];
        }
    }
}

dad_status dad_ranking_finish(dad_ranking *ranking) {
    dad_status status = DAD_NO_MEMORY;
    void *spare = allocate_items(ranking->count, ranking->wide);
    if (spare == NULL) {
        goto done;
    }
    if (ranking->wide) {
        dad_wide_item *items = ranking->items, *other = spare;
        status = dad_sort_wide(&items, &other, ranking->count);
        ranking->items = items;
        spare = other;
    } else {
        dad_narrow_item *items = ranking->items, *other = spare;
        status = dad_sort_narrow(&items, &other, ranking->count);
        ranking->items = items;
        spare = other;
    }
done:
    dad_free(spare);
    if (status != DAD_OK) {
        dad_ranking_free(ranking);
    }
    return status;
}

dad_status dad_rank_labels(dad_ranking *ranking, const uint8_t *labels, dad_scores scores) {
    dad_status status = dad_ranking_begin(ranking, scores);
    if (status != DAD_OK) {
        return status;
    }
    ptrdiff_t blocks = dad_ceil_div(scores.count, BLOCK);
    ptrdiff_t positives = 0;
#pragma omp parallel for num_threads(dad_num_threads()) \
    reduction(+ : positives) if (blocks > 1)
    for (ptrdiff_t b = 0; b < blocks; b++) {
        ptrdiff_t first = b * BLOCK, count = dad_min(BLOCK, scores.count - first);
        uint32_t marks[BLOCK];
        for (ptrdiff_t i = 0; i < count; i++) {
            marks[i] = labels[first + i] != 0;
            positives += marks[i];
        }
        dad_ranking_set(ranking, scores, first, count, marks);
    }
    ranking->positives = positives;
    ranking->regions = positives;
    return dad_ranking_finish(ranking);
}

/* ---- The pass over the ranks ----------------------------------------------------- */

/* What score >= threshold finds. */
typedef struct {
    int64_t tp, fp;
    dad_share overlap; /* sum over regions of the part found */
} found;

typedef struct {
    const void *items;
    ptrdiff_t next, count;
    uint64_t key; /* of the items just passed */
    found now;
} walk;

static inline uint64_t item_key(const void *items, ptrdiff_t i, bool wide) {
    return wide ? ((const dad_wide_item *)items)[i].key
                : ((const dad_narrow_item *)items)[i] >> 32;
}

static inline uint32_t item_mark(const void *items, ptrdiff_t i, bool wide) {
    return (uint32_t)(wide ? ((const dad_wide_item *)items)[i].mark
                           : ((const dad_narrow_item *)items)[i]);
}

/* Past the next items of equal score; false at the end. `wide` is a constant where it is
 * called, which makes two loops of this one. */
static inline bool walk_on(walk *w, bool wide) {
    if (w->next == w->count) {
        return false;
    }
    w->key = item_key(w->items, w->next, wide);
    do {
        uint32_t mark = item_mark(w->items, w->next, wide);
        if (mark != 0) {
            w->now.tp++;
            dad_share_add(&w->now.overlap, dad_share_of_pixel(mark));
        } else {
            w->now.fp++;
        }
        w->next++;
    } while (w->next < w->count && item_key(w->items, w->next, wide) == w->key);
    return true;
}

static double score_of_key(uint64_t key, bool wide) {
    return wide ? dad_double_of_key(key) : (double)dad_float_of_key((uint32_t)key);
}

static inline dad_summary summarize(const dad_ranking *ranking, double fpr_limit,
                                    bool wide) {
    int64_t positives = ranking->positives, negatives = ranking->count - ranking->positives;
    double limit = fpr_limit * (double)negatives;
    uint64_t twice_area = 0; /* of the ROC curve, in counts: at most count^2 / 2 */
    double precisions = 0.0, pro_area = 0.0, best = -1.0;
    uint64_t best_key = 0;
    walk w = {.items = ranking->items, .count = ranking->count};
    for (found before = w.now; walk_on(&w, wide); before = w.now) {
        int64_t new_tp = w.now.tp - before.tp, new_fp = w.now.fp - before.fp;
        if (new_fp > 0) {
            twice_area += (uint64_t)new_fp * (uint64_t)(before.tp + w.now.tp);
            pro_area += dad_overlap_area((double)before.fp, (double)w.now.fp,
                                         dad_share_value(before.overlap),
                                         dad_share_value(w.now.overlap), limit);
        }
        if (new_tp > 0) { /* F1 falls where only false positives are added */
            double precision = (double)w.now.tp / (double)(w.now.tp + w.now.fp);
            double f1 = 2.0 * (double)w.now.tp / (double)(w.now.tp + w.now.fp + positives);
            precisions += (double)new_tp * precision;
            if (f1 > best) {
                best = f1;
                best_key = w.key;
            }
        }
    }
    return (dad_summary){
        .auroc = (double)twice_area / 2.0 / ((double)positives * (double)negatives),
        .average_precision = precisions / (double)positives,
        .f1_max = best,
        .f1_threshold = score_of_key(best_key, wide),
        .aupro = fmin(1.0, pro_area / (limit * (double)ranking->regions)),
    };
}

dad_summary dad_summarize(const dad_ranking *ranking, double fpr_limit) {
    return ranking->wide ? summarize(ranking, fpr_limit, true)
                         : summarize(ranking, fpr_limit, false);
}

ptrdiff_t dad_curve_length(const dad_ranking *ranking) {
    bool wide = ranking->wide;
    ptrdiff_t length = ranking->count > 0 ? 1 : 0;
    for (ptrdiff_t i = 1; i < ranking->count; i++) {
        length +=
            item_key(ranking->items, i, wide) != item_key(ranking->items, i - 1, wide);
    }
    return length;
}

void dad_fill_curve(const dad_curve *curve, const dad_ranking *ranking) {
    bool wide = ranking->wide;
    walk w = {.items = ranking->items, .count = ranking->count};
    for (ptrdiff_t i = 0; walk_on(&w, wide); i++) {
        curve->false_positives[i] = w.now.fp;
        curve->true_positives[i] = w.now.tp;
        curve->thresholds[i] = score_of_key(w.key, wide);
        if (curve->overlap != NULL) {
            curve->overlap[i] = dad_share_value(w.now.overlap);
        }
    }
}
