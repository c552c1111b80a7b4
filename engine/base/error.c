/* Statuses, their texts and exit codes, and the sentences of failures. */
#include "engine/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct entry {
    const char *name;
    int exit_code;
} entry;

static const entry entries[] = {
#define ENTRY(name, text, code) [NOC_##name] = {text, code},
    NOC_STATUS_MAP(ENTRY)
#undef ENTRY
};

enum { STATUSES = sizeof entries / sizeof entries[0] };

/* The length of the longest prefix of text, at most size bytes, that does not end inside of a character. */
static size_t whole_characters(const char *text, size_t size)
{
    size_t start = size;

    while (start > 0 && ((unsigned char)text[start - 1] & 0xc0) == 0x80)
        start--;
    if (start == 0)
        return size;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t need = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    return size - (start - 1) < need ? start - 1 : size;
}

/* Formats into text; a sentence that does not fit ends at a whole character. */
static void format_sentence(char text[NOC_ERROR_TEXT], const char *format, va_list arguments)
{
    int length = vsnprintf(text, NOC_ERROR_TEXT, format, arguments);

    if (length < 0)
        text[0] = '\0';
    else if (length >= NOC_ERROR_TEXT)
        text[whole_characters(text, NOC_ERROR_TEXT - 1)] = '\0';
}

noc_status(noc_fail)(noc_error *err, noc_status status, const char *format, ...)
{
    if (!err)
        return status;

    /* The arguments may point into err->text. */
    char text[NOC_ERROR_TEXT];
    va_list arguments;
    va_start(arguments, format);
    format_sentence(text, format, arguments);
    va_end(arguments);
    memcpy(err->text, text, sizeof text);
    err->status = status;
    return status;
}

noc_status(noc_within)(noc_error *err, noc_status status, const char *format, ...)
{
    if (!err)
        return status;

    char prefix[NOC_ERROR_TEXT], text[2 * NOC_ERROR_TEXT + 2];
    va_list arguments;
    va_start(arguments, format);
    format_sentence(prefix, format, arguments);
    va_end(arguments);
    size_t length = (size_t)snprintf(text, sizeof text, "%s: %s", prefix, err->text);
    if (length >= NOC_ERROR_TEXT)
        length = whole_characters(text, NOC_ERROR_TEXT - 1);
    memcpy(err->text, text, length);
    err->text[length] = '\0';
    return status;
}

static bool is_known(noc_status status)
{
    return (int)status >= 0 && (int)status < STATUSES;
}

const char *noc_status_name(noc_status status)
{
    return is_known(status) ? entries[status].name : "internal";
}

int noc_status_exit(noc_status status)
{
    return is_known(status) ? entries[status].exit_code : entries[NOC_EINTERNAL].exit_code;
}

bool noc_status_from_name(const char *name, noc_status *status)
{
    for (int i = 0; name && i < STATUSES; i++) {
        if (strcmp(entries[i].name, name) == 0) {
            *status = (noc_status)i;
            return true;
        }
    }
    return false;
}

bool noc_status_is_retryable(noc_status status)
{
    switch (status) {
    case NOC_EDEVICE:
    case NOC_ENOMEMORY:
    case NOC_ETIMEOUT:
    case NOC_ECRASH:
    case NOC_EINTERNAL:
        return true;
    default:
        return false;
    }
}
