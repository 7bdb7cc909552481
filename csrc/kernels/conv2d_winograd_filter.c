/* The gradient of a 3x3 filter by the adjoint of Winograd's algorithm:
 *
 *   dU[point] = sum over tiles of V^T (A dy A^T),   dw += G^T dU G
 *
 * V and the transformed dy are made for a block of tiles, [point][group of 16
 * channels][tile][16] each, small enough for L3 and of a size that depends on the channels
 * only. Then the threads share (point, pair of panels); each element of dU has one writer,
 * which adds the blocks in order.
 *
 * Scratch: [V][transformed dy][dU][strips of the threads]. */
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/conv2d_tiles.h"

enum {
    BLOCK_FLOATS = 4 << 20, /* of V and transformed dy, for L3 to hold them */
    LEAST_BLOCK = 192,      /* tiles: fewer, and reading and writing dU costs too much */
    MOST_BLOCK = 1536,      /* tiles: more would only lengthen the float sums */
    TRANSFORM_TILES = 48,   /* transformed in one task */
    TAPS = 9,
};

typedef struct {
    dad_tiling tiling;
    ptrdiff_t C, O, C_padded, O_padded, block;
    ptrdiff_t v_point, t_point; /* strides of V and of the transformed dy */
    ptrdiff_t v_size, t_size, du_size, strip_size;
} filter_plan;

static filter_plan make_plan(const dad_conv2d_shape *s) {
    filter_plan p = {.tiling = dad_tiling_of(s, 1), .C = s->C, .O = s->O};
    p.C_padded = dad_round_up(s->C, DAD_PANEL);
    p.O_padded = dad_round_up(s->O, DAD_PANEL);
    const ptrdiff_t fitting = BLOCK_FLOATS / (p.tiling.points * (p.C_padded + p.O_padded));
    p.block = dad_min(dad_max(LEAST_BLOCK, dad_min(fitting, MOST_BLOCK)), p.tiling.tiles);
    p.v_point = p.block * p.C_padded + DAD_PANEL; /* off a power of two: cache sets */
    p.t_point = p.block * p.O_padded + DAD_PANEL;
    p.v_size = p.tiling.points * p.v_point;
    p.t_size = p.tiling.points * p.t_point;
    p.du_size = p.tiling.points * p.C_padded * p.O_padded;
    p.strip_size = dad_tiling_strip_size(&p.tiling);
    return p;
}

ptrdiff_t dad_winograd_filter_scratch(const dad_conv2d_shape *shape) {
    const filter_plan p = make_plan(shape);
    return p.v_size + p.t_size + p.du_size + p.strip_size * dad_num_threads();
}

/* One group of channels of x (the first C_padded / 16 groups) or dy, tiles begin .. +
 * count. */
static void transform_group(float *v, float *t, const filter_plan *p, const float *x,
                            const float *dy, ptrdiff_t group, ptrdiff_t begin,
                            ptrdiff_t offset, ptrdiff_t count, float *strip) {
    const ptrdiff_t groups = p->C_padded / DAD_PANEL;
    const bool input = group < groups;
    const dad_tile_map x_map = {
        .data = x, .C = p->C, .halo = 1, .transform = p->tiling.ops->input};
    const dad_tile_map dy_map = {
        .data = dy, .C = p->O, .transform = p->tiling.ops->gradient};
    const ptrdiff_t c = (input ? group : group - groups) * DAD_PANEL;
    dad_transform_tiles((input ? v : t) + c * p->block + offset * DAD_PANEL,
                        input ? p->v_point : p->t_point, DAD_PANEL,
                        input ? &x_map : &dy_map, &p->tiling, begin + offset, count, c,
                        strip);
}

/* du [panel][point][C_padded][16] = or += V^T T over `count` tiles, one point, a pair of
 * panels. */
static void multiply(float *du, const filter_plan *p, const float *v, const float *t,
                     ptrdiff_t point, ptrdiff_t o, ptrdiff_t count, bool add) {
    const ptrdiff_t du_panel = p->tiling.points * p->C_padded * DAD_PANEL;
    const int panels = p->O_padded - o > DAD_PANEL ? DAD_PANEL_PAIR : 1;
    float *target = du + o / DAD_PANEL * du_panel + point * p->C_padded * DAD_PANEL;
    for (ptrdiff_t c = 0; c < p->C_padded; c += DAD_PANEL) {
        dad_simd()->conv->outer_product(target + c * DAD_PANEL, du_panel,
                                        v + point * p->v_point + c * p->block,
                                        t + point * p->t_point + o * p->block,
                                        p->block * DAD_PANEL, panels, count, add);
    }
}

/* dw += G^T dU G for one panel and one input channel. */
static void add_filter(float *dw, const filter_plan *p, const float *du, ptrdiff_t o,
                       ptrdiff_t c) {
    const ptrdiff_t du_point = p->C_padded * DAD_PANEL;
    float g[TAPS * DAD_PANEL], *target = dw + (o * p->C + c * DAD_PANEL) * TAPS;
    p->tiling.ops->filter_adjoint(
        g, du + o * p->tiling.points * p->C_padded + c * DAD_PANEL, du_point);
    for (ptrdiff_t i = 0; i < TAPS * DAD_PANEL; i++) {
        target[i] += g[i];
    }
}

void dad_winograd_backward_filter(float *dw, const float *x, const float *dy,
                                  const dad_conv2d_shape *shape, float *scratch) {
    const filter_plan p = make_plan(shape);
    const ptrdiff_t groups = (p.C_padded + p.O_padded) / DAD_PANEL;
    float *v = scratch, *t = v + p.v_size, *du = t + p.t_size, *strips = du + p.du_size;
#pragma omp parallel num_threads(dad_num_threads())
    {
        float *strip = strips + p.strip_size * dad_thread_id();
        for (ptrdiff_t begin = 0; begin < p.tiling.tiles; begin += p.block) {
            const ptrdiff_t count = dad_min(p.block, p.tiling.tiles - begin);
            /* Groups inside: the next one finds its neighbours' cache lines at hand. */
#pragma omp for collapse(2) schedule(dynamic)
            for (ptrdiff_t i = 0; i < count; i += TRANSFORM_TILES) {
                for (ptrdiff_t group = 0; group < groups; group++) {
                    transform_group(v, t, &p, x, dy, group, begin, i,
                                    dad_min(TRANSFORM_TILES, count - i), strip);
                }
            }
#pragma omp for collapse(2) schedule(dynamic)
            for (ptrdiff_t point = 0; point < p.tiling.points; point++) {
                for (ptrdiff_t o = 0; o < p.O_padded; o += DAD_PANEL_PAIR * DAD_PANEL) {
                    multiply(du, &p, v, t, point, o, count, begin > 0);
                }
            }
        }
#pragma omp for collapse(2)
        for (ptrdiff_t o = 0; o < p.O; o += DAD_PANEL) {
            for (ptrdiff_t c = 0; c < p.C; c++) {
                add_filter(dw, &p, du, o, c);
            }
        }
    }
}
