/* What an evaluation pass need not make: values that whoever reads them can make on the
 * fly, and passes over maps that a convolution can do on its way out.
 *
 *   concatenation      read in two parts by convolutions and GroupNorms
 *   nearest x2         read at half the size by 3x3 convolutions, also as their residual
 *   BatchNorm          done by the convolution before it, with its activation
 *   GroupNorm's sums   given by the convolution that makes the map
 *   GroupNorm, SiLU    applied by the 3x3 convolutions that read it
 *
 * Training keeps all values: the backward pass reads them. */
#ifndef DAD_FUSE_H
#define DAD_FUSE_H

#include "graph/graph.h"

typedef struct {
    bool absent; /* the value is never made (concatenation, nearest), or is the one of the
                    convolution before (BatchNorm) */
    dad_value norm; /* of a convolution: the BatchNorm that it does, or DAD_NONE */
    bool moments;   /* of a convolution: a GroupNorm reads its value */
    bool deferred;  /* of a GroupNorm: its value is scale and shift, for its readers */
} dad_fusion;

/* fusions [graph->count]. */
void dad_fuse(dad_fusion *fusions, const dad_graph *graph);

#endif
