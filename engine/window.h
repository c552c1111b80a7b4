/* Sliding windows by MONAI's rules (monai/inferers/utils.py, sliding_window_inference; monai/data/utils.py,
 * dense_patch_slices, compute_importance_map). Triples are D, H, W. */
#ifndef NOC_WINDOW_H
#define NOC_WINDOW_H

#include "engine/manifest.h"

#include <stddef.h>
#include <stdint.h>

typedef struct noc_windows {
    int64_t size[3]; /* of the volume */
    int64_t window[3];
    int64_t padded[3];  /* max(size, window) */
    int64_t pad_low[3]; /* zeros (pad_value) before the volume */
    int64_t interval[3];
    int count[3]; /* windows along each axis */
} noc_windows;

/* NOC_ECONFIG for a window below 1 or an overlap outside [0, 1); NOC_ETOOLARGE when there are more than
 * 2^31-1 windows. */
noc_status noc_windows_plan(const int64_t size[3], const int64_t window[3], double overlap,
                            noc_windows *windows, noc_error *err);
int64_t noc_windows_total(const noc_windows *windows);
/* Start of window i along an axis, in the padded volume. */
int64_t noc_windows_start(const noc_windows *windows, int axis, int i);
/* Starts of window number n (W fastest). */
void noc_windows_at(const noc_windows *windows, int64_t n, int64_t start[3]);

/* The importance map [D][H][W] in f32, newly allocated; *map = NULL for constant blending. */
noc_status noc_importance_create(const int64_t window[3], noc_blend blend, float **map, noc_error *err);

#endif
