/* The method tables of the wrap_*.c files; module.c puts them together. */
#ifndef DAD_WRAP_H
#define DAD_WRAP_H

#include "python/arrays.h" /* Python.h comes before the standard headers */

#include "graph/graph.h"

typedef struct {
    PyTypeObject *network_type;
} dad_module_state;

extern PyMethodDef dad_conv_methods[];        /* wrap_conv.c */
extern PyMethodDef dad_count_methods[];       /* wrap_counts.c */
extern PyMethodDef dad_elementwise_methods[]; /* wrap_elementwise.c */
extern PyMethodDef dad_foreground_methods[];  /* wrap_foreground.c */
extern PyMethodDef dad_image_methods[];       /* wrap_images.c */
extern PyMethodDef dad_layer_methods[];       /* wrap_layers.c */
extern PyMethodDef dad_loss_methods[];        /* wrap_losses.c */
extern PyMethodDef dad_map_methods[];         /* wrap_maps.c */
extern PyMethodDef dad_metric_methods[];      /* wrap_metrics.c */
extern PyMethodDef dad_model_methods[];       /* wrap_models.c */
extern PyMethodDef dad_norm_methods[];        /* wrap_norm.c */
extern PyMethodDef dad_pipeline_methods[];    /* wrap_pipeline.c */
extern PyMethodDef dad_schedule_methods[];    /* wrap_schedule.c */
extern PyMethodDef dad_pixel_methods[];       /* wrap_pixels.c */
extern PyMethodDef dad_score_methods[];       /* wrap_scores.c */
extern PyMethodDef dad_synthesis_methods[];   /* wrap_synthesis.c */

/* module.c; false with ValueError set where there are no products of bfloat16. */
bool dad_check_bfloat16(void);

/* wrap_network.c; NULL with an exception set. A new Network takes the graph over, also
 * then. */
PyTypeObject *dad_new_network_type(PyObject *module);
PyObject *dad_new_network(PyObject *module, dad_graph *graph);

/* A method table entry for a function with keywords. */
#define DAD_METHOD(name, doc) \
    {#name, (PyCFunction)(void (*)(void))name, METH_VARARGS | METH_KEYWORDS, doc}

#endif
