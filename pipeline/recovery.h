/* What an earlier run left in the results folder, made consistent with the catalog before anything new is
 * granted. */
#ifndef NOC_RECOVERY_H
#define NOC_RECOVERY_H

#include "catalog/catalog.h"

typedef struct noc_recovery {
    int64_t removed_open, adopted, unknown, dropped; /* parts */
    int64_t put_back;                                /* studies that were running or written */
    int64_t last_part;                               /* highest number seen in the folder or the catalog */
} noc_recovery;

/* Unfinished parts (*.open) are removed. A closed part that the catalog does not know is adopted when it is
 * whole and of this configuration, else renamed
 * *.unknown, never deleted. A part of the catalog that is gone or has another size is dropped: its studies
 * are pending again. Then studies that were running or written are pending again. Creates the folder when
 * missing. */
noc_status noc_recover(noc_catalog *catalog, int64_t set, const noc_configuration *configuration,
                       noc_recovery *recovery, noc_error *err);

/* Renames FOLDER/part-N.h5.open to part-N.h5 without replacing anything, and syncs the folder. */
noc_status noc_part_publish(const char *folder, int64_t number, noc_error *err);

#endif
