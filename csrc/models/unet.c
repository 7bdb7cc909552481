/* The reconstruction sub-network: a guided-diffusion UNet.
 *
 *   down   3x3 convolution; per level: residual blocks [+ attention], then halve
 *   middle residual block, attention, residual block
 *   up     per level, backwards: residual blocks on [x, skip] [+ attention], then double
 *   out    GroupNorm, SiLU, 3x3 convolution
 *
 * Each residual or attention block is one unit of recomputation. Blocks are numbered as the
 * reference's nested lists do: "down.<block>.<layer>". */
#include "models/models.h"

#include <string.h>

typedef enum { SAME, DOWN, UP } resampling;

typedef struct {
    dad_graph *graph;
    const dad_unet_options *options;
    dad_value time;   /* SiLU of the time embedding */
    const char *path; /* "down", "middle", "up" */
    int block, layer; /* numbers of the next layer */
    dad_value skips[DAD_MAX_LEVELS * 32];
    int skip_count;
    ptrdiff_t stride; /* image size / map size */
} builder;

/* "<path>.<block>.<layer>.<part>", or without the layer in the middle, whose blocks are
 * flat. */
static const char *name_of(const builder *b, char *name, const char *part) {
    if (strcmp(b->path, "middle") == 0) {
        return dad_graph_name(b->graph, name, "middle.%d.%s", b->layer, part);
    }
    return dad_graph_name(b->graph, name, "%s.%d.%d.%s", b->path, b->block, b->layer, part);
}

static ptrdiff_t channels_of(const builder *b, dad_value x) {
    return x == DAD_NONE ? 0 : b->graph->nodes[x].C;
}

static dad_conv_options conv3(ptrdiff_t channels) {
    return (dad_conv_options){.channels = channels,
                              .kernel = 3,
                              .stride = 1,
                              .image_bias = DAD_NONE,
                              .residual = DAD_NONE};
}

static dad_conv_options conv1(ptrdiff_t channels) {
    return (dad_conv_options){.channels = channels,
                              .kernel = 1,
                              .stride = 1,
                              .image_bias = DAD_NONE,
                              .residual = DAD_NONE};
}

static dad_value resample(builder *b, dad_value x, resampling how) {
    if (how == SAME) {
        return x;
    }
    return dad_graph_unary(b->graph,
                           how == DOWN ? DAD_OP_AVG_POOL : DAD_OP_UPSAMPLE_NEAREST, x);
}

/* GN SiLU [resample] conv + embedding, GN SiLU dropout conv, + skip (resampled, 1x1 if
 * needed). x is first joined with `joined`, a map from the way down, unless that is
 * DAD_NONE. */
static dad_value residual_block(builder *b, dad_value x, dad_value joined, ptrdiff_t O,
                                resampling how) {
    dad_graph *g = b->graph;
    char name[DAD_NAME_SIZE];
    dad_graph_new_segment(g);
    if (joined != DAD_NONE) {
        x = dad_graph_concat(g, x, joined);
    }
    dad_value bias = dad_graph_linear(g, b->time, O, name_of(b, name, "embed_layers.1"));
    dad_value h = dad_graph_group_norm(g, x, DAD_SILU, name_of(b, name, "in_layers.0"));
    h = resample(b, h, how);
    dad_value skip = resample(b, x, how);
    dad_conv_options first = conv3(O);
    first.image_bias = bias;
    h = dad_graph_conv2d(g, h, &first, name_of(b, name, "in_layers.2"));
    h = dad_graph_group_norm(g, h, DAD_SILU, name_of(b, name, "out_layers.0"));
    h = dad_graph_dropout(g, h, b->options->dropout);
    if (channels_of(b, x) != O) {
        dad_conv_options match = conv1(O);
        skip = dad_graph_conv2d(g, skip, &match, name_of(b, name, "skip_connection"));
    }
    dad_conv_options second = conv3(O);
    second.residual = skip;
    h = dad_graph_conv2d(g, h, &second, name_of(b, name, "out_layers.3"));
    b->layer++;
    return h;
}

static dad_value attention_block(builder *b, dad_value x) {
    dad_graph *g = b->graph;
    char name[DAD_NAME_SIZE];
    dad_graph_new_segment(g);
    ptrdiff_t C = channels_of(b, x);
    ptrdiff_t width = b->options->head_channels;
    dad_conv_options qkv = conv1(3 * C), out = conv1(C);
    qkv.one_dimensional = out.one_dimensional = true;
    out.residual = x;
    dad_value h = dad_graph_group_norm(g, x, DAD_NO_ACTIVATION, name_of(b, name, "norm"));
    h = dad_graph_conv2d(g, h, &qkv, name_of(b, name, "to_qkv"));
    h = dad_graph_attention(g, h, width < 1 ? b->options->heads : C / width);
    h = dad_graph_conv2d(g, h, &out, name_of(b, name, "proj_out"));
    b->layer++;
    return h;
}

static bool attends(const builder *b) {
    for (int i = 0; i < b->options->attention_count; i++) {
        if (b->options->attention_strides[i] == b->stride) {
            return true;
        }
    }
    return false;
}

static dad_value halve(builder *b, dad_value x) {
    if (b->options->resblock_updown) {
        return residual_block(b, x, DAD_NONE, channels_of(b, x), DOWN);
    }
    char name[DAD_NAME_SIZE];
    dad_graph_new_segment(b->graph);
    dad_conv_options conv = conv3(channels_of(b, x));
    conv.stride = 2;
    return dad_graph_conv2d(b->graph, x, &conv, name_of(b, name, "downsample"));
}

static dad_value twice(builder *b, dad_value x) {
    if (b->options->resblock_updown) {
        return residual_block(b, x, DAD_NONE, channels_of(b, x), UP);
    }
    char name[DAD_NAME_SIZE];
    dad_graph_new_segment(b->graph);
    dad_conv_options conv = conv3(channels_of(b, x));
    x = resample(b, x, UP);
    return dad_graph_conv2d(b->graph, x, &conv, name_of(b, name, "conv"));
}

static void next_block(builder *b) {
    b->block++;
    b->layer = 0;
}

static void push(builder *b, dad_value x) { b->skips[b->skip_count++] = x; }

static dad_value build_down(builder *b, dad_value x) {
    const dad_unet_options *o = b->options;
    b->path = "down";
    dad_conv_options first = conv3(o->channels[0]);
    x = dad_graph_conv2d(b->graph, x, &first, "down.0.0");
    push(b, x);
    b->block = 1;
    for (int level = 0; level < o->levels; level++) {
        for (int i = 0; i < o->res_blocks; i++, next_block(b)) {
            x = residual_block(b, x, DAD_NONE, o->channels[level], SAME);
            if (attends(b)) {
                x = attention_block(b, x);
            }
            push(b, x);
        }
        if (level + 1 < o->levels) {
            x = halve(b, x);
            b->stride *= 2;
            push(b, x);
            next_block(b);
        }
    }
    return x;
}

static dad_value build_middle(builder *b, dad_value x) {
    b->path = "middle";
    b->layer = 0;
    ptrdiff_t C = channels_of(b, x);
    x = residual_block(b, x, DAD_NONE, C, SAME);
    x = attention_block(b, x);
    return residual_block(b, x, DAD_NONE, C, SAME);
}

static dad_value build_up(builder *b, dad_value x) {
    const dad_unet_options *o = b->options;
    b->path = "up";
    b->block = b->layer = 0;
    for (int level = o->levels - 1; level >= 0; level--) {
        for (int i = 0; i <= o->res_blocks; i++, next_block(b)) {
            x = residual_block(b, x, b->skips[--b->skip_count], o->channels[level], SAME);
            if (attends(b)) {
                x = attention_block(b, x);
            }
            if (level > 0 && i == o->res_blocks) {
                x = twice(b, x);
                b->stride /= 2;
            }
        }
    }
    return x;
}

void dad_build_unet(dad_graph *graph, const dad_unet_options *options) {
    builder b = {.graph = graph, .options = options, .stride = 1};
    if (options->levels < 1 || options->levels > DAD_MAX_LEVELS ||
        options->res_blocks < 1 || options->res_blocks > 30) {
        graph->status = DAD_BAD_SHAPE;
        return;
    }
    dad_value x =
        dad_graph_input(graph, options->in_channels, options->height, options->width);
    dad_value t = dad_graph_time_embedding(graph, options->embedding);
    t = dad_graph_linear(graph, t, 4 * options->embedding, "time_embedding.1");
    t = dad_graph_unary(graph, DAD_OP_SILU, t);
    t = dad_graph_linear(graph, t, 4 * options->embedding, "time_embedding.3");
    x = dad_graph_space_to_depth(graph, x, options->patch);
    b.time = dad_graph_unary(graph, DAD_OP_SILU, t);
    x = build_down(&b, x);
    x = build_middle(&b, x);
    x = build_up(&b, x);
    dad_graph_new_segment(graph);
    dad_conv_options last = conv3(options->out_channels * options->patch * options->patch);
    x = dad_graph_group_norm(graph, x, DAD_SILU, "out.0");
    x = dad_graph_conv2d(graph, x, &last, "out.2");
    graph->output = dad_graph_depth_to_space(graph, x, options->patch);
}
