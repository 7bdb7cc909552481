/* Passes shared by GroupNorm and BatchNorm; see norm.h. Threads share (image, row block).
 */
#include "kernels/norm.h"

#include "base/memory.h"
#include "base/threads.h"

/* A block fits the second-level cache. Its sums are of doubles, or of floats over a few
 * rows at a time (simd/layer_norm.c). */
enum { BLOCK_FLOATS = 16384, BLOCK_ROWS = 256 };

static ptrdiff_t block_rows(const dad_norm_shape *shape) {
    ptrdiff_t rows = dad_max(1, dad_min(BLOCK_ROWS, BLOCK_FLOATS / shape->C));
    return dad_min(rows, shape->rows);
}

static ptrdiff_t block_count(const dad_norm_shape *shape) {
    return dad_ceil_div(shape->rows, block_rows(shape));
}

/* Block `task` of all images' blocks: its image, and its rows. */
typedef struct {
    ptrdiff_t image, rows, offset;
    dad_norm_channels channels;
} block;

static block find_block(ptrdiff_t task, const dad_norm_workspace *work,
                        const dad_norm_shape *shape) {
    ptrdiff_t blocks = block_count(shape), size = block_rows(shape), C = shape->C;
    ptrdiff_t image = task / blocks, first = task % blocks * size;
    return (block){
        .image = image,
        .rows = dad_min(size, shape->rows - first),
        .offset = (image * shape->rows + first) * C,
        .channels =
            {
                .scale = dad_norm_channel_array(work, image, DAD_NORM_SCALE, C),
                .shift = dad_norm_channel_array(work, image, DAD_NORM_SHIFT, C),
                .mean = dad_norm_channel_array(work, image, DAD_NORM_MEAN, C),
                .slope = dad_norm_channel_array(work, image, DAD_NORM_SLOPE, C),
                .level = dad_norm_channel_array(work, image, DAD_NORM_LEVEL, C),
            },
    };
}

ptrdiff_t dad_norm_scratch(const dad_norm_shape *shape) {
    ptrdiff_t doubles = shape->images * 2 * shape->C * (1 + block_count(shape));
    return 2 * doubles + shape->images * 5 * shape->C;
}

dad_norm_workspace dad_norm_cut(float *scratch, const dad_norm_shape *shape) {
    dad_norm_workspace work;
    work.sums = (double *)(void *)scratch;
    work.blocks = work.sums + shape->images * 2 * shape->C;
    work.channels =
        (float *)(work.blocks + shape->images * block_count(shape) * 2 * shape->C);
    return work;
}

/* work->sums = the blocks' sums, added in order. */
static void add_blocks(const dad_norm_workspace *work, const dad_norm_shape *shape) {
    ptrdiff_t blocks = block_count(shape), size = 2 * shape->C;
    for (ptrdiff_t n = 0; n < shape->images; n++) {
        double *sums = work->sums + n * size;
        for (ptrdiff_t i = 0; i < size; i++) {
            sums[i] = 0.0;
        }
        for (ptrdiff_t b = 0; b < blocks; b++) {
            const double *part = work->blocks + (n * blocks + b) * size;
            for (ptrdiff_t i = 0; i < size; i++) {
                sums[i] += part[i];
            }
        }
    }
}

void dad_norm_moments(const dad_norm_workspace *work, const float *x,
                      const dad_norm_shape *shape) {
    const dad_norm_ops *ops = dad_simd()->layer->norm;
    const ptrdiff_t tasks = shape->images * block_count(shape), C = shape->C;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t i = 0; i < tasks; i++) {
        block part = find_block(i, work, shape);
        double *sums = work->blocks + i * 2 * C;
        ops->moments(sums, sums + C, x + part.offset, part.rows, C);
    }
    add_blocks(work, shape);
}

void dad_norm_apply(float *y, const float *x, ptrdiff_t first, ptrdiff_t width,
                    const dad_norm_workspace *work, const dad_norm_shape *shape) {
    const dad_norm_ops *ops = dad_simd()->layer->norm;
    const ptrdiff_t tasks = shape->images * block_count(shape), C = shape->C;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t i = 0; i < tasks; i++) {
        block part = find_block(i, work, shape);
        const dad_norm_channels channels = {.scale = part.channels.scale + first,
                                            .shift = part.channels.shift + first};
        ops->apply[shape->activation](y + part.offset + first, C,
                                      x + part.offset / C * width, width, &channels,
                                      part.rows, width);
    }
}

void dad_norm_gradient_sums(const dad_norm_workspace *work, const float *dy, const float *x,
                            const dad_norm_shape *shape) {
    const dad_norm_ops *ops = dad_simd()->layer->norm;
    const ptrdiff_t tasks = shape->images * block_count(shape), C = shape->C;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t i = 0; i < tasks; i++) {
        block part = find_block(i, work, shape);
        double *sums = work->blocks + i * 2 * C;
        ops->gradient_sums[shape->activation](sums, sums + C, dy + part.offset,
                                              x + part.offset, &part.channels, part.rows,
                                              C);
    }
    add_blocks(work, shape);
}

void dad_norm_input_gradient(float *dx, const float *dy, const float *x,
                             const dad_norm_workspace *work, const dad_norm_shape *shape) {
    const dad_norm_ops *ops = dad_simd()->layer->norm;
    const ptrdiff_t tasks = shape->images * block_count(shape);
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t i = 0; i < tasks; i++) {
        block part = find_block(i, work, shape);
        ops->input_gradient[shape->activation](dx + part.offset, dy + part.offset,
                                               x + part.offset, &part.channels, part.rows,
                                               shape->C);
    }
}
