/* Between NumPy and C: what comes in is checked and made contiguous, what goes out is
 * fresh.
 *
 *   - dad_input_*: a contiguous, aligned array of one type and dimension; errors name the
 *     argument
 *   - dad_output: a new array
 *   - dad_scratch: a temporary buffer; NULL with MemoryError set
 *   - dad_raise: a status as a Python exception
 *
 * Every wrapper follows one order: parse, convert, check, size scratch, release the GIL,
 * call, build, `done:`. */
#ifndef DAD_ARRAYS_H
#define DAD_ARRAYS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL dad_array_api
#ifndef DAD_IMPORTS_ARRAY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/threads.h"

enum { DAD_ANY_DIMENSIONS = -1 };

/* Around what computes: without the GIL, but at a thread count that stays. What is sized by
 * that count is sized just before, and nothing in between may give the GIL away (as NumPy's
 * copies do). */
#define DAD_BEGIN_COMPUTE \
    {                     \
        dad_begin_call(); \
        Py_BEGIN_ALLOW_THREADS
#define DAD_END_COMPUTE  \
    Py_END_ALLOW_THREADS \
    dad_end_call();      \
    }

/* NumPy has two numbers for some types: those of long and long long, where they are one.
 * Types that others have added may have none (-1). */
static inline bool dad_is_type(PyArrayObject *array, int type) {
    int own = PyArray_TYPE(array);
    return own == type || (own >= 0 && PyArray_EquivTypenums(own, type));
}

/* A new reference to a C-contiguous, aligned, native-endian array: `object` itself when it
 * is one, else a copy. TypeError for another dtype, ValueError for another number of
 * dimensions or an empty array, each naming the argument, what was expected and what came.
 */
PyArrayObject *dad_input(PyObject *object, const char *name, int type, int dimensions);

/* The same for float32, and for an argument that may be None (then *array = NULL; false:
 * error). */
PyArrayObject *dad_input_float(PyObject *object, const char *name, int dimensions);
bool dad_input_float_optional(PyArrayObject **array, PyObject *object, const char *name,
                              int dimensions);

/* ValueError unless array has exactly this shape (a negative size: any). */
bool dad_check_shape(PyArrayObject *array, const char *name, int dimensions,
                     const npy_intp *shape);

/* A shape as a tuple; negative sizes as "any". */
PyObject *dad_shape_tuple(int dimensions, const npy_intp *shape);

/* An int from 0 to 2**bits - 1; ValueError for others, TypeError for what is none. */
bool dad_unsigned(uint64_t *value, PyObject *object, const char *name, int bits);
bool dad_seed(uint64_t *seed, PyObject *object); /* 64 bits */

PyArrayObject *dad_output(int type, int dimensions, const npy_intp *shape);

/* `count` floats from dad_alloc, or NULL with MemoryError set; count 0 gives a valid
 * pointer. */
float *dad_scratch(ptrdiff_t count);

/* Sets the exception of a status; returns NULL for `return dad_raise(...)`. */
PyObject *dad_raise(dad_status status, const char *what);

static inline float *dad_floats(PyArrayObject *array) {
    return array == NULL ? NULL : (float *)PyArray_DATA(array);
}

#endif
