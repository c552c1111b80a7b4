/* Does a mask look like what it should show? The model's rules say what is expected; a study that breaks
 * one is suspect, which changes nothing of its mask. */
#ifndef NOC_PLAUSIBILITY_H
#define NOC_PLAUSIBILITY_H

#include "engine/manifest.h"
#include "worker/worker.h"

/* outcome: with mask, regions and metrics of that model; its `suspect` is set: the broken rules, "" when
 * there is none. NOC_ENOMEMORY. */
noc_status noc_plausibility_check(const noc_manifest *manifest, noc_outcome *outcome, noc_error *err);

/* What that allocates at most, for a mask of that size. */
size_t noc_plausibility_bytes(const noc_manifest *manifest, const int64_t size[3]);

#endif
