/* The bytes of a NIfTI file, gzipped or not. Whole files are inflated by libdeflate; prefixes, and files that go on behind their voxels, by zlib, which can stop in the middle. */
#include "engine/volume/nifti_header.h"

#include <libdeflate.h>
#include <limits.h>
#include <string.h>
#include <zlib.h>

bool nifti_is_gzip(const noc_mapping *file)
{
    return file->size >= 2 && file->data[0] == 0x1f && file->data[1] == 0x8b;
}

static unsigned at_most_int(size_t size)
{
    return size > INT_MAX ? INT_MAX : (unsigned)size;
}

/* Gives the stream its next piece of input and room; zlib counts both in ints. */
static void refill(z_stream *z, const noc_mapping *file, size_t *given, size_t wanted, size_t *roomy)
{
    if (z->avail_in == 0) {
        z->next_in = (unsigned char *)file->data + *given;
        z->avail_in = at_most_int(file->size - *given);
        *given += z->avail_in;
    }
    if (z->avail_out == 0) {
        z->avail_out = at_most_int(wanted - *roomy);
        *roomy += z->avail_out;
    }
}

/* Inflates up to `wanted` bytes over member borders. */
static noc_status inflate_stream(const char *path, const noc_mapping *file, unsigned char *out, size_t wanted, size_t *have,
                                 noc_error *err)
{
    z_stream z = {.next_out = out};
    size_t given = 0, roomy = 0;
    int code = inflateInit2(&z, 16 + MAX_WBITS);
    if (code != Z_OK)
        return noc_fail(err, NOC_ENOMEMORY, "%s: no memory to inflate it", path);
    for (;;) {
        refill(&z, file, &given, wanted, &roomy);
        if (z.avail_out == 0 || (z.avail_in == 0 && given == file->size))
            break;
        code = inflate(&z, Z_NO_FLUSH);
        if (code == Z_STREAM_END) {
            bool has_more = z.avail_in >= 2 && z.next_in[0] == 0x1f && z.next_in[1] == 0x8b;
            if (!has_more)
                break;
            inflateReset(&z);
        } else if (code != Z_OK && code != Z_BUF_ERROR) {
            break;
        }
    }
    *have = (size_t)(z.next_out - out);
    inflateEnd(&z);
    if (code == Z_DATA_ERROR || code == Z_NEED_DICT)
        return noc_fail(err, NOC_EUNREADABLE, "%s: its gzip data is damaged", path);
    return code == Z_MEM_ERROR ? noc_fail(err, NOC_ENOMEMORY, "%s: no memory to inflate it", path) : NOC_OK;
}

noc_status nifti_read_prefix(const char *path, const noc_mapping *file, unsigned char *bytes, size_t wanted, size_t *have,
                             noc_error *err)
{
    if (file->size == 0)
        return noc_fail(err, NOC_EUNREADABLE, "%s: the file is empty", path);
    if (nifti_is_gzip(file))
        return inflate_stream(path, file, bytes, wanted, have, err);
    *have = file->size < wanted ? file->size : wanted;
    memcpy(bytes, file->data, *have);
    return NOC_OK;
}

static noc_status fail_short(const char *path, size_t wanted, size_t have, noc_error *err)
{
    return noc_fail(err, NOC_EUNREADABLE, "%s: is cut short: %zu bytes of %zu are there", path, have, wanted);
}

/* All members, one after another, as far as there is room. */
static noc_status inflate_whole(const char *path, const noc_mapping *file, unsigned char *out, size_t wanted, noc_error *err)
{
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    size_t at = 0, have = 0, used, made;
    enum libdeflate_result result = LIBDEFLATE_SUCCESS;
    if (!d)
        return noc_fail(err, NOC_ENOMEMORY, "%s: no memory to inflate it", path);
    while (have < wanted && file->size - at >= 2 && file->data[at] == 0x1f && file->data[at + 1] == 0x8b) {
        result = libdeflate_gzip_decompress_ex(d, file->data + at, file->size - at, out + have, wanted - have, &used, &made);
        if (result != LIBDEFLATE_SUCCESS)
            break;
        at += used;
        have += made;
    }
    libdeflate_free_decompressor(d);
    if (result == LIBDEFLATE_BAD_DATA)
        return noc_fail(err, NOC_EUNREADABLE, "%s: its gzip data is cut short or damaged", path);
    if (result == LIBDEFLATE_INSUFFICIENT_SPACE) { /* something follows the voxels, perhaps without end */
        noc_status status = inflate_stream(path, file, out, wanted, &have, err);
        if (status != NOC_OK)
            return status;
    }
    return have < wanted ? fail_short(path, wanted, have, err) : NOC_OK;
}

noc_status nifti_read_bytes(const char *path, const noc_mapping *file, size_t offset, size_t bytes, void *memory,
                            noc_error *err)
{
    if (!nifti_is_gzip(file)) {
        if (file->size < offset || file->size - offset < bytes)
            return fail_short(path, offset + bytes, file->size, err);
        memcpy(memory, file->data + offset, bytes);
        return NOC_OK;
    }
    noc_status status = inflate_whole(path, file, memory, offset + bytes, err);
    if (status == NOC_OK)
        memmove(memory, (unsigned char *)memory + offset, bytes);
    return status;
}
