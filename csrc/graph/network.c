/* Runs a network's plan: finds every tensor's place and hands the nodes to their kernels.
 */
#include "graph/network.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "graph/ops.h"

enum { CLEARED = 1 << 19 }; /* floats at a time: 2 MiB */

/* By all threads: the first touch of a page takes longer than all that is written there. */
static void clear(float *buffer, ptrdiff_t count) {
#pragma omp parallel for num_threads(dad_num_threads()) if (count > CLEARED)
    for (ptrdiff_t first = 0; first < count; first += CLEARED) {
        memset(buffer + first, 0, (size_t)dad_min(CLEARED, count - first) * sizeof(float));
    }
}

/* A zeroed buffer of `count` floats, or NULL. */
static float *zeros(ptrdiff_t count) {
    float *buffer = dad_alloc_sequential(count);
    if (buffer != NULL) {
        clear(buffer, count);
    }
    return buffer;
}

dad_status dad_network_init(dad_network *network, dad_graph *graph) {
    *network = (dad_network){.graph = *graph};
    dad_graph_init(graph);
    dad_status status = network->graph.status;
    if (status == DAD_OK && network->graph.output == DAD_NONE) {
        status = DAD_BAD_SHAPE;
    }
    if (status == DAD_OK) {
        network->weights = zeros(network->graph.weight_size);
        network->buffers = zeros(network->graph.buffer_size);
        if (network->weights == NULL || network->buffers == NULL) {
            status = DAD_NO_MEMORY;
        }
    }
    if (status != DAD_OK) {
        dad_network_free(network);
    }
    return status;
}

void dad_network_trim(dad_network *network) {
    dad_free(network->arena);
    dad_free(network->scratch);
    dad_free(network->t);
    network->arena = network->scratch = network->t = NULL;
    network->arena_size = network->scratch_size = 0;
    network->backward_possible = false;
    dad_plan_free(&network->plan);
}

void dad_network_free(dad_network *network) {
    dad_network_trim(network);
    dad_graph_free(&network->graph);
    dad_free(network->weights);
    dad_free(network->buffers);
    dad_free(network->gradients);
    dad_free(network->moments[0]);
    dad_free(network->moments[1]);
    dad_free(network->averages[0]);
    dad_free(network->averages[1]);
    memset(network, 0, sizeof(*network));
}

static dad_status need(float **buffer, ptrdiff_t count) {
    if (*buffer == NULL) {
        *buffer = zeros(count);
    }
    return *buffer != NULL ? DAD_OK : DAD_NO_MEMORY;
}

dad_status dad_network_need_gradients(dad_network *network) {
    return need(&network->gradients, network->graph.weight_size);
}

dad_status dad_network_need_moments(dad_network *network) {
    dad_status status = need(&network->moments[0], network->graph.weight_size);
    return status == DAD_OK ? need(&network->moments[1], network->graph.weight_size)
                            : status;
}

dad_status dad_network_need_averages(dad_network *network) {
    if (network->averages[0] != NULL && network->averages[1] != NULL) {
        return DAD_OK;
    }
    dad_status status = need(&network->averages[0], network->graph.weight_size);
    if (status == DAD_OK) {
        status = need(&network->averages[1], network->graph.buffer_size);
    }
    if (status == DAD_OK) {
        dad_network_average(network, 0.0);
    }
    return status;
}

void dad_network_average(dad_network *network, double decay) {
    dad_moving_average(network->averages[0], network->weights, decay,
                       network->graph.weight_size);
    dad_moving_average(network->averages[1], network->buffers, decay,
                       network->graph.buffer_size);
}

static void swap(float **a, float **b) {
    float *kept = *a;
    *a = *b;
    *b = kept;
}

void dad_network_swap_averages(dad_network *network) {
    swap(&network->weights, &network->averages[0]);
    swap(&network->buffers, &network->averages[1]);
    network->backward_possible = false;
}

void dad_network_zero_gradients(dad_network *network) {
    if (network->gradients != NULL) {
        clear(network->gradients, network->graph.weight_size);
    }
}

/* ---- memory ---------------------------------------------------------------------- */

static float *tensor(const dad_network *network, int index) {
    return index == DAD_NONE ? NULL : network->arena + network->plan.tensors[index].offset;
}

static dad_task make_task(const dad_network *network, const dad_plan *plan,
                          const dad_step *step) {
    const dad_graph *graph = &network->graph;
    const dad_node *node = &graph->nodes[step->node];
    dad_task task = {.node = node,
                     .N = plan->options.N,
                     .training = plan->options.training,
                     .precision = plan->options.precision,
                     .again = step->again,
                     .fused = &step->fused};
    for (int i = 0; i < DAD_MAX_INPUTS; i++) {
        task.input[i] = node->in[i] != DAD_NONE ? &graph->nodes[node->in[i]] : NULL;
    }
    return task;
}

static ptrdiff_t scratch_of(const dad_network *network, const dad_plan *plan) {
    ptrdiff_t most = 0;
    for (int i = 0; i < plan->count; i++) {
        const dad_step *step = &plan->steps[i];
        dad_task task = make_task(network, plan, step);
        most = dad_max(most, dad_op_of(task.node)->scratch(&task, step->backward));
    }
    return most;
}

static bool same_options(const dad_plan_options *a, const dad_plan_options *b) {
    return a->N == b->N && a->training == b->training && a->recompute == b->recompute &&
           a->input_gradient == b->input_gradient && a->precision == b->precision;
}

static dad_status fit(float **buffer, ptrdiff_t *size, ptrdiff_t wanted) {
    if (*size >= wanted && *buffer != NULL) {
        return DAD_OK;
    }
    dad_free(*buffer);
    *buffer = dad_alloc(wanted);
    *size = *buffer != NULL ? wanted : 0;
    return *buffer != NULL ? DAD_OK : DAD_NO_MEMORY;
}

/* Kernels cut their scratch by the thread count, which may have changed since. */
static dad_status fit_scratch(dad_network *network) {
    return fit(&network->scratch, &network->scratch_size,
               scratch_of(network, &network->plan));
}

static dad_status prepare(dad_network *network, const dad_plan_options *options) {
    dad_status status = DAD_OK;
    if (network->plan.count == 0 || !same_options(&network->plan.options, options)) {
        dad_plan_free(&network->plan);
        status = dad_plan_build(&network->plan, &network->graph, options);
        dad_free(network->t);
        network->t = NULL;
    }
    if (status == DAD_OK) {
        status = fit(&network->arena, &network->arena_size, network->plan.arena_size);
    }
    if (status == DAD_OK) {
        status = fit_scratch(network);
    }
    if (status == DAD_OK) {
        status = need(&network->t, options->N);
    }
    return status;
}

static const dad_node *input_node(const dad_graph *graph) {
    int i = 0;
    while (graph->nodes[i].op != DAD_OP_INPUT) {
        i++;
    }
    return &graph->nodes[i];
}

dad_status dad_network_memory(dad_network *network, ptrdiff_t *arena, ptrdiff_t *scratch,
                              ptrdiff_t H, ptrdiff_t W, const dad_plan_options *options) {
    const dad_node input = *input_node(&network->graph);
    dad_plan plan;
    dad_status status = dad_graph_resize(&network->graph, H, W);
    if (status == DAD_OK) {
        status = dad_plan_build(&plan, &network->graph, options);
        if (status == DAD_OK) {
            *arena = plan.arena_size;
            *scratch = scratch_of(network, &plan);
            dad_plan_free(&plan);
        }
        const dad_status back = dad_graph_resize(&network->graph, input.H, input.W);
        status = status == DAD_OK ? back : status;
    }
    return status;
}

dad_status dad_network_resize(dad_network *network, ptrdiff_t H, ptrdiff_t W) {
    dad_network_trim(network); /* the plan, too: algorithms are chosen by size */
    return dad_graph_resize(&network->graph, H, W);
}

/* ---- running --------------------------------------------------------------------- */

static float *parameter(const dad_network *network, float *base, const dad_node *node,
                        int i) {
    int index = node->parameter[i];
    return index == DAD_NONE || base == NULL
               ? NULL
               : base + network->graph.parameters[index].offset;
}

static void find_fused(dad_task *task, const dad_network *network, const dad_step *step) {
    const dad_graph *graph = &network->graph;
    task->x2 = tensor(network, step->fused.x2);
    task->coefficients = tensor(network, step->fused.coefficients);
    for (int i = 0; i < 2; i++) {
        task->moments[i] = tensor(network, step->fused.moments[i]);
    }
    if (step->fused.norm != DAD_NONE) {
        const dad_node *norm = &graph->nodes[step->fused.norm];
        task->norm_activation = norm->activation;
        task->norm_weight = parameter(network, network->weights, norm, 0);
        task->norm_bias = parameter(network, network->weights, norm, 1);
        task->norm_mean = parameter(network, network->buffers, norm, 2);
        task->norm_var = parameter(network, network->buffers, norm, 3);
    }
}

static void run_step(dad_network *network, const dad_step *step) {
    dad_task task = make_task(network, &network->plan, step);
    const dad_node *node = task.node;
    for (int i = 0; i < DAD_MAX_INPUTS; i++) {
        task.x[i] = tensor(network, step->x[i]);
        task.dx[i] = tensor(network, step->dx[i]);
    }
    find_fused(&task, network, step);
    task.y = tensor(network, step->y);
    task.aux = tensor(network, step->aux);
    task.dy = tensor(network, step->dy);
    task.weight = parameter(network, network->weights, node, 0);
    task.bias = parameter(network, network->weights, node, 1);
    task.dweight = parameter(network, network->gradients, node, 0);
    task.dbias = parameter(network, network->gradients, node, 1);
    task.running_mean = parameter(network, network->buffers, node, 2);
    task.running_var = parameter(network, network->buffers, node, 3);
    task.t = network->t;
    task.scratch = network->scratch;
    task.seed = network->seed * UINT64_C(0x9E3779B97F4A7C15) + (uint64_t)step->node;
    if (!step->backward) {
        dad_op_of(node)->forward(&task);
        return;
    }
    dad_op_of(node)->backward(&task);
    for (int i = 0; i < DAD_MAX_INPUTS; i++) {
        if (step->sum[i] != DAD_NONE) {
            float *sum = tensor(network, step->sum[i]);
            const float *part = task.dx[i] != NULL ? task.dx[i] : task.dy; /* a residual */
            dad_add(sum, sum, part,
                    task.N * task.input[i]->C * task.input[i]->H * task.input[i]->W);
        }
    }
}

dad_status dad_network_forward(dad_network *network, float *y, const float *x,
                               const float *t, const dad_plan_options *options,
                               uint64_t seed) {
    network->backward_possible = false;
    network->seed = seed;
    dad_status status = prepare(network, options);
    if (status != DAD_OK) {
        return status;
    }
    const dad_plan *plan = &network->plan;
    const dad_node *input = input_node(&network->graph);
    const dad_node *output = &network->graph.nodes[network->graph.output];
    dad_nchw_to_nhwc(tensor(network, plan->input), x, options->N, input->C,
                     input->H * input->W);
    if (t != NULL) {
        memcpy(network->t, t, (size_t)options->N * sizeof(float));
    }
    for (int i = 0; i < plan->forward_count; i++) {
        run_step(network, &plan->steps[i]);
    }
    dad_nhwc_to_nchw(y, tensor(network, plan->output), options->N, output->C,
                     output->H * output->W);
    network->backward_possible = options->training;
    return DAD_OK;
}

dad_status dad_network_backward(dad_network *network, float *dx, const float *dy) {
    const dad_plan *plan = &network->plan;
    dad_status status = dad_network_need_gradients(network);
    if (status == DAD_OK) {
        status = fit_scratch(network);
    }
    if (status != DAD_OK) {
        return status;
    }
    ptrdiff_t N = plan->options.N;
    const dad_node *input = input_node(&network->graph);
    const dad_node *output = &network->graph.nodes[network->graph.output];
    dad_nchw_to_nhwc(tensor(network, plan->output_gradient), dy, N, output->C,
                     output->H * output->W);
    for (int i = plan->forward_count; i < plan->count; i++) {
        run_step(network, &plan->steps[i]);
    }
    network->backward_possible = false;
    if (dx != NULL) {
        dad_nhwc_to_nchw(dx, tensor(network, plan->input_gradient), N, input->C,
                         input->H * input->W);
    }
    return DAD_OK;
}
