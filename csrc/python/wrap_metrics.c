/* Metrics on NumPy arrays: labels and masks are bool or uint8, scores and maps float32 or
 * float64. diffusionad/metrics.py converts other types. */
#include "python/wrap.h" /* Python.h comes before the standard headers */

#include <math.h>

#include "pipeline/pixels.h"
#include "python/scores.h"

/* ---- Arguments ------------------------------------------------------------------- */

static bool check_both_classes(ptrdiff_t positives, ptrdiff_t count, const char *name) {
    if (positives > 0 && positives < count) {
        return true;
    }
    PyErr_Format(PyExc_ValueError, "%s: both classes are needed, but every element is %s",
                 name, positives == 0 ? "good (zero)" : "defective (non-zero)");
    return false;
}

/* ---- Rankings -------------------------------------------------------------------- */

/* False with an exception set; else the caller frees the ranking. */
static bool rank_labels(dad_ranking *ranking, PyObject *labels_object,
                        PyObject *scores_object) {
    PyArrayObject *labels = dad_input_bytes(labels_object, "labels", DAD_ANY_DIMENSIONS);
    PyArrayObject *values = NULL;
    bool ok = false;
    if (labels == NULL) {
        goto done;
    }
    values = dad_input_scores(scores_object, "scores", DAD_ANY_DIMENSIONS);
    if (values == NULL ||
        !dad_check_shape(values, "scores", PyArray_NDIM(labels), PyArray_DIMS(labels))) {
        goto done;
    }
    dad_scores scores = dad_scores_of(values);
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_rank_labels(ranking, PyArray_DATA(labels), scores);
    DAD_END_COMPUTE
    if (status != DAD_OK) {
        dad_raise(status, "ranking of scores");
        goto done;
    }
    ok = check_both_classes(ranking->positives, ranking->count, "labels");
    if (!ok) {
        dad_ranking_free(ranking);
    }
done:
    Py_XDECREF(labels);
    Py_XDECREF(values);
    return ok;
}

/* False with an exception set; else the caller frees the ranking. */
static bool rank_pixels(dad_ranking *ranking, PyArrayObject *masks, PyArrayObject *maps,
                        const dad_maps_shape *shape) {
    dad_scores scores = dad_scores_of(maps);
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_rank_pixels(ranking, PyArray_DATA(masks), scores, shape);
    DAD_END_COMPUTE
    if (status != DAD_OK) {
        dad_raise(status, "ranking of pixels");
        return false;
    }
    if (!check_both_classes(ranking->positives, ranking->count, "masks")) {
        dad_ranking_free(ranking);
        return false;
    }
    return true;
}

PyObject *dad_summary_dict(const dad_summary *summary) {
    return Py_BuildValue("{s:d,s:d,s:d,s:d,s:d}", "auroc", summary->auroc,
                         "average_precision", summary->average_precision, "f1_max",
                         summary->f1_max, "f1_threshold", summary->f1_threshold, "aupro",
                         summary->aupro);
}

/* Frees the ranking. */
static PyObject *ranking_dict(dad_ranking *ranking, double fpr_limit) {
    dad_summary summary;
    DAD_BEGIN_COMPUTE
    summary = dad_summarize(ranking, fpr_limit);
    dad_ranking_free(ranking);
    DAD_END_COMPUTE
    return dad_summary_dict(&summary);
}

/* (false_positives, true_positives, overlap, thresholds); frees the ranking. */
static PyObject *curve_tuple(dad_ranking *ranking) {
    npy_intp length;
    DAD_BEGIN_COMPUTE
    length = dad_curve_length(ranking);
    DAD_END_COMPUTE
    PyObject *result = NULL;
    PyArrayObject *fp = dad_output(NPY_INT64, 1, &length);
    PyArrayObject *tp = dad_output(NPY_INT64, 1, &length);
    PyArrayObject *overlap = dad_output(NPY_FLOAT64, 1, &length);
    PyArrayObject *thresholds = dad_output(NPY_FLOAT64, 1, &length);
    if (fp == NULL || tp == NULL || overlap == NULL || thresholds == NULL) {
        goto done;
    }
    dad_curve curve = {PyArray_DATA(fp), PyArray_DATA(tp), PyArray_DATA(overlap),
                       PyArray_DATA(thresholds)};
    double regions = (double)ranking->regions;
    DAD_BEGIN_COMPUTE
    dad_fill_curve(&curve, ranking);
    for (ptrdiff_t i = 0; i < length; i++) {
        curve.overlap[i] = fmin(1.0, curve.overlap[i] / regions); /* rounding */
    }
    DAD_END_COMPUTE
    result = PyTuple_Pack(4, fp, tp, overlap, thresholds);
done:
    dad_ranking_free(ranking);
    Py_XDECREF(fp);
    Py_XDECREF(tp);
    Py_XDECREF(overlap);
    Py_XDECREF(thresholds);
    return result;
}

/* ---- Functions ------------------------------------------------------------------- */

static PyObject *label_metrics(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"labels", "scores", NULL};
    PyObject *labels, *scores;
    dad_ranking ranking;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:label_metrics", names, &labels,
                                     &scores) ||
        !rank_labels(&ranking, labels, scores)) {
        return NULL;
    }
    PyObject *result = ranking_dict(&ranking, 1.0);
    if (result != NULL && PyDict_DelItemString(result, "aupro") < 0) {
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *pixel_metrics(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"masks", "maps", "fpr_limit", NULL};
    PyObject *masks_object, *maps_object, *result = NULL;
    double fpr_limit = 0.3;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|d:pixel_metrics", names,
                                     &masks_object, &maps_object, &fpr_limit) ||
        !dad_check_fpr_limit(fpr_limit)) {
        return NULL;
    }
    PyArrayObject *masks, *maps;
    dad_maps_shape shape;
    if (!dad_input_maps(&masks, &maps, &shape, masks_object, maps_object)) {
        goto done;
    }
    if (dad_is_type(maps, NPY_FLOAT64)) {
        dad_ranking ranking;
        result = rank_pixels(&ranking, masks, maps, &shape)
                     ? ranking_dict(&ranking, fpr_limit)
                     : NULL;
        goto done;
    }
    dad_summary summary;
    int64_t positives;
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_pixel_summary(&summary, &positives, PyArray_DATA(masks),
                               PyArray_DATA(maps), &shape, fpr_limit);
    DAD_END_COMPUTE
    if (status != DAD_OK) {
        dad_raise(status, "pixel_metrics");
    } else if (check_both_classes(positives, PyArray_SIZE(masks), "masks")) {
        result = dad_summary_dict(&summary);
    }
done:
    Py_XDECREF(masks);
    Py_XDECREF(maps);
    return result;
}

static PyObject *label_curve(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"labels", "scores", NULL};
    PyObject *labels, *scores;
    dad_ranking ranking;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:label_curve", names, &labels,
                                     &scores) ||
        !rank_labels(&ranking, labels, scores)) {
        return NULL;
    }
    return curve_tuple(&ranking);
}

static PyObject *pixel_curve(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"masks", "maps", NULL};
    PyObject *masks_object, *maps_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:pixel_curve", names, &masks_object,
                                     &maps_object)) {
        return NULL;
    }
    PyArrayObject *masks, *maps;
    dad_maps_shape shape;
    dad_ranking ranking;
    if (dad_input_maps(&masks, &maps, &shape, masks_object, maps_object) &&
        rank_pixels(&ranking, masks, maps, &shape)) {
        result = curve_tuple(&ranking);
    }
    Py_XDECREF(masks);
    Py_XDECREF(maps);
    return result;
}

/* The number of non-zero bytes. */
static ptrdiff_t count_inside(PyArrayObject *masks) {
    const uint8_t *bytes = PyArray_DATA(masks);
    ptrdiff_t count = 0;
    for (npy_intp i = 0; i < PyArray_SIZE(masks); i++) {
        count += bytes[i] != 0;
    }
    return count;
}

/* float64, one dimension, never rising. */
static PyArrayObject *input_thresholds(PyObject *object) {
    PyArrayObject *thresholds = dad_input(object, "thresholds", NPY_FLOAT64, 1);
    if (thresholds == NULL) {
        return NULL;
    }
    const double *levels = PyArray_DATA(thresholds);
    for (npy_intp k = 0; k < PyArray_SIZE(thresholds); k++) {
        if (!(levels[k] <= (k > 0 ? levels[k - 1] : INFINITY))) { /* NaN, too */
            PyErr_Format(PyExc_ValueError,
                         "thresholds: expected falling values, but element %zd is not", k);
            Py_CLEAR(thresholds);
            break;
        }
    }
    return thresholds;
}

static PyObject *filled_pro(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"masks", "maps", "thresholds", NULL};
    PyObject *masks_object, *maps_object, *thresholds_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:filled_pro", names, &masks_object,
                                     &maps_object, &thresholds_object)) {
        return NULL;
    }
    PyArrayObject *masks, *maps, *thresholds = NULL, *fpr = NULL, *pro = NULL;
    dad_maps_shape shape;
    if (!dad_input_maps(&masks, &maps, &shape, masks_object, maps_object) ||
        !check_both_classes(count_inside(masks), PyArray_SIZE(masks), "masks")) {
        goto done;
    }
    thresholds = input_thresholds(thresholds_object);
    if (thresholds == NULL) {
        goto done;
    }
    npy_intp K = PyArray_SIZE(thresholds);
    fpr = dad_output(NPY_FLOAT64, 1, &K);
    pro = dad_output(NPY_FLOAT64, 1, &K);
    if (fpr == NULL || pro == NULL) {
        goto done;
    }
    dad_scores scores = dad_scores_of(maps);
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_filled_pro(PyArray_DATA(fpr), PyArray_DATA(pro), PyArray_DATA(masks),
                            scores, PyArray_DATA(thresholds), K, &shape);
    DAD_END_COMPUTE
    result = status == DAD_OK ? PyTuple_Pack(2, fpr, pro) : dad_raise(status, "filled_pro");
done:
    Py_XDECREF(masks);
    Py_XDECREF(maps);
    Py_XDECREF(thresholds);
    Py_XDECREF(fpr);
    Py_XDECREF(pro);
    return result;
}

static PyObject *label_components(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"masks", NULL};
    PyObject *object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:label_components", names, &object)) {
        return NULL;
    }
    PyArrayObject *labels = NULL, *counts = NULL;
    PyArrayObject *masks = dad_input_bytes(object, "masks", DAD_ANY_DIMENSIONS);
    if (masks == NULL) {
        return NULL;
    }
    int dimensions = PyArray_NDIM(masks);
    if (dimensions != 2 && dimensions != 3) {
        PyErr_Format(PyExc_ValueError, "masks: expected 2 or 3 dimensions, got %d",
                     dimensions);
        goto done;
    }
    if (!dad_check_map_size(masks)) {
        goto done;
    }
    npy_intp *shape = PyArray_DIMS(masks), *size = shape + dimensions - 2;
    npy_intp N = dimensions == 3 ? shape[0] : 1;
    labels = dad_output(NPY_INT32, dimensions, shape);
    counts = dad_output(NPY_INT32, 1, &N);
    if (labels == NULL || counts == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_label_components(PyArray_DATA(labels), PyArray_DATA(counts), PyArray_DATA(masks), N,
                         size[0], size[1]);
    DAD_END_COMPUTE
    result = PyTuple_Pack(2, labels, counts);
done:
    Py_XDECREF(masks);
    Py_XDECREF(labels);
    Py_XDECREF(counts);
    return result;
}

PyMethodDef dad_metric_methods[] = {
    DAD_METHOD(
        label_metrics,
        "label_metrics(labels, scores)\n--\n\n"
        "dict of auroc, average_precision, f1_max and f1_threshold; labels bool or uint8,\n"
        "non-zero is positive; scores float32 or float64 of the same shape."),
    DAD_METHOD(
        pixel_metrics,
        "pixel_metrics(masks, maps, fpr_limit=0.3)\n--\n\n"
        "label_metrics over all pixels of masks and maps (N, H, W), and aupro, from one "
        "sort."),
    DAD_METHOD(
        label_curve,
        "label_curve(labels, scores)\n--\n\n"
        "(false_positives, true_positives, overlap, thresholds), one element per distinct\n"
        "score, from the highest down: what score >= threshold finds."),
    DAD_METHOD(
        pixel_curve,
        "pixel_curve(masks, maps)\n--\n\n"
        "label_curve over all pixels of masks and maps (N, H, W); overlap is the mean over "
        "8-connected regions."),
    DAD_METHOD(
        filled_pro,
        "filled_pro(masks, maps, thresholds)\n--\n\n"
        "(fpr, pro) of map > threshold, with the regions' holes filled; thresholds fall."),
    DAD_METHOD(label_components, "label_components(masks)\n--\n\n"
                                 "(labels, counts): 8-connected regions of masks (N, H, W) "
                                 "or (H, W), numbered from\n"
                                 "1 in each mask; labels int32, counts int32 (N,)."),
    {NULL, NULL, 0, NULL},
};
