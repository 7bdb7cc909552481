/* Good pixels counted among steps, and the metrics from that, on NumPy arrays. */
#include "python/wrap.h" /* Python.h comes before the standard headers */

#include "pipeline/pixels.h"
#include "python/scores.h"
#include "python/steps.h"

enum { MOST_COLUMNS = 6 };

/* Intervals that rise and keep apart. */
static bool check_intervals(PyArrayObject *first, PyArrayObject *last) {
    npy_intp count = PyArray_SIZE(first);
    if (!dad_check_shape(last, "last", 1, &count)) {
        return false;
    }
    const uint32_t *low = PyArray_DATA(first), *high = PyArray_DATA(last);
    for (npy_intp i = 0; i < count; i++) {
        if (low[i] > high[i] || (i > 0 && low[i] <= high[i - 1])) {
            return dad_refuse("first, last", "expected rising intervals that keep apart");
        }
    }
    return true;
}

/* starts[0] = 0 <= starts[1] <= ... = length. */
static bool check_starts(const dad_column *starts, npy_intp length) {
    npy_intp count = PyArray_SIZE(starts->row);
    const int64_t *at = PyArray_DATA(starts->row);
    bool ok = count > 0 && at[0] == 0 && at[count - 1] == length;
    for (npy_intp i = 1; ok && i < count; i++) {
        ok = at[i - 1] <= at[i];
    }
    return ok || dad_refuse(starts->name, "expected places from 0 to the end, not falling");
}

static PyObject *count_scores(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"keys", "scores", NULL};
    PyObject *keys_object, *scores_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:count_scores", names, &keys_object,
                                     &scores_object)) {
        return NULL;
    }
    dad_column c[] = {{NULL, keys_object, "keys", NPY_UINT32},
                      {NULL, scores_object, "scores", NPY_FLOAT32}};
    PyArrayObject *counts = NULL;
    if (!dad_input_columns(c, 2) || !dad_own_column(&c[0]) ||
        !check_intervals(c[0].row, c[0].row)) {
        goto done;
    }
    npy_intp places = 2 * PyArray_SIZE(c[0].row) + 1;
    counts = (PyArrayObject *)PyArray_ZEROS(1, &places, NPY_INT64, 0);
    if (counts == NULL) {
        goto done;
    }
    const uint32_t *keys = PyArray_DATA(c[0].row);
    dad_step_index index;
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_index_steps(&index, keys, keys, places / 2);
    if (status == DAD_OK) {
        status = dad_count_scores(PyArray_DATA(counts), &index, PyArray_DATA(c[1].row),
                                  NULL, PyArray_SIZE(c[1].row));
    }
    dad_index_free(&index);
    DAD_END_COMPUTE
    result = status == DAD_OK ? Py_NewRef(counts) : dad_raise(status, "count_scores");
done:
    dad_release_columns(c, 2);
    Py_XDECREF(counts);
    return result;
}

static PyObject *count_images(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"first",   "last",          "good", "good_starts",
                            "defects", "defect_starts", NULL};
    dad_column c[MOST_COLUMNS] = {
        {NULL, NULL, "first", NPY_UINT32},   {NULL, NULL, "last", NPY_UINT32},
        {NULL, NULL, "good", NPY_FLOAT32},   {NULL, NULL, "good_starts", NPY_INT64},
        {NULL, NULL, "defects", NPY_UINT64}, {NULL, NULL, "defect_starts", NPY_INT64},
    };
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOO:count_images", names,
                                     &c[0].object, &c[1].object, &c[2].object, &c[3].object,
                                     &c[4].object, &c[5].object)) {
        return NULL;
    }
    PyObject *result = NULL;
    PyArrayObject *good = NULL, *positives = NULL, *shares = NULL;
    if (!dad_input_columns(c, MOST_COLUMNS) || !dad_own_column(&c[0]) ||
        !dad_own_column(&c[1]) || !dad_own_column(&c[3]) || !dad_own_column(&c[5]) ||
        !check_intervals(c[0].row, c[1].row) ||
        !check_starts(&c[3], PyArray_SIZE(c[2].row)) ||
        !check_starts(&c[5], PyArray_SIZE(c[4].row)) ||
        !dad_check_length(&c[5], PyArray_SIZE(c[3].row)) || !dad_check_items(c[4].row)) {
        goto done;
    }
    npy_intp N = PyArray_SIZE(c[3].row) - 1, steps = PyArray_SIZE(c[0].row);
    good = dad_output(NPY_INT64, 2, (npy_intp[]){N, 2 * steps + 1});
    positives = dad_output(NPY_INT64, 2, (npy_intp[]){N, steps});
    shares = dad_output(NPY_FLOAT64, 2, (npy_intp[]){N, steps});
    if (good == NULL || positives == NULL || shares == NULL) {
        goto done;
    }
    dad_image_counts counts = {PyArray_DATA(good), PyArray_DATA(positives),
                               PyArray_DATA(shares)};
    dad_step_index index;
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_index_steps(&index, PyArray_DATA(c[0].row), PyArray_DATA(c[1].row), steps);
    if (status == DAD_OK) {
        dad_count_images(&counts, &index, PyArray_DATA(c[2].row), PyArray_DATA(c[3].row),
                         PyArray_DATA(c[4].row), PyArray_DATA(c[5].row), N);
    }
    dad_index_free(&index);
    DAD_END_COMPUTE
    result = status == DAD_OK ? PyTuple_Pack(3, good, positives, shares)
                              : dad_raise(status, "count_images");
done:
    dad_release_columns(c, MOST_COLUMNS);
    Py_XDECREF(good);
    Py_XDECREF(positives);
    Py_XDECREF(shares);
    return result;
}

/* The totals (positives, negatives, regions). */
static bool parse_totals(dad_totals *totals, PyObject *object, double fpr_limit) {
    long long P, N, R;
    if (!PyTuple_Check(object)) {
        PyErr_Format(PyExc_TypeError, "totals: expected a tuple, got %s",
                     Py_TYPE(object)->tp_name);
        return false;
    }
    if (!PyArg_ParseTuple(object, "LLL:totals", &P, &N, &R)) {
        return false;
    }
    if (P < 1 || N < 1 || R < 1) {
        return dad_refuse("totals", "expected pixels of both classes, and regions");
    }
    *totals = (dad_totals){P, N, R, fpr_limit};
    return dad_check_fpr_limit(fpr_limit);
}

static PyObject *tally_steps(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"parts", "totals", "fpr_limit", NULL};
    PyObject *iterable, *totals_object, *iterator = NULL, *part, *result = NULL;
    double fpr_limit;
    dad_totals totals;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOd:tally_steps", names, &iterable,
                                     &totals_object, &fpr_limit) ||
        !parse_totals(&totals, totals_object, fpr_limit) ||
        (iterator = PyObject_GetIter(iterable)) == NULL) {
        return NULL;
    }
    dad_tally tally = {0};
    while ((part = PyIter_Next(iterator)) != NULL) {
        PyObject *steps_object, *counts_object;
        dad_step_arrays arrays = {0};
        dad_column counts = {NULL, NULL, "counts", NPY_INT64};
        bool ok = PyTuple_Check(part)
                      ? PyArg_ParseTuple(part, "OO:part", &steps_object, &counts_object)
                      : dad_refuse("parts", "expected tuples (steps, counts)");
        if (ok) {
            counts.object = counts_object;
            ok = dad_input_steps(&arrays, steps_object) && dad_input_columns(&counts, 1) &&
                 dad_check_length(&counts, 2 * PyArray_SIZE(arrays.keys) + 1);
        }
        if (ok) {
            dad_steps steps = dad_steps_of(&arrays);
            const int64_t *places = PyArray_DATA(counts.row);
            DAD_BEGIN_COMPUTE
            dad_tally_steps(&tally, &steps, places, &totals);
            DAD_END_COMPUTE
        }
        dad_release_columns(&counts, 1);
        dad_release_steps(&arrays);
        Py_DECREF(part);
        if (!ok) {
            goto done;
        }
    }
    if (!PyErr_Occurred()) {
        dad_summary summary = dad_tally_summary(&tally, &totals);
        result = dad_summary_dict(&summary);
    }
done:
    Py_DECREF(iterator);
    return result;
}

static bool check_images(PyArrayObject *images, npy_intp N) {
    const int32_t *image = PyArray_DATA(images);
    for (npy_intp i = 0; i < PyArray_SIZE(images); i++) {
        if (image[i] < 0 || image[i] >= N) {
            return dad_refuse("images", "an entry is of an image that has no weight");
        }
    }
    return true;
}

static PyObject *weighted_metrics(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"starts", "images",  "good",      "found",
                            "shares", "weights", "fpr_limit", NULL};
    dad_column c[] = {
        {NULL, NULL, "starts", NPY_INT64},   {NULL, NULL, "images", NPY_INT32},
        {NULL, NULL, "good", NPY_FLOAT64},   {NULL, NULL, "found", NPY_FLOAT64},
        {NULL, NULL, "shares", NPY_FLOAT64},
    };
    PyObject *weights_object, *result = NULL;
    double fpr_limit = 0.3;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOO|d:weighted_metrics", names,
                                     &c[0].object, &c[1].object, &c[2].object, &c[3].object,
                                     &c[4].object, &weights_object, &fpr_limit) ||
        !dad_check_fpr_limit(fpr_limit)) {
        return NULL;
    }
    PyArrayObject *metrics = NULL, *weights = NULL;
    if (!dad_input_columns(c, 5) || !dad_own_column(&c[0]) || !dad_own_column(&c[1])) {
        goto done;
    }
    npy_intp entries = PyArray_SIZE(c[1].row);
    weights = dad_input(weights_object, "weights", NPY_FLOAT64, 2);
    if (weights == NULL || !check_starts(&c[0], entries) ||
        !dad_check_length(&c[2], entries) || !dad_check_length(&c[3], entries) ||
        !dad_check_length(&c[4], entries) ||
        !check_images(c[1].row, PyArray_DIM(weights, 1))) {
        goto done;
    }
    npy_intp B = PyArray_DIM(weights, 0), N = PyArray_DIM(weights, 1);
    metrics = dad_output(NPY_FLOAT64, 2, (npy_intp[]){B, 4});
    if (metrics == NULL) {
        goto done;
    }
    dad_image_steps steps = {PyArray_DATA(c[0].row), PyArray_DATA(c[1].row),
                             PyArray_DATA(c[2].row), PyArray_DATA(c[3].row),
                             PyArray_DATA(c[4].row), PyArray_SIZE(c[0].row) - 1};
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_weighted_metrics(PyArray_DATA(metrics), &steps, PyArray_DATA(weights), B,
                                  N, fpr_limit);
    DAD_END_COMPUTE
    result = status == DAD_OK ? Py_NewRef(metrics) : dad_raise(status, "weighted_metrics");
done:
    dad_release_columns(c, 5);
    Py_XDECREF(weights);
    Py_XDECREF(metrics);
    return result;
}

PyMethodDef dad_count_methods[] = {
    DAD_METHOD(count_scores,
               "count_scores(keys, scores)\n--\n\n"
               "int64 (2 len(keys) + 1,): scores above key 0, at it, between 0 and 1, ..."),
    DAD_METHOD(
        count_images,
        "count_images(first, last, good, good_starts, defects, defect_starts)\n--\n\n"
        "Per image, good pixels between and in the intervals of keys, and defect\n"
        "pixels and their shares in them."),
    DAD_METHOD(
        tally_steps,
        "tally_steps(parts, totals, fpr_limit)\n--\n\n"
        "The dict of pixel_metrics from parts (steps, counts), high scores first, and\n"
        "totals (positives, negatives, regions)."),
    DAD_METHOD(
        weighted_metrics,
        "weighted_metrics(starts, images, good, found, shares, weights, fpr_limit=0.3)\n"
        "--\n\n"
        "AUROC, AP, F1-max and AUPRO (B, 4) of images that count weights (B, N) times."),
    {NULL, NULL, 0, NULL},
};
