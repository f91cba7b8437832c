/* The sampler's loop: wait, take the GIL, see where a thread is, let go of the GIL.
 *
 * In Python a look takes most of a millisecond of CPU time, since nothing of it is in the caches and the training
 * thread asks for the GIL in between; this takes some ten microseconds, most of them for waking up.
 *
 * A look is made in two parts. First the frames are walked, with the GIL held and no garbage collection possible
 * (before 3.12 an allocation may start one, which runs Python code, which lets go of the GIL): so a stack is seen
 * all at once. Then code objects not met before are given to `classify`, a Python function.
 *
 * Looks come at random (exponential) distances, so that no rhythm of the training's meets a rhythm of ours. Where the
 * GIL was not to be had at once, the thread has been on that line all the while: it is written for each look that
 * would have come in that time.
 *
 * Static type, since the launcher's private copy of the package and a user's import share this file.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <fcntl.h>
#include <math.h>
#include <frameobject.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#if !defined(__linux__) || defined(Py_GIL_DISABLED) || PY_VERSION_HEX < 0x030A0000
#error "built for Linux, where perf_counter_ns is CLOCK_MONOTONIC, and for interpreters with a GIL"
#endif

#define DEEPEST 100
#define MOST_CODES (1 << 14) /* code objects whose class is kept, and places */
#define SLOTS (1 << 15)
#define MOST_SAMPLES 1024 /* between two calls of `take` */
#define LONGEST 5.0 /* periods between two looks */
#define MOMENT_NS 2000000 /* in which a thread may have gone on to another line before we had the GIL */
#define MOST_REPEATS 256 /* of one look: a machine that slept is no line of the user's */

enum { UNKNOWN = -1, OTHER = 0, USER = 1, INSTALLED = 2, OURS = 3, WORKER_LOOP = 4, LOOKING = 5 };

typedef struct {
    PyCodeObject *code;
    PyObject *globals;
    int instruction;
} Place;

typedef struct {
    PyCodeObject *code;
    int class;
} Class;

typedef struct {
    PyCodeObject *code, *leaf;
    int instruction, number;
} Known;

typedef struct {
    int64_t time_ns, rss_bytes;
    int place;
} Sample;

typedef struct {
    PyObject_HEAD
    PyObject *current_frames, *classify;
    PyObject *met; /* list of (code, instruction, leaf's code or None, leaf's globals or None), not yet taken */
    unsigned long thread; /* whose frames are looked at; 0: nobody's */
    char worker;
    int statm; /* a descriptor, or -1 */
    long page_bytes;
    long long looks, waited_ns;
    Class *classes;
    Known *known;
    int class_count, known_count;
    Sample *samples;
    int sample_count;
    uint64_t random;
    pthread_mutex_t mutex;
    pthread_cond_t woken;
    char stopped;
} Looks;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Tables by address. What is in them is kept alive, so an address stands for one object. */

static size_t mixed(uintptr_t value) {
    uint64_t hash = (uint64_t)value * 0x9E3779B97F4A7C15u;
    return (size_t)(hash >> 40);
}

static Class *class_slot(Looks *self, PyCodeObject *code) {
    size_t at = mixed((uintptr_t)code) % SLOTS;
    while (self->classes[at].code != NULL && self->classes[at].code != code) at = (at + 1) % SLOTS;
    return &self->classes[at];
}

static int known_class(Looks *self, PyCodeObject *code) {
    Class *slot = class_slot(self, code);
    return slot->code == NULL ? UNKNOWN : slot->class;
}

/* The class of a code object; asks for it when it is new. -2: an exception is set. */
static int class_of(Looks *self, PyCodeObject *code) {
    int class = known_class(self, code);
    if (class != UNKNOWN) return class;
    if (self->class_count >= MOST_CODES) return OTHER;
    PyObject *answer = PyObject_CallOneArg(self->classify, (PyObject *)code);
    if (answer == NULL) return -2;
    class = (int)PyLong_AsLong(answer);
    Py_DECREF(answer);
    if (class == -1 && PyErr_Occurred()) return -2;
    Class *slot = class_slot(self, code);
    if (slot->code == NULL) {
        Py_INCREF(code);
        *slot = (Class){code, class};
        self->class_count++;
    }
    return class;
}

/* The number of a place, new or known; -1: there are too many; -2: an exception is set. */
static int number_of(Looks *self, Place *user, Place *leaf) {
    PyCodeObject *leaf_code = leaf != NULL ? leaf->code : NULL;
    size_t at = mixed((uintptr_t)user->code ^ ((uintptr_t)leaf_code << 1) ^ ((uintptr_t)user->instruction << 20)) % SLOTS;
    for (; self->known[at].code != NULL; at = (at + 1) % SLOTS) {
        Known *known = &self->known[at];
        if (known->code == user->code && known->leaf == leaf_code && known->instruction == user->instruction)
            return known->number;
    }
    if (self->known_count >= MOST_CODES) return -1;
    PyObject *none = Py_None;
    PyObject *met = Py_BuildValue(
        "(OiOO)", user->code, user->instruction, leaf != NULL ? (PyObject *)leaf_code : none,
        leaf != NULL ? leaf->globals : none);
    if (met == NULL) return -2;
    int failed = PyList_Append(self->met, met);
    Py_DECREF(met);
    if (failed) return -2;
    Py_INCREF(user->code);
    Py_XINCREF(leaf_code);
    self->known[at] = (Known){user->code, leaf_code, user->instruction, self->known_count};
    return self->known_count++;
}

/* The walk */

static int instruction_of(PyFrameObject *frame) {
#if PY_VERSION_HEX >= 0x030B0000
    return PyFrame_GetLasti(frame);
#else
    return frame->f_lasti * 2;
#endif
}

static PyObject *globals_of(PyFrameObject *frame) {
#if PY_VERSION_HEX >= 0x030B0000
    return PyFrame_GetGlobals(frame);
#else
    Py_INCREF(frame->f_globals);
    return frame->f_globals;
#endif
}

static PyFrameObject *top_frame(Looks *self) {
    PyObject *frames = PyObject_CallNoArgs(self->current_frames);
    if (frames == NULL) return NULL;
    PyObject *thread = PyLong_FromUnsignedLong(self->thread);
    PyObject *frame = thread != NULL && PyDict_Check(frames) ? PyDict_GetItemWithError(frames, thread) : NULL;
    Py_XINCREF(frame);
    Py_XDECREF(thread);
    Py_DECREF(frames);
    return (PyFrameObject *)frame;
}

/* Fill `places`, innermost first, as far as is needed; their number. An exception may be set. */
static int walk(Looks *self, Place *places) {
    int collecting = PyGC_Disable();
    PyFrameObject *frame = top_frame(self);
    int depth = 0;
    while (frame != NULL && depth < DEEPEST) {
        Place *place = &places[depth++];
        place->code = PyFrame_GetCode(frame);
        place->globals = globals_of(frame);
        place->instruction = instruction_of(frame);
        PyFrameObject *back = NULL;
        if (self->worker || known_class(self, place->code) != USER) back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    if (collecting) PyGC_Enable();
    return depth;
}

/* Where the innermost place is that belongs to the user: -1: nowhere; -2: an exception is set.
 *
 * For a program that is itself an installed package: its innermost frame outside torch and Python's own. In a
 * worker only what its loop called counts, and of installed code the outermost, which is the data set's. */
static int users_place(Looks *self, Place *places, int depth) {
    int user = -1, installed = -1;
    for (int at = 0; at < depth; at++) {
        int class = class_of(self, places[at].code);
        if (class == -2) return -2;
        if (class == WORKER_LOOP && self->worker) return user >= 0 ? user : installed;
        if (class == USER && user < 0) {
            if (!self->worker) return at;
            user = at;
        }
        if (class == INSTALLED && (self->worker || installed < 0)) installed = at;
        if (class == LOOKING && self->worker) installed = -1; /* we called that */
    }
    return self->worker ? -1 : installed;
}

/* A random distance between two looks. */
static int64_t distance(Looks *self, int64_t period_ns, int64_t shortest_ns) {
    self->random = self->random * 6364136223846793005u + 1442695040888963407u;
    double share = ((double)(self->random >> 33) + 1.0) / (double)(1u << 31); /* 0 < share <= 1 */
    int64_t distance_ns = (int64_t)((double)period_ns * fmin(-log(share), LONGEST));
    return distance_ns > shortest_ns ? distance_ns : shortest_ns;
}

/* Look once, and write down what was seen. -1: an exception is set. */
static int look(Looks *self, int64_t wanted_ns, int64_t period_ns, int64_t shortest_ns, int64_t rss_bytes) {
    Place places[DEEPEST];
    int depth = walk(self, places);
    int number = PyErr_Occurred() ? -2 : -1;
    int64_t seen_ns = now_ns();
    if (seen_ns - wanted_ns < MOMENT_NS) wanted_ns = seen_ns;
    if (depth > 0 && number == -1) {
        int at = users_place(self, places, depth);
        Place *leaf = NULL;
        for (int inner = 0; inner < at && leaf == NULL; inner++) {
            int class = class_of(self, places[inner].code);
            if (class != OURS && class != LOOKING) leaf = &places[inner];
        }
        number = at >= 0 ? number_of(self, &places[at], leaf) : at;
    }
    for (int at = 0; at < depth; at++) {
        Py_DECREF(places[at].code);
        Py_DECREF(places[at].globals);
    }
    if (number == -2) return -1;
    self->looks++;
    int repeats = MOST_REPEATS;
    while (number >= 0 && repeats-- && self->sample_count < MOST_SAMPLES) {
        self->samples[self->sample_count++] = (Sample){wanted_ns, rss_bytes, number};
        wanted_ns += distance(self, period_ns, shortest_ns);
        if (wanted_ns >= seen_ns) break;
    }
    return 0;
}

/* Without the GIL */

static int64_t rss_bytes(Looks *self) {
    char text[96];
    if (self->statm < 0) return -1;
    ssize_t length = pread(self->statm, text, sizeof text - 1, 0);
    if (length <= 0) return -1;
    text[length] = 0;
    char *end;
    strtoll(text, &end, 10);
    return strtoll(end, NULL, 10) * self->page_bytes;
}

/* Sleep until a time. 0: it has come; 1: stopped before. */
static int sleep_until(Looks *self, int64_t time_ns) {
    struct timespec end = {time_ns / 1000000000, time_ns % 1000000000};
    pthread_mutex_lock(&self->mutex);
    int late = 0;
    while (!self->stopped && !late) late = pthread_cond_timedwait(&self->woken, &self->mutex, &end) != 0;
    int stopped = self->stopped;
    pthread_mutex_unlock(&self->mutex);
    return stopped;
}

PyDoc_STRVAR(run_doc, "run(end_ns, period_ns, shortest_ns): look until then, at random distances of a period on the average.\n\n"
    "False: stopped.");

static PyObject *looks_run(Looks *self, PyObject *args) {
    long long end_ns, period_ns, shortest_ns;
    if (!PyArg_ParseTuple(args, "LLL", &end_ns, &period_ns, &shortest_ns)) return NULL;
    while (self->sample_count < MOST_SAMPLES) {
        int64_t next_ns = now_ns() + distance(self, period_ns, shortest_ns);
        int64_t wanted_ns = 0, rss = -1;
        int stopped;
        Py_BEGIN_ALLOW_THREADS
        stopped = sleep_until(self, next_ns < end_ns ? next_ns : end_ns);
        if (!stopped && next_ns < end_ns) {
            rss = rss_bytes(self);
            wanted_ns = now_ns();
        }
        Py_END_ALLOW_THREADS
        if (stopped) Py_RETURN_FALSE;
        if (next_ns >= end_ns) break;
        if (wanted_ns) self->waited_ns += now_ns() - wanted_ns;
        if (self->thread != 0 && look(self, wanted_ns, period_ns, shortest_ns, rss) < 0) return NULL;
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(stop_doc, "End `run` at once, now and later.");

static PyObject *looks_stop(Looks *self, PyObject *unused) {
    pthread_mutex_lock(&self->mutex);
    self->stopped = 1;
    pthread_cond_signal(&self->woken);
    pthread_mutex_unlock(&self->mutex);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(take_doc, "take() -> (samples, places): what was seen since the last time.\n\n"
    "A sample is (time_ns, number of its place, resident bytes or -1); places are numbered in the order in which\n"
    "they were first given: (code, instruction, leaf's code or None, leaf's globals or None).");

static PyObject *looks_take(Looks *self, PyObject *unused) {
    PyObject *samples = PyList_New(self->sample_count);
    PyObject *met = samples != NULL ? PyList_New(0) : NULL;
    if (met == NULL) {
        Py_XDECREF(samples);
        return NULL;
    }
    for (int at = 0; at < self->sample_count; at++) {
        Sample *sample = &self->samples[at];
        PyObject *item =
            Py_BuildValue("(LiL)", (long long)sample->time_ns, sample->place, (long long)sample->rss_bytes);
        if (item == NULL) {
            Py_DECREF(samples);
            Py_DECREF(met);
            return NULL;
        }
        PyList_SET_ITEM(samples, at, item);
    }
    self->sample_count = 0;
    PyObject *places = self->met;
    self->met = met;
    return Py_BuildValue("(NN)", samples, places);
}

static int looks_init(Looks *self, PyObject *args, PyObject *kwds) {
    static char *names[] = {"current_frames", "classify", "worker", "statm", "page_bytes", "seed", NULL};
    PyObject *current_frames, *classify;
    int worker, statm;
    long page_bytes;
    unsigned long seed;
    if (self->classes != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "begun twice");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(
            args, kwds, "OOpilk", names, &current_frames, &classify, &worker, &statm, &page_bytes, &seed))
        return -1;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&self->mutex, NULL);
    pthread_cond_init(&self->woken, &attributes);
    pthread_condattr_destroy(&attributes);
    self->worker = (char)worker;
    self->statm = statm;
    self->page_bytes = page_bytes;
    self->random = seed;
    Py_INCREF(current_frames);
    self->current_frames = current_frames;
    Py_INCREF(classify);
    self->classify = classify;
    self->met = PyList_New(0);
    self->classes = PyMem_RawCalloc(SLOTS, sizeof(Class));
    self->known = PyMem_RawCalloc(SLOTS, sizeof(Known));
    self->samples = PyMem_RawCalloc(MOST_SAMPLES, sizeof(Sample));
    if (self->met == NULL || self->classes == NULL || self->known == NULL || self->samples == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static void looks_dealloc(Looks *self) {
    for (int at = 0; at < SLOTS; at++) {
        if (self->classes != NULL) Py_XDECREF(self->classes[at].code);
        if (self->known != NULL) {
            Py_XDECREF(self->known[at].code);
            Py_XDECREF(self->known[at].leaf);
        }
    }
    PyMem_RawFree(self->classes);
    PyMem_RawFree(self->known);
    PyMem_RawFree(self->samples);
    Py_XDECREF(self->met);
    Py_XDECREF(self->classify);
    Py_XDECREF(self->current_frames);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef looks_methods[] = {
    {"run", (PyCFunction)looks_run, METH_VARARGS, run_doc},
    {"stop", (PyCFunction)looks_stop, METH_NOARGS, stop_doc},
    {"take", (PyCFunction)looks_take, METH_NOARGS, take_doc},
    {NULL},
};

static PyMemberDef looks_members[] = {
    {"thread", T_ULONG, offsetof(Looks, thread), 0, "identity of the thread that is looked at; 0: none"},
    {"waited_ns", T_LONGLONG, offsetof(Looks, waited_ns), READONLY, "time that looks waited for the GIL"},
    {"looks", T_LONGLONG, offsetof(Looks, looks), READONLY, "looks made so far"},
    {NULL},
};

static PyTypeObject looks_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "profiler.capture._looks.Looks",
    .tp_doc = "Looks(current_frames, classify, worker, statm, page_bytes, seed)",
    .tp_basicsize = sizeof(Looks),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)looks_init,
    .tp_dealloc = (destructor)looks_dealloc,
    .tp_methods = looks_methods,
    .tp_members = looks_members,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_looks", NULL, -1, NULL};

PyMODINIT_FUNC PyInit__looks(void) {
    if (PyType_Ready(&looks_type) < 0) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
    Py_INCREF(&looks_type);
    if (PyModule_AddObject(made, "Looks", (PyObject *)&looks_type) < 0) {
        Py_DECREF(&looks_type);
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
