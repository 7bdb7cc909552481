/* What each kind of node does, as a table: the planner and the runner know nothing else of
 * them. */
#ifndef DAD_OPS_H
#define DAD_OPS_H

#include <stdint.h>

#include "graph/plan.h"

/* A node about to run: its shapes and every pointer that it may need (NULL where not). */
typedef struct {
    const dad_node *node;
    const dad_node *input[DAD_MAX_INPUTS];
    ptrdiff_t N;
    const float *x[DAD_MAX_INPUTS];
    const dad_fused *fused;
    const float *x2, *coefficients; /* these as fused says ... */
    const float *moments[2];        /* ... */
    const float *norm_weight, *norm_bias, *norm_mean, *norm_var; /* of a BatchNorm */
    dad_activation norm_activation;
    float *y, *aux;
    const float *dy;
    float *dx[DAD_MAX_INPUTS];
    const float *weight, *bias; /* the node's parameters ... */
    float *dweight, *dbias;     /* ... and their gradients */
    float *running_mean, *running_var;
    const float *t; /* [N] time steps */
    float *scratch;
    uint64_t seed; /* of dropout */
    dad_precision precision;
    bool training, again;
} dad_task;

typedef struct {
    bool backward_reads_x, backward_reads_y;
    bool cheap; /* to make again: little more than a copy */
    ptrdiff_t (*aux_size)(const dad_node *node);               /* floats per image */
    ptrdiff_t (*scratch)(const dad_task *task, bool backward); /* floats */
    void (*forward)(const dad_task *task);
    void (*backward)(const dad_task *task);
} dad_op_kind;

const dad_op_kind *dad_op_of(const dad_node *node);

/* The sums of its value that a convolution can give: how many slices per image, 0 where it
 * gives none. doubled: its input is an upsampling that was never made. */
ptrdiff_t dad_op_moment_slices(const dad_node *node, const dad_node *input,
                               dad_precision precision, bool doubled);

#endif
