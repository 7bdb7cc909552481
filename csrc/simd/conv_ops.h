/* Inner loops of the convolutions: tile transforms and micro-kernels. */
#ifndef DAD_CONV_OPS_H
#define DAD_CONV_OPS_H

#include <stddef.h>

typedef struct {
    int lanes; /* floats in a vector of this level */
} dad_conv_ops;

#endif
