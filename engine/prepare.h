/* Preparation: a stored image becomes what the network sees. Orientation, crops and the pointwise steps are
 * kept as strides and coefficients without a second copy of it; statistics are taken once, values are
 * computed in double when a window is cut and rounded to f32 last. A zscore with a filled mask and resample
 * make an f32 image in the stored one's place. */
#ifndef NOC_PREPARE_H
#define NOC_PREPARE_H

#include "engine/device.h"
#include "engine/manifest.h"
#include "engine/volume/image.h"
#include "engine/volume/orientation.h"

typedef struct noc_prepared noc_prepared;

/* images: one of in_channels channels, or in_channels of one channel on the same grid (affines within 1e-3).
 * On success the voxels belong to *prepared (the images are zeroed), on failure they are the caller's or
 * freed (and the images zeroed). NOC_ECHANNELS, NOC_EGEOMETRY (crop beyond the volume), NOC_ENONFINITE,
 * NOC_ETOOLARGE, NOC_ENOMEMORY. */
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

/* How the prepared volume lies in the input's grid. Native voxel (d,h,w) of `size` is voxel (linear, i
 * fastest) origin + d*step[0] + h*step[1] + w*step[2] of a mask of that grid; voxels that none of these are,
 * are background. Unless is_resampled they are the prepared volume's own. Else they were resampled to
 * `resampled`, of which the prepared volume is the box from `start`: native voxels whose nearest one lies
 * outside it are background. */
typedef struct noc_place {
    noc_orientation orientation;
    int64_t origin, step[3], size[3];
    bool is_resampled;
    int64_t resampled[3], start[3];
    bool is_nearest[3]; /* on the way back; else linear */
} noc_place;

const noc_place *noc_prepared_place(const noc_prepared *prepared);

/* What preparation needs, by headers alone. */
typedef struct noc_prepare_needs {
    int64_t size[3]; /* of the prepared volume; at most, where the model has a foreground_crop */
    size_t kept;     /* bytes of the prepared volume */
    size_t most;     /* bytes while it is made, the stored ones included */
} noc_prepare_needs;

/* size and spacing_mm in the model's order; stored_bytes: of all channels. Bytes are SIZE_MAX on overflow. */
void noc_prepare_estimate(const noc_manifest *manifest, const int64_t size[3], const double spacing_mm[3],
                          size_t stored_bytes, noc_prepare_needs *needs);

#endif
