/* _core.Network: a network with its weights. Made by _core.unet() and _core.segmenter(). */
#include "python/wrap.h"

#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "base/memory.h"
#include "graph/network.h"

typedef struct {
    PyObject_HEAD dad_network network;
    PyThread_type_lock lock; /* one call at a time: the arena is shared */
} network_object;

/* Waits for another thread's call on the same network, without holding the GIL. */
static void enter(network_object *self) {
    if (!PyThread_acquire_lock(self->lock, NOWAIT_LOCK)) {
        Py_BEGIN_ALLOW_THREADS
        PyThread_acquire_lock(self->lock, WAIT_LOCK);
        Py_END_ALLOW_THREADS
    }
}

static void leave(network_object *self) { PyThread_release_lock(self->lock); }

/* ---- parameters ------------------------------------------------------------------ */

static PyObject *network_parameters(PyObject *object, PyObject *args) {
    (void)args;
    const dad_graph *graph = &((network_object *)object)->network.graph;
    PyObject *list = PyList_New(graph->parameter_count);
    for (int i = 0; list != NULL && i < graph->parameter_count; i++) {
        const dad_parameter *p = &graph->parameters[i];
        PyObject *shape = dad_shape_tuple(p->dimensions, p->shape);
        PyObject *item = shape != NULL ? Py_BuildValue("(sNO)", p->name, shape,
                                                       p->trainable ? Py_True : Py_False)
                                       : NULL;
        if (item == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, item);
    }
    return list;
}

static const dad_parameter *find_parameter(const dad_graph *graph, const char *name) {
    for (int i = 0; i < graph->parameter_count; i++) {
        if (strcmp(graph->parameters[i].name, name) == 0) {
            return &graph->parameters[i];
        }
    }
    PyErr_Format(PyExc_KeyError, "name: the network has no parameter \"%s\"", name);
    return NULL;
}

/* Where `what` of a parameter lies: "value", "average", "gradient", "m" or "v"; NULL with
 * an exception. */
static float *find_floats(dad_network *network, const char *name, const char *what,
                          const dad_parameter **parameter) {
    const dad_parameter *p = *parameter = find_parameter(&network->graph, name);
    if (p == NULL) {
        return NULL;
    }
    if (strcmp(what, "value") == 0) {
        return (p->trainable ? network->weights : network->buffers) + p->offset;
    }
    bool average = strcmp(what, "average") == 0, gradient = strcmp(what, "gradient") == 0;
    bool moment = strcmp(what, "m") == 0 || strcmp(what, "v") == 0;
    if (!average && ((!gradient && !moment) || !p->trainable)) {
        PyErr_Format(PyExc_ValueError, "what: parameter \"%s\" has no \"%s\"", name, what);
        return NULL;
    }
    dad_status status = average    ? dad_network_need_averages(network)
                        : gradient ? dad_network_need_gradients(network)
                                   : dad_network_need_moments(network);
    if (status != DAD_OK) {
        dad_raise(status, what);
        return NULL;
    }
    float *floats = average    ? network->averages[p->trainable ? 0 : 1]
                    : gradient ? network->gradients
                               : network->moments[what[0] == 'v'];
    return floats + p->offset;
}

static PyObject *network_read(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"name", "what", NULL};
    network_object *self = (network_object *)object;
    const char *name, *what = "value";
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "s|s:read", names, &name, &what)) {
        return NULL;
    }
    const dad_parameter *p;
    PyArrayObject *array = NULL;
    enter(self);
    const float *floats = find_floats(&self->network, name, what, &p);
    if (floats != NULL) {
        array = dad_output(NPY_FLOAT32, p->dimensions, p->shape);
        if (array != NULL) {
            dad_parameter_read(dad_floats(array), floats, p);
        }
    }
    leave(self);
    return (PyObject *)array;
}

static PyObject *network_write(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"name", "values", "what", NULL};
    network_object *self = (network_object *)object;
    const char *name, *what = "value";
    PyObject *values;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "sO|s:write", names, &name, &values,
                                     &what)) {
        return NULL;
    }
    PyArrayObject *array = dad_input_float(values, name, DAD_ANY_DIMENSIONS);
    if (array == NULL) {
        return NULL;
    }
    bool done = false;
    const dad_parameter *p;
    enter(self);
    float *floats = find_floats(&self->network, name, what, &p);
    if (floats != NULL) {
        done = dad_check_shape(array, name, p->dimensions, p->shape);
        if (done) {
            dad_parameter_write(floats, dad_floats(array), p);
            if (p->trainable && strcmp(what, "value") == 0) {
                self->network.backward_possible = false; /* with these weights */
            }
        }
    }
    leave(self);
    Py_DECREF(array);
    if (!done) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- running --------------------------------------------------------------------- */

static const dad_node *first_node(const dad_graph *graph, dad_op op) {
    for (int i = 0; i < graph->count; i++) {
        if (graph->nodes[i].op == op) {
            return &graph->nodes[i];
        }
    }
    return NULL;
}

/* t: None, or one float32 time per image, as the network has or has not a time embedding.
 */
static bool check_time(const dad_graph *graph, PyArrayObject *t, npy_intp N) {
    bool timed = first_node(graph, DAD_OP_TIME_EMBEDDING) != NULL;
    if (timed != (t != NULL)) {
        PyErr_SetString(PyExc_TypeError,
                        timed ? "t: expected a time step per image, got None"
                              : "t: this network has no time, expected None");
        return false;
    }
    return t == NULL || dad_check_shape(t, "t", 1, &N);
}

static PyObject *refuse_size(const char *name, npy_intp H, npy_intp W) {
    return PyErr_Format(
        PyExc_ValueError,
        "%s: this network halves its maps and cannot take images of %zd x %zd", name, H, W);
}

/* Resizes the network to the image; ValueError where it cannot be. */
static bool fit_size(network_object *self, npy_intp H, npy_intp W) {
    dad_status status = DAD_OK;
    const dad_node *input = first_node(&self->network.graph, DAD_OP_INPUT);
    if (input->H != H || input->W != W) {
        status = dad_network_resize(&self->network, H, W);
    }
    return status == DAD_OK || refuse_size("x", H, W) != NULL;
}

/* ValueError where a training pass would take the variance of a single value. */
static bool check_statistics(const dad_graph *graph, npy_intp N) {
    for (int i = 0; i < graph->count; i++) {
        const dad_node *node = &graph->nodes[i];
        if (node->op == DAD_OP_BATCH_NORM && N * node->H * node->W < 2) {
            PyErr_SetString(
                PyExc_ValueError,
                "x: one image of this size leaves batch statistics a single value "
                "per channel; expected more or larger images");
            return false;
        }
    }
    return true;
}

static bool check_share(double recompute) {
    if (recompute >= 0.0 && recompute <= 1.0) {
        return true;
    }
    PyErr_SetString(PyExc_ValueError, "recompute: expected a share from 0 to 1");
    return false;
}

static PyObject *network_forward(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"x",    "t",    "training", "recompute", "input_gradient",
                            "seed", "fast", "bfloat16", NULL};
    network_object *self = (network_object *)object;
    const dad_graph *graph = &self->network.graph;
    PyObject *x_object, *t_object = Py_None, *seed_object = NULL, *result = NULL;
    int training = 0, input_gradient = 0, fast = 0, bfloat16 = 0;
    double recompute = 0.0;
    uint64_t seed = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|O$pdpOpp:forward", names, &x_object,
                                     &t_object, &training, &recompute, &input_gradient,
                                     &seed_object, &fast, &bfloat16) ||
        !check_share(recompute) || (seed_object != NULL && !dad_seed(&seed, seed_object))) {
        return NULL;
    }
    /* Before the lock: an array's class is asked, and may call this network. */
    PyArrayObject *t = NULL, *y = NULL, *x = dad_input_float(x_object, "x", 4);
    if (x == NULL || !dad_input_float_optional(&t, t_object, "t", 1)) {
        Py_XDECREF(x);
        return NULL;
    }
    const dad_node *input = first_node(graph, DAD_OP_INPUT);
    const dad_node *output = &graph->nodes[graph->output];
    enter(self);
    npy_intp N = PyArray_DIM(x, 0);
    const npy_intp x_shape[4] = {-1, input->C, -1, -1};
    if ((bfloat16 && !dad_check_bfloat16()) || !dad_check_shape(x, "x", 4, x_shape) ||
        !check_time(graph, t, N) || !fit_size(self, PyArray_DIM(x, 2), PyArray_DIM(x, 3)) ||
        (training && !check_statistics(graph, N))) {
        goto done;
    }
    const npy_intp y_shape[4] = {N, output->C, output->H, output->W};
    y = dad_output(NPY_FLOAT32, 4, y_shape);
    if (y == NULL) {
        goto done;
    }
    dad_precision precision = DAD_PRECISE;
    if (!training && (bfloat16 || fast)) {
        precision = bfloat16 ? DAD_BFLOAT16 : DAD_FAST;
    }
    const dad_plan_options options = {.N = N,
                                      .training = training,
                                      .recompute = recompute,
                                      .input_gradient = input_gradient,
                                      .precision = precision};
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_network_forward(&self->network, dad_floats(y), dad_floats(x),
                                 dad_floats(t), &options, seed);
    DAD_END_COMPUTE
    if (status != DAD_OK) {
        dad_raise(status, "forward");
        goto done;
    }
    result = Py_NewRef((PyObject *)y);
done:
    leave(self);
    Py_DECREF(x);
    Py_XDECREF(t);
    Py_XDECREF(y);
    return result;
}

static PyObject *network_backward(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"dy", NULL};
    network_object *self = (network_object *)object;
    const dad_graph *graph = &self->network.graph;
    PyObject *dy_object, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:backward", names, &dy_object)) {
        return NULL;
    }
    PyArrayObject *dx = NULL, *dy = dad_input_float(dy_object, "dy", 4);
    if (dy == NULL) {
        return NULL;
    }
    const dad_node *input = first_node(graph, DAD_OP_INPUT);
    const dad_node *output = &graph->nodes[graph->output];
    enter(self);
    if (!self->network.backward_possible) {
        PyErr_SetString(PyExc_RuntimeError,
                        "backward: expected a forward pass with training=True just before");
        goto done;
    }
    npy_intp N = self->network.plan.options.N;
    const npy_intp dy_shape[4] = {N, output->C, output->H, output->W};
    const npy_intp dx_shape[4] = {N, input->C, input->H, input->W};
    if (!dad_check_shape(dy, "dy", 4, dy_shape)) {
        goto done;
    }
    if (self->network.plan.options.input_gradient &&
        (dx = dad_output(NPY_FLOAT32, 4, dx_shape)) == NULL) {
        goto done;
    }
    dad_status status;
    DAD_BEGIN_COMPUTE
    status = dad_network_backward(&self->network, dad_floats(dx), dad_floats(dy));
    DAD_END_COMPUTE
    if (status != DAD_OK) {
        dad_raise(status, "backward");
        goto done;
    }
    result = Py_NewRef(dx != NULL ? (PyObject *)dx : Py_None);
done:
    leave(self);
    Py_DECREF(dy);
    Py_XDECREF(dx);
    return result;
}

/* ---- training -------------------------------------------------------------------- */

static PyObject *network_zero_gradients(PyObject *object, PyObject *args) {
    (void)args;
    network_object *self = (network_object *)object;
    enter(self);
    dad_network_zero_gradients(&self->network);
    leave(self);
    Py_RETURN_NONE;
}

static PyObject *network_adam_step(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"lr", "step", "beta1", "beta2", "eps", "weight_decay", NULL};
    network_object *self = (network_object *)object;
    dad_adam_options options = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    long long step;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "dL|$dddd:adam_step", names,
                                     &options.lr, &step, &options.beta1, &options.beta2,
                                     &options.eps, &options.weight_decay)) {
        return NULL;
    }
    if (step < 1) {
        PyErr_Format(PyExc_ValueError, "step: expected 1 or more, got %lld", step);
        return NULL;
    }
    options.step = step;
    dad_network *network = &self->network;
    enter(self);
    dad_status status = dad_network_need_gradients(network);
    if (status == DAD_OK) {
        status = dad_network_need_moments(network);
    }
    if (status == DAD_OK) {
        DAD_BEGIN_COMPUTE
        dad_adam(network->weights, network->moments[0], network->moments[1],
                 network->gradients, &options, network->graph.weight_size);
        DAD_END_COMPUTE
        network->backward_possible = false; /* with these weights */
    }
    leave(self);
    if (status != DAD_OK) {
        return dad_raise(status, "adam_step");
    }
    Py_RETURN_NONE;
}

static PyObject *network_average_step(PyObject *object, PyObject *argument) {
    network_object *self = (network_object *)object;
    double decay = PyFloat_AsDouble(argument);
    if (decay == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (!(decay >= 0.0 && decay <= 1.0)) {
        PyErr_Format(PyExc_ValueError, "decay: expected 0 to 1, got %R", argument);
        return NULL;
    }
    enter(self);
    dad_status status = dad_network_need_averages(&self->network);
    if (status == DAD_OK) {
        DAD_BEGIN_COMPUTE
        dad_network_average(&self->network, decay);
        DAD_END_COMPUTE
    }
    leave(self);
    if (status != DAD_OK) {
        return dad_raise(status, "average_step");
    }
    Py_RETURN_NONE;
}

static PyObject *network_swap_average(PyObject *object, PyObject *args) {
    (void)args;
    network_object *self = (network_object *)object;
    enter(self);
    dad_status status = dad_network_need_averages(&self->network);
    if (status == DAD_OK) {
        dad_network_swap_averages(&self->network);
    }
    leave(self);
    if (status != DAD_OK) {
        return dad_raise(status, "swap_average");
    }
    Py_RETURN_NONE;
}

static PyObject *network_memory(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"batch_size", "training", "recompute", "size", NULL};
    network_object *self = (network_object *)object;
    Py_ssize_t N, H, W;
    PyObject *size = NULL;
    int training = 0;
    double recompute = 0.0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "n|pd$O!:memory", names, &N, &training,
                                     &recompute, &PyTuple_Type, &size) ||
        !check_share(recompute) ||
        (size != NULL &&
         !PyArg_ParseTuple(size, "nn;size: expected (height, width)", &H, &W))) {
        return NULL;
    }
    if (N < 1) {
        PyErr_Format(PyExc_ValueError, "batch_size: expected 1 or more, got %zd", N);
        return NULL;
    }
    const dad_plan_options options = {
        .N = N, .training = training, .recompute = recompute, .input_gradient = training};
    ptrdiff_t arena = 0, scratch = 0;
    enter(self);
    const dad_node *input = first_node(&self->network.graph, DAD_OP_INPUT);
    if (size == NULL) { /* that of the last images */
        H = input->H;
        W = input->W;
    }
    dad_status status =
        dad_network_memory(&self->network, &arena, &scratch, H, W, &options);
    leave(self);
    if (status == DAD_BAD_SHAPE) {
        return refuse_size("size", H, W);
    }
    if (status != DAD_OK) {
        return dad_raise(status, "memory");
    }
    ptrdiff_t floats[] = {self->network.graph.weight_size * (training ? 4 : 1), arena,
                          scratch};
    for (int i = 0; i < 3; i++) {
        const ptrdiff_t factors[] = {floats[i], (ptrdiff_t)sizeof(float)};
        if (!dad_checked_product(&floats[i], 2, factors)) {
            return dad_raise(DAD_NO_MEMORY, "memory");
        }
    }
    return Py_BuildValue("{s:n,s:n,s:n}", "weights", floats[0], "arena", floats[1],
                         "scratch", floats[2]);
}

static PyObject *network_trim(PyObject *object, PyObject *args) {
    (void)args;
    network_object *self = (network_object *)object;
    enter(self);
    dad_network_trim(&self->network);
    leave(self);
#ifdef __GLIBC__
    malloc_trim(0); /* an arena that lay in a hole of the heap stays there otherwise */
#endif
    Py_RETURN_NONE;
}

/* ---- the type -------------------------------------------------------------------- */

static void network_dealloc(PyObject *object) {
    network_object *self = (network_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    dad_network_free(&self->network);
    if (self->lock != NULL) {
        PyThread_free_lock(self->lock);
    }
    type->tp_free(object);
    Py_DECREF(type);
}

#define WITH_KEYWORDS(name) (PyCFunction)(void (*)(void)) name, METH_VARARGS | METH_KEYWORDS

static PyMethodDef methods[] = {
    {"parameters", network_parameters, METH_NOARGS,
     "parameters($self, /)\n--\n\n"
     "List of (name, shape, trainable), in the order of the layers."},
    {"read", WITH_KEYWORDS(network_read),
     "read($self, /, name, what='value')\n--\n\n"
     "A copy of a parameter's 'value', 'average', 'gradient', 'm' or 'v'."},
    {"write", WITH_KEYWORDS(network_write),
     "write($self, /, name, values, what='value')\n--\n\n"
     "Replace a parameter's value, average or moments."},
    {"forward", WITH_KEYWORDS(network_forward),
     "forward($self, /, x, t=None, *, training=False, recompute=0.0, "
     "input_gradient=False, seed=0, fast=False, bfloat16=False)\n--\n\n"
     "Run on x [N, C, H, W]; training keeps what backward() needs. It makes again what is "
     "cheap where recompute is above 0, and that share of the blocks, those of the largest "
     "maps first. It is never fast nor in bfloat16, which goes before fast."},
    {"backward", WITH_KEYWORDS(network_backward),
     "backward($self, /, dy)\n--\n\n"
     "Add to the gradients, dy being that of the output; returns dx if the forward pass "
     "asked for it, else None."},
    {"zero_gradients", network_zero_gradients, METH_NOARGS,
     "zero_gradients($self, /)\n--\n\nSet all gradients to zero."},
    {"adam_step", WITH_KEYWORDS(network_adam_step),
     "adam_step($self, /, lr, step, *, beta1=0.9, beta2=0.999, eps=1e-08, "
     "weight_decay=0.0)\n--\n\n"
     "One Adam update with the accumulated gradients."},
    {"average_step", network_average_step, METH_O,
     "average_step($self, decay, /)\n--\n\n"
     "Move the averages towards the values: decay * average + (1 - decay) * value; they "
     "begin as copies."},
    {"swap_average", network_swap_average, METH_NOARGS,
     "swap_average($self, /)\n--\n\nLet values and averages change places."},
    {"memory", WITH_KEYWORDS(network_memory),
     "memory($self, /, batch_size, training=False, recompute=0.0, *, size=...)\n--\n\n"
     "Bytes that a pass takes: weights (with gradients and moments), arena, scratch; of "
     "images of the last size, or of size (height, width)."},
    {"trim", network_trim, METH_NOARGS,
     "trim($self, /)\n--\n\nFree work memory; it comes back when needed."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"A network with its weights; made by unet() and segmenter()."},
    {Py_tp_dealloc, (void *)network_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "diffusionad._core.Network",
    .basicsize = sizeof(network_object),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyTypeObject *dad_new_network_type(PyObject *module) {
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}

PyObject *dad_new_network(PyObject *module, dad_graph *graph) {
    PyTypeObject *type = ((dad_module_state *)PyModule_GetState(module))->network_type;
    network_object *self = (network_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        dad_graph_free(graph);
        return NULL;
    }
    dad_status status = dad_network_init(&self->network, graph);
    self->lock = PyThread_allocate_lock();
    if (status == DAD_OK && self->lock == NULL) {
        status = DAD_NO_MEMORY;
    }
    if (status != DAD_OK) {
        Py_DECREF(self);
        return dad_raise(status, "network");
    }
    return (PyObject *)self;
}
