/* A network as a static graph: nodes with shapes, parameters with names.
 *
 *   graph.h, graph.c   the nodes and the builder (this file)
 *   plan.h, plan.c     the order of work and a place in one arena for every tensor
 *   ops.h, ops.c       what each kind of node does: forward, backward, scratch
 *   network.h, .c      a graph with weights, gradients and buffers: what the wrappers hold
 *
 * A node makes one value and is named by its index; its shape [C, H, W] is that of one
 * image, the batch size comes in with the plan. Builders add a node after their inputs, so
 * the order of the nodes is an order of evaluation. After a failure (no memory, a shape
 * that cannot be) every builder returns DAD_NONE and graph->status says why: callers check
 * once, at the end. */
#ifndef DAD_GRAPH_H
#define DAD_GRAPH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "kernels/kernels.h"

typedef int dad_value;
enum { DAD_NONE = -1, DAD_MAX_INPUTS = 3, DAD_MAX_PARAMETERS = 4, DAD_NAME_SIZE = 80 };
enum { DAD_GROUPS = 32 }; /* of every GroupNorm */

typedef enum {
    DAD_OP_INPUT,
    DAD_OP_TIME_EMBEDDING,
    DAD_OP_LINEAR,
    DAD_OP_CONV2D,
    DAD_OP_GROUP_NORM,
    DAD_OP_BATCH_NORM,
    DAD_OP_ATTENTION,
    DAD_OP_SILU,
    DAD_OP_SIGMOID,
    DAD_OP_UPSAMPLE_NEAREST,
    DAD_OP_UPSAMPLE_BILINEAR,
    DAD_OP_SPACE_TO_DEPTH,
    DAD_OP_DEPTH_TO_SPACE,
    DAD_OP_AVG_POOL,
    DAD_OP_MAX_POOL,
    DAD_OP_CONCAT,
    DAD_OP_DROPOUT,
    DAD_OPS
} dad_op;

/* A parameter lies at `offset` of the weights (trainable) or of the buffers (running
 * statistics). */
typedef struct {
    char name[DAD_NAME_SIZE];
    int dimensions;
    ptrdiff_t shape[4];
    ptrdiff_t size, offset;
    bool trainable, filter; /* a filter lies there as panels: see kernels.h */
} dad_parameter;

/* Floats that it takes where it lies; and its copy from and to PyTorch's layout. */
ptrdiff_t dad_parameter_floats(const dad_parameter *parameter);
void dad_parameter_write(float *place, const float *values, const dad_parameter *parameter);
void dad_parameter_read(float *values, const float *place, const dad_parameter *parameter);

typedef struct {
    dad_op op;
    dad_value in[DAD_MAX_INPUTS];      /* DAD_NONE where unused */
    ptrdiff_t C, H, W;                 /* of the value, per image */
    int parameter[DAD_MAX_PARAMETERS]; /* weight, bias, running mean, running variance */
    int segment;                       /* unit of recomputation */
    ptrdiff_t kernel, stride;          /* convolution */
    ptrdiff_t block;                   /* space to depth and back */
    ptrdiff_t heads;                   /* attention */
    dad_activation activation;         /* normalisation */
    float dropout;
} dad_node;

typedef struct {
    dad_node *nodes;
    int count, capacity;
    dad_parameter *parameters;
    int parameter_count, parameter_capacity;
    ptrdiff_t weight_size, buffer_size; /* floats */
    dad_value output;
    int segments;
    dad_status status;
} dad_graph;

void dad_graph_init(dad_graph *graph);
void dad_graph_free(dad_graph *graph);

/* Writes a name as printf does; one that is too long fails the graph. Returns `name`. */
const char *dad_graph_name(dad_graph *graph, char name[DAD_NAME_SIZE], const char *format,
                           ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

/* From here on, nodes belong to a new unit of recomputation. */
void dad_graph_new_segment(dad_graph *graph);

/* The image; and the embedding [dim] of the image's time step. */
dad_value dad_graph_input(dad_graph *graph, ptrdiff_t C, ptrdiff_t H, ptrdiff_t W);
dad_value dad_graph_time_embedding(dad_graph *graph, ptrdiff_t dim);

/* `name` is the prefix of the parameters' names: name.weight, name.bias, ... */
dad_value dad_graph_linear(dad_graph *graph, dad_value x, ptrdiff_t O, const char *name);

typedef struct {
    ptrdiff_t channels, kernel,
        stride;           /* output channels; kernel 1 or 3, padded by kernel / 2 */
    bool one_dimensional; /* the weight's shape is [O, C, 1] */
    dad_value image_bias; /* [O] per image, or DAD_NONE */
    dad_value residual;   /* of the output's shape, or DAD_NONE */
} dad_conv_options;

dad_value dad_graph_conv2d(dad_graph *graph, dad_value x, const dad_conv_options *options,
                           const char *name);
dad_value dad_graph_group_norm(dad_graph *graph, dad_value x, dad_activation activation,
                               const char *name);
dad_value dad_graph_batch_norm(dad_graph *graph, dad_value x, dad_activation activation,
                               const char *name);
dad_value dad_graph_attention(dad_graph *graph, dad_value qkv, ptrdiff_t heads);
dad_value dad_graph_dropout(dad_graph *graph, dad_value x, float p);
/* Each block x block of pixels as one pixel of block^2 times the channels, and back. */
dad_value dad_graph_space_to_depth(dad_graph *graph, dad_value x, ptrdiff_t block);
dad_value dad_graph_depth_to_space(dad_graph *graph, dad_value x, ptrdiff_t block);
dad_value dad_graph_concat(dad_graph *graph, dad_value a, dad_value b);

/* Ops of one input and no parameters: activations, pooling, upsampling. */
dad_value dad_graph_unary(dad_graph *graph, dad_op op, dad_value x);

/* The same network for images of another size: parameters do not depend on it. On failure
 * (maps to be joined that would differ in size) the graph stays as it was. */
DAD_MUST_CHECK dad_status dad_graph_resize(dad_graph *graph, ptrdiff_t H, ptrdiff_t W);

#endif
