#include "pipeline/scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRIES = 10 };

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    if (where->level > 0)
        remove(path);
    return 0;
}

static void empty(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void noc_scratch_remove(noc_scratch *scratch)
{
    if (scratch->path[0] == '\0')
        return;
    empty(scratch->path);
    rmdir(scratch->path);
    close(scratch->folder); /* and with it the lock */
    scratch->path[0] = '\0';
}

static const char *base_folder(void)
{
    const char *named = getenv("TMPDIR");
    if (access("/dev/shm", W_OK) == 0)
        return "/dev/shm";
    return named && named[0] == '/' ? named : "/tmp";
}

/* Opens and locks a folder of this user in which nobody works; -1: it is not one. A file system without locks
 * cannot tell: there a folder is taken only when it is new. */
static int lock(const char *path, bool is_new)
{
    struct stat held, named;
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return -1;
    bool is_locked = flock(folder, LOCK_EX | LOCK_NB) == 0;
    bool is_free = is_locked || (is_new && errno != EWOULDBLOCK);
    /* what was removed meanwhile, and made anew, has another number */
    if (is_free && fstat(folder, &held) == 0 && lstat(path, &named) == 0 && held.st_ino == named.st_ino &&
        held.st_uid == geteuid())
        return folder;
    close(folder);
    return -1;
}

static void add_prefix(char *text, size_t size)
{
    snprintf(text, size, "nocturne-scratch-%ld-", (long)geteuid());
}

/* What killed runs of this user left: it lies in memory. */
static void sweep(const char *base)
{
    char prefix[64], path[512];
    DIR *folder = opendir(base);
    add_prefix(prefix, sizeof prefix);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", base, entry->d_name);
        int held = lock(path, false);
        if (held < 0)
            continue;
        empty(path);
        rmdir(path);
        close(held);
    }
    if (folder)
        closedir(folder);
}

noc_status noc_scratch_create(noc_scratch *scratch, noc_error *err)
{
    char prefix[64];
    const char *base = base_folder();
    add_prefix(prefix, sizeof prefix);
    sweep(base);
    for (int i = 0; i < TRIES; i++) { /* another run may sweep it away before it is locked */
        snprintf(scratch->path, sizeof scratch->path, "%s/%sXXXXXX", base, prefix);
        if (!mkdtemp(scratch->path))
            break;
        scratch->folder = lock(scratch->path, true);
        if (scratch->folder >= 0)
            return NOC_OK;
    }
    const int reason = errno;
    noc_fail(err, NOC_ECANTCREATE, "%s: no folder for Open MPI's temporary files: %s", scratch->path,
             strerror(reason));
    scratch->path[0] = '\0';
    return NOC_ECANTCREATE;
}
