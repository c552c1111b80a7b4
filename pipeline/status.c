#include "pipeline/status.h"

#include <math.h>

void noc_counts_write_json(const noc_counts *counts, noc_text *text)
{
    const char *comma = "";
    noc_text_add(text, "{\"studies\":{");
    for (int i = 0; i < NOC_STATE_COUNT; i++)
        noc_text_add(text, "%s\"%s\":%lld", i ? "," : "", noc_study_state_name((noc_study_state)i),
                     (long long)counts->states[i]);
    noc_text_add(text, "},\"failures\":{");
    for (int i = 0; i < (int)(sizeof counts->failures / sizeof counts->failures[0]); i++)
        if (counts->failures[i] > 0) {
            noc_text_add(text, "%s\"%s\":%lld", comma, noc_status_name((noc_status)i),
                         (long long)counts->failures[i]);
            comma = ",";
        }
    noc_text_add(text, "},\"studies_per_hour\":%.3f,", counts->studies_per_hour);
    if (isnan(counts->seconds_left))
        noc_text_add(text, "\"seconds_left\":null}\n");
    else
        noc_text_add(text, "\"seconds_left\":%.1f}\n", counts->seconds_left);
}
