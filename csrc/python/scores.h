/* Scores, maps and masks as arguments: float32 or float64 without NaN and infinity, bool or
 * uint8. What returns false has set an exception. */
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

/* The same for bool or uint8. */
PyArrayObject *dad_input_bytes(PyObject *object, const char *name, int dimensions);

/* 0 < limit <= 1; no more pixels in a mask than 32 bits can number. */
bool dad_check_fpr_limit(double limit);
bool dad_check_map_size(PyArrayObject *masks);

/* Both as checked arrays of one shape [N, H, W]; the caller releases both in either case.
 */
bool dad_input_maps(PyArrayObject **masks, PyArrayObject **maps, dad_maps_shape *shape,
                    PyObject *masks_object, PyObject *maps_object);

/* wrap_metrics.c */
PyObject *dad_summary_dict(const dad_summary *summary);

#endif
