#include "pipeline/deadline.h"

#include <string.h>

/* The number of so many digits at *text, below limit; moves behind it. */
static bool read_number(const char **text, size_t digits, int limit, int *value)
{
    if (strspn(*text, "0123456789") != digits)
        return false;
    for (*value = 0; digits > 0; digits--)
        *value = *value * 10 + *(*text)++ - '0';
    return *value < limit;
}

static bool read_time(const char *text, int *hour, int *minute)
{
    bool is_hour = read_number(&text, text[0] && text[1] == ':' ? 1 : 2, 24, hour);
    return is_hour && *text++ == ':' && read_number(&text, 2, 60, minute) && *text == '\0';
}

bool noc_deadline_is_time(const char *text)
{
    int hour, minute;
    return read_time(text, &hour, &minute);
}

noc_status noc_deadline_parse(const char *text, time_t now, int64_t *unix_s, noc_error *err)
{
    int hour, minute;
    struct tm local;
    *unix_s = 0;
    if (!text)
        return NOC_OK;
    if (!read_time(text, &hour, &minute))
        return noc_fail(err, NOC_EUSAGE, "--until %s: a time of day is wanted, HH:MM, as in 06:00", text);
    localtime_r(&now, &local);
    const int today = local.tm_mday;
    for (int day = 0;; day++) { /* a clock that is put back may need a second look */
        local.tm_mday = today + day;
        local.tm_hour = hour;
        local.tm_min = minute;
        local.tm_sec = 0;
        local.tm_isdst = -1;
        struct tm at = local;
        *unix_s = (int64_t)mktime(&at);
        if (*unix_s > (int64_t)now)
            return NOC_OK;
    }
}
