/* gzip: whole members by libdeflate (two to three times as fast), first bytes by zlib (libdeflate cannot stop
 * early). What always holds: nothing is written beyond the room that the caller gave. */
#include "engine/volume/gzip.h"

#include "engine/base/memory.h"

#include <libdeflate.h>
#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

bool noc_gzip_is(const void *data, size_t size)
{
    const unsigned char *bytes = data;

    return size >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b;
}

noc_status noc_gzip_peek(const void *data, size_t size, void *out, size_t capacity, size_t *have,
                         noc_error *err)
{
    z_stream stream = {
        .next_in = (Bytef *)data, /* zlib does not write there */
        .avail_in = size < UINT_MAX ? (uInt)size : UINT_MAX,
        .next_out = out,
        .avail_out = capacity < UINT_MAX ? (uInt)capacity : UINT_MAX,
    };
    const uInt room = stream.avail_out;

    int code = inflateInit2(&stream, 15 + 16);
    while (code == Z_OK && stream.avail_out > 0) {
        code = inflate(&stream, Z_SYNC_FLUSH);
        if (code == Z_STREAM_END && noc_gzip_is(stream.next_in, stream.avail_in))
            code = inflateReset(&stream);
    }
    inflateEnd(&stream);
    if (code == Z_MEM_ERROR)
        return noc_fail(err, NOC_ENOMEMORY, "no memory to inflate");
    *have = room - stream.avail_out;
    return NOC_OK;
}

bool noc_gzip_may_hold(size_t size, size_t bytes)
{
    return bytes / 1032 <= size; /* the most that deflate can do */
}

static noc_status fail_inflate(enum libdeflate_result code, size_t have, size_t needed, noc_error *err)
{
    if (code == LIBDEFLATE_INSUFFICIENT_SPACE)
        return noc_fail(err, NOC_ETOOLARGE,
                        "the gzip data go on beyond the %zu bytes that the header declares", needed);
    if (have > 0)
        return noc_fail(err, NOC_EUNREADABLE, "the gzip data are damaged or cut short after %zu of %zu bytes",
                        have, needed);
    return noc_fail(err, NOC_EUNREADABLE, "the gzip data are damaged or cut short");
}

noc_status noc_gzip_inflate(const void *data, size_t size, void *out, size_t needed, size_t capacity,
                            noc_error *err)
{
    const unsigned char *in = data;
    unsigned char *to = out;
    size_t have = 0;
    enum libdeflate_result code = LIBDEFLATE_SUCCESS;
    struct libdeflate_decompressor *inflater = libdeflate_alloc_decompressor();

    if (!inflater)
        return noc_fail(err, NOC_ENOMEMORY, "no memory to inflate");
    while (have < needed && code == LIBDEFLATE_SUCCESS) {
        size_t used = 0, made = 0;
        code = noc_gzip_is(in, size) ? libdeflate_gzip_decompress_ex(inflater, in, size, to + have,
                                                                     capacity - have, &used, &made)
                                     : LIBDEFLATE_BAD_DATA;
        if (code == LIBDEFLATE_SUCCESS) {
            in += used;
            size -= used;
            have += made;
        }
    }
    libdeflate_free_decompressor(inflater);
    return have >= needed ? NOC_OK : fail_inflate(code, have, needed, err);
}

noc_status noc_gzip_deflate(const void *data, size_t size, int level, void **packed, size_t *packed_size,
                            noc_error *err)
{
    noc_status status = NOC_OK;
    struct libdeflate_compressor *deflater = libdeflate_alloc_compressor(level);
    const size_t room = deflater ? libdeflate_gzip_compress_bound(deflater, size) : 0;
    void *bytes = deflater ? noc_alloc(room, 1, NULL) : NULL;

    if (!bytes) {
        status = noc_fail(err, NOC_ENOMEMORY, "no memory to deflate %zu bytes", size);
        goto out;
    }
    const size_t made = libdeflate_gzip_compress(deflater, data, size, bytes, room);
    if (made == 0) {
        status = noc_fail(err, NOC_EINTERNAL, "%zu bytes could not be deflated", size);
        goto out;
    }
    *packed = bytes;
    *packed_size = made;
    bytes = NULL;
out:
    free(bytes);
    libdeflate_free_compressor(deflater);
    return status;
}
