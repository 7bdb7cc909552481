/* diffusionad._core: plain NumPy functions over the C kernels, and the Network type.
 *
 * Multi-phase initialisation; process-wide settings (SIMD level, thread count) live in
 * base/ and simd/, everything else in the objects. */
#define DAD_IMPORTS_ARRAY
#include "python/wrap.h" /* Python.h comes before the standard headers */

#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

static PyObject *simd_level(PyObject *self, PyObject *args) {
    (void)self, (void)args;
    return PyUnicode_FromString(dad_simd()->name);
}

static PyObject *simd_levels(PyObject *self, PyObject *args) {
    (void)self, (void)args;
    PyObject *names = PyList_New(0);
    for (int i = 0; names != NULL; i++) {
        const dad_simd_level *level = dad_simd_runnable(i);
        if (level == NULL) {
            break;
        }
        PyObject *name = PyUnicode_FromString(level->name);
        if (name == NULL || PyList_Append(names, name) < 0) {
            Py_CLEAR(names);
        }
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *set_simd_level(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    if (!PyArg_ParseTuple(args, "s:set_simd_level", &name)) {
        return NULL;
    }
    if (strcmp(name, dad_simd()->name) == 0) {
        Py_RETURN_NONE;
    }
    if (dad_in_call()) {
        PyErr_SetString(
            PyExc_RuntimeError,
            "set_simd_level: another thread is computing; wait until it is done");
        return NULL;
    }
    if (!dad_simd_select(name)) {
        PyErr_Format(PyExc_ValueError,
                     "name: this processor has no level \"%s\"; see simd_levels()", name);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *has_bfloat16(PyObject *self, PyObject *args) {
    (void)self, (void)args;
    return PyBool_FromLong(dad_simd_has_bfloat16());
}

bool dad_check_bfloat16(void) {
    if (!dad_simd_has_bfloat16()) {
        PyErr_Format(PyExc_ValueError,
                     "bfloat16: expected False, this processor has no AVX512_BF16 or "
                     "level \"%s\" is in use",
                     dad_simd()->name);
        return false;
    }
    return true;
}

static PyObject *get_num_threads(PyObject *self, PyObject *args) {
    (void)self, (void)args;
    return PyLong_FromLong(dad_wanted_threads());
}

static PyObject *set_num_threads(PyObject *self, PyObject *args) {
    (void)self;
    int count;
    if (!PyArg_ParseTuple(args, "i:set_num_threads", &count)) {
        return NULL;
    }
    if (count < 1 || count > DAD_MOST_THREADS) {
        PyErr_Format(PyExc_ValueError, "count: expected 1 to %d threads, got %d",
                     DAD_MOST_THREADS, count);
        return NULL;
    }
    if (count > 1 && dad_only_one_thread()) {
        PyErr_Format(PyExc_RuntimeError,
                     "count: expected 1, got %d: this process was forked from one that has "
                     "used several threads; the start method \"spawn\" gives one that can, "
                     "too",
                     count);
        return NULL;
    }
    dad_set_num_threads(count);
    Py_RETURN_NONE;
}

/* What a bug report should tell of this build. */
static PyObject *build_info(PyObject *self, PyObject *args) {
    (void)self, (void)args;
#if defined(__clang__)
    const char *compiler = "Clang " __clang_version__;
#elif defined(__GNUC__)
    const char *compiler = "GCC " __VERSION__;
#else
    const char *compiler = "unknown";
#endif
#ifdef _OPENMP
    const int openmp = _OPENMP;
#else
    const int openmp = 0;
#endif
    return Py_BuildValue("{s:s, s:i, s:s}", "compiler", compiler, "openmp", openmp, "blas",
                         dad_blas_name());
}

static PyMethodDef module_methods[] = {
    {"simd_level", simd_level, METH_NOARGS,
     "simd_level()\n--\n\nName of the SIMD level in use."},
    {"simd_levels", simd_levels, METH_NOARGS,
     "simd_levels()\n--\n\nNames of the SIMD levels that this processor can run."},
    {"set_simd_level", set_simd_level, METH_VARARGS,
     "set_simd_level(name, /)\n--\n\n"
     "Use one of simd_levels(); RuntimeError while another thread computes."},
    {"has_bfloat16", has_bfloat16, METH_NOARGS,
     "has_bfloat16()\n--\n\n"
     "Whether the processor and the level in use have products of bfloat16."},
    {"build_info", build_info, METH_NOARGS,
     "build_info()\n--\n\n"
     "The compiler, the date of OpenMP's version (yyyymm, 0 without), and OpenBLAS."},
    {"get_num_threads", get_num_threads, METH_NOARGS,
     "get_num_threads()\n--\n\nThreads that a call uses, as they were set last."},
    {"set_num_threads", set_num_threads, METH_VARARGS,
     "set_num_threads(count, /)\n--\n\n"
     "Use `count` threads from now on, results stay the same; calls of other threads end "
     "with the number that they began with, and so do those that begin meanwhile.\n"
     "A process forked after several were used has one; RuntimeError for more."},
    {NULL, NULL, 0, NULL},
};

static int choose_level(void) {
    const char *wanted = getenv("DIFFUSIONAD_ISA");
    if (wanted != NULL && wanted[0] != '\0' && !dad_simd_select(wanted)) {
        PyErr_Format(
            PyExc_ImportError,
            "DIFFUSIONAD_ISA: this processor has no level \"%s\"; leave it unset, or "
            "use baseline, avx2 or avx512 where the processor has it",
            wanted);
        return -1;
    }
    return 0;
}

/* Once in a process, however often the module is made: what was set since stays. */
static int choose_threads(void) {
    static bool chosen = false;
    if (chosen) {
        return 0;
    }
    int count = dad_default_threads();
    const char *wanted = getenv("DIFFUSIONAD_NUM_THREADS");
    if (wanted != NULL && wanted[0] != '\0' && !dad_parse_threads(&count, wanted)) {
        PyErr_Format(
            PyExc_ImportError,
            "DIFFUSIONAD_NUM_THREADS: expected 1 to %d, got \"%s\"; leave it unset "
            "for a thread per processor",
            DAD_MOST_THREADS, wanted);
        return -1;
    }
    dad_set_num_threads(dad_only_one_thread() ? 1 : count);
    chosen = true;
    return 0;
}

static int module_exec(PyObject *module) {
    if (PyArray_ImportNumPyAPI() < 0 || choose_level() < 0 || choose_threads() < 0) {
        return -1;
    }
    if (!dad_threads_init()) {
        PyErr_NoMemory();
        return -1;
    }
    if (!dad_gemm_init()) {
        PyErr_SetString(
            PyExc_ImportError,
            "OpenBLAS multiplies wrongly on this processor; choose other kernels "
            "of it, such as OPENBLAS_CORETYPE=ARMV8 on Arm");
        return -1;
    }
    PyMethodDef *tables[] = {
        dad_conv_methods,       dad_elementwise_methods, dad_image_methods,
        dad_layer_methods,      dad_loss_methods,        dad_map_methods,
        dad_metric_methods,     dad_model_methods,       dad_norm_methods,
        dad_pipeline_methods,   dad_schedule_methods,    dad_score_methods,
        dad_pixel_methods,      dad_count_methods,       dad_synthesis_methods,
        dad_foreground_methods,
    };
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        if (PyModule_AddFunctions(module, tables[i]) < 0) {
            return -1;
        }
    }
    dad_module_state *state = PyModule_GetState(module);
    state->network_type = dad_new_network_type(module);
    return state->network_type != NULL ? PyModule_AddType(module, state->network_type) : -1;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    dad_module_state *state = PyModule_GetState(module);
    if (state != NULL) {
        Py_VISIT(state->network_type);
    }
    return 0;
}

static int module_clear(PyObject *module) {
    dad_module_state *state = PyModule_GetState(module);
    if (state != NULL) {
        Py_CLEAR(state->network_type);
    }
    return 0;
}

static void module_free(void *module) { (void)module_clear(module); }

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "diffusionad._core",
    .m_doc =
        "The C core: kernels, networks, diffusion, synthesis and metrics on NumPy arrays.",
    .m_size = sizeof(dad_module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&module_definition); }
