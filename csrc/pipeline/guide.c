/* Norm-guided one-step denoising (paper, section 3.3), fused: every element is read once.
 *
 *   x0_b       = clip(predict_x0(x_b, t_b, e_b))     coarse, no anomalies
 *   x_s_from_b = q_sample(x0_b, t_s, e_s)            re-noised with the prediction
 *   eps_hat    = e_s - sqrt(1 - abar_s) w (x_s_from_b - x_s)
 *   x0_hat     = clip(predict_x0(x_s, t_s, eps_hat)) the reconstruction
 *   x0_s       = clip(predict_x0(x_s, t_s, e_s))     without guidance
 *
 * The backward pass recomputes the forward values: cheaper than keeping them, and the same
 * expressions decide on which side of a clip an element lies.
 * Any layout. The caller owns every buffer; threads share out blocks of an image. */
#include "base/threads.h"
#include "pipeline/pipeline.h"
#include "pipeline/scale.h"

typedef struct {
    dad_scale s, b;
    float push; /* sqrt(1 - abar_s) w */
} guidance;

typedef struct {
    float coarse; /* x0_b before its clip */
    float x0_b, x_s_from_b, eps_hat;
    float x0_hat; /* before its clip */
} guided;

static inline guidance guidance_at(const dad_guide_inputs *in, ptrdiff_t image) {
    guidance g = {dad_scale_at(in->abar_s[image]), dad_scale_at(in->abar_b[image]), 0.0f};
    g.push = g.s.noise * in->w;
    return g;
}

static inline guided guide_one(guidance g, float x_s, float x_b, float e_s, float e_b) {
    guided v;
    v.coarse = dad_denoised(g.b, x_b, e_b);
    v.x0_b = dad_clip(v.coarse);
    v.x_s_from_b = dad_noised(g.s, v.x0_b, e_s);
    v.eps_hat = e_s - g.push * (v.x_s_from_b - x_s);
    v.x0_hat = dad_denoised(g.s, x_s, v.eps_hat);
    return v;
}

static void guide_block(const dad_guide_outputs *out, const dad_guide_inputs *in,
                        dad_block block) {
    guidance g = guidance_at(in, block.image);
    for (ptrdiff_t j = block.begin; j < block.end; j++) {
        guided v = guide_one(g, in->x_s[j], in->x_b[j], in->e_s[j], in->e_b[j]);
        if (out->eps_hat != NULL) {
            out->eps_hat[j] = v.eps_hat;
        }
        if (out->x0_hat != NULL) {
            out->x0_hat[j] = dad_clip(v.x0_hat);
        }
        if (out->x0_b != NULL) {
            out->x0_b[j] = v.x0_b;
        }
        if (out->x_s_from_b != NULL) {
            out->x_s_from_b[j] = v.x_s_from_b;
        }
        if (out->x0_s != NULL) {
            out->x0_s[j] = dad_clip(dad_denoised(g.s, in->x_s[j], in->e_s[j]));
        }
    }
}

void dad_guide_forward(const dad_guide_outputs *out, const dad_guide_inputs *in,
                       ptrdiff_t N, ptrdiff_t size) {
    ptrdiff_t blocks = dad_block_count(N, size);
#pragma omp parallel for num_threads(dad_num_threads()) if (N * size >= DAD_PARALLEL_FROM)
    for (ptrdiff_t i = 0; i < blocks; i++) {
        guide_block(out, in, dad_block_at(i, size));
    }
}

/* torch.clamp passes the gradient where -1 <= v <= 1, ends included. */
static inline float through_clip(float gradient, float v) {
    return v >= -1.0f && v <= 1.0f ? gradient : 0.0f;
}

void dad_guide_backward(float *de_s, float *de_b, const float *dx0_hat,
                        const dad_guide_inputs *in, ptrdiff_t N, ptrdiff_t size) {
    ptrdiff_t blocks = dad_block_count(N, size);
#pragma omp parallel for num_threads(dad_num_threads()) if (N * size >= DAD_PARALLEL_FROM)
    for (ptrdiff_t i = 0; i < blocks; i++) {
        dad_block block = dad_block_at(i, size);
        guidance g = guidance_at(in, block.image);
        for (ptrdiff_t j = block.begin; j < block.end; j++) {
            guided v = guide_one(g, in->x_s[j], in->x_b[j], in->e_s[j], in->e_b[j]);
            float d_eps_hat = -g.s.inverse_noise * through_clip(dx0_hat[j], v.x0_hat);
            float d_from_b = -g.push * d_eps_hat;
            float d_coarse = through_clip(g.s.signal * d_from_b, v.coarse);
            de_s[j] = d_eps_hat + g.s.noise * d_from_b;
            de_b[j] = -g.b.inverse_noise * d_coarse;
        }
    }
}
