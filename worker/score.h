/* Integer counts of a mask against a truth, on the input grid, and the ratios that follow from them. */
#ifndef NOC_SCORE_H
#define NOC_SCORE_H

#include "catalog/study.h"
#include "engine/manifest.h"
#include "engine/volume/image.h"

/* Checks that the truth fits: same grid (affines may differ by 1e-3), one channel, integral values (float
 * types with integral values are fine), labels known to the manifest (0; for labels: the listed indices;
 * for regions: the union of truth_labels and the painted labels). NOC_ETRUTH; NOC_ENONFINITE becomes
 * NOC_ETRUTH. */
noc_status noc_truth_check(const noc_manifest *manifest, const noc_grid *grid, const noc_image *truth,
                           noc_error *err);

/* Its first part: the same size, affines that differ by at most 1e-3. whose: "scan", for the sentence.
 * NOC_ETRUTH. */
noc_status noc_truth_check_grid(const noc_grid *grid, const noc_grid *truth, const char *whose,
                                noc_error *err);

/* One metric a label or region of the manifest, newly allocated. mask: labels (mask_bytes 1 or 2), regions:
 * bits (region_bytes, 0 for a label model), on `grid`. A region model without bits: a region of the mask is
 * the union of its truth_labels, as in the truth. truth NULL: without counts. */
noc_status noc_score(const noc_manifest *manifest, const noc_grid *grid, const void *mask, int mask_bytes,
                     const void *regions, int region_bytes, const noc_image *truth, noc_metric **metrics,
                     int *metric_count, noc_error *err);

/* Fills ratios and volumes from counts (nnU-Net's conventions: 0/0 is NaN). voxel_ml: volume of a voxel in
 * ml. */
void noc_metric_derive(noc_metric *metric, double voxel_ml);

/* These ratios and volumes, in the order in which they are told. */
enum {
    NOC_DICE,
    NOC_IOU,
    NOC_PRECISION,
    NOC_RECALL,
    NOC_TRUTH_ML,
    NOC_PREDICTION_ML,
    NOC_VOLUME_SIMILARITY,
    NOC_RATIO_COUNT
};
extern const char *const noc_ratio_names[NOC_RATIO_COUNT]; /* "dice", ... */
void noc_metric_ratios(const noc_metric *metric, double ratios[NOC_RATIO_COUNT]);

#endif
