/* The events of a piece of a trace, read into rows of numbers.
 *
 * A quick way beside msgspec, not in its place: it knows what Kineto writes, and leaves everything else to msgspec. An
 * event of which a field is of another type than usual goes to the list of odd ones, as text; text that is no JSON, or
 * holds more than events, is not read at all.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_text.h"

#ifdef Py_GIL_DISABLED
#error "built for interpreters with a GIL: what dicts and lists hold is used without their locks"
#endif

#define ABSENT INT64_MIN
#define ALSO_VALUES 2 /* as in shapes.py */

enum { PID, TID, CORRELATION, EXTERNAL, EXTERNAL_2021, DEVICE, STREAM, BYTES, SIZE, INDEX, INDEX_2022, ELEMENTS,
       MEMBERS, PYTHON, PYTHON_PARENT, INTEGERS };
enum { PHASE, CATEGORY, NAME, COLLECTIVE, DTYPE, STACK, WORDS };
enum { TS, DUR, TIMES };
enum { DIMS, DIMS_2021, TYPES, VALUES, SPANS };
enum { INTEGER, WORD, TIME, SPAN, ARGS };

typedef struct {
    const char *key;
    size_t length;
    int kind, at;
} Field;

#define KEY(text) text, sizeof text - 1
#define LONGEST_KEY 20

typedef struct {
    const Field *fields; /* the shorter first; the last one has no key */
    const Field *of_length[LONGEST_KEY + 1]; /* the first of them; NULL: there is none */
} Fields;

static const Field OF_EVENT[] = {
    {KEY("ph"), WORD, PHASE}, {KEY("ts"), TIME, TS},
    {KEY("cat"), WORD, CATEGORY}, {KEY("pid"), INTEGER, PID}, {KEY("tid"), INTEGER, TID}, {KEY("dur"), TIME, DUR},
    {KEY("name"), WORD, NAME}, {KEY("args"), ARGS, 0},
    {NULL, 0, 0, 0},
};
static const Field OF_ARGS[] = {
    {KEY("size"), INTEGER, SIZE},
    {KEY("bytes"), INTEGER, BYTES}, {KEY("dtype"), WORD, DTYPE},
    {KEY("device"), INTEGER, DEVICE}, {KEY("stream"), INTEGER, STREAM}, {KEY("Ev Idx"), INTEGER, INDEX},
    {KEY("Python id"), INTEGER, PYTHON},
    {KEY("Call stack"), WORD, STACK}, {KEY("Input Dims"), SPAN, DIMS}, {KEY("Input dims"), SPAN, DIMS_2021},
    {KEY("Input type"), SPAN, TYPES}, {KEY("Group size"), INTEGER, MEMBERS},
    {KEY("External id"), INTEGER, EXTERNAL}, {KEY("correlation"), INTEGER, CORRELATION},
    {KEY("external id"), INTEGER, EXTERNAL_2021},
    {KEY("In msg nelems"), INTEGER, ELEMENTS},
    {KEY("Collective name"), WORD, COLLECTIVE}, {KEY("Concrete Inputs"), SPAN, VALUES},
    {KEY("Python parent id"), INTEGER, PYTHON_PARENT},
    {KEY("Profiler Event Index"), INTEGER, INDEX_2022},
    {NULL, 0, 0, 0},
};
static Fields event_fields = {OF_EVENT, {NULL}}, args_fields = {OF_ARGS, {NULL}};

static void index_fields(Fields *given) {
    for (const Field *field = given->fields; field->key != NULL; field++)
        if (given->of_length[field->length] == NULL) given->of_length[field->length] = field;
}

typedef struct {
    int64_t integers[INTEGERS];
    Span words[WORDS];
    double times[TIMES];
    Span spans[SPANS];
    int odd; /* a field is of another type than usual */
} Event;

/* Columns of a row, in the order of `COLUMNS` in scan.py. */
enum { C_KIND, C_TS, C_DUR, C_NAME, C_TRACK, C_CORRELATION, C_EXTERNAL, C_DEVICE, C_STREAM, C_BYTES, C_INDEX,
       C_ELEMENTS, C_MEMBERS, C_PYTHON, C_PYTHON_PARENT, C_COLLECTIVE, C_DTYPE, C_FRAME, C_GIVEN, C_COUNT };

#define TRACKS 64 /* remembered ones */

typedef struct {
    int64_t process, thread, number; /* number -1: none is remembered */
} Track;

typedef struct {
    PyObject *kinds, *names, *functions, *said, *stacks, *shapes; /* dicts of numbers */
    PyObject *told; /* a bytearray: what tells the work of the operators of each name */
    PyObject *track; /* from process and thread to a number */
    PyObject *unescape; /* from text in quotes to a str */
    PyObject *odd; /* list of the texts of events */
    PyObject *rows; /* a bytearray */
    Py_ssize_t count, room, seen;
    int64_t kind; /* of the last category */
    Span category;
    Track tracks[TRACKS];
} Scan;

/* Events */

static inline const Field *field_of(const Fields *fields, Span name) {
    size_t length = (size_t)(name.end - name.begin);
    if (length > LONGEST_KEY) return NULL;
    const Field *field = fields->of_length[length];
    for (; field != NULL && field->length == length; field++)
        if (*field->key == *name.begin && memcmp(field->key, name.begin, length) == 0) return field;
    return NULL;
}

static void forget_args(Event *event) {
    for (int at = CORRELATION; at < INTEGERS; at++) event->integers[at] = ABSENT;
    for (int at = COLLECTIVE; at < WORDS; at++) event->words[at] = (Span){NULL, NULL};
    memset(event->spans, 0, sizeof event->spans);
}

static Text object(Text at, const Fields *fields, Event *event);

static Text field(Text at, const Field *known, Event *event) {
    Span given = {at, NULL};
    if (known->kind == INTEGER) {
        int quoted = *at == '"'; /* as torch wrote many of them in 2021 */
        Text end = short_integer(at + quoted, &event->integers[known->at]);
        if (end != NULL && (!quoted || *end == '"')) return end + quoted;
    }
    if (known->kind == ARGS && *at == '{') {
        forget_args(event);
        return object(at, &args_fields, event);
    }
    Text end = given.end = value_end(at);
    if (end == NULL) return NULL;
    int null = *at == 'n' && at[1] == 'u';
    switch (known->kind) {
    case SPAN:
        event->spans[known->at] = given;
        break;
    case WORD:
        if (*at == '"')
            event->words[known->at] = (Span){at + 1, end - 1};
        else if (null && known->at != NAME && known->at != PHASE)
            event->words[known->at] = (Span){NULL, NULL};
        else
            event->odd = 1;
        break;
    case INTEGER:
        if (null)
            event->integers[known->at] = ABSENT;
        else if (!integer(given, &event->integers[known->at]))
            event->odd = 1;
        break;
    case TIME:
        if (null)
            event->times[known->at] = NAN;
        else if (!nearest(given, &event->times[known->at]))
            event->odd = 1;
        break;
    default:
        event->odd = 1;
    }
    return end;
}

static Text object(Text at, const Fields *fields, Event *event) {
    Span name;
    at = white(at + 1);
    if (*at == '}') return at + 1;
    for (;;) {
        at = key(at, &name);
        if (at == NULL) return NULL;
        const Field *known = field_of(fields, name);
        at = known != NULL ? field(at, known, event) : value_end(at);
        if (at == NULL) return NULL;
        at = white(at);
        if (*at == '}') return at + 1;
        if (*at != ',') return NULL;
        at = white(at + 1);
    }
}

/* Rows. Functions return -1 where Python has raised, 0 where the event is odd, 1 else. */

static PyObject *str_of(Scan *scan, Span given) {
    Py_ssize_t length = given.end - given.begin;
    if (memchr(given.begin, '\\', (size_t)length) == NULL) return PyUnicode_DecodeUTF8(given.begin, length, NULL);
    return PyObject_CallFunction(scan->unescape, "y#", given.begin - 1, length + 2);
}

/* What a dict has for a key, which its class may make. Takes the key's reference and the number's. */
static int looked_up(PyObject *table, PyObject *key, int64_t *found) {
    PyObject *number = PyDict_GetItemWithError(table, key);
    Py_XINCREF(number);
    if (number == NULL && !PyErr_Occurred()) number = PyObject_GetItem(table, key);
    Py_DECREF(key);
    if (number == NULL) return -1;
    *found = PyLong_AsLongLong(number);
    Py_DECREF(number);
    return *found == -1 && PyErr_Occurred() ? -1 : 1;
}

static int number_of(Scan *scan, PyObject *table, Span given, int64_t *found) {
    PyObject *name = str_of(scan, given);
    if (name != NULL) return looked_up(table, name, found);
    if (!PyErr_ExceptionMatches(PyExc_ValueError)) return -1;
    PyErr_Clear(); /* bytes that are no text: they are mended where msgspec reads */
    return 0;
}

static int is(Span given, const char *what) {
    size_t length = strlen(what);
    return given.begin != NULL && (size_t)(given.end - given.begin) == length && !memcmp(given.begin, what, length);
}

static int kind_of(Scan *scan, Span category) {
    size_t length = (size_t)(category.end - category.begin);
    if (category.begin == NULL) category.begin = category.end = ""; /* as if it said nothing */
    Span last = scan->category;
    if (last.begin != NULL && (size_t)(last.end - last.begin) == length && !memcmp(last.begin, category.begin, length))
        return 1;
    int good = number_of(scan, scan->kinds, category, &scan->kind);
    scan->category = good == 1 ? category : (Span){NULL, NULL};
    return good;
}

static int optional(Scan *scan, PyObject *table, Span given, int64_t *found) {
    *found = -1;
    return given.begin == NULL || given.begin == given.end ? 1 : number_of(scan, table, given, found);
}

static inline int64_t or_none(int64_t value, int64_t other) {
    value = value != ABSENT ? value : other;
    return value != ABSENT ? value : -1;
}

static int track_of(Scan *scan, int64_t process, int64_t thread, int64_t *found) {
    Track *track = &scan->tracks[((uint64_t)process * 31 + (uint64_t)thread) % TRACKS];
    if (track->number < 0 || track->process != process || track->thread != thread) {
        PyObject *number = PyObject_CallFunction(scan->track, "LL", (long long)process, (long long)thread);
        if (number == NULL) return -1;
        *track = (Track){process, thread, PyLong_AsLongLong(number)};
        Py_DECREF(number);
        if (track->number < 0) return -1;
    }
    *found = track->number;
    return 1;
}

static inline size_t length_of(Span given) { return given.begin != NULL ? (size_t)(given.end - given.begin) : 0; }

/* The number of what an operator was given; its text is that of `as_given` in shapes.py. */
static int given_of(Scan *scan, int64_t name, const Span *spans, int64_t *found) {
    *found = -1;
    if (name < 0 || name >= PyByteArray_GET_SIZE(scan->told)) return 1;
    char told = PyByteArray_AS_STRING(scan->told)[name];
    if (!told) return 1;
    Span parts[] = {spans[DIMS].begin != NULL ? spans[DIMS] : spans[DIMS_2021], spans[TYPES], spans[VALUES]};
    if (told != ALSO_VALUES) parts[2] = (Span){NULL, NULL};
    size_t length = length_of(parts[0]) + length_of(parts[1]) + length_of(parts[2]) + 2;
    PyObject *key = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (key == NULL) return -1;
    char *at = PyBytes_AS_STRING(key);
    for (int part = 0; part < 3; part++) {
        if (part) *at++ = '\0';
        if (parts[part].begin != NULL) memcpy(at, parts[part].begin, length_of(parts[part]));
        at += length_of(parts[part]);
    }
    return looked_up(scan->shapes, key, found);
}

static int fill(Scan *scan, int64_t *row, const Event *event) {
    const int64_t *given = event->integers;
    const Span *words = event->words;
    if (given[PID] == ABSENT || given[TID] == ABSENT || words[NAME].begin == NULL) return 0;
    int good = kind_of(scan, words[CATEGORY]);
    if (good != 1) return good;
    row[C_KIND] = scan->kind;
    int in_python = is(words[CATEGORY], "python_function");
    PyObject *names = in_python ? scan->functions : scan->names;
    if ((good = number_of(scan, names, words[NAME], &row[C_NAME])) != 1) return good;
    if ((good = optional(scan, scan->said, words[COLLECTIVE], &row[C_COLLECTIVE])) != 1) return good;
    if ((good = optional(scan, scan->said, words[DTYPE], &row[C_DTYPE])) != 1) return good;
    if ((good = optional(scan, scan->stacks, words[STACK], &row[C_FRAME])) != 1) return good;
    if (track_of(scan, given[PID], given[TID], &row[C_TRACK]) < 0) return -1;
    if (given_of(scan, in_python ? -1 : row[C_NAME], event->spans, &row[C_GIVEN]) < 0) return -1;
    memcpy(&row[C_TS], &event->times[TS], 8);
    memcpy(&row[C_DUR], &event->times[DUR], 8);
    row[C_CORRELATION] = or_none(given[CORRELATION], ABSENT);
    row[C_EXTERNAL] = or_none(given[EXTERNAL], given[EXTERNAL_2021]);
    row[C_DEVICE] = or_none(given[DEVICE], given[PID]);
    row[C_STREAM] = or_none(given[STREAM], given[TID]);
    row[C_BYTES] = or_none(given[BYTES], given[SIZE]);
    row[C_INDEX] = or_none(given[INDEX], given[INDEX_2022]);
    row[C_ELEMENTS] = or_none(given[ELEMENTS], ABSENT);
    row[C_MEMBERS] = or_none(given[MEMBERS], ABSENT);
    row[C_PYTHON] = or_none(given[PYTHON], ABSENT);
    row[C_PYTHON_PARENT] = or_none(given[PYTHON_PARENT], ABSENT);
    return 1;
}

static int64_t *next_row(Scan *scan) {
    if (scan->count == scan->room) {
        scan->room = 2 * scan->room + 256;
        if (PyByteArray_Resize(scan->rows, scan->room * C_COUNT * 8) < 0) return NULL;
    }
    return (int64_t *)PyByteArray_AS_STRING(scan->rows) + scan->count * C_COUNT;
}

static int take(Scan *scan, const Event *event, Text begin, Text end) {
    Span phase = event->words[PHASE];
    int timed = is(phase, "X");
    if (phase.begin != NULL && !timed && !is(event->words[NAME], "[memory]")) return 0;
    if (timed && !event->odd) {
        int64_t *row = next_row(scan);
        int good = row != NULL ? fill(scan, row, event) : -1;
        scan->count += good == 1;
        if (good != 0) return good < 0 ? -1 : 0;
    }
    PyObject *text = PyBytes_FromStringAndSize(begin, end - begin);
    int failed = text == NULL ? -1 : PyList_Append(scan->odd, text);
    Py_XDECREF(text);
    return failed;
}

/* 1: all was read; 0: it is more or less than an array of events; -1: an error. */
static int all(Scan *scan, Text at, Text end) {
    if (*at != '[') return 0;
    for (;;) {
        Event event = {.times = {NAN, NAN}};
        event.integers[PID] = event.integers[TID] = ABSENT;
        forget_args(&event);
        Text begin = white(at + 1);
        if (*begin != '{') return 0;
        at = object(begin, &event_fields, &event);
        if (at == NULL) return 0;
        scan->seen++;
        if (take(scan, &event, begin, at) < 0) return -1;
        at = white(at);
        if (*at == ']') return at + 1 == end;
        if (*at != ',') return 0;
    }
}

static PyObject *scan(PyObject *module, PyObject *given) {
    Scan scan = {.category = {NULL, NULL}};
    PyObject *text;
    if (!PyArg_ParseTuple(given, "SO!O!O!O!O!O!O!OO:scan", &text, &PyDict_Type, &scan.kinds, &PyDict_Type, &scan.names,
                          &PyDict_Type, &scan.functions, &PyDict_Type, &scan.said, &PyDict_Type, &scan.stacks,
                          &PyDict_Type, &scan.shapes, &PyByteArray_Type, &scan.told, &scan.track, &scan.unescape))
        return NULL;
    for (int at = 0; at < TRACKS; at++) scan.tracks[at].number = -1;
    Py_ssize_t length = PyBytes_GET_SIZE(text);
    char *padded = PyMem_Malloc((size_t)length + PADDING);
    if (padded == NULL) return PyErr_NoMemory();
    memcpy(padded, PyBytes_AS_STRING(text), (size_t)length);
    memset(padded + length, 0, PADDING);
    scan.odd = PyList_New(0);
    scan.rows = PyByteArray_FromStringAndSize(NULL, 0);
    int good = scan.odd == NULL || scan.rows == NULL ? -1 : all(&scan, padded, padded + length);
    if (good == 1) good = PyByteArray_Resize(scan.rows, scan.count * C_COUNT * 8) < 0 ? -1 : 1;
    PyObject *found = NULL;
    if (good == 1) found = Py_BuildValue("OnO", scan.rows, scan.seen, scan.odd);
    if (good == 0) found = Py_NewRef(Py_None);
    PyMem_Free(padded);
    Py_XDECREF(scan.odd);
    Py_XDECREF(scan.rows);
    return found;
}

static PyMethodDef methods[] = {
    {"scan", scan, METH_VARARGS,
     "scan(text, kinds, names, functions, said, stacks, shapes, told, track, unescape): rows, events seen, texts of\n"
     "the odd ones; None where the text is no array of events."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_scan", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__scan(void) {
    index_fields(&event_fields);
    index_fields(&args_fields);
    return PyModule_Create(&definition);
}
