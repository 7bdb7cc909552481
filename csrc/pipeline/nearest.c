/* Distance to the nearest training image.
 *
 * |a - b|^2 = |a|^2 + |b|^2 - 2 a.b puts the work into matrix products, but in float32 it
 * loses close neighbours to cancellation (a copy of a training image does not get 0). So
 * the products only rule out: float32 sums run over CHUNK dimensions and are added in
 * double, which bounds their error, and the rows that the bound leaves are measured
 * directly, in double. The result is the direct one, whatever the BLAS, its kernels or the
 * thread count do.
 *
 * Threads share the tiles of the product, then the test rows. All scratch is allocated
 * here. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "pipeline/metrics.h"

enum {
    PANEL = 256, /* test rows whose products are held at once */
    TILE_N = 64,
    TILE_M = 128,
    CHUNK = 512,
    LANES = 8,
};

typedef struct {
    const float *train, *test; /* [M, D], [rows, D] */
    ptrdiff_t M, rows, D;
    double *products;          /* [rows, M] */
    const double *train_norms; /* [M]: |b| */
} panel;

/* Each tile of the product is one task: tile [TILE_N, TILE_M] is its scratch. */
static void multiply_tile(const panel *p, ptrdiff_t n0, ptrdiff_t m0, float *tile) {
    ptrdiff_t n_count = dad_min(TILE_N, p->rows - n0), m_count = dad_min(TILE_M, p->M - m0);
    for (ptrdiff_t d = 0; d < p->D; d += CHUNK) {
        dad_gemm(false, true, n_count, m_count, dad_min(CHUNK, p->D - d),
                 p->test + n0 * p->D + d, p->D, p->train + m0 * p->D + d, p->D, 0.0f, tile,
                 TILE_M);
        for (ptrdiff_t n = 0; n < n_count; n++) {
            double *row = p->products + (n0 + n) * p->M + m0;
            for (ptrdiff_t m = 0; m < m_count; m++) {
                row[m] = (d == 0 ? 0.0 : row[m]) + (double)tile[n * TILE_M + m];
            }
        }
    }
}

/* sum of (a - b)^2; b NULL: of a^2. LANES partial sums, so that it vectorises. */
static double squared_distance(const float *a, const float *b, ptrdiff_t D) {
    double lanes[LANES] = {0.0}, sum = 0.0;
    ptrdiff_t d = 0;
    for (; d + LANES <= D; d += LANES) {
        for (int i = 0; i < LANES; i++) {
            double difference = (double)a[d + i] - (b != NULL ? (double)b[d + i] : 0.0);
            lanes[i] += difference * difference;
        }
    }
    for (; d < D; d++) {
        double difference = (double)a[d] - (b != NULL ? (double)b[d] : 0.0);
        lanes[d % LANES] += difference * difference;
    }
    for (int i = 0; i < LANES; i++) {
        sum += lanes[i];
    }
    return sum;
}

/* What |a - b_m|^2 cannot be below. A float32 dot product of CHUNK terms is off by at most
 * CHUNK * 2^-24 of |a| |b| (and an underflow in each term); one that overflowed says
 * nothing. */
static double least_distance(const panel *p, ptrdiff_t n, ptrdiff_t m, double norm) {
    double product = p->products[n * p->M + m], other = p->train_norms[m];
    double error = 2.0 * (CHUNK + 2) * 0x1.0p-24 * norm * other + (double)p->D * FLT_MIN;
    double least = norm * norm + other * other - 2.0 * product - error;
    return isfinite(product) ? least : -INFINITY;
}

static double nearest(const panel *p, ptrdiff_t n) {
    const float *row = p->test + n * p->D;
    double norm = sqrt(squared_distance(row, NULL, p->D)), best = INFINITY;
    ptrdiff_t first = 0;
    for (ptrdiff_t m = 0; m < p->M; m++) {
        double least = least_distance(p, n, m, norm);
        if (least < best) {
            best = least;
            first = m;
        }
    }
    best = squared_distance(row, p->train + first * p->D, p->D);
    for (ptrdiff_t m = 0; m < p->M; m++) {
        if (m != first && least_distance(p, n, m, norm) <= best) {
            best = fmin(best, squared_distance(row, p->train + m * p->D, p->D));
        }
    }
    return sqrt(best);
}

static void search_panel(double *result, const panel *p, float *tiles) {
    ptrdiff_t across = dad_ceil_div(p->M, TILE_M);
    ptrdiff_t count = across * dad_ceil_div(p->rows, TILE_N);
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t t = 0; t < count; t++) {
        multiply_tile(p, t / across * TILE_N, t % across * TILE_M,
                      tiles + dad_thread_id() * TILE_N * TILE_M);
    }
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < p->rows; n++) {
        result[n] = nearest(p, n);
    }
}

dad_status dad_nearest_distance(double *result, const float *train, const float *test,
                                ptrdiff_t M, ptrdiff_t N, ptrdiff_t D) {
    dad_status status = DAD_NO_MEMORY;
    float *tiles = dad_alloc((ptrdiff_t)dad_num_threads() * TILE_N * TILE_M);
    double *norms = calloc((size_t)M, sizeof(*norms));
    double *products = calloc((size_t)M, (size_t)dad_min(N, PANEL) * sizeof(*products));
    if (tiles == NULL || norms == NULL || products == NULL) {
        goto done;
    }
#pragma omp parallel for num_threads(dad_num_threads())
    for (ptrdiff_t m = 0; m < M; m++) {
        norms[m] = sqrt(squared_distance(train + m * D, NULL, D));
    }
    for (ptrdiff_t n = 0; n < N; n += PANEL) {
        panel p = {train, test + n * D, M, dad_min(PANEL, N - n), D, products, norms};
        search_panel(result + n, &p, tiles);
    }
    status = DAD_OK;
done:
    free(products);
    free(norms);
    dad_free(tiles);
    return status;
}
