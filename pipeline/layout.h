/* Which rank does what.
 *
 *   1 rank    everything in one process
 *   2 ranks   0 coordinator and writer, 1 worker
 *   n >= 3    0 coordinator, 1..W writers, the rest workers */
#ifndef NOC_LAYOUT_H
#define NOC_LAYOUT_H

#include "engine/base/error.h"

typedef struct noc_layout {
    int ranks;
    int first_writer, writers;
    int writers_per_part;
    int first_worker, workers;
} noc_layout;

/* ranks, writers, writers_per_part as asked for (0: default). NOC_EUSAGE when they contradict each other. */
noc_status noc_layout_make(int ranks, int writers, int writers_per_part, noc_layout *layout, noc_error *err);

/* Writers in group g (they share a part) are ranks first .. first+count-1. */
int noc_layout_groups(const noc_layout *layout);
void noc_layout_group(const noc_layout *layout, int group, int *first, int *count);
int noc_layout_group_of(const noc_layout *layout, int rank); /* -1: no writer */
int noc_layout_is_worker(const noc_layout *layout, int rank);

#endif
