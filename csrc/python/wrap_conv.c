#include "python/wrap.h"

PyMethodDef dad_conv_methods[] = {
    {NULL, NULL, 0, NULL},
};
