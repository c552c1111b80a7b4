/* The lock beside the catalog: one coordinator at a time. An open-file-description lock on "CATALOG.lock",
 * which holds host and pid of its owner; it ends with the process, however that ends. */
#ifndef NOC_CATALOG_LOCK_H
#define NOC_CATALOG_LOCK_H

#include "engine/base/error.h"

typedef struct noc_catalog_lock noc_catalog_lock;

/* Waits up to that long. NOC_ETEMPFAIL naming host and pid of the owner when it stays held; NOC_ECANTCREATE.
 */
noc_status noc_catalog_lock_take(const char *catalog_path, double seconds, noc_catalog_lock **lock,
                                 noc_error *err);
void noc_catalog_lock_release(noc_catalog_lock *lock);

#endif
