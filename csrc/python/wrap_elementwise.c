/* Functions of single elements: activations, dropout, addition. */
#include "python/wrap.h"

#include "kernels/kernels.h"

typedef void unary_kernel(float *y, const float *x, ptrdiff_t count);
typedef void binary_kernel(float *y, const float *a, const float *b, ptrdiff_t count);

static PyObject *apply_unary(PyObject *args, PyObject *kwargs, const char *format,
                             unary_kernel *kernel) {
    static char *names[] = {"x", NULL};
    PyObject *x_object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &x_object)) {
        return NULL;
    }
    PyArrayObject *x = dad_input_float(x_object, "x", DAD_ANY_DIMENSIONS);
    if (x == NULL) {
        return NULL;
    }
    PyArrayObject *y = dad_output(NPY_FLOAT32, PyArray_NDIM(x), PyArray_DIMS(x));
    if (y != NULL) {
        DAD_BEGIN_COMPUTE
        kernel(dad_floats(y), dad_floats(x), PyArray_SIZE(x));
        DAD_END_COMPUTE
    }
    Py_DECREF(x);
    return (PyObject *)y;
}

static PyObject *apply_binary(PyObject *args, PyObject *kwargs, const char *format,
                              char *names[], binary_kernel *kernel) {
    PyObject *a_object, *b_object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &a_object, &b_object)) {
        return NULL;
    }
    PyArrayObject *b = NULL, *y = NULL;
    PyArrayObject *a = dad_input_float(a_object, names[0], DAD_ANY_DIMENSIONS);
    if (a == NULL ||
        (b = dad_input_float(b_object, names[1], DAD_ANY_DIMENSIONS)) == NULL ||
        !dad_check_shape(b, names[1], PyArray_NDIM(a), PyArray_DIMS(a)) ||
        (y = dad_output(NPY_FLOAT32, PyArray_NDIM(a), PyArray_DIMS(a))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    kernel(dad_floats(y), dad_floats(a), dad_floats(b), PyArray_SIZE(a));
    DAD_END_COMPUTE
done:
    Py_XDECREF(a);
    Py_XDECREF(b);
    return (PyObject *)y;
}

static PyObject *silu(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    return apply_unary(args, kwargs, "O:silu", dad_silu_forward);
}
static PyObject *relu(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    return apply_unary(args, kwargs, "O:relu", dad_relu_forward);
}
static PyObject *sigmoid(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    return apply_unary(args, kwargs, "O:sigmoid", dad_sigmoid_forward);
}
static PyObject *silu_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dy", "x", NULL};
    return apply_binary(args, kwargs, "OO:silu_backward", names, dad_silu_backward);
}
static PyObject *relu_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dy", "y", NULL};
    return apply_binary(args, kwargs, "OO:relu_backward", names, dad_relu_backward);
}
static PyObject *sigmoid_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dy", "y", NULL};
    return apply_binary(args, kwargs, "OO:sigmoid_backward", names, dad_sigmoid_backward);
}
static PyObject *add(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"a", "b", NULL};
    return apply_binary(args, kwargs, "OO:add", names, dad_add);
}

static PyObject *dropout(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x", "p", "seed", NULL};
    PyObject *x_object, *seed_object;
    float p;
    uint64_t seed;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OfO:dropout", names, &x_object, &p,
                                     &seed_object) ||
        !dad_seed(&seed, seed_object)) {
        return NULL;
    }
    if (!(p >= 0.0f && p <= 1.0f)) {
        PyErr_SetString(PyExc_ValueError, "p: expected a probability from 0 to 1");
        return NULL;
    }
    PyArrayObject *x = dad_input_float(x_object, "x", DAD_ANY_DIMENSIONS);
    if (x == NULL) {
        return NULL;
    }
    PyArrayObject *y = dad_output(NPY_FLOAT32, PyArray_NDIM(x), PyArray_DIMS(x));
    if (y != NULL) {
        DAD_BEGIN_COMPUTE
        dad_dropout(dad_floats(y), dad_floats(x), p, seed, PyArray_SIZE(x));
        DAD_END_COMPUTE
    }
    Py_DECREF(x);
    return (PyObject *)y;
}

PyMethodDef dad_elementwise_methods[] = {
    DAD_METHOD(silu, "silu(x)\n--\n\nx * sigmoid(x)."),
    DAD_METHOD(silu_backward,
               "silu_backward(dy, x)\n--\n\nGradient of silu by its input x."),
    DAD_METHOD(relu, "relu(x)\n--\n\nmax(x, 0); NaN stays."),
    DAD_METHOD(relu_backward,
               "relu_backward(dy, y)\n--\n\nGradient of relu, y its output."),
    DAD_METHOD(sigmoid, "sigmoid(x)\n--\n\n1 / (1 + exp(-x))."),
    DAD_METHOD(sigmoid_backward,
               "sigmoid_backward(dy, y)\n--\n\nGradient of sigmoid, y its output."),
    DAD_METHOD(add, "add(a, b)\n--\n\na + b, of one shape."),
    DAD_METHOD(
        dropout,
        "dropout(x, p, seed)\n--\n\nEach element zero with probability p, else divided by "
        "1 - p. A draw depends on seed and the element's index alone; the gradient is "
        "dropout(dy, p, seed)."),
    {NULL, NULL, 0, NULL},
};
