/* nocturne retry: failed and quarantined studies become pending again. */
#include "pipeline/command.h"

#include "catalog/catalog.h"
#include "catalog/lock.h"
#include "engine/base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LOCK_WAIT_S 15.0

static noc_status check_type(const char *type, noc_error *err)
{
    noc_status found;
    if (!type || (noc_status_from_name(type, &found) && found > NOC_OK && found <= NOC_EINTERNAL))
        return NOC_OK;
    return noc_fail(err, NOC_EUSAGE,
                    "--type %s: not a failure type; `nocturne status` lists those that occurred", type);
}

static noc_status retry(const noc_settings *settings, noc_catalog *catalog, int64_t *count, noc_error *err)
{
    int64_t set = 0;
    char *results = noc_path_absolute(settings->results, err);
    noc_status status = results ? noc_catalog_find_set(catalog, results, &set, err) : NOC_ENOMEMORY;
    if (status == NOC_OK && set != 0)
        status = noc_catalog_retry(catalog, set, settings->only, settings->failure, count, err);
    free(results);
    return status;
}

int noc_command_retry(const noc_settings *settings)
{
    noc_error err = {0};
    noc_catalog_lock *lock = NULL;
    noc_catalog *catalog = NULL;
    int64_t count = 0;
    noc_status status = check_type(settings->failure, &err);
    /* Without a catalog there is nothing to lock, and opening it says so. */
    if (status == NOC_OK && access(settings->catalog, F_OK) == 0)
        status = noc_catalog_lock_take(settings->catalog, LOCK_WAIT_S, &lock, &err);
    if (status == NOC_OK)
        status = noc_catalog_open(settings->catalog, NOC_CATALOG_WRITE, &catalog, &err);
    if (status == NOC_OK)
        status = retry(settings, catalog, &count, &err);
    noc_catalog_close(catalog);
    noc_catalog_lock_release(lock);
    if (status != NOC_OK)
        return noc_command_fail(&err);
    if (settings->json)
        printf("{\"retried\":%lld}\n", (long long)count);
    else
        printf("%lld studies put back\n", (long long)count);
    return fflush(stdout) == 0 ? 0 : noc_status_exit(NOC_EIO);
}
