/* Reading JSON (jansson) where a failure for want of memory must not pass for a bad file. */
#ifndef NOC_BASE_JSON_H
#define NOC_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>

/* As json_loadb. NULL: *is_memory says whether memory ended (then nothing is said of the text), else *at
 * tells what is wrong and where. */
json_t *noc_json_load(const char *text, size_t size, size_t flags, json_error_t *at, bool *is_memory);

#endif
