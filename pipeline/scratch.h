/* The folder of Open MPI's temporary files (its sockets and shared memory) during a run: one of this user and
 * this catalog, so that the next run clears what a killed one left, and neither another user's folder nor a
 * full /tmp stands in the way. */
#ifndef NOC_SCRATCH_H
#define NOC_SCRATCH_H

#include "engine/base/error.h"

#include <stddef.h>

/* Makes it anew and empty, in memory (/dev/shm) where there is such a place, else in $TMPDIR or /tmp.
 * NOC_ECANTCREATE. */
noc_status noc_scratch_create(const char *catalog, char *path, size_t size, noc_error *err);

/* Removes it with all that is in it. "" and a folder that is gone are fine. */
void noc_scratch_remove(const char *path);

#endif
