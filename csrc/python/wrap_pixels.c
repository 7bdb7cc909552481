/* The parts of the pixel metrics on NumPy arrays, for maps that do not fit into memory
 * together: diffusionad/pixelwise.py keeps what they make, and puts them together. */
#include "python/wrap.h" /* Python.h comes before the standard headers */

#include "pipeline/pixels.h"
#include "python/scores.h"

/* ---- Arguments ------------------------------------------------------------------- */

/* As dad_input(), one dimension, and may be empty. */
static PyArrayObject *input_row(PyObject *object, const char *name, int type) {
    if (PyArray_Check(object) && PyArray_TYPE((PyArrayObject *)object) == type &&
        PyArray_NDIM((PyArrayObject *)object) == 1) {
        return (PyArrayObject *)PyArray_FROM_OTF(
            object, type, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_NOTSWAPPED);
    }
    return dad_input(object, name, type, 1); /* says what is wrong */
}

/* Rows of one table. */
typedef struct {
    PyArrayObject *row;
    PyObject *object;
    const char *name;
    int type;
} column;

enum { MOST_COLUMNS = 6 };

static void release(column *columns, int count) {
    for (int i = 0; i < count; i++) {
        Py_CLEAR(columns[i].row);
    }
}

static bool input_columns(column *columns, int count) {
    for (int i = 0; i < count; i++) {
        columns[i].row = input_row(columns[i].object, columns[i].name, columns[i].type);
        if (columns[i].row == NULL) {
            return false;
        }
    }
    return true;
}

static bool check_length(const column *c, npy_intp length) {
    return dad_check_shape(c->row, c->name, 1, &length);
}

static bool refuse(const char *name, const char *why) {
    PyErr_Format(PyExc_ValueError, "%s: %s", name, why);
    return false;
}

/* Intervals that rise and keep apart. */
static bool check_intervals(PyArrayObject *first, PyArrayObject *last) {
    npy_intp count = PyArray_SIZE(first);
    if (!dad_check_shape(last, "last", 1, &count)) {
        return false;
    }
    const uint32_t *low = PyArray_DATA(first), *high = PyArray_DATA(last);
    for (npy_intp i = 0; i < count; i++) {
        if (low[i] > high[i] || (i > 0 && low[i] <= high[i - 1])) {
            return refuse("first, last", "expected rising intervals that keep apart");
        }
    }
    return true;
}

/* starts[0] = 0 <= starts[1] <= ... = length. */
static bool check_starts(const column *starts, npy_intp length) {
    npy_intp count = PyArray_SIZE(starts->row);
    const int64_t *at = PyArray_DATA(starts->row);
    bool ok = count > 0 && at[0] == 0 && at[count - 1] == length;
    for (npy_intp i = 1; ok && i < count; i++) {
        ok = at[i - 1] <= at[i];
    }
    return ok || refuse(starts->name, "expected places from 0 to the end, not falling");
}

static bool check_items(PyArrayObject *items) {
    const dad_narrow_item *item = PyArray_DATA(items);
    for (npy_intp i = 0; i < PyArray_SIZE(items); i++) {
        if ((uint32_t)item[i] == 0) {
            return refuse("defects", "a region has no pixels");
        }
    }
    return true;
}

/* ---- Steps ----------------------------------------------------------------------- */

typedef struct {
    PyArrayObject *keys, *positives, *shares;
} step_arrays;

static dad_steps steps_of(const step_arrays *arrays) {
    return (dad_steps){PyArray_DATA(arrays->keys), PyArray_DATA(arrays->positives),
                       PyArray_DATA(arrays->shares), PyArray_SIZE(arrays->keys)};
}

static void release_steps(step_arrays *arrays) {
    Py_CLEAR(arrays->keys);
    Py_CLEAR(arrays->positives);
    Py_CLEAR(arrays->shares);
}

static bool new_steps(step_arrays *arrays, npy_intp count) {
    npy_intp shape[] = {count, 2};
    arrays->keys = dad_output(NPY_UINT32, 1, shape);
    arrays->positives = dad_output(NPY_INT64, 1, shape);
    arrays->shares = dad_output(NPY_UINT64, 2, shape);
    return arrays->keys != NULL && arrays->positives != NULL && arrays->shares != NULL;
}

/* From a tuple (keys, positives, shares); the caller releases the arrays in either case. */
static bool input_steps(step_arrays *arrays, PyObject *object) {
    PyObject *keys, *positives, *shares;
    *arrays = (step_arrays){0};
    if (!PyTuple_Check(object)) {
        PyErr_Format(PyExc_TypeError, "steps: expected a tuple, got %s",
                     Py_TYPE(object)->tp_name);
        return false;
    }
    if (!PyArg_ParseTuple(object, "OOO:steps", &keys, &positives, &shares)) {
        return false;
    }
    column columns[] = {{NULL, keys, "keys", NPY_UINT32},
                        {NULL, positives, "positives", NPY_INT64}};
    bool ok = input_columns(columns, 2);
    arrays->keys = columns[0].row;
    arrays->positives = columns[1].row;
    if (!ok || !check_length(&columns[1], PyArray_SIZE(arrays->keys))) {
        return false;
    }
    arrays->shares = dad_input(shares, "shares", NPY_UINT64, 2);
    return arrays->shares != NULL &&
           dad_check_shape(arrays->shares, "shares", 2,
                           (npy_intp[]){PyArray_SIZE(arrays->keys), 2});
}

/* The first `count` of them as a tuple. */
static PyObject *steps_tuple(const step_arrays *arrays, npy_intp count) {
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

/* ---- Functions ------------------------------------------------------------------- */

/* Counts to places, each image's after the one before; returns the sum. */
static int64_t to_starts(int64_t *starts, const int64_t *counts, npy_intp N, int64_t size) {
    int64_t sum = 0;
    for (npy_intp n = 0; n < N; n++) {
        starts[n] = sum;
        sum += size < 0 ? counts[n] : size - counts[n];
    }
    return sum;
}

static PyObject *split_pixels(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"masks", "maps", NULL};
    PyObject *masks_object, *maps_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:split_pixels", names, &masks_object,
                                     &maps_object)) {
        return NULL;
    }
    PyArrayObject *masks, *maps = NULL, *counts = NULL, *regions = NULL, *good = NULL,
                          *defects = NULL;
    int64_t *starts = NULL;
    dad_maps_shape shape;
    if (!dad_input_maps(&masks, &maps, &shape, masks_object, maps_object)) {
        goto done;
    }
    if (PyArray_TYPE(maps) != NPY_FLOAT32) {
        PyErr_SetString(PyExc_TypeError, "maps: expected dtype float32, got float64");
        goto done;
    }
    npy_intp N = shape.N;
    ptrdiff_t size = shape.H * shape.W;
    counts = dad_output(NPY_INT64, 1, &N);
    regions = dad_output(NPY_INT64, 1, &N);
    starts = PyMem_New(int64_t, 2 * (size_t)N);
    if (counts == NULL || regions == NULL || starts == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    dad_count_defects(PyArray_DATA(counts), PyArray_DATA(masks), N, size);
    Py_END_ALLOW_THREADS
    npy_intp bad = (npy_intp)to_starts(starts, PyArray_DATA(counts), N, -1);
    npy_intp rest = (npy_intp)to_starts(starts + N, PyArray_DATA(counts), N, size);
    good = dad_output(NPY_FLOAT32, 1, &rest);
    defects = dad_output(NPY_UINT64, 1, &bad);
    if (good == NULL || defects == NULL) {
        goto done;
    }
    dad_split split = {PyArray_DATA(good), PyArray_DATA(defects), PyArray_DATA(regions),
                       starts + N, starts};
    dad_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dad_split_pixels(&split, PyArray_DATA(masks), PyArray_DATA(maps), &shape);
    Py_END_ALLOW_THREADS
    result = status == DAD_OK ? PyTuple_Pack(4, good, defects, counts, regions)
                              : dad_raise(status, "split_pixels");
done:
    PyMem_Free(starts);
    Py_XDECREF(masks);
    Py_XDECREF(maps);
    Py_XDECREF(counts);
    Py_XDECREF(regions);
    Py_XDECREF(good);
    Py_XDECREF(defects);
    return result;
}

/* Copies the items with keys in low .. high; returns how many. */
static ptrdiff_t copy_between(dad_narrow_item *to, const dad_narrow_item *from,
                              ptrdiff_t count, uint32_t low, uint32_t high) {
    ptrdiff_t kept = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        uint32_t key = (uint32_t)(from[i] >> 32);
        to[kept] = from[i];
        kept += low <= key && key <= high;
    }
    return kept;
}

static PyObject *defect_steps(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"defects", "low", "high", NULL};
    PyObject *object, *result = NULL;
    unsigned int low = 0, high = UINT32_MAX;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|II:defect_steps", names, &object,
                                     &low, &high)) {
        return NULL;
    }
    step_arrays arrays = {0};
    dad_narrow_item *items = NULL, *spare = NULL;
    PyArrayObject *defects = input_row(object, "defects", NPY_UINT64);
    if (defects == NULL || !check_items(defects)) {
        goto done;
    }
    size_t room = (size_t)PyArray_SIZE(defects) + 1;
    items = PyMem_RawMalloc(room * sizeof(*items));
    spare = PyMem_RawMalloc(room * sizeof(*spare));
    if (items == NULL || spare == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    ptrdiff_t kept, count = 0;
    dad_status status;
    Py_BEGIN_ALLOW_THREADS
    kept = copy_between(items, PyArray_DATA(defects), PyArray_SIZE(defects), low, high);
    status = dad_sort_narrow(&items, &spare, kept);
    count = dad_count_steps(items, kept);
    Py_END_ALLOW_THREADS
    if (status != DAD_OK) {
        dad_raise(status, "defect_steps");
        goto done;
    }
    if (!new_steps(&arrays, count)) {
        goto done;
    }
    dad_steps steps = steps_of(&arrays);
    Py_BEGIN_ALLOW_THREADS
    dad_fill_steps(&steps, items, kept);
    Py_END_ALLOW_THREADS
    result = steps_tuple(&arrays, count);
done:
    PyMem_RawFree(items);
    PyMem_RawFree(spare);
    release_steps(&arrays);
    Py_XDECREF(defects);
    return result;
}

static PyObject *merge_steps(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"a", "b", NULL};
    PyObject *a_object, *b_object, *result = NULL;
    step_arrays a = {0}, b = {0}, both = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:merge_steps", names, &a_object,
                                     &b_object)) {
        return NULL;
    }
    if (!input_steps(&a, a_object) || !input_steps(&b, b_object) ||
        !new_steps(&both, PyArray_SIZE(a.keys) + PyArray_SIZE(b.keys))) {
        goto done;
    }
    dad_steps first = steps_of(&a), second = steps_of(&b), merged = steps_of(&both);
    ptrdiff_t count;
    Py_BEGIN_ALLOW_THREADS
    count = dad_merge_steps(&merged, &first, &second);
    Py_END_ALLOW_THREADS
    result = steps_tuple(&both, count);
done:
    release_steps(&a);
    release_steps(&b);
    release_steps(&both);
    return result;
}

static PyObject *count_scores(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"keys", "scores", NULL};
    PyObject *keys_object, *scores_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:count_scores", names, &keys_object,
                                     &scores_object)) {
        return NULL;
    }
    column c[] = {{NULL, keys_object, "keys", NPY_UINT32},
                  {NULL, scores_object, "scores", NPY_FLOAT32}};
    PyArrayObject *counts = NULL;
    if (!input_columns(c, 2) || !check_intervals(c[0].row, c[0].row)) {
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
    Py_BEGIN_ALLOW_THREADS
    status = dad_index_steps(&index, keys, keys, places / 2);
    if (status == DAD_OK) {
        status = dad_count_scores(PyArray_DATA(counts), &index, PyArray_DATA(c[1].row),
                                  NULL, PyArray_SIZE(c[1].row));
    }
    dad_index_free(&index);
    Py_END_ALLOW_THREADS
    result = status == DAD_OK ? Py_NewRef(counts) : dad_raise(status, "count_scores");
done:
    release(c, 2);
    Py_XDECREF(counts);
    return result;
}

static PyObject *count_images(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"first",   "last",          "good", "good_starts",
                            "defects", "defect_starts", NULL};
    column c[MOST_COLUMNS] = {
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
    if (!input_columns(c, MOST_COLUMNS) || !check_intervals(c[0].row, c[1].row) ||
        !check_starts(&c[3], PyArray_SIZE(c[2].row)) ||
        !check_starts(&c[5], PyArray_SIZE(c[4].row)) ||
        !check_length(&c[5], PyArray_SIZE(c[3].row)) || !check_items(c[4].row)) {
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
    Py_BEGIN_ALLOW_THREADS
    status = dad_index_steps(&index, PyArray_DATA(c[0].row), PyArray_DATA(c[1].row), steps);
    if (status == DAD_OK) {
        dad_count_images(&counts, &index, PyArray_DATA(c[2].row), PyArray_DATA(c[3].row),
                         PyArray_DATA(c[4].row), PyArray_DATA(c[5].row), N);
    }
    dad_index_free(&index);
    Py_END_ALLOW_THREADS
    result = status == DAD_OK ? PyTuple_Pack(3, good, positives, shares)
                              : dad_raise(status, "count_images");
done:
    release(c, MOST_COLUMNS);
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
        return refuse("totals", "expected pixels of both classes, and regions");
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
        step_arrays arrays = {0};
        column counts = {NULL, NULL, "counts", NPY_INT64};
        bool ok = PyTuple_Check(part)
                      ? PyArg_ParseTuple(part, "OO:part", &steps_object, &counts_object)
                      : refuse("parts", "expected tuples (steps, counts)");
        if (ok) {
            counts.object = counts_object;
            ok = input_steps(&arrays, steps_object) && input_columns(&counts, 1) &&
                 check_length(&counts, 2 * PyArray_SIZE(arrays.keys) + 1);
        }
        if (ok) {
            dad_steps steps = steps_of(&arrays);
            const int64_t *places = PyArray_DATA(counts.row);
            Py_BEGIN_ALLOW_THREADS
            dad_tally_steps(&tally, &steps, places, &totals);
            Py_END_ALLOW_THREADS
        }
        release(&counts, 1);
        release_steps(&arrays);
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
            return refuse("images", "an entry is of an image that has no weight");
        }
    }
    return true;
}

static PyObject *weighted_metrics(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"starts", "images",  "good",      "found",
                            "shares", "weights", "fpr_limit", NULL};
    column c[] = {
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
    if (!input_columns(c, 5)) {
        goto done;
    }
    npy_intp entries = PyArray_SIZE(c[1].row);
    weights = dad_input(weights_object, "weights", NPY_FLOAT64, 2);
    if (weights == NULL || !check_starts(&c[0], entries) || !check_length(&c[2], entries) ||
        !check_length(&c[3], entries) || !check_length(&c[4], entries) ||
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
    Py_BEGIN_ALLOW_THREADS
    status = dad_weighted_metrics(PyArray_DATA(metrics), &steps, PyArray_DATA(weights), B,
                                  N, fpr_limit);
    Py_END_ALLOW_THREADS
    result = status == DAD_OK ? Py_NewRef(metrics) : dad_raise(status, "weighted_metrics");
done:
    release(c, 5);
    Py_XDECREF(weights);
    Py_XDECREF(metrics);
    return result;
}

PyMethodDef dad_pixel_methods[] = {
    DAD_METHOD(
        split_pixels,
        "split_pixels(masks, maps)\n--\n\n"
        "(good, defects, counts, regions) of masks and float32 maps (N, H, W): scores\n"
        "of good pixels; items of defect pixels, the score's key in the upper and the\n"
        "size of the 8-connected region in the lower half; defect pixels and regions\n"
        "of each image (N,)."),
    DAD_METHOD(
        defect_steps,
        "defect_steps(defects, low=0, high=2**32 - 1)\n--\n\n"
        "Steps (keys, positives, shares): the distinct keys from low to high, rising,\n"
        "how many pixels have each, and their parts of their regions, as 128 bits."),
    DAD_METHOD(merge_steps, "merge_steps(a, b)\n--\n\n"
                            "The steps of both."),
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
