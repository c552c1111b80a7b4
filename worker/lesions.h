/* Scores a lesion at a time, as BraTS ranks by since 2023 (its organisers' announcement of the two metrics,
 * and their program, which says how near is near). */
#ifndef NOC_LESIONS_H
#define NOC_LESIONS_H

#include "worker/surface.h"

typedef struct noc_lesion_rules {
    int dilation;      /* parts of the truth nearer than so many steps on both sides are one lesion */
    double volume_mm3; /* lesions of the truth up to it are left out */
    double penalty_mm; /* the HD95 of what was missed, or is none */
} noc_lesion_rules;

typedef struct noc_lesion_scores {
    double dice, hd95;  /* means over the lesions of the truth and what is none; 1 and 0 without any */
    int64_t tp, fp, fn; /* lesions found; parts of the prediction that touch none; lesions missed */
} noc_lesion_scores;

/* Of masks as noc_surface_measure takes them. A lesion is all voxels of the truth that hang together (by a
 * face, an edge or a corner) once it is dilated; a step of dilation goes to the neighbours that share a face
 * or an edge. Its prediction is all components that touch the dilated lesion, also where it is left out.
 * NOC_ENOMEMORY, NOC_ETOOLARGE. */
noc_status noc_lesions_score(const noc_bits *truth, const noc_bits *prediction, const double spacing_mm[3],
                             const noc_lesion_rules *rules, noc_lesion_scores *scores, noc_error *err);

#endif
