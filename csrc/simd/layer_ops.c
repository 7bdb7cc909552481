/* The tables of the layer_*.c files of this level, put together. */
#include "simd/layer_ops.h"

#include "simd/vec.h"

extern const dad_elementwise_ops DAD_AT_LEVEL(dad_elementwise_ops);
extern const dad_norm_ops DAD_AT_LEVEL(dad_norm_ops);
extern const dad_map_ops DAD_AT_LEVEL(dad_map_ops);
extern const dad_row_ops DAD_AT_LEVEL(dad_row_ops);
extern const dad_loss_ops DAD_AT_LEVEL(dad_loss_ops);

extern const dad_layer_ops DAD_AT_LEVEL(dad_layer_ops);
const dad_layer_ops DAD_AT_LEVEL(dad_layer_ops) = {
    .elementwise = &DAD_AT_LEVEL(dad_elementwise_ops),
    .norm = &DAD_AT_LEVEL(dad_norm_ops),
    .map = &DAD_AT_LEVEL(dad_map_ops),
    .row = &DAD_AT_LEVEL(dad_row_ops),
    .loss = &DAD_AT_LEVEL(dad_loss_ops),
};
