/* Inner loops of everything that is no convolution: activations, normalisation, softmax, Adam. */
#ifndef DAD_LAYER_OPS_H
#define DAD_LAYER_OPS_H

#include <stddef.h>

typedef struct {
    int lanes; /* floats in a vector of this level */
} dad_layer_ops;

#endif
