/* Diffusion steps and norm guidance as NumPy functions (pipeline/diffuse.c, guide.c). */
#include "python/wrap.h" /* Python.h comes before the standard headers */

#include <math.h>
#include <string.h>

#include "pipeline/pipeline.h"

/* ---- what diffuse.c and guide.c take --------------------------------------------- */

/* An array of images: float32, the first dimension counts them. */
static PyArrayObject *input_images(PyObject *object, const char *name) {
    PyArrayObject *images = dad_input_float(object, name, DAD_ANY_DIMENSIONS);
    if (images != NULL && PyArray_NDIM(images) == 0) {
        PyErr_Format(PyExc_ValueError, "%s: expected at least 1 dimension, got 0", name);
        Py_CLEAR(images);
    }
    return images;
}

static PyArrayObject *input_like(PyObject *object, const char *name, PyArrayObject *like) {
    PyArrayObject *images = dad_input_float(object, name, DAD_ANY_DIMENSIONS);
    if (images != NULL &&
        !dad_check_shape(images, name, PyArray_NDIM(like), PyArray_DIMS(like))) {
        Py_CLEAR(images);
    }
    return images;
}

/* One float64 per image, each in [low, 1] (low itself left out where `open`). */
static PyArrayObject *input_levels(PyObject *object, const char *name,
                                   PyArrayObject *images, bool open) {
    npy_intp shape[] = {PyArray_DIM(images, 0)};
    PyArrayObject *levels = dad_input(object, name, NPY_FLOAT64, 1);
    if (levels == NULL || !dad_check_shape(levels, name, 1, shape)) {
        Py_CLEAR(levels);
        return NULL;
    }
    const double *values = PyArray_DATA(levels);
    for (npy_intp i = 0; i < shape[0]; i++) {
        bool fits = values[i] <= 1.0 && (open ? values[i] > 0.0 : values[i] >= 0.0);
        if (!fits) {
            PyObject *value = PyFloat_FromDouble(values[i]);
            PyErr_Format(PyExc_ValueError, "%s: expected values in %s, got %S", name,
                         open ? "(0, 1]" : "[0, 1]", value != NULL ? value : Py_None);
            Py_XDECREF(value);
            Py_CLEAR(levels);
            return NULL;
        }
    }
    return levels;
}

static PyArrayObject *output_like(PyArrayObject *like) {
    return dad_output(NPY_FLOAT32, PyArray_NDIM(like), PyArray_DIMS(like));
}

static ptrdiff_t image_size(PyArrayObject *images) {
    return PyArray_SIZE(images) / PyArray_DIM(images, 0);
}

/* ---- diffuse.c ------------------------------------------------------------------- */

static PyObject *q_sample(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x0", "noise", "abar", NULL};
    PyObject *x0_object, *noise_object, *abar_object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:q_sample", names, &x0_object,
                                     &noise_object, &abar_object)) {
        return NULL;
    }
    PyArrayObject *x0 = NULL, *noise = NULL, *abar = NULL, *x_t = NULL;
    if ((x0 = input_images(x0_object, "x0")) == NULL ||
        (noise = input_like(noise_object, "noise", x0)) == NULL ||
        (abar = input_levels(abar_object, "abar", x0, true)) == NULL ||
        (x_t = output_like(x0)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_q_sample(dad_floats(x_t), dad_floats(x0), dad_floats(noise), PyArray_DATA(abar),
                 PyArray_DIM(x0, 0), image_size(x0));
    DAD_END_COMPUTE
done:
    Py_XDECREF(x0);
    Py_XDECREF(noise);
    Py_XDECREF(abar);
    return (PyObject *)x_t;
}

static PyObject *predict_x0(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x_t", "eps", "abar", "clip", NULL};
    PyObject *x_t_object, *eps_object, *abar_object;
    int clip = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|p:predict_x0", names, &x_t_object,
                                     &eps_object, &abar_object, &clip)) {
        return NULL;
    }
    PyArrayObject *x_t = NULL, *eps = NULL, *abar = NULL, *x0 = NULL;
    if ((x_t = input_images(x_t_object, "x_t")) == NULL ||
        (eps = input_like(eps_object, "eps", x_t)) == NULL ||
        (abar = input_levels(abar_object, "abar", x_t, true)) == NULL ||
        (x0 = output_like(x_t)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_predict_x0(dad_floats(x0), dad_floats(x_t), dad_floats(eps), PyArray_DATA(abar),
                   clip != 0, PyArray_DIM(x_t, 0), image_size(x_t));
    DAD_END_COMPUTE
done:
    Py_XDECREF(x_t);
    Py_XDECREF(eps);
    Py_XDECREF(abar);
    return (PyObject *)x0;
}

static PyObject *precondition(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x_t", "output", "abar", NULL};
    PyObject *x_t_object, *output_object, *abar_object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:precondition", names, &x_t_object,
                                     &output_object, &abar_object)) {
        return NULL;
    }
    PyArrayObject *x_t = NULL, *output = NULL, *abar = NULL, *eps = NULL;
    if ((x_t = input_images(x_t_object, "x_t")) == NULL ||
        (output = input_like(output_object, "output", x_t)) == NULL ||
        (abar = input_levels(abar_object, "abar", x_t, true)) == NULL ||
        (eps = output_like(x_t)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_precondition(dad_floats(eps), dad_floats(x_t), dad_floats(output),
                     PyArray_DATA(abar), PyArray_DIM(x_t, 0), image_size(x_t));
    DAD_END_COMPUTE
done:
    Py_XDECREF(x_t);
    Py_XDECREF(output);
    Py_XDECREF(abar);
    return (PyObject *)eps;
}

static PyObject *precondition_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"deps", "abar", NULL};
    PyObject *deps_object, *abar_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:precondition_backward", names,
                                     &deps_object, &abar_object)) {
        return NULL;
    }
    PyArrayObject *deps = NULL, *abar = NULL, *doutput = NULL, *dx_t = NULL;
    if ((deps = input_images(deps_object, "deps")) == NULL ||
        (abar = input_levels(abar_object, "abar", deps, true)) == NULL ||
        (doutput = output_like(deps)) == NULL || (dx_t = output_like(deps)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_precondition_backward(dad_floats(doutput), dad_floats(dx_t), dad_floats(deps),
                              PyArray_DATA(abar), PyArray_DIM(deps, 0), image_size(deps));
    DAD_END_COMPUTE
    result = PyTuple_Pack(2, doutput, dx_t);
done:
    Py_XDECREF(deps);
    Py_XDECREF(abar);
    Py_XDECREF(doutput);
    Py_XDECREF(dx_t);
    return result;
}

/* The four levels of each image, checked; to be freed with PyMem_Free. */
static dad_ancestral *input_steps(PyObject *const objects[4], PyArrayObject *images) {
    static const char *const names[] = {"abar", "abar_prev", "beta", "variance"};
    npy_intp N = PyArray_DIM(images, 0);
    dad_ancestral *steps = PyMem_New(dad_ancestral, N);
    if (steps == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (int k = 0; k < 4; k++) {
        PyArrayObject *levels = input_levels(objects[k], names[k], images, k < 2);
        if (levels == NULL) {
            PyMem_Free(steps);
            return NULL;
        }
        for (npy_intp i = 0; i < N; i++) {
            double value = ((const double *)PyArray_DATA(levels))[i];
            double *fields[] = {&steps[i].abar, &steps[i].abar_prev, &steps[i].beta,
                                &steps[i].variance};
            *fields[k] = value;
        }
        Py_DECREF(levels);
    }
    for (npy_intp i = 0; i < N; i++) {
        if (steps[i].abar >= 1.0) {
            PyErr_SetString(PyExc_ValueError, "abar: expected values below 1, got 1");
            PyMem_Free(steps);
            return NULL;
        }
    }
    return steps;
}

static PyObject *ancestral_step(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x_t",       "eps",  "noise",    "abar",
                            "abar_prev", "beta", "variance", NULL};
    PyObject *x_t_object, *eps_object, *noise_object, *levels[4];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOOO:ancestral_step", names,
                                     &x_t_object, &eps_object, &noise_object, &levels[0],
                                     &levels[1], &levels[2], &levels[3])) {
        return NULL;
    }
    PyArrayObject *x_t = NULL, *eps = NULL, *noise = NULL, *next = NULL;
    dad_ancestral *steps = NULL;
    if ((x_t = input_images(x_t_object, "x_t")) == NULL ||
        (eps = input_like(eps_object, "eps", x_t)) == NULL) {
        goto done;
    }
    if (noise_object != Py_None &&
        (noise = input_like(noise_object, "noise", x_t)) == NULL) {
        goto done;
    }
    if ((steps = input_steps(levels, x_t)) == NULL || (next = output_like(x_t)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_ancestral_step(dad_floats(next), dad_floats(x_t), dad_floats(eps),
                       dad_floats(noise), steps, PyArray_DIM(x_t, 0), image_size(x_t));
    DAD_END_COMPUTE
done:
    PyMem_Free(steps);
    Py_XDECREF(x_t);
    Py_XDECREF(eps);
    Py_XDECREF(noise);
    return (PyObject *)next;
}

/* ---- guide.c --------------------------------------------------------------------- */

enum { X_S, X_B, EPS_S, EPS_B, ABAR_S, ABAR_B, GUIDE_INPUTS };

typedef struct {
    PyArrayObject *arrays[GUIDE_INPUTS];
    dad_guide_inputs in;
    ptrdiff_t N, size;
} guide_arguments;

static void release_guide(guide_arguments *a) {
    for (int i = 0; i < GUIDE_INPUTS; i++) {
        Py_CLEAR(a->arrays[i]);
    }
}

static bool convert_guide(guide_arguments *a, PyObject *const objects[GUIDE_INPUTS],
                          float w) {
    static const char *const names[] = {"x_s", "x_b", "eps_s", "eps_b", "abar_s", "abar_b"};
    PyArrayObject **arrays = a->arrays;
    memset(a, 0, sizeof(*a));
    if (!isfinite(w)) {
        PyErr_SetString(PyExc_ValueError, "w: expected a finite weight");
        return false;
    }
    if ((arrays[X_S] = input_images(objects[X_S], names[X_S])) == NULL) {
        return false;
    }
    for (int i = X_B; i < GUIDE_INPUTS; i++) {
        arrays[i] = i < ABAR_S ? input_like(objects[i], names[i], arrays[X_S])
                               : input_levels(objects[i], names[i], arrays[X_S], true);
        if (arrays[i] == NULL) {
            release_guide(a);
            return false;
        }
    }
    a->in = (dad_guide_inputs){
        .x_s = dad_floats(arrays[X_S]),
        .x_b = dad_floats(arrays[X_B]),
        .e_s = dad_floats(arrays[EPS_S]),
        .e_b = dad_floats(arrays[EPS_B]),
        .abar_s = PyArray_DATA(arrays[ABAR_S]),
        .abar_b = PyArray_DATA(arrays[ABAR_B]),
        .w = w,
    };
    a->N = PyArray_DIM(arrays[X_S], 0);
    a->size = image_size(arrays[X_S]);
    return true;
}

static PyObject *norm_guided_eps(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x_s", "x_b", "eps_s", "eps_b", "abar_s", "abar_b", "w", NULL};
    PyObject *o[GUIDE_INPUTS];
    float w = 1.0f;
    guide_arguments a;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOO|f:norm_guided_eps", names, &o[0],
                                     &o[1], &o[2], &o[3], &o[4], &o[5], &w) ||
        !convert_guide(&a, o, w)) {
        return NULL;
    }
    PyArrayObject *eps_hat = output_like(a.arrays[X_S]);
    if (eps_hat == NULL) {
        goto done;
    }
    dad_guide_outputs out = {.eps_hat = dad_floats(eps_hat)};
    DAD_BEGIN_COMPUTE
    dad_guide_forward(&out, &a.in, a.N, a.size);
    DAD_END_COMPUTE
done:
    release_guide(&a);
    return (PyObject *)eps_hat;
}

static PyObject *guide(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"x_s", "x_b", "eps_s", "eps_b", "abar_s", "abar_b", "w", NULL};
    PyObject *o[GUIDE_INPUTS], *result = NULL;
    float w = 1.0f;
    guide_arguments a;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOO|f:guide", names, &o[0], &o[1],
                                     &o[2], &o[3], &o[4], &o[5], &w) ||
        !convert_guide(&a, o, w)) {
        return NULL;
    }
    PyArrayObject *made[5] = {NULL};
    for (int i = 0; i < 5; i++) {
        if ((made[i] = output_like(a.arrays[X_S])) == NULL) {
            goto done;
        }
    }
    dad_guide_outputs out = {
        .x0_hat = dad_floats(made[0]),
        .x0_s = dad_floats(made[1]),
        .x0_b = dad_floats(made[2]),
        .x_s_from_b = dad_floats(made[3]),
        .eps_hat = dad_floats(made[4]),
    };
    DAD_BEGIN_COMPUTE
    dad_guide_forward(&out, &a.in, a.N, a.size);
    DAD_END_COMPUTE
    result = Py_BuildValue("{sOsOsOsOsO}", "x0_hat", made[0], "x0_s", made[1], "x0_b",
                           made[2], "x_s_from_b", made[3], "eps_hat", made[4]);
done:
    for (int i = 0; i < 5; i++) {
        Py_XDECREF(made[i]);
    }
    release_guide(&a);
    return result;
}

static PyObject *guide_backward(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dx0_hat", "x_s",    "x_b", "eps_s", "eps_b",
                            "abar_s",  "abar_b", "w",   NULL};
    PyObject *dx0_object, *o[GUIDE_INPUTS], *result = NULL;
    float w = 1.0f;
    guide_arguments a;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOOO|f:guide_backward", names,
                                     &dx0_object, &o[0], &o[1], &o[2], &o[3], &o[4], &o[5],
                                     &w) ||
        !convert_guide(&a, o, w)) {
        return NULL;
    }
    PyArrayObject *dx0 = NULL, *de_s = NULL, *de_b = NULL;
    if ((dx0 = input_like(dx0_object, "dx0_hat", a.arrays[X_S])) == NULL ||
        (de_s = output_like(dx0)) == NULL || (de_b = output_like(dx0)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_guide_backward(dad_floats(de_s), dad_floats(de_b), dad_floats(dx0), &a.in, a.N,
                       a.size);
    DAD_END_COMPUTE
    result = PyTuple_Pack(2, (PyObject *)de_s, (PyObject *)de_b);
done:
    Py_XDECREF(dx0);
    Py_XDECREF(de_s);
    Py_XDECREF(de_b);
    release_guide(&a);
    return result;
}

PyMethodDef dad_pipeline_methods[] = {
    DAD_METHOD(
        q_sample,
        "q_sample(x0, noise, abar)\n--\n\n"
        "sqrt(abar) x0 + sqrt(1 - abar) noise, of images (N, C, H, W) (paper, eq. 2); "
        "abar: alphas_cumprod[t], float64 (N,)."),
    DAD_METHOD(predict_x0,
               "predict_x0(x_t, eps, abar, clip=False)\n--\n\n"
               "x_t / sqrt(abar) - sqrt(1 / abar - 1) eps (paper, eq. 6); clip: "
               "to [-1, 1]."),
    DAD_METHOD(precondition,
               "precondition(x_t, output, abar)\n--\n\n"
               "The noise that a preconditioned network's output stands for (Karras et al. "
               "2022); x_t and output (N, C, H, W), abar float64 (N,)."),
    DAD_METHOD(precondition_backward,
               "precondition_backward(deps, abar)\n--\n\n"
               "Gradients (doutput, dx_t) of precondition; dx_t without the part that goes "
               "through the network."),
    DAD_METHOD(
        ancestral_step,
        "ancestral_step(x_t, eps, noise, abar, abar_prev, beta, variance)\n--\n\n"
        "x at t - 1 of ancestral sampling (DDPM), of images (N, C, H, W); noise None: none "
        "is added; abar, abar_prev, beta, variance: float64 (N,)."),
    DAD_METHOD(
        norm_guided_eps,
        "norm_guided_eps(x_s, x_b, eps_s, eps_b, abar_s, abar_b, w=1.0)\n--\n\n"
        "eps_s - sqrt(1 - abar_s) w (x_s' - x_s), where x_s' is the repair from t_b, "
        "noised to t_s with eps_s (paper, section 3.3). Arrays (N, C, H, W), levels "
        "float64 (N,)."),
    DAD_METHOD(
        guide,
        "guide(x_s, x_b, eps_s, eps_b, abar_s, abar_b, w=1.0)\n--\n\n"
        "Norm-guided denoising of norm_guided_eps's arguments: a dict of x0_hat, x0_s, "
        "x0_b, x_s_from_b, eps_hat, each (N, C, H, W)."),
    DAD_METHOD(
        guide_backward,
        "guide_backward(dx0_hat, x_s, x_b, eps_s, eps_b, abar_s, abar_b, w=1.0)\n--\n\n"
        "Gradients (deps_s, deps_b) of guide, given that of x0_hat (N, C, H, W)."),
    {NULL, NULL, 0, NULL},
};
