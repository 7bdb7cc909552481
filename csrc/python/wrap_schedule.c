/* The noise schedule's tables as NumPy arrays (pipeline/schedule.c). */
#include "python/wrap.h" /* Python.h comes before the standard headers */

#include <string.h>

#include "pipeline/pipeline.h"

static const char *const table_names[DAD_SCHEDULE_TABLES] = {
    [DAD_BETAS] = "betas",
    [DAD_ALPHAS_CUMPROD] = "alphas_cumprod",
    [DAD_SQRT_ALPHAS_CUMPROD] = "sqrt_alphas_cumprod",
    [DAD_SQRT_ONE_MINUS_ALPHAS_CUMPROD] = "sqrt_one_minus_alphas_cumprod",
    [DAD_SQRT_RECIP_ALPHAS_CUMPROD] = "sqrt_recip_alphas_cumprod",
    [DAD_SQRT_RECIPM1_ALPHAS_CUMPROD] = "sqrt_recipm1_alphas_cumprod",
    [DAD_POSTERIOR_VARIANCE] = "posterior_variance",
    [DAD_POSTERIOR_LOG_VARIANCE] = "posterior_log_variance_clipped",
    [DAD_POSTERIOR_MEAN_COEF1] = "posterior_mean_coef1",
    [DAD_POSTERIOR_MEAN_COEF2] = "posterior_mean_coef2",
};

enum { MOST_STEPS = 1000000 };

static bool parse_schedule(dad_schedule_kind *kind, const char *name, Py_ssize_t T) {
    if (strcmp(name, "linear") == 0) {
        *kind = DAD_SCHEDULE_LINEAR;
    } else if (strcmp(name, "cosine") == 0) {
        *kind = DAD_SCHEDULE_COSINE;
    } else {
        PyErr_Format(PyExc_ValueError,
                     "kind: expected \"linear\" or \"cosine\", got \"%s\"", name);
        return false;
    }
    Py_ssize_t fewest = dad_schedule_fewest_steps(*kind);
    if (T < fewest || T > MOST_STEPS) {
        PyErr_Format(PyExc_ValueError,
                     "timesteps: expected %zd to %d for a %s schedule, got %zd", fewest,
                     MOST_STEPS, name, T);
        return false;
    }
    return true;
}

static PyObject *schedule(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"kind", "timesteps", NULL};
    const char *name;
    Py_ssize_t T;
    dad_schedule_kind kind;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sn:schedule", names, &name, &T) ||
        !parse_schedule(&kind, name, T)) {
        return NULL;
    }
    npy_intp shape[] = {DAD_SCHEDULE_TABLES, T};
    PyArrayObject *tables = dad_output(NPY_FLOAT64, 2, shape);
    PyObject *result = NULL;
    if (tables == NULL || (result = PyDict_New()) == NULL) {
        goto done;
    }
    dad_schedule_tables(PyArray_DATA(tables), kind, T);
    for (Py_ssize_t i = 0; i < DAD_SCHEDULE_TABLES; i++) {
        PyObject *row = PySequence_GetItem((PyObject *)tables, i);
        if (row == NULL || PyDict_SetItemString(result, table_names[i], row) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(row);
        if (result == NULL) {
            goto done;
        }
    }
done:
    Py_XDECREF(tables);
    return result;
}

PyMethodDef dad_schedule_methods[] = {
    DAD_METHOD(schedule,
               "schedule(kind, timesteps)\n--\n\n"
               "The float64 tables of a \"linear\" or \"cosine\" noise schedule, by name."),
    {NULL, NULL, 0, NULL},
};
