/* Multi-head self-attention over the positions of a map: softmax(q k^T / sqrt(D)) v per
 * head.
 *
 * Probabilities exist for one block of queries at a time, in a thread's own scratch.
 * Forward: threads share (image, head, query block). Backward: threads share (image, head),
 * whose query blocks follow each other and add to dk and dv in order; with P the
 * probabilities, dv = P^T dy,  dP = dy v^T,  dS = P (dP - sum(P dP)) / sqrt(D),  dq = dS k,
 * dk = dS^T q. The shapes of the matrix products depend on T and D alone. */
#include <math.h>

#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

enum {
    QUERIES = 128
}; /* 8 % faster than 64; 256 gains 4 % more but halves the tasks to share */

static ptrdiff_t thread_scratch(const dad_attention_shape *shape) {
    return dad_padded(dad_min(QUERIES, shape->T) * (2 * shape->T + 1));
}

ptrdiff_t dad_attention_scratch(const dad_attention_shape *shape) {
    return dad_num_threads() * thread_scratch(shape);
}

/* p [queries, T] = exp(scores - their maximum), and factor [queries] = 1 / the sum of a
 * row. */
static void exponentials(float *p, float *factor, const float *q, const float *k,
                         ptrdiff_t queries, const dad_attention_shape *shape) {
    const dad_row_ops *ops = dad_simd()->layer->row;
    const ptrdiff_t T = shape->T, D = shape->D, stride = shape->heads * 3 * D;
    dad_gemm(false, true, queries, T, D, 1.0f / sqrtf((float)D), q, stride, k, stride, 0.0f,
             p, T);
    for (ptrdiff_t i = 0; i < queries; i++) {
        factor[i] = 1.0f / ops->exponentials(p + i * T, T);
    }
}

void dad_attention_forward(float *y, const float *qkv, const dad_attention_shape *shape,
                           float *scratch) {
    const dad_row_ops *ops = dad_simd()->layer->row;
    const ptrdiff_t T = shape->T, D = shape->D, heads = shape->heads,
                    stride = heads * 3 * D;
    const ptrdiff_t blocks = dad_ceil_div(T, QUERIES);
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t task = 0; task < shape->N * heads * blocks; task++) {
        ptrdiff_t n = task / (heads * blocks), head = task / blocks % heads;
        ptrdiff_t first = task % blocks * QUERIES, queries = dad_min(QUERIES, T - first);
        const float *q = qkv + n * T * stride + head * 3 * D;
        float *p = scratch + dad_thread_id() * thread_scratch(shape);
        float *factor = p + queries * T;
        exponentials(p, factor, q + first * stride, q + D, queries, shape);

        float *out = y + (n * T + first) * heads * D + head * D;
        dad_gemm(false, false, queries, D, T, 1.0f, p, T, q + 2 * D, stride, 0.0f, out,
                 heads * D);
        for (ptrdiff_t i = 0; i < queries; i++) {
            ops->scale(out + i * heads * D, factor[i], D);
        }
    }
}

/* One block of queries of a head: its dq, and its share of dk and dv (the first one
 * writes). */
static void backward_block(float *dq, const float *dy, const float *q, ptrdiff_t first,
                           const dad_attention_shape *shape, float *scratch) {
    const dad_row_ops *ops = dad_simd()->layer->row;
    const ptrdiff_t T = shape->T, D = shape->D, stride = shape->heads * 3 * D;
    const ptrdiff_t queries = dad_min(QUERIES, T - first), dy_stride = shape->heads * D;
    const float root = 1.0f / sqrtf((float)D), keep = first > 0 ? 1.0f : 0.0f;
    const float *q_block = q + first * stride, *k = q + D, *v = q + 2 * D;
    float *p = scratch, *ds = p + queries * T, *factor = ds + queries * T;

    exponentials(p, factor, q_block, k, queries, shape);
    dad_gemm(false, true, queries, T, D, 1.0f, dy, dy_stride, v, stride, 0.0f, ds, T);
    for (ptrdiff_t i = 0; i < queries; i++) {
        ops->softmax_backward(ds + i * T, p + i * T, factor[i], T);
    }
    dad_gemm(false, false, queries, D, T, root, ds, T, k, stride, 0.0f, dq + first * stride,
             stride);
    dad_gemm(true, false, T, D, queries, root, ds, T, q_block, stride, keep, dq + D,
             stride);
    dad_gemm(true, false, T, D, queries, 1.0f, p, T, dy, dy_stride, keep, dq + 2 * D,
             stride);
}

void dad_attention_backward(float *dqkv, const float *dy, const float *qkv,
                            const dad_attention_shape *shape, float *scratch) {
    const ptrdiff_t T = shape->T, D = shape->D, heads = shape->heads,
                    stride = heads * 3 * D;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static)
    for (ptrdiff_t task = 0; task < shape->N * heads; task++) {
        ptrdiff_t n = task / heads, head = task % heads;
        ptrdiff_t offset = n * T * stride + head * 3 * D;
        float *own = scratch + dad_thread_id() * thread_scratch(shape);
        for (ptrdiff_t first = 0; first < T; first += QUERIES) {
            const float *dy_block = dy + (n * T + first) * heads * D + head * D;
            backward_block(dqkv + offset, dy_block, qkv + offset, first, shape, own);
        }
    }
}
