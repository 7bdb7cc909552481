/* Synthetic anomalies as a NumPy function (pipeline/synthesize.c). */
#include "python/wrap.h" /* Python.h comes before the standard headers */

#include "base/memory.h"
#include "pipeline/pipeline.h"

enum { MOST_EXPONENT = 10, LARGEST_SIDE = 1 << 14 };

/* The first of `count` values outside [0, 1], NaN included; NULL: there is none. */
static const float *find_outside(const float *values, ptrdiff_t count) {
    int outside = 0;
    for (ptrdiff_t i = 0; i < count; i++) { /* without a way out, so that it vectorises */
        outside |= !(values[i] >= 0.0f) | !(values[i] <= 1.0f);
    }
    for (ptrdiff_t i = 0; outside && i < count; i++) {
        if (!(values[i] >= 0.0f && values[i] <= 1.0f)) {
            return values + i;
        }
    }
    return NULL;
}

/* float32 of the given shape with values in [0, 1]; NULL with an exception set. */
static PyArrayObject *input_unit(PyObject *object, const char *name, int dimensions,
                                 const npy_intp *shape) {
    PyArrayObject *array = dad_input_float(object, name, dimensions);
    if (array == NULL || !dad_check_shape(array, name, dimensions, shape)) {
        Py_CLEAR(array);
        return NULL;
    }
    const float *wrong = find_outside(dad_floats(array), PyArray_SIZE(array));
    if (wrong != NULL) {
        PyObject *value = PyFloat_FromDouble(*wrong);
        PyErr_Format(PyExc_ValueError, "%s: expected values in [0, 1], got %S", name,
                     value != NULL ? value : Py_None);
        Py_XDECREF(value);
        Py_CLEAR(array);
    }
    return array;
}

static bool check_options(const dad_synthesis_options *o) {
    const char *wrong = NULL;
    if (!(o->anomaly_probability >= 0.0 && o->anomaly_probability <= 1.0)) {
        wrong = "anomaly_probability: expected a probability, 0 to 1";
    } else if (!(o->self_probability >= 0.0 && o->self_probability <= 1.0)) {
        wrong = "self_probability: expected a probability, 0 to 1";
    } else if (!(o->beta_low >= 0.0 && o->beta_low <= o->beta_high &&
                 o->beta_high <= 1.0)) {
        wrong = "beta: expected (low, high) with 0 <= low <= high <= 1";
    } else if (!(o->fewest_exponent >= 0 && o->fewest_exponent <= o->most_exponent &&
                 o->most_exponent <= MOST_EXPONENT)) {
        wrong = "exponents: expected (low, high) with 0 <= low <= high <= 10";
    } else if (!(o->threshold >= 0.0f && o->threshold < 1.0f)) {
        wrong = "threshold: expected 0 up to, not including, 1";
    }
    if (wrong != NULL) {
        PyErr_SetString(PyExc_ValueError, wrong);
    }
    return wrong == NULL;
}

enum { IMAGES, FOREGROUNDS, APPEARANCES, SEEDS, SOURCES };
enum { SHOWN_NOISE, SHOWN_PART, SHOWN_APPEARANCE, STAGES };

/* The four arrays, the second and third of which may stay NULL. */
static bool input_sources(PyArrayObject *arrays[SOURCES],
                          PyObject *const objects[SOURCES]) {
    npy_intp images_shape[] = {-1, -1, -1, 3};
    if ((arrays[IMAGES] = input_unit(objects[IMAGES], "images", 4, images_shape)) == NULL) {
        return false;
    }
    const npy_intp *shape = PyArray_DIMS(arrays[IMAGES]);
    if (shape[1] > LARGEST_SIDE || shape[2] > LARGEST_SIDE) {
        PyErr_Format(PyExc_ValueError,
                     "images: expected at most %d pixels a side, got %zd x %zd",
                     LARGEST_SIDE, shape[1], shape[2]);
        return false;
    }
    if (objects[FOREGROUNDS] != Py_None &&
        (arrays[FOREGROUNDS] = input_unit(objects[FOREGROUNDS], "foregrounds", 3, shape)) ==
            NULL) {
        return false;
    }
    if (objects[APPEARANCES] != Py_None &&
        (arrays[APPEARANCES] = input_unit(objects[APPEARANCES], "appearances", 4, shape)) ==
            NULL) {
        return false;
    }
    arrays[SEEDS] = dad_input(objects[SEEDS], "seeds", NPY_UINT64, 1);
    return arrays[SEEDS] != NULL && dad_check_shape(arrays[SEEDS], "seeds", 1, shape);
}

static PyObject *synthesize(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"images",
                            "foregrounds",
                            "appearances",
                            "seeds",
                            "anomaly_probability",
                            "self_probability",
                            "beta",
                            "exponents",
                            "threshold",
                            "random_part",
                            "stages",
                            NULL};
    PyObject *objects[SOURCES], *result = NULL;
    dad_synthesis_options options = {0.5, 0.5, 0.2, 0.8, 0, 5, 0.5f, false};
    int random_part = 0, with_stages = 0;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OOOO|dd(dd)(ii)fpp:synthesize", names, &objects[IMAGES],
            &objects[FOREGROUNDS], &objects[APPEARANCES], &objects[SEEDS],
            &options.anomaly_probability, &options.self_probability, &options.beta_low,
            &options.beta_high, &options.fewest_exponent, &options.most_exponent,
            &options.threshold, &random_part, &with_stages)) {
        return NULL;
    }
    options.random_part = random_part != 0;
    PyArrayObject *arrays[SOURCES] = {NULL}, *samples = NULL, *masks = NULL, *labels = NULL;
    PyArrayObject *stages[STAGES] = {NULL};
    float *scratch = NULL;
    if (!check_options(&options) || !input_sources(arrays, objects)) {
        goto done;
    }
    npy_intp N = PyArray_DIM(arrays[IMAGES], 0);
    npy_intp H = PyArray_DIM(arrays[IMAGES], 1), W = PyArray_DIM(arrays[IMAGES], 2);
    npy_intp samples_shape[] = {N, 3, H, W}, masks_shape[] = {N, 1, H, W};
    if ((samples = dad_output(NPY_FLOAT32, 4, samples_shape)) == NULL ||
        (masks = dad_output(NPY_FLOAT32, 4, masks_shape)) == NULL ||
        (labels = dad_output(NPY_INT64, 1, &N)) == NULL ||
        (scratch = dad_scratch(dad_synthesize_scratch(&options, H, W))) == NULL) {
        goto done;
    }
    for (int i = 0; with_stages && i < STAGES; i++) {
        const npy_intp *shape = i == SHOWN_APPEARANCE ? samples_shape : masks_shape;
        if ((stages[i] = dad_output(NPY_FLOAT32, 4, shape)) == NULL) {
            goto done;
        }
    }
    dad_sources in = {dad_floats(arrays[IMAGES]), dad_floats(arrays[FOREGROUNDS]),
                      dad_floats(arrays[APPEARANCES]), PyArray_DATA(arrays[SEEDS])};
    dad_samples out = {dad_floats(samples),
                       dad_floats(masks),
                       PyArray_DATA(labels),
                       dad_floats(stages[SHOWN_NOISE]),
                       dad_floats(stages[SHOWN_PART]),
                       dad_floats(stages[SHOWN_APPEARANCE])};
    DAD_BEGIN_COMPUTE
    dad_synthesize(&out, &in, &options, N, H, W, scratch);
    DAD_END_COMPUTE
    result =
        with_stages
            ? PyTuple_Pack(6, (PyObject *)samples, (PyObject *)masks, (PyObject *)labels,
                           (PyObject *)stages[SHOWN_NOISE], (PyObject *)stages[SHOWN_PART],
                           (PyObject *)stages[SHOWN_APPEARANCE])
            : PyTuple_Pack(3, (PyObject *)samples, (PyObject *)masks, (PyObject *)labels);
done:
    dad_free(scratch);
    for (int i = 0; i < SOURCES; i++) {
        Py_XDECREF(arrays[i]);
    }
    for (int i = 0; i < STAGES; i++) {
        Py_XDECREF(stages[i]);
    }
    Py_XDECREF(samples);
    Py_XDECREF(masks);
    Py_XDECREF(labels);
    return result;
}

PyMethodDef dad_synthesis_methods[] = {
    DAD_METHOD(
        synthesize,
        "synthesize(images, foregrounds, appearances, seeds, anomaly_probability=0.5, "
        "self_probability=0.5, beta=(0.2, 0.8), exponents=(0, 5), threshold=0.5, "
        "random_part=False, stages=False)\n--\n\n"
        "Images with synthetic anomalies: samples (N, 3, H, W), masks (N, 1, H, W) and "
        "labels (N,) from images (N, H, W, 3) in [0, 1] and uint64 seeds (N,). With stages "
        "also the noise and the part where the anomaly could lie, both (N, 1, H, W), and "
        "the appearance (N, 3, H, W)."),
    {NULL, NULL, 0, NULL},
};
