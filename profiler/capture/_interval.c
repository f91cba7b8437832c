/* The short way: what a hook does at almost every call, in C.
 *
 * A Python function that stands between two kernels costs a microsecond or two, since nothing of it is in the
 * caches; this costs a few dozen instructions. Each callable here holds the Python function that does the whole work
 * (`slow`), and calls it whenever there is more to do than to note two times: another thread, the compiler, the first
 * call, a session that has ended. Without this module those Python functions stand in its place.
 *
 *   Gate      where events go, who may take the short way, and how many optimizer steps there were
 *   Codes     the event codes of one loader, optimizer, root module or stage
 *   Interval  in place of a function or method: push, the original, pop
 *   Root      in a root module's slot for a compiled call
 *   Turn      of something that is looked at now and then: how many calls to let pass
 *   Sometimes in place of a method: the original until it is its turn
 *
 * Static types, since the launcher's private copy of the package and a user's import share this file.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#if !defined(__linux__) || defined(Py_GIL_DISABLED) || PY_VERSION_HEX < 0x030A0000
#error "built for Linux, where perf_counter_ns is CLOCK_MONOTONIC, and for interpreters with a GIL"
#endif

static PyObject *call_impl_name, *training_name;

/* Gate */

typedef struct {
    PyObject_HEAD
    unsigned long owner; /* the thread that may take the short way; 0: none */
    long long steps, due;
    char in_step, searching;
    PyObject *on_due; /* called when `steps` has reached `due` */
    uint64_t *words; /* code, time, code, time, … */
    Py_ssize_t count, room; /* in events */
} Gate;

static int gate_reserve(Gate *self, Py_ssize_t more) {
    if (self->count + more <= self->room) return 0;
    Py_ssize_t room = self->room ? 2 * self->room : 1024;
    while (room < self->count + more) room *= 2;
    uint64_t *words = PyMem_RawRealloc(self->words, (size_t)room * 16);
    if (words == NULL) return -1;
    self->words = words;
    self->room = room;
    return 0;
}

/* Without memory for it an event is lost, which the reader bears. */
static inline void gate_add(Gate *self, uint64_t code) {
    struct timespec now;
    if (self->count >= self->room && gate_reserve(self, 1) < 0) return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t *slot = self->words + 2 * self->count++;
    slot[0] = code;
    slot[1] = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static PyObject *gate_record(Gate *self, PyObject *event) {
    if (!PyTuple_Check(event) || PyTuple_GET_SIZE(event) != 2) {
        PyErr_SetString(PyExc_TypeError, "an event is a tuple of its code and its time");
        return NULL;
    }
    uint64_t code = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(event, 0));
    if (PyErr_Occurred()) return NULL;
    uint64_t value = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(event, 1));
    if (PyErr_Occurred()) return NULL;
    if (gate_reserve(self, 1) < 0) return PyErr_NoMemory();
    uint64_t *slot = self->words + 2 * self->count++;
    slot[0] = code;
    slot[1] = value;
    Py_RETURN_NONE;
}

static PyObject *gate_take(Gate *self, PyObject *ignored) {
    PyObject *taken = PyBytes_FromStringAndSize((const char *)self->words, self->count * 16);
    if (taken != NULL) self->count = 0;
    return taken;
}

static Py_ssize_t gate_length(Gate *self) { return self->count; }

static int gate_traverse(Gate *self, visitproc visit, void *arg) {
    Py_VISIT(self->on_due);
    return 0;
}

static int gate_clear(Gate *self) {
    Py_CLEAR(self->on_due);
    return 0;
}

static void gate_dealloc(Gate *self) {
    PyObject_GC_UnTrack(self);
    gate_clear(self);
    PyMem_RawFree(self->words);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef gate_members[] = {
    {"owner", T_ULONG, offsetof(Gate, owner), 0, "identity of the thread that may take the short way; 0: none"},
    {"steps", T_LONGLONG, offsetof(Gate, steps), 0, "optimizer steps of the thread that trains"},
    {"due", T_LONGLONG, offsetof(Gate, due), 0, "the step at which on_due is to be called"},
    {"in_step", T_BOOL, offsetof(Gate, in_step), 0, "an optimizer's step is under way"},
    {"searching", T_BOOL, offsetof(Gate, searching), 0, "roots are being looked for"},
    {"on_due", T_OBJECT, offsetof(Gate, on_due), 0, "called when `steps` has reached `due`"},
    {NULL},
};

static PyMethodDef gate_methods[] = {
    {"record", (PyCFunction)gate_record, METH_O, "Keep an event: (code, time)."},
    {"take", (PyCFunction)gate_take, METH_NOARGS, "All events since the last time, as words in bytes."},
    {NULL},
};

static PySequenceMethods gate_sequence = {.sq_length = (lenfunc)gate_length};

static PyTypeObject GateType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "profiler.capture._interval.Gate",
    .tp_doc = "Where events go, and who may take the short way.",
    .tp_basicsize = sizeof(Gate),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)gate_dealloc,
    .tp_traverse = (traverseproc)gate_traverse,
    .tp_clear = (inquiry)gate_clear,
    .tp_members = gate_members,
    .tp_methods = gate_methods,
    .tp_as_sequence = &gate_sequence,
};

/* Codes */

typedef struct {
    PyObject_HEAD
    uint64_t push[4]; /* by training + 2 * grad enabled; all the same for what is no module */
    uint64_t pop, raised, ended; /* `ended`: StopIteration */
    char kept; /* said once: until then the long way has something to do */
} Codes;

static PyObject *codes_keep(Codes *self, PyObject *args) {
    PyObject *push;
    unsigned long long pop, raised, ended, one;
    if (!PyArg_ParseTuple(args, "OKKK", &push, &pop, &raised, &ended)) return NULL;
    for (Py_ssize_t i = 0; i < 4; i++) {
        if (PyList_Check(push) && PyList_GET_SIZE(push) == 4)
            one = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(push, i));
        else
            one = PyLong_AsUnsignedLongLong(push);
        if (PyErr_Occurred()) return NULL;
        self->push[i] = one;
    }
    self->pop = pop;
    self->raised = raised;
    self->ended = ended;
    self->kept = 1;
    Py_RETURN_NONE;
}

static PyMethodDef codes_methods[] = {
    {"keep", (PyCFunction)codes_keep, METH_VARARGS, "keep(push or a list of four, pop, raised, ended)"},
    {NULL},
};

static PyTypeObject CodesType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "profiler.capture._interval.Codes",
    .tp_doc = "The event codes of one thing.",
    .tp_basicsize = sizeof(Codes),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_methods = codes_methods,
};

/* Interval */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Gate *gate;
    PyObject *original, *slow;
    PyObject *key; /* the attribute of the first argument that holds its Codes; NULL: `codes` serves every call */
    PyObject *codes; /* NULL until the slow way has seen a call */
    char is_step;
    PyObject *dict, *weakrefs;
} Interval;

static PyObject *interval_vectorcall(Interval *self, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
    Gate *gate = self->gate;
    if (gate->owner != PyThread_get_thread_ident()) return PyObject_Vectorcall(self->slow, args, nargsf, kwnames);
    PyObject *codes = NULL;
    if (self->key == NULL) {
        codes = self->codes;
        Py_XINCREF(codes);
    } else if (PyVectorcall_NARGS(nargsf) > 0) {
        if (self->is_step && gate->in_step) return PyObject_Vectorcall(self->original, args, nargsf, kwnames);
        codes = PyObject_GetAttr(args[0], self->key);
        if (codes == NULL) PyErr_Clear();
    }
    if (codes == NULL || !PyObject_TypeCheck(codes, &CodesType) || !((Codes *)codes)->kept) {
        Py_XDECREF(codes);
        return PyObject_Vectorcall(self->slow, args, nargsf, kwnames);
    }
    Codes *words = (Codes *)codes;
    Py_INCREF(self);
    gate_add(gate, words->push[0]);
    if (self->is_step) gate->in_step = 1;
    PyObject *result = PyObject_Vectorcall(self->original, args, nargsf, kwnames);
    if (self->is_step) gate->in_step = 0;
    if (result != NULL) {
        gate_add(gate, words->pop);
        if (self->is_step && ++gate->steps >= gate->due && gate->on_due != NULL) {
            PyObject *nothing = PyObject_CallNoArgs(gate->on_due);
            if (nothing == NULL) Py_CLEAR(result); /* an interrupt: `on_due` catches what is an Exception */
            Py_XDECREF(nothing);
        }
    } else {
        gate_add(gate, PyErr_ExceptionMatches(PyExc_StopIteration) ? words->ended : words->raised);
    }
    Py_DECREF(codes);
    Py_DECREF(self);
    return result;
}

static PyObject *interval_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"gate", "original", "slow", "key", "is_step", NULL};
    PyObject *gate, *original, *slow, *key = Py_None;
    int is_step = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OO|Op", names, &GateType, &gate, &original, &slow, &key, &is_step))
        return NULL;
    Interval *self = (Interval *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->vectorcall = (vectorcallfunc)interval_vectorcall;
    self->gate = (Gate *)Py_NewRef(gate);
    self->original = Py_NewRef(original);
    self->slow = Py_NewRef(slow);
    if (key != Py_None) self->key = Py_NewRef(key);
    self->is_step = (char)is_step;
    return (PyObject *)self;
}

static PyObject *interval_get(PyObject *self, PyObject *instance, PyObject *owner) {
    if (instance == NULL || instance == Py_None) return Py_NewRef(self);
    return PyMethod_New(self, instance);
}

static int interval_traverse(Interval *self, visitproc visit, void *arg) {
    Py_VISIT(self->gate);
    Py_VISIT(self->original);
    Py_VISIT(self->slow);
    Py_VISIT(self->codes);
    Py_VISIT(self->dict);
    return 0;
}

static int interval_clear(Interval *self) {
    /* the gate, the original and the slow way stay until the end: a call may still come */
    Py_CLEAR(self->codes);
    Py_CLEAR(self->dict);
    return 0;
}

static void interval_dealloc(Interval *self) {
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) PyObject_ClearWeakRefs((PyObject *)self);
    interval_clear(self);
    Py_XDECREF(self->gate);
    Py_XDECREF(self->original);
    Py_XDECREF(self->slow);
    Py_XDECREF(self->key);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *interval_reduce(PyObject *self, PyObject *ignored) {
    return PyObject_GetAttrString(self, "__qualname__"); /* as a function: by its name */
}

static PyMemberDef interval_members[] = {
    {"slow", T_OBJECT, offsetof(Interval, slow), READONLY, "the Python function that does the whole work"},
    {"codes", T_OBJECT, offsetof(Interval, codes), 0, "its Codes, where it has its own"},
    {"__dictoffset__", T_PYSSIZET, offsetof(Interval, dict), READONLY, NULL},
    {NULL},
};

static PyMethodDef interval_methods[] = {
    {"__reduce__", (PyCFunction)interval_reduce, METH_NOARGS, NULL},
    {NULL},
};

static PyGetSetDef interval_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL},
};

static PyTypeObject IntervalType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "profiler.capture._interval.Interval",
    .tp_doc = "Push, the original, pop.",
    .tp_basicsize = sizeof(Interval),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_new = interval_new,
    .tp_dealloc = (destructor)interval_dealloc,
    .tp_traverse = (traverseproc)interval_traverse,
    .tp_clear = (inquiry)interval_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Interval, vectorcall),
    .tp_descr_get = interval_get,
    .tp_dictoffset = offsetof(Interval, dict),
    .tp_weaklistoffset = offsetof(Interval, weakrefs),
    .tp_members = interval_members,
    .tp_methods = interval_methods,
    .tp_getset = interval_getset,
};

/* Root */

typedef struct {
    PyObject_HEAD
    Gate *gate;
    PyObject *module; /* a weak reference: a strong one would keep the module alive until a collection */
    PyObject *codes, *slow;
    PyObject *inner; /* a compiled call that stood here before us; None */
    PyObject *is_grad_enabled;
} Root;

/* The codes of this moment: 0 to 3, or -1 with an exception. */
static int root_mode(Root *self, PyObject *module) {
    PyObject *training = PyObject_GetAttr(module, training_name);
    if (training == NULL) return -1;
    int mode = PyObject_IsTrue(training);
    Py_DECREF(training);
    if (mode < 0) return -1;
    PyObject *grad = PyObject_CallNoArgs(self->is_grad_enabled);
    if (grad == NULL) return -1;
    mode += 2 * (grad == Py_True);
    Py_DECREF(grad);
    return mode;
}

static PyObject *root_call(Root *self, PyObject *args, PyObject *kwargs) {
    Gate *gate = self->gate;
    if (gate->owner != PyThread_get_thread_ident() || gate->searching) return PyObject_Call(self->slow, args, kwargs);
    PyObject *module = PyObject_CallNoArgs(self->module);
    if (module == NULL) return NULL;
    int mode = root_mode(self, module);
    PyObject *run = NULL;
    if (mode >= 0) {
        if (self->inner != Py_None) {
            run = self->inner;
            Py_INCREF(run);
        } else {
            run = PyObject_GetAttr(module, call_impl_name);
        }
    }
    if (run == NULL) { /* not the module we know: Python says what is wrong */
        PyErr_Clear();
        Py_DECREF(module);
        return PyObject_Call(self->slow, args, kwargs);
    }
    Codes *codes = (Codes *)self->codes;
    Py_INCREF(self);
    gate_add(gate, codes->push[mode]);
    PyObject *result = PyObject_Call(run, args, kwargs);
    gate_add(gate, result != NULL ? codes->pop : codes->raised);
    Py_DECREF(run);
    Py_DECREF(module);
    Py_DECREF(self);
    return result;
}

static PyObject *root_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *gate, *module, *codes, *slow, *inner, *is_grad_enabled;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Root takes no keywords");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!OO!OOO", &GateType, &gate, &module, &CodesType, &codes, &slow, &inner, &is_grad_enabled))
        return NULL;
    Root *self = (Root *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->gate = (Gate *)Py_NewRef(gate);
    self->module = Py_NewRef(module);
    self->codes = Py_NewRef(codes);
    self->slow = Py_NewRef(slow);
    self->inner = Py_NewRef(inner);
    self->is_grad_enabled = Py_NewRef(is_grad_enabled);
    return (PyObject *)self;
}

static int root_traverse(Root *self, visitproc visit, void *arg) {
    Py_VISIT(self->gate);
    Py_VISIT(self->module);
    Py_VISIT(self->codes);
    Py_VISIT(self->slow);
    Py_VISIT(self->inner);
    return 0;
}

static void root_dealloc(Root *self) {
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->gate);
    Py_XDECREF(self->module);
    Py_XDECREF(self->codes);
    Py_XDECREF(self->slow);
    Py_XDECREF(self->inner);
    Py_XDECREF(self->is_grad_enabled);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef root_members[] = {
    {"inner", T_OBJECT, offsetof(Root, inner), READONLY, "a compiled call that stood here before us, or None"},
    {"slow", T_OBJECT, offsetof(Root, slow), READONLY, "the Python function that does the whole work"},
    {NULL},
};

static PyTypeObject RootType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "profiler.capture._interval.Root",
    .tp_doc = "A root module's call: push, the module's own call, pop.",
    .tp_basicsize = sizeof(Root),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = root_new,
    .tp_dealloc = (destructor)root_dealloc,
    .tp_traverse = (traverseproc)root_traverse,
    .tp_call = (ternaryfunc)root_call,
    .tp_members = root_members,
};

/* Turn, Sometimes */

typedef struct {
    PyObject_HEAD
    long long skip;
} Turn;

static PyMemberDef turn_members[] = {
    {"skip", T_LONGLONG, offsetof(Turn, skip), 0, "calls to let pass before the next that is looked at"},
    {NULL},
};

static PyTypeObject TurnType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "profiler.capture._interval.Turn",
    .tp_doc = "How many calls to let pass.",
    .tp_basicsize = sizeof(Turn),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_members = turn_members,
};

static PyObject *sometimes_vectorcall(Interval *self, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
    PyObject *turn = NULL;
    int passes = 0;
    if (PyVectorcall_NARGS(nargsf) > 0) {
        turn = PyObject_GetAttr(args[0], self->key);
        if (turn == NULL)
            PyErr_Clear();
        else if (PyObject_TypeCheck(turn, &TurnType) && ((Turn *)turn)->skip > 0)
            passes = 1, ((Turn *)turn)->skip--;
    }
    Py_XDECREF(turn);
    return PyObject_Vectorcall(passes ? self->original : self->slow, args, nargsf, kwnames);
}

static PyObject *sometimes_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *original, *slow, *key;
    if (!PyArg_ParseTuple(args, "OOU", &original, &slow, &key)) return NULL;
    Interval *self = (Interval *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->vectorcall = (vectorcallfunc)sometimes_vectorcall;
    self->original = Py_NewRef(original);
    self->slow = Py_NewRef(slow);
    self->key = Py_NewRef(key);
    return (PyObject *)self;
}

static PyTypeObject SometimesType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "profiler.capture._interval.Sometimes",
    .tp_doc = "The original until it is its turn.",
    .tp_base = &IntervalType,
    .tp_basicsize = sizeof(Interval),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_new = sometimes_new,
    .tp_dealloc = (destructor)interval_dealloc,
    .tp_traverse = (traverseproc)interval_traverse,
    .tp_clear = (inquiry)interval_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Interval, vectorcall),
    .tp_descr_get = interval_get,
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_interval", "What a hook does at almost every call, in C.", -1, NULL,
};

PyMODINIT_FUNC PyInit__interval(void) {
    PyTypeObject *types[] = {&GateType, &CodesType, &IntervalType, &RootType, &TurnType, &SometimesType};
    const char *names[] = {"Gate", "Codes", "Interval", "Root", "Turn", "Sometimes"};
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) return NULL;
    if (call_impl_name == NULL) call_impl_name = PyUnicode_InternFromString("_call_impl");
    if (training_name == NULL) training_name = PyUnicode_InternFromString("training");
    if (call_impl_name == NULL || training_name == NULL) return NULL;
    for (int i = 0; i < 6; i++) {
        if (PyType_Ready(types[i]) < 0) return NULL;
        Py_INCREF(types[i]);
        if (PyModule_AddObject(module, names[i], (PyObject *)types[i]) < 0) return NULL;
    }
    return module;
}
