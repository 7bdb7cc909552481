/* Scores on NumPy arrays: of maps, of images by their distance to others, and of pixels by
 * what good images show. */
#include "python/scores.h" /* Python.h comes before the standard headers */
#include "python/wrap.h"

#include <limits.h>
#include <stdbool.h>

#include "pipeline/pipeline.h"

static PyObject *image_scores(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"maps", "top_k", NULL};
    PyObject *object, *result = NULL;
    Py_ssize_t top_k = 50;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|n:image_scores", names, &object,
                                     &top_k)) {
        return NULL;
    }
    PyArrayObject *scores = NULL;
    PyArrayObject *maps = dad_input_scores(object, "maps", 3);
    if (maps == NULL) {
        return NULL;
    }
    npy_intp N = PyArray_DIM(maps, 0), size = PyArray_SIZE(maps) / N;
    if (top_k < 1) {
        PyErr_Format(PyExc_ValueError, "top_k: expected at least 1, got %zd", top_k);
        goto done;
    }
    scores = dad_output(NPY_FLOAT64, 1, &N);
    if (scores == NULL) {
        goto done;
    }
    dad_scores values = dad_scores_of(maps);
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_image_scores(PyArray_DATA(scores), values, N, top_k < size ? top_k : size);
    DAD_END_COMPUTE
    result = status == DAD_OK ? Py_NewRef(scores) : dad_raise(status, "image_scores");
done:
    Py_XDECREF(maps);
    Py_XDECREF(scores);
    return result;
}

static PyObject *nearest_distance(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"train", "test", NULL};
    PyObject *train_object, *test_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:nearest_distance", names,
                                     &train_object, &test_object)) {
        return NULL;
    }
    PyArrayObject *train = dad_input_float(train_object, "train", 2);
    PyArrayObject *test = NULL, *distances = NULL;
    if (train == NULL) {
        goto done;
    }
    test = dad_input_float(test_object, "test", 2);
    npy_intp M = PyArray_DIM(train, 0), D = PyArray_DIM(train, 1);
    if (test == NULL || !dad_check_shape(test, "test", 2, (npy_intp[]){-1, D}) ||
        !dad_check_finite(train, "train") || !dad_check_finite(test, "test")) {
        goto done;
    }
    npy_intp N = PyArray_DIM(test, 0);
    distances = dad_output(NPY_FLOAT64, 1, &N);
    if (distances == NULL) {
        goto done;
    }
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_nearest_distance(PyArray_DATA(distances), dad_floats(train),
                                  dad_floats(test), M, N, D);
    DAD_END_COMPUTE
    result =
        status == DAD_OK ? Py_NewRef(distances) : dad_raise(status, "nearest_distance");
done:
    Py_XDECREF(train);
    Py_XDECREF(test);
    Py_XDECREF(distances);
    return result;
}

static PyObject *departures(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"maps", "images", "repairs", NULL};
    PyObject *objects[3];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:departures", names, &objects[0],
                                     &objects[1], &objects[2])) {
        return NULL;
    }
    PyArrayObject *maps = NULL, *repairs = NULL, *result = NULL;
    PyArrayObject *images = dad_input_float(objects[1], "images", 4);
    if (images == NULL) {
        return NULL;
    }
    npy_intp *shape = PyArray_DIMS(images);
    maps = dad_input_float(objects[0], "maps", 3);
    if (maps == NULL ||
        !dad_check_shape(maps, "maps", 3, (npy_intp[]){shape[0], shape[2], shape[3]})) {
        goto done;
    }
    repairs = dad_input_float(objects[2], "repairs", 4);
    if (repairs == NULL || !dad_check_shape(repairs, "repairs", 4, shape)) {
        goto done;
    }
    result = dad_output(NPY_FLOAT32, 4, (npy_intp[]){shape[0], 2, shape[2], shape[3]});
    if (result != NULL) {
        DAD_BEGIN_COMPUTE
        dad_departures(dad_floats(result), dad_floats(maps), dad_floats(images),
                       dad_floats(repairs), shape[0], shape[1], shape[2] * shape[3]);
        DAD_END_COMPUTE
    }
done:
    Py_DECREF(images);
    Py_XDECREF(maps);
    Py_XDECREF(repairs);
    return (PyObject *)result;
}

static PyObject *relate_errors(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"departures", "radius", NULL};
    PyObject *object;
    Py_ssize_t radius;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "On:relate_errors", names, &object,
                                     &radius)) {
        return NULL;
    }
    if (radius < 0 || radius > INT_MAX) {
        PyErr_Format(PyExc_ValueError, "radius: expected 0 to %d pixels, got %zd", INT_MAX,
                     radius);
        return NULL;
    }
    PyArrayObject *result = NULL, *found = dad_input_float(object, "departures", 4);
    if (found == NULL) {
        return NULL;
    }
    npy_intp *shape = PyArray_DIMS(found);
    if (dad_check_shape(found, "departures", 4, (npy_intp[]){-1, 2, -1, -1}) &&
        (result = dad_output(NPY_FLOAT32, 4, shape)) != NULL) {
        DAD_BEGIN_COMPUTE
        dad_relate_errors(dad_floats(result), dad_floats(found), shape[0], shape[2],
                          shape[3], radius);
        DAD_END_COMPUTE
    }
    Py_DECREF(found);
    return (PyObject *)result;
}

static PyObject *standardise(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"departures", "mean", "deviation", NULL};
    PyObject *objects[3];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:standardise", names, &objects[0],
                                     &objects[1], &objects[2])) {
        return NULL;
    }
    PyArrayObject *mean = NULL, *deviation = NULL, *result = NULL;
    PyArrayObject *found = dad_input_float(objects[0], "departures", 4);
    if (found == NULL) {
        return NULL;
    }
    npy_intp *shape = PyArray_DIMS(found);
    if (!dad_check_shape(found, "departures", 4, (npy_intp[]){-1, 2, -1, -1})) {
        goto done;
    }
    mean = dad_input_float(objects[1], "mean", 3);
    if (mean == NULL) {
        goto done;
    }
    bool pooled = PyArray_DIM(mean, 1) == 1 && PyArray_DIM(mean, 2) == 1;
    const npy_intp *wanted = pooled ? (npy_intp[]){2, 1, 1} : shape + 1;
    if (!dad_check_shape(mean, "mean", 3, wanted)) {
        goto done;
    }
    deviation = dad_input_float(objects[2], "deviation", 3);
    if (deviation == NULL || !dad_check_shape(deviation, "deviation", 3, wanted)) {
        goto done;
    }
    result = dad_output(NPY_FLOAT32, 3, (npy_intp[]){shape[0], shape[2], shape[3]});
    if (result != NULL) {
        DAD_BEGIN_COMPUTE
        dad_standardise(dad_floats(result), dad_floats(found), dad_floats(mean),
                        dad_floats(deviation), shape[0], shape[2] * shape[3], pooled);
        DAD_END_COMPUTE
    }
done:
    Py_DECREF(found);
    Py_XDECREF(mean);
    Py_XDECREF(deviation);
    return (PyObject *)result;
}

PyMethodDef dad_score_methods[] = {
    DAD_METHOD(
        image_scores,
        "image_scores(maps, top_k=50)\n--\n\n"
        "Mean of the top_k largest values of each map (N, H, W); of all where fewer."),
    DAD_METHOD(
        nearest_distance,
        "nearest_distance(train, test)\n--\n\n"
        "Euclidean distance from each row of test (N, D) to the nearest of train (M, D)."),
    DAD_METHOD(departures, "departures(maps, images, repairs)\n--\n\n"
                           "Log odds of maps (N, H, W), and mean abs(image - repair) over "
                           "the channels of both "
                           "(N, C, H, W): (N, 2, H, W)."),
    DAD_METHOD(
        relate_errors,
        "relate_errors(departures, radius)\n--\n\n"
        "Departures (N, 2, H, W) with each error the mean over the square around it, in "
        "multiples of the image's mean; radius in pixels."),
    DAD_METHOD(
        standardise,
        "standardise(departures, mean, deviation)\n--\n\n"
        "Maps (N, H, W) in [0, 1] from departures (N, 2, H, W), by the mean and deviation "
        "(2, H, W) of those of good images; or (2, 1, 1), of all pixels together, where "
        "errors are related."),
    {NULL, NULL, 0, NULL},
};
