/* When --until HH:MM comes: local time, its next occurrence. */
#ifndef NOC_DEADLINE_H
#define NOC_DEADLINE_H

#include "engine/base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* That text is HH:MM, or H:MM. */
bool noc_deadline_is_time(const char *text);
/* *unix_s is later than now, 0 when text is NULL. NOC_EUSAGE when it is no time of day. */
noc_status noc_deadline_parse(const char *text, time_t now, int64_t *unix_s, noc_error *err);

#endif
