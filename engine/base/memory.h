/* Checked sizes, aligned memory, and what memory this process may use. */
#ifndef NOC_BASE_MEMORY_H
#define NOC_BASE_MEMORY_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

/* False on overflow; *out is then untouched. */
bool noc_size_mul(size_t a, size_t b, size_t *out);
bool noc_size_add(size_t a, size_t b, size_t *out);
/* SIZE_MAX on overflow: for sizes that are compared or allocated, where the largest is refused. */
size_t noc_size_product(size_t a, size_t b);
size_t noc_size_sum(size_t a, size_t b);

/* count*size bytes aligned to 64, released by free(). NULL with NOC_ENOMEMORY in err on overflow or
 * when there is none. count or size 0 gives a valid pointer. */
void *noc_alloc(size_t count, size_t size, noc_error *err);
void *noc_alloc_zeroed(size_t count, size_t size, noc_error *err);

/* A copy of text, released by free(). */
char *noc_strdup(const char *text, noc_error *err);

/* Bytes this machine's user may use: the smaller of RAM and the cgroup's (v1 or v2) limit. */
size_t noc_memory_limit(void);
/* Resident bytes of this process, now and at its highest (VmRSS, VmHWM). 0 if unknown. */
size_t noc_memory_resident(void);
size_t noc_memory_peak(void);

#endif
