/* The tiles of Winograd's algorithm: m x m outputs each, numbered row by row through all
 * images. After those of an image there may be numbers that no tile has, up to a multiple
 * of something: transforms then see zeros or, below the map's last row, pixels of it. */
#ifndef DAD_CONV2D_TILES_H
#define DAD_CONV2D_TILES_H

#include "base/memory.h"
#include "kernels/conv2d.h"

typedef struct {
    const dad_winograd_ops *ops;
    ptrdiff_t H, W;
    ptrdiff_t rows, columns; /* of tiles in an image */
    ptrdiff_t per_image;     /* numbers of an image */
    ptrdiff_t tiles;         /* numbers of all images */
    ptrdiff_t points;        /* (m + 2)^2 */
} dad_tiling;

/* per_image is a multiple of `multiple`. */
dad_tiling dad_tiling_of(const dad_conv2d_shape *shape, ptrdiff_t multiple);

typedef struct {
    ptrdiff_t n, i, j; /* image, and the first output pixel */
} dad_tile_place;

static inline dad_tile_place dad_tile_at(const dad_tiling *t, ptrdiff_t index) {
    const ptrdiff_t inside = index % t->per_image;
    return (dad_tile_place){index / t->per_image, inside / t->columns * t->ops->tile,
                            inside % t->columns * t->ops->tile};
}

/* What is transformed: x with a halo of 1 pixel around each tile, or dy with none. */
typedef struct {
    const float *data; /* [N, H, W, C] */
    ptrdiff_t C, halo;
    bool doubled;               /* data is [N, H / 2, W / 2, C] */
    const float *scale, *shift; /* [N, ..] `stride` apart, or NULL: see dad_strip_source */
    ptrdiff_t stride;
    dad_tile_transform *transform;
} dad_tile_map;

ptrdiff_t dad_tiling_strip_size(const dad_tiling *tiling);

/* out: channels c .. c + 15 of tiles first .. first + count - 1, each point_stride and
 * tile_stride apart. */
void dad_transform_tiles(float *out, ptrdiff_t point_stride, ptrdiff_t tile_stride,
                         const dad_tile_map *map, const dad_tiling *tiling, ptrdiff_t first,
                         ptrdiff_t count, ptrdiff_t c, float *strip);

#endif
