/* Convolutions on NumPy arrays: NCHW maps and OIHW filters outside, NHWC and panels inside.
 */
#include "python/wrap.h" /* Python.h comes before the standard headers */

#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "kernels/kernels.h"

static const char *const algorithm_names[] = {
    [DAD_CONV_AUTO] = "auto",           [DAD_CONV_POINTWISE] = "pointwise",
    [DAD_CONV_IM2COL] = "im2col",       [DAD_CONV_WINOGRAD2] = "winograd2",
    [DAD_CONV_WINOGRAD4] = "winograd4", [DAD_CONV_WINOGRAD6] = "winograd6",
    [DAD_CONV_DOUBLED] = "doubled",
};
enum { ALGORITHMS = sizeof(algorithm_names) / sizeof(algorithm_names[0]) };

static bool find_algorithm(dad_conv_algorithm *algorithm, const char *name) {
    for (int i = 0; i < ALGORITHMS; i++) {
        if (strcmp(name, algorithm_names[i]) == 0) {
            *algorithm = (dad_conv_algorithm)i;
            return true;
        }
    }
    PyErr_Format(PyExc_ValueError,
                 "algorithm: expected auto, pointwise, im2col, winograd2, winograd4, "
                 "winograd6 or doubled, got %s",
                 name);
    return false;
}

/* Fills the shape from x [N, C, H, W] and w [O, C, KH, KW]; false with ValueError set. */
static bool make_shape(dad_conv2d_shape *shape, PyArrayObject *x, PyArrayObject *w,
                       Py_ssize_t stride, Py_ssize_t padding, const char *algorithm,
                       bool doubled) {
    const npy_intp *xs = PyArray_DIMS(x), *ws = PyArray_DIMS(w);
    const int factor = doubled ? 2 : 1;
    if (doubled && (ws[2] != 3 || ws[3] != 3 || stride != 1 || padding != 1)) {
        PyErr_SetString(PyExc_ValueError,
                        "doubled: expected a kernel of 3 by 3 with stride 1 and padding 1");
        return false;
    }
    if (ws[1] != xs[1]) {
        PyErr_Format(PyExc_ValueError, "w: expected %zd input channels as in x, got %zd",
                     (Py_ssize_t)xs[1], (Py_ssize_t)ws[1]);
        return false;
    }
    if (stride < 1) {
        PyErr_Format(PyExc_ValueError, "stride: expected at least 1, got %zd", stride);
        return false;
    }
    if (padding < 0 || padding > (1 << 20)) {
        PyErr_Format(PyExc_ValueError, "padding: expected 0 to %d, got %zd", 1 << 20,
                     padding);
        return false;
    }
    if (xs[2] + 2 * padding < ws[2] || xs[3] + 2 * padding < ws[3]) {
        PyErr_Format(
            PyExc_ValueError,
            "x: expected a map that holds the kernel of %zd by %zd, got %zd by %zd with "
            "padding %zd",
            (Py_ssize_t)ws[2], (Py_ssize_t)ws[3], (Py_ssize_t)xs[2], (Py_ssize_t)xs[3],
            padding);
        return false;
    }
    *shape = (dad_conv2d_shape){.N = xs[0],
                                .H = factor * xs[2],
                                .W = factor * xs[3],
                                .C = xs[1],
                                .O = ws[0],
                                .KH = ws[2],
                                .KW = ws[3],
                                .stride = stride,
                                .pad = padding,
                                .doubled = doubled};
    if (!find_algorithm(&shape->algorithm, algorithm)) {
        return false;
    }
    if (shape->algorithm != DAD_CONV_AUTO &&
        dad_conv2d_algorithm(shape) != shape->algorithm) {
        PyErr_Format(
            PyExc_ValueError,
            "algorithm: %s does not fit a kernel of %zd by %zd with stride %zd and "
            "padding %zd",
            algorithm, (Py_ssize_t)shape->KH, (Py_ssize_t)shape->KW, stride, padding);
        return false;
    }
    return true;
}

static void output_shape(npy_intp *dims, const dad_conv2d_shape *s) {
    dims[0] = s->N;
    dims[1] = s->O;
    dims[2] = dad_conv2d_out(s->H, s->KH, s->stride, s->pad);
    dims[3] = dad_conv2d_out(s->W, s->KW, s->stride, s->pad);
}

static ptrdiff_t panels_size(const dad_conv2d_shape *s) {
    return dad_filter_size(s->O, s->C, s->KH * s->KW);
}

static void to_panels(float *dst, PyArrayObject *w, const dad_conv2d_shape *s) {
    dad_filter_to_panels(dst, dad_floats(w), s->O, s->C, s->KH * s->KW);
}

/* [N, H, W, C] buffer from an NCHW array, without the GIL. */
static void to_nhwc(float *dst, PyArrayObject *array) {
    const npy_intp *d = PyArray_DIMS(array);
    dad_nchw_to_nhwc(dst, dad_floats(array), d[0], d[1], d[2] * d[3]);
}

PyDoc_STRVAR(
    conv2d_doc,
    "conv2d(x, w, b=None, stride=1, padding=1, algorithm=\"auto\", image_bias=None, "
    "residual=None, doubled=False, bfloat16=False)\n--\n\n"
    "Convolution of x (N, C, H, W) with w (O, C, KH, KW), plus b (O,), image_bias\n"
    "(N, O) and residual (N, O, HO, WO) where given. algorithm: auto, pointwise,\n"
    "im2col, winograd2, winograd4, winograd6 or doubled. doubled: of x upsampled to\n"
    "twice its size, nearest (3x3 only); the residual then too, if it is of half size.\n"
    "bfloat16: what winograd2, 4, 6 and pointwise multiply is rounded to it, where C is\n"
    "a multiple of 32; ValueError where the processor has no such products.");

typedef struct {
    PyArrayObject *x, *w, *b, *image_bias, *residual;
} conv2d_arguments;

static void release(conv2d_arguments *a) {
    Py_XDECREF(a->x);
    Py_XDECREF(a->w);
    Py_XDECREF(a->b);
    Py_XDECREF(a->image_bias);
    Py_XDECREF(a->residual);
}

/* Whether the residual has half the output's size, which a doubled map's may. */
static bool residual_is_half(const conv2d_arguments *a, const dad_conv2d_shape *shape) {
    return shape->doubled && a->residual && PyArray_DIM(a->residual, 2) == shape->H / 2;
}

static bool parse_conv2d(conv2d_arguments *a, dad_conv2d_shape *shape, const char *format,
                         PyObject *args, PyObject *kwargs) {
    static char *names[] = {"x",       "w",         "b",          "stride",
                            "padding", "algorithm", "image_bias", "residual",
                            "doubled", "bfloat16",  NULL};
    PyObject *x, *w, *b = NULL, *image_bias = NULL, *residual = NULL;
    Py_ssize_t stride = 1, padding = 1;
    const char *algorithm = "auto";
    int doubled = 0, bfloat16 = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &x, &w, &b, &stride,
                                     &padding, &algorithm, &image_bias, &residual, &doubled,
                                     &bfloat16) ||
        !(a->x = dad_input_float(x, "x", 4)) || !(a->w = dad_input_float(w, "w", 4)) ||
        !dad_input_float_optional(&a->b, b, "b", 1) ||
        !dad_input_float_optional(&a->image_bias, image_bias, "image_bias", 2) ||
        !dad_input_float_optional(&a->residual, residual, "residual", 4) ||
        !make_shape(shape, a->x, a->w, stride, padding, algorithm, doubled)) {
        return false;
    }
    shape->bfloat16 = bfloat16;
    const npy_intp image_dims[] = {shape->N, shape->O};
    npy_intp y_dims[4];
    output_shape(y_dims, shape);
    const bool half = residual_is_half(a, shape);
    const npy_intp residual_dims[] = {y_dims[0], y_dims[1],
                                      half ? y_dims[2] / 2 : y_dims[2],
                                      half ? y_dims[3] / 2 : y_dims[3]};
    return (!a->b || dad_check_shape(a->b, "b", 1, &image_dims[1])) &&
           (!a->image_bias ||
            dad_check_shape(a->image_bias, "image_bias", 2, image_dims)) &&
           (!a->residual || dad_check_shape(a->residual, "residual", 4, residual_dims)) &&
           (!bfloat16 || dad_check_bfloat16());
}

/* With `moments` where they are asked for. */
static PyArrayObject *run_conv2d(PyArrayObject **moments, PyObject *args,
                                 PyObject *kwargs) {
    conv2d_arguments a = {0};
    dad_conv2d_shape shape;
    PyArrayObject *y = NULL;
    float *x_nhwc = NULL, *y_nhwc = NULL, *residual = NULL, *panels = NULL, *scratch = NULL;
    npy_intp dims[4];
    bool computed = false;

    const char *format = moments ? "OO|OnnsOOpp:conv2d_moments" : "OO|OnnsOOpp:conv2d";
    if (!parse_conv2d(&a, &shape, format, args, kwargs)) {
        goto done;
    }
    output_shape(dims, &shape);
    const npy_intp slices = moments ? dad_conv2d_moment_slices(&shape) : 0;
    const npy_intp moment_dims[] = {shape.N, slices, DAD_MOMENTS, shape.O};
    if ((moments && !(*moments = dad_output(NPY_FLOAT32, 4, moment_dims))) ||
        !(y = dad_output(NPY_FLOAT32, 4, dims)) ||
        !(x_nhwc = dad_scratch(PyArray_SIZE(a.x))) ||
        !(y_nhwc = dad_scratch(PyArray_SIZE(y))) ||
        !(residual = dad_scratch(a.residual ? PyArray_SIZE(y) : 0)) ||
        !(panels = dad_scratch(panels_size(&shape))) ||
        !(scratch = dad_scratch(dad_conv2d_forward_scratch(&shape)))) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    to_nhwc(x_nhwc, a.x);
    if (a.residual != NULL) {
        to_nhwc(residual, a.residual);
    }
    const dad_conv2d_input input = {.x = x_nhwc};
    const dad_conv2d_epilogue epilogue = {.bias = dad_floats(a.b),
                                          .image_bias = dad_floats(a.image_bias),
                                          .residual = a.residual ? residual : NULL,
                                          .residual_doubled = residual_is_half(&a, &shape),
                                          .moments =
                                              slices > 0 ? dad_floats(*moments) : NULL};
    to_panels(panels, a.w, &shape);
    dad_conv2d_forward(y_nhwc, &input, panels, &epilogue, &shape, scratch);
    dad_nhwc_to_nchw(dad_floats(y), y_nhwc, dims[0], dims[1], dims[2] * dims[3]);
    DAD_END_COMPUTE
    computed = true;

done:
    dad_free(scratch);
    dad_free(panels);
    dad_free(residual);
    dad_free(y_nhwc);
    dad_free(x_nhwc);
    release(&a);
    if (!computed) {
        Py_CLEAR(y);
    }
    return y;
}

static PyObject *conv2d(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    return (PyObject *)run_conv2d(NULL, args, kwargs);
}

PyDoc_STRVAR(
    conv2d_moments_doc,
    "conv2d_moments(x, w, b=None, stride=1, padding=1, algorithm=\"auto\",\n"
    "image_bias=None, residual=None, doubled=False, bfloat16=False)\n--\n\n"
    "What conv2d gives, and its moments (N, slices, 4, O), as a GroupNorm would use\n"
    "them: per slice of an image how many values it has, a shift, the sum of value -\n"
    "shift and of its square. No slices where the algorithm does not give them.");

static PyObject *conv2d_moments(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    PyArrayObject *moments = NULL;
    PyArrayObject *y = run_conv2d(&moments, args, kwargs);
    PyObject *result = y != NULL ? PyTuple_Pack(2, y, moments) : NULL;
    Py_XDECREF(y);
    Py_XDECREF(moments);
    return result;
}

PyDoc_STRVAR(conv2d_backward_doc,
             "conv2d_backward(dy, x, w, stride=1, padding=1, algorithm=\"auto\")\n--\n\n"
             "Gradients (dx, dw, db) of conv2d(x, w, b) from dy (N, O, HO, WO).");

static PyObject *conv2d_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dy", "x", "w", "stride", "padding", "algorithm", NULL};
    PyObject *dy_object, *x_object, *w_object, *result = NULL;
    Py_ssize_t stride = 1, padding = 1;
    const char *algorithm = "auto";
    dad_conv2d_shape shape;
    PyArrayObject *dy = NULL, *x = NULL, *w = NULL, *dx = NULL, *dw = NULL, *db = NULL;
    float *dy_nhwc = NULL, *x_nhwc = NULL, *dx_nhwc = NULL, *panels = NULL, *scratch = NULL;
    npy_intp dims[4];

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|nns:conv2d_backward", names,
                                     &dy_object, &x_object, &w_object, &stride, &padding,
                                     &algorithm) ||
        !(dy = dad_input_float(dy_object, "dy", 4)) ||
        !(x = dad_input_float(x_object, "x", 4)) ||
        !(w = dad_input_float(w_object, "w", 4)) ||
        !make_shape(&shape, x, w, stride, padding, algorithm, false)) {
        goto done;
    }
    output_shape(dims, &shape);
    const ptrdiff_t scratch_size = dad_max(dad_conv2d_backward_data_scratch(&shape),
                                           dad_conv2d_backward_filter_scratch(&shape));
    if (!dad_check_shape(dy, "dy", 4, dims) ||
        !(dx = dad_output(NPY_FLOAT32, 4, PyArray_DIMS(x))) ||
        !(dw = dad_output(NPY_FLOAT32, 4, PyArray_DIMS(w))) ||
        !(db = dad_output(NPY_FLOAT32, 1, &dims[1])) ||
        !(dy_nhwc = dad_scratch(PyArray_SIZE(dy))) ||
        !(x_nhwc = dad_scratch(PyArray_SIZE(x))) ||
        !(dx_nhwc = dad_scratch(PyArray_SIZE(x))) ||
        !(panels = dad_scratch(panels_size(&shape))) ||
        !(scratch = dad_scratch(scratch_size))) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    to_nhwc(dy_nhwc, dy);
    to_nhwc(x_nhwc, x);
    to_panels(panels, w, &shape);
    dad_conv2d_backward_data(dx_nhwc, dy_nhwc, panels, &shape, scratch);
    dad_nhwc_to_nchw(dad_floats(dx), dx_nhwc, shape.N, shape.C, shape.H * shape.W);
    memset(panels, 0, (size_t)panels_size(&shape) * sizeof(float));
    memset(dad_floats(db), 0, (size_t)PyArray_NBYTES(db));
    dad_conv2d_backward_filter(panels, dad_floats(db), x_nhwc, dy_nhwc, &shape, scratch);
    dad_filter_from_panels(dad_floats(dw), panels, shape.O, shape.C, shape.KH * shape.KW);
    DAD_END_COMPUTE
    result = PyTuple_Pack(3, dx, dw, db);

done:
    dad_free(scratch);
    dad_free(panels);
    dad_free(dx_nhwc);
    dad_free(x_nhwc);
    dad_free(dy_nhwc);
    Py_XDECREF(db);
    Py_XDECREF(dw);
    Py_XDECREF(dx);
    Py_XDECREF(w);
    Py_XDECREF(x);
    Py_XDECREF(dy);
    return result;
}

PyDoc_STRVAR(
    conv2d_seconds_doc,
    "conv2d_seconds(operation, x, w, algorithm=\"auto\", doubled=False)\n--\n\n"
    "Seconds of one kernel alone, for benchmarks: no change of layout, memory touched\n"
    "before. operation: forward, backward_data or backward_filter, of conv2d(x, w)\n"
    "with stride 1 and the padding that keeps the map's size.");

enum operation { FORWARD, BACKWARD_DATA, BACKWARD_FILTER, OPERATIONS };
static const char *const operation_names[OPERATIONS] = {"forward", "backward_data",
                                                        "backward_filter"};

typedef struct {
    float *x, *y, *w, *dw, *scratch;
} buffers;

static void run_operation(enum operation operation, const buffers *b,
                          const dad_conv2d_shape *shape) {
    const dad_conv2d_input input = {.x = b->x};
    switch (operation) {
    case FORWARD:
        dad_conv2d_forward(b->y, &input, b->w, NULL, shape, b->scratch);
        break;
    case BACKWARD_DATA:
        dad_conv2d_backward_data(b->x, b->y, b->w, shape, b->scratch);
        break;
    case BACKWARD_FILTER:
        dad_conv2d_backward_filter(b->dw, NULL, b->x, b->y, shape, b->scratch);
        break;
    case OPERATIONS:
        break;
    }
}

static double seconds_of(enum operation operation, const buffers *b,
                         const dad_conv2d_shape *shape) {
    struct timespec begin, end;
    run_operation(operation, b, shape);
    timespec_get(&begin, TIME_UTC);
    run_operation(operation, b, shape);
    timespec_get(&end, TIME_UTC);
    return (double)(end.tv_sec - begin.tv_sec) +
           1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
}

static PyObject *conv2d_seconds(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"operation", "x", "w", "algorithm", "doubled", NULL};
    const char *name, *algorithm = "auto";
    PyObject *x_object, *w_object, *result = NULL;
    PyArrayObject *x = NULL, *w = NULL;
    dad_conv2d_shape shape;
    buffers b = {0};
    npy_intp dims[4];
    int doubled = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sOO|sp:conv2d_seconds", names, &name,
                                     &x_object, &w_object, &algorithm, &doubled) ||
        !(x = dad_input_float(x_object, "x", 4)) ||
        !(w = dad_input_float(w_object, "w", 4)) ||
        !make_shape(&shape, x, w, 1, PyArray_DIM(w, 2) / 2, algorithm, doubled)) {
        goto done;
    }
    enum operation operation = FORWARD;
    while (operation < OPERATIONS && strcmp(name, operation_names[operation]) != 0) {
        operation++;
    }
    if (operation == OPERATIONS) {
        PyErr_Format(
            PyExc_ValueError,
            "operation: expected forward, backward_data or backward_filter, got %s", name);
        goto done;
    }
    if (doubled && operation != FORWARD) {
        PyErr_Format(PyExc_ValueError, "doubled: expected the operation forward, got %s",
                     name);
        goto done;
    }
    output_shape(dims, &shape);
    const ptrdiff_t y_size = dims[0] * dims[1] * dims[2] * dims[3];
    const ptrdiff_t scratch_size =
        dad_max(dad_max(dad_conv2d_forward_scratch(&shape),
                        dad_conv2d_backward_data_scratch(&shape)),
                dad_conv2d_backward_filter_scratch(&shape));
    if (!(b.x = dad_scratch(PyArray_SIZE(x))) || !(b.y = dad_scratch(y_size)) ||
        !(b.w = dad_scratch(panels_size(&shape))) ||
        !(b.dw = dad_scratch(panels_size(&shape))) ||
        !(b.scratch = dad_scratch(scratch_size))) {
        goto done;
    }
    double seconds;
    DAD_BEGIN_COMPUTE
    to_nhwc(b.x, x);
    memset(b.y, 0, (size_t)y_size * sizeof(float));
    memset(b.dw, 0, (size_t)panels_size(&shape) * sizeof(float));
    to_panels(b.w, w, &shape);
    seconds = seconds_of(operation, &b, &shape);
    DAD_END_COMPUTE
    result = PyFloat_FromDouble(seconds);

done:
    dad_free(b.scratch);
    dad_free(b.dw);
    dad_free(b.w);
    dad_free(b.y);
    dad_free(b.x);
    Py_XDECREF(w);
    Py_XDECREF(x);
    return result;
}

PyMethodDef dad_conv_methods[] = {
    DAD_METHOD(conv2d_seconds, conv2d_seconds_doc),
    DAD_METHOD(conv2d, conv2d_doc),
    DAD_METHOD(conv2d_moments, conv2d_moments_doc),
    DAD_METHOD(conv2d_backward, conv2d_backward_doc),
    {NULL, NULL, 0, NULL},
};
