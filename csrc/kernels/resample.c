/* Maps of twice the height and width: nearest, and bilinear with aligned corners.
 *
 * Bilinear: output row 2k lies k / (2H - 1) above input row k, output row 2k + 1 lies
 * (H - 1 - k) / (2H - 1) below it. Backward gathers, for each input row, from the at most
 * four output rows 2k - 1 .. 2k + 2 that read it. Threads share (image, row).
 *
 * Space to depth only moves runs of B * C floats: rows of B pixels stay together. */
#include <string.h>

#include "base/threads.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

void dad_upsample_nearest_forward(float *y, const float *x, const dad_map_shape *shape) {
    const dad_map_ops *ops = dad_simd()->layer->map;
    const ptrdiff_t W = shape->W, C = shape->C;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t r = 0; r < shape->N * shape->H; r++) {
        float *top = y + 4 * r * W * C;
        ops->spread(top, x + r * W * C, 1.0f, W, C);
        ops->spread(top + 2 * W * C, x + r * W * C, 1.0f, W, C);
    }
}

void dad_upsample_nearest_backward(float *dx, const float *dy, const dad_map_shape *shape) {
    const dad_map_ops *ops = dad_simd()->layer->map;
    const ptrdiff_t W = shape->W, C = shape->C;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t r = 0; r < shape->N * shape->H; r++) {
        const float *top = dy + 4 * r * W * C;
        ops->sum_windows(dx + r * W * C, top, top + 2 * W * C, 1.0f, W, C);
    }
}

void dad_upsample_bilinear_forward(float *y, const float *x, const dad_map_shape *shape) {
    const dad_map_ops *ops = dad_simd()->layer->map;
    const ptrdiff_t H = shape->H, size = shape->W * shape->C;
    const float whole = (float)(2 * H - 1);
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t r = 0; r < shape->N * 2 * H; r++) {
        ptrdiff_t n = r / (2 * H), i = r % (2 * H), k = i / 2;
        ptrdiff_t upper = i % 2 == 0 && k > 0 ? k - 1 : k;
        ptrdiff_t lower = i % 2 == 1 && k + 1 < H ? k + 1 : k;
        float weight = (float)(i % 2 == 0 ? 2 * H - 1 - k : H - 1 - k) / whole;
        const float *image = x + n * H * size;
        ops->bilinear(y + r * 2 * size, image + upper * size, image + lower * size, weight,
                      shape->W, shape->C);
    }
}

void dad_upsample_bilinear_backward(float *dx, const float *dy,
                                    const dad_map_shape *shape) {
    const dad_map_ops *ops = dad_simd()->layer->map;
    const ptrdiff_t H = shape->H, size = shape->W * shape->C;
    const float whole = (float)(2 * H - 1);
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t r = 0; r < shape->N * H; r++) {
        ptrdiff_t n = r / H, k = r % H;
        const float weights[4] = {(float)(H - k) / whole, (float)(2 * H - 1 - k) / whole,
                                  (float)(H + k) / whole, (float)(k + 1) / whole};
        int skipped = k == 0, count = 4 - skipped - (k == H - 1);
        const float *first = dy + (n * 2 * H + 2 * k - 1 + skipped) * 2 * size;
        ops->bilinear_backward(dx + r * size, first, weights + skipped, count, shape->W,
                               shape->C);
    }
}

/* Moves the runs of B pixels between a row of blocks and the B rows of pixels it stands
 * for. */
static void move_blocks(float *y, const float *x, ptrdiff_t B, const dad_map_shape *shape,
                        bool to_depth) {
    const ptrdiff_t run = B * shape->C, row = shape->W * shape->C, blocks = shape->W / B;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t r = 0; r < shape->N * (shape->H / B); r++) {
        for (ptrdiff_t i = 0; i < B; i++) {
            for (ptrdiff_t k = 0; k < blocks; k++) {
                ptrdiff_t pixels = (r * B + i) * row + k * run,
                          deep = r * B * row + (k * B + i) * run;
                memcpy(y + (to_depth ? deep : pixels), x + (to_depth ? pixels : deep),
                       (size_t)run * sizeof(float));
            }
        }
    }
}

void dad_space_to_depth(float *y, const float *x, ptrdiff_t B, const dad_map_shape *shape) {
    move_blocks(y, x, B, shape, true);
}

void dad_depth_to_space(float *x, const float *y, ptrdiff_t B, const dad_map_shape *shape) {
    move_blocks(x, y, B, shape, false);
}
