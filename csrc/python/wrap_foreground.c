/* The foreground of images as NumPy functions (pipeline/foreground.h). */
#include "python/wrap.h" /* Python.h comes before the standard headers */

#include <string.h>

#include "base/memory.h"
#include "pipeline/foreground.h"

enum { LARGEST_IMAGE = 1 << 28 };

static bool check_pixels(const char *name, npy_intp H, npy_intp W) {
    if (H <= LARGEST_IMAGE / W) {
        return true;
    }
    PyErr_Format(PyExc_ValueError, "%s: expected at most %d pixels an image, got %zd x %zd",
                 name, LARGEST_IMAGE, H, W);
    return false;
}

/* uint8 [N, H, W, 3]; a negative size: any. */
static PyArrayObject *input_images(PyObject *object, npy_intp N, npy_intp H, npy_intp W) {
    const npy_intp shape[] = {N, H, W, 3};
    PyArrayObject *images = dad_input(object, "images", NPY_UINT8, 4);
    if (images != NULL &&
        (!dad_check_shape(images, "images", 4, shape) ||
         !check_pixels("images", PyArray_DIM(images, 1), PyArray_DIM(images, 2)))) {
        Py_CLEAR(images);
    }
    return images;
}

static PyArrayObject *input_of(PyObject *object, const char *name, int type, int dimensions,
                               const npy_intp *shape) {
    PyArrayObject *array = dad_input(object, name, type, dimensions);
    if (array != NULL && !dad_check_shape(array, name, dimensions, shape)) {
        Py_CLEAR(array);
    }
    return array;
}

/* ---- otsu.c ---------------------------------------------------------------------- */

static PyObject *otsu_masks(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"images", NULL};
    PyObject *object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:otsu_masks", names, &object)) {
        return NULL;
    }
    PyArrayObject *images = input_images(object, -1, -1, -1), *masks = NULL, *facts = NULL;
    float *scratch = NULL;
    if (images == NULL) {
        goto done;
    }
    const npy_intp *shape = PyArray_DIMS(images);
    npy_intp facts_shape[] = {shape[0], DAD_OTSU_FACTS};
    if ((masks = dad_output(NPY_BOOL, 3, shape)) == NULL ||
        (facts = dad_output(NPY_FLOAT64, 2, facts_shape)) == NULL ||
        (scratch = dad_scratch(dad_otsu_scratch(shape[1], shape[2]))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_otsu(PyArray_DATA(masks), PyArray_DATA(facts), PyArray_DATA(images), shape[0],
             shape[1], shape[2], scratch);
    DAD_END_COMPUTE
    result = PyTuple_Pack(2, (PyObject *)masks, (PyObject *)facts);
done:
    dad_free(scratch);
    Py_XDECREF(images);
    Py_XDECREF(masks);
    Py_XDECREF(facts);
    return result;
}

/* ---- scene.c --------------------------------------------------------------------- */

static PyObject *level_light(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"images", NULL};
    PyObject *object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:level_light", names, &object)) {
        return NULL;
    }
    PyArrayObject *images = input_images(object, -1, -1, -1), *level = NULL;
    float *scratch = NULL;
    if (images == NULL) {
        goto done;
    }
    npy_intp *shape = PyArray_DIMS(images), N = shape[0], H = shape[1], W = shape[2];
    if ((scratch = dad_scratch(dad_scene_scratch(N, H, W))) == NULL ||
        (level = dad_output(NPY_UINT8, 4, shape)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_level_light(PyArray_DATA(level), PyArray_DATA(images), N, H, W, scratch);
    DAD_END_COMPUTE
done:
    dad_free(scratch);
    Py_XDECREF(images);
    return (PyObject *)level;
}

static PyObject *scene_background(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"images", NULL};
    PyObject *object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:scene_background", names, &object)) {
        return NULL;
    }
    PyArrayObject *images = input_images(object, -1, -1, -1);
    PyArrayObject *background = NULL, *spread = NULL, *difference = NULL;
    float *scratch = NULL;
    if (images == NULL) {
        goto done;
    }
    npy_intp *shape = PyArray_DIMS(images), N = shape[0], H = shape[1], W = shape[2];
    if ((background = dad_output(NPY_FLOAT32, 3, shape + 1)) == NULL ||
        (spread = dad_output(NPY_FLOAT32, 2, shape + 1)) == NULL ||
        (difference = dad_output(NPY_FLOAT32, 3, shape)) == NULL ||
        (scratch = dad_scratch(dad_scene_scratch(N, H, W))) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_scene_background(dad_floats(background), PyArray_DATA(images), N, H, W, scratch);
    dad_scene_difference(dad_floats(difference), PyArray_DATA(images),
                         dad_floats(background), N, H, W, scratch);
    dad_scene_spread(dad_floats(spread), dad_floats(difference), N, H, W, scratch);
    DAD_END_COMPUTE
    result = PyTuple_Pack(2, (PyObject *)background, (PyObject *)spread);
done:
    dad_free(scratch);
    Py_XDECREF(images);
    Py_XDECREF(background);
    Py_XDECREF(spread);
    Py_XDECREF(difference);
    return result;
}

static PyObject *scene_evidence(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"images", "background", "spread", NULL};
    PyObject *objects[3];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:scene_evidence", names, &objects[0],
                                     &objects[1], &objects[2])) {
        return NULL;
    }
    PyArrayObject *images = input_images(objects[0], -1, -1, -1);
    PyArrayObject *background = NULL, *spread = NULL, *evidence = NULL;
    float *scratch = NULL;
    if (images == NULL) {
        goto done;
    }
    npy_intp *shape = PyArray_DIMS(images), N = shape[0], H = shape[1], W = shape[2];
    if ((background = input_of(objects[1], "background", NPY_FLOAT32, 3, shape + 1)) ==
            NULL ||
        (spread = input_of(objects[2], "spread", NPY_FLOAT32, 2, shape + 1)) == NULL ||
        (scratch = dad_scratch(dad_scene_scratch(N, H, W))) == NULL ||
        (evidence = dad_output(NPY_FLOAT32, 3, shape)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_scene_difference(dad_floats(evidence), PyArray_DATA(images), dad_floats(background),
                         N, H, W, scratch);
    dad_scene_evidence(dad_floats(evidence), dad_floats(spread), N, H, W, scratch);
    DAD_END_COMPUTE
done:
    dad_free(scratch);
    Py_XDECREF(images);
    Py_XDECREF(background);
    Py_XDECREF(spread);
    return (PyObject *)evidence;
}

/* ---- words.c --------------------------------------------------------------------- */

static PyObject *image_words(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"images", NULL};
    PyObject *object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:image_words", names, &object)) {
        return NULL;
    }
    PyArrayObject *images = input_images(object, -1, -1, -1), *words = NULL;
    float *scratch = NULL;
    if (images == NULL) {
        goto done;
    }
    const npy_intp *shape = PyArray_DIMS(images);
    if ((scratch = dad_scratch(dad_words_scratch(shape[1], shape[2]))) == NULL ||
        (words = dad_output(NPY_UINT16, 3, shape)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_words(PyArray_DATA(words), PyArray_DATA(images), shape[0], shape[1], shape[2],
              scratch);
    DAD_END_COMPUTE
done:
    dad_free(scratch);
    Py_XDECREF(images);
    return (PyObject *)words;
}

/* uint16 [N, H, W], every one a word. */
static PyArrayObject *input_words(PyObject *object) {
    PyArrayObject *words = dad_input(object, "words", NPY_UINT16, 3);
    const uint16_t *values = words != NULL ? PyArray_DATA(words) : NULL;
    if (words != NULL &&
        !check_pixels("words", PyArray_DIM(words, 1), PyArray_DIM(words, 2))) {
        Py_CLEAR(words);
    }
    for (npy_intp i = 0; words != NULL && i < PyArray_SIZE(words); i++) {
        if (values[i] >= DAD_WORDS) {
            PyErr_Format(PyExc_ValueError, "words: expected 0 to %d, got %d", DAD_WORDS - 1,
                         (int)values[i]);
            Py_CLEAR(words);
        }
    }
    return words;
}

static PyObject *word_counts(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"words", "weights", NULL};
    PyObject *words_object, *weights_object = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:word_counts", names, &words_object,
                                     &weights_object)) {
        return NULL;
    }
    PyArrayObject *words = input_words(words_object), *weights = NULL, *counts = NULL;
    float *scratch = NULL;
    if (words == NULL ||
        !dad_input_float_optional(&weights, weights_object, "weights", 3) ||
        (weights != NULL && !dad_check_shape(weights, "weights", 3, PyArray_DIMS(words)))) {
        goto done;
    }
    npy_intp shape[] = {PyArray_DIM(words, 0), DAD_WORDS};
    if ((scratch = dad_scratch(dad_word_counts_scratch())) == NULL ||
        (counts = dad_output(NPY_FLOAT64, 2, shape)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_word_counts(PyArray_DATA(counts), PyArray_DATA(words), dad_floats(weights),
                    shape[0], PyArray_SIZE(words) / shape[0], scratch);
    DAD_END_COMPUTE
done:
    dad_free(scratch);
    Py_XDECREF(words);
    Py_XDECREF(weights);
    return (PyObject *)counts;
}

static PyObject *word_evidence(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"words", "object", "background", NULL};
    PyObject *objects[3];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:word_evidence", names, &objects[0],
                                     &objects[1], &objects[2])) {
        return NULL;
    }
    PyArrayObject *words = input_words(objects[0]), *object = NULL, *background = NULL;
    PyArrayObject *evidence = NULL;
    float *scratch = NULL;
    if (words == NULL) {
        goto done;
    }
    const npy_intp *shape = PyArray_DIMS(words), table[] = {shape[0], DAD_WORDS};
    if ((object = input_of(objects[1], "object", NPY_FLOAT64, 2, table)) == NULL ||
        (background = input_of(objects[2], "background", NPY_FLOAT64, 2, table)) == NULL ||
        (scratch = dad_scratch(dad_word_evidence_scratch(shape[1], shape[2]))) == NULL ||
        (evidence = dad_output(NPY_FLOAT32, 3, shape)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_word_evidence(dad_floats(evidence), PyArray_DATA(words), PyArray_DATA(object),
                      PyArray_DATA(background), shape[0], shape[1], shape[2], scratch);
    DAD_END_COMPUTE
done:
    dad_free(scratch);
    Py_XDECREF(words);
    Py_XDECREF(object);
    Py_XDECREF(background);
    return (PyObject *)evidence;
}

/* ---- regions.c ------------------------------------------------------------------- */

static PyObject *settle(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"evidence", "images", "offset", NULL};
    PyObject *objects[2];
    float offset;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOf:settle", names, &objects[0],
                                     &objects[1], &offset)) {
        return NULL;
    }
    PyArrayObject *evidence = dad_input_float(objects[0], "evidence", 3);
    PyArrayObject *images = NULL, *share = NULL;
    float *scratch = NULL;
    if (evidence == NULL) {
        goto done;
    }
    const npy_intp *shape = PyArray_DIMS(evidence);
    if ((images = input_images(objects[1], shape[0], shape[1], shape[2])) == NULL ||
        (scratch = dad_scratch(dad_settle_scratch(shape[1], shape[2]))) == NULL ||
        (share = dad_output(NPY_FLOAT32, 3, shape)) == NULL) {
        goto done;
    }
    DAD_BEGIN_COMPUTE
    dad_settle(dad_floats(share), dad_floats(evidence), PyArray_DATA(images), offset,
               shape[0], shape[1], shape[2], scratch);
    DAD_END_COMPUTE
done:
    dad_free(scratch);
    Py_XDECREF(evidence);
    Py_XDECREF(images);
    return (PyObject *)share;
}

static PyObject *tidy_masks(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"masks", "keep", NULL};
    PyObject *object;
    double keep;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Od:tidy_masks", names, &object,
                                     &keep)) {
        return NULL;
    }
    if (!(keep >= 0.0 && keep <= 1.0)) {
        PyErr_SetString(PyExc_ValueError, "keep: expected 0 to 1");
        return NULL;
    }
    PyArrayObject *masks = dad_input(object, "masks", NPY_BOOL, 3), *result = NULL;
    float *scratch = NULL;
    if (masks == NULL) {
        goto done;
    }
    const npy_intp *shape = PyArray_DIMS(masks);
    if (!check_pixels("masks", shape[1], shape[2]) ||
        (scratch = dad_scratch(dad_tidy_scratch(shape[1], shape[2]))) == NULL ||
        (result = dad_output(NPY_BOOL, 3, shape)) == NULL) {
        goto done;
    }
    memcpy(PyArray_DATA(result), PyArray_DATA(masks), (size_t)PyArray_SIZE(masks));
    DAD_BEGIN_COMPUTE
    dad_tidy(PyArray_DATA(result), keep, shape[0], shape[1], shape[2], scratch);
    DAD_END_COMPUTE
done:
    dad_free(scratch);
    Py_XDECREF(masks);
    return (PyObject *)result;
}

PyMethodDef dad_foreground_methods[] = {
    DAD_METHOD(otsu_masks,
               "otsu_masks(images)\n--\n\n"
               "Otsu's threshold on uint8 (N, H, W, 3): masks (N, H, W) and facts (N, 5): "
               "separability, shares of border and image, solid share, gap."),
    DAD_METHOD(level_light,
               "level_light(images)\n--\n\n"
               "Images (N, H, W, 3) under even light: log grey loses the smooth "
               "surface that fits most of each."),
    DAD_METHOD(scene_background,
               "scene_background(images)\n--\n\n"
               "What stays the same in images (N, H, W, 3): background (H, W, 3) and its "
               "spread (H, W), with each image's light taken out."),
    DAD_METHOD(scene_evidence, "scene_evidence(images, background, spread)\n--\n\n"
                               "Logarithms of odds that a pixel is not the background."),
    DAD_METHOD(image_words, "image_words(images)\n--\n\n"
                            "Words of colour and texture, uint16 (N, H, W)."),
    DAD_METHOD(word_counts, "word_counts(words, weights=None)\n--\n\n"
                            "How often each word occurs, float64 (N, words), weighted by "
                            "float32 (N, H, W), shared with the neighbouring words."),
    DAD_METHOD(word_evidence, "word_evidence(words, object, background)\n--\n\n"
                              "Logarithms of odds from float64 (N, words) frequencies."),
    DAD_METHOD(settle, "settle(evidence, images, offset)\n--\n\n"
                       "Share of object (N, H, W) in [0, 1] that respects the edges."),
    DAD_METHOD(tidy_masks, "tidy_masks(masks, keep)\n--\n\n"
                           "Regions of at least keep times the largest, holes filled."),
    {NULL, NULL, 0, NULL},
};
