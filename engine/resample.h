/* Resampling between grids as nnU-Net does it: centres x = n_old / n_new * (i + 0.5) - 0.5 by the ratio of
 * sizes, edge values beyond the volume, no smoothing. Axes are D, H, W. */
#ifndef NOC_RESAMPLE_H
#define NOC_RESAMPLE_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

/* size * old / new, rounded, halves to even; at least 1, at most INT32_MAX. */
int64_t noc_resample_size(int64_t size, double old_spacing, double new_spacing);

/* The one axis of the largest spacing where that is more than 3 times the smallest: of the old spacing, else
 * of the new; -1: none, or two of them. Planes across it are resampled in 2-D, it takes the nearest plane. */
int noc_resample_thick_axis(const double old_spacing[3], const double new_spacing[3]);

/* Where voxel i of `to` voxels lies among `from`. */
double noc_resample_place(int64_t from, int64_t to, int64_t i);
int64_t noc_resample_nearest(int64_t from, int64_t to, int64_t i);

typedef struct noc_resampling {
    int64_t from[3], to[3];
    int order;      /* 1: linear; 3: cubic B-spline, clipped to the range of what it is made of */
    int thick_axis; /* or -1 */
} noc_resampling;

/* Bytes that noc_resample takes for itself; SIZE_MAX on overflow. */
size_t noc_resample_bytes(const noc_resampling *resampling);

/* One channel. plane(source, d, out) writes plane d as [H][W]; out is [D'][H'][W'], rounded to f32 at most
 * twice. NOC_ENOMEMORY. */
noc_status noc_resample(const noc_resampling *resampling,
                        void (*plane)(const void *source, int64_t d, double *out), const void *source,
                        float *out, noc_error *err);

#endif
