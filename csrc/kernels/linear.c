/* Fully connected layer, y = x w^T + b, and the sinusoidal embedding of the time step.
 *
 * Batches are small and w large, so forward is bound by reading w once: a dot product per
 * output, which also keeps an image's result independent of the batch. Backward: matrix
 * products, cut into blocks of channels; dx = dy w, dw += dy^T x, db += sum of dy. Threads
 * share the blocks. */
#include <math.h>

#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

enum { BLOCK = 64 };

void dad_linear_forward(float *y, const float *x, const float *w, const float *b,
                        const dad_linear_shape *shape) {
    const dad_row_ops *ops = dad_simd()->layer->row;
    const ptrdiff_t N = shape->N, C = shape->C, O = shape->O;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t o = 0; o < O; o++) {
        float bias = b != NULL ? b[o] : 0.0f;
        for (ptrdiff_t n = 0; n < N; n++) {
            y[n * O + o] = ops->dot(x + n * C, w + o * C, C) + bias;
        }
    }
}

void dad_linear_backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                         const float *w, const dad_linear_shape *shape) {
    const ptrdiff_t N = shape->N, C = shape->C, O = shape->O;
    const ptrdiff_t dx_blocks = dx != NULL ? dad_ceil_div(C, BLOCK) : 0;
    const ptrdiff_t dw_blocks = dw != NULL ? dad_ceil_div(O, BLOCK) : 0;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t i = 0; i < dx_blocks + dw_blocks; i++) {
        if (i < dx_blocks) {
            ptrdiff_t c = i * BLOCK;
            dad_gemm(false, false, N, dad_min(BLOCK, C - c), O, dy, O, w + c, C, 0.0f,
                     dx + c, C);
        } else {
            ptrdiff_t o = (i - dx_blocks) * BLOCK;
            dad_gemm(true, false, dad_min(BLOCK, O - o), C, N, dy + o, O, x, C, 1.0f,
                     dw + o * C, C);
        }
    }
    for (ptrdiff_t o = 0; db != NULL && o < O; o++) {
        double sum = 0.0;
        for (ptrdiff_t n = 0; n < N; n++) {
            sum += dy[n * O + o];
        }
        db[o] += (float)sum;
    }
}

void dad_time_embedding(float *y, const float *t, ptrdiff_t N, ptrdiff_t dim) {
    const ptrdiff_t half = dim / 2;
    for (ptrdiff_t k = 0; k < half; k++) {
        const double frequency = exp(-log(10000.0) / (double)half * (double)k);
        for (ptrdiff_t n = 0; n < N; n++) {
            y[n * dim + k] = (float)sin(t[n] * frequency);
            y[n * dim + half + k] = (float)cos(t[n] * frequency);
        }
    }
}
