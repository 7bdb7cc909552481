/* Attention, linear, time embedding; Adam. */
#include "python/wrap.h"

#include "base/memory.h"
#include "kernels/kernels.h"
#include "python/maps.h"

/* ---- attention ------------------------------------------------------------------- */

static bool set_attention_shape(dad_attention_shape *shape, dad_map_size qkv,
                                Py_ssize_t heads) {
    if (heads < 1 || heads > qkv.C / 3 || qkv.C % (3 * heads) != 0) {
        PyErr_Format(
            PyExc_ValueError,
            "heads: expected the %zd channels of qkv to be a multiple of 3 * heads, "
            "got heads = %zd",
            qkv.C, heads);
        return false;
    }
    *shape = (dad_attention_shape){
        .N = qkv.N, .T = qkv.H * qkv.W, .heads = heads, .D = qkv.C / (3 * heads)};
    return true;
}

static PyObject *attention(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"qkv", "heads", NULL};
    PyObject *qkv_object;
    Py_ssize_t heads;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "On:attention", names, &qkv_object,
                                     &heads)) {
        return NULL;
    }
    PyArrayObject *result = NULL;
    float *y = NULL, *scratch = NULL;
    dad_attention_shape shape;
    dad_map_size size = DAD_ANY_MAP;
    float *qkv = dad_map_input(qkv_object, "qkv", &size);
    if (qkv == NULL || !set_attention_shape(&shape, size, heads)) {
        goto done;
    }
    size.C /= 3;
    if ((y = dad_scratch(dad_map_count(size))) == NULL ||
        (scratch = dad_scratch(dad_attention_scratch(&shape))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_attention_forward(y, qkv, &shape, scratch);
    DAD_END_COMPUTE
    result = dad_map_output(y, size);
done:
    dad_free(qkv), dad_free(y), dad_free(scratch);
    return (PyObject *)result;
}

static PyObject *attention_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dy", "qkv", "heads", NULL};
    PyObject *dy_object, *qkv_object;
    Py_ssize_t heads;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOn:attention_backward", names,
                                     &dy_object, &qkv_object, &heads)) {
        return NULL;
    }
    PyArrayObject *result = NULL;
    float *dy = NULL, *dqkv = NULL, *scratch = NULL;
    dad_attention_shape shape;
    dad_map_size size = DAD_ANY_MAP;
    float *qkv = dad_map_input(qkv_object, "qkv", &size);
    if (qkv == NULL || !set_attention_shape(&shape, size, heads)) {
        goto done;
    }
    dad_map_size dy_size = size;
    dy_size.C /= 3;
    if ((dy = dad_map_input(dy_object, "dy", &dy_size)) == NULL ||
        (dqkv = dad_scratch(dad_map_count(size))) == NULL ||
        (scratch = dad_scratch(dad_attention_scratch(&shape))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_attention_backward(dqkv, dy, qkv, &shape, scratch);
    DAD_END_COMPUTE
    result = dad_map_output(dqkv, size);
done:
    dad_free(qkv), dad_free(dy), dad_free(dqkv), dad_free(scratch);
    return (PyObject *)result;
}

/* ---- linear ---------------------------------------------------------------------- */

static PyObject *linear(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x", "weight", "bias", NULL};
    PyObject *x_object, *w_object, *b_object = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O:linear", names, &x_object,
                                     &w_object, &b_object)) {
        return NULL;
    }
    PyArrayObject *w = NULL, *b = NULL, *y = NULL;
    PyArrayObject *x = dad_input_float(x_object, "x", 2);
    if (x == NULL || (w = dad_input_float(w_object, "weight", 2)) == NULL ||
        !dad_input_float_optional(&b, b_object, "bias", 1)) {
        goto done;
    }
    const dad_linear_shape shape = {PyArray_DIM(x, 0), PyArray_DIM(x, 1),
                                    PyArray_DIM(w, 0)};
    const npy_intp w_shape[2] = {-1, shape.C}, y_shape[2] = {shape.N, shape.O};
    if (!dad_check_shape(w, "weight", 2, w_shape) ||
        (b != NULL && !dad_check_shape(b, "bias", 1, &shape.O)) ||
        (y = dad_output(NPY_FLOAT32, 2, y_shape)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_linear_forward(dad_floats(y), dad_floats(x), dad_floats(w), dad_floats(b), &shape);
    DAD_END_COMPUTE
done:
    Py_XDECREF(x);
    Py_XDECREF(w);
    Py_XDECREF(b);
    return (PyObject *)y;
}

static PyObject *linear_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dy", "x", "weight", NULL};
    PyObject *dy_object, *x_object, *w_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:linear_backward", names, &dy_object,
                                     &x_object, &w_object)) {
        return NULL;
    }
    PyArrayObject *x = NULL, *w = NULL, *dx = NULL, *dw = NULL, *db = NULL;
    PyArrayObject *dy = dad_input_float(dy_object, "dy", 2);
    if (dy == NULL || (x = dad_input_float(x_object, "x", 2)) == NULL ||
        (w = dad_input_float(w_object, "weight", 2)) == NULL) {
        goto done;
    }
    const dad_linear_shape shape = {PyArray_DIM(x, 0), PyArray_DIM(x, 1),
                                    PyArray_DIM(w, 0)};
    const npy_intp w_shape[2] = {-1, shape.C}, dy_shape[2] = {shape.N, shape.O};
    if (!dad_check_shape(w, "weight", 2, w_shape) ||
        !dad_check_shape(dy, "dy", 2, dy_shape) ||
        (dx = dad_output(NPY_FLOAT32, 2, PyArray_DIMS(x))) == NULL ||
        (dw = (PyArrayObject *)PyArray_ZEROS(2, PyArray_DIMS(w), NPY_FLOAT32, 0)) == NULL ||
        (db = (PyArrayObject *)PyArray_ZEROS(1, &shape.O, NPY_FLOAT32, 0)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_linear_backward(dad_floats(dx), dad_floats(dw), dad_floats(db), dad_floats(dy),
                        dad_floats(x), dad_floats(w), &shape);
    DAD_END_COMPUTE
    result = Py_BuildValue("OOO", dx, dw, db);
done:
    Py_XDECREF(dy);
    Py_XDECREF(x);
    Py_XDECREF(w);
    Py_XDECREF(dx);
    Py_XDECREF(dw);
    Py_XDECREF(db);
    return result;
}

static PyObject *time_embedding(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"t", "dim", NULL};
    PyObject *t_object;
    Py_ssize_t dim;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "On:time_embedding", names, &t_object,
                                     &dim)) {
        return NULL;
    }
    if (dim < 2 || dim % 2 != 0) {
        PyErr_Format(PyExc_ValueError, "dim: expected an even number from 2 up, got %zd",
                     dim);
        return NULL;
    }
    PyArrayObject *t = dad_input_float(t_object, "t", 1);
    if (t == NULL) {
        return NULL;
    }
    const npy_intp shape[2] = {PyArray_DIM(t, 0), dim};
    PyArrayObject *y = dad_output(NPY_FLOAT32, 2, shape);
    if (y != NULL) {
        DAD_BEGIN_COMPUTE
        dad_time_embedding(dad_floats(y), dad_floats(t), shape[0], dim);
        DAD_END_COMPUTE
    }
    Py_DECREF(t);
    return (PyObject *)y;
}

/* ---- optimizer ------------------------------------------------------------------- */

/* A fresh copy of a float32 array, of the shape of `like` unless that is NULL. */
static PyArrayObject *copy_input(PyObject *object, const char *name, PyArrayObject *like) {
    PyArrayObject *array = dad_input_float(object, name, DAD_ANY_DIMENSIONS), *copy = NULL;
    if (array != NULL && (like == NULL || dad_check_shape(array, name, PyArray_NDIM(like),
                                                          PyArray_DIMS(like)))) {
        copy = (PyArrayObject *)PyArray_NewCopy(array, NPY_CORDER);
    }
    Py_XDECREF(array);
    return copy;
}

static PyObject *adam(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"w",     "m",     "v",   "dw",           "lr", "step",
                            "beta1", "beta2", "eps", "weight_decay", NULL};
    PyObject *w_object, *m_object, *v_object, *dw_object, *result = NULL;
    long long step;
    dad_adam_options options = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOdL|dddd:adam", names, &w_object,
                                     &m_object, &v_object, &dw_object, &options.lr, &step,
                                     &options.beta1, &options.beta2, &options.eps,
                                     &options.weight_decay)) {
        return NULL;
    }
    if (step < 1) {
        PyErr_Format(PyExc_ValueError, "step: expected 1 or more, got %lld", step);
        return NULL;
    }
    options.step = step;
    PyArrayObject *m = NULL, *v = NULL, *dw = NULL;
    PyArrayObject *w = copy_input(w_object, "w", NULL);
    if (w == NULL || (m = copy_input(m_object, "m", w)) == NULL ||
        (v = copy_input(v_object, "v", w)) == NULL ||
        (dw = copy_input(dw_object, "dw", w)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_adam(dad_floats(w), dad_floats(m), dad_floats(v), dad_floats(dw), &options,
             PyArray_SIZE(w));
    DAD_END_COMPUTE
    result = Py_BuildValue("OOO", w, m, v);
done:
    Py_XDECREF(w);
    Py_XDECREF(m);
    Py_XDECREF(v);
    Py_XDECREF(dw);
    return result;
}

static PyObject *moving_average(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"average", "w", "decay", NULL};
    PyObject *average_object, *w_object;
    double decay;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOd:moving_average", names,
                                     &average_object, &w_object, &decay)) {
        return NULL;
    }
    PyArrayObject *w = NULL, *average = copy_input(average_object, "average", NULL);
    if (average == NULL || (w = copy_input(w_object, "w", average)) == NULL) {
        Py_CLEAR(average);
        return NULL;
    }
    DAD_BEGIN_COMPUTE
    dad_moving_average(dad_floats(average), dad_floats(w), decay, PyArray_SIZE(w));
    DAD_END_COMPUTE
    Py_DECREF(w);
    return (PyObject *)average;
}

PyMethodDef dad_layer_methods[] = {
    DAD_METHOD(
        attention,
        "attention(qkv, heads)\n--\n\n"
        "softmax(q k^T / sqrt(D)) v over the positions of qkv [N, heads * 3 * D, H, W], "
        "per head [q, k, v]; returns [N, heads * D, H, W]."),
    DAD_METHOD(attention_backward,
               "attention_backward(dy, qkv, heads)\n--\n\nGradient of attention by qkv."),
    DAD_METHOD(
        linear,
        "linear(x, weight, bias=None)\n--\n\nx [N, C] times weight [O, C] transposed, "
        "plus bias [O]."),
    DAD_METHOD(
        linear_backward,
        "linear_backward(dy, x, weight)\n--\n\nGradients (dx, dweight, dbias) of linear."),
    DAD_METHOD(
        time_embedding,
        "time_embedding(t, dim)\n--\n\n[sin, cos](t * 10000^(-k / (dim / 2))) of the time "
        "steps t [N] (float32); returns [N, dim]."),
    DAD_METHOD(
        adam,
        "adam(w, m, v, dw, lr, step, beta1=0.9, beta2=0.999, eps=1e-08, "
        "weight_decay=0.0)\n--\n\nUpdate number `step` (from 1) of w and its moments; "
        "weight decay is decoupled. Returns the new (w, m, v)."),
    DAD_METHOD(
        moving_average,
        "moving_average(average, w, decay)\n--\n\ndecay * average + (1 - decay) * w."),
    {NULL, NULL, 0, NULL},
};
