/* NCHW <-> NHWC: transposes of [C, P] per image, in square blocks so that both sides stay
 * within a few cache lines. Threads share the blocks of pixels. */
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"

enum { BLOCK = 16, PIXELS_PER_TASK = 1024 };

/* y [columns, rows] = x [rows, columns] transposed, within the given rows and columns of x.
 */
static void transpose(float *y, const float *x, ptrdiff_t rows, ptrdiff_t columns,
                      ptrdiff_t row_begin, ptrdiff_t row_end, ptrdiff_t column_begin,
                      ptrdiff_t column_end) {
    for (ptrdiff_t i0 = row_begin; i0 < row_end; i0 += BLOCK) {
        const ptrdiff_t i1 = dad_min(i0 + BLOCK, row_end);
        for (ptrdiff_t j0 = column_begin; j0 < column_end; j0 += BLOCK) {
            const ptrdiff_t j1 = dad_min(j0 + BLOCK, column_end);
            for (ptrdiff_t j = j0; j < j1; j++) {
                for (ptrdiff_t i = i0; i < i1; i++) {
                    y[j * rows + i] = x[i * columns + j];
                }
            }
        }
    }
}

void dad_nchw_to_nhwc(float *y, const float *x, ptrdiff_t N, ptrdiff_t C, ptrdiff_t P) {
#pragma omp parallel for collapse(2) num_threads(dad_num_threads())
    for (ptrdiff_t n = 0; n < N; n++) {
        for (ptrdiff_t p = 0; p < P; p += PIXELS_PER_TASK) {
            transpose(y + n * C * P, x + n * C * P, C, P, 0, C, p,
                      dad_min(p + PIXELS_PER_TASK, P));
        }
    }
}

void dad_nhwc_to_nchw(float *y, const float *x, ptrdiff_t N, ptrdiff_t C, ptrdiff_t P) {
#pragma omp parallel for collapse(2) num_threads(dad_num_threads())
    for (ptrdiff_t n = 0; n < N; n++) {
        for (ptrdiff_t p = 0; p < P; p += PIXELS_PER_TASK) {
            transpose(y + n * C * P, x + n * C * P, P, C, p,
                      dad_min(p + PIXELS_PER_TASK, P), 0, C);
        }
    }
}
