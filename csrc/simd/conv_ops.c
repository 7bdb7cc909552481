#include "simd/conv_ops.h"

#include "simd/vec.h"

extern const dad_conv_ops DAD_AT_LEVEL(dad_conv_ops);
const dad_conv_ops DAD_AT_LEVEL(dad_conv_ops) = {.lanes = VL};
