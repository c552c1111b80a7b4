/* status --json and RESULTS/status.json: one shape. */
#ifndef NOC_STATUS_H
#define NOC_STATUS_H

#include "catalog/catalog.h"
#include "engine/base/text.h"

/* {"studies":{...},"failures":{...},"studies_per_hour":x,"seconds_left":x or null} and a newline. */
void noc_counts_write_json(const noc_counts *counts, noc_text *text);

#endif
