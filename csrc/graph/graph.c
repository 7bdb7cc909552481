/* The graph's builder: appends nodes and parameters, checks shapes. Owns both arrays. */
#include "graph/graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { ALIGNMENT = 16 }; /* parameters start on cache lines */

void dad_graph_init(dad_graph *graph) {
    memset(graph, 0, sizeof(*graph));
    graph->output = DAD_NONE;
}

void dad_graph_free(dad_graph *graph) {
    free(graph->nodes);
    free(graph->parameters);
    dad_graph_init(graph);
}

void dad_graph_new_segment(dad_graph *graph) { graph->segments++; }

static dad_value fail(dad_graph *graph, dad_status status) {
    if (graph->status == DAD_OK) {
        graph->status = status;
    }
    return DAD_NONE;
}

const char *dad_graph_name(dad_graph *graph, char name[DAD_NAME_SIZE], const char *format,
                           ...) {
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(name, DAD_NAME_SIZE, format, arguments) >= DAD_NAME_SIZE) {
        fail(graph, DAD_BAD_SHAPE);
    }
    va_end(arguments);
    return name;
}

/* A new node of the given shape; its other fields are zero or DAD_NONE. */
static dad_node *add_node(dad_graph *graph, dad_op op, dad_value x, ptrdiff_t C,
                          ptrdiff_t H, ptrdiff_t W) {
    ptrdiff_t size;
    const ptrdiff_t shape[3] = {C, H, W};
    if (graph->status != DAD_OK) {
        return NULL;
    }
    if (C < 1 || H < 1 || W < 1 || !dad_checked_product(&size, 3, shape)) {
        fail(graph, DAD_BAD_SHAPE);
        return NULL;
    }
    dad_node *nodes =
        dad_grow(graph->nodes, &graph->capacity, graph->count, sizeof(*nodes));
    if (nodes == NULL) {
        fail(graph, DAD_NO_MEMORY);
        return NULL;
    }
    graph->nodes = nodes;
    dad_node *node = &nodes[graph->count++];
    *node = (dad_node){.op = op, .C = C, .H = H, .W = W, .segment = graph->segments};
    for (int i = 0; i < DAD_MAX_INPUTS; i++) {
        node->in[i] = DAD_NONE;
    }
    for (int i = 0; i < DAD_MAX_PARAMETERS; i++) {
        node->parameter[i] = DAD_NONE;
    }
    node->in[0] = x;
    return node;
}

static dad_value last(const dad_graph *graph) { return graph->count - 1; }

static bool valid(dad_graph *graph, dad_value x) {
    if (graph->status == DAD_OK && (x < 0 || x >= graph->count)) {
        fail(graph, DAD_BAD_SHAPE);
    }
    return graph->status == DAD_OK;
}

/* Taps of a filter [O, C, taps ...]. */
static ptrdiff_t taps_of(const dad_parameter *p) {
    return p->size / (p->shape[0] * p->shape[1]);
}

ptrdiff_t dad_parameter_floats(const dad_parameter *p) {
    return p->filter ? dad_filter_size(p->shape[0], p->shape[1], taps_of(p)) : p->size;
}

void dad_parameter_write(float *place, const float *values, const dad_parameter *p) {
    if (p->filter) {
        dad_filter_to_panels(place, values, p->shape[0], p->shape[1], taps_of(p));
    } else {
        memcpy(place, values, (size_t)p->size * sizeof(float));
    }
}

void dad_parameter_read(float *values, const float *place, const dad_parameter *p) {
    if (p->filter) {
        dad_filter_from_panels(values, place, p->shape[0], p->shape[1], taps_of(p));
    } else {
        memcpy(values, place, (size_t)p->size * sizeof(float));
    }
}

typedef enum { BUFFER, WEIGHT, FILTER } parameter_kind;

static int add_parameter(dad_graph *graph, const char *prefix, const char *suffix,
                         parameter_kind kind, int dimensions, const ptrdiff_t *shape) {
    if (graph->status != DAD_OK) {
        return DAD_NONE;
    }
    dad_parameter *items = dad_grow(graph->parameters, &graph->parameter_capacity,
                                    graph->parameter_count, sizeof(*items));
    if (items == NULL) {
        return fail(graph, DAD_NO_MEMORY);
    }
    graph->parameters = items;
    dad_parameter *p = &items[graph->parameter_count];
    *p = (dad_parameter){
        .dimensions = dimensions, .trainable = kind != BUFFER, .filter = kind == FILTER};
    dad_graph_name(graph, p->name, "%s.%s", prefix, suffix);
    memcpy(p->shape, shape, (size_t)dimensions * sizeof(*shape));
    if (!dad_checked_product(&p->size, dimensions, shape)) {
        return fail(graph, DAD_BAD_SHAPE);
    }
    ptrdiff_t *end = p->trainable ? &graph->weight_size : &graph->buffer_size;
    p->offset = *end;
    *end += dad_round_up(dad_parameter_floats(p), ALIGNMENT);
    return graph->parameter_count++;
}

static int add_vector(dad_graph *graph, const char *prefix, const char *suffix,
                      parameter_kind kind, ptrdiff_t size) {
    return add_parameter(graph, prefix, suffix, kind, 1, &size);
}

dad_value dad_graph_input(dad_graph *graph, ptrdiff_t C, ptrdiff_t H, ptrdiff_t W) {
    return add_node(graph, DAD_OP_INPUT, DAD_NONE, C, H, W) != NULL ? last(graph)
                                                                    : DAD_NONE;
}

dad_value dad_graph_time_embedding(dad_graph *graph, ptrdiff_t dim) {
    if (dim % 2 != 0) {
        return fail(graph, DAD_BAD_SHAPE);
    }
    dad_node *node = add_node(graph, DAD_OP_TIME_EMBEDDING, DAD_NONE, dim, 1, 1);
    return node != NULL ? last(graph) : DAD_NONE;
}

dad_value dad_graph_linear(dad_graph *graph, dad_value x, ptrdiff_t O, const char *name) {
    if (!valid(graph, x)) {
        return DAD_NONE;
    }
    const ptrdiff_t shape[2] = {O, graph->nodes[x].C};
    dad_node *node = add_node(graph, DAD_OP_LINEAR, x, O, 1, 1);
    if (node == NULL) {
        return DAD_NONE;
    }
    node->parameter[0] = add_parameter(graph, name, "weight", WEIGHT, 2, shape);
    node->parameter[1] = add_vector(graph, name, "bias", WEIGHT, O);
    return last(graph);
}

static bool same_shape(const dad_graph *graph, dad_value v, ptrdiff_t C, ptrdiff_t H,
                       ptrdiff_t W) {
    const dad_node *node = &graph->nodes[v];
    return node->C == C && node->H == H && node->W == W;
}

dad_value dad_graph_conv2d(dad_graph *graph, dad_value x, const dad_conv_options *options,
                           const char *name) {
    if (!valid(graph, x)) {
        return DAD_NONE;
    }
    const dad_node *input = &graph->nodes[x];
    ptrdiff_t K = options->kernel, O = options->channels, C = input->C;
    ptrdiff_t H = dad_conv2d_out(input->H, K, options->stride, K / 2);
    ptrdiff_t W = dad_conv2d_out(input->W, K, options->stride, K / 2);
    dad_value bias = options->image_bias, residual = options->residual;
    if ((bias != DAD_NONE && !same_shape(graph, bias, O, 1, 1)) ||
        (residual != DAD_NONE && !same_shape(graph, residual, O, H, W))) {
        return fail(graph, DAD_BAD_SHAPE);
    }
    dad_node *node = add_node(graph, DAD_OP_CONV2D, x, O, H, W);
    if (node == NULL) {
        return DAD_NONE;
    }
    node->in[1] = bias;
    node->in[2] = residual;
    node->kernel = K;
    node->stride = options->stride;
    const ptrdiff_t shape[4] = {O, C, K, K};
    int dimensions = options->one_dimensional ? 3 : 4;
    node->parameter[0] = add_parameter(graph, name, "weight", FILTER, dimensions, shape);
    node->parameter[1] = add_vector(graph, name, "bias", WEIGHT, O);
    return last(graph);
}

static dad_node *add_norm(dad_graph *graph, dad_op op, dad_value x,
                          dad_activation activation, const char *name) {
    if (!valid(graph, x)) {
        return NULL;
    }
    const dad_node *input = &graph->nodes[x];
    dad_node *node = add_node(graph, op, x, input->C, input->H, input->W);
    if (node != NULL) {
        node->activation = activation;
        node->parameter[0] = add_vector(graph, name, "weight", WEIGHT, node->C);
        node->parameter[1] = add_vector(graph, name, "bias", WEIGHT, node->C);
    }
    return node;
}

dad_value dad_graph_group_norm(dad_graph *graph, dad_value x, dad_activation activation,
                               const char *name) {
    if (valid(graph, x) && graph->nodes[x].C % DAD_GROUPS != 0) {
        return fail(graph, DAD_BAD_SHAPE);
    }
    dad_node *node = add_norm(graph, DAD_OP_GROUP_NORM, x, activation, name);
    return node != NULL ? last(graph) : DAD_NONE;
}

dad_value dad_graph_batch_norm(dad_graph *graph, dad_value x, dad_activation activation,
                               const char *name) {
    dad_node *node = add_norm(graph, DAD_OP_BATCH_NORM, x, activation, name);
    if (node == NULL) {
        return DAD_NONE;
    }
    node->parameter[2] = add_vector(graph, name, "running_mean", BUFFER, node->C);
    node->parameter[3] = add_vector(graph, name, "running_var", BUFFER, node->C);
    return last(graph);
}

dad_value dad_graph_attention(dad_graph *graph, dad_value qkv, ptrdiff_t heads) {
    if (!valid(graph, qkv)) {
        return DAD_NONE;
    }
    const dad_node *input = &graph->nodes[qkv];
    if (heads < 1 || heads > input->C / 3 || input->C % (3 * heads) != 0) {
        return fail(graph, DAD_BAD_SHAPE);
    }
    dad_node *node =
        add_node(graph, DAD_OP_ATTENTION, qkv, input->C / 3, input->H, input->W);
    if (node == NULL) {
        return DAD_NONE;
    }
    node->heads = heads;
    return last(graph);
}

dad_value dad_graph_dropout(dad_graph *graph, dad_value x, float p) {
    if (p == 0.0f) {
        return x;
    }
    dad_value value = dad_graph_unary(graph, DAD_OP_DROPOUT, x);
    if (value != DAD_NONE) {
        graph->nodes[value].dropout = p;
    }
    return value;
}

dad_value dad_graph_concat(dad_graph *graph, dad_value a, dad_value b) {
    if (!valid(graph, a) || !valid(graph, b)) {
        return DAD_NONE;
    }
    const dad_node *left = &graph->nodes[a], *right = &graph->nodes[b];
    if (left->H != right->H || left->W != right->W) {
        return fail(graph, DAD_BAD_SHAPE);
    }
    dad_node *node =
        add_node(graph, DAD_OP_CONCAT, a, left->C + right->C, left->H, left->W);
    if (node == NULL) {
        return DAD_NONE;
    }
    node->in[1] = b;
    return last(graph);
}

/* The size of a map of `size` after an op. */
static ptrdiff_t resampled(dad_op op, ptrdiff_t size) {
    if (op == DAD_OP_UPSAMPLE_NEAREST || op == DAD_OP_UPSAMPLE_BILINEAR) {
        return 2 * size;
    }
    return op == DAD_OP_AVG_POOL || op == DAD_OP_MAX_POOL ? size / 2 : size;
}

dad_value dad_graph_unary(dad_graph *graph, dad_op op, dad_value x) {
    if (!valid(graph, x)) {
        return DAD_NONE;
    }
    const dad_node *input = &graph->nodes[x];
    dad_node *node =
        add_node(graph, op, x, input->C, resampled(op, input->H), resampled(op, input->W));
    return node != NULL ? last(graph) : DAD_NONE;
}

dad_value dad_graph_space_to_depth(dad_graph *graph, dad_value x, ptrdiff_t block) {
    if (block == 1 || !valid(graph, x)) {
        return x;
    }
    const dad_node *input = &graph->nodes[x];
    if (block < 1 || input->H % block != 0 || input->W % block != 0) {
        return fail(graph, DAD_BAD_SHAPE);
    }
    dad_node *node = add_node(graph, DAD_OP_SPACE_TO_DEPTH, x, input->C * block * block,
                              input->H / block, input->W / block);
    if (node == NULL) {
        return DAD_NONE;
    }
    node->block = block;
    return last(graph);
}

dad_value dad_graph_depth_to_space(dad_graph *graph, dad_value x, ptrdiff_t block) {
    if (block == 1 || !valid(graph, x)) {
        return x;
    }
    const dad_node *input = &graph->nodes[x];
    if (block < 1 || input->C % (block * block) != 0) {
        return fail(graph, DAD_BAD_SHAPE);
    }
    dad_node *node = add_node(graph, DAD_OP_DEPTH_TO_SPACE, x, input->C / (block * block),
                              input->H * block, input->W * block);
    if (node == NULL) {
        return DAD_NONE;
    }
    node->block = block;
    return last(graph);
}

static bool same_size(const dad_node *a, const dad_node *b) {
    return a->H == b->H && a->W == b->W;
}

/* Sizes from the inputs to the output; false where two maps do not fit. */
static bool propagate(dad_graph *graph, ptrdiff_t H, ptrdiff_t W) {
    for (int i = 0; i < graph->count; i++) {
        dad_node *node = &graph->nodes[i];
        const dad_node *input = node->in[0] != DAD_NONE ? &graph->nodes[node->in[0]] : NULL;
        if (node->op == DAD_OP_INPUT) {
            node->H = H;
            node->W = W;
        } else if (node->op == DAD_OP_CONV2D) {
            node->H =
                dad_conv2d_out(input->H, node->kernel, node->stride, node->kernel / 2);
            node->W =
                dad_conv2d_out(input->W, node->kernel, node->stride, node->kernel / 2);
        } else if (node->op == DAD_OP_SPACE_TO_DEPTH) {
            if (input->H % node->block != 0 || input->W % node->block != 0) {
                return false;
            }
            node->H = input->H / node->block;
            node->W = input->W / node->block;
        } else if (node->op == DAD_OP_DEPTH_TO_SPACE) {
            node->H = input->H * node->block;
            node->W = input->W * node->block;
        } else if (input != NULL) {
            node->H = resampled(node->op, input->H);
            node->W = resampled(node->op, input->W);
        }
        dad_value other = node->op == DAD_OP_CONV2D ? node->in[2] : node->in[1];
        const ptrdiff_t factors[3] = {node->C, node->H, node->W};
        ptrdiff_t size;
        if (node->H < 1 || node->W < 1 || !dad_checked_product(&size, 3, factors) ||
            (other != DAD_NONE && !same_size(node, &graph->nodes[other]))) {
            return false;
        }
    }
    return true;
}

dad_status dad_graph_resize(dad_graph *graph, ptrdiff_t H, ptrdiff_t W) {
    ptrdiff_t old_H = H, old_W = W;
    for (int i = 0; i < graph->count; i++) {
        if (graph->nodes[i].op == DAD_OP_INPUT) {
            old_H = graph->nodes[i].H;
            old_W = graph->nodes[i].W;
        }
    }
    if (propagate(graph, H, W)) {
        return DAD_OK;
    }
    (void)propagate(graph, old_H, old_W);
    return DAD_BAD_SHAPE;
}
