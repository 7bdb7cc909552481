/* NCHW <-> NHWC: blocked transposes, so that neither side is read or written a float per
 * cache line. Threads share (image, block of pixels). */
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"

enum { BLOCK = 32, PIXELS = 1024 };

/* y [columns, rows] (row stride y_stride) = the transpose of x [rows, columns]. */
static void transpose(float *y, ptrdiff_t y_stride, const float *x, ptrdiff_t x_stride,
                      ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t r = 0; r < rows; r += BLOCK) {
        ptrdiff_t r_end = dad_min(r + BLOCK, rows);
        for (ptrdiff_t c = 0; c < columns; c += BLOCK) {
            ptrdiff_t c_end = dad_min(c + BLOCK, columns);
            for (ptrdiff_t j = c; j < c_end; j++) {
                for (ptrdiff_t i = r; i < r_end; i++) {
                    y[j * y_stride + i] = x[i * x_stride + j];
                }
            }
        }
    }
}

void dad_nchw_to_nhwc(float *y, const float *x, ptrdiff_t N, ptrdiff_t C, ptrdiff_t P) {
    const ptrdiff_t blocks = dad_ceil_div(P, PIXELS);
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t i = 0; i < N * blocks; i++) {
        ptrdiff_t n = i / blocks, first = i % blocks * PIXELS;
        ptrdiff_t pixels = dad_min(PIXELS, P - first);
        transpose(y + (n * P + first) * C, C, x + n * C * P + first, P, C, pixels);
    }
}

void dad_nhwc_to_nchw(float *y, const float *x, ptrdiff_t N, ptrdiff_t C, ptrdiff_t P) {
    const ptrdiff_t blocks = dad_ceil_div(P, PIXELS);
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t i = 0; i < N * blocks; i++) {
        ptrdiff_t n = i / blocks, first = i % blocks * PIXELS;
        ptrdiff_t pixels = dad_min(PIXELS, P - first);
        transpose(y + n * C * P + first, P, x + (n * P + first) * C, C, pixels, C);
    }
}
