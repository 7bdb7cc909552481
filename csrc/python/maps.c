/* NCHW arrays to NHWC buffers and back. */
#include "python/maps.h"

#include "base/memory.h"
#include "kernels/kernels.h"

float *dad_map_input(PyObject *object, const char *name, dad_map_size *size) {
    PyArrayObject *array = dad_input_float(object, name, 4);
    if (array == NULL) {
        return NULL;
    }
    const npy_intp expected[4] = {size->N, size->C, size->H, size->W};
    float *map = NULL;
    if (dad_check_shape(array, name, 4, expected)) {
        const npy_intp *shape = PyArray_DIMS(array);
        *size = (dad_map_size){shape[0], shape[1], shape[2], shape[3]};
        map = dad_scratch(dad_map_count(*size));
    }
    if (map != NULL) {
        DAD_BEGIN_COMPUTE
        dad_nchw_to_nhwc(map, dad_floats(array), size->N, size->C, size->H * size->W);
        DAD_END_COMPUTE
    }
    Py_DECREF(array);
    return map;
}

PyArrayObject *dad_map_output(const float *map, dad_map_size size) {
    const npy_intp shape[4] = {size.N, size.C, size.H, size.W};
    PyArrayObject *array = dad_output(NPY_FLOAT32, 4, shape);
    if (array != NULL) {
        DAD_BEGIN_COMPUTE
        dad_nhwc_to_nchw(dad_floats(array), map, size.N, size.C, size.H * size.W);
        DAD_END_COMPUTE
    }
    return array;
}
