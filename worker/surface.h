/* Distances between the surfaces of two masks, exact, by the rules of the programs whose numbers the field
 * publishes:
 *
 * - deepmind: google-deepmind/surface-distance. The surface passes through the corner points between 2x2x2
 *   voxels that are not all alike; a point weighs as much as its surfels, in mm2 (Nikolov et al.,
 *   arXiv:1809.04430).
 * - monai: compute_hausdorff_distance, compute_average_surface_distance. Points are the centres of mask
 *   voxels with a background 6-neighbour, all of one weight; percentiles of each direction are
 *   interpolated.
 * - medpy: medpy.metric.binary.hd95. The points of monai, both directions in one list.
 *
 * Beyond the volume is background. Distances are in mm, d(a -> b) from each point of a to the nearest of b.
 */
#ifndef NOC_SURFACE_H
#define NOC_SURFACE_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

enum {
    NOC_TOLERANCES = 8,
    NOC_SURFACE_AXIS = 65000, /* voxels of a box along an axis, at most */
};

/* Voxels of a box as bits, with one empty voxel around: voxel (i,j,k) is bit i + 1 of row (j,k). */
typedef struct noc_bits {
    int64_t size[3]; /* i, j, k, without the margin */
    int64_t words;   /* of a row */
    uint64_t *rows;  /* owned */
} noc_bits;

/* All empty. NOC_ETOOLARGE beyond NOC_SURFACE_AXIS, NOC_ENOMEMORY. */
noc_status noc_bits_create(const int64_t size[3], noc_bits *bits, noc_error *err);
void noc_bits_clear(noc_bits *bits);
/* The words of row (j,k), each from -1 to its size. */
uint64_t *noc_bits_row(const noc_bits *bits, int64_t j, int64_t k);

noc_status noc_bits_copy(const noc_bits *bits, noc_bits *copy, noc_error *err);
/* So many times, each to the voxels that share a face or an edge; the margin stays empty. NOC_ENOMEMORY. */
noc_status noc_bits_dilate(noc_bits *bits, int times, noc_error *err);

/* Where a mask is empty: NaN or infinity, as the program in question has it. */
typedef struct noc_surface {
    struct {
        double hd95, hd100;                  /* the larger of both directions */
        double surface_dice[NOC_TOLERANCES]; /* share of both surfaces within each tolerance (NSD) */
        double asd_truth_to_prediction, asd_prediction_to_truth, truth_mm2, prediction_mm2;
    } deepmind;
    struct {
        double hd95, hd100, assd;
    } monai;
    double medpy_hd95;
} noc_surface;

/* Both in boxes of one size and place that hold all voxels of both. NOC_ENOMEMORY. */
noc_status noc_surface_measure(const noc_bits *truth, const noc_bits *prediction, const double spacing_mm[3],
                               const double *tolerances_mm, int tolerance_count, noc_surface *surface,
                               noc_error *err);

/* mm2 of the surface between 2x2x2 voxels, by which of them are inside: bit 7 the first voxel on all axes,
 * bit 6 the second along k, bit 5 along j, bit 4 along both, bits 3 to 0 likewise with the second along i. */
void noc_surfel_areas(const double spacing_mm[3], double areas_mm2[256]);

#endif
