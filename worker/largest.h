/* A model may ask (`output.keep_largest`) that of a label or region only the largest component is kept. */
#ifndef NOC_LARGEST_H
#define NOC_LARGEST_H

#include "engine/manifest.h"
#include "worker/worker.h"

/* outcome: with the mask of a model of labels, where the rest of a label becomes background; or with the
 * regions of a model of regions, not painted yet: what leaves a region leaves those within it as well, whose
 * truth labels are all among its. NOC_ENOMEMORY, NOC_ETOOLARGE. */
noc_status noc_largest_keep(const noc_manifest *manifest, noc_outcome *outcome, noc_error *err);

/* What that allocates at most, for a mask of that size. */
size_t noc_largest_bytes(const noc_manifest *manifest, const int64_t size[3]);

#endif
