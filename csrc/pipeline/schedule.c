/* Noise schedules as float64 tables over the steps t = 0 .. T - 1 (DDPM; the cosine form is
 * Nichol and Dhariwal's).
 *
 *   linear   beta = linspace(0.1 / T, 20 / T, T)
 *   cosine   beta_t = min(1 - f((t + 1) / T) / f(t / T), 0.999),
 *            f(s) = cos^2((s + 0.008) / 1.008 * pi / 2)
 *
 * The caller owns the tables; one thread. */
#include <math.h>

#include "pipeline/pipeline.h"

#define PI 3.14159265358979323846

static void linear_betas(double *betas, ptrdiff_t T) {
    double scale = 1000.0 / (double)T;
    double first = scale * 0.0001, last = scale * 0.02;
    double step = T > 1 ? (last - first) / (double)(T - 1) : 0.0;
    for (ptrdiff_t t = 0; t < T; t++) {
        betas[t] = first + (double)t * step;
    }
    betas[T - 1] = last;
}

static double cosine_signal(double s) {
    double c = cos((s + 0.008) / 1.008 * PI / 2.0);
    return c * c;
}

static void cosine_betas(double *betas, ptrdiff_t T) {
    for (ptrdiff_t t = 0; t < T; t++) {
        double here = cosine_signal((double)t / (double)T);
        double next = cosine_signal((double)(t + 1) / (double)T);
        betas[t] = fmin(1.0 - next / here, 0.999);
    }
}

ptrdiff_t dad_schedule_fewest_steps(dad_schedule_kind kind) {
    return kind == DAD_SCHEDULE_LINEAR ? 21 : 2;
}

void dad_schedule_tables(double *tables, dad_schedule_kind kind, ptrdiff_t T) {
    double *betas = tables + DAD_BETAS * T;
    if (kind == DAD_SCHEDULE_LINEAR) {
        linear_betas(betas, T);
    } else {
        cosine_betas(betas, T);
    }
    double previous = 1.0;
    for (ptrdiff_t t = 0; t < T; t++) {
        double beta = betas[t], alpha = 1.0 - beta, abar = previous * alpha;
        double variance = beta * (1.0 - previous) / (1.0 - abar);
        tables[DAD_ALPHAS_CUMPROD * T + t] = abar;
        tables[DAD_SQRT_ALPHAS_CUMPROD * T + t] = sqrt(abar);
        tables[DAD_SQRT_ONE_MINUS_ALPHAS_CUMPROD * T + t] = sqrt(1.0 - abar);
        tables[DAD_SQRT_RECIP_ALPHAS_CUMPROD * T + t] = sqrt(1.0 / abar);
        tables[DAD_SQRT_RECIPM1_ALPHAS_CUMPROD * T + t] = sqrt(1.0 / abar - 1.0);
        tables[DAD_POSTERIOR_VARIANCE * T + t] = variance;
        tables[DAD_POSTERIOR_LOG_VARIANCE * T + t] = log(variance);
        tables[DAD_POSTERIOR_MEAN_COEF1 * T + t] = beta * sqrt(previous) / (1.0 - abar);
        tables[DAD_POSTERIOR_MEAN_COEF2 * T + t] =
            (1.0 - previous) * sqrt(alpha) / (1.0 - abar);
        previous = abar;
    }
    /* The variance is 0 at t = 0: its logarithm is clipped to the next step's. */
    tables[DAD_POSTERIOR_LOG_VARIANCE * T] = tables[DAD_POSTERIOR_LOG_VARIANCE * T + 1];
}
