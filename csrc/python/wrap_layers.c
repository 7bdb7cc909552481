#include "python/wrap.h"

PyMethodDef dad_layer_methods[] = {
    {NULL, NULL, 0, NULL},
};
