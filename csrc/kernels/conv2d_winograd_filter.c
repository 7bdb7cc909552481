/* The gradient of a 3x3 filter by the adjoint of Winograd's algorithm:
 *
 *   dU[point] = sum over tiles of V^T (A dy A^T),   dw += G^T dU G
 *
 * V and the transformed dy are made for some blocks of tiles, [block][group of 16
 * channels][point][tile][16] each. Then the threads share (block, pair of panels, group of
 * channels): the dU of one such and all points stays in L2.
 *
 * Where channels are too few to share, several blocks are worked on at a time, and each
 * adds to a partial gradient of its own: an element has one writer, and its sum one order.
 *
 * Scratch: [partial gradients][V][transformed dy], and each thread's [strip][dU]. */
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/conv2d_tiles.h"

enum {
    TRANSFORM_TILES = 48,        /* transformed in one task, all of one block */
    BLOCK = 3 * TRANSFORM_TILES, /* a pair of panels of their transformed dy stays in L2 */
    AT_ONCE = 2,     /* groups of channels of a product's task: they share that dy */
    LEAST_TASKS = 8, /* of products */
    DU_POINT = DAD_PANEL * DAD_PANEL + DAD_PANEL, /* off a power of two: cache sets */
    TAPS = 9,
};

typedef struct {
    dad_tiling tiling;
    ptrdiff_t C, O, v_groups, t_groups; /* groups of channels of x and of dy */
    ptrdiff_t block, blocks;            /* tiles of a block, blocks at a time */
    ptrdiff_t point, group;             /* strides of V and of the transformed dy */
    ptrdiff_t partial, strip, du;       /* sizes of a gradient, and of a thread's own */
} filter_plan;

/* Tasks of a block's products. */
static ptrdiff_t tasks_of(const filter_plan *p) {
    return dad_ceil_div(p->t_groups, DAD_PANEL_PAIR) * dad_ceil_div(p->v_groups, AT_ONCE);
}

static filter_plan make_plan(const dad_conv2d_shape *s) {
    filter_plan p = {.tiling = dad_tiling_of(s, 1), .C = s->C, .O = s->O};
    p.v_groups = dad_ceil_div(s->C, DAD_PANEL);
    p.t_groups = dad_ceil_div(s->O, DAD_PANEL);
    p.block = dad_min(BLOCK, p.tiling.tiles);
    p.blocks = dad_min(dad_ceil_div(LEAST_TASKS, tasks_of(&p)),
                       dad_ceil_div(p.tiling.tiles, p.block));
    p.point = p.block * DAD_PANEL + DAD_PANEL; /* off a power of two: cache sets */
    p.group = p.tiling.points * p.point;
    p.partial = p.t_groups * DAD_PANEL * p.C * TAPS;
    p.strip = dad_tiling_strip_size(&p.tiling);
    p.du = AT_ONCE * DAD_PANEL_PAIR * p.tiling.points * DU_POINT;
    return p;
}

/* One gradient for each block at a time, or none where dw itself is added to. */
static ptrdiff_t partials_of(const filter_plan *p) { return p->blocks > 1 ? p->blocks : 0; }

ptrdiff_t dad_winograd_filter_scratch(const dad_conv2d_shape *shape) {
    const filter_plan p = make_plan(shape);
    return partials_of(&p) * p.partial + p.blocks * (p.v_groups + p.t_groups) * p.group +
           (p.strip + p.du) * dad_num_threads();
}

/* A group of channels of x (the first v_groups) or dy, `count` tiles; `groups` are their
 * block's. */
static void transform_group(float *groups, const filter_plan *p, const float *x,
                            const float *dy, ptrdiff_t group, ptrdiff_t first,
                            ptrdiff_t count, float *strip) {
    const bool input = group < p->v_groups;
    const dad_tile_map x_map = {
        .data = x, .C = p->C, .halo = 1, .transform = p->tiling.ops->input};
    const dad_tile_map dy_map = {
        .data = dy, .C = p->O, .transform = p->tiling.ops->gradient};
    dad_transform_tiles(groups + group * p->group + first % p->block * DAD_PANEL, p->point,
                        DAD_PANEL, input ? &x_map : &dy_map, &p->tiling, first, count,
                        (input ? group : group - p->v_groups) * DAD_PANEL, strip);
}

/* dw = or += G^T dU G for a panel and `channels` of a group. */
static void add_filters(float *dw, const filter_plan *p, const float *du,
                        ptrdiff_t channels, bool add) {
    for (ptrdiff_t c = 0; c < channels; c++) {
        float g[TAPS * DAD_PANEL], *to = dw + c * TAPS * DAD_PANEL;
        p->tiling.ops->filter_adjoint(g, du + c * DAD_PANEL, DU_POINT);
        for (ptrdiff_t i = 0; i < TAPS * DAD_PANEL; i++) {
            to[i] = add ? to[i] + g[i] : g[i];
        }
    }
}

/* dw = or += G^T dU G, dU = V^T T over `count` tiles of a block, from channels o and c on:
 * two panels, AT_ONCE groups. */
static void multiply(float *dw, const filter_plan *p, const float *groups, ptrdiff_t o,
                     ptrdiff_t c, ptrdiff_t count, bool add, float *du) {
    const ptrdiff_t du_panel = p->tiling.points * DU_POINT,
                    du_group = DAD_PANEL_PAIR * du_panel;
    const int panels = dad_panels_at(o, p->O);
    const ptrdiff_t group = c / DAD_PANEL;
    const ptrdiff_t at_once = dad_min(AT_ONCE, p->v_groups - group);
    const float *v = groups + group * p->group;
    const float *t = groups + (p->v_groups + o / DAD_PANEL) * p->group;
    for (ptrdiff_t point = 0; point < p->tiling.points; point++) {
        for (ptrdiff_t i = 0; i < at_once; i++) {
            dad_simd()->conv->outer_product(du + i * du_group + point * DU_POINT, du_panel,
                                            v + i * p->group + point * p->point,
                                            t + point * p->point, p->group, panels, count,
                                            0);
        }
    }
    for (ptrdiff_t i = 0; i < at_once; i++) {
        const ptrdiff_t first = c + i * DAD_PANEL;
        for (int panel = 0; panel < panels; panel++) {
            add_filters(dw + ((o + panel * DAD_PANEL) * p->C + first * DAD_PANEL) * TAPS, p,
                        du + i * du_group + panel * du_panel,
                        dad_min(DAD_PANEL, p->C - first), add);
        }
    }
}

void dad_winograd_backward_filter(float *dw, const float *x, const float *dy,
                                  const dad_conv2d_shape *shape, float *scratch) {
    const filter_plan p = make_plan(shape);
    const ptrdiff_t groups = p.v_groups + p.t_groups, size = groups * p.group;
    float *partials = scratch, *all = partials + partials_of(&p) * p.partial;
    float *owns = all + p.blocks * size;
    const bool partial = partials_of(&p) > 0;
    float *target = partial ? partials : dw;
#pragma omp parallel num_threads(dad_num_threads())
    {
        float *strip = owns + (p.strip + p.du) * dad_thread_id();
        for (ptrdiff_t begin = 0; begin < p.tiling.tiles; begin += p.blocks * p.block) {
            const ptrdiff_t end = dad_min(begin + p.blocks * p.block, p.tiling.tiles);
            /* Groups inside: the next one finds its neighbours' cache lines at hand. */
#pragma omp for collapse(2) schedule(dynamic)
            for (ptrdiff_t i = begin; i < end; i += TRANSFORM_TILES) {
                for (ptrdiff_t group = 0; group < groups; group++) {
                    const ptrdiff_t block = (i - begin) / p.block;
                    transform_group(all + block * size, &p, x, dy, group, i,
                                    dad_min(TRANSFORM_TILES, end - i), strip);
                }
            }
#pragma omp for collapse(3) schedule(dynamic)
            for (ptrdiff_t i = begin; i < end; i += p.block) {
                for (ptrdiff_t o = 0; o < p.O; o += DAD_PANEL_PAIR * DAD_PANEL) {
                    for (ptrdiff_t c = 0; c < p.C; c += AT_ONCE * DAD_PANEL) {
                        const ptrdiff_t block = (i - begin) / p.block;
                        multiply(target + block * p.partial, &p, all + block * size, o, c,
                                 dad_min(p.block, end - i), !partial || begin > 0,
                                 strip + p.strip);
                    }
                }
            }
        }
        if (partial) {
#pragma omp for
            for (ptrdiff_t i = 0; i < p.partial; i += DAD_PANEL) {
                dad_add_partials(dw + i, partials + i, p.partial, p.blocks);
            }
        }
    }
}
