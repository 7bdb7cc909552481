/* Gradient (Perlin) noise on a grid of RY x RX cells, unit gradients of the given angles:
 *
 *   noise = sqrt(2) * blend of the corners' (cos a, sin a) . (offset to the corner),
 *   fade(u) = 6 u^5 - 15 u^4 + 10 u^3 in both directions
 *
 * Along a row, each edge's blended contribution is linear in the offset, so a pixel costs
 * two multiply-adds per edge and one blend. The caller owns the buffers; one thread. */
#include <math.h>

#include "pipeline/pipeline.h"

static double fade(double u) { return u * u * u * (u * (6.0 * u - 15.0) + 10.0); }

/* A column's place within its cell, and the weight of the cell's right edge there. */
typedef struct {
    float *offset, *weight; /* [W] */
} columns;

static columns place_columns(float *scratch, ptrdiff_t W, ptrdiff_t RX) {
    columns c = {scratch, scratch + W};
    for (ptrdiff_t x = 0; x < W; x++) {
        double v = (double)(x * RX % W) / (double)W;
        c.offset[x] = (float)v;
        c.weight[x] = (float)fade(v);
    }
    return c;
}

/* What a vertical cell edge adds on the current row: base + slope * offset to the edge. */
typedef struct {
    float base, slope;
} edge;

static edge edge_at(const float *above, const float *below, double u, double weight) {
    return (edge){
        (float)(above[0] * u + weight * (below[0] * (u - 1.0) - above[0] * u)),
        (float)(above[1] + weight * (below[1] - above[1])),
    };
}

ptrdiff_t dad_perlin_scratch(ptrdiff_t W, ptrdiff_t RY, ptrdiff_t RX) {
    return 2 * W + 2 * (RY + 1) * (RX + 1);
}

void dad_perlin(float *noise, const double *angles, ptrdiff_t H, ptrdiff_t W, ptrdiff_t RY,
                ptrdiff_t RX, float *scratch) {
    columns column = place_columns(scratch, W, RX);
    float *gradients = scratch + 2 * W; /* [RY + 1, RX + 1, 2], sqrt(2) included */
    for (ptrdiff_t i = 0; i < (RY + 1) * (RX + 1); i++) {
        gradients[2 * i] = (float)(sqrt(2.0) * cos(angles[i]));
        gradients[2 * i + 1] = (float)(sqrt(2.0) * sin(angles[i]));
    }
    for (ptrdiff_t y = 0; y < H; y++) {
        double u = (double)(y * RY % H) / (double)H, weight = fade(u);
        const float *above = gradients + 2 * (y * RY / H) * (RX + 1);
        const float *below = above + 2 * (RX + 1);
        edge right = edge_at(above, below, u, weight);
        for (ptrdiff_t cell = 0; cell < RX; cell++) {
            edge left = right;
            right = edge_at(above + 2 * (cell + 1), below + 2 * (cell + 1), u, weight);
            ptrdiff_t end = ((cell + 1) * W + RX - 1) / RX;
            for (ptrdiff_t x = (cell * W + RX - 1) / RX; x < end; x++) {
                float v = column.offset[x];
                float from_left = left.base + left.slope * v;
                float from_right = right.base + right.slope * (v - 1.0f);
                noise[y * W + x] = from_left + column.weight[x] * (from_right - from_left);
            }
        }
    }
}
