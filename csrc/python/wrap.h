/* The method tables of the wrap_*.c files; module.c puts them together. */
#ifndef DAD_WRAP_H
#define DAD_WRAP_H

#include "python/arrays.h"

extern PyMethodDef dad_conv_methods[];      /* wrap_conv.c */
extern PyMethodDef dad_layer_methods[];     /* wrap_layers.c */
extern PyMethodDef dad_schedule_methods[];  /* wrap_schedule.c */
extern PyMethodDef dad_pipeline_methods[];  /* wrap_pipeline.c */
extern PyMethodDef dad_image_methods[];     /* wrap_images.c */
extern PyMethodDef dad_synthesis_methods[]; /* wrap_synthesis.c */
extern PyMethodDef dad_metric_methods[];    /* wrap_metrics.c */

int dad_add_network_type(PyObject *module); /* wrap_network.c; -1 with an exception set */

/* A method table entry for a function with keywords. */
#define DAD_METHOD(name, doc)                                                            \
    {#name, (PyCFunction)(void (*)(void))name, METH_VARARGS | METH_KEYWORDS, doc}

#endif
