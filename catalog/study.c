/* The study record. */
#include "catalog/study.h"

#include <stdlib.h>
#include <string.h>

void noc_study_clear(noc_study *study)
{
    if (!study)
        return;
    for (int i = 0; i < NOC_STUDY_CHANNELS; i++)
        free(study->channels[i]);
    free(study->truth);
    free(study->fingerprint);
    memset(study, 0, sizeof(*study));
}
