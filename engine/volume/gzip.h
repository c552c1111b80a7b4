/* gzip data in memory, of one or several members. */
#ifndef NOC_VOLUME_GZIP_H
#define NOC_VOLUME_GZIP_H

#include "engine/base/error.h"

#include <stddef.h>

bool noc_gzip_is(const void *data, size_t size);

/* The first bytes, at most `capacity`, of what is packed; *have: as many as could be inflated. NOC_ENOMEMORY.
 */
noc_status noc_gzip_peek(const void *data, size_t size, void *out, size_t capacity, size_t *have,
                         noc_error *err);

/* False when deflate cannot have packed that many bytes into `size`. */
bool noc_gzip_may_hold(size_t size, size_t bytes);

/* Inflates members until at least `needed` bytes are there. out has room for `capacity` > needed bytes: a
 * member that goes beyond is NOC_ETOOLARGE; damaged or short data are NOC_EUNREADABLE. */
noc_status noc_gzip_inflate(const void *data, size_t size, void *out, size_t needed, size_t capacity,
                            noc_error *err);

/* One member, newly allocated, released by free(). */
noc_status noc_gzip_deflate(const void *data, size_t size, int level, void **packed, size_t *packed_size,
                            noc_error *err);

#endif
