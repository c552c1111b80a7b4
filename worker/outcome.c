/* What a study came to, and how it goes away. */
#include "worker/admission.h"
#include "worker/worker.h"

#include <stdlib.h>

size_t noc_outcome_probability_bytes(const noc_outcome *outcome)
{
    return noc_grid_voxels(&outcome->grid) * (size_t)outcome->plane_count * sizeof *outcome->probabilities;
}

void noc_outcome_drop_results(noc_outcome *outcome)
{
    free(outcome->mask);
    free(outcome->regions);
    free(outcome->probabilities);
    free(outcome->metrics);
    outcome->mask = outcome->regions = NULL;
    outcome->probabilities = NULL;
    outcome->metrics = NULL;
    outcome->mask_bytes = outcome->region_bytes = outcome->plane_count = outcome->metric_count = 0;
}

void noc_outcome_free(noc_outcome *outcome)
{
    if (!outcome)
        return;
    noc_outcome_drop_results(outcome);
    if (outcome->admission)
        noc_admission_leave(outcome->admission, outcome->admitted_bytes);
    free(outcome);
}
