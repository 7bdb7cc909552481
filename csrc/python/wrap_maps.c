/* Layers over maps: resampling, pooling, concatenation. */
#include "python/wrap.h"

#include "base/memory.h"
#include "kernels/kernels.h"
#include "python/maps.h"

typedef void map_kernel(float *y, const float *x, const dad_map_shape *shape);

static dad_map_shape shape_of(dad_map_size size) {
    return (dad_map_shape){.N = size.N, .H = size.H, .W = size.W, .C = size.C};
}

/* y = kernel(x), x of size `in` and y of size `out`, the kernel's shape being `shape`. */
static PyObject *run_map(const float *x, dad_map_size out, dad_map_size shape,
                         map_kernel *kernel) {
    float *y = dad_scratch(dad_map_count(out));
    if (y == NULL) {
        return NULL;
    }
    const dad_map_shape kernel_shape = shape_of(shape);
    DAD_BEGIN_COMPUTE
    kernel(y, x, &kernel_shape);
    DAD_END_COMPUTE
    PyArrayObject *result = dad_map_output(y, out);
    dad_free(y);
    return (PyObject *)result;
}

static dad_map_size doubled(dad_map_size size) {
    return (dad_map_size){size.N, size.C, 2 * size.H, 2 * size.W};
}
static dad_map_size halved(dad_map_size size) {
    return (dad_map_size){size.N, size.C, size.H / 2, size.W / 2};
}

static bool check_poolable(dad_map_size size) {
    if (size.H < 2 || size.W < 2) {
        PyErr_Format(PyExc_ValueError, "x: expected a map of 2x2 or larger, got %zdx%zd",
                     size.H, size.W);
        return false;
    }
    return true;
}

static PyObject *upsample(PyObject *args, PyObject *kwargs, const char *format,
                          map_kernel *kernel) {
    static char *names[] = {"x", NULL};
    PyObject *x_object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &x_object)) {
        return NULL;
    }
    dad_map_size size = DAD_ANY_MAP;
    float *x = dad_map_input(x_object, "x", &size);
    PyObject *y = x != NULL ? run_map(x, doubled(size), size, kernel) : NULL;
    dad_free(x);
    return y;
}

static PyObject *upsample_backward(PyObject *args, PyObject *kwargs, const char *format,
                                   map_kernel *kernel) {
    static char *names[] = {"dy", NULL};
    PyObject *dy_object, *dx = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &dy_object)) {
        return NULL;
    }
    dad_map_size size = DAD_ANY_MAP;
    float *dy = dad_map_input(dy_object, "dy", &size);
    if (dy != NULL && (size.H % 2 != 0 || size.W % 2 != 0)) {
        PyErr_Format(PyExc_ValueError, "dy: expected even height and width, got %zdx%zd",
                     size.H, size.W);
    } else if (dy != NULL) {
        dx = run_map(dy, halved(size), halved(size), kernel);
    }
    dad_free(dy);
    return dx;
}

static PyObject *upsample_nearest(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    return upsample(args, kwargs, "O:upsample_nearest", dad_upsample_nearest_forward);
}
static PyObject *upsample_nearest_backward(PyObject *self, PyObject *args,
                                           PyObject *kwargs) {
    (void)self;
    return upsample_backward(args, kwargs, "O:upsample_nearest_backward",
                             dad_upsample_nearest_backward);
}
static PyObject *upsample_bilinear(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    return upsample(args, kwargs, "O:upsample_bilinear", dad_upsample_bilinear_forward);
}
static PyObject *upsample_bilinear_backward(PyObject *self, PyObject *args,
                                            PyObject *kwargs) {
    (void)self;
    return upsample_backward(args, kwargs, "O:upsample_bilinear_backward",
                             dad_upsample_bilinear_backward);
}

static PyObject *avg_pool(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x", NULL};
    PyObject *x_object, *y = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:avg_pool", names, &x_object)) {
        return NULL;
    }
    dad_map_size size = DAD_ANY_MAP;
    float *x = dad_map_input(x_object, "x", &size);
    if (x != NULL && check_poolable(size)) {
        y = run_map(x, halved(size), size, dad_avg_pool_forward);
    }
    dad_free(x);
    return y;
}

static PyObject *avg_pool_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dy", "height", "width", NULL};
    PyObject *dy_object, *dx = NULL;
    Py_ssize_t height, width;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Onn:avg_pool_backward", names,
                                     &dy_object, &height, &width)) {
        return NULL;
    }
    if (height < 2 || width < 2) {
        PyErr_Format(PyExc_ValueError, "height, width: expected 2 or more, got %zd, %zd",
                     height, width);
        return NULL;
    }
    dad_map_size size = {-1, -1, height / 2, width / 2};
    float *dy = dad_map_input(dy_object, "dy", &size);
    if (dy != NULL) {
        dad_map_size full = {size.N, size.C, height, width};
        dx = run_map(dy, full, full, dad_avg_pool_backward);
    }
    dad_free(dy);
    return dx;
}

/* y and which of a pooled x; false with an exception set. Both are for dad_free. */
static bool pool_maximum(float **y, uint8_t **which, const float *x, dad_map_size size) {
    const ptrdiff_t count = dad_map_count(halved(size));
    *y = dad_scratch(count);
    *which = (uint8_t *)dad_scratch(dad_ceil_div(count, sizeof(float)));
    if (*y == NULL || *which == NULL) {
        return false;
    }
    const dad_map_shape shape = shape_of(size);
    DAD_BEGIN_COMPUTE
    dad_max_pool_forward(*y, *which, x, &shape);
    DAD_END_COMPUTE
    return true;
}

static PyObject *max_pool(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x", NULL};
    PyObject *x_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:max_pool", names, &x_object)) {
        return NULL;
    }
    float *y = NULL;
    uint8_t *which = NULL;
    dad_map_size size = DAD_ANY_MAP;
    float *x = dad_map_input(x_object, "x", &size);
    if (x != NULL && check_poolable(size) && pool_maximum(&y, &which, x, size)) {
        result = (PyObject *)dad_map_output(y, halved(size));
    }
    dad_free(x), dad_free(y), dad_free((float *)which);
    return result;
}

static PyObject *max_pool_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dy", "x", NULL};
    PyObject *dy_object, *x_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:max_pool_backward", names,
                                     &dy_object, &x_object)) {
        return NULL;
    }
    float *y = NULL, *dy = NULL, *dx = NULL;
    uint8_t *which = NULL;
    dad_map_size size = DAD_ANY_MAP;
    float *x = dad_map_input(x_object, "x", &size);
    if (x == NULL || !check_poolable(size)) {
        goto done;
    }
    dad_map_size half = halved(size);
    if ((dy = dad_map_input(dy_object, "dy", &half)) == NULL ||
        (dx = dad_scratch(dad_map_count(size))) == NULL ||
        !pool_maximum(&y, &which, x, size)) {
        goto done;
    }
    const dad_map_shape shape = shape_of(size);
    DAD_BEGIN_COMPUTE
    dad_max_pool_backward(dx, dy, which, &shape);
    DAD_END_COMPUTE
    result = (PyObject *)dad_map_output(dx, size);
done:
    dad_free(x), dad_free(y), dad_free(dy), dad_free(dx), dad_free((float *)which);
    return result;
}

static PyObject *concat(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"a", "b", NULL};
    PyObject *a_object, *b_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:concat", names, &a_object,
                                     &b_object)) {
        return NULL;
    }
    float *b = NULL, *y = NULL;
    dad_map_size size = DAD_ANY_MAP;
    float *a = dad_map_input(a_object, "a", &size);
    dad_map_size other = {size.N, -1, size.H, size.W};
    if (a == NULL || (b = dad_map_input(b_object, "b", &other)) == NULL) {
        goto done;
    }
    const ptrdiff_t A = size.C, B = other.C, rows = size.N * size.H * size.W;
    size.C = A + B;
    if ((y = dad_scratch(dad_map_count(size))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_concat_forward(y, a, b, rows, A, B);
    DAD_END_COMPUTE
    result = (PyObject *)dad_map_output(y, size);
done:
    dad_free(a), dad_free(b), dad_free(y);
    return result;
}

static PyObject *concat_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dy", "channels", NULL};
    PyObject *dy_object, *result = NULL;
    Py_ssize_t channels;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "On:concat_backward", names, &dy_object,
                                     &channels)) {
        return NULL;
    }
    float *da = NULL, *db = NULL;
    dad_map_size size = DAD_ANY_MAP;
    float *dy = dad_map_input(dy_object, "dy", &size);
    if (dy == NULL) {
        return NULL;
    }
    if (channels < 1 || channels >= size.C) {
        PyErr_Format(PyExc_ValueError, "channels: expected 1 to %zd, got %zd", size.C - 1,
                     channels);
        goto done;
    }
    dad_map_size a = {size.N, channels, size.H, size.W};
    dad_map_size b = {size.N, size.C - channels, size.H, size.W};
    if ((da = dad_scratch(dad_map_count(a))) == NULL ||
        (db = dad_scratch(dad_map_count(b))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_concat_backward(da, db, dy, size.N * size.H * size.W, a.C, b.C);
    DAD_END_COMPUTE
    result = Py_BuildValue("NN", dad_map_output(da, a), dad_map_output(db, b));
done:
    dad_free(dy), dad_free(da), dad_free(db);
    return result;
}

PyMethodDef dad_map_methods[] = {
    DAD_METHOD(upsample_nearest,
               "upsample_nearest(x)\n--\n\nEach pixel of x [N, C, H, W] as 2x2 pixels."),
    DAD_METHOD(upsample_nearest_backward,
               "upsample_nearest_backward(dy)\n--\n\nGradient of upsample_nearest."),
    DAD_METHOD(
        upsample_bilinear,
        "upsample_bilinear(x)\n--\n\nx [N, C, H, W] at twice the size, corners aligned."),
    DAD_METHOD(upsample_bilinear_backward,
               "upsample_bilinear_backward(dy)\n--\n\nGradient of upsample_bilinear."),
    DAD_METHOD(avg_pool,
               "avg_pool(x)\n--\n\nMeans of 2x2 windows of x [N, C, H, W], stride 2."),
    DAD_METHOD(
        avg_pool_backward,
        "avg_pool_backward(dy, height, width)\n--\n\nGradient of avg_pool by an input "
        "[N, C, height, width]."),
    DAD_METHOD(max_pool,
               "max_pool(x)\n--\n\nMaxima of 2x2 windows of x [N, C, H, W], stride 2."),
    DAD_METHOD(
        max_pool_backward,
        "max_pool_backward(dy, x)\n--\n\nGradient of max_pool: to the first maximum of "
        "each window, row by row."),
    DAD_METHOD(concat,
               "concat(a, b)\n--\n\nMaps [N, C, H, W] side by side in their channels."),
    DAD_METHOD(
        concat_backward,
        "concat_backward(dy, channels)\n--\n\nGradients (da, db) of concat, a having "
        "`channels` channels."),
    {NULL, NULL, 0, NULL},
};
