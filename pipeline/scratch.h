/* The folder of Open MPI's temporary files (its sockets and shared memory) during a run: each run has one of
 * its own, so that neither another run of the same catalog, nor another user's folder, nor a full /tmp stands
 * in the way, and the next run of this user clears what a killed one left. */
#ifndef NOC_SCRATCH_H
#define NOC_SCRATCH_H

#include "engine/base/error.h"

#include <stddef.h>

typedef struct noc_scratch {
    char path[256]; /* short, for the sockets below; "": none */
    int folder;     /* descriptor that holds its lock, which ends with this process alone: closed by exec */
} noc_scratch;

/* A new one in memory (/dev/shm) where there is such a place, else in $TMPDIR or /tmp; removes those in which
 * nobody works any more. NOC_ECANTCREATE. */
noc_status noc_scratch_create(noc_scratch *scratch, noc_error *err);

/* Removes it with all that is in it. None, and a folder that is gone, are fine. */
void noc_scratch_remove(noc_scratch *scratch);

#endif
