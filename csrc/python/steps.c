/* Checked conversion of steps and rows. */
#include "python/steps.h"

PyArrayObject *dad_input_row(PyObject *object, const char *name, int type) {
    if (PyArray_Check(object) && dad_is_type((PyArrayObject *)object, type) &&
        PyArray_NDIM((PyArrayObject *)object) == 1) {
        return (PyArrayObject *)PyArray_FROM_OTF(
            object, type, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_NOTSWAPPED);
    }
    return dad_input(object, name, type, 1); /* says what is wrong */
}

void dad_release_columns(dad_column *columns, int count) {
    for (int i = 0; i < count; i++) {
        Py_CLEAR(columns[i].row);
    }
}

bool dad_input_columns(dad_column *columns, int count) {
    for (int i = 0; i < count; i++) {
        columns[i].row = dad_input_row(columns[i].object, columns[i].name, columns[i].type);
        if (columns[i].row == NULL) {
            return false;
        }
    }
    return true;
}

bool dad_own_column(dad_column *column) {
    PyArrayObject *row = column->row;
    column->row = (PyArrayObject *)PyArray_NewCopy(row, NPY_CORDER);
    Py_DECREF(row);
    return column->row != NULL;
}

bool dad_check_length(const dad_column *c, npy_intp length) {
    return dad_check_shape(c->row, c->name, 1, &length);
}

bool dad_refuse(const char *name, const char *why) {
    PyErr_Format(PyExc_ValueError, "%s: %s", name, why);
    return false;
}

bool dad_check_items(PyArrayObject *items) {
    const dad_narrow_item *item = PyArray_DATA(items);
    for (npy_intp i = 0; i < PyArray_SIZE(items); i++) {
        if ((uint32_t)item[i] == 0) {
            return dad_refuse("defects", "a region has no pixels");
        }
    }
    return true;
}

dad_steps dad_steps_of(const dad_step_arrays *arrays) {
    return (dad_steps){PyArray_DATA(arrays->keys), PyArray_DATA(arrays->positives),
                       PyArray_DATA(arrays->shares), PyArray_SIZE(arrays->keys)};
}

void dad_release_steps(dad_step_arrays *arrays) {
    Py_CLEAR(arrays->keys);
    Py_CLEAR(arrays->positives);
    Py_CLEAR(arrays->shares);
}

bool dad_new_steps(dad_step_arrays *arrays, npy_intp count) {
    npy_intp shape[] = {count, 2};
    arrays->keys = dad_output(NPY_UINT32, 1, shape);
    arrays->positives = dad_output(NPY_INT64, 1, shape);
    arrays->shares = dad_output(NPY_UINT64, 2, shape);
    return arrays->keys != NULL && arrays->positives != NULL && arrays->shares != NULL;
}

bool dad_input_steps(dad_step_arrays *arrays, PyObject *object) {
    PyObject *keys, *positives, *shares;
    *arrays = (dad_step_arrays){0};
    if (!PyTuple_Check(object)) {
        PyErr_Format(PyExc_TypeError, "steps: expected a tuple, got %s",
                     Py_TYPE(object)->tp_name);
        return false;
    }
    if (!PyArg_ParseTuple(object, "OOO:steps", &keys, &positives, &shares)) {
        return false;
    }
    dad_column columns[] = {{NULL, keys, "keys", NPY_UINT32},
                            {NULL, positives, "positives", NPY_INT64}};
    bool ok = dad_input_columns(columns, 2);
    arrays->keys = columns[0].row;
    arrays->positives = columns[1].row;
    if (!ok || !dad_check_length(&columns[1], PyArray_SIZE(arrays->keys))) {
        return false;
    }
    if (!PyArray_Check(shares) || !dad_is_type((PyArrayObject *)shares, NPY_UINT64)) {
        PyErr_SetString(PyExc_TypeError, "shares: expected an array of dtype uint64");
        return false;
    }
    arrays->shares = (PyArrayObject *)PyArray_FROM_OTF(
        shares, NPY_UINT64, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_NOTSWAPPED);
    return arrays->shares != NULL &&
           dad_check_shape(arrays->shares, "shares", 2,
                           (npy_intp[]){PyArray_SIZE(arrays->keys), 2});
}

PyObject *dad_steps_tuple(const dad_step_arrays *arrays, npy_intp count) {
    PyObject *parts[3] = {(PyObject *)arrays->keys, (PyObject *)arrays->positives,
                          (PyObject *)arrays->shares};
    PyObject *tuple = PyTuple_New(3);
    for (int i = 0; tuple != NULL && i < 3; i++) {
        PyObject *part = PySequence_GetSlice(parts[i], 0, count);
        if (part == NULL) {
            Py_CLEAR(tuple);
        } else {
            PyTuple_SET_ITEM(tuple, i, part);
        }
    }
    return tuple;
}
