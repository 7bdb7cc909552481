/* 3x3 convolutions by Winograd's algorithm F(m x m, 3x3), forward (and, with the filter
 * turned round, the gradient of the input):
 *
 *   y tile = A^T [ sum over c of (G g G^T) . (B^T d B) ] A
 *
 * Tiles are numbered through all images. For some of them V = B^T d B is made,
 * [point][tile][C], then per pair of panels and per point one product with U = G g G^T, M
 * [panel][point][tile][16], and from M the output. Each tile is computed the same way
 * wherever it stands, so the cutting below changes no result and may follow the number of
 * threads:
 *
 *   - many tiles, C moderate: V of a chunk of tiles is a thread's own and stays in its L2;
 *   - few tiles or large C: V of a block of chunks is shared by the threads, which divide
 *     first the groups of channels, then the pairs of panels.
 *
 * U is made by all threads together before the first product; where one block holds all
 * tiles, and the threads have equally many pairs of panels or many, each makes that of its
 * pair instead, which then need not leave the caches.
 *
 * Scratch: [shared U][shared V] then per thread [own U][private V][M][strip]. */
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/conv2d_tiles.h"

enum {
    PRIVATE_CHANNELS = 384, /* above, a chunk's V leaves no room for filters in L2 */
    PRIVATE_CHUNK = 24,     /* tiles: a multiple of the rows of every micro-kernel */
    WIDE_CHUNK = 12,        /* the same from WIDE_CHANNELS on, to stay within a small L2 */
    WIDE_CHANNELS = 192,
    WIDE_CHUNKS = 6, /* per thread at least: U is read once for each */
    SHARED_CHUNK = 48,
    SMALLEST_CHUNK = 12,     /* the same shared, at least: smaller ones read U too often */
    ITEM_TILES = 4,          /* what it costs to begin with another chunk, in tiles */
    SHARED_FLOATS = 4 << 20, /* of V at most: it is read once per pair of panels, from L3 */
    SHARED_THREAD = 1 << 20, /* ... or so many per thread, whose L3 is larger together, */
    SHARED_THREADS = 16,     /* ... up to so many of them */
    OWN_PAIRS = 4, /* per thread at least, or evenly many: else making U leaves some idle */
    MOMENT_TILES = 4, /* in a slice of the moments: divides every chunk */
    MANY_TILES = 64,  /* of an image: three more are then nothing */
    PAIR = DAD_PANEL_PAIR * DAD_PANEL,
};

/* Tiles in `count` chunks: `full` whole ones, equally many for every thread, then at most
 * one of `rest` tiles for each, so that all end together. */
typedef struct {
    ptrdiff_t full, rest, count;
} tile_cut;

typedef struct {
    dad_tiling tiling;
    ptrdiff_t C, O;
    bool doubled, bfloat16; /* see dad_conv2d_shape */
    ptrdiff_t K;            /* floats of a tile's V at a point: C, or half as many */
    tile_cut cut;           /* of all tiles, where V is private */
    ptrdiff_t chunk;        /* tiles per product, at most */
    ptrdiff_t block;        /* tiles whose V exists at once */
    ptrdiff_t u_point, u_panel, v_tile, v_point, m_point, m_panel;
    ptrdiff_t shared_u, shared_v;               /* sizes of what is shared ... */
    ptrdiff_t own_u, own_v, m_size, strip_size; /* ... and of what each thread has */
    bool shared;
} winograd_plan;

/* Tiles in a slice of the moments. No two threads may add to a slice, nor two images: an
 * image's tiles are numbered so that slices end with chunks, where that costs little. */
static ptrdiff_t tiles_per_slice(const dad_conv2d_shape *shape) {
    const ptrdiff_t tiles = dad_tiling_of(shape, 1).tiles / shape->N;
    return tiles % MOMENT_TILES == 0 || tiles >= MANY_TILES ? MOMENT_TILES : 1;
}

static dad_tiling make_tiling(const dad_conv2d_shape *shape) {
    return dad_tiling_of(shape, tiles_per_slice(shape));
}

static tile_cut cut_evenly(ptrdiff_t tiles, ptrdiff_t chunk, ptrdiff_t threads) {
    const ptrdiff_t full = tiles / (chunk * threads) * threads, left = tiles - full * chunk;
    const ptrdiff_t rest = dad_round_up(dad_ceil_div(left, threads), MOMENT_TILES);
    return (tile_cut){full, rest, full + (left > 0 ? dad_ceil_div(left, rest) : 0)};
}

/* The chunk with which threads that share (chunk, pair) finish a block first. */
static ptrdiff_t balanced_chunk(ptrdiff_t block, ptrdiff_t pairs) {
    const ptrdiff_t threads = dad_num_threads();
    const ptrdiff_t largest = dad_min(SHARED_CHUNK, block);
    const ptrdiff_t smallest = dad_min(SMALLEST_CHUNK, block);
    ptrdiff_t best = largest, least = PTRDIFF_MAX;
    for (ptrdiff_t chunk = largest; chunk >= smallest; chunk -= MOMENT_TILES) {
        const ptrdiff_t items = pairs * dad_ceil_div(block, chunk);
        const ptrdiff_t cost = dad_ceil_div(items, threads) * (chunk + ITEM_TILES);
        if (cost < least) {
            least = cost;
            best = chunk;
        }
    }
    return best;
}

/* Blocks of about the same size, which fit L3. */
static void cut_shared(winograd_plan *p, ptrdiff_t pairs) {
    const ptrdiff_t tiles = p->tiling.tiles;
    const ptrdiff_t threads = dad_min(dad_num_threads(), SHARED_THREADS);
    const ptrdiff_t most = dad_max(SHARED_FLOATS, threads * SHARED_THREAD);
    const ptrdiff_t fitting = dad_max(most / (p->tiling.points * p->v_tile), SHARED_CHUNK);
    const ptrdiff_t even = dad_ceil_div(tiles, dad_ceil_div(tiles, fitting));
    p->chunk = balanced_chunk(dad_round_up(even, MOMENT_TILES), pairs);
    p->block = dad_round_up(even, p->chunk);
}

static bool keeps_private(ptrdiff_t K, ptrdiff_t tiles) {
    const ptrdiff_t least = K < WIDE_CHANNELS ? PRIVATE_CHUNK : WIDE_CHUNK * WIDE_CHUNKS;
    return K <= PRIVATE_CHANNELS && tiles >= least * dad_num_threads();
}

static winograd_plan make_plan(const dad_conv2d_shape *s) {
    winograd_plan p = {
        .tiling = make_tiling(s),
        .C = s->C,
        .O = s->O,
        .doubled = s->doubled,
        .bfloat16 = s->bfloat16,
        .K = dad_operand_size(s->C, s->bfloat16),
    };
    const ptrdiff_t tiles = p.tiling.tiles, points = p.tiling.points;
    const ptrdiff_t pairs = dad_ceil_div(s->O, PAIR), threads = dad_num_threads();
    p.shared = !keeps_private(p.K, tiles);
    p.v_tile = dad_round_up(p.K, DAD_PANEL);
    if (p.v_tile % 512 == 0) {
        p.v_tile += DAD_PANEL; /* else the tiles of a chunk fall into the same cache sets */
    }
    if (p.shared) {
        cut_shared(&p, pairs);
    } else {
        p.chunk = p.block = p.K < WIDE_CHANNELS ? PRIVATE_CHUNK : WIDE_CHUNK;
        p.cut = cut_evenly(tiles, p.chunk, threads);
    }
    p.v_point = p.block * p.v_tile + DAD_PANEL;
    p.m_point = p.chunk * DAD_PANEL + DAD_PANEL;
    p.m_panel = points * p.m_point;
    p.m_size = DAD_PANEL_PAIR * p.m_panel;
    p.strip_size = dad_tiling_strip_size(&p.tiling);
    const dad_filter_view filter = {.inputs = s->C, .bfloat16 = s->bfloat16};
    p.u_point = dad_filter_point(&filter);
    p.u_panel = points * p.u_point;
    const ptrdiff_t v_size = points * p.v_point;
    const bool divisible = pairs % threads == 0 || pairs >= OWN_PAIRS * threads;
    if (p.shared && p.block >= tiles && divisible) {
        p.own_u = DAD_PANEL_PAIR * p.u_panel;
    } else {
        p.shared_u = dad_ceil_div(s->O, DAD_PANEL) * p.u_panel;
    }
    p.shared_v = p.shared ? v_size : 0;
    p.own_v = p.shared ? 0 : v_size;
    return p;
}

static ptrdiff_t own_size(const winograd_plan *p) {
    return p->own_u + p->own_v + p->m_size + p->strip_size;
}

ptrdiff_t dad_winograd_scratch(const dad_conv2d_shape *shape) {
    const winograd_plan p = make_plan(shape);
    return p.shared_u + p.shared_v + own_size(&p) * dad_num_threads();
}

ptrdiff_t dad_winograd_moment_slices(const dad_conv2d_shape *shape) {
    return shape->O % DAD_PANEL == 0 ? make_tiling(shape).per_image / tiles_per_slice(shape)
                                     : 0;
}

typedef struct {
    const winograd_plan *plan;
    dad_output_map output;
    const dad_conv2d_input *input;
    const dad_filter_view *filter;
    ptrdiff_t slice; /* tiles in a slice of the moments */
    float *u, *v;    /* shared, or NULL */
} winograd_job;

/* A thread's own part of the scratch. */
typedef struct {
    float *u, *v, *m, *strip;
} workspace;

static workspace find_workspace(const winograd_plan *p, float *scratch) {
    workspace w;
    w.u = scratch + p->shared_u + p->shared_v + own_size(p) * dad_thread_id();
    w.v = w.u + p->own_u;
    w.m = w.v + p->own_v;
    w.strip = w.m + p->m_size;
    return w;
}

/* v [point][tile][C]: the group of channels from c on, of `count` tiles. */
static void transform_input(float *v, const winograd_job *job, ptrdiff_t first,
                            ptrdiff_t count, ptrdiff_t c, float *strip) {
    const winograd_plan *p = job->plan;
    const dad_input_part part = dad_input_part_of(job->input, p->C, c);
    const dad_tile_map map = {.data = part.x,
                              .C = part.C,
                              .halo = 1,
                              .doubled = p->doubled,
                              .scale = part.scale,
                              .shift = part.shift,
                              .stride = part.stride,
                              .transform = p->bfloat16 ? p->tiling.ops->input_bfloat16
                                                       : p->tiling.ops->input};
    dad_transform_tiles(v + dad_operand_size(c, p->bfloat16), p->v_point, p->v_tile, &map,
                        &p->tiling, first, count, part.c, strip);
}

static dad_output_place find_place(const winograd_job *job, ptrdiff_t tile, ptrdiff_t o) {
    const dad_tiling *t = &job->plan->tiling;
    const dad_tile_place at = dad_tile_at(t, tile);
    dad_output_place place =
        dad_output_place_of(&job->output, at.n, at.i, at.j, o, tile / job->slice);
    place.rows = dad_min(t->ops->tile, t->H - at.i);
    place.columns = dad_min(t->ops->tile, t->W - at.j);
    place.first = tile % job->slice == 0;
    return place;
}

/* The output of `count` tiles in the panel from channel o on. */
static void transform_output(const float *m, const winograd_job *job, ptrdiff_t first,
                             ptrdiff_t count, ptrdiff_t o) {
    const winograd_plan *p = job->plan;
    const ptrdiff_t per_image = p->tiling.per_image;
    const ptrdiff_t existing = p->tiling.rows * p->tiling.columns;
    dad_output_stage stage =
        dad_output_stage_of(job->output.epilogue, first / per_image, o, p->O);
    for (ptrdiff_t i = 0; i < count; i++) {
        if (i > 0 && (first + i) % per_image == 0) {
            stage =
                dad_output_stage_of(job->output.epilogue, (first + i) / per_image, o, p->O);
        }
        if ((first + i) % per_image >= existing) {
            continue;
        }
        const dad_output_place place = find_place(job, first + i, o);
        p->tiling.ops->output(&place, m + i * DAD_PANEL, p->m_point, &stage);
    }
}

/* Products and output of `count` tiles, whose V starts at v, for the pair of panels from
 * channel o on, whose U starts at u. */
static void multiply(const float *u, const float *v, const winograd_job *job,
                     ptrdiff_t first, ptrdiff_t count, ptrdiff_t o, float *m) {
    const winograd_plan *p = job->plan;
    const int panels = dad_panels_at(o, p->O);
    dad_product *product = dad_product_of(p->bfloat16);
    for (ptrdiff_t point = 0; point < p->tiling.points; point++) {
        product(m + point * p->m_point, p->m_panel, v + point * p->v_point, p->v_tile,
                u + point * p->u_point, p->u_panel, panels, count, p->K, 0);
    }
    for (int panel = 0; panel < panels; panel++) {
        transform_output(m + panel * p->m_panel, job, first, count, o + panel * DAD_PANEL);
    }
}

/* From here on all threads of a parallel region call these. */

static void forward_private(const winograd_job *job, const workspace *own) {
    const winograd_plan *p = job->plan;
#pragma omp for schedule(dynamic)
    for (ptrdiff_t i = 0; i < p->cut.count; i++) {
        const ptrdiff_t small = dad_max(i - p->cut.full, 0);
        const ptrdiff_t first = (i - small) * p->chunk + small * p->cut.rest;
        const ptrdiff_t size = i < p->cut.full ? p->chunk : p->cut.rest;
        const ptrdiff_t count = dad_min(size, p->tiling.tiles - first);
        for (ptrdiff_t c = 0; c < p->C; c += DAD_PANEL) {
            transform_input(own->v, job, first, count, c, own->strip);
        }
        for (ptrdiff_t o = 0; o < p->O; o += PAIR) {
            multiply(job->u + o / DAD_PANEL * p->u_panel, own->v, job, first, count, o,
                     own->m);
        }
    }
}

/* The products of a block of tiles, begin .. end - 1. */
static void multiply_block(const winograd_job *job, ptrdiff_t begin, ptrdiff_t end,
                           const workspace *own) {
    const winograd_plan *p = job->plan;
    if (p->own_u > 0) {
#pragma omp for schedule(dynamic)
        for (ptrdiff_t o = 0; o < p->O; o += PAIR) {
            dad_filter_pair_winograd(own->u, job->filter, p->tiling.ops, o);
            for (ptrdiff_t first = begin; first < end; first += p->chunk) {
                multiply(own->u, job->v + (first - begin) * p->v_tile, job, first,
                         dad_min(p->chunk, end - first), o, own->m);
            }
        }
        return;
    }
    /* Chunks inside: one after the other they use the same pair of panels. */
#pragma omp for collapse(2) schedule(dynamic)
    for (ptrdiff_t o = 0; o < p->O; o += PAIR) {
        for (ptrdiff_t first = begin; first < end; first += p->chunk) {
            multiply(job->u + o / DAD_PANEL * p->u_panel,
                     job->v + (first - begin) * p->v_tile, job, first,
                     dad_min(p->chunk, end - first), o, own->m);
        }
    }
}

static void forward_shared(const winograd_job *job, const workspace *own) {
    const winograd_plan *p = job->plan;
    for (ptrdiff_t begin = 0; begin < p->tiling.tiles; begin += p->block) {
        const ptrdiff_t end = dad_min(begin + p->block, p->tiling.tiles);
#pragma omp for collapse(2) schedule(dynamic)
        for (ptrdiff_t first = begin; first < end; first += p->chunk) {
            for (ptrdiff_t c = 0; c < p->C; c += DAD_PANEL) {
                transform_input(job->v + (first - begin) * p->v_tile, job, first,
                                dad_min(p->chunk, end - first), c, own->strip);
            }
        }
        multiply_block(job, begin, end, own);
    }
}

void dad_winograd_forward(float *y, const dad_conv2d_input *input,
                          const dad_filter_view *filter,
                          const dad_conv2d_epilogue *epilogue,
                          const dad_conv2d_shape *shape, float *scratch) {
    const winograd_plan p = make_plan(shape);
    const winograd_job job = {.plan = &p,
                              .output = dad_output_map_of(y, epilogue, shape),
                              .input = input,
                              .filter = filter,
                              .slice = tiles_per_slice(shape),
                              .u = scratch,
                              .v = scratch + p.shared_u};
#pragma omp parallel num_threads(dad_num_threads())
    {
        const workspace own = find_workspace(&p, scratch);
        if (p.own_u == 0) {
            dad_filter_all_winograd(job.u, filter, p.tiling.ops);
        }
        if (p.shared) {
            forward_shared(&job, &own);
        } else {
            forward_private(&job, &own);
        }
        dad_stream_end();
    }
}
