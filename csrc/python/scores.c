/* Checks of scores, maps, masks and limits. */
#include "python/scores.h"

dad_scores dad_scores_of(PyArrayObject *array) {
    return (dad_scores){PyArray_DATA(array), PyArray_SIZE(array),
                        dad_is_type(array, NPY_FLOAT64)};
}

bool dad_check_finite(PyArrayObject *array, const char *name) {
    dad_scores scores = dad_scores_of(array);
    ptrdiff_t bad;
    DAD_BEGIN_COMPUTE
    bad = dad_first_not_finite(scores);
    DAD_END_COMPUTE
    if (bad < 0) {
        return true;
    }
    double value = scores.wide ? ((const double *)scores.values)[bad]
                               : (double)((const float *)scores.values)[bad];
    PyObject *text = PyFloat_FromDouble(value);
    if (text != NULL) {
        PyErr_Format(PyExc_ValueError, "%s: expected finite values, got %S at element %zd",
                     name, text, bad);
    }
    Py_XDECREF(text);
    return false;
}

PyArrayObject *dad_input_scores(PyObject *object, const char *name, int dimensions) {
    bool wide = PyArray_Check(object) && dad_is_type((PyArrayObject *)object, NPY_FLOAT64);
    PyArrayObject *array =
        dad_input(object, name, wide ? NPY_FLOAT64 : NPY_FLOAT32, dimensions);
    if (array != NULL && !dad_check_finite(array, name)) {
        Py_CLEAR(array);
    }
    return array;
}

PyArrayObject *dad_input_bytes(PyObject *object, const char *name, int dimensions) {
    bool is_bool =
        PyArray_Check(object) && PyArray_TYPE((PyArrayObject *)object) == NPY_BOOL;
    return dad_input(object, name, is_bool ? NPY_BOOL : NPY_UINT8, dimensions);
}

bool dad_check_fpr_limit(double limit) {
    if (limit > 0.0 && limit <= 1.0) {
        return true;
    }
    PyObject *text = PyFloat_FromDouble(limit);
    if (text != NULL) {
        PyErr_Format(PyExc_ValueError, "fpr_limit: expected 0 < fpr_limit <= 1, got %S",
                     text);
    }
    Py_XDECREF(text);
    return false;
}

bool dad_check_map_size(PyArrayObject *masks) {
    npy_intp *shape = PyArray_DIMS(masks);
    int last = PyArray_NDIM(masks) - 1;
    if (shape[last - 1] <= (INT32_MAX - 1) / shape[last]) {
        return true;
    }
    PyErr_Format(PyExc_ValueError, "masks: %zd x %zd pixels are more than one map can have",
                 shape[last - 1], shape[last]);
    return false;
}

bool dad_input_maps(PyArrayObject **masks, PyArrayObject **maps, dad_maps_shape *shape,
                    PyObject *masks_object, PyObject *maps_object) {
    *maps = NULL;
    *masks = dad_input_bytes(masks_object, "masks", 3);
    if (*masks == NULL || !dad_check_map_size(*masks)) {
        return false;
    }
    *maps = dad_input_scores(maps_object, "maps", 3);
    if (*maps == NULL || !dad_check_shape(*maps, "maps", 3, PyArray_DIMS(*masks))) {
        return false;
    }
    npy_intp *sizes = PyArray_DIMS(*masks);
    *shape = (dad_maps_shape){sizes[0], sizes[1], sizes[2]};
    return true;
}
