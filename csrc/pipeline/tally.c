/* The metrics from steps and counts, in one pass.
 *
 *   good pixels before a step   AUROC += dFP TP;  AUPRO: overlap stays as it was
 *   pixels at a step, tied      AUROC += dFP (TP + dTP / 2);  AUPRO: a trapezoid
 *   after the step              AP += dTP TP / (TP + FP);  F1 = 2 TP / (TP + FP + P)
 *
 * A good pixel alone never makes AP larger nor F1, so that these are asked at steps only.
 * One thread, which fixes the order of the sums; there are no more steps than defect
 * pixels. */
#include <math.h>

#include "pipeline/pixels.h"

/* `good` false positives at an overlap that goes from the present one to `overlap`. */
static void add_good(dad_tally *tally, int64_t good, dad_share overlap, int64_t new_tp,
                     double limit) {
    double left = (double)tally->fp;
    tally->twice_area += (double)good * (double)(2 * tally->tp + new_tp);
    tally->fp += good;
    tally->pro_area +=
        dad_overlap_area(left, (double)tally->fp, dad_share_value(tally->overlap),
                         dad_share_value(overlap), limit);
}

void dad_tally_steps(dad_tally *tally, const dad_steps *steps, const int64_t *counts,
                     const dad_totals *totals) {
    double limit = totals->fpr_limit * (double)totals->negatives;
    for (ptrdiff_t s = 0; s < steps->count; s++) {
        int64_t before = counts[2 * s] - (s == 0 ? tally->fp : 0);
        int64_t tied = counts[2 * s + 1], new_tp = steps->positives[s];
        if (before > 0) {
            add_good(tally, before, tally->overlap, 0, limit);
        }
        dad_share overlap = tally->overlap;
        dad_share_add(&overlap, steps->shares[s]);
        if (tied > 0) {
            add_good(tally, tied, overlap, new_tp, limit);
        }
        tally->overlap = overlap;
        tally->tp += new_tp;
        double tp = (double)tally->tp, positive = (double)(tally->tp + tally->fp);
        double f1 = 2.0 * tp / (positive + (double)totals->positives);
        tally->precisions += (double)new_tp * (tp / positive);
        if (f1 > tally->f1_max) {
            tally->f1_max = f1;
            tally->f1_key = steps->keys[s];
        }
    }
}

dad_summary dad_tally_summary(const dad_tally *tally, const dad_totals *totals) {
    double positives = (double)totals->positives, negatives = (double)totals->negatives;
    double limit = totals->fpr_limit * negatives;
    dad_tally all = *tally;
    add_good(&all, totals->negatives - all.fp, all.overlap, 0, limit);
    return (dad_summary){
        .auroc = all.twice_area / 2.0 / (positives * negatives),
        .average_precision = all.precisions / positives,
        .f1_max = all.f1_max,
        .f1_threshold = (double)dad_float_of_key(all.f1_key),
        .aupro = fmin(1.0, all.pro_area / (limit * (double)totals->regions)),
    };
}
