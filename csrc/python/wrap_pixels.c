/* Maps split into good pixels and steps of defect pixels, on NumPy arrays:
 * diffusionad/pixelwise.py keeps them, also for maps that do not fit into memory together.
 */
#include "python/wrap.h" /* Python.h comes before the standard headers */

#include "pipeline/pixels.h"
#include "python/scores.h"
#include "python/steps.h"

/* Counts to places [N + 1], each image's after the one before; returns the sum. */
static int64_t to_starts(int64_t *starts, const int64_t *counts, npy_intp N, int64_t size) {
    int64_t sum = 0;
    for (npy_intp n = 0; n < N; n++) {
        starts[n] = sum;
        sum += size < 0 ? counts[n] : size - counts[n];
    }
    starts[N] = sum;
    return sum;
}

static PyObject *split_pixels(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"masks", "maps", NULL};
    PyObject *masks_object, *maps_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:split_pixels", names, &masks_object,
                                     &maps_object)) {
        return NULL;
    }
    PyArrayObject *masks, *maps = NULL, *counts = NULL, *regions = NULL, *good = NULL,
                          *defects = NULL;
    int64_t *starts = NULL;
    dad_maps_shape shape;
    if (!dad_input_maps(&masks, &maps, &shape, masks_object, maps_object)) {
        goto done;
    }
    if (PyArray_TYPE(maps) != NPY_FLOAT32) {
        PyErr_SetString(PyExc_TypeError, "maps: expected dtype float32, got float64");
        goto done;
    }
    npy_intp N = shape.N;
    ptrdiff_t size = shape.H * shape.W;
    counts = dad_output(NPY_INT64, 1, &N);
    regions = dad_output(NPY_INT64, 1, &N);
    starts = PyMem_New(int64_t, 2 * ((size_t)N + 1));
    if (counts == NULL || regions == NULL || starts == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_count_defects(PyArray_DATA(counts), PyArray_DATA(masks), N, size);
    DAD_END_COMPUTE
    int64_t *good_starts = starts + N + 1;
    npy_intp bad = (npy_intp)to_starts(starts, PyArray_DATA(counts), N, -1);
    npy_intp rest = (npy_intp)to_starts(good_starts, PyArray_DATA(counts), N, size);
    good = dad_output(NPY_FLOAT32, 1, &rest);
    defects = dad_output(NPY_UINT64, 1, &bad);
    if (good == NULL || defects == NULL) {
        goto done;
    }
    dad_split split = {PyArray_DATA(good), PyArray_DATA(defects), PyArray_DATA(regions),
                       good_starts, starts};
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_split_pixels(&split, PyArray_DATA(masks), PyArray_DATA(maps), &shape);
    DAD_END_COMPUTE
    result = status == DAD_OK ? PyTuple_Pack(4, good, defects, counts, regions)
                              : dad_raise(status, "split_pixels");
done:
    PyMem_Free(starts);
    Py_XDECREF(masks);
    Py_XDECREF(maps);
    Py_XDECREF(counts);
    Py_XDECREF(regions);
    Py_XDECREF(good);
    Py_XDECREF(defects);
    return result;
}

/* Copies the items with keys in low .. high; returns how many. A region that has lost its
 * pixels since they were checked has one: its share is a division. */
static ptrdiff_t copy_between(dad_narrow_item *to, const dad_narrow_item *from,
                              ptrdiff_t count, uint64_t low, uint64_t high) {
    ptrdiff_t kept = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        dad_narrow_item item = from[i];
        uint32_t key = (uint32_t)(item >> 32);
        to[kept] = (uint32_t)item != 0 ? item : item + 1;
        kept += low <= key && key <= high;
    }
    return kept;
}

static PyObject *defect_steps(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"defects", "low", "high", NULL};
    PyObject *object, *low_object = NULL, *high_object = NULL, *result = NULL;
    uint64_t low = 0, high = UINT32_MAX;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OO:defect_steps", names, &object,
                                     &low_object, &high_object) ||
        (low_object != NULL && !dad_unsigned(&low, low_object, "low", 32)) ||
        (high_object != NULL && !dad_unsigned(&high, high_object, "high", 32))) {
        return NULL;
    }
    dad_step_arrays arrays = {0};
    dad_narrow_item *items = NULL, *spare = NULL;
    PyArrayObject *defects = dad_input_row(object, "defects", NPY_UINT64);
    if (defects == NULL || !dad_check_items(defects)) {
        goto done;
    }
    size_t room = (size_t)PyArray_SIZE(defects) + 1;
    items = PyMem_RawMalloc(room * sizeof(*items));
    spare = PyMem_RawMalloc(room * sizeof(*spare));
    if (items == NULL || spare == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    ptrdiff_t kept, count = 0;
    dad_status status;
    DAD_BEGIN_COMPUTE
    kept = copy_between(items, PyArray_DATA(defects), PyArray_SIZE(defects), low, high);
    status = dad_sort_narrow(&items, &spare, kept);
    count = dad_count_steps(items, kept);
    DAD_END_COMPUTE
    if (status != DAD_OK) {
        dad_raise(status, "defect_steps");
        goto done;
    }
    if (!dad_new_steps(&arrays, count)) {
        goto done;
    }
    dad_steps steps = dad_steps_of(&arrays);
    DAD_BEGIN_COMPUTE
    dad_fill_steps(&steps, items, kept);
    DAD_END_COMPUTE
    result = dad_steps_tuple(&arrays, count);
done:
    PyMem_RawFree(items);
    PyMem_RawFree(spare);
    dad_release_steps(&arrays);
    Py_XDECREF(defects);
    return result;
}

static PyObject *merge_steps(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"a", "b", NULL};
    PyObject *a_object, *b_object, *result = NULL;
    dad_step_arrays a = {0}, b = {0}, both = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:merge_steps", names, &a_object,
                                     &b_object)) {
        return NULL;
    }
    if (!dad_input_steps(&a, a_object) || !dad_input_steps(&b, b_object) ||
        !dad_new_steps(&both, PyArray_SIZE(a.keys) + PyArray_SIZE(b.keys))) {
        goto done;
    }
    dad_steps first = dad_steps_of(&a), second = dad_steps_of(&b),
              merged = dad_steps_of(&both);
    ptrdiff_t count;
    DAD_BEGIN_COMPUTE
    count = dad_merge_steps(&merged, &first, &second);
    DAD_END_COMPUTE
    result = dad_steps_tuple(&both, count);
done:
    dad_release_steps(&a);
    dad_release_steps(&b);
    dad_release_steps(&both);
    return result;
}

PyMethodDef dad_pixel_methods[] = {
    DAD_METHOD(
        split_pixels,
        "split_pixels(masks, maps)\n--\n\n"
        "(good, defects, counts, regions) of masks and float32 maps (N, H, W): scores\n"
        "of good pixels; items of defect pixels, the score's key in the upper and the\n"
        "size of the 8-connected region in the lower half; defect pixels and regions\n"
        "of each image (N,)."),
    DAD_METHOD(
        defect_steps,
        "defect_steps(defects, low=0, high=2**32 - 1)\n--\n\n"
        "Steps (keys, positives, shares): the distinct keys from low to high, rising,\n"
        "how many pixels have each, and their parts of their regions, as 128 bits."),
    DAD_METHOD(merge_steps, "merge_steps(a, b)\n--\n\n"
                            "The steps of both."),
    {NULL, NULL, 0, NULL},
};
