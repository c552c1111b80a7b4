/* Time. */
#include "engine/base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

enum { NS_PER_MS = 1000000 };
static const int64_t ns_per_s = 1000000000;

double noc_clock_monotonic(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int64_t noc_clock_unix_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * ns_per_s + now.tv_nsec;
}

void noc_clock_utc(int64_t unix_ns, int with_milliseconds, char text[NOC_CLOCK_TEXT])
{
    int64_t ns = unix_ns % ns_per_s;
    time_t seconds = (time_t)(unix_ns / ns_per_s);
    struct tm day;

    if (ns < 0) {
        ns += ns_per_s;
        seconds--;
    }
    gmtime_r(&seconds, &day);
    size_t length = strftime(text, NOC_CLOCK_TEXT, "%Y-%m-%dT%H:%M:%S", &day);
    if (with_milliseconds)
        snprintf(text + length, NOC_CLOCK_TEXT - length, ".%03dZ", (int)(ns / NS_PER_MS));
    else
        snprintf(text + length, NOC_CLOCK_TEXT - length, "Z");
}

void noc_clock_sleep(double seconds)
{
    if (!(seconds > 0))
        return;

    struct timespec rest = {.tv_sec = (time_t)seconds};
    rest.tv_nsec = (long)((seconds - (double)rest.tv_sec) * 1e9);
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, &rest) == EINTR)
        ;
}
