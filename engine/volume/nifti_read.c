/* Reading: map, parse the header, learn exactly how many bytes there must be, then allocate and inflate just these. */
#include "engine/base/memory.h"
#include "engine/base/sha256.h"
#include "engine/volume/nifti_header.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool noc_nifti_is_name(const char *name, size_t *stem_length)
{
    static const char *const ends[] = {".nii.gz", ".nii", ".hdr.gz", ".img.gz", ".hdr", ".img"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t end = strlen(ends[i]);
        if (length >= end && strcasecmp(name + length - end, ends[i]) == 0) {
            if (stem_length)
                *stem_length = length - end;
            return true;
        }
    }
    return false;
}

/* The other file of a pair: "x.hdr" <-> "x.img", with or without .gz, whichever exists (if none, the plain name). */
static char *partner(const char *path, const char *from, const char *to, noc_error *err)
{
    size_t stem;
    noc_mapping probe;
    if (!noc_nifti_is_name(path, &stem) || strncasecmp(path + stem, from, 4) != 0) {
        noc_fail(err, NOC_EUNREADABLE, "%s: is one file of a pair, but not named %s", path, from);
        return NULL;
    }
    char *other = noc_alloc(stem + 16, 1, err);
    if (!other)
        return NULL;
    memcpy(other, path, stem);
    strcpy(other + stem, to);
    if (noc_file_map(other, &probe, NULL) != NOC_OK)
        strcpy(other + stem + 4, ".gz");
    else
        noc_file_unmap(&probe);
    return other;
}

static bool is_image_of_pair(const char *path)
{
    size_t stem;
    return noc_nifti_is_name(path, &stem) && strncasecmp(path + stem, ".img", 4) == 0;
}

/* The files behind a name: header, and voxels when they lie apart. */
typedef struct files {
    char *header_path, *image_path; /* image_path NULL: in the header's file */
    noc_mapping header, image;
} files;

static void files_close(files *f)
{
    noc_file_unmap(&f->header);
    noc_file_unmap(&f->image);
    free(f->header_path);
    free(f->image_path);
    memset(f, 0, sizeof *f);
}

static noc_status open_header(const char *path, const noc_nifti_options *options, files *f, nifti_info *info,
                              noc_error *err)
{
    unsigned char bytes[NIFTI_HEADER_BYTES];
    size_t have = 0;
    f->header_path = is_image_of_pair(path) ? partner(path, ".img", ".hdr", err) : noc_strdup(path, err);
    if (!f->header_path)
        return err ? err->status : NOC_EUNREADABLE;
    noc_status status = noc_file_map(f->header_path, &f->header, err);
    if (status == NOC_OK)
        status = nifti_read_prefix(f->header_path, &f->header, bytes, sizeof bytes, &have, err);
    if (status == NOC_OK)
        status = nifti_parse(f->header_path, bytes, have, options, info, err);
    return status;
}

noc_status noc_nifti_read_header(const char *path, const noc_nifti_options *options, noc_nifti_header *header,
                                 noc_error *err)
{
    files f = {0};
    nifti_info info;
    noc_error why = {.status = NOC_OK};
    noc_status status = open_header(path, options, &f, &info, &why);
    files_close(&f);
    if (status == NOC_OK)
        *header = info.header;
    else if (err)
        *err = why;
    return status;
}

static void swap_voxels(void *voxels, size_t size, size_t count)
{
    if (size == 2)
        for (uint16_t *at = voxels; count--; at++)
            *at = __builtin_bswap16(*at);
    else if (size == 4)
        for (uint32_t *at = voxels; count--; at++)
            *at = __builtin_bswap32(*at);
    else if (size == 8)
        for (uint64_t *at = voxels; count--; at++)
            *at = __builtin_bswap64(*at);
}

static noc_status hash_files(const files *f, char hex[NOC_SHA256_HEX], noc_error *err)
{
    noc_sha256 *hash;
    noc_status status = noc_sha256_create(&hash, err);
    if (status != NOC_OK)
        return status;
    noc_sha256_add(hash, f->header.data, f->header.size);
    noc_sha256_add(hash, f->image.data, f->image.size);
    noc_sha256_end(hash, hex);
    return NOC_OK;
}

static noc_status read_voxels(files *f, const nifti_info *info, noc_image *image, noc_error *err)
{
    const char *path = f->image_path ? f->image_path : f->header_path;
    const noc_mapping *file = f->image_path ? &f->image : &f->header;
    size_t bytes = info->header.voxel_bytes, offset = info->voxel_offset;
    /* a plain file shows its length before anything is allocated */
    if (!nifti_is_gzip(file) && (file->size < offset || file->size - offset < bytes))
        return nifti_read_bytes(path, file, offset, bytes, NULL, err);
    void *voxels = noc_alloc(offset + bytes, 1, err);
    if (!voxels)
        return NOC_ENOMEMORY;
    noc_status status = nifti_read_bytes(path, file, offset, bytes, voxels, err);
    if (status != NOC_OK) {
        free(voxels);
        return status;
    }
    if (info->is_swapped)
        swap_voxels(voxels, noc_voxel_size(info->header.type), bytes / noc_voxel_size(info->header.type));
    image->voxels = voxels;
    image->bytes = bytes;
    return NOC_OK;
}

noc_status noc_nifti_read(const char *path, const noc_nifti_options *options, noc_image *image, noc_error *err)
{
    files f = {0};
    nifti_info info;
    noc_image out = {0};
    noc_error why = {.status = NOC_OK};
    memset(image, 0, sizeof *image);
    noc_status status = open_header(path, options, &f, &info, &why);
    if (status == NOC_OK && info.is_pair) {
        f.image_path = partner(f.header_path, ".hdr", ".img", &why);
        status = f.image_path ? noc_file_map(f.image_path, &f.image, &why) : why.status;
    }
    if (status == NOC_OK && options && options->with_sha256)
        status = hash_files(&f, out.sha256, &why);
    if (status == NOC_OK)
        status = read_voxels(&f, &info, &out, &why);
    files_close(&f);
    if (status != NOC_OK) {
        if (err)
            *err = why;
        return status;
    }
    out.grid = info.header.grid;
    out.channels = info.header.channels;
    out.type = info.header.type;
    out.slope = info.slope;
    out.inter = info.inter;
    *image = out;
    return NOC_OK;
}
