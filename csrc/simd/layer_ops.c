#include "simd/layer_ops.h"

#include "simd/vec.h"

extern const dad_layer_ops DAD_AT_LEVEL(dad_layer_ops);
const dad_layer_ops DAD_AT_LEVEL(dad_layer_ops) = {.lanes = VL};
