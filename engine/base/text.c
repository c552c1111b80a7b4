/* A growing string, its JSON and CSV forms, and numbers read out of text. */
#include "engine/base/text.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FIRST_CAPACITY = 256 };

/* Room for `more` bytes and the end; false (and failed set) when memory ends. */
static bool reserve(noc_text *text, size_t more)
{
    if (text->failed)
        return false;
    if (more < text->capacity - text->size)
        return true;

    size_t need, capacity = text->capacity ? text->capacity : FIRST_CAPACITY;
    bool counted = !__builtin_add_overflow(text->size, more, &need) && need < SIZE_MAX / 4;
    while (counted && capacity <= need)
        capacity *= 2;
    char *data = counted ? realloc(text->data, capacity) : NULL;
    if (!data) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

static void add_bytes(noc_text *text, const char *bytes, size_t size)
{
    if (!reserve(text, size))
        return;
    memcpy(text->data + text->size, bytes, size);
    text->size += size;
    text->data[text->size] = '\0';
}

void noc_text_add(noc_text *text, const char *format, ...)
{
    va_list arguments, again;

    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0) {
        text->failed = true;
    } else if (reserve(text, (size_t)length)) {
        vsnprintf(text->data + text->size, (size_t)length + 1, format, again);
        text->size += (size_t)length;
    }
    va_end(again);
}

/* Length of the well-formed UTF-8 character at s, 0 when there is none. */
static size_t character_length(const unsigned char *s)
{
    size_t length = s[0] < 0x80   ? 1
                    : s[0] < 0xc2 ? 0
                    : s[0] < 0xe0 ? 2
                    : s[0] < 0xf0 ? 3
                    : s[0] < 0xf5 ? 4
                                  : 0;

    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool beyond = (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf4 && s[1] >= 0x90);
    return overlong || beyond ? 0 : length;
}

void noc_text_add_json(noc_text *text, const char *value)
{
    if (!value) {
        add_bytes(text, "null", 4);
        return;
    }
    add_bytes(text, "\"", 1);
    for (const unsigned char *s = (const unsigned char *)value; *s;) {
        size_t length = character_length(s);
        if (length == 0)
            add_bytes(text, "\\ufffd", 6); /* file names may hold bytes that are no UTF-8; JSON may not */
        else if (*s == '"' || *s == '\\')
            noc_text_add(text, "\\%c", *s);
        else if (*s == '\n')
            add_bytes(text, "\\n", 2);
        else if (*s == '\t')
            add_bytes(text, "\\t", 2);
        else if (*s < 0x20 || *s == 0x7f)
            noc_text_add(text, "\\u%04x", *s);
        else
            add_bytes(text, (const char *)s, length);
        s += length ? length : 1;
    }
    add_bytes(text, "\"", 1);
}

void noc_text_add_csv(noc_text *text, const char *value)
{
    if (!value)
        return;
    if (!value[strcspn(value, ",\"\r\n")]) {
        add_bytes(text, value, strlen(value));
        return;
    }
    add_bytes(text, "\"", 1);
    while (*value) {
        size_t plain = strcspn(value, "\"");
        add_bytes(text, value, plain);
        value += plain;
        if (*value == '"') {
            add_bytes(text, "\"\"", 2);
            value++;
        }
    }
    add_bytes(text, "\"", 1);
}

void noc_text_free(noc_text *text)
{
    if (!text)
        return;
    free(text->data);
    *text = (noc_text){0};
}

/* The factor of a unit; 0 when it is none. */
static double unit_factor(const char *unit)
{
    static const struct {
        const char *name;
        double factor;
    } units[] = {
        {"", 1},       {"B", 1},        {"K", 0x1p10},   {"KiB", 0x1p10}, {"kB", 1e3},
        {"M", 0x1p20}, {"MiB", 0x1p20}, {"MB", 1e6},     {"G", 0x1p30},   {"GiB", 0x1p30},
        {"GB", 1e9},   {"T", 0x1p40},   {"TiB", 0x1p40}, {"TB", 1e12},
    };

    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcasecmp(unit, units[i].name) == 0)
            return units[i].factor;
    return 0;
}

noc_status noc_parse_size(const char *text, size_t *bytes, noc_error *err)
{
    size_t digits = strspn(text, "0123456789."), whole = strspn(text, "0123456789");
    double factor = unit_factor(text + digits + strspn(text + digits, " "));
    char *end;

    if (whole == 0 || factor == 0)
        goto out;
    if (whole == digits && factor == 1) {
        errno = 0;
        unsigned long long exact = strtoull(text, &end, 10);
        if (errno || exact > PTRDIFF_MAX)
            return noc_fail(err, NOC_EUSAGE, "\"%s\" is too large a size", text);
        *bytes = (size_t)exact;
        return NOC_OK;
    }
    double value = strtod(text, &end) * factor;
    if (end != text + digits)
        goto out;
    if (!(value < 0x1p63))
        return noc_fail(err, NOC_EUSAGE, "\"%s\" is too large a size", text);
    *bytes = (size_t)(value + 0.5);
    return NOC_OK;
out:
    return noc_fail(err, NOC_EUSAGE, "\"%s\" is no size (as 500000, 1536MiB or 2GiB)", text);
}

noc_status noc_parse_number(const char *text, double low, double high, double *value, noc_error *err)
{
    char *end;

    /* strtod would take spaces, hexadecimal numbers, infinities and nan as well. */
    bool plain = text[0] && !text[strspn(text, "0123456789+-.eE")];
    double number = plain ? strtod(text, &end) : 0;
    if (!plain || end == text || *end || !isfinite(number))
        return noc_fail(err, NOC_EUSAGE, "\"%s\" is no number", text);
    if (number < low || number > high)
        return noc_fail(err, NOC_EUSAGE, "%s is not within %.15g and %.15g", text, low, high);
    *value = number;
    return NOC_OK;
}

noc_status noc_parse_integer(const char *text, int64_t low, int64_t high, int64_t *value, noc_error *err)
{
    char *end;

    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (end == text || *end || isspace((unsigned char)text[0]))
        return noc_fail(err, NOC_EUSAGE, "\"%s\" is no integer", text);
    if (errno || number < low || number > high)
        return noc_fail(err, NOC_EUSAGE, "%s is not within %lld and %lld", text, (long long)low,
                        (long long)high);
    *value = number;
    return NOC_OK;
}
