#ifndef NOC_BASE_CLOCK_H
#define NOC_BASE_CLOCK_H

#include <stdint.h>

/* Seconds of a clock that never goes back. */
double noc_clock_monotonic(void);
/* Nanoseconds since 1970 UTC. */
int64_t noc_clock_unix_ns(void);

enum { NOC_CLOCK_TEXT = 32 };
/* "2026-11-24T02:03:04Z" (with milliseconds: "...04.567Z"). */
void noc_clock_utc(int64_t unix_ns, int with_milliseconds, char text[NOC_CLOCK_TEXT]);

/* Sleeps that long (0 or less: not at all). */
void noc_clock_sleep(double seconds);

#endif
