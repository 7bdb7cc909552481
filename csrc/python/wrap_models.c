/* _core.unet() and _core.segmenter(): networks made from options. */
#include "python/wrap.h"

#include "models/models.h"

/* A sequence of at most DAD_MAX_LEVELS positive integers; -1 with an exception. */
static int read_sizes(PyObject *object, const char *name, ptrdiff_t *sizes) {
    PyObject *sequence = PySequence_Fast(object, name);
    if (sequence == NULL) {
        return -1;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
    if (count > DAD_MAX_LEVELS) {
        PyErr_Format(PyExc_ValueError, "%s: expected at most %d, got %zd", name,
                     DAD_MAX_LEVELS, count);
        count = -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        sizes[i] = PyLong_AsSsize_t(PySequence_Fast_GET_ITEM(sequence, i));
        if (sizes[i] < 1) {
            if (!PyErr_Occurred()) {
                PyErr_Format(PyExc_ValueError, "%s: expected positive integers, got %zd",
                             name, sizes[i]);
            }
            count = -1;
        }
    }
    Py_DECREF(sequence);
    return (int)count;
}

static PyObject *unet(PyObject *module, PyObject *args, PyObject *keywords) {
    static char *names[] = {"height",          "width",
                            "in_channels",     "out_channels",
                            "channels",        "embedding",
                            "res_blocks",      "heads",
                            "head_channels",   "attention_strides",
                            "resblock_updown", "dropout",
                            "patch",           NULL};
    dad_unet_options o = {.levels = 0};
    PyObject *channels, *strides;
    int updown;
    if (!PyArg_ParseTupleAndKeywords(
            args, keywords, "nnnnOninnOpfn:unet", names, &o.height, &o.width,
            &o.in_channels, &o.out_channels, &channels, &o.embedding, &o.res_blocks,
            &o.heads, &o.head_channels, &strides, &updown, &o.dropout, &o.patch)) {
        return NULL;
    }
    if (!(o.dropout >= 0.0f && o.dropout <= 1.0f)) {
        PyErr_SetString(PyExc_ValueError, "dropout: expected a probability from 0 to 1");
        return NULL;
    }
    o.resblock_updown = updown;
    o.levels = read_sizes(channels, "channels", o.channels);
    if (o.levels < 0) {
        return NULL;
    }
    o.attention_count = read_sizes(strides, "attention_strides", o.attention_strides);
    if (o.attention_count < 0) {
        return NULL;
    }
    dad_graph graph;
    dad_graph_init(&graph);
    dad_build_unet(&graph, &o);
    return dad_new_network(module, &graph);
}

static PyObject *segmenter(PyObject *module, PyObject *args, PyObject *keywords) {
    static char *names[] = {"height",        "width", "in_channels", "out_channels",
                            "base_channels", "patch", NULL};
    dad_segmenter_options o;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "nnnnnn:segmenter", names, &o.height,
                                     &o.width, &o.in_channels, &o.out_channels,
                                     &o.base_channels, &o.patch)) {
        return NULL;
    }
    dad_graph graph;
    dad_graph_init(&graph);
    dad_build_segmenter(&graph, &o);
    return dad_new_network(module, &graph);
}

PyMethodDef dad_model_methods[] = {
    DAD_METHOD(
        unet,
        "unet(height, width, in_channels, out_channels, channels, embedding, res_blocks, "
        "heads, head_channels, attention_strides, resblock_updown, dropout, patch)\n--\n\n"
        "A guided-diffusion UNet; see diffusionad.UNet."),
    DAD_METHOD(
        segmenter,
        "segmenter(height, width, in_channels, out_channels, base_channels, patch)\n--\n\n"
        "The segmentation network; see diffusionad.SegmentationNet."),
    {NULL, NULL, 0, NULL},
};
