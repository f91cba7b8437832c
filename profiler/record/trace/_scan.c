/* The events of a piece of a trace, read into rows of numbers.
 *
 * A quick way beside msgspec, not in its place: it knows what Kineto writes, and leaves everything else to msgspec. An
 * event of which a field is of another type than usual goes to the list of odd ones, as text; text that is no JSON, or
 * holds more than events, is not read at all.
 *
 * NULs stand behind the text: no loop goes past them, since none takes one for a part of anything.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define ABSENT INT64_MIN
#define PADDING 16 /* NULs behind the text, which is looked at so many characters at a time */
#define DEEPEST 64 /* arrays and objects within each other */

typedef const char *Text;

typedef struct {
    Text begin, end; /* of what stands between the quotes, or of a value as a whole; NULL: not said */
} Span;

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

/* Columns of a row, in the order of `COLUMNS` in scan.py. Spans are offsets in the text, 0 and 0 where there is none. */
enum { C_KIND, C_TS, C_DUR, C_NAME, C_PID, C_TID, C_CORRELATION, C_EXTERNAL, C_DEVICE, C_STREAM, C_BYTES, C_INDEX,
       C_ELEMENTS, C_MEMBERS, C_PYTHON, C_PYTHON_PARENT, C_COLLECTIVE, C_DTYPE, C_FRAME, C_DIMS, C_DIMS_END, C_TYPES,
       C_TYPES_END, C_VALUES, C_VALUES_END, C_COUNT };

typedef struct {
    Text text;
    PyObject *kinds, *names, *functions, *said, *stacks; /* dicts of numbers */
    PyObject *unescape; /* from text in quotes to a str */
    PyObject *odd; /* list of the texts of events */
    PyObject *rows; /* a bytearray */
    Py_ssize_t count, room, seen;
    int64_t kind; /* of the last category */
    Span category;
} Scan;

/* Text. Each function returns where what it reads ends; NULL: it is no JSON. */

static inline Text white(Text at) {
    if (*at > ' ') return at;
    while (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t') at++;
    return at;
}

/* The next character that ends a string, escapes the next one, or may not stand in it. */
static inline Text special(Text at) {
#ifdef __SSE2__
    for (;; at += PADDING) {
        __m128i here = _mm_loadu_si128((const __m128i *)at);
        __m128i quote = _mm_cmpeq_epi8(here, _mm_set1_epi8('"')), escape = _mm_cmpeq_epi8(here, _mm_set1_epi8('\\'));
        __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(here, _mm_set1_epi8(0x1f)), here);
        unsigned found = (unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, escape), control));
        if (found) return at + __builtin_ctz(found);
    }
#else
    while ((unsigned char)*at >= 0x20 && *at != '"' && *at != '\\') at++;
    return at;
#endif
}

static inline Text string(Text at, Span *found) {
    if (*at != '"') return NULL;
    found->begin = ++at;
    for (;;) {
        at = special(at);
        if (*at == '"') break;
        if (*at != '\\' || at[1] == '\0') return NULL;
        at += 2;
    }
    found->end = at;
    return at + 1;
}

static inline Text digits(Text at) {
    if (*at < '0' || *at > '9') return NULL;
    while (*at >= '0' && *at <= '9') at++;
    return at;
}

static inline Text number(Text at) {
    if (*at == '-') at++;
    at = *at == '0' ? at + 1 : digits(at);
    if (at != NULL && *at == '.') at = digits(at + 1);
    if (at != NULL && (*at == 'e' || *at == 'E')) {
        at++;
        if (*at == '+' || *at == '-') at++;
        at = digits(at);
    }
    return at;
}

/* What stands for a value; numbers that are none are left out when msgspec reads, too. */
static Text word(Text at) {
    static const char *const WORDS_OF_JSON[] = {"null", "true", "false", "NaN", "Infinity", "-Infinity", "nan", "inf",
                                                "-inf"};
    for (size_t which = 0; which < sizeof WORDS_OF_JSON / sizeof *WORDS_OF_JSON; which++) {
        size_t length = strlen(WORDS_OF_JSON[which]);
        if (strncmp(at, WORDS_OF_JSON[which], length) == 0) return at + length;
    }
    return NULL;
}

static Text scalar(Text at) {
    Span ignored;
    if (*at == '"') return string(at, &ignored);
    if ((*at >= '0' && *at <= '9') || (*at == '-' && at[1] >= '0' && at[1] <= '9')) return number(at);
    return word(at);
}

static Text key(Text at, Span *found) {
    at = string(at, found);
    if (at == NULL) return NULL;
    at = white(at);
    return *at == ':' ? white(at + 1) : NULL;
}

/* Any value. */
static Text value(Text at) {
    uint64_t objects = 0; /* a bit for each level: whether it is an object */
    int depth = 0;
    Span ignored;
    for (;;) {
        if (*at == '{' || *at == '[') {
            int object = *at == '{';
            if (depth == DEEPEST) return NULL;
            objects = objects << 1 | (uint64_t)object;
            depth++;
            at = white(at + 1);
            if (*at != (object ? '}' : ']')) {
                if (object && (at = key(at, &ignored)) == NULL) return NULL;
                continue;
            }
        } else {
            at = scalar(at);
            if (at == NULL) return NULL;
            if (depth == 0) return at;
            at = white(at);
        }
        while (*at == (objects & 1 ? '}' : ']')) {
            objects >>= 1;
            at++;
            if (--depth == 0) return at;
            at = white(at);
        }
        if (*at != ',') return NULL;
        at = white(at + 1);
        if (objects & 1 && (at = key(at, &ignored)) == NULL) return NULL;
    }
}

/* Numbers */

/* Sign, digits without the point, and how many of them stand behind it. 0 where that is not all of the number. */
static int decimal(Span given, int *negative, uint64_t *mantissa, int *behind) {
    Text at = given.begin;
    int count = 0, point = 0;
    *negative = *at == '-';
    *mantissa = 0;
    *behind = 0;
    for (at += *negative; at < given.end; at++) {
        if (*at == '.' && !point) {
            point = 1;
            continue;
        }
        if (*at < '0' || *at > '9' || ++count > 19) return 0;
        *mantissa = *mantissa * 10 + (uint64_t)(*at - '0');
        *behind += point;
    }
    return count > 0;
}

/* The nearest double, as msgspec and Python read it. 0 where that takes more than this. */
static int nearest(Span given, double *found) {
    static const uint64_t POWERS[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000};
    int negative, behind;
    uint64_t mantissa;
    if (!decimal(given, &negative, &mantissa, &behind) || behind > 9) return 0;
    uint64_t power = POWERS[behind], whole = mantissa / power;
    if (mantissa < 1ull << 53) {
        *found = (double)mantissa / (double)power; /* both are exact, and so the quotient is the nearest one */
    } else if (behind == 0) {
        *found = (double)mantissa;
    } else if (whole >= 1ull << 31 && whole < 1ull << 52) {
        int below = 52; /* binary digits behind the point that a double of this size has */
        for (uint64_t left = whole; left > 1; left >>= 1) below--;
        uint64_t scaled = (mantissa % power) << below, steps = scaled / power, rest = scaled % power;
        steps += 2 * rest > power || (2 * rest == power && steps & 1);
        *found = (double)whole + ldexp((double)steps, -below);
    } else {
        return 0;
    }
    if (negative) *found = -*found;
    return 1;
}

static int integer(Span given, int64_t *found) {
    int negative, behind;
    uint64_t mantissa;
    if (!decimal(given, &negative, &mantissa, &behind) || behind || mantissa > INT64_MAX) return 0;
    *found = negative ? -(int64_t)mantissa : (int64_t)mantissa;
    return 1;
}

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

/* An integer of few digits, as nearly all of them are; NULL for any other value. */
static inline Text short_integer(Text at, int64_t *found) {
    int negative = *at == '-';
    Text begin = at += negative;
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++) value = value * 10 + (uint64_t)(*at - '0');
    if (at == begin || at - begin > 18 || (*begin == '0' && at - begin > 1)) return NULL;
    if (*at == '.' || *at == 'e' || *at == 'E') return NULL;
    *found = negative ? -(int64_t)value : (int64_t)value;
    return at;
}

static Text field(Text at, const Field *known, Event *event) {
    Span given = {at, NULL};
    if (known->kind == INTEGER) {
        Text end = short_integer(at, &event->integers[known->at]);
        if (end != NULL) return end;
    }
    if (known->kind == ARGS && *at == '{') {
        forget_args(event);
        return object(at, &args_fields, event);
    }
    Text end = given.end = value(at);
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
        at = known != NULL ? field(at, known, event) : value(at);
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

static int number_of(Scan *scan, PyObject *table, Span given, int64_t *found) {
    PyObject *name = str_of(scan, given);
    if (name == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) return -1;
        PyErr_Clear(); /* bytes that are no text: they are mended where msgspec reads */
        return 0;
    }
    PyObject *number = PyDict_GetItemWithError(table, name);
    Py_XINCREF(number);
    if (number == NULL && !PyErr_Occurred()) number = PyObject_GetItem(table, name); /* has a __missing__ */
    Py_DECREF(name);
    if (number == NULL) return -1;
    *found = PyLong_AsLongLong(number);
    Py_DECREF(number);
    return *found == -1 && PyErr_Occurred() ? -1 : 1;
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

static void put_span(Scan *scan, int64_t *row, Span given) {
    row[0] = given.begin != NULL ? given.begin - scan->text : 0;
    row[1] = given.begin != NULL ? given.end - scan->text : 0;
}

static int fill(Scan *scan, int64_t *row, const Event *event) {
    const int64_t *given = event->integers;
    const Span *words = event->words, *spans = event->spans;
    if (given[PID] == ABSENT || given[TID] == ABSENT || words[NAME].begin == NULL) return 0;
    int good = kind_of(scan, words[CATEGORY]);
    if (good != 1) return good;
    row[C_KIND] = scan->kind;
    PyObject *names = is(words[CATEGORY], "python_function") ? scan->functions : scan->names;
    if ((good = number_of(scan, names, words[NAME], &row[C_NAME])) != 1) return good;
    if ((good = optional(scan, scan->said, words[COLLECTIVE], &row[C_COLLECTIVE])) != 1) return good;
    if ((good = optional(scan, scan->said, words[DTYPE], &row[C_DTYPE])) != 1) return good;
    if ((good = optional(scan, scan->stacks, words[STACK], &row[C_FRAME])) != 1) return good;
    memcpy(&row[C_TS], &event->times[TS], 8);
    memcpy(&row[C_DUR], &event->times[DUR], 8);
    row[C_PID] = given[PID];
    row[C_TID] = given[TID];
    row[C_CORRELATION] = or_none(given[CORRELATION], ABSENT);
    row[C_EXTERNAL] = or_none(given[EXTERNAL], given[EXTERNAL_2021]);
    row[C_DEVICE] = given[DEVICE];
    row[C_STREAM] = given[STREAM];
    row[C_BYTES] = or_none(given[BYTES], given[SIZE]);
    row[C_INDEX] = or_none(given[INDEX], given[INDEX_2022]);
    row[C_ELEMENTS] = or_none(given[ELEMENTS], ABSENT);
    row[C_MEMBERS] = or_none(given[MEMBERS], ABSENT);
    row[C_PYTHON] = or_none(given[PYTHON], ABSENT);
    row[C_PYTHON_PARENT] = or_none(given[PYTHON_PARENT], ABSENT);
    put_span(scan, &row[C_DIMS], spans[DIMS].begin != NULL ? spans[DIMS] : spans[DIMS_2021]);
    put_span(scan, &row[C_TYPES], spans[TYPES]);
    put_span(scan, &row[C_VALUES], spans[VALUES]);
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
static int all(Scan *scan, Text end) {
    Text at = scan->text;
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
    if (!PyArg_ParseTuple(given, "SO!O!O!O!O!O:scan", &text, &PyDict_Type, &scan.kinds, &PyDict_Type, &scan.names,
                          &PyDict_Type, &scan.functions, &PyDict_Type, &scan.said, &PyDict_Type, &scan.stacks,
                          &scan.unescape))
        return NULL;
    Py_ssize_t length = PyBytes_GET_SIZE(text);
    char *padded = PyMem_Malloc((size_t)length + PADDING);
    if (padded == NULL) return PyErr_NoMemory();
    memcpy(padded, PyBytes_AS_STRING(text), (size_t)length);
    memset(padded + length, 0, PADDING);
    scan.text = padded;
    scan.odd = PyList_New(0);
    scan.rows = PyByteArray_FromStringAndSize(NULL, 0);
    int good = scan.odd == NULL || scan.rows == NULL ? -1 : all(&scan, padded + length);
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
     "scan(text, kinds, names, functions, said, stacks, unescape): rows, events seen, texts of the odd ones;\n"
     "None where the text is no array of events."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_scan", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__scan(void) {
    index_fields(&event_fields);
    index_fields(&args_fields);
    return PyModule_Create(&definition);
}
