/* JSON as text: where a value ends, and which number it is.
 *
 * NULs stand behind the text: no loop goes past them, since none takes one for a part of anything. Each function
 * returns where what it reads ends; NULL: it is no JSON.
 */
#ifndef PROF_TEXT_H
#define PROF_TEXT_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define PADDING 16 /* NULs behind the text, which is looked at so many characters at a time */
#define DEEPEST 64 /* arrays and objects within each other */

typedef const char *Text;

typedef struct {
    Text begin, end; /* of what stands between the quotes, or of a value as a whole; NULL: not said */
} Span;

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
static Text value_end(Text at) {
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

#endif
