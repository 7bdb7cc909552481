/* Image score = mean of the k largest values of the anomaly map.
 *
 * A heap keeps the k largest with the smallest on top; nearly every value is refused by one
 * comparison with it. They are added from the largest down, so that the score depends on
 * the values alone, not on where they lie. One thread per map; a thread's heap is allocated
 * here. */
#include <stdlib.h>

#include "base/memory.h"
#include "base/threads.h"
#include "pipeline/metrics.h"

/* Places `value` at the top of the heap [k] and lets it sink. */
static void replace_top(double *heap, ptrdiff_t k, double value) {
    ptrdiff_t i = 0;
    for (;;) {
        ptrdiff_t child = 2 * i + 1;
        if (child >= k) {
            break;
        }
        if (child + 1 < k && heap[child + 1] < heap[child]) {
            child++;
        }
        if (heap[child] >= value) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = value;
}

static double value_at(const void *map, ptrdiff_t i, bool wide) {
    return wide ? ((const double *)map)[i] : (double)((const float *)map)[i];
}

static void keep_largest(double *heap, ptrdiff_t k, const void *map, ptrdiff_t size,
                         bool wide) {
    for (ptrdiff_t i = 0; i < k; i++) { /* grow: the new value rises from the end */
        double value = value_at(map, i, wide);
        ptrdiff_t at = i;
        while (at > 0 && heap[(at - 1) / 2] > value) {
            heap[at] = heap[(at - 1) / 2];
            at = (at - 1) / 2;
        }
        heap[at] = value;
    }
    for (ptrdiff_t i = k; i < size; i++) {
        double value = value_at(map, i, wide);
        if (value > heap[0]) {
            replace_top(heap, k, value);
        }
    }
}

/* Mean from the largest down: the heap is taken apart from its top into falling order. */
static double mean_of_heap(double *heap, ptrdiff_t k) {
    for (ptrdiff_t left = k - 1; left > 0; left--) {
        double smallest = heap[0];
        replace_top(heap, left, heap[left]);
        heap[left] = smallest;
    }
    double sum = 0.0;
    for (ptrdiff_t i = 0; i < k; i++) {
        sum += heap[i];
    }
    return sum / (double)k;
}

dad_status dad_image_scores(double *result, dad_scores maps, ptrdiff_t N, ptrdiff_t top_k) {
    ptrdiff_t size = maps.count / N;
    size_t bytes = size * (maps.wide ? sizeof(double) : sizeof(float));
    double *heaps = malloc((size_t)dad_num_threads() * (size_t)top_k * sizeof(*heaps));
    if (heaps == NULL) {
        return DAD_NO_MEMORY;
    }
#pragma omp parallel for num_threads(dad_num_threads()) schedule(dynamic)
    for (ptrdiff_t n = 0; n < N; n++) {
        double *heap = heaps + dad_thread_id() * top_k;
        keep_largest(heap, top_k, (const char *)maps.values + n * bytes, size, maps.wide);
        result[n] = mean_of_heap(heap, top_k);
    }
    free(heaps);
    return DAD_OK;
}
