/* Losses: (value, gradient by the prediction). */
#include "python/wrap.h"

#include "base/memory.h"
#include "kernels/kernels.h"

typedef double loss_kernel(float *dp, const float *p, const float *target, ptrdiff_t count);

static PyObject *apply_loss(PyObject *args, PyObject *kwargs, const char *format,
                            loss_kernel *kernel) {
    static char *names[] = {"pred", "target", NULL};
    PyObject *p_object, *t_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &p_object, &t_object)) {
        return NULL;
    }
    PyArrayObject *t = NULL, *dp = NULL;
    PyArrayObject *p = dad_input_float(p_object, "pred", DAD_ANY_DIMENSIONS);
    if (p == NULL ||
        (t = dad_input_float(t_object, "target", DAD_ANY_DIMENSIONS)) == NULL ||
        !dad_check_shape(t, "target", PyArray_NDIM(p), PyArray_DIMS(p)) ||
        (dp = dad_output(NPY_FLOAT32, PyArray_NDIM(p), PyArray_DIMS(p))) == NULL) {
        goto done;
    }
    double value;
    DAD_BEGIN_COMPUTE
    value = kernel(dad_floats(dp), dad_floats(p), dad_floats(t), PyArray_SIZE(p));
    DAD_END_COMPUTE
    result = Py_BuildValue("dO", value, dp);
done:
    Py_XDECREF(p);
    Py_XDECREF(t);
    Py_XDECREF(dp);
    return result;
}

static PyObject *focal_loss(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    return apply_loss(args, kwargs, "OO:focal_loss", dad_focal_loss);
}
static PyObject *smooth_l1_loss(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    return apply_loss(args, kwargs, "OO:smooth_l1_loss", dad_smooth_l1_loss);
}
static PyObject *bce_loss(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    return apply_loss(args, kwargs, "OO:bce_loss", dad_bce_loss);
}
static PyObject *dice_loss(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    return apply_loss(args, kwargs, "OO:dice_loss", dad_dice_loss);
}

/* A float32 vector of N weights; ones for None. */
static PyArrayObject *weight_input(PyObject *object, npy_intp N) {
    PyArrayObject *weight;
    if (!dad_input_float_optional(&weight, object, "weight", 1)) {
        return NULL;
    }
    if (weight == NULL) {
        weight = dad_output(NPY_FLOAT32, 1, &N);
        for (npy_intp n = 0; weight != NULL && n < N; n++) {
            dad_floats(weight)[n] = 1.0f;
        }
    } else if (!dad_check_shape(weight, "weight", 1, &N)) {
        Py_CLEAR(weight);
    }
    return weight;
}

static PyObject *squared_error(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"a", "b", "weight", NULL};
    PyObject *a_object, *b_object, *weight_object = NULL, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O:squared_error", names, &a_object,
                                     &b_object, &weight_object)) {
        return NULL;
    }
    PyArrayObject *b = NULL, *weight = NULL, *value = NULL, *da = NULL;
    PyArrayObject *a = dad_input_float(a_object, "a", DAD_ANY_DIMENSIONS);
    if (a == NULL || (b = dad_input_float(b_object, "b", DAD_ANY_DIMENSIONS)) == NULL ||
        !dad_check_shape(b, "b", PyArray_NDIM(a), PyArray_DIMS(a))) {
        goto done;
    }
    if (PyArray_NDIM(a) < 1) {
        PyErr_SetString(PyExc_ValueError, "a: expected an array of images, got one number");
        goto done;
    }
    const npy_intp N = PyArray_DIM(a, 0);
    if ((weight = weight_input(weight_object, N)) == NULL ||
        (value = dad_output(NPY_FLOAT64, 1, &N)) == NULL ||
        (da = dad_output(NPY_FLOAT32, PyArray_NDIM(a), PyArray_DIMS(a))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_squared_error((double *)PyArray_DATA(value), dad_floats(da), dad_floats(a),
                      dad_floats(b), dad_floats(weight), N, PyArray_SIZE(a) / N);
    DAD_END_COMPUTE
    result = Py_BuildValue("OO", value, da);
done:
    Py_XDECREF(a);
    Py_XDECREF(b);
    Py_XDECREF(weight);
    Py_XDECREF(value);
    Py_XDECREF(da);
    return result;
}

PyMethodDef dad_loss_methods[] = {
    DAD_METHOD(squared_error,
               "squared_error(a, b, weight=None)\n--\n\nMean of (a - b)^2 per image [N] "
               "(float64, not weighted), and the gradient by a of their sum, weighted by "
               "weight [N]."),
    DAD_METHOD(focal_loss,
               "focal_loss(pred, target)\n--\n\nmean(0.5 (1 - exp(-BCE))^4 BCE) on "
               "probabilities of any shape, and its gradient by pred."),
    DAD_METHOD(smooth_l1_loss,
               "smooth_l1_loss(pred, target)\n--\n\nMean of d^2 / 2 where abs(d) < 1, else "
               "abs(d) - 1/2, d = pred - target of any shape, and its gradient by pred."),
    DAD_METHOD(bce_loss,
               "bce_loss(pred, target)\n--\n\nMean binary cross-entropy on probabilities, "
               "logarithms clamped at -100, and its gradient by pred."),
    DAD_METHOD(
        dice_loss,
        "dice_loss(pred, target)\n--\n\n1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), "
        "p = pred, t = target, and its gradient by pred."),
    {NULL, NULL, 0, NULL},
};
