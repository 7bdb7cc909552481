/* GroupNorm and BatchNorm. */
#include "python/wrap.h"

#include <string.h>

#include "base/memory.h"
#include "kernels/kernels.h"
#include "python/maps.h"

/* False with ValueError set unless text is "none" or the name of `other`. */
static bool parse_activation(dad_activation *activation, const char *text,
                             dad_activation other) {
    const char *name = other == DAD_SILU ? "silu" : "relu";
    if (strcmp(text, "none") == 0 || strcmp(text, name) == 0) {
        *activation = strcmp(text, name) == 0 ? other : DAD_NO_ACTIVATION;
        return true;
    }
    PyErr_Format(PyExc_ValueError, "activation: expected \"none\" or \"%s\", got \"%s\"",
                 name, text);
    return false;
}

/* A float32 vector of `size` elements. */
static PyArrayObject *vector_input(PyObject *object, const char *name, npy_intp size) {
    PyArrayObject *array = dad_input_float(object, name, 1);
    if (array != NULL && !dad_check_shape(array, name, 1, &size)) {
        Py_CLEAR(array);
    }
    return array;
}

static PyArrayObject *zeros(int dimensions, const npy_intp *shape) {
    return (PyArrayObject *)PyArray_ZEROS(dimensions, shape, NPY_FLOAT32, 0);
}

/* ---- GroupNorm ------------------------------------------------------------------- */

static bool check_groups(Py_ssize_t groups, ptrdiff_t C) {
    if (groups < 1 || C % groups != 0) {
        PyErr_Format(PyExc_ValueError,
                     "groups: expected a divisor of the %zd channels, got %zd", C, groups);
        return false;
    }
    return true;
}

static PyObject *group_norm(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x", "weight", "bias", "groups", "eps", "activation", NULL};
    PyObject *x_object, *w_object, *b_object;
    Py_ssize_t groups = 32;
    float eps = 1e-5f;
    const char *text = "none";
    dad_group_norm_shape shape;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|nfs:group_norm", names, &x_object,
                                     &w_object, &b_object, &groups, &eps, &text) ||
        !parse_activation(&shape.activation, text, DAD_SILU)) {
        return NULL;
    }
    PyArrayObject *w = NULL, *b = NULL, *result = NULL;
    float *y = NULL, *stats = NULL, *scratch = NULL;
    dad_map_size size = DAD_ANY_MAP;
    float *x = dad_map_input(x_object, "x", &size);
    if (x == NULL || !check_groups(groups, size.C) ||
        (w = vector_input(w_object, "weight", size.C)) == NULL ||
        (b = vector_input(b_object, "bias", size.C)) == NULL) {
        goto done;
    }
    shape.N = size.N, shape.P = size.H * size.W, shape.C = size.C, shape.G = groups;
    shape.eps = eps;
    if ((y = dad_scratch(dad_map_count(size))) == NULL ||
        (stats = dad_scratch(size.N * groups * 2)) == NULL ||
        (scratch = dad_scratch(dad_group_norm_scratch(&shape))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_group_norm_forward(y, stats, x, dad_floats(w), dad_floats(b), &shape, scratch);
    DAD_END_COMPUTE
    result = dad_map_output(y, size);
done:
    dad_free(x), dad_free(y), dad_free(stats), dad_free(scratch);
    Py_XDECREF(w);
    Py_XDECREF(b);
    return (PyObject *)result;
}

static PyObject *group_norm_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dy",     "x",   "weight",     "bias",
                            "groups", "eps", "activation", NULL};
    PyObject *dy_object, *x_object, *w_object, *b_object, *result = NULL;
    Py_ssize_t groups = 32;
    float eps = 1e-5f;
    const char *text = "none";
    dad_group_norm_shape shape;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO|nfs:group_norm_backward", names,
                                     &dy_object, &x_object, &w_object, &b_object, &groups,
                                     &eps, &text) ||
        !parse_activation(&shape.activation, text, DAD_SILU)) {
        return NULL;
    }
    PyArrayObject *w = NULL, *b = NULL, *dw = NULL, *db = NULL;
    float *dy = NULL, *dx = NULL, *stats = NULL, *scratch = NULL;
    dad_map_size size = DAD_ANY_MAP;
    float *x = dad_map_input(x_object, "x", &size);
    if (x == NULL || !check_groups(groups, size.C) ||
        (dy = dad_map_input(dy_object, "dy", &size)) == NULL ||
        (w = vector_input(w_object, "weight", size.C)) == NULL ||
        (b = vector_input(b_object, "bias", size.C)) == NULL) {
        goto done;
    }
    shape.N = size.N, shape.P = size.H * size.W, shape.C = size.C, shape.G = groups;
    shape.eps = eps;
    if ((dx = dad_scratch(dad_map_count(size))) == NULL ||
        (stats = dad_scratch(size.N * groups * 2)) == NULL ||
        (dw = zeros(1, &size.C)) == NULL || (db = zeros(1, &size.C)) == NULL ||
        (scratch = dad_scratch(dad_group_norm_scratch(&shape))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    /* for the statistics; dx holds y meanwhile */
    dad_group_norm_forward(dx, stats, x, dad_floats(w), dad_floats(b), &shape, scratch);
    dad_group_norm_backward(dx, dad_floats(dw), dad_floats(db), dy, x, stats, dad_floats(w),
                            dad_floats(b), &shape, scratch);
    DAD_END_COMPUTE
    result = Py_BuildValue("NOO", dad_map_output(dx, size), dw, db);
done:
    dad_free(x), dad_free(dy), dad_free(dx), dad_free(stats), dad_free(scratch);
    Py_XDECREF(w);
    Py_XDECREF(b);
    Py_XDECREF(dw);
    Py_XDECREF(db);
    return result;
}

/* ---- BatchNorm ------------------------------------------------------------------- */

static bool check_batch(const dad_batch_norm_shape *shape) {
    if (shape->N * shape->P < 2) {
        PyErr_SetString(PyExc_ValueError,
                        "x: expected more than one value per channel for batch statistics");
        return false;
    }
    return true;
}

static PyArrayObject *copy_vector(PyArrayObject *array) {
    return (PyArrayObject *)PyArray_NewCopy(array, NPY_CORDER);
}

static PyObject *batch_norm(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x",        "weight",   "bias", "running_mean", "running_var",
                            "training", "momentum", "eps",  "activation",   NULL};
    PyObject *x_object, *w_object, *b_object, *mean_object, *var_object, *result = NULL;
    int training = 0;
    float momentum = 0.1f, eps = 1e-5f;
    const char *text = "none";
    dad_batch_norm_shape shape;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOO|pffs:batch_norm", names,
                                     &x_object, &w_object, &b_object, &mean_object,
                                     &var_object, &training, &momentum, &eps, &text) ||
        !parse_activation(&shape.activation, text, DAD_RELU)) {
        return NULL;
    }
    PyArrayObject *w = NULL, *b = NULL, *mean = NULL, *var = NULL, *new_mean = NULL;
    PyArrayObject *new_var = NULL;
    float *y = NULL, *stats = NULL, *scratch = NULL;
    dad_map_size size = DAD_ANY_MAP;
    float *x = dad_map_input(x_object, "x", &size);
    if (x == NULL || (w = vector_input(w_object, "weight", size.C)) == NULL ||
        (b = vector_input(b_object, "bias", size.C)) == NULL ||
        (mean = vector_input(mean_object, "running_mean", size.C)) == NULL ||
        (var = vector_input(var_object, "running_var", size.C)) == NULL) {
        goto done;
    }
    shape.N = size.N, shape.P = size.H * size.W, shape.C = size.C;
    shape.eps = eps, shape.momentum = momentum;
    if ((training && !check_batch(&shape)) || (new_mean = copy_vector(mean)) == NULL ||
        (new_var = copy_vector(var)) == NULL ||
        (y = dad_scratch(dad_map_count(size))) == NULL ||
        (stats = dad_scratch(size.C * 2)) == NULL ||
        (scratch = dad_scratch(dad_batch_norm_scratch(&shape))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    if (training) {
        dad_batch_norm_forward_training(y, stats, dad_floats(new_mean), dad_floats(new_var),
                                        x, dad_floats(w), dad_floats(b), &shape, scratch);
    } else {
        dad_batch_norm_forward_evaluation(y, x, dad_floats(w), dad_floats(b),
                                          dad_floats(mean), dad_floats(var), &shape,
                                          scratch);
    }
    DAD_END_COMPUTE
    result = (PyObject *)dad_map_output(y, size);
    if (training) {
        result = Py_BuildValue("NOO", result, new_mean, new_var);
    }
done:
    dad_free(x), dad_free(y), dad_free(stats), dad_free(scratch);
    Py_XDECREF(w);
    Py_XDECREF(b);
    Py_XDECREF(mean);
    Py_XDECREF(var);
    Py_XDECREF(new_mean);
    Py_XDECREF(new_var);
    return result;
}

static PyObject *batch_norm_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dy", "x", "weight", "bias", "eps", "activation", NULL};
    PyObject *dy_object, *x_object, *w_object, *b_object, *result = NULL;
    float eps = 1e-5f;
    const char *text = "none";
    dad_batch_norm_shape shape;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO|fs:batch_norm_backward", names,
                                     &dy_object, &x_object, &w_object, &b_object, &eps,
                                     &text) ||
        !parse_activation(&shape.activation, text, DAD_RELU)) {
        return NULL;
    }
    PyArrayObject *w = NULL, *b = NULL, *dw = NULL, *db = NULL;
    float *dy = NULL, *dx = NULL, *stats = NULL, *scratch = NULL;
    dad_map_size size = DAD_ANY_MAP;
    float *x = dad_map_input(x_object, "x", &size);
    if (x == NULL || (dy = dad_map_input(dy_object, "dy", &size)) == NULL ||
        (w = vector_input(w_object, "weight", size.C)) == NULL ||
        (b = vector_input(b_object, "bias", size.C)) == NULL) {
        goto done;
    }
    shape.N = size.N, shape.P = size.H * size.W, shape.C = size.C;
    shape.eps = eps, shape.momentum = 0.0f;
    if (!check_batch(&shape) || (dx = dad_scratch(dad_map_count(size))) == NULL ||
        (stats = dad_scratch(size.C * 2)) == NULL || (dw = zeros(1, &size.C)) == NULL ||
        (db = zeros(1, &size.C)) == NULL ||
        (scratch = dad_scratch(dad_batch_norm_scratch(&shape))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    /* for the statistics; dx holds y meanwhile */
    dad_batch_norm_forward_training(dx, stats, NULL, NULL, x, dad_floats(w), dad_floats(b),
                                    &shape, scratch);
    dad_batch_norm_backward(dx, dad_floats(dw), dad_floats(db), dy, x, stats, dad_floats(w),
                            dad_floats(b), &shape, scratch);
    DAD_END_COMPUTE
    result = Py_BuildValue("NOO", dad_map_output(dx, size), dw, db);
done:
    dad_free(x), dad_free(dy), dad_free(dx), dad_free(stats), dad_free(scratch);
    Py_XDECREF(w);
    Py_XDECREF(b);
    Py_XDECREF(dw);
    Py_XDECREF(db);
    return result;
}

PyMethodDef dad_norm_methods[] = {
    DAD_METHOD(
        group_norm,
        "group_norm(x, weight, bias, groups=32, eps=1e-05, activation='none')\n--\n\n"
        "GroupNorm of x [N, C, H, W]; activation 'none' or 'silu' follows."),
    DAD_METHOD(group_norm_backward,
               "group_norm_backward(dy, x, weight, bias, groups=32, eps=1e-05, "
               "activation='none')\n--\n\nGradients (dx, dweight, dbias) of group_norm."),
    DAD_METHOD(
        batch_norm,
        "batch_norm(x, weight, bias, running_mean, running_var, training=False, "
        "momentum=0.1, eps=1e-05, activation='none')\n--\n\n"
        "BatchNorm of x [N, C, H, W]; activation 'none' or 'relu' follows. With training, "
        "(y, new running mean, new running variance)."),
    DAD_METHOD(
        batch_norm_backward,
        "batch_norm_backward(dy, x, weight, bias, eps=1e-05, activation='none')\n--\n\n"
        "Gradients (dx, dweight, dbias) of batch_norm in training."),
    {NULL, NULL, 0, NULL},
};
