/* Reading NIfTI files. What always holds: sizes are known and checked against the limit before anything of
 * their size is allocated, one copy of the voxels exists, and neither the compressed nor the plain file stays
 * resident. */
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/base/sha256.h"
#include "engine/volume/gzip.h"
#include "engine/volume/nifti_header.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    SPARE_BYTES = 65536,   /* what a compressed file may hold after its voxels */
    STRIDE_BYTES = 8 << 20 /* a mapped file is let go in pieces of that size */
};

static const char *const endings[] = {".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"};
enum { FIRST_HEADER = 2, FIRST_IMAGE = 4, ENDING_COUNT = 6 };

/* Index in endings, -1 for none; *stem_length is the length without it. */
static int find_ending(const char *name, size_t *stem_length)
{
    const size_t length = strlen(name);

    for (int n = 0; n < ENDING_COUNT; n++) {
        const size_t tail = strlen(endings[n]);
        if (length < tail || strcmp(name + length - tail, endings[n]) != 0)
            continue;
        *stem_length = length - tail;
        return n;
    }
    return -1;
}

bool noc_nifti_is_name(const char *name, size_t *stem_length)
{
    size_t length;

    if (find_ending(name, &length) < 0)
        return false;
    if (stem_length)
        *stem_length = length;
    return true;
}

bool noc_nifti_is_image_name(const char *name, size_t *stem_length)
{
    size_t length;

    return name[0] != '.' && find_ending(name, &length) < FIRST_IMAGE && noc_nifti_is_name(name, stem_length);
}

/* The files of an image: equal for .nii. Both newly allocated. */
typedef struct file_names {
    char *header;
    char *image;
    bool is_pair;
} file_names;

static void free_names(file_names *names)
{
    free(names->header);
    free(names->image);
}

/* stem with the ending whose file exists: the one compressed as the given name is, else the other; the former
 * when neither does. NULL when memory ends. */
static char *find_partner(const char *path, size_t stem_length, int first_ending, bool is_compressed,
                          noc_error *err)
{
    char *name = noc_alloc(stem_length + 8, 1, err);

    if (!name)
        return NULL;
    memcpy(name, path, stem_length);
    for (int n = 0; n < 2; n++) {
        strcpy(name + stem_length, endings[first_ending + (is_compressed != (n == 1))]);
        if (access(name, F_OK) == 0)
            return name;
    }
    strcpy(name + stem_length, endings[first_ending + is_compressed]);
    return name;
}

static noc_status find_names(const char *path, file_names *names, noc_error *err)
{
    size_t stem_length;
    const int ending = find_ending(path, &stem_length);
    const bool is_compressed = ending % 2 == 1;

    *names = (file_names){.is_pair = ending >= FIRST_HEADER};
    names->header = ending >= FIRST_IMAGE ? find_partner(path, stem_length, FIRST_HEADER, is_compressed, err)
                                          : noc_strdup(path, err);
    names->image = ending >= FIRST_HEADER && ending < FIRST_IMAGE
                       ? find_partner(path, stem_length, FIRST_IMAGE, is_compressed, err)
                       : noc_strdup(path, err);
    if (names->header && names->image)
        return NOC_OK;
    free_names(names);
    return NOC_ENOMEMORY;
}

/* A file that cannot be opened is a scan that cannot be read. */
static noc_status map_file(const char *path, noc_mapping *file, noc_error *err)
{
    noc_error why;
    noc_status status = noc_file_map(path, file, &why);

    return status == NOC_OK
               ? NOC_OK
               : noc_fail(err, status == NOC_ENOINPUT ? NOC_EUNREADABLE : status, "%s", why.text);
}

/* Layout of a mapped header file. */
static noc_status decode(const file_names *names, const noc_mapping *file, const noc_nifti_options *options,
                         noc_nifti_layout *layout, noc_error *err)
{
    unsigned char bytes[NOC_NIFTI2_BYTES];
    size_t have = file->size < sizeof bytes ? file->size : sizeof bytes;
    noc_status status = NOC_OK;

    if (noc_gzip_is(file->data, file->size)) {
        status = noc_gzip_peek(file->data, file->size, bytes, sizeof bytes, &have, err);
        if (status == NOC_OK && have < NOC_NIFTI1_BYTES)
            status = noc_fail(err, NOC_EUNREADABLE,
                              "the gzip data are damaged or cut short after %zu bytes, a NIfTI header has %d",
                              have, NOC_NIFTI1_BYTES);
    } else if (have > 0) {
        memcpy(bytes, file->data, have);
    }
    if (status == NOC_OK)
        status = noc_nifti_decode(bytes, have, options, layout, err);
    if (status == NOC_OK && layout->is_single_file == names->is_pair)
        status = noc_fail(err, NOC_EUNREADABLE, "the header is one of %s, its name says otherwise",
                          names->is_pair ? "a single file (n+)" : "a pair of files (ni)");
    return status == NOC_OK ? NOC_OK : noc_within(err, status, "%s", names->header);
}

/* Voxels of a plain image may begin with gzip's two bytes: there the name decides, elsewhere the content. */
static bool is_compressed_image(const file_names *names, const noc_mapping *file)
{
    const size_t length = strlen(names->image);

    if (names->is_pair)
        return strcmp(names->image + length - 3, ".gz") == 0;
    return noc_gzip_is(file->data, file->size);
}

/* A missing image of a pair is found when it is read. */
static size_t resident_bytes(const file_names *names, const noc_mapping *file, size_t voxel_bytes)
{
    struct stat info;

    if (!is_compressed_image(names, file))
        return voxel_bytes < STRIDE_BYTES ? voxel_bytes : STRIDE_BYTES;
    if (!names->is_pair)
        return file->size;
    return stat(names->image, &info) == 0 ? (size_t)info.st_size : 0;
}

noc_status noc_nifti_read_header(const char *path, const noc_nifti_options *options, noc_nifti_header *header,
                                 noc_error *err)
{
    const noc_nifti_options defaults = {0};
    noc_mapping file = {0};
    noc_nifti_layout layout;
    file_names names;
    noc_status status = find_names(path, &names, err);

    if (status != NOC_OK)
        return status;
    status = map_file(names.header, &file, err);
    if (status == NOC_OK)
        status = decode(&names, &file, options ? options : &defaults, &layout, err);
    if (status == NOC_OK) {
        *header = layout.header;
        header->file_bytes = resident_bytes(&names, &file, header->voxel_bytes);
    }
    noc_file_unmap(&file);
    free_names(&names);
    return status;
}

/* Lets a stretch of a mapped file that was used leave this process. */
static void let_go(const unsigned char *data, size_t size)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t lead = (page - (uintptr_t)data % page) % page;

    if (size >= lead + page)
        madvise((void *)(data + lead), (size - lead) / page * page, MADV_DONTNEED);
}

static void add_to_hash(noc_sha256 *hash, const noc_mapping *file, bool is_kept)
{
    for (size_t at = 0; at < file->size; at += STRIDE_BYTES) {
        const size_t size = file->size - at < STRIDE_BYTES ? file->size - at : STRIDE_BYTES;
        noc_sha256_add(hash, file->data + at, size);
        if (!is_kept)
            let_go(file->data + at, size);
    }
}

static noc_status hash_files(const noc_mapping *header, const noc_mapping *image, bool is_pair,
                             bool is_compressed, char hex[NOC_SHA256_HEX], noc_error *err)
{
    noc_sha256 *hash = NULL;
    const noc_status status = noc_sha256_create(&hash, err);

    if (status != NOC_OK)
        return status;
    add_to_hash(hash, header, is_pair || is_compressed);
    if (is_pair)
        add_to_hash(hash, image, is_compressed);
    noc_sha256_end(hash, hex);
    return NOC_OK;
}

static noc_status inflate_voxels(const noc_mapping *file, size_t offset, size_t bytes, unsigned char **voxels,
                                 noc_error *err)
{
    unsigned char *buffer = NULL;

    if (!noc_gzip_may_hold(file->size, offset + bytes))
        return noc_fail(err, NOC_EUNREADABLE,
                        "%zu bytes of gzip data cannot hold the %zu bytes that the header declares",
                        file->size, offset + bytes);
    buffer = noc_alloc(offset + bytes + SPARE_BYTES, 1, err);
    if (!buffer)
        return NOC_ENOMEMORY;
    const noc_status status =
        noc_gzip_inflate(file->data, file->size, buffer, offset + bytes, offset + bytes + SPARE_BYTES, err);
    if (status != NOC_OK) {
        free(buffer);
        return status;
    }
    memmove(buffer, buffer + offset, bytes);
    *voxels = buffer;
    return NOC_OK;
}

static noc_status copy_voxels(const noc_mapping *file, size_t offset, size_t bytes, unsigned char **voxels,
                              noc_error *err)
{
    if (file->size < offset || file->size - offset < bytes)
        return noc_fail(err, NOC_EUNREADABLE, "cut short: %zu bytes, the header declares %zu", file->size,
                        offset + bytes);
    unsigned char *buffer = noc_alloc(bytes, 1, err);
    if (!buffer)
        return NOC_ENOMEMORY;
    for (size_t at = 0; at < bytes; at += STRIDE_BYTES) {
        const size_t size = bytes - at < STRIDE_BYTES ? bytes - at : STRIDE_BYTES;
        memcpy(buffer + at, file->data + offset + at, size);
        let_go(file->data + offset + at, size);
    }
    *voxels = buffer;
    return NOC_OK;
}

static void swap_voxels(void *voxels, size_t bytes, size_t size)
{
    const size_t count = bytes / size;

    if (size == 2)
        for (size_t n = 0; n < count; n++)
            ((uint16_t *)voxels)[n] = __builtin_bswap16(((uint16_t *)voxels)[n]);
    else if (size == 4)
        for (size_t n = 0; n < count; n++)
            ((uint32_t *)voxels)[n] = __builtin_bswap32(((uint32_t *)voxels)[n]);
    else if (size == 8)
        for (size_t n = 0; n < count; n++)
            ((uint64_t *)voxels)[n] = __builtin_bswap64(((uint64_t *)voxels)[n]);
}

/* Voxels of a file that is already mapped, in this machine's byte order. */
static noc_status take_voxels(const char *path, const noc_mapping *file, bool is_compressed,
                              const noc_nifti_layout *layout, noc_image *image, noc_error *err)
{
    const size_t bytes = layout->header.voxel_bytes;
    unsigned char *voxels = NULL;
    const noc_status status = is_compressed ? inflate_voxels(file, layout->offset, bytes, &voxels, err)
                                            : copy_voxels(file, layout->offset, bytes, &voxels, err);

    if (status != NOC_OK)
        return noc_within(err, status, "%s", path);
    if (layout->is_swapped)
        swap_voxels(voxels, bytes, noc_voxel_size(layout->header.type));
    image->grid = layout->header.grid;
    image->channels = layout->header.channels;
    image->type = layout->header.type;
    image->slope = layout->slope;
    image->inter = layout->inter;
    image->voxels = voxels;
    image->bytes = bytes;
    return NOC_OK;
}

noc_status noc_nifti_read(const char *path, const noc_nifti_options *options, noc_image *image,
                          noc_error *err)
{
    const noc_nifti_options defaults = {0};
    noc_mapping header = {0}, other = {0};
    noc_nifti_layout layout;
    file_names names;

    *image = (noc_image){0};
    noc_status status = find_names(path, &names, err);
    if (status != NOC_OK)
        return status;
    options = options ? options : &defaults;
    if ((status = map_file(names.header, &header, err)) != NOC_OK ||
        (status = decode(&names, &header, options, &layout, err)) != NOC_OK ||
        (names.is_pair && (status = map_file(names.image, &other, err)) != NOC_OK))
        goto out;
    const noc_mapping *file = names.is_pair ? &other : &header;
    const bool is_compressed = is_compressed_image(&names, file);
    if (options->with_sha256 &&
        (status = hash_files(&header, &other, names.is_pair, is_compressed, image->sha256, err)) != NOC_OK)
        goto out;
    status = take_voxels(names.image, file, is_compressed, &layout, image, err);
out:
    if (status != NOC_OK)
        noc_image_clear(image);
    noc_file_unmap(&header);
    noc_file_unmap(&other);
    free_names(&names);
    return status;
}
