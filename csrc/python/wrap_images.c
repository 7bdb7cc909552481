/* Images and what synthetic anomalies are made of, as NumPy functions (pipeline/resize.c,
 * texture.c, augment.c, perlin.c). */
#include "python/wrap.h" /* Python.h comes before the standard headers */

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "pipeline/pipeline.h"

enum { LARGEST_SIDE = 1 << 16 };

static bool check_side(const char *name, Py_ssize_t size) {
    if (size < 1 || size > LARGEST_SIDE) {
        PyErr_Format(PyExc_ValueError, "%s: expected 1 to %d pixels, got %zd", name,
                     LARGEST_SIDE, size);
        return false;
    }
    return true;
}

/* ---- resize.c -------------------------------------------------------------------- */

static PyObject *resize_u8(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"image", "height", "width", NULL};
    PyObject *object;
    Py_ssize_t height, width;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Onn:resize_u8", names, &object, &height,
                                     &width) ||
        !check_side("height", height) || !check_side("width", width)) {
        return NULL;
    }
    PyArrayObject *x = NULL, *y = NULL;
    float *scratch = NULL;
    if ((x = dad_input(object, "image", NPY_UINT8, DAD_ANY_DIMENSIONS)) == NULL) {
        goto done;
    }
    int dimensions = PyArray_NDIM(x);
    npy_intp C = dimensions == 3 ? PyArray_DIM(x, 2) : 1;
    if (dimensions < 2 || dimensions > 3 || (C != 1 && C != 3)) {
        PyErr_SetString(PyExc_ValueError,
                        "image: expected shape (H, W), (H, W, 1) or (H, W, 3)");
        goto done;
    }
    if (!check_side("image height", PyArray_DIM(x, 0)) ||
        !check_side("image width", PyArray_DIM(x, 1))) {
        goto done;
    }
    npy_intp out_shape[] = {height, width, C};
    dad_resize_shape shape = {1, PyArray_DIM(x, 0), PyArray_DIM(x, 1), C, height, width};
    if ((y = dad_output(NPY_UINT8, dimensions, out_shape)) == NULL ||
        (scratch = dad_scratch(dad_resize_scratch(&shape))) == NULL) {
        Py_CLEAR(y);
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_resize_bytes(PyArray_DATA(y), PyArray_DATA(x), &shape, scratch);
    DAD_END_COMPUTE
done:
    dad_free(scratch);
    Py_XDECREF(x);
    return (PyObject *)y;
}

static PyObject *resize_f32(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"map", "height", "width", NULL};
    PyObject *object;
    Py_ssize_t height, width;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Onn:resize_f32", names, &object,
                                     &height, &width) ||
        !check_side("height", height) || !check_side("width", width)) {
        return NULL;
    }
    PyArrayObject *x = NULL, *y = NULL;
    float *scratch = NULL;
    if ((x = dad_input_float(object, "map", DAD_ANY_DIMENSIONS)) == NULL) {
        goto done;
    }
    int dimensions = PyArray_NDIM(x);
    if (dimensions < 2 || dimensions > 3) {
        PyErr_SetString(PyExc_ValueError, "map: expected shape (H, W) or (N, H, W)");
        goto done;
    }
    const npy_intp *sides = PyArray_DIMS(x) + dimensions - 2;
    npy_intp N = dimensions == 3 ? PyArray_DIM(x, 0) : 1;
    if (!check_side("map height", sides[0]) || !check_side("map width", sides[1])) {
        goto done;
    }
    npy_intp out_shape[] = {N, height, width};
    dad_resize_shape shape = {N, sides[0], sides[1], 1, height, width};
    if ((y = dad_output(NPY_FLOAT32, dimensions, out_shape + 3 - dimensions)) == NULL ||
        (scratch = dad_scratch(dad_resize_scratch(&shape))) == NULL) {
        Py_CLEAR(y);
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_resize_floats(dad_floats(y), dad_floats(x), &shape, scratch);
    DAD_END_COMPUTE
done:
    dad_free(scratch);
    Py_XDECREF(x);
    return (PyObject *)y;
}

/* ---- perlin.c -------------------------------------------------------------------- */

static bool all_finite(PyArrayObject *array) {
    const double *values = PyArray_DATA(array);
    npy_intp count = PyArray_SIZE(array);
    for (npy_intp i = 0; i < count; i++) {
        if (!isfinite(values[i])) {
            return false;
        }
    }
    return true;
}

static PyObject *perlin_noise(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"angles", "height", "width", NULL};
    PyObject *object;
    Py_ssize_t H, W;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Onn:perlin_noise", names, &object, &H,
                                     &W) ||
        !check_side("height", H) || !check_side("width", W)) {
        return NULL;
    }
    PyArrayObject *angles = NULL, *noise = NULL;
    float *scratch = NULL;
    if ((angles = dad_input(object, "angles", NPY_FLOAT64, 2)) == NULL) {
        goto done;
    }
    npy_intp RY = PyArray_DIM(angles, 0) - 1, RX = PyArray_DIM(angles, 1) - 1;
    if (RY < 1 || RX < 1 || RY > H || RX > W) {
        PyErr_Format(
            PyExc_ValueError,
            "angles: expected a grid of 1 to %zd x 1 to %zd cells (one angle more each "
            "way) for %zd x %zd pixels, got %zd x %zd cells",
            H, W, H, W, RY, RX);
        goto done;
    }
    if (!all_finite(angles)) {
        PyErr_SetString(PyExc_ValueError, "angles: expected finite values");
        goto done;
    }
    npy_intp shape[] = {H, W};
    if ((noise = dad_output(NPY_FLOAT32, 2, shape)) == NULL ||
        (scratch = dad_scratch(dad_perlin_scratch(W, RY, RX))) == NULL) {
        Py_CLEAR(noise);
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_perlin(dad_floats(noise), PyArray_DATA(angles), H, W, RY, RX, scratch);
    DAD_END_COMPUTE
done:
    dad_free(scratch);
    Py_XDECREF(angles);
    return (PyObject *)noise;
}

/* ---- texture.c ------------------------------------------------------------------- */

static PyObject *texture(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"height", "width", "seed", NULL};
    Py_ssize_t H, W;
    PyObject *seed_object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "nnO:texture", names, &H, &W,
                                     &seed_object) ||
        !check_side("height", H) || !check_side("width", W)) {
        return NULL;
    }
    uint64_t seed;
    if (!dad_seed(&seed, seed_object)) {
        return NULL;
    }
    npy_intp shape[] = {H, W, 3};
    PyArrayObject *image = dad_output(NPY_FLOAT32, 3, shape);
    if (image == NULL) {
        return NULL;
    }
    dad_rng rng = dad_rng_seed(seed, 0);
    DAD_BEGIN_COMPUTE
    dad_texture(dad_floats(image), H, W, &rng);
    DAD_END_COMPUTE
    return (PyObject *)image;
}

/* ---- augment.c ------------------------------------------------------------------- */

typedef struct {
    const char *name;
    int parameters;
    double low[3], high[3];
} augmenter_rules;

static const augmenter_rules augmenters[DAD_AUGMENTERS] = {
    [DAD_GAMMA] = {"gamma", 3, {0.01, 0.01, 0.01}, {100, 100, 100}},
    [DAD_BRIGHTNESS] = {"brightness", 3, {0, -255, 0}, {10, 255, 1}},
    [DAD_SHARPNESS] = {"sharpness", 1, {0}, {10}},
    [DAD_HUE_SATURATION] = {"hue_saturation", 2, {-255, -255}, {255, 255}},
    [DAD_SOLARIZE] = {"solarize", 1, {0}, {256}},
    [DAD_POSTERIZE] = {"posterize", 1, {1}, {8}},
    [DAD_INVERT] = {"invert", 0, {0}, {0}},
    [DAD_AUTOCONTRAST] = {"autocontrast", 1, {0}, {50}},
    [DAD_EQUALIZE] = {"equalize", 0, {0}, {0}},
    [DAD_ROTATION] = {"rotation", 1, {-360}, {360}},
};

static bool parse_augmentation(dad_augmentation *change, const char *name,
                               PyObject *tuple) {
    int kind = 0;
    while (kind < DAD_AUGMENTERS && strcmp(augmenters[kind].name, name) != 0) {
        kind++;
    }
    if (kind == DAD_AUGMENTERS) {
        PyErr_Format(PyExc_ValueError, "name: no augmenter \"%s\"", name);
        return false;
    }
    const augmenter_rules *rules = &augmenters[kind];
    *change = (dad_augmentation){.kind = (dad_augmenter)kind};
    if (PyTuple_GET_SIZE(tuple) != rules->parameters) {
        PyErr_Format(PyExc_ValueError, "parameters: %s takes %d, got %zd", name,
                     rules->parameters, PyTuple_GET_SIZE(tuple));
        return false;
    }
    for (int i = 0; i < rules->parameters; i++) {
        double value = PyFloat_AsDouble(PyTuple_GET_ITEM(tuple, i));
        if (PyErr_Occurred()) {
            return false;
        }
        if (!(value >= rules->low[i] && value <= rules->high[i])) {
            PyErr_Format(PyExc_ValueError, "parameters: %R does not suit %s", tuple, name);
            return false;
        }
        change->p[i] = value;
    }
    return true;
}

static PyObject *augment(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"image", "name", "parameters", NULL};
    PyObject *object, *tuple;
    const char *name;
    dad_augmentation change;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OsO!:augment", names, &object, &name,
                                     &PyTuple_Type, &tuple) ||
        !parse_augmentation(&change, name, tuple)) {
        return NULL;
    }
    PyArrayObject *image = NULL, *result = NULL;
    float *scratch = NULL;
    const npy_intp shape[] = {-1, -1, 3};
    if ((image = dad_input(object, "image", NPY_UINT8, 3)) == NULL ||
        !dad_check_shape(image, "image", 3, shape)) {
        goto done;
    }
    if (!check_side("image height", PyArray_DIM(image, 0)) ||
        !check_side("image width", PyArray_DIM(image, 1))) {
        goto done;
    }
    ptrdiff_t bytes = PyArray_SIZE(image);
    if ((scratch = dad_scratch(dad_ceil_div(bytes, sizeof(float)))) == NULL ||
        (result = dad_output(NPY_UINT8, 3, PyArray_DIMS(image))) == NULL) {
        goto done;
    }
    memcpy(PyArray_DATA(result), PyArray_DATA(image), (size_t)bytes);
    DAD_BEGIN_COMPUTE
    dad_augment(PyArray_DATA(result), &change, PyArray_DIM(image, 0), PyArray_DIM(image, 1),
                (uint8_t *)scratch);
    DAD_END_COMPUTE
done:
    dad_free(scratch);
    Py_XDECREF(image);
    return (PyObject *)result;
}

PyMethodDef dad_image_methods[] = {
    DAD_METHOD(resize_u8,
               "resize_u8(image, height, width)\n--\n\n"
               "Bilinear resizing of uint8 (H, W), (H, W, 1) or (H, W, 3), as OpenCV's."),
    DAD_METHOD(resize_f32,
               "resize_f32(map, height, width)\n--\n\n"
               "Bilinear resizing of float32 (H, W) or (N, H, W), half-pixel centres."),
    DAD_METHOD(perlin_noise, "perlin_noise(angles, height, width)\n--\n\n"
                             "Gradient noise, float32 (height, width); angles: float64 "
                             "(rows + 1, columns + 1)."),
    DAD_METHOD(texture, "texture(height, width, seed)\n--\n\n"
                        "A procedural surface, float32 (height, width, 3) in [0, 1]."),
    DAD_METHOD(
        augment,
        "augment(image, name, parameters)\n--\n\n"
        "One of the ten augmenters on uint8 (H, W, 3); parameters: a tuple of floats."),
    {NULL, NULL, 0, NULL},
};
