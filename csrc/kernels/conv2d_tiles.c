/* Tiles of a map, transformed run by run: neighbours in a row share one strip. One thread;
 * the strip belongs to the caller. */
#include "kernels/conv2d_tiles.h"

enum { STRIP_TILES = 12 }; /* such a strip of F(4x4) takes 19 KiB of the first cache */

dad_tiling dad_tiling_of(const dad_conv2d_shape *shape, ptrdiff_t multiple) {
    dad_tiling t = {
        .ops = dad_winograd_transforms(shape->algorithm), .H = shape->H, .W = shape->W};
    t.rows = dad_ceil_div(t.H, t.ops->tile);
    t.columns = dad_ceil_div(t.W, t.ops->tile);
    t.per_image = dad_round_up(t.rows * t.columns, multiple);
    t.tiles = shape->N * t.per_image;
    t.points = t.ops->points;
    return t;
}

ptrdiff_t dad_tiling_strip_size(const dad_tiling *tiling) {
    const ptrdiff_t tile = tiling->ops->tile;
    return (tile + 2) * (STRIP_TILES * tile + 2) * DAD_PANEL;
}

void dad_transform_tiles(float *out, ptrdiff_t point_stride, ptrdiff_t tile_stride,
                         const dad_tile_map *map, const dad_tiling *tiling, ptrdiff_t first,
                         ptrdiff_t count, ptrdiff_t c, float *strip) {
    const ptrdiff_t tile = tiling->ops->tile;
    const ptrdiff_t image = tiling->H * tiling->W * map->C / (map->doubled ? 4 : 1);
    for (ptrdiff_t done = 0; done < count;) {
        const dad_tile_place at = dad_tile_at(tiling, first + done);
        const ptrdiff_t in_row = tiling->columns - at.j / tile;
        const ptrdiff_t in_image = (at.n + 1) * tiling->per_image - first - done;
        const ptrdiff_t left = dad_min(dad_min(in_row, in_image), count - done);
        const ptrdiff_t run = dad_min(left, STRIP_TILES);
        const ptrdiff_t columns = run * tile + 2 * map->halo;
        dad_strip_source source = {.image = map->data + at.n * image,
                                   .H = tiling->H,
                                   .W = tiling->W,
                                   .C = map->C,
                                   .doubled = map->doubled};
        if (map->scale != NULL) {
            source.scale = map->scale + at.n * map->stride;
            source.shift = map->shift + at.n * map->stride;
        }
        dad_simd()->conv->strip(strip, &source, c, at.i - map->halo, at.j - map->halo,
                                tile + 2 * map->halo, columns);
        map->transform(out + done * tile_stride, point_stride, tile_stride, strip, columns,
                       run);
        done += run;
    }
}
