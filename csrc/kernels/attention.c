/* Multi-head self-attention over the positions of a map: softmax(q k^T / sqrt(D)) v per
 * head.
 *
 * Queries are taken a pair of panels at a time, and everything between them and the keys
 * lies transposed, [panel][T][DAD_PANEL queries]: scores are then products of the keys as
 * they stand with packed queries, softmax runs down the columns, and what follows are outer
 * products. With P the probabilities and s = 1 / sqrt(D):
 *
 *   forward   P^T = softmax(k (s q)^T),  y = (P^T)^T v
 *   backward  dP^T = v dy^T,  dS^T = P^T (dP^T - sum(P^T dP^T)),
 *             dq = s (dS^T)^T k,  dk = dS^T (s q),  dv = P^T dy
 *
 * Past the last query a panel is zero, which adds nothing to dk and dv. Forward: threads
 * share (image, head, some pairs of panels); backward: (image, head), whose queries follow
 * each other and add to dk and dv in order. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

enum {
    PAIR = DAD_PANEL_PAIR * DAD_PANEL, /* queries at a time */
    DEPTH = 256, /* of the keys are summed apart: long sums lose less that way */
    TASKS = 4,   /* per thread at least, in the forward pass */
};

/* A thread's own part of the scratch; D rounded up to panels. */
typedef struct {
    float *rows;         /* [panel of D][T][DAD_PANEL]: v forward, k backward */
    float *p;            /* [2][T][DAD_PANEL] */
    float *queries;      /* [2][D][DAD_PANEL]: s q, or dy, transposed */
    float *sums;         /* [panel of D][DAD_PANEL queries][DAD_PANEL] */
    float *ds, *dk, *dv; /* backward: as p; as rows */
    float *small;        /* backward: [panel of D][DAD_PANEL queries][DAD_PANEL] */
} workspace;

typedef struct {
    ptrdiff_t T, D;
    ptrdiff_t panels;        /* of D */
    ptrdiff_t stride, width; /* between positions of qkv, of y */
    float scale;
} geometry;

static geometry geometry_of(const dad_attention_shape *s) {
    return (geometry){.T = s->T,
                      .D = s->D,
                      .panels = dad_ceil_div(s->D, DAD_PANEL),
                      .stride = s->heads * 3 * s->D,
                      .width = s->heads * s->D,
                      .scale = 1.0f / sqrtf((float)s->D)};
}

/* Where the parts start; returns the size of all. */
static ptrdiff_t divide(workspace *w, const geometry *g, float *scratch) {
    const ptrdiff_t rows = g->panels * g->T * DAD_PANEL, scores = PAIR * g->T;
    const ptrdiff_t tile = g->panels * DAD_PANEL * DAD_PANEL;
    float **const parts[] = {&w->rows, &w->p,  &w->queries, &w->sums,
                             &w->ds,   &w->dk, &w->dv,      &w->small};
    const ptrdiff_t sizes[] = {
        rows, scores, PAIR * g->panels * DAD_PANEL, tile, scores, rows, rows, tile};
    ptrdiff_t size = 0;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        if (scratch != NULL) {
            *parts[i] = scratch + size;
        }
        size += sizes[i];
    }
    return size;
}

ptrdiff_t dad_attention_scratch(const dad_attention_shape *shape) {
    const geometry g = geometry_of(shape);
    workspace none;
    return dad_num_threads() * divide(&none, &g, NULL);
}

static workspace find_workspace(const geometry *g, float *scratch) {
    workspace w;
    const ptrdiff_t size = divide(&w, g, NULL);
    divide(&w, g, scratch + dad_thread_id() * size);
    return w;
}

/* panels [D / DAD_PANEL][length][DAD_PANEL] = scale * rows [count][D], zero beyond both. */
static void pack_rows(float *panels, const float *rows, ptrdiff_t stride, ptrdiff_t count,
                      ptrdiff_t length, float scale, const geometry *g) {
    for (ptrdiff_t d = 0; d < g->D; d += DAD_PANEL) {
        const ptrdiff_t n = dad_min(DAD_PANEL, g->D - d);
        for (ptrdiff_t i = 0; i < length; i++, panels += DAD_PANEL) {
            if (i >= count || n < DAD_PANEL) {
                memset(panels, 0, DAD_PANEL * sizeof(float));
            }
            for (ptrdiff_t j = 0; i < count && j < n; j++) {
                panels[j] = scale * rows[i * stride + d + j];
            }
        }
    }
}

/* columns [D][DAD_PANEL] = scale * rows [count][D] transposed, zero beyond. */
static void pack_columns(float *columns, const float *rows, ptrdiff_t stride,
                         ptrdiff_t count, float scale, const geometry *g) {
    for (ptrdiff_t d = 0; d < g->D; d++) {
        for (ptrdiff_t i = 0; i < DAD_PANEL; i++) {
            columns[d * DAD_PANEL + i] = i < count ? scale * rows[i * stride + d] : 0.0f;
        }
    }
}

/* out [panel][T][DAD_PANEL] = a [T][D] times `count` rows of b, which are scaled. */
static void multiply_rows(float *out, const float *a, const float *b, ptrdiff_t b_stride,
                          ptrdiff_t count, float scale, const geometry *g, float *columns) {
    const ptrdiff_t size = g->D * DAD_PANEL;
    const int panels = dad_panels_at(0, count);
    for (int panel = 0; panel < panels; panel++) {
        const ptrdiff_t first = panel * DAD_PANEL;
        pack_columns(columns + panel * size, b + first * b_stride, b_stride, count - first,
                     scale, g);
    }
    dad_simd()->conv->product(out, g->T * DAD_PANEL, a, g->stride, columns, size, panels,
                              g->T, g->D, 0);
}

/* sums [panel of D][DAD_PANEL queries][DAD_PANEL] = p^T rows, for one panel of queries. */
static void sum_rows(float *sums, const float *p, const float *rows, const geometry *g) {
    const ptrdiff_t tile = DAD_PANEL * DAD_PANEL, panel = g->T * DAD_PANEL;
    for (ptrdiff_t d = 0; d < g->panels; d += DAD_PANEL_PAIR) {
        const int panels = (int)dad_min(DAD_PANEL_PAIR, g->panels - d);
        for (ptrdiff_t t = 0; t < g->T; t += DEPTH) {
            dad_simd()->conv->outer_product(sums + d * tile, tile, p + t * DAD_PANEL,
                                            rows + d * panel + t * DAD_PANEL, panel, panels,
                                            dad_min(DEPTH, g->T - t), t > 0);
        }
    }
}

/* rows [count][D] = factor times what lies in panels [D / DAD_PANEL][length][DAD_PANEL];
 * factors of rows may differ by `step`. */
static void unpack_rows(float *rows, ptrdiff_t stride, const float *panels, ptrdiff_t count,
                        ptrdiff_t length, const float *factor, ptrdiff_t step,
                        const geometry *g) {
    const dad_row_ops *ops = dad_simd()->layer->row;
    for (ptrdiff_t d = 0; d < g->D; d += DAD_PANEL) {
        for (ptrdiff_t i = 0; i < count; i++) {
            ops->scale(rows + i * stride + d, panels + (d * length + i * DAD_PANEL),
                       factor[i * step], dad_min(DAD_PANEL, g->D - d));
        }
    }
}

/* p [T][DAD_PANEL] per panel = exp(scores - their maximum), and factors [PAIR] = 1 / the
 * sum of a column. */
static void exponentials(float *p, float *factors, const float *q, const float *k,
                         ptrdiff_t count, const geometry *g, float *columns) {
    multiply_rows(p, k, q, g->stride, count, g->scale, g, columns);
    for (ptrdiff_t first = 0; first < count; first += DAD_PANEL) {
        dad_simd()->layer->row->exponentials(p + first * g->T, factors + first, g->T);
    }
}

/* Queries first .. end - 1 of one head. */
static void forward_queries(float *y, const float *qkv, ptrdiff_t first, ptrdiff_t end,
                            const geometry *g, const workspace *w) {
    const float *k = qkv + g->D, *v = k + g->D;
    pack_rows(w->rows, v, g->stride, g->T, g->T, 1.0f, g);
    for (; first < end; first += PAIR) {
        float factors[PAIR];
        const ptrdiff_t count = dad_min(PAIR, end - first);
        exponentials(w->p, factors, qkv + first * g->stride, k, count, g, w->queries);
        for (ptrdiff_t i = 0; i < count; i += DAD_PANEL) {
            sum_rows(w->sums, w->p + i * g->T, w->rows, g);
            unpack_rows(y + (first + i) * g->width, g->width, w->sums,
                        dad_min(DAD_PANEL, count - i), DAD_PANEL, factors + i, 1, g);
        }
    }
}

void dad_attention_forward(float *y, const float *qkv, const dad_attention_shape *shape,
                           float *scratch) {
    const geometry g = geometry_of(shape);
    const ptrdiff_t pairs = dad_ceil_div(g.T, PAIR), all = shape->N * shape->heads;
    const ptrdiff_t wanted = dad_ceil_div(TASKS * dad_num_threads(), all);
    const ptrdiff_t run = dad_ceil_div(pairs, dad_min(pairs, wanted)) * PAIR; /* queries */
    const ptrdiff_t runs = dad_ceil_div(g.T, run);
#pragma omp parallel num_threads(dad_num_threads())
    {
        const workspace w = find_workspace(&g, scratch);
#pragma omp for schedule(dynamic)
        for (ptrdiff_t task = 0; task < all * runs; task++) {
            const ptrdiff_t n = task / (shape->heads * runs);
            const ptrdiff_t head = task / runs % shape->heads, first = task % runs * run;
            forward_queries(y + n * g.T * g.width + head * g.D,
                            qkv + n * g.T * g.stride + head * 3 * g.D, first,
                            dad_min(first + run, g.T), &g, &w);
        }
    }
}

/* dk and dv += what one panel of queries gives. */
static void add_keys_and_values(const float *p, const float *ds, const float *q,
                                const float *dy, ptrdiff_t count, bool add,
                                const geometry *g, const workspace *w) {
    const dad_conv_ops *ops = dad_simd()->conv;
    const ptrdiff_t tile = DAD_PANEL * DAD_PANEL, panel = g->T * DAD_PANEL;
    for (int values = 0; values < 2; values++) {
        const float *rows = values ? dy : q, *left = values ? p : ds;
        float *sums = values ? w->dv : w->dk;
        pack_rows(w->small, rows, values ? g->width : g->stride, count, DAD_PANEL,
                  values ? 1.0f : g->scale, g);
        for (ptrdiff_t d = 0; d < g->panels; d += DAD_PANEL_PAIR) {
            ops->product(sums + d * panel, panel, left, DAD_PANEL, w->small + d * tile,
                         tile, (int)dad_min(DAD_PANEL_PAIR, g->panels - d), g->T, DAD_PANEL,
                         add);
        }
    }
}

/* A pair of panels of queries: their dq, and their share of dk and dv. */
static void backward_queries(float *dqkv, const float *dy, const float *qkv,
                             ptrdiff_t first, const geometry *g, const workspace *w) {
    const ptrdiff_t count = dad_min(PAIR, g->T - first);
    const float *q = qkv + first * g->stride, *k = qkv + g->D, *v = k + g->D;
    float factors[PAIR];
    dy += first * g->width;
    exponentials(w->p, factors, q, k, count, g, w->queries);
    multiply_rows(w->ds, v, dy, g->width, count, 1.0f, g, w->queries);
    for (ptrdiff_t i = 0; i < count; i += DAD_PANEL) {
        float *p = w->p + i * g->T, *ds = w->ds + i * g->T;
        const ptrdiff_t n = dad_min(DAD_PANEL, count - i);
        dad_simd()->layer->row->softmax_backward(ds, p, factors + i, g->T);
        sum_rows(w->sums, ds, w->rows, g);
        unpack_rows(dqkv + (first + i) * g->stride, g->stride, w->sums, n, DAD_PANEL,
                    &g->scale, 0, g);
        add_keys_and_values(p, ds, q + i * g->stride, dy + i * g->width, n, first + i > 0,
                            g, w);
    }
}

void dad_attention_backward(float *dqkv, const float *dy, const float *qkv,
                            const dad_attention_shape *shape, float *scratch) {
    const geometry g = geometry_of(shape);
    const float one = 1.0f;
#pragma omp parallel num_threads(dad_num_threads())
    {
        const workspace w = find_workspace(&g, scratch);
#pragma omp for schedule(static)
        for (ptrdiff_t task = 0; task < shape->N * shape->heads; task++) {
            const ptrdiff_t n = task / shape->heads, head = task % shape->heads;
            const ptrdiff_t offset = n * g.T * g.stride + head * 3 * g.D;
            float *dq = dqkv + offset;
            pack_rows(w.rows, qkv + offset + g.D, g.stride, g.T, g.T, 1.0f, &g);
            for (ptrdiff_t first = 0; first < g.T; first += PAIR) {
                backward_queries(dq, dy + n * g.T * g.width + head * g.D, qkv + offset,
                                 first, &g, &w);
            }
            unpack_rows(dq + g.D, g.stride, w.dk, g.T, g.T, &one, 0, &g);
            unpack_rows(dq + 2 * g.D, g.stride, w.dv, g.T, g.T, &one, 0, &g);
        }
    }
}
