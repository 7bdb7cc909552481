/* Scores of whole images on NumPy arrays: of their maps, and of their distance to others.
 */
#include "python/scores.h"
#include "python/wrap.h"

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
    Py_BEGIN_ALLOW_THREADS
    status = dad_image_scores(PyArray_DATA(scores), values, N, top_k < size ? top_k : size);
    Py_END_ALLOW_THREADS
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
    Py_BEGIN_ALLOW_THREADS
    status = dad_nearest_distance(PyArray_DATA(distances), dad_floats(train),
                                  dad_floats(test), M, N, D);
    Py_END_ALLOW_THREADS
    result =
        status == DAD_OK ? Py_NewRef(distances) : dad_raise(status, "nearest_distance");
done:
    Py_XDECREF(train);
    Py_XDECREF(test);
    Py_XDECREF(distances);
    return result;
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
    {NULL, NULL, 0, NULL},
};
