#include "python/wrap.h"

PyMethodDef dad_pipeline_methods[] = {
    {NULL, NULL, 0, NULL},
};
