/* What a study came to, and how it goes away. */
#include "worker/admission.h"
#include "worker/worker.h"

#include <stdlib.h>

void noc_outcome_free(noc_outcome *outcome)
{
    if (!outcome)
        return;
    free(outcome->mask);
    free(outcome->regions);
    free(outcome->metrics);
    if (outcome->admission)
        noc_admission_leave(outcome->admission, outcome->admitted_bytes);
    free(outcome);
}
