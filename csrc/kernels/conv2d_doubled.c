/* 3x3 convolutions of a map whose pixels stand for 2x2 each, as an upsampling would give
 * them, by Winograd's algorithm on the map as it is (simd/winograd_doubled.c): 81 products
 * for 8x8 outputs, where F(4x4, 3x3) on the upsampled map takes 144.
 *
 *   tile (i, j)   reads   rows 4i - 1 .. 4i + 3 of the map, columns likewise
 *                 writes  rows 8i - 1 .. 8i + 6 of the output, as far as they exist
 *
 * Where the tiles of the map end with its last pixel, the last row of outputs needs one
 * more row of tiles. These see one row of pixels and then zeros, so that only products with
 * point 0 are not zero, and those of the second filter make rows that do not exist: 9 of 81
 * are left, or 1 in the corner. Tiles are numbered region by region, those of all images
 * one after the other, and the products of a chunk of them are as many as its region needs.
 * Each tile is computed the same way wherever it stands, so the cutting changes no result.
 *
 * V of a block of chunks is shared by the threads, which divide first the groups of
 * channels, then the pairs of panels. U is made by all together, or by each for its pairs
 * where these are many and one block holds all.
 *
 * Scratch: [shared U][V] then per thread [own U][M][strip]. */
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "kernels/conv2d.h"

enum {
    STEP = 4,     /* pixels of the map from one tile to the next */
    WINDOW = 5,   /* pixels that a tile reads, one way */
    OUTPUTS = 8,  /* ... that it gives */
    PRODUCTS = 9, /* ... and with how many products */
    REGIONS = 4,  /* inside, right edge, lower edge, corner */
    CHUNK = 24,   /* tiles per product: a multiple of the rows of every micro-kernel */
    STRIP_TILES = 12,
    BLOCK_FLOATS = 1 << 20, /* of V at most: it comes from L3, beside U */
    OWN_PAIRS = 4,          /* per thread at least, or making U apart leaves threads idle */
    PAIR = DAD_PANEL_PAIR * DAD_PANEL,
};

/* Tiles of every image. */
typedef struct {
    ptrdiff_t row, rows, column, columns;     /* the first, and how many */
    ptrdiff_t products_down, products_across; /* that are needed */
    ptrdiff_t tiles;                          /* in all images */
} region;

typedef struct {
    region regions[REGIONS];
    ptrdiff_t H, W; /* of the output */
    ptrdiff_t C, O;
    ptrdiff_t rows, columns; /* of tiles in an image */
    ptrdiff_t chunks, block; /* in all regions; whose V exists at once */
    ptrdiff_t u_point, u_panel, v_tile, v_point, m_point, m_panel;
    ptrdiff_t shared_u, shared_v;        /* sizes of what is shared ... */
    ptrdiff_t own_u, m_size, strip_size; /* ... and of what each thread has */
} doubled_plan;

static void cut_regions(doubled_plan *p, ptrdiff_t N) {
    const ptrdiff_t H = p->H / 2, W = p->W / 2;
    const ptrdiff_t down = dad_ceil_div(H, STEP), across = dad_ceil_div(W, STEP);
    p->rows = H / STEP + 1;
    p->columns = W / STEP + 1;
    for (int i = 0; i < REGIONS; i++) {
        const bool lower = i / 2 > 0, right = i % 2 > 0;
        region *r = &p->regions[i];
        *r = (region){.row = lower ? down : 0,
                      .rows = lower ? p->rows - down : down,
                      .column = right ? across : 0,
                      .columns = right ? p->columns - across : across,
                      .products_down = lower ? 1 : PRODUCTS,
                      .products_across = right ? 1 : PRODUCTS};
        r->tiles = N * r->rows * r->columns;
        p->chunks += dad_ceil_div(r->tiles, CHUNK);
    }
}

static doubled_plan make_plan(const dad_conv2d_shape *s) {
    doubled_plan p = {.H = s->H, .W = s->W, .C = s->C, .O = s->O};
    cut_regions(&p, s->N);
    p.v_tile = dad_round_up(s->C, DAD_PANEL);
    if (p.v_tile % 512 == 0) {
        p.v_tile += DAD_PANEL; /* else the tiles of a chunk fall into the same cache sets */
    }
    const ptrdiff_t fitting = BLOCK_FLOATS / (CHUNK * WINDOW * WINDOW * p.v_tile);
    p.block = dad_min(p.chunks, dad_max(fitting, 1));
    p.v_point = p.block * CHUNK * p.v_tile + DAD_PANEL;
    p.m_point = CHUNK * DAD_PANEL + DAD_PANEL;
    p.m_panel = PRODUCTS * PRODUCTS * p.m_point;
    p.m_size = DAD_PANEL_PAIR * p.m_panel;
    p.strip_size = WINDOW * (STRIP_TILES * STEP + 1) * DAD_PANEL;
    const dad_filter_view filter = {.inputs = s->C};
    p.u_point = dad_filter_point(&filter);
    p.u_panel = PRODUCTS * PRODUCTS * p.u_point;
    const ptrdiff_t pairs = dad_ceil_div(s->O, PAIR);
    if (p.block == p.chunks && pairs >= OWN_PAIRS * dad_num_threads()) {
        p.own_u = DAD_PANEL_PAIR * p.u_panel;
    } else {
        p.shared_u = dad_ceil_div(s->O, DAD_PANEL) * p.u_panel;
    }
    p.shared_v = WINDOW * WINDOW * p.v_point;
    return p;
}

static ptrdiff_t own_size(const doubled_plan *p) {
    return p->own_u + p->m_size + p->strip_size;
}

ptrdiff_t dad_doubled_scratch(const dad_conv2d_shape *shape) {
    const doubled_plan p = make_plan(shape);
    return p.shared_u + p.shared_v + own_size(&p) * dad_num_threads();
}

ptrdiff_t dad_doubled_moment_slices(const dad_conv2d_shape *shape) {
    const doubled_plan p = make_plan(shape);
    return shape->O % DAD_PANEL == 0 ? p.rows * p.columns : 0;
}

typedef struct {
    const doubled_plan *plan;
    const dad_winograd_ops *ops;
    dad_output_map output;
    const dad_conv2d_input *input;
    const dad_filter_view *filter;
    float *u, *v; /* shared; u may be NULL */
} doubled_job;

/* A thread's own part of the scratch. */
typedef struct {
    float *u, *m, *strip;
} workspace;

static workspace find_workspace(const doubled_plan *p, float *scratch) {
    workspace w;
    w.u = scratch + p->shared_u + p->shared_v + own_size(p) * dad_thread_id();
    w.m = w.u + p->own_u;
    w.strip = w.m + p->m_size;
    return w;
}

/* Tiles of one region, next to each other in its numbering. */
typedef struct {
    const region *in;
    ptrdiff_t first, count;
} chunk;

static chunk chunk_at(const doubled_plan *p, ptrdiff_t index) {
    const region *in = p->regions;
    while (index >= dad_ceil_div(in->tiles, CHUNK)) {
        index -= dad_ceil_div(in->tiles, CHUNK);
        in++;
    }
    return (chunk){in, index * CHUNK, dad_min(CHUNK, in->tiles - index * CHUNK)};
}

typedef struct {
    ptrdiff_t n, i, j; /* image, row and column of tiles */
} tile_place;

static tile_place tile_at(const region *in, ptrdiff_t tile) {
    const ptrdiff_t line = tile / in->columns;
    return (tile_place){line / in->rows, in->row + line % in->rows,
                        in->column + tile % in->columns};
}

/* v [point][tile][C]: the group of channels from c on, run by run of neighbours in a row.
 */
static void transform_input(float *v, const doubled_job *job, const chunk *tiles,
                            ptrdiff_t c, float *strip) {
    const doubled_plan *p = job->plan;
    const region *in = tiles->in;
    const dad_input_part part = dad_input_part_of(job->input, p->C, c);
    dad_strip_source source = {.H = p->H / 2, .W = p->W / 2, .C = part.C};
    for (ptrdiff_t done = 0; done < tiles->count;) {
        const tile_place at = tile_at(in, tiles->first + done);
        const ptrdiff_t left = in->column + in->columns - at.j;
        const ptrdiff_t run = dad_min(dad_min(left, STRIP_TILES), tiles->count - done);
        const ptrdiff_t columns = run * STEP + 1;
        source.image = part.x + at.n * source.H * source.W * part.C;
        if (part.scale != NULL) {
            source.scale = part.scale + at.n * part.stride;
            source.shift = part.shift + at.n * part.stride;
        }
        dad_simd()->conv->strip(strip, &source, part.c, at.i * STEP - 1, at.j * STEP - 1,
                                WINDOW, columns);
        job->ops->input(v + c + done * p->v_tile, p->v_point, p->v_tile, strip, columns,
                        run);
        done += run;
    }
}

static dad_output_place find_place(const doubled_job *job, const tile_place *at,
                                   ptrdiff_t o) {
    const doubled_plan *p = job->plan;
    const ptrdiff_t above = at->i == 0, left = at->j == 0;
    const ptrdiff_t i = at->i * OUTPUTS - 1 + above, j = at->j * OUTPUTS - 1 + left;
    const ptrdiff_t slice = (at->n * p->rows + at->i) * p->columns + at->j;
    dad_output_place place = dad_output_place_of(&job->output, at->n, i, j, o, slice);
    place.above = above;
    place.left = left;
    place.rows = dad_min(OUTPUTS - above, p->H - i);
    place.columns = dad_min(OUTPUTS - left, p->W - j);
    return place;
}

/* The output of a chunk in the panel from channel o on. */
static void transform_output(const float *m, const doubled_job *job, const chunk *tiles,
                             ptrdiff_t o) {
    const doubled_plan *p = job->plan;
    dad_output_stage stage;
    ptrdiff_t image = -1;
    for (ptrdiff_t i = 0; i < tiles->count; i++) {
        const tile_place at = tile_at(tiles->in, tiles->first + i);
        if (at.n != image) {
            image = at.n;
            stage = dad_output_stage_of(job->output.epilogue, image, o, p->O);
        }
        const dad_output_place place = find_place(job, &at, o);
        job->ops->output(&place, m + i * DAD_PANEL, p->m_point, &stage);
    }
}

/* Products and output of a chunk, whose V starts at v, for the pair of panels from channel
 * o on, whose U starts at u. */
static void multiply(const float *u, const float *v, const doubled_job *job,
                     const chunk *tiles, ptrdiff_t o, float *m) {
    const doubled_plan *p = job->plan;
    const int panels = dad_panels_at(o, p->O);
    const size_t size = (size_t)(tiles->count * DAD_PANEL) * sizeof(float);
    for (ptrdiff_t product = 0; product < PRODUCTS * PRODUCTS; product++) {
        const ptrdiff_t down = product / PRODUCTS, across = product % PRODUCTS;
        float *target = m + product * p->m_point;
        if (down < tiles->in->products_down && across < tiles->in->products_across) {
            const ptrdiff_t point = down % WINDOW * WINDOW + across % WINDOW;
            dad_simd()->conv->product(target, p->m_panel, v + point * p->v_point, p->v_tile,
                                      u + product * p->u_point, p->u_panel, panels,
                                      tiles->count, p->C, 0);
        } else {
            memset(target, 0, size);
            memset(target + p->m_panel, 0, size);
        }
    }
    for (int panel = 0; panel < panels; panel++) {
        transform_output(m + panel * p->m_panel, job, tiles, o + panel * DAD_PANEL);
    }
}

/* From here on all threads of a parallel region call these. */

/* The products of a block of chunks, begin .. end - 1. */
static void multiply_block(const doubled_job *job, ptrdiff_t begin, ptrdiff_t end,
                           const workspace *own) {
    const doubled_plan *p = job->plan;
    if (p->own_u > 0) {
#pragma omp for schedule(dynamic)
        for (ptrdiff_t o = 0; o < p->O; o += PAIR) {
            dad_filter_pair_winograd(own->u, job->filter, job->ops, o);
            for (ptrdiff_t i = begin; i < end; i++) {
                const chunk tiles = chunk_at(p, i);
                multiply(own->u, job->v + (i - begin) * CHUNK * p->v_tile, job, &tiles, o,
                         own->m);
            }
        }
        return;
    }
    /* Chunks inside: one after the other they use the same pair of panels. */
#pragma omp for collapse(2) schedule(dynamic)
    for (ptrdiff_t o = 0; o < p->O; o += PAIR) {
        for (ptrdiff_t i = begin; i < end; i++) {
            const chunk tiles = chunk_at(p, i);
            multiply(job->u + o / DAD_PANEL * p->u_panel,
                     job->v + (i - begin) * CHUNK * p->v_tile, job, &tiles, o, own->m);
        }
    }
}

static void forward(const doubled_job *job, const workspace *own) {
    const doubled_plan *p = job->plan;
    for (ptrdiff_t begin = 0; begin < p->chunks; begin += p->block) {
        const ptrdiff_t end = dad_min(begin + p->block, p->chunks);
#pragma omp for collapse(2) schedule(dynamic)
        for (ptrdiff_t i = begin; i < end; i++) {
            for (ptrdiff_t c = 0; c < p->C; c += DAD_PANEL) {
                const chunk tiles = chunk_at(p, i);
                transform_input(job->v + (i - begin) * CHUNK * p->v_tile, job, &tiles, c,
                                own->strip);
            }
        }
        multiply_block(job, begin, end, own);
    }
}

void dad_doubled_forward(float *y, const dad_conv2d_input *input,
                         const dad_filter_view *filter, const dad_conv2d_epilogue *epilogue,
                         const dad_conv2d_shape *shape, float *scratch) {
    const doubled_plan p = make_plan(shape);
    const doubled_job job = {.plan = &p,
                             .ops = dad_winograd_transforms(shape->algorithm),
                             .output = dad_output_map_of(y, epilogue, shape),
                             .input = input,
                             .filter = filter,
                             .u = scratch,
                             .v = scratch + p.shared_u};
#pragma omp parallel num_threads(dad_num_threads())
    {
        const workspace own = find_workspace(&p, scratch);
        if (p.own_u == 0) {
            dad_filter_all_winograd(job.u, filter, job.ops);
        }
        forward(&job, &own);
        dad_stream_end();
    }
}
