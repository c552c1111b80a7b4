/* SHA-256 (libcrypto). */
#ifndef NOC_BASE_SHA256_H
#define NOC_BASE_SHA256_H

#include "engine/base/error.h"

#include <stddef.h>

enum { NOC_SHA256_HEX = 65 }; /* 64 hexadecimal digits and the end */

typedef struct noc_sha256 noc_sha256;

noc_status noc_sha256_create(noc_sha256 **hash, noc_error *err);
void noc_sha256_add(noc_sha256 *hash, const void *data, size_t size);
/* Writes the digest and frees the hash. */
void noc_sha256_end(noc_sha256 *hash, char hex[NOC_SHA256_HEX]);
void noc_sha256_free(noc_sha256 *hash); /* without a digest; NULL is fine */

noc_status noc_sha256_of(const void *data, size_t size, char hex[NOC_SHA256_HEX], noc_error *err);

#endif
