/* The lock beside the catalog. The file stays when the lock is given back: removing it would let two
 * processes hold two files of one name. */
#include "catalog/lock.h"

#include "engine/base/clock.h"
#include "engine/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct noc_catalog_lock {
    int file;
};

#define POLL_SECONDS 0.2

/* "CATALOG.lock" beside the file itself, so that two names of one catalog share one lock. */
static char *lock_path(const char *catalog_path, noc_error *err)
{
    char *real = realpath(catalog_path, NULL);
    char *path = NULL;
    if (asprintf(&path, "%s.lock", real ? real : catalog_path) < 0) {
        noc_fail(err, NOC_ENOMEMORY, "no memory for the name of the catalog's lock");
        path = NULL;
    }
    free(real);
    return path;
}

static void read_owner(int file, char *owner, size_t size)
{
    ssize_t length = pread(file, owner, size - 1, 0);
    owner[length > 0 ? length : 0] = 0;
    owner[strcspn(owner, "\n")] = 0;
    for (char *c = owner; *c; c++) {
        if (*c < ' ' || *c > '~')
            *c = '?';
    }
    if (owner[0] == 0)
        snprintf(owner, size, "an unknown process");
}

static void write_owner(int file)
{
    char host[256] = "unknown", text[320];
    gethostname(host, sizeof(host) - 1);
    int length = snprintf(text, sizeof(text), "host %s, pid %ld\n", host, (long)getpid());
    /* The text is for people; the lock holds without it, on a full disk too. */
    if (ftruncate(file, 0) != 0 || pwrite(file, text, (size_t)length, 0) != length)
        return;
}

/* NOC_ETEMPFAIL: another has it. */
static noc_status try_lock(int file, const char *path, noc_error *err)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(file, F_OFD_SETLK, &whole) == 0)
        return NOC_OK;
    if (errno == EAGAIN || errno == EACCES || errno == EINTR)
        return NOC_ETEMPFAIL;
    return noc_fail(err, NOC_ECANTCREATE, "%s: this file system gives no lock: %s", path, strerror(errno));
}

static noc_status wait_lock(int file, const char *path, double seconds, noc_error *err)
{
    double deadline = noc_clock_monotonic() + seconds;
    for (;;) {
        noc_status status = try_lock(file, path, err);
        if (status != NOC_ETEMPFAIL)
            return status;
        double left = deadline - noc_clock_monotonic();
        if (left <= 0)
            break;
        noc_clock_sleep(left < POLL_SECONDS ? left : POLL_SECONDS);
    }
    char owner[320];
    read_owner(file, owner, sizeof(owner));
    return noc_fail(err, NOC_ETEMPFAIL, "%s: the catalog is held by %s", path, owner);
}

noc_status noc_catalog_lock_take(const char *catalog_path, double seconds, noc_catalog_lock **lock,
                                 noc_error *err)
{
    noc_status status = NOC_ENOMEMORY;
    int file = -1;
    noc_catalog_lock *made = noc_alloc_zeroed(1, sizeof(*made), err);
    char *path = made ? lock_path(catalog_path, err) : NULL;
    if (!path)
        goto out;
    file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0) {
        status = noc_fail(err, NOC_ECANTCREATE, "%s: %s", path, strerror(errno));
        goto out;
    }
    status = wait_lock(file, path, seconds, err);
    if (status != NOC_OK)
        goto out;
    write_owner(file);
    made->file = file;
    *lock = made;
    file = -1;
    made = NULL;
out:
    if (file >= 0)
        close(file);
    free(path);
    free(made);
    return status;
}

void noc_catalog_lock_release(noc_catalog_lock *lock)
{
    if (!lock)
        return;
    close(lock->file);
    free(lock);
}
