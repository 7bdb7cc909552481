/* Functions of single elements, dropout, addition, concatenation. Memory-bound: threads
 * share blocks of a fixed number of elements; whatever fits one block stays in one thread.
 */
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

enum { BLOCK = 16384 };

typedef void unary(float *y, const float *x, ptrdiff_t n);
typedef void binary(float *y, const float *a, const float *b, ptrdiff_t n);

static void each1(unary *function, float *y, const float *x, ptrdiff_t count) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static) if (count > BLOCK)
    for (ptrdiff_t i = 0; i < count; i += BLOCK) {
        function(y + i, x + i, dad_min(BLOCK, count - i));
    }
}

static void each2(binary *function, float *y, const float *a, const float *b,
                  ptrdiff_t count) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static) if (count > BLOCK)
    for (ptrdiff_t i = 0; i < count; i += BLOCK) {
        function(y + i, a + i, b + i, dad_min(BLOCK, count - i));
    }
}

void dad_silu_forward(float *y, const float *x, ptrdiff_t count) {
    each1(dad_simd()->layer->elementwise->silu, y, x, count);
}
void dad_silu_backward(float *dx, const float *dy, const float *x, ptrdiff_t count) {
    each2(dad_simd()->layer->elementwise->silu_backward, dx, dy, x, count);
}
void dad_relu_forward(float *y, const float *x, ptrdiff_t count) {
    each1(dad_simd()->layer->elementwise->relu, y, x, count);
}
void dad_relu_backward(float *dx, const float *dy, const float *y, ptrdiff_t count) {
    each2(dad_simd()->layer->elementwise->relu_backward, dx, dy, y, count);
}
void dad_sigmoid_forward(float *y, const float *x, ptrdiff_t count) {
    each1(dad_simd()->layer->elementwise->sigmoid, y, x, count);
}
void dad_sigmoid_backward(float *dx, const float *dy, const float *y, ptrdiff_t count) {
    each2(dad_simd()->layer->elementwise->sigmoid_backward, dx, dy, y, count);
}
void dad_add(float *y, const float *a, const float *b, ptrdiff_t count) {
    each2(dad_simd()->layer->elementwise->add, y, a, b, count);
}

/* The key is the seed mixed with the upper half of the element's number, so that any count
 * has draws of its own; the lower half is hashed under it. */
void dad_dropout(float *y, const float *x, float p, uint64_t seed, ptrdiff_t count) {
    const dad_elementwise_ops *ops = dad_simd()->layer->elementwise;
    const double highest = 4294967295.0;
    const uint32_t threshold = (uint32_t)(p < 1.0f ? (double)p * 4294967296.0 : highest);
    const float scale = p < 1.0f ? 1.0f / (1.0f - p) : 0.0f;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static) if (count > BLOCK)
    for (ptrdiff_t i = 0; i < count; i += BLOCK) {
        uint64_t state = seed ^ ((uint64_t)i >> 32);
        uint64_t key = dad_splitmix64(&state);
        ops->dropout(y + i, x + i, scale, threshold, key, (uint32_t)i,
                     dad_min(BLOCK, count - i));
    }
}

void dad_concat_forward(float *y, const float *a, const float *b, ptrdiff_t rows,
                        ptrdiff_t A, ptrdiff_t B) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t r = 0; r < rows; r++) {
        memcpy(y + r * (A + B), a + r * A, (size_t)A * sizeof(float));
        memcpy(y + r * (A + B) + A, b + r * B, (size_t)B * sizeof(float));
    }
}

void dad_concat_backward(float *da, float *db, const float *dy, ptrdiff_t rows, ptrdiff_t A,
                         ptrdiff_t B) {
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t r = 0; r < rows; r++) {
        if (da != NULL) {
            memcpy(da + r * A, dy + r * (A + B), (size_t)A * sizeof(float));
        }
        if (db != NULL) {
            memcpy(db + r * B, dy + r * (A + B) + A, (size_t)B * sizeof(float));
        }
    }
}
