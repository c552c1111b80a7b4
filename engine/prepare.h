/* Preparation: a stored image becomes what the network sees, without a second copy of it. Orientation, crop
 * and the pointwise steps (minmax_slices, zscore, clip_zscore) are kept as strides and coefficients;
 * statistics are taken once, values are computed in double when a window is cut and rounded to f32 last. */
#ifndef NOC_PREPARE_H
#define NOC_PREPARE_H

#include "engine/device.h"
#include "engine/manifest.h"
#include "engine/volume/image.h"

typedef struct noc_prepared noc_prepared;

/* images: one of in_channels channels, or in_channels of one channel on the same grid (affines within 1e-3).
 * On success the voxels belong to *prepared (the images are zeroed). NOC_ECHANNELS, NOC_EGEOMETRY (crop
 * beyond the volume), NOC_ENONFINITE, NOC_ENOMEMORY. */
noc_status noc_prepare(const noc_manifest *manifest, noc_image *images, int image_count,
                       noc_prepared **prepared, noc_error *err);
void noc_prepared_free(noc_prepared *prepared);

/* Size in model order (after crop), and channels. */
void noc_prepared_size(const noc_prepared *prepared, int64_t size[3]);
int noc_prepared_channels(const noc_prepared *prepared);
/* The input's grid (file order). */
const noc_grid *noc_prepared_grid(const noc_prepared *prepared);
/* Bytes held. */
size_t noc_prepared_bytes(const noc_prepared *prepared);

/* The box from `start` (may be negative or beyond the volume: pad_value there) of `size` as [D][H][W][C].
 * Thread-safe. */
void noc_prepared_cut(const noc_prepared *prepared, const int64_t start[3], const int64_t size[3],
                      float pad_value, float *out);

/* What noc_prepared_cut uses, as a device takes it; pointers into `prepared`. pad_value is left 0. */
void noc_prepared_describe(const noc_prepared *prepared, noc_volume_source *source);
/* Gives it a copy of itself on a device, one at most, which is freed with it: before the device is closed. */
void noc_prepared_attach(noc_prepared *prepared, const noc_device *device, noc_volume *volume,
                         void (*volume_free)(noc_volume *volume));
/* The copy, if it is on this device; else NULL. */
const noc_volume *noc_prepared_volume(const noc_prepared *prepared, const noc_device *device);

/* Where voxel (d,h,w) of the prepared volume lies in a mask of the input's grid (linear, i fastest):
 * *origin + d*step[0] + h*step[1] + w*step[2]. */
void noc_prepared_steps(const noc_prepared *prepared, int64_t *origin, int64_t step[3]);

#endif
