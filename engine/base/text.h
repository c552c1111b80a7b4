/* A growing string for what is printed or stored as text (CSV, JSON, logs), and numbers out of text. */
#ifndef NOC_BASE_TEXT_H
#define NOC_BASE_TEXT_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

/* Zero-initialise; release by noc_text_free. When memory ends `failed` is set and later calls do nothing. */
typedef struct noc_text {
    char *data; /* always terminated once something was added, else NULL */
    size_t size;
    size_t capacity;
    bool failed;
} noc_text;

void noc_text_add(noc_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Quoted and escaped as a JSON string; as a CSV field (quoted only where needed). NULL adds null / nothing.
 */
void noc_text_add_json(noc_text *text, const char *value);
void noc_text_add_csv(noc_text *text, const char *value);
void noc_text_free(noc_text *text);

/* "1536MiB", "2GiB", "500000", "1.5GB" -> bytes. Whole text must be used. NOC_EUSAGE with a sentence. */
noc_status noc_parse_size(const char *text, size_t *bytes, noc_error *err);
/* The whole text as a finite number / integer within [low, high]. NOC_EUSAGE with a sentence. */
noc_status noc_parse_number(const char *text, double low, double high, double *value, noc_error *err);
noc_status noc_parse_integer(const char *text, int64_t low, int64_t high, int64_t *value, noc_error *err);

#endif
