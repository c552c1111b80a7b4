/* The bytes of a NIfTI header and what they mean; private to engine/volume. */
#ifndef NOC_VOLUME_NIFTI_HEADER_H
#define NOC_VOLUME_NIFTI_HEADER_H

#include "engine/volume/nifti.h"

enum {
    NOC_NIFTI1_BYTES = 348,
    NOC_NIFTI2_BYTES = 540, /* the longest header */
    NOC_NIFTI_EXTENDER = 4,
};

typedef struct noc_nifti_layout {
    noc_nifti_header header;
    double slope, inter;
    size_t offset;       /* of the voxels in their file */
    bool is_swapped;     /* other byte order than this machine's */
    bool is_single_file; /* voxels in the same file as the header */
} noc_nifti_layout;

/* bytes: the first of the file, NOC_NIFTI2_BYTES of them where the file has so many. Sentences name no path.
 */
noc_status noc_nifti_decode(const unsigned char *bytes, size_t size, const noc_nifti_options *options,
                            noc_nifti_layout *layout, noc_error *err);

#endif
