/* The segmentation sub-network (of DRAEM): a U-Net of [conv3x3, BN, ReLU] pairs.
 *
 *   encoder  six blocks of widths (1, 2, 4, 8, 8, 8) * base, 2x2 max pooling between
 *   decoder  five stages: bilinear x2, conv, BN, ReLU; [it, encoder map]; two more pairs
 *   out      conv3x3, sigmoid
 *
 * Each block or stage is one unit of recomputation. */
#include "models/models.h"

enum { BLOCKS = 6 };

/* conv3x3 "<prefix>.<index>", BN + ReLU "<prefix>.<index + 1>". */
static dad_value conv_bn_relu(dad_graph *graph, dad_value x, ptrdiff_t channels,
                              const char *prefix, int index) {
    char name[DAD_NAME_SIZE];
    const dad_conv_options conv = {.channels = channels,
                                   .kernel = 3,
                                   .stride = 1,
                                   .image_bias = DAD_NONE,
                                   .residual = DAD_NONE};
    x = dad_graph_conv2d(graph, x, &conv,
                         dad_graph_name(graph, name, "%s.%d", prefix, index));
    dad_graph_name(graph, name, "%s.%d", prefix, index + 1);
    return dad_graph_batch_norm(graph, x, DAD_RELU, name);
}

static dad_value pair(dad_graph *graph, dad_value x, ptrdiff_t channels,
                      const char *prefix) {
    x = conv_bn_relu(graph, x, channels, prefix, 0);
    return conv_bn_relu(graph, x, channels, prefix, 3);
}

void dad_build_segmenter(dad_graph *graph, const dad_segmenter_options *options) {
    static const ptrdiff_t widths[BLOCKS] = {1, 2, 4, 8, 8, 8};
    static const ptrdiff_t decoder_widths[BLOCKS - 1] = {1, 1, 2, 4, 8};
    static const char *const stages[BLOCKS - 1][2] = {
        {"decoder_segment.up4", "decoder_segment.db4"},
        {"decoder_segment.up3", "decoder_segment.db3"},
        {"decoder_segment.up2", "decoder_segment.db2"},
        {"decoder_segment.up1", "decoder_segment.db1"},
        {"decoder_segment.up_b", "decoder_segment.db_b"},
    };
    const ptrdiff_t base = options->base_channels;
    char name[DAD_NAME_SIZE];
    dad_value maps[BLOCKS];
    dad_value x =
        dad_graph_input(graph, options->in_channels, options->height, options->width);
    x = dad_graph_space_to_depth(graph, x, options->patch);
    for (int i = 0; i < BLOCKS; i++) {
        dad_graph_new_segment(graph);
        if (i > 0) {
            x = dad_graph_unary(graph, DAD_OP_MAX_POOL, x);
        }
        dad_graph_name(graph, name, "encoder_segment.block%d", i + 1);
        x = maps[i] = pair(graph, x, widths[i] * base, name);
    }
    for (int i = BLOCKS - 2; i >= 0; i--) {
        ptrdiff_t width = decoder_widths[i] * base;
        dad_graph_new_segment(graph);
        x = dad_graph_unary(graph, DAD_OP_UPSAMPLE_BILINEAR, x);
        x = conv_bn_relu(graph, x, width, stages[i][0], 1);
        x = dad_graph_concat(graph, x, maps[i]);
        x = pair(graph, x, width, stages[i][1]);
    }
    const dad_conv_options last = {.channels = options->out_channels * options->patch *
                                               options->patch,
                                   .kernel = 3,
                                   .stride = 1,
                                   .image_bias = DAD_NONE,
                                   .residual = DAD_NONE};
    dad_graph_new_segment(graph);
    x = dad_graph_conv2d(graph, x, &last, "decoder_segment.fin_out.0");
    x = dad_graph_depth_to_space(graph, x, options->patch);
    graph->output = dad_graph_unary(graph, DAD_OP_SIGMOID, x);
}
