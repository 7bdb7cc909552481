/* Checks of scores and maps. */
#include "python/scores.h"

dad_scores dad_scores_of(PyArrayObject *array) {
    return (dad_scores){PyArray_DATA(array), PyArray_SIZE(array),
                        PyArray_TYPE(array) == NPY_FLOAT64};
}

bool dad_check_finite(PyArrayObject *array, const char *name) {
    dad_scores scores = dad_scores_of(array);
    ptrdiff_t bad;
    Py_BEGIN_ALLOW_THREADS
    bad = dad_first_not_finite(scores);
    Py_END_ALLOW_THREADS
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
    bool wide =
        PyArray_Check(object) && PyArray_TYPE((PyArrayObject *)object) == NPY_FLOAT64;
    PyArrayObject *array =
        dad_input(object, name, wide ? NPY_FLOAT64 : NPY_FLOAT32, dimensions);
    if (array != NULL && !dad_check_finite(array, name)) {
        Py_CLEAR(array);
    }
    return array;
}
