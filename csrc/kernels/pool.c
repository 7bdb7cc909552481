/* Average and max pooling over 2x2 windows. An odd last row or column is in no window and
 * gets gradient zero. Threads share (image, output row). */
#include <string.h>

#include "base/threads.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

static void clear(float *x, ptrdiff_t count) {
    memset(x, 0, (size_t)count * sizeof(float));
}

/* Output row r of all images: the input row at the top of its windows. */
static ptrdiff_t top_row(ptrdiff_t r, const dad_map_shape *shape) {
    ptrdiff_t rows = shape->H / 2;
    return (r / rows * shape->H + r % rows * 2) * shape->W * shape->C;
}

void dad_avg_pool_forward(float *y, const float *x, const dad_map_shape *shape) {
    const dad_map_ops *ops = dad_simd()->layer->map;
    const ptrdiff_t C = shape->C, W = shape->W;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t r = 0; r < shape->N * (shape->H / 2); r++) {
        const float *top = x + top_row(r, shape);
        ops->sum_windows(y + r * (W / 2) * C, top, top + W * C, 0.25f, W / 2, C);
    }
}

void dad_max_pool_forward(float *y, uint8_t *which, const float *x,
                          const dad_map_shape *shape) {
    const dad_map_ops *ops = dad_simd()->layer->map;
    const ptrdiff_t C = shape->C, W = shape->W;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t r = 0; r < shape->N * (shape->H / 2); r++) {
        const float *top = x + top_row(r, shape);
        ptrdiff_t offset = r * (W / 2) * C;
        ops->max_windows(y + offset, which + offset, top, top + W * C, W / 2, C);
    }
}

/* Zero in what no window reads, beside the two rows of output row r and below the last one.
 */
static void clear_odd(float *top, ptrdiff_t r, const dad_map_shape *shape) {
    const ptrdiff_t C = shape->C, row = shape->W * C, rows = shape->H / 2;
    if (shape->W % 2 == 1) {
        clear(top + row - C, C);
        clear(top + 2 * row - C, C);
    }
    if (shape->H % 2 == 1 && r % rows == rows - 1) {
        clear(top + 2 * row, row);
    }
}

void dad_avg_pool_backward(float *dx, const float *dy, const dad_map_shape *shape) {
    const dad_map_ops *ops = dad_simd()->layer->map;
    const ptrdiff_t C = shape->C, W = shape->W;
    if (shape->H < 2) {
        clear(dx, shape->N * shape->H * W * C);
    }
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t r = 0; r < shape->N * (shape->H / 2); r++) {
        const float *gradient = dy + r * (W / 2) * C;
        float *top = dx + top_row(r, shape);
        ops->spread(top, gradient, 0.25f, W / 2, C);
        ops->spread(top + W * C, gradient, 0.25f, W / 2, C);
        clear_odd(top, r, shape);
    }
}

void dad_max_pool_backward(float *dx, const float *dy, const uint8_t *which,
                           const dad_map_shape *shape) {
    const dad_map_ops *ops = dad_simd()->layer->map;
    const ptrdiff_t C = shape->C, W = shape->W;
    if (shape->H < 2) {
        clear(dx, shape->N * shape->H * W * C);
    }
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t r = 0; r < shape->N * (shape->H / 2); r++) {
        ptrdiff_t offset = r * (W / 2) * C;
        float *top = dx + top_row(r, shape);
        ops->max_scatter(top, top + W * C, dy + offset, which + offset, W / 2, C);
        clear_odd(top, r, shape);
    }
}
