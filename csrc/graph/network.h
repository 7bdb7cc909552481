/* A graph with everything it needs to run: weights, buffers, gradients, optimizer moments,
 * and the plan and arena of its last batch size and mode.
 *
 * Gradients and moments are allocated when first needed. Not safe for two threads at once:
 * the wrapper holds a lock. Images are NCHW here and NHWC inside. */
#ifndef DAD_NETWORK_H
#define DAD_NETWORK_H

#include "graph/plan.h"

typedef struct {
    dad_graph graph;
    float *weights;     /* [graph.weight_size], filters as panels */
    float *buffers;     /* [graph.buffer_size] */
    float *gradients;   /* [graph.weight_size] or NULL */
    float *moments[2];  /* Adam's m and v, or NULL */
    float *averages[2]; /* moving averages of weights and buffers, or NULL */
    dad_plan plan;
    float *arena, *scratch;
    ptrdiff_t arena_size, scratch_size; /* floats allocated */
    float *t;                           /* [N]: time steps of the forward pass */
    bool backward_possible;             /* the arena holds a training forward pass */
    uint64_t seed;                      /* of dropout, in the current pass */
} dad_network;

/* Takes the graph over, even on failure. Weights are zero. */
DAD_MUST_CHECK dad_status dad_network_init(dad_network *network, dad_graph *graph);
void dad_network_free(dad_network *network);

/* y [N, O, H', W'] from x [N, C, H, W]; t [N] or NULL for a network without time. */
DAD_MUST_CHECK dad_status dad_network_forward(dad_network *network, float *y,
                                              const float *x, const float *t,
                                              const dad_plan_options *options,
                                              uint64_t seed);

/* After a training forward pass: gradients += ..., and dx [N, C, H, W] unless NULL (it
 * needs options.input_gradient). Once per forward pass. */
DAD_MUST_CHECK dad_status dad_network_backward(dad_network *network, float *dx,
                                               const float *dy);

DAD_MUST_CHECK dad_status dad_network_need_gradients(dad_network *network);
DAD_MUST_CHECK dad_status dad_network_need_moments(dad_network *network);

/* The averages begin as copies of weights and buffers. */
DAD_MUST_CHECK dad_status dad_network_need_averages(dad_network *network);
void dad_network_average(dad_network *network, double decay); /* needs them */
void dad_network_swap_averages(dad_network *network);         /* needs them */

void dad_network_zero_gradients(dad_network *network);

/* Floats of arena and scratch that a pass will take on images of H x W. */
DAD_MUST_CHECK dad_status dad_network_memory(dad_network *network, ptrdiff_t *arena,
                                             ptrdiff_t *scratch, ptrdiff_t H, ptrdiff_t W,
                                             const dad_plan_options *options);

/* For images of another size from now on; see dad_graph_resize. */
DAD_MUST_CHECK dad_status dad_network_resize(dad_network *network, ptrdiff_t H,
                                             ptrdiff_t W);

/* Frees arena and scratch; they come back when needed. */
void dad_network_trim(dad_network *network);

#endif
