/* An image as stored, and its place in space. */
#ifndef NOC_VOLUME_IMAGE_H
#define NOC_VOLUME_IMAGE_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef enum noc_voxel_type {
    NOC_VOXEL_U8,
    NOC_VOXEL_I8,
    NOC_VOXEL_U16,
    NOC_VOXEL_I16,
    NOC_VOXEL_U32,
    NOC_VOXEL_I32,
    NOC_VOXEL_U64,
    NOC_VOXEL_I64,
    NOC_VOXEL_F32,
    NOC_VOXEL_F64,
} noc_voxel_type;

/* What a NIfTI header says about space, verbatim, so that a mask can carry the same. No free text. */
typedef struct noc_nifti_geometry {
    int version; /* 1 or 2 */
    int qform_code, sform_code;
    double quatern[3]; /* b, c, d */
    double qoffset[3]; /* x, y, z */
    double qfac;       /* pixdim[0]: -1 or 1 (0 as stored) */
    double srow[3][4]; /* srow_x, srow_y, srow_z */
    double pixdim[3]; /* pixdim[1..3] as stored; 1 for a missing axis that the affine needs and that says 0 */
    int xyzt_units;
} noc_nifti_geometry;

/* Axes (i, j, k) in file order, i fastest. affine maps (i,j,k,1) to RAS+ mm. spacing_mm = |pixdim|, where
 * that is 0 or not finite the affine's column length. */
typedef struct noc_grid {
    int64_t size[3];
    double spacing_mm[3];
    double affine[4][4];
    noc_nifti_geometry nifti;
} noc_grid;

/* voxels: channels x size[2] x size[1] x size[0], native byte order, i fastest, owned.
 * A voxel's value is stored*slope + inter in double (slope 1, inter 0 where the file has slope 0 or not
 * finite). */
typedef struct noc_image {
    noc_grid grid;
    int channels;
    noc_voxel_type type;
    double slope, inter;
    void *voxels;
    size_t bytes;
    char sha256[65]; /* of the file's bytes as they are on disk (a pair: of header then image file); "" unless
                        asked for */
} noc_image;

size_t noc_voxel_size(noc_voxel_type type);
const char *noc_voxel_name(noc_voxel_type type); /* "int16", ... */

/* i*j*k; sizes were checked when read. */
size_t noc_grid_voxels(const noc_grid *grid);

/* True when sizes are equal and affines differ by at most tolerance in every entry. */
bool noc_grid_is_same(const noc_grid *a, const noc_grid *b, double tolerance);

/* Values (stored*slope+inter) of `count` voxels from linear index `first` of the whole array (channels
 * included), `step` apart (may be negative), to doubles. */
void noc_image_values(const noc_image *image, size_t first, ptrdiff_t step, size_t count, double *values);

/* True when its voxels are bytes and a byte is its value. */
bool noc_image_is_plain_bytes(const noc_image *image);

/* NOC_ENONFINITE naming the first voxel (i, j, k, channel) that is NaN or Inf. */
noc_status noc_image_check_finite(const noc_image *image, noc_error *err);

/* Releases the voxels and zeroes the struct. A zeroed struct is fine. */
void noc_image_clear(noc_image *image);

#endif
