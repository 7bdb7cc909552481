/* The networks: each only builds a graph. Sources: guided diffusion (the UNet) and DRAEM's
 * discriminative sub-network, with the parameter names of the reference's checkpoints. */
#ifndef DAD_MODELS_H
#define DAD_MODELS_H

#include "graph/graph.h"

enum { DAD_MAX_LEVELS = 16 };

typedef struct {
    ptrdiff_t height, width; /* of the image; divisible by 2^(levels - 1) */
    ptrdiff_t in_channels, out_channels;
    ptrdiff_t channels[DAD_MAX_LEVELS]; /* of each level: multiples of 32 */
    int levels, res_blocks;
    ptrdiff_t embedding; /* width of the sinusoid; the time embedding is 4 times as wide */
    ptrdiff_t heads;     /* of attention, used where head_channels < 1 */
    ptrdiff_t head_channels;
    ptrdiff_t attention_strides[DAD_MAX_LEVELS]; /* attention where the map is so many times
                                                    smaller */
    int attention_count;
    bool resblock_updown; /* resample inside residual blocks, or by convolutions of their
                             own */
    float dropout;
    ptrdiff_t patch; /* blocks of patch x patch pixels enter as one, and leave as many; 1:
                        pixels */
} dad_unet_options;

/* x, t -> predicted noise [out_channels, height, width]. */
void dad_build_unet(dad_graph *graph, const dad_unet_options *options);

typedef struct {
    ptrdiff_t height, width; /* divisible by 32 * patch */
    ptrdiff_t in_channels, out_channels, base_channels;
    ptrdiff_t patch;
} dad_segmenter_options;

/* concat(x0, repaired x0) -> anomaly probability [out_channels, height, width]. */
void dad_build_segmenter(dad_graph *graph, const dad_segmenter_options *options);

#endif
