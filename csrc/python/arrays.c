/* Checked conversion between NumPy arrays and C pointers. */
#include "python/arrays.h"

#include "base/memory.h"

PyArrayObject *dad_input(PyObject *object, const char *name, int type, int dimensions) {
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a NumPy array, got %s", name,
                     Py_TYPE(object)->tp_name);
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    if (!dad_is_type(array, type)) {
        PyArray_Descr *expected = PyArray_DescrFromType(type);
        PyErr_Format(PyExc_TypeError, "%s: expected dtype %S, got %S", name,
                     (PyObject *)expected, (PyObject *)PyArray_DESCR(array));
        Py_XDECREF(expected);
        return NULL;
    }
    if (dimensions != DAD_ANY_DIMENSIONS && PyArray_NDIM(array) != dimensions) {
        PyErr_Format(PyExc_ValueError, "%s: expected %d dimensions, got %d", name,
                     dimensions, PyArray_NDIM(array));
        return NULL;
    }
    if (PyArray_SIZE(array) == 0) {
        PyObject *shape = PyObject_GetAttrString(object, "shape");
        PyErr_Format(PyExc_ValueError, "%s: expected a non-empty array, got shape %S", name,
                     shape != NULL ? shape : Py_None);
        Py_XDECREF(shape);
        return NULL;
    }
    return (PyArrayObject *)PyArray_FROM_OTF(object, type,
                                             NPY_ARRAY_CARRAY_RO | NPY_ARRAY_NOTSWAPPED);
}

PyArrayObject *dad_input_float(PyObject *object, const char *name, int dimensions) {
    return dad_input(object, name, NPY_FLOAT32, dimensions);
}

bool dad_input_float_optional(PyArrayObject **array, PyObject *object, const char *name,
                              int dimensions) {
    *array = NULL;
    if (object == NULL || object == Py_None) {
        return true;
    }
    *array = dad_input_float(object, name, dimensions);
    return *array != NULL;
}

PyObject *dad_shape_tuple(int dimensions, const npy_intp *shape) {
    PyObject *tuple = PyTuple_New(dimensions);
    for (int i = 0; tuple != NULL && i < dimensions; i++) {
        PyObject *size =
            shape[i] < 0 ? PyUnicode_FromString("any") : PyLong_FromSsize_t(shape[i]);
        if (size == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, i, size);
    }
    return tuple;
}

bool dad_check_shape(PyArrayObject *array, const char *name, int dimensions,
                     const npy_intp *shape) {
    bool same = PyArray_NDIM(array) == dimensions;
    for (int i = 0; same && i < dimensions; i++) {
        same = shape[i] < 0 || PyArray_DIM(array, i) == shape[i];
    }
    if (same) {
        return true;
    }
    PyObject *expected = dad_shape_tuple(dimensions, shape);
    PyObject *got = dad_shape_tuple(PyArray_NDIM(array), PyArray_DIMS(array));
    if (expected != NULL && got != NULL) {
        PyErr_Format(PyExc_ValueError, "%s: expected shape %S, got %S", name, expected,
                     got);
    }
    Py_XDECREF(expected);
    Py_XDECREF(got);
    return false;
}

bool dad_unsigned(uint64_t *value, PyObject *object, const char *name, int bits) {
    PyObject *number = PyNumber_Index(object); /* NumPy's, too */
    *value = number != NULL ? PyLong_AsUnsignedLongLong(number) : 0;
    Py_XDECREF(number);
    PyObject *error = *value > UINT64_MAX >> (64 - bits) ? PyExc_ValueError : NULL;
    if (PyErr_Occurred()) {
        bool none = PyErr_ExceptionMatches(PyExc_TypeError);
        if (!none && !PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return false;
        }
        error = none ? PyExc_TypeError : PyExc_ValueError;
    }
    if (error != NULL) {
        PyErr_Format(error, "%s: expected an int from 0 to 2**%d - 1, got %R", name, bits,
                     object);
    }
    return error == NULL;
}

bool dad_seed(uint64_t *seed, PyObject *object) {
    return dad_unsigned(seed, object, "seed", 64);
}

PyArrayObject *dad_output(int type, int dimensions, const npy_intp *shape) {
    return (PyArrayObject *)PyArray_SimpleNew(dimensions, shape, type);
}

float *dad_scratch(ptrdiff_t count) {
    float *buffer = dad_alloc(count);
    if (buffer == NULL) {
        PyErr_NoMemory();
    }
    return buffer;
}

PyObject *dad_raise(dad_status status, const char *what) {
    switch (status) {
    case DAD_OK:
        PyErr_Format(PyExc_SystemError, "%s: raised without an error", what);
        break;
    case DAD_NO_MEMORY:
        PyErr_Format(PyExc_MemoryError, "%s: not enough memory", what);
        break;
    case DAD_BAD_SHAPE:
        PyErr_Format(PyExc_ValueError, "%s: the shapes do not fit each other", what);
        break;
    }
    return NULL;
}
