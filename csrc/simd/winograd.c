/* The tile transforms of F(2x2, 3x3), F(4x4, 3x3) and F(6x6, 3x3): one template, three
 * sizes. */
#include "simd/conv_ops.h"
#include "simd/vec.h"
#include "simd/winograd_maps.h"

#define TILE 2
#include "simd/winograd_tile.inc"
#undef TILE

#define TILE 4
#include "simd/winograd_tile.inc"
#undef TILE

#define TILE 6
#include "simd/winograd_tile.inc"
#undef TILE
