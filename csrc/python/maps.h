/* Maps cross the Python boundary as NCHW and are NHWC inside: the two conversions, checked.
 */
#ifndef DAD_MAPS_H
#define DAD_MAPS_H

#include "python/arrays.h"

typedef struct {
    ptrdiff_t N, C, H, W;
} dad_map_size;

static inline ptrdiff_t dad_map_count(dad_map_size size) {
    return size.N * size.C * size.H * size.W;
}

/* An NHWC copy of `object`, float32 [N, C, H, W] named `name`, for dad_free; NULL with an
 * exception set. A size that is not negative on entry is required, and all are set on
 * return. */
float *dad_map_input(PyObject *object, const char *name, dad_map_size *size);

/* A new NCHW array of an NHWC map. */
PyArrayObject *dad_map_output(const float *map, dad_map_size size);

#define DAD_ANY_MAP ((dad_map_size){-1, -1, -1, -1})

#endif
