#include "pipeline/scratch.h"

#include "engine/base/file.h"
#include "engine/base/sha256.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_DIGITS = 12 }; /* of the catalog's hash; the paths of sockets below must stay short */

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    remove(path);
    return 0;
}

void noc_scratch_remove(const char *path)
{
    if (path[0] != '\0')
        nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static const char *base_folder(void)
{
    const char *named = getenv("TMPDIR");
    if (access("/dev/shm", W_OK) == 0)
        return "/dev/shm";
    return named && named[0] == '/' ? named : "/tmp";
}

noc_status noc_scratch_create(const char *catalog, char *path, size_t size, noc_error *err)
{
    char hex[NOC_SHA256_HEX];
    char *absolute = noc_path_absolute(catalog, err);
    noc_status status = absolute ? noc_sha256_of(absolute, strlen(absolute), hex, err) : NOC_ENOMEMORY;
    free(absolute);
    if (status != NOC_OK)
        return status;
    snprintf(path, size, "%s/nocturne-%ld-%.*s", base_folder(), (long)geteuid(), NAME_DIGITS, hex);
    noc_scratch_remove(path);
    /* Whoever got there first in a place for everyone keeps that name; ours then is a new one. */
    if (mkdir(path, 0700) != 0 && errno == EEXIST) {
        snprintf(path, size, "%s/nocturne-XXXXXX", base_folder());
        if (mkdtemp(path))
            return NOC_OK;
    } else if (access(path, W_OK) == 0) {
        return NOC_OK;
    }
    const int reason = errno;
    noc_fail(err, NOC_ECANTCREATE, "%s: no folder for Open MPI's temporary files: %s", path,
             strerror(reason));
    path[0] = '\0';
    return NOC_ECANTCREATE;
}
