#include "python/wrap.h"

PyMethodDef dad_metric_methods[] = {
    {NULL, NULL, 0, NULL},
};
