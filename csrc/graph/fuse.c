/* Looks at every value's readers and decides what can be left out. Quadratic in the number
 * of nodes, of which there are some hundreds. */
#include "graph/fuse.h"

static bool is_3x3(const dad_node *node) {
    return node->op == DAD_OP_CONV2D && node->kernel == 3 && node->stride == 1;
}

static bool is_pointwise(const dad_node *node) {
    return node->op == DAD_OP_CONV2D && node->kernel == 1 && node->stride == 1;
}

/* Whether a node can do with something else as its input i. */
typedef bool reads(const dad_graph *graph, dad_value reader, int i);

/* Whether every reader of a value can; the caller of the network reads its output. */
static bool all_read(const dad_graph *graph, dad_value value, reads *can) {
    for (int r = 0; r < graph->count; r++) {
        for (int i = 0; i < DAD_MAX_INPUTS; i++) {
            if (graph->nodes[r].in[i] == value && !can(graph, r, i)) {
                return false;
            }
        }
    }
    return value != graph->output;
}

/* With the parts of a concatenation. */
static bool reads_parts(const dad_graph *graph, dad_value reader, int i) {
    const dad_node *node = &graph->nodes[reader];
    return i == 0 && (is_3x3(node) || is_pointwise(node) || node->op == DAD_OP_GROUP_NORM);
}

/* With the map before an upsampling. */
static bool reads_half(const dad_graph *graph, dad_value reader, int i) {
    return i != 1 && is_3x3(&graph->nodes[reader]);
}

/* With the map before a GroupNorm, which it applies; an upsampling between them may hand
 * that on. */
static bool normalizes(const dad_graph *graph, dad_value reader, int i) {
    const dad_node *node = &graph->nodes[reader];
    return (i == 0 && is_3x3(node)) ||
           (node->op == DAD_OP_UPSAMPLE_NEAREST && all_read(graph, reader, normalizes));
}

static int count_readers(const dad_graph *graph, dad_value value) {
    int count = value == graph->output;
    for (int r = 0; r < graph->count; r++) {
        for (int i = 0; i < DAD_MAX_INPUTS; i++) {
            count += graph->nodes[r].in[i] == value;
        }
    }
    return count;
}

static bool leave_out(const dad_graph *graph, const dad_fusion *fusions, int index) {
    const dad_node *node = &graph->nodes[index];
    switch (node->op) {
    case DAD_OP_CONCAT: /* not nested: a reader knows two parts */
        return graph->nodes[node->in[0]].C % DAD_PANEL == 0 &&
               !fusions[node->in[0]].absent && !fusions[node->in[1]].absent &&
               all_read(graph, index, reads_parts);
    case DAD_OP_UPSAMPLE_NEAREST:
        return !fusions[node->in[0]].absent && all_read(graph, index, reads_half);
    default:
        return false;
    }
}

/* The convolution before a BatchNorm, if that can do it. */
static dad_value folding(const dad_graph *graph, int index) {
    const dad_node *node = &graph->nodes[index];
    const dad_value conv = node->in[0];
    return node->op == DAD_OP_BATCH_NORM && graph->nodes[conv].op == DAD_OP_CONV2D &&
                   graph->nodes[conv].in[2] == DAD_NONE && count_readers(graph, conv) == 1
               ? conv
               : DAD_NONE;
}

/* A GroupNorm wants the sums of the values that it reads, its input or its parts. */
static void want_moments(dad_fusion *fusions, const dad_graph *graph, dad_value value) {
    const dad_node *node = &graph->nodes[value];
    if (node->op == DAD_OP_CONCAT && fusions[value].absent) {
        want_moments(fusions, graph, node->in[0]);
        want_moments(fusions, graph, node->in[1]);
    } else if (is_3x3(node)) {
        fusions[value].moments = true;
    }
}

void dad_fuse(dad_fusion *fusions, const dad_graph *graph) {
    for (int i = 0; i < graph->count; i++) {
        fusions[i] = (dad_fusion){.norm = DAD_NONE};
        const dad_value conv = folding(graph, i);
        if (conv != DAD_NONE) {
            fusions[conv].norm = i;
        }
        fusions[i].absent = conv != DAD_NONE || leave_out(graph, fusions, i);
        fusions[i].deferred = graph->nodes[i].op == DAD_OP_GROUP_NORM &&
                              graph->nodes[i].activation == DAD_SILU &&
                              all_read(graph, i, normalizes);
    }
    for (int i = 0; i < graph->count; i++) {
        if (graph->nodes[i].op == DAD_OP_GROUP_NORM) {
            want_moments(fusions, graph, graph->nodes[i].in[0]);
        }
    }
}
