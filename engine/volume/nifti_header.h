/* Inside of engine/volume: a parsed header, and the file bytes behind it. */
#ifndef NOC_VOLUME_NIFTI_HEADER_H
#define NOC_VOLUME_NIFTI_HEADER_H

#include "engine/base/file.h"
#include "engine/volume/nifti.h"

enum { NIFTI_HEADER_BYTES = 544 }; /* the longest header and its extender */

typedef struct nifti_info {
    noc_nifti_header header;
    double slope, inter;
    size_t voxel_offset; /* in the file that holds the voxels */
    bool is_swapped;
    bool is_pair;        /* the voxels are in an .img of their own */
} nifti_info;

/* size: bytes at hand, at most NIFTI_HEADER_BYTES. */
noc_status nifti_parse(const char *path, const unsigned char *bytes, size_t size, const noc_nifti_options *options,
                       nifti_info *info, noc_error *err);

/* ---- file bytes (nifti_source.c) ---- */

bool nifti_is_gzip(const noc_mapping *file);
/* The first bytes of the (inflated) file; *have may be less than wanted at its end. */
noc_status nifti_read_prefix(const char *path, const noc_mapping *file, unsigned char *bytes, size_t wanted, size_t *have,
                             noc_error *err);
/* `bytes` inflated (or plain) bytes from `offset` into memory of offset + bytes bytes; they end up at its beginning. */
noc_status nifti_read_bytes(const char *path, const noc_mapping *file, size_t offset, size_t bytes, void *memory,
                            noc_error *err);

#endif
