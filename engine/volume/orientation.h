/* From a file's voxel axes (i,j,k) to the model's axes (D,H,W) and back: permutation and flips only, never
 * resampling. */
#ifndef NOC_VOLUME_ORIENTATION_H
#define NOC_VOLUME_ORIENTATION_H

#include "engine/volume/image.h"

/* Length of a file axis's column (mm a voxel); true when the affine is finite and its three axes span space.
 */
double noc_affine_column(const double affine[4][4], int axis);
bool noc_affine_is_regular(const double affine[4][4]);

/* For model axis m (0 = D, 1 = H, 2 = W): the file axis (0 = i, 1 = j, 2 = k) and whether it runs the other
 * way. */
typedef struct noc_orientation {
    int axis[3];
    bool is_flipped[3];
} noc_orientation;

/* code: three letters for the model's x, y, z axes (W, H, D): "RAS" has W to the Right, H to Anterior, D to
 * Superior; any of the 48. The nearest axis is found as nibabel's io_orientation does (polar decomposition of
 * the affine, largest entries first). NOC_ECONFIG for a bad code, NOC_EGEOMETRY for a singular affine. */
noc_status noc_orientation_find(const double affine[4][4], const char *code, noc_orientation *orientation,
                                noc_error *err);

/* Sizes and spacings in model order. */
void noc_orientation_size(const noc_orientation *orientation, const int64_t ijk[3], int64_t dhw[3]);
void noc_orientation_spacing(const noc_orientation *orientation, const double ijk[3], double dhw[3]);

/* Linear index (in one channel, i fastest) of model voxel (0,0,0), and the step for one voxel along each
 * model axis: index(d,h,w) = *origin + d*step[0] + h*step[1] + w*step[2]. */
void noc_orientation_steps(const noc_orientation *orientation, const int64_t ijk[3], int64_t *origin,
                           int64_t step[3]);

#endif
