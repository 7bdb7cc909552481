/* Builds a plan: walks the graph forward, then backward, noting which tensors each step
 * touches; then places the tensors, largest first, each in the lowest gap that is free
 * while it lives. */
#include "graph/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "graph/ops.h"

enum { PLACEMENT = 16 }; /* offsets are multiples of a cache line */

/* Of an arena, in floats: more than any memory holds, and little enough that neither what
 * kernels make of these sizes, for each thread, nor the bytes of them overflow. */
static const ptrdiff_t MOST = PTRDIFF_MAX / (16 * DAD_MOST_THREADS);

/* What is known about each node while planning. */
typedef struct {
    const dad_graph *graph;
    dad_plan *plan;
    int *value, *aux, *gradient; /* [nodes]: the current tensor of each, or DAD_NONE */
    bool *shared;                /* [nodes]: the value is read outside its segment */
    dad_fusion *fusions;         /* [nodes]: evaluation only, else NULL */
    int moment;
    dad_status status;
} planner;

/* A new tensor of `count` floats per image. */
static int new_tensor(planner *p, ptrdiff_t count) {
    dad_plan *plan = p->plan;
    dad_tensor *tensors = dad_grow(plan->tensors, &plan->tensor_capacity,
                                   plan->tensor_count, sizeof(*tensors));
    const ptrdiff_t factors[2] = {plan->options.N, count};
    ptrdiff_t size;
    if (tensors != NULL) {
        plan->tensors = tensors;
    }
    if (tensors == NULL || !dad_checked_product(&size, 2, factors) || size > MOST) {
        p->status = DAD_NO_MEMORY;
        return DAD_NONE;
    }
    tensors[plan->tensor_count] = (dad_tensor){
        .size = dad_round_up(size, PLACEMENT), .first = p->moment, .last = p->moment};
    return plan->tensor_count++;
}

static int touch(planner *p, int tensor) {
    if (tensor != DAD_NONE) {
        p->plan->tensors[tensor].last = p->moment;
    }
    return tensor;
}

static ptrdiff_t value_size(const dad_node *node) { return node->C * node->H * node->W; }

static dad_step *new_step(planner *p, int node, bool backward) {
    dad_plan *plan = p->plan;
    dad_step *steps = dad_grow(plan->steps, &plan->capacity, plan->count, sizeof(*steps));
    if (steps == NULL) {
        p->status = DAD_NO_MEMORY;
        return NULL;
    }
    plan->steps = steps;
    p->moment++;
    dad_step *step = &steps[plan->count++];
    *step = (dad_step){.node = node,
                       .backward = backward,
                       .y = DAD_NONE,
                       .aux = DAD_NONE,
                       .dy = DAD_NONE,
                       .fused = {.x2 = DAD_NONE,
                                 .norm = DAD_NONE,
                                 .coefficients = DAD_NONE,
                                 .moments = {DAD_NONE, DAD_NONE}}};
    for (int i = 0; i < DAD_MAX_INPUTS; i++) {
        step->x[i] = step->dx[i] = step->sum[i] = DAD_NONE;
    }
    return step;
}

/* What is read in place of a value that is never made. */
typedef struct {
    dad_value first, second; /* second: of a concatenation, else DAD_NONE */
    dad_value norm;          /* the GroupNorm to be applied, or DAD_NONE */
    bool half;               /* before an upsampling */
} stand_in;

static stand_in find_stand_in(const planner *p, dad_value value) {
    stand_in s = {.first = value, .second = DAD_NONE, .norm = DAD_NONE};
    if (p->fusions == NULL) {
        return s;
    }
    const dad_node *nodes = p->graph->nodes;
    if (nodes[s.first].op == DAD_OP_UPSAMPLE_NEAREST && p->fusions[s.first].absent) {
        s.half = true;
        s.first = nodes[s.first].in[0];
    }
    if (p->fusions[s.first].deferred) {
        s.norm = s.first;
        s.first = nodes[s.first].in[0];
    }
    if (nodes[s.first].op == DAD_OP_CONCAT && p->fusions[s.first].absent) {
        s.second = nodes[s.first].in[1];
        s.first = nodes[s.first].in[0];
    }
    return s;
}

static ptrdiff_t moment_slices(const planner *p, dad_value conv) {
    const dad_node *node = &p->graph->nodes[conv];
    return dad_op_moment_slices(node, &p->graph->nodes[node->in[0]],
                                p->plan->options.precision,
                                find_stand_in(p, node->in[0]).half);
}

/* The sums of a part, where its convolution gives them. */
static void plan_moments(planner *p, dad_step *step, int part, dad_value value) {
    if (value != DAD_NONE && p->fusions != NULL && p->fusions[value].moments) {
        step->fused.moments[part] = touch(p, p->aux[value]);
        step->fused.slices[part] = moment_slices(p, value);
    }
}

static void plan_input(planner *p, dad_step *step, int i, dad_value input) {
    const stand_in s = find_stand_in(p, input);
    step->x[i] = touch(p, p->value[s.first]);
    step->fused.half[i] = s.half;
    if (s.second != DAD_NONE) {
        step->fused.x2 = touch(p, p->value[s.second]);
        step->fused.C1 = p->graph->nodes[s.first].C;
    }
    if (s.norm != DAD_NONE) {
        step->fused.coefficients = touch(p, p->value[s.norm]);
    }
    if (p->graph->nodes[step->node].op == DAD_OP_GROUP_NORM) {
        plan_moments(p, step, 0, s.first);
        plan_moments(p, step, 1, s.second);
    }
}

static void plan_forward(planner *p, int index, bool again);

/* Makes a value again that has been given up. */
static void need_value(planner *p, dad_value value) {
    if (value != DAD_NONE && p->value[value] == DAD_NONE) {
        plan_forward(p, value, true);
    }
}

/* Floats per image of what a step saves for the backward pass, or gives to a GroupNorm. */
static ptrdiff_t saved_size(const planner *p, int index) {
    const dad_node *node = &p->graph->nodes[index];
    if (p->plan->options.training) {
        return dad_op_of(node)->aux_size(node);
    }
    return p->fusions[index].moments ? moment_slices(p, index) * DAD_MOMENTS * node->C : 0;
}

static void plan_forward(planner *p, int index, bool again) {
    const dad_node *node = &p->graph->nodes[index];
    if (node->op == DAD_OP_INPUT) {
        return;
    }
    for (int i = 0; again && i < DAD_MAX_INPUTS; i++) {
        need_value(p, node->in[i]);
    }
    if (p->fusions != NULL && p->fusions[index].absent) {
        p->value[index] = p->value[node->in[0]]; /* of a BatchNorm; else never asked for */
        return;
    }
    dad_step *step = new_step(p, index, false);
    if (step == NULL) {
        return;
    }
    step->again = again;
    for (int i = 0; i < DAD_MAX_INPUTS; i++) {
        if (node->in[i] != DAD_NONE) {
            plan_input(p, step, i, node->in[i]);
        }
    }
    if (p->fusions != NULL) {
        step->fused.norm = p->fusions[index].norm;
        step->fused.deferred = p->fusions[index].deferred;
    }
    p->value[index] = step->y =
        new_tensor(p, step->fused.deferred ? 2 * node->C : value_size(node));
    const ptrdiff_t saved = saved_size(p, index);
    if (again && dad_op_of(node)->cheap) {
        step->aux = touch(p, p->aux[index]); /* statistics are not made again */
    } else if (saved > 0) {
        p->aux[index] = step->aux = new_tensor(p, saved);
    }
}

/* The gradient of input i of a node: a tensor of its own, or a temporary to be added to the
 * one that an earlier step has written. */
static void plan_input_gradient(planner *p, dad_step *step, int i, dad_value input) {
    int *gradient = &p->gradient[input];
    bool passes_through = p->graph->nodes[step->node].op == DAD_OP_CONV2D && i == 2;
    if (passes_through && *gradient == DAD_NONE) {
        *gradient = step->dy; /* a residual's gradient is dy itself, free after this step */
    } else if (passes_through) {
        step->sum[i] = touch(p, *gradient);
    } else if (*gradient == DAD_NONE) {
        *gradient = step->dx[i] = new_tensor(p, value_size(&p->graph->nodes[input]));
    } else {
        step->dx[i] = new_tensor(p, value_size(&p->graph->nodes[input]));
        step->sum[i] = touch(p, *gradient);
    }
}

static bool gradient_wanted(const planner *p, dad_value input) {
    if (input == DAD_NONE) {
        return false;
    }
    dad_op op = p->graph->nodes[input].op;
    return op == DAD_OP_INPUT ? p->plan->options.input_gradient
                              : op != DAD_OP_TIME_EMBEDDING;
}

static bool has_backward(const planner *p, int index) {
    const dad_node *node = &p->graph->nodes[index];
    bool wanted = node->parameter[0] != DAD_NONE;
    for (int i = 0; i < DAD_MAX_INPUTS; i++) {
        wanted = wanted || gradient_wanted(p, node->in[i]);
    }
    return wanted && p->gradient[index] != DAD_NONE;
}

static void plan_backward(planner *p, int index) {
    const dad_node *node = &p->graph->nodes[index];
    if (!has_backward(p, index)) {
        return;
    }
    const dad_op_kind *kind = dad_op_of(node);
    if (kind->backward_reads_x) {
        need_value(p, node->in[0]);
    }
    if (kind->backward_reads_y) {
        need_value(p, index);
    }
    dad_step *step = new_step(p, index, true);
    if (step == NULL) {
        return;
    }
    step->dy = touch(p, p->gradient[index]);
    step->y = kind->backward_reads_y ? touch(p, p->value[index]) : DAD_NONE;
    step->aux = touch(p, p->aux[index]);
    for (int i = 0; i < DAD_MAX_INPUTS && p->status == DAD_OK; i++) {
        dad_value input = node->in[i];
        if (input == DAD_NONE) {
            continue;
        }
        if (kind->backward_reads_x && i == 0) {
            step->x[i] = touch(p, p->value[input]);
        }
        if (gradient_wanted(p, input)) {
            plan_input_gradient(p, step, i, input);
        }
    }
}

/* Values that a later segment reads, or the caller, are kept where the rest of a segment is
 * made again. */
static void find_shared(planner *p) {
    const dad_graph *graph = p->graph;
    for (int i = 0; i < graph->count; i++) {
        p->shared[i] = graph->nodes[i].op == DAD_OP_INPUT || i == graph->output;
    }
    for (int i = 0; i < graph->count; i++) {
        for (int k = 0; k < DAD_MAX_INPUTS; k++) {
            dad_value in = graph->nodes[i].in[k];
            if (in != DAD_NONE && graph->nodes[in].segment != graph->nodes[i].segment) {
                p->shared[in] = true;
            }
        }
    }
}

/* The segment that ends with node `last`: whether the backward pass runs it once more.
 * Those of the largest maps come first, which hold the most for the least work; of equal
 * ones the earlier, which wait longest. The last one's values are still there. */
static bool is_made_again(const planner *p, int last) {
    const dad_node *nodes = p->graph->nodes;
    const ptrdiff_t pixels = nodes[last].H * nodes[last].W;
    int before = 0;
    for (int i = 0; i + 1 < p->graph->count; i++) {
        if (nodes[i + 1].segment > nodes[i].segment) { /* i ends a segment */
            const ptrdiff_t others = nodes[i].H * nodes[i].W;
            before += others > pixels || (others == pixels && i < last);
        }
    }
    return last + 1 < p->graph->count &&
           before + 1 <= p->plan->options.recompute * p->graph->segments;
}

static void give_up_cheap_values(planner *p) {
    const dad_graph *graph = p->graph;
    for (int i = 0; p->plan->options.recompute > 0.0 && i < graph->count; i++) {
        if (dad_op_of(&graph->nodes[i])->cheap && i != graph->output) {
            p->value[i] = DAD_NONE;
        }
    }
}

static void plan_segment_again(planner *p, int first, int last) {
    for (int i = first; i <= last && p->status == DAD_OK; i++) {
        if (!p->shared[i] && !dad_op_of(&p->graph->nodes[i])->cheap) {
            plan_forward(p, i, true);
        }
    }
}

static void plan_training(planner *p) {
    const dad_graph *graph = p->graph;
    p->gradient[graph->output] = p->plan->output_gradient;
    give_up_cheap_values(p);
    for (int last = graph->count - 1; last >= 0 && p->status == DAD_OK;) {
        int first = last;
        while (first > 0 && graph->nodes[first - 1].segment == graph->nodes[last].segment) {
            first--;
        }
        if (is_made_again(p, last)) {
            plan_segment_again(p, first, last);
        }
        for (int i = last; i >= first && p->status == DAD_OK; i--) {
            plan_backward(p, i);
        }
        last = first - 1;
    }
}

static int by_size(const void *a, const void *b) {
    const dad_tensor *const *x = a, *const *y = b;
    if ((*x)->size != (*y)->size) {
        return (*x)->size < (*y)->size ? 1 : -1;
    }
    return *x < *y ? -1 : 1; /* the same order everywhere */
}

static int by_offset(const void *a, const void *b) {
    const dad_tensor *const *x = a, *const *y = b;
    return (*x)->offset<(*y)->offset ? -1 : (*x)->offset>(*y)->offset;
}

/* The lowest offset at which `tensor` meets none of the placed tensors that live beside it.
 * neighbours: room for `placed_count` pointers. */
static ptrdiff_t lowest_gap(const dad_tensor *tensor, dad_tensor *const *placed,
                            int placed_count, dad_tensor **neighbours) {
    int count = 0;
    for (int i = 0; i < placed_count; i++) {
        if (placed[i]->first <= tensor->last && tensor->first <= placed[i]->last) {
            neighbours[count++] = placed[i];
        }
    }
    qsort(neighbours, (size_t)count, sizeof(*neighbours), by_offset);
    ptrdiff_t offset = 0;
    for (int i = 0; i < count && neighbours[i]->offset < offset + tensor->size; i++) {
        offset = dad_max(offset, neighbours[i]->offset + neighbours[i]->size);
    }
    return offset;
}

static dad_status place(dad_plan *plan) {
    size_t count = (size_t)plan->tensor_count;
    dad_tensor **order = calloc(2 * count + 1, sizeof(*order));
    if (order == NULL) {
        return DAD_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        order[i] = &plan->tensors[i];
    }
    qsort(order, count, sizeof(*order), by_size);
    plan->arena_size = 0;
    for (int i = 0; i < plan->tensor_count && plan->arena_size <= MOST; i++) {
        order[i]->offset = lowest_gap(order[i], order, i, order + count);
        plan->arena_size = dad_max(plan->arena_size, order[i]->offset + order[i]->size);
    }
    free(order);
    return plan->arena_size <= MOST ? DAD_OK : DAD_NO_MEMORY;
}

static void walk(planner *p) {
    const dad_graph *graph = p->graph;
    dad_plan *plan = p->plan;
    find_shared(p);
    for (int i = 0; i < graph->count; i++) {
        if (graph->nodes[i].op == DAD_OP_INPUT) {
            plan->input = p->value[i] = new_tensor(p, value_size(&graph->nodes[i]));
        }
    }
    for (int i = 0; i < graph->count && p->status == DAD_OK; i++) {
        plan_forward(p, i, false);
    }
    if (p->status != DAD_OK) {
        return;
    }
    plan->forward_count = plan->count;
    p->moment++; /* the caller reads the output and writes its gradient */
    plan->output = touch(p, p->value[graph->output]);
    if (plan->options.training) {
        plan->output_gradient = new_tensor(p, value_size(&graph->nodes[graph->output]));
        plan_training(p);
        p->moment++;
        for (int i = 0; i < graph->count && plan->options.input_gradient; i++) {
            if (graph->nodes[i].op == DAD_OP_INPUT) {
                plan->input_gradient = touch(p, p->gradient[i]);
            }
        }
    }
}

dad_status dad_plan_build(dad_plan *plan, const dad_graph *graph,
                          const dad_plan_options *options) {
    *plan = (dad_plan){.options = *options,
                       .input = DAD_NONE,
                       .output = DAD_NONE,
                       .output_gradient = DAD_NONE,
                       .input_gradient = DAD_NONE};
    size_t count = (size_t)graph->count;
    planner p = {.graph = graph, .plan = plan, .status = DAD_OK};
    int *tensors = malloc(3 * count * sizeof(*tensors));
    p.shared = malloc(count * sizeof(*p.shared));
    p.fusions = options->training ? NULL : malloc(count * sizeof(*p.fusions));
    if (tensors == NULL || p.shared == NULL || (!options->training && p.fusions == NULL)) {
        p.status = DAD_NO_MEMORY;
        goto done;
    }
    if (p.fusions != NULL) {
        dad_fuse(p.fusions, graph);
    }
    for (size_t i = 0; i < 3 * count; i++) {
        tensors[i] = DAD_NONE;
    }
    p.value = tensors;
    p.aux = tensors + count;
    p.gradient = tensors + 2 * count;
    walk(&p);
    if (p.status == DAD_OK) {
        p.status = place(plan);
    }
done:
    free(tensors);
    free(p.shared);
    free(p.fusions);
    if (p.status != DAD_OK) {
        dad_plan_free(plan);
    }
    return p.status;
}

void dad_plan_free(dad_plan *plan) {
    free(plan->steps);
    free(plan->tensors);
    *plan = (dad_plan){.input = DAD_NONE,
                       .output = DAD_NONE,
                       .output_gradient = DAD_NONE,
                       .input_gradient = DAD_NONE};
}
