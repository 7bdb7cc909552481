/* Metrics for weighted images, many weightings at once.
 *
 * An image that counts w times adds w times what it adds at each step. The walk over the
 * steps is that of tally.c, in doubles, for LANES weightings side by side: what a step
 * holds is read once for all of them. One thread per block of weightings, with its weights
 * turned to [N, LANES]. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/pixels.h"

enum { LANES = 8, METRICS = 4 };

typedef struct {
    double tp[LANES], fp[LANES], overlap[LANES];
} found;

typedef struct {
    found all, now;
    double limit[LANES], twice_area[LANES], precisions[LANES], f1_max[LANES],
        pro_area[LANES];
} lanes;

/* Adds the entries of steps `first` to `end`. */
static void add_entries(found *sum, const dad_image_steps *steps, ptrdiff_t first,
                        ptrdiff_t end, const double *weights /* [N, LANES] */) {
    for (int64_t e = steps->starts[first]; e < steps->starts[end]; e++) {
        const double *w = weights + (ptrdiff_t)steps->images[e] * LANES;
        double good = steps->good[e], tp = steps->found[e], share = steps->shares[e];
        for (int i = 0; i < LANES; i++) {
            sum->fp[i] += w[i] * good;
            sum->tp[i] += w[i] * tp;
            sum->overlap[i] += w[i] * share;
        }
    }
}

static void add_step(lanes *l, const found *next) {
    const found *now = &l->now, *all = &l->all;
    for (int i = 0; i < LANES; i++) {
        double new_fp = next->fp[i] - now->fp[i], new_tp = next->tp[i] - now->tp[i];
        l->twice_area[i] += new_fp * (now->tp[i] + next->tp[i]);
        if (new_fp > 0.0) {
            l->pro_area[i] += dad_overlap_area(now->fp[i], next->fp[i], now->overlap[i],
                                               next->overlap[i], l->limit[i]);
        }
        if (new_tp > 0.0) {
            double positive = next->tp[i] + next->fp[i];
            l->precisions[i] += new_tp * (next->tp[i] / positive);
            l->f1_max[i] = fmax(l->f1_max[i], 2.0 * next->tp[i] / (positive + all->tp[i]));
        }
    }
    l->now = *next;
}

/* result [count, METRICS] of the first `count` lanes. */
static void walk(double *result, ptrdiff_t count, const dad_image_steps *steps,
                 const double *weights, double fpr_limit) {
    lanes l = {0};
    add_entries(&l.all, steps, 0, steps->steps, weights);
    for (int i = 0; i < LANES; i++) {
        l.limit[i] = fpr_limit * l.all.fp[i];
    }
    found next = {0};
    for (ptrdiff_t s = 0; s < steps->steps; s++) {
        add_entries(&next, steps, s, s + 1, weights);
        add_step(&l, &next);
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        double P = l.all.tp[i], N = l.all.fp[i];
        bool both = P > 0.0 && N > 0.0;
        double *r = result + i * METRICS;
        r[0] = both ? l.twice_area[i] / 2.0 / (P * N) : NAN;
        r[1] = both ? l.precisions[i] / P : NAN;
        r[2] = both ? l.f1_max[i] : NAN;
        r[3] = both ? fmin(1.0, l.pro_area[i] / (l.limit[i] * l.all.overlap[i])) : NAN;
    }
}

dad_status dad_weighted_metrics(double *result, const dad_image_steps *steps,
                                const double *weights, ptrdiff_t B, ptrdiff_t N,
                                double fpr_limit) {
    ptrdiff_t doubles;
    if (!dad_checked_product(&doubles, 3, (ptrdiff_t[]){N, LANES, dad_num_threads()})) {
        return DAD_NO_MEMORY;
    }
    double *scratch = malloc((size_t)doubles * sizeof(*scratch));
    if (scratch == NULL) {
        return DAD_NO_MEMORY;
    }
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t first = 0; first < B; first += LANES) {
        double *turned = scratch + dad_thread_id() * N * LANES;
        ptrdiff_t count = dad_min(LANES, B - first);
        for (ptrdiff_t n = 0; n < N; n++) {
            for (ptrdiff_t i = 0; i < LANES; i++) {
                turned[n * LANES + i] = i < count ? weights[(first + i) * N + n] : 0.0;
            }
        }
        walk(result + first * METRICS, count, steps, turned, fpr_limit);
    }
    free(scratch);
    return DAD_OK;
}
