/* SHA-256 by libcrypto. A failure inside of libcrypto after create (it has none in practice) gives a digest
 * of zeros, which equals no real one. */
#include "engine/base/sha256.h"

#include "engine/base/memory.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdlib.h>

enum { DIGEST_BYTES = 32 };

struct noc_sha256 {
    EVP_MD_CTX *context;
    bool failed;
};

/* Every libcrypto has SHA-256; what else it says of a failure comes along. */
static noc_status fail_without_memory(noc_error *err)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    noc_fail(err, NOC_ENOMEMORY, "no memory for SHA-256 (libcrypto: %s)", reason ? reason : "no reason");
    ERR_clear_error();
    return NOC_ENOMEMORY;
}

noc_status noc_sha256_create(noc_sha256 **hash, noc_error *err)
{
    noc_sha256 *made = noc_alloc_zeroed(1, sizeof *made, err);

    if (!made)
        return NOC_ENOMEMORY;
    made->context = EVP_MD_CTX_new();
    if (!made->context || EVP_DigestInit_ex(made->context, EVP_sha256(), NULL) != 1) {
        noc_sha256_free(made);
        return fail_without_memory(err);
    }
    *hash = made;
    return NOC_OK;
}

void noc_sha256_add(noc_sha256 *hash, const void *data, size_t size)
{
    if (size > 0 && EVP_DigestUpdate(hash->context, data, size) != 1)
        hash->failed = true;
}

void noc_sha256_end(noc_sha256 *hash, char hex[NOC_SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};

    if (hash->failed || EVP_DigestFinal_ex(hash->context, digest, NULL) != 1)
        for (int i = 0; i < DIGEST_BYTES; i++)
            digest[i] = 0;
    for (int i = 0; i < DIGEST_BYTES; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[NOC_SHA256_HEX - 1] = '\0';
    noc_sha256_free(hash);
}

void noc_sha256_free(noc_sha256 *hash)
{
    if (!hash)
        return;
    EVP_MD_CTX_free(hash->context);
    free(hash);
}

noc_status noc_sha256_of(const void *data, size_t size, char hex[NOC_SHA256_HEX], noc_error *err)
{
    noc_sha256 *hash = NULL;
    noc_status status = noc_sha256_create(&hash, err);

    if (hash) {
        noc_sha256_add(hash, data, size);
        noc_sha256_end(hash, hex);
    }
    return status;
}
