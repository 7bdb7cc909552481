/* Rows, steps and items as arguments of the pixel metrics. What returns false has set an
 * exception. */
#ifndef DAD_PYTHON_STEPS_H
#define DAD_PYTHON_STEPS_H

#include "python/arrays.h" /* Python.h comes before the standard headers */

#include "pipeline/pixels.h"

/* As dad_input(), one dimension, and may be empty. */
PyArrayObject *dad_input_row(PyObject *object, const char *name, int type);

/* Arguments that are rows; `row` is filled by dad_input_columns() and owned. */
typedef struct {
    PyArrayObject *row;
    PyObject *object;
    const char *name;
    int type;
} dad_column;

/* The caller releases all columns in either case. */
bool dad_input_columns(dad_column *columns, int count);
void dad_release_columns(dad_column *columns, int count);

/* Makes the row a copy, which no other thread can change after it was checked. */
bool dad_own_column(dad_column *column);
bool dad_check_length(const dad_column *column, npy_intp length);

/* ValueError; returns false. */
bool dad_refuse(const char *name, const char *why);

/* Defect items whose regions have pixels. */
bool dad_check_items(PyArrayObject *items);

/* Steps as a tuple (keys, positives, shares [count, 2]). */
typedef struct {
    PyArrayObject *keys, *positives, *shares;
} dad_step_arrays;

dad_steps dad_steps_of(const dad_step_arrays *arrays);

/* The caller releases the arrays in either case. */
bool dad_new_steps(dad_step_arrays *arrays, npy_intp count);
bool dad_input_steps(dad_step_arrays *arrays, PyObject *object);
void dad_release_steps(dad_step_arrays *arrays);

/* The first `count` of them. */
PyObject *dad_steps_tuple(const dad_step_arrays *arrays, npy_intp count);

#endif
