/* Adam with decoupled weight decay, and the moving average of weights. One pass over the
 * parameters, whose blocks the threads share; step t, in this order:
 *
 *   w = w (1 - lr weight_decay)
 *   m = beta1 m + (1 - beta1) dw
 *   v = beta2 v + (1 - beta2) dw^2
 *   w = w - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps) */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

enum { BLOCK = 16384 };

void dad_adam(float *w, float *m, float *v, const float *dw,
              const dad_adam_options *options, ptrdiff_t count) {
    const dad_elementwise_ops *ops = dad_simd()->layer->elementwise;
    const double t = (double)options->step;
    const dad_adam_factors factors = {
        .decay = (float)(1.0 - options->lr * options->weight_decay),
        .beta1 = (float)options->beta1,
        .rest1 = (float)(1.0 - options->beta1),
        .beta2 = (float)options->beta2,
        .rest2 = (float)(1.0 - options->beta2),
        .step_size = (float)(options->lr / (1.0 - pow(options->beta1, t))),
        .inverse_root = (float)(1.0 / sqrt(1.0 - pow(options->beta2, t))),
        .eps = (float)options->eps,
    };
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static) if (count > BLOCK)
    for (ptrdiff_t i = 0; i < count; i += BLOCK) {
        ops->adam(w + i, m + i, v + i, dw + i, &factors, dad_min(BLOCK, count - i));
    }
}

void dad_moving_average(float *average, const float *w, double decay, ptrdiff_t count) {
    const dad_elementwise_ops *ops = dad_simd()->layer->elementwise;
#pragma omp parallel for num_threads(dad_num_threads()) schedule(static) if (count > BLOCK)
    for (ptrdiff_t i = 0; i < count; i += BLOCK) {
        const ptrdiff_t n = dad_min(BLOCK, count - i);
        if (decay == 0.0) { /* whatever the average was: 0 times NaN is NaN */
            memcpy(average + i, w + i, (size_t)n * sizeof(float));
        } else {
            ops->mix(average + i, w + i, (float)decay, (float)(1.0 - decay), n);
        }
    }
}
