/* NIfTI-1 and NIfTI-2: .nii, .nii.gz (also of several gzip members), .hdr/.img (each also .gz).
 * Headers are parsed by libnifti2, inflated by libdeflate, written by ourselves (its writer reports no
 * errors). */
#ifndef NOC_VOLUME_NIFTI_H
#define NOC_VOLUME_NIFTI_H

#include "engine/volume/image.h"

typedef struct noc_nifti_options {
    size_t max_bytes; /* of the decompressed file; more is NOC_ETOOLARGE before it is allocated. 0: 64 GiB */
    bool assume_ras;  /* accept both form codes 0: affine = diag(pixdim), origin 0 */
    bool with_sha256; /* fill image->sha256 */
} noc_nifti_options;

/* What scan needs, from the first bytes of the file (a .gz is inflated only that far). */
typedef struct noc_nifti_header {
    noc_grid grid;
    int channels;
    noc_voxel_type type;
    size_t voxel_bytes; /* of all voxels */
    size_t file_bytes;  /* of the file that are resident while its voxels are read: all of a compressed one, a
                           stretch of a plain one */
} noc_nifti_header;

/* Failures: NOC_EUNREADABLE (missing, empty, truncated, not NIfTI, no permission, a directory),
 * NOC_EUNSUPPORTED (5-D or more with more than one entry beyond axis 4, RGB, complex, float128),
 * NOC_EGEOMETRY (bad dims; zero, NaN or singular affine; both form codes 0), NOC_ETOOLARGE (sizes that
 * overflow or exceed max_bytes). Sentences never hold free-text header fields. */
noc_status noc_nifti_read_header(const char *path, const noc_nifti_options *options, noc_nifti_header *header,
                                 noc_error *err);

/* Reads header and voxels. Trailing axes of size 1 are dropped; axis 4 is channels. On failure *image is
 * zeroed. Finite voxels are not checked here. */
noc_status noc_nifti_read(const char *path, const noc_nifti_options *options, noc_image *image,
                          noc_error *err);

/* The file of a label image on the grid: u8 or u16 voxels in the grid's order, the same version, dims, sform,
 * qform, codes and units as grid->nifti; slope 1, inter 0, intent 1002 (NIFTI_INTENT_LABEL), cal 0, descrip =
 * "nocturne VERSION" given by the caller. Compressed when path ends in .gz; the same bytes for the same
 * input. *packed: newly allocated, *size bytes. */
noc_status noc_nifti_pack_labels(const char *path, const noc_grid *grid, noc_voxel_type type,
                                 const void *voxels, const char *descrip, void **packed, size_t *size,
                                 noc_error *err);
/* Likewise of probabilities in f16, planes of the grid's order behind each other: f32, the planes as fourth
 * axis, no intent. */
noc_status noc_nifti_pack_probabilities(const char *path, const noc_grid *grid, int planes,
                                        const uint16_t *probabilities, const char *descrip, void **packed,
                                        size_t *size, noc_error *err);
/* And writes it: temporary file, fsync, rename, fsync of the folder. NOC_ECANTCREATE, NOC_EIO. */
noc_status noc_nifti_write_labels(const char *path, const noc_grid *grid, noc_voxel_type type,
                                  const void *voxels, const char *descrip, noc_error *err);

/* True when the name ends in .nii, .nii.gz, .hdr, .img, .hdr.gz or .img.gz; *stem_length (if any) = length of
 * the name without that. */
bool noc_nifti_is_name(const char *name, size_t *stem_length);
/* Likewise, of the files of a folder: true for one an image, since a pair is read by way of its .hdr. Names
 * that begin with a dot are none. */
bool noc_nifti_is_image_name(const char *name, size_t *stem_length);

#endif
