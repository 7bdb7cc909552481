/* The order of work for one batch size and mode, and a place in one arena for every tensor.
 *
 * A plan is a list of steps: first the forward steps, then (training) the backward ones,
 * among which what was not kept runs forward once more. Each step names the tensors it
 * reads and writes; a tensor lives from the first to the last step that names it, and
 * tensors that never live at the same time share memory. The caller writes the input before
 * the first step, reads the output and writes its gradient between forward and backward,
 * and reads the input's gradient at the end. */
#ifndef DAD_PLAN_H
#define DAD_PLAN_H

#include "graph/fuse.h"

/* How evaluation rounds in convolutions. */
typedef enum {
    DAD_PRECISE,
    DAD_FAST,     /* F(6x6) on large maps: several times the rounding error */
    DAD_BFLOAT16, /* operands of products in bfloat16: see dad_conv2d_shape */
} dad_precision;

typedef struct {
    ptrdiff_t N;
    bool training;    /* plan the backward pass too */
    double recompute; /* above 0: values that are cheap to make are made again when they are
                         needed, and this share of the segments, those of the largest maps
                         first, keeps only what it hands to others */
    bool input_gradient;     /* the gradient with respect to the image is wanted */
    dad_precision precision; /* of evaluation */
} dad_plan_options;

/* A tensor is an index into plan->tensors, or DAD_NONE. */
typedef struct {
    ptrdiff_t size;   /* floats */
    int first, last;  /* moments at which it is first written and last read */
    ptrdiff_t offset; /* into the arena */
} dad_tensor;

/* See fuse.h. */
typedef struct {
    int x2;       /* the second part of the input, whose first is x[0], or DAD_NONE */
    ptrdiff_t C1; /* channels of the first part */
    bool half[DAD_MAX_INPUTS]; /* x[i] is the map before an upsampling */
    dad_value norm;            /* the BatchNorm that a convolution does, or DAD_NONE */
    bool deferred;             /* of a GroupNorm: y is its scale and shift ... */
    int coefficients;          /* ... and theirs, of a convolution that applies it */
    int moments[2]; /* of a GroupNorm's parts, where their convolutions give them ... */
    ptrdiff_t slices[2]; /* ... and into how many slices of an image cut */
} dad_fused;

typedef struct {
    int node;
    bool backward;
    bool again;              /* a forward step run for the second time */
    int x[DAD_MAX_INPUTS];   /* values of the node's inputs (where needed) */
    int y;                   /* the node's value (where needed) */
    int aux;                 /* what the forward pass saves or gives beside the value */
    dad_fused fused;         /* evaluation: what the step does besides */
    int dy;                  /* backward: the gradient of the value ... */
    int dx[DAD_MAX_INPUTS];  /* ... and of the inputs; DAD_NONE: not wanted */
    int sum[DAD_MAX_INPUTS]; /* where to add dx afterwards (a value used more than once) */
} dad_step;

typedef struct {
    dad_plan_options options;
    dad_step *steps;
    int count, forward_count, capacity;
    dad_tensor *tensors;
    int tensor_count, tensor_capacity;
    ptrdiff_t arena_size; /* floats */
    int input, output, output_gradient, input_gradient;
} dad_plan;

DAD_MUST_CHECK dad_status dad_plan_build(dad_plan *plan, const dad_graph *graph,
                                         const dad_plan_options *options);
void dad_plan_free(dad_plan *plan);

#endif
