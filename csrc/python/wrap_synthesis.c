/* Resizing and synthetic anomalies as NumPy functions (pipeline/resize.c, perlin.c, texture.c,
 * augment.c, synthesize.c). */
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

/* ---- resize.c --------------------------------------------------------------------------- */

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
        PyErr_SetString(PyExc_ValueError, "image: expected shape (H, W), (H, W, 1) or (H, W, 3)");
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
    Py_BEGIN_ALLOW_THREADS;
    dad_resize_bytes(PyArray_DATA(y), PyArray_DATA(x), &shape, scratch);
    Py_END_ALLOW_THREADS;
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
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Onn:resize_f32", names, &object, &height,
                                     &width) ||
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
    Py_BEGIN_ALLOW_THREADS;
    dad_resize_floats(dad_floats(y), dad_floats(x), &shape, scratch);
    Py_END_ALLOW_THREADS;
done:
    dad_free(scratch);
    Py_XDECREF(x);
    return (PyObject *)y;
}

/* ---- perlin.c --------------------------------------------------------------------------- */

static bool all_finite(PyArrayObject *array) {
    const double *values = PyArray_DATA(array);
    for (npy_intp i = 0; i < PyArray_SIZE(array); i++) {
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
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Onn:perlin_noise", names, &object, &H, &W) ||
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
        PyErr_Format(PyExc_ValueError,
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
    Py_BEGIN_ALLOW_THREADS;
    dad_perlin(dad_floats(noise), PyArray_DATA(angles), H, W, RY, RX, scratch);
    Py_END_ALLOW_THREADS;
done:
    dad_free(scratch);
    Py_XDECREF(angles);
    return (PyObject *)noise;
}

PyMethodDef dad_synthesis_methods[] = {
    DAD_METHOD(resize_u8,
               "resize_u8(image, height, width)\n--\n\n"
               "Bilinear resizing of uint8 (H, W), (H, W, 1) or (H, W, 3), as OpenCV's."),
    DAD_METHOD(resize_f32,
               "resize_f32(map, height, width)\n--\n\n"
               "Bilinear resizing of float32 (H, W) or (N, H, W), half-pixel centres."),
    DAD_METHOD(perlin_noise,
               "perlin_noise(angles, height, width)\n--\n\n"
               "Gradient noise, float32 (height, width); angles: float64 (rows + 1, columns + 1)."),
    {NULL, NULL, 0, NULL},
};
