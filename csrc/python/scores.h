/* Scores and maps as arguments: float32 or float64, without NaN and infinity. */
#ifndef DAD_PYTHON_SCORES_H
#define DAD_PYTHON_SCORES_H

#include "python/arrays.h" /* Python.h comes before the standard headers */

#include "pipeline/metrics.h"

/* What the metrics read of an array that dad_input_scores() has let in. */
dad_scores dad_scores_of(PyArrayObject *array);

/* ValueError that names the first value that is not finite. */
bool dad_check_finite(PyArrayObject *array, const char *name);

/* A new reference to a contiguous array, or NULL with an exception; see dad_input(). */
PyArrayObject *dad_input_scores(PyObject *object, const char *name, int dimensions);

#endif
