/* One entry per kind of node: translates a node's task into kernel calls. No arithmetic
 * here. */
#include "graph/ops.h"

#include "base/memory.h"
#include "kernels/kernels.h"

static const float EPSILON = 1e-5f, MOMENTUM = 0.1f;
enum { FAST_MAP = 64 * 64 }; /* pixels: F(6x6) gains from here on */

static ptrdiff_t pixels(const dad_node *node) { return node->H * node->W; }
static ptrdiff_t size_of(const dad_task *task) {
    return task->N * task->node->C * pixels(task->node);
}

static ptrdiff_t no_aux(const dad_node *node) {
    (void)node;
    return 0;
}
static ptrdiff_t no_scratch(const dad_task *task, bool backward) {
    (void)task, (void)backward;
    return 0;
}
static void nothing(const dad_task *task) { (void)task; }

/* ---- convolution ----------------------------------------------------------------- */

/* doubled: the input is an upsampling that was never made. */
static dad_conv2d_shape conv_shape(const dad_node *node, const dad_node *input, ptrdiff_t N,
                                   dad_precision precision, bool doubled) {
    const bool six = precision == DAD_FAST && input->H * input->W >= FAST_MAP && !doubled;
    return (dad_conv2d_shape){.algorithm = six ? DAD_CONV_WINOGRAD6 : DAD_CONV_AUTO,
                              .N = N,
                              .H = input->H,
                              .W = input->W,
                              .C = input->C,
                              .O = node->C,
                              .KH = node->kernel,
                              .KW = node->kernel,
                              .stride = node->stride,
                              .pad = node->kernel / 2,
                              .doubled = doubled,
                              .bfloat16 = precision == DAD_BFLOAT16};
}

static dad_conv2d_shape task_shape(const dad_task *task) {
    return conv_shape(task->node, task->input[0], task->N, task->precision,
                      task->fused->half[0]);
}

ptrdiff_t dad_op_moment_slices(const dad_node *node, const dad_node *input,
                               dad_precision precision, bool doubled) {
    dad_conv2d_shape shape = conv_shape(node, input, 1, precision, doubled);
    return dad_conv2d_moment_slices(&shape);
}

/* Scratch starts with the folded BatchNorm, scale [O] and bias [O]. */
static ptrdiff_t folded_size(const dad_task *task) {
    return task->fused->norm != DAD_NONE ? 2 * dad_padded(task->node->C) : 0;
}

static ptrdiff_t conv_scratch(const dad_task *task, bool backward) {
    dad_conv2d_shape shape = task_shape(task);
    if (!backward) {
        return folded_size(task) + dad_conv2d_forward_scratch(&shape);
    }
    return dad_max(dad_conv2d_backward_data_scratch(&shape),
                   dad_conv2d_backward_filter_scratch(&shape));
}

static void conv_forward(const dad_task *task) {
    dad_conv2d_shape shape = task_shape(task);
    const dad_fused *fused = task->fused;
    const dad_conv2d_input input = {
        .x = task->x[0], .x2 = task->x2, .C1 = fused->C1, .norm = task->coefficients};
    dad_conv2d_epilogue epilogue = {.bias = task->bias,
                                    .image_bias = task->x[1],
                                    .residual = task->x[2],
                                    .residual_doubled = fused->half[2],
                                    .moments = task->training ? NULL : task->aux};
    if (fused->norm != DAD_NONE) {
        float *scale = task->scratch, *bias = scale + folded_size(task) / 2;
        dad_batch_norm_fold(scale, bias, task->bias, task->norm_weight, task->norm_bias,
                            task->norm_mean, task->norm_var, task->node->C, EPSILON);
        epilogue.scale = scale;
        epilogue.bias = bias;
        epilogue.activation = task->norm_activation;
    }
    dad_conv2d_forward(task->y, &input, task->weight, &epilogue, &shape,
                       task->scratch + folded_size(task));
}

static void conv_backward(const dad_task *task) {
    dad_conv2d_shape shape = task_shape(task);
    dad_conv2d_backward_filter(task->dweight, task->dbias, task->x[0], task->dy, &shape,
                               task->scratch);
    if (task->dx[0] != NULL) {
        dad_conv2d_backward_data(task->dx[0], task->dy, task->weight, &shape,
                                 task->scratch);
    }
    if (task->dx[1] != NULL) {
        dad_sum_pixels(task->dx[1], task->dy, task->N, pixels(task->node), task->node->C);
    }
}

/* ---- normalisation --------------------------------------------------------------- */

static dad_group_norm_shape group_shape(const dad_task *task) {
    return (dad_group_norm_shape){.N = task->N,
                                  .P = pixels(task->node),
                                  .C = task->node->C,
                                  .G = DAD_GROUPS,
                                  .eps = EPSILON,
                                  .activation = task->node->activation};
}
static ptrdiff_t group_aux(const dad_node *node) {
    (void)node;
    return 2 * DAD_GROUPS;
}
static ptrdiff_t group_scratch(const dad_task *task, bool backward) {
    dad_group_norm_shape shape = group_shape(task);
    return backward || task->training ? dad_group_norm_scratch(&shape)
                                      : dad_group_norm_evaluate_scratch(&shape);
}
static void group_evaluate(const dad_task *task) {
    dad_group_norm_shape shape = group_shape(task);
    const bool joined = task->x2 != NULL;
    const ptrdiff_t C1 = joined ? task->fused->C1 : shape.C;
    const dad_group_norm_part parts[2] = {
        {task->x[0], C1, task->moments[0], task->fused->slices[0]},
        {task->x2, shape.C - C1, task->moments[1], task->fused->slices[1]}};
    (task->fused->deferred ? dad_group_norm_coefficients : dad_group_norm_evaluate)(
        task->y, parts, joined ? 2 : 1, task->weight, task->bias, &shape, task->scratch);
}
static void group_forward(const dad_task *task) {
    dad_group_norm_shape shape = group_shape(task);
    if (!task->training) {
        group_evaluate(task);
    } else if (task->again) {
        dad_group_norm_again(task->y, task->aux, task->x[0], task->weight, task->bias,
                             &shape, task->scratch);
    } else {
        dad_group_norm_forward(task->y, task->aux, task->x[0], task->weight, task->bias,
                               &shape, task->scratch);
    }
}
static void group_backward(const dad_task *task) {
    dad_group_norm_shape shape = group_shape(task);
    dad_group_norm_backward(task->dx[0], task->dweight, task->dbias, task->dy, task->x[0],
                            task->aux, task->weight, task->bias, &shape, task->scratch);
}

static dad_batch_norm_shape batch_shape(const dad_task *task) {
    return (dad_batch_norm_shape){.N = task->N,
                                  .P = pixels(task->node),
                                  .C = task->node->C,
                                  .eps = EPSILON,
                                  .momentum = MOMENTUM,
                                  .activation = task->node->activation};
}
static ptrdiff_t batch_aux(const dad_node *node) {
    return 2 * node->C; /* one pair per channel would do; the plan counts per image */
}
static ptrdiff_t batch_scratch(const dad_task *task, bool backward) {
    (void)backward;
    dad_batch_norm_shape shape = batch_shape(task);
    return dad_batch_norm_scratch(&shape);
}
static void batch_forward(const dad_task *task) {
    dad_batch_norm_shape shape = batch_shape(task);
    if (task->training && task->again) {
        dad_batch_norm_again(task->y, task->aux, task->x[0], task->weight, task->bias,
                             &shape, task->scratch);
    } else if (task->training) {
        dad_batch_norm_forward_training(task->y, task->aux, task->running_mean,
                                        task->running_var, task->x[0], task->weight,
                                        task->bias, &shape, task->scratch);
    } else {
        dad_batch_norm_forward_evaluation(task->y, task->x[0], task->weight, task->bias,
                                          task->running_mean, task->running_var, &shape,
                                          task->scratch);
    }
}
static void batch_backward(const dad_task *task) {
    dad_batch_norm_shape shape = batch_shape(task);
    dad_batch_norm_backward(task->dx[0], task->dweight, task->dbias, task->dy, task->x[0],
                            task->aux, task->weight, task->bias, &shape, task->scratch);
}

/* ---- attention, linear, time ----------------------------------------------------- */

static dad_attention_shape attention_shape(const dad_task *task) {
    return (dad_attention_shape){.N = task->N,
                                 .T = pixels(task->node),
                                 .heads = task->node->heads,
                                 .D = task->node->C / task->node->heads};
}
static ptrdiff_t attention_scratch(const dad_task *task, bool backward) {
    (void)backward;
    dad_attention_shape shape = attention_shape(task);
    return dad_attention_scratch(&shape);
}
static void attention_forward(const dad_task *task) {
    dad_attention_shape shape = attention_shape(task);
    dad_attention_forward(task->y, task->x[0], &shape, task->scratch);
}
static void attention_backward(const dad_task *task) {
    dad_attention_shape shape = attention_shape(task);
    dad_attention_backward(task->dx[0], task->dy, task->x[0], &shape, task->scratch);
}

static dad_linear_shape linear_shape(const dad_task *task) {
    return (dad_linear_shape){.N = task->N, .C = task->input[0]->C, .O = task->node->C};
}
static void linear_forward(const dad_task *task) {
    dad_linear_shape shape = linear_shape(task);
    dad_linear_forward(task->y, task->x[0], task->weight, task->bias, &shape);
}
static void linear_backward(const dad_task *task) {
    dad_linear_shape shape = linear_shape(task);
    dad_linear_backward(task->dx[0], task->dweight, task->dbias, task->dy, task->x[0],
                        task->weight, &shape);
}
static void time_forward(const dad_task *task) {
    dad_time_embedding(task->y, task->t, task->N, task->node->C);
}

/* ---- elementwise ----------------------------------------------------------------- */

static void silu_forward(const dad_task *task) {
    dad_silu_forward(task->y, task->x[0], size_of(task));
}
static void silu_backward(const dad_task *task) {
    dad_silu_backward(task->dx[0], task->dy, task->x[0], size_of(task));
}
static void sigmoid_forward(const dad_task *task) {
    dad_sigmoid_forward(task->y, task->x[0], size_of(task));
}
static void sigmoid_backward(const dad_task *task) {
    dad_sigmoid_backward(task->dx[0], task->dy, task->y, size_of(task));
}
/* Outside training dropout is the identity: p = 0 keeps everything. */
static void dropout_forward(const dad_task *task) {
    float p = task->training ? task->node->dropout : 0.0f;
    dad_dropout(task->y, task->x[0], p, task->seed, size_of(task));
}
static void dropout_backward(const dad_task *task) {
    dad_dropout(task->dx[0], task->dy, task->node->dropout, task->seed, size_of(task));
}
static void concat_forward(const dad_task *task) {
    dad_concat_forward(task->y, task->x[0], task->x[1], task->N * pixels(task->node),
                       task->input[0]->C, task->input[1]->C);
}
static void concat_backward(const dad_task *task) {
    dad_concat_backward(task->dx[0], task->dx[1], task->dy, task->N * pixels(task->node),
                        task->input[0]->C, task->input[1]->C);
}

/* ---- maps ------------------------------------------------------------------------ */

static dad_map_shape map_shape(const dad_task *task) {
    const dad_node *input = task->input[0];
    return (dad_map_shape){.N = task->N, .H = input->H, .W = input->W, .C = input->C};
}

#define MAP_OP(name)                                          \
    static void name##_forward(const dad_task *task) {        \
        dad_map_shape shape = map_shape(task);                \
        dad_##name##_forward(task->y, task->x[0], &shape);    \
    }                                                         \
    static void name##_backward(const dad_task *task) {       \
        dad_map_shape shape = map_shape(task);                \
        dad_##name##_backward(task->dx[0], task->dy, &shape); \
    }
MAP_OP(upsample_nearest)
MAP_OP(upsample_bilinear)
MAP_OP(avg_pool)

static void space_to_depth_forward(const dad_task *task) {
    dad_map_shape shape = map_shape(task);
    dad_space_to_depth(task->y, task->x[0], task->node->block, &shape);
}
static void space_to_depth_backward(const dad_task *task) {
    dad_map_shape shape = map_shape(task);
    dad_depth_to_space(task->dx[0], task->dy, task->node->block, &shape);
}
static dad_map_shape output_shape(const dad_task *task) {
    const dad_node *node = task->node;
    return (dad_map_shape){.N = task->N, .H = node->H, .W = node->W, .C = node->C};
}
static void depth_to_space_forward(const dad_task *task) {
    dad_map_shape shape = output_shape(task);
    dad_depth_to_space(task->y, task->x[0], task->node->block, &shape);
}
static void depth_to_space_backward(const dad_task *task) {
    dad_map_shape shape = output_shape(task);
    dad_space_to_depth(task->dx[0], task->dy, task->node->block, &shape);
}

/* A byte per output element; evaluation has nowhere to keep it and uses the scratch. */
static ptrdiff_t max_pool_aux(const dad_node *node) {
    return dad_ceil_div(node->C * pixels(node), (ptrdiff_t)sizeof(float));
}
static ptrdiff_t max_pool_scratch(const dad_task *task, bool backward) {
    return backward ? 0 : task->N * max_pool_aux(task->node);
}
static void max_pool_forward(const dad_task *task) {
    dad_map_shape shape = map_shape(task);
    void *which = task->aux != NULL ? task->aux : task->scratch;
    dad_max_pool_forward(task->y, which, task->x[0], &shape);
}
static void max_pool_backward(const dad_task *task) {
    dad_map_shape shape = map_shape(task);
    dad_max_pool_backward(task->dx[0], task->dy, (const uint8_t *)task->aux, &shape);
}

/* name, backward reads x, y, cheap, aux, scratch, forward, backward */
static const dad_op_kind kinds[DAD_OPS] = {
    [DAD_OP_INPUT] = {false, false, false, no_aux, no_scratch, nothing, nothing},
    [DAD_OP_TIME_EMBEDDING] = {false, false, false, no_aux, no_scratch, time_forward,
                               nothing},
    [DAD_OP_LINEAR] = {true, false, false, no_aux, no_scratch, linear_forward,
                       linear_backward},
    [DAD_OP_CONV2D] = {true, false, false, no_aux, conv_scratch, conv_forward,
                       conv_backward},
    [DAD_OP_GROUP_NORM] = {true, false, true, group_aux, group_scratch, group_forward,
                           group_backward},
    [DAD_OP_BATCH_NORM] = {true, false, true, batch_aux, batch_scratch, batch_forward,
                           batch_backward},
    [DAD_OP_ATTENTION] = {true, false, false, no_aux, attention_scratch, attention_forward,
                          attention_backward},
    [DAD_OP_SILU] = {true, false, true, no_aux, no_scratch, silu_forward, silu_backward},
    [DAD_OP_SIGMOID] = {false, true, false, no_aux, no_scratch, sigmoid_forward,
                        sigmoid_backward},
    [DAD_OP_UPSAMPLE_NEAREST] = {false, false, true, no_aux, no_scratch,
                                 upsample_nearest_forward, upsample_nearest_backward},
    [DAD_OP_UPSAMPLE_BILINEAR] = {false, false, true, no_aux, no_scratch,
                                  upsample_bilinear_forward, upsample_bilinear_backward},
    [DAD_OP_SPACE_TO_DEPTH] = {false, false, true, no_aux, no_scratch,
                               space_to_depth_forward, space_to_depth_backward},
    [DAD_OP_DEPTH_TO_SPACE] = {false, false, true, no_aux, no_scratch,
                               depth_to_space_forward, depth_to_space_backward},
    [DAD_OP_AVG_POOL] = {false, false, true, no_aux, no_scratch, avg_pool_forward,
                         avg_pool_backward},
    [DAD_OP_MAX_POOL] = {false, false, false, max_pool_aux, max_pool_scratch,
                         max_pool_forward, max_pool_backward},
    [DAD_OP_CONCAT] = {false, false, true, no_aux, no_scratch, concat_forward,
                       concat_backward},
    [DAD_OP_DROPOUT] = {false, false, true, no_aux, no_scratch, dropout_forward,
                        dropout_backward},
};

const dad_op_kind *dad_op_of(const dad_node *node) { return &kinds[node->op]; }
