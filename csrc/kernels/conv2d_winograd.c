/* 3x3 convolutions by Winograd's algorithm F(m x m, 3x3), forward (and, with the filter
 * turned round, the gradient of the input):
 *
 *   y tile = A^T [ sum over c of (G g G^T) . (B^T d B) ] A
 *
 * Tiles are numbered through all images. For some of them V = B^T d B is made,
 * [point][tile][C], then per pair of panels and per point one product with the packed
 * filter, M [panel][point][tile][16], and from M the output. Each tile is computed the same
 * way wherever it stands, so the cutting below changes no result and may follow the number
 * of threads:
 *
 *   - many tiles, C moderate: V of a chunk of tiles is a thread's own and stays in its L2;
 *   - few tiles or large C: V of a block of chunks is shared by the threads, which divide
 *     first the groups of channels, then the pairs of panels.
 *
 * Scratch: [shared V] then per thread [private V][M][strip]. */
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/conv2d_tiles.h"

enum {
    PRIVATE_CHANNELS = 384, /* above, a chunk's V leaves no room for filters in L2 */
    PRIVATE_CHUNK = 24,     /* tiles: a multiple of the rows of every micro-kernel */
    WIDE_CHUNK = 12,        /* the same from WIDE_CHANNELS on, to stay within a small L2 */
    WIDE_CHANNELS = 192,
    PRIVATE_CHUNKS = 6, /* per thread at least, or the last round leaves threads idle */
    SHARED_CHUNK = 48,
    SHARED_FLOATS = 2 << 20, /* of V at most: it is read once per pair of panels, from L3 */
};

typedef struct {
    dad_tiling tiling;
    ptrdiff_t C, O;
    ptrdiff_t chunk; /* tiles per product */
    ptrdiff_t block; /* tiles whose V exists at once */
    ptrdiff_t v_tile, v_point, m_point, m_panel;
    ptrdiff_t v_size, m_size, strip_size;
    bool shared;
} winograd_plan;

static winograd_plan make_plan(const dad_conv2d_shape *s) {
    winograd_plan p = {.tiling = dad_tiling_of(s), .C = s->C, .O = s->O};
    const ptrdiff_t tiles = p.tiling.tiles, points = p.tiling.points;
    const ptrdiff_t chunk = s->C < WIDE_CHANNELS ? PRIVATE_CHUNK : WIDE_CHUNK;
    p.shared =
        s->C > PRIVATE_CHANNELS || tiles < chunk * PRIVATE_CHUNKS * dad_num_threads();
    p.v_tile = dad_round_up(s->C, DAD_PANEL);
    if (p.v_tile % 512 == 0) {
        p.v_tile += DAD_PANEL; /* else the tiles of a chunk fall into the same cache sets */
    }
    p.chunk = dad_min(tiles, p.shared ? SHARED_CHUNK : chunk);
    p.block = p.chunk;
    if (p.shared) {
        const ptrdiff_t chunks = SHARED_FLOATS / (p.chunk * points * p.v_tile);
        p.block = dad_min(dad_max(chunks, 1) * p.chunk, dad_round_up(tiles, p.chunk));
    }
    p.v_point = p.block * p.v_tile + DAD_PANEL;
    p.m_point = p.chunk * DAD_PANEL + DAD_PANEL;
    p.m_panel = points * p.m_point;
    p.v_size = points * p.v_point;
    p.m_size = DAD_PANEL_PAIR * p.m_panel;
    p.strip_size = dad_tiling_strip_size(&p.tiling);
    return p;
}

ptrdiff_t dad_winograd_scratch(const dad_conv2d_shape *shape) {
    const winograd_plan p = make_plan(shape);
    const ptrdiff_t own = p.m_size + p.strip_size + (p.shared ? 0 : p.v_size);
    return (p.shared ? p.v_size : 0) + own * dad_num_threads();
}

typedef struct {
    const winograd_plan *plan;
    float *y;
    const float *x, *packed;
    const dad_conv2d_epilogue *epilogue;
} winograd_job;

/* v [point][tile][C]: the group of channels from c on, of `count` tiles. */
static void transform_input(float *v, const winograd_job *job, ptrdiff_t first,
                            ptrdiff_t count, ptrdiff_t c, float *strip) {
    const winograd_plan *p = job->plan;
    const dad_tile_map map = {job->x, p->C, 1, p->tiling.ops->input};
    dad_transform_tiles(v + c, p->v_point, p->v_tile, &map, &p->tiling, first, count, c,
                        strip);
}

/* The output of `count` tiles in the panel from channel o on. */
static void transform_output(const float *m, const winograd_job *job, ptrdiff_t first,
                             ptrdiff_t count, ptrdiff_t o) {
    const winograd_plan *p = job->plan;
    const dad_tiling *t = &p->tiling;
    const ptrdiff_t row = t->W * p->O, edge = t->ops->tile;
    const float *residual = job->epilogue->residual;
    float bias[DAD_PANEL];
    ptrdiff_t biased_image = -1;
    for (ptrdiff_t i = 0; i < count; i++) {
        const dad_tile_place at = dad_tile_at(t, first + i);
        if (at.n != biased_image) {
            biased_image = at.n;
            dad_epilogue_bias(bias, job->epilogue, at.n, o, p->O);
        }
        const ptrdiff_t offset = ((at.n * t->H + at.i) * t->W + at.j) * p->O + o;
        t->ops->output(job->y + offset, row, p->O, dad_min(edge, t->H - at.i),
                       dad_min(edge, t->W - at.j), dad_min(DAD_PANEL, p->O - o),
                       m + i * DAD_PANEL, p->m_point, bias,
                       residual ? residual + offset : NULL);
    }
}

/* Products and output of `count` tiles, whose V starts at v, for the pair of panels from
 * channel o on. */
static void multiply(const float *v, const winograd_job *job, ptrdiff_t first,
                     ptrdiff_t count, ptrdiff_t o, float *m) {
    const winograd_plan *p = job->plan;
    const ptrdiff_t points = p->tiling.points, u_point = p->C * DAD_PANEL;
    const int panels = p->O - o > DAD_PANEL ? DAD_PANEL_PAIR : 1;
    const float *u = job->packed + o * points * p->C;
    for (ptrdiff_t point = 0; point < points; point++) {
        dad_simd()->conv->product(m + point * p->m_point, p->m_panel,
                                  v + point * p->v_point, p->v_tile, u + point * u_point,
                                  points * u_point, panels, count, p->C);
    }
    for (int panel = 0; panel < panels; panel++) {
        transform_output(m + panel * p->m_panel, job, first, count, o + panel * DAD_PANEL);
    }
}

static void forward_private(const winograd_job *job, float *scratch) {
    const winograd_plan *p = job->plan;
    const ptrdiff_t own = p->v_size + p->m_size + p->strip_size;
#pragma omp parallel num_threads(dad_num_threads())
    {
        float *v = scratch + own * dad_thread_id(), *m = v + p->v_size,
              *strip = m + p->m_size;
#pragma omp for schedule(dynamic)
        for (ptrdiff_t first = 0; first < p->tiling.tiles; first += p->chunk) {
            const ptrdiff_t count = dad_min(p->chunk, p->tiling.tiles - first);
            for (ptrdiff_t c = 0; c < p->C; c += DAD_PANEL) {
                transform_input(v, job, first, count, c, strip);
            }
            for (ptrdiff_t o = 0; o < p->O; o += DAD_PANEL_PAIR * DAD_PANEL) {
                multiply(v, job, first, count, o, m);
            }
        }
    }
}

static void forward_shared(const winograd_job *job, float *scratch) {
    const winograd_plan *p = job->plan;
    const ptrdiff_t own = p->m_size + p->strip_size;
    float *v = scratch;
#pragma omp parallel num_threads(dad_num_threads())
    {
        float *m = v + p->v_size + own * dad_thread_id(), *strip = m + p->m_size;
        for (ptrdiff_t begin = 0; begin < p->tiling.tiles; begin += p->block) {
            const ptrdiff_t end = dad_min(begin + p->block, p->tiling.tiles);
#pragma omp for collapse(2) schedule(dynamic)
            for (ptrdiff_t first = begin; first < end; first += p->chunk) {
                for (ptrdiff_t c = 0; c < p->C; c += DAD_PANEL) {
                    transform_input(v + (first - begin) * p->v_tile, job, first,
                                    dad_min(p->chunk, end - first), c, strip);
                }
            }
            /* Chunks inside: one after the other they use the same pair of panels. */
#pragma omp for collapse(2) schedule(dynamic)
            for (ptrdiff_t o = 0; o < p->O; o += DAD_PANEL_PAIR * DAD_PANEL) {
                for (ptrdiff_t first = begin; first < end; first += p->chunk) {
                    multiply(v + (first - begin) * p->v_tile, job, first,
                             dad_min(p->chunk, end - first), o, m);
                }
            }
        }
    }
}

void dad_winograd_forward(float *y, const float *x, const float *packed,
                          const dad_conv2d_epilogue *epilogue,
                          const dad_conv2d_shape *shape, float *scratch) {
    const winograd_plan p = make_plan(shape);
    const winograd_job job = {&p, y, x, packed, epilogue};
    if (p.shared) {
        forward_shared(&job, scratch);
    } else {
        forward_private(&job, scratch);
    }
}
