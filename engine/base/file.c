/* Whole files and paths. What always holds: a reader of a replaced file sees the old or the new bytes, never
 * a part; a fifo or a device named as a file is refused without waiting for it. */
#include "engine/base/file.h"

#include "engine/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file descriptor and the size of a regular file. */
static noc_status open_regular(const char *path, int *file, size_t *size, noc_error *err)
{
    struct stat info;
    int opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (opened < 0)
        return noc_fail(err, errno == ENOMEM ? NOC_ENOMEMORY : NOC_ENOINPUT, "%s: %s", path, strerror(errno));
    if (fstat(opened, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(opened);
        return noc_fail(err, NOC_ENOINPUT, "%s: %s", path,
                        S_ISDIR(info.st_mode) ? "is a folder" : "is not a regular file");
    }
    *file = opened;
    *size = (size_t)info.st_size;
    return NOC_OK;
}

noc_status noc_file_map(const char *path, noc_mapping *mapping, noc_error *err)
{
    int file = -1;
    size_t size = 0;
    noc_status status = open_regular(path, &file, &size, err);

    if (status != NOC_OK)
        return status;
    void *data = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0) : NULL;
    int why = errno;
    close(file);
    if (data == MAP_FAILED)
        return noc_fail(err, why == ENOMEM ? NOC_ENOMEMORY : NOC_ENOINPUT, "%s: %s", path, strerror(why));
    *mapping = (noc_mapping){.data = data, .size = size};
    return NOC_OK;
}

void noc_file_unmap(noc_mapping *mapping)
{
    if (mapping->data)
        munmap((void *)mapping->data, mapping->size);
    *mapping = (noc_mapping){0};
}

/* Up to size bytes: fewer when the file has become shorter, -1 with errno. */
static ssize_t read_all(int file, char *data, size_t size)
{
    size_t have = 0;

    while (have < size) {
        ssize_t n = read(file, data + have, size - have);
        if (n < 0 && errno != EINTR)
            return -1;
        if (n == 0)
            break;
        have += n > 0 ? (size_t)n : 0;
    }
    return (ssize_t)have;
}

noc_status noc_file_read(const char *path, size_t max_bytes, char **data, size_t *size, noc_error *err)
{
    int file = -1;
    size_t bytes = 0;
    char *text = NULL;
    noc_status status = open_regular(path, &file, &bytes, err);

    if (status != NOC_OK)
        return status;
    if (bytes > max_bytes) {
        status = noc_fail(err, NOC_ETOOLARGE, "%s: %zu bytes, at most %zu are read", path, bytes, max_bytes);
        goto out;
    }
    text = noc_alloc(bytes + 1, 1, err);
    if (!text) {
        status = NOC_ENOMEMORY;
        goto out;
    }
    ssize_t have = read_all(file, text, bytes);
    if (have < 0) {
        status = noc_fail(err, NOC_ENOINPUT, "%s: %s", path, strerror(errno));
        goto out;
    }
    text[have] = '\0';
    *data = text;
    *size = (size_t)have;
    text = NULL;
out:
    free(text);
    close(file);
    return status;
}

static int write_all(int file, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(file, data, size);
        if (n < 0 && errno != EINTR)
            return -1;
        data += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Creates a new file beside path; its name is in temporary. -1 with errno. */
static int create_temporary(const char *path, char *temporary, size_t size)
{
    static atomic_uint made;
    int file;

    do {
        snprintf(temporary, size, "%s.%ld.%u.tmp", path, (long)getpid(), atomic_fetch_add(&made, 1));
        file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (file < 0 && errno == EEXIST);
    return file;
}

/* Writes, syncs, closes. 0 or an errno. */
static int fill(int file, const void *data, size_t size)
{
    int why = write_all(file, data, size) != 0 || fsync(file) != 0 ? errno : 0;

    if (close(file) != 0 && why == 0)
        why = errno;
    return why;
}

noc_status noc_file_replace(const char *path, const void *data, size_t size, noc_error *err)
{
    noc_status status = NOC_ENOMEMORY;
    size_t length = strlen(path) + 64;
    char *temporary = noc_alloc(length, 1, err), *folder = noc_path_folder(path, err);

    if (!temporary || !folder)
        goto out;
    int file = create_temporary(path, temporary, length);
    if (file < 0) {
        status = noc_fail(err, NOC_ECANTCREATE, "%s: cannot be created: %s", path, strerror(errno));
        goto out;
    }
    int why = fill(file, data, size);
    if (why == 0 && rename(temporary, path) != 0)
        why = errno;
    if (why != 0) {
        unlink(temporary);
        status = noc_fail(err, NOC_EIO, "%s: cannot be written: %s", path, strerror(why));
        goto out;
    }
    status = noc_file_sync(folder, err);
out:
    free(folder);
    free(temporary);
    return status;
}

/* 0 or an errno. */
static int sync_named(const char *path)
{
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (file < 0)
        return errno;
    int why = fsync(file) == 0 || errno == EINVAL ? 0 : errno; /* EINVAL: some file systems sync no folders */
    close(file);
    return why;
}

noc_status noc_file_sync(const char *path, noc_error *err)
{
    int why = sync_named(path);

    return why ? noc_fail(err, NOC_EIO, "%s: cannot be synced: %s", path, strerror(why)) : NOC_OK;
}

static bool is_folder(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* The name of path reaches the disk. 0 or an errno. */
static int sync_above(const char *path)
{
    char *above = noc_path_folder(path, NULL);
    int why = above ? sync_named(above) : ENOMEM;

    free(above);
    return why;
}

/* One folder of a path. Also the name of one that was there is synced when it is the last: whoever made it
 * may have been killed in between. Then a folder above that cannot be opened must do. 0 or an errno. */
static int create_one(const char *path, bool is_last)
{
    int why = mkdir(path, 0777) == 0 ? 0 : errno;

    if (why == 0)
        return sync_above(path);
    if (!is_folder(path))
        return why == EEXIST ? ENOTDIR : why;
    why = is_last ? sync_above(path) : 0;
    return why == EACCES ? 0 : why;
}

noc_status noc_folder_create(const char *path, noc_error *err)
{
    char *part = noc_strdup(path, err);
    size_t length = strlen(path);
    int why = length > 0 ? 0 : ENOENT;

    if (!part)
        return NOC_ENOMEMORY;
    while (length > 1 && path[length - 1] == '/')
        length--;
    for (size_t i = 1; why == 0 && i <= length; i++) { /* each longer part in turn */
        if (path[i] != '/' && i < length)
            continue;
        part[i] = '\0';
        why = create_one(part, i == length);
        part[i] = path[i];
    }
    free(part);
    return why ? noc_fail(err, NOC_ECANTCREATE, "%s: cannot be created: %s", path, strerror(why)) : NOC_OK;
}

noc_status noc_file_fingerprint(const char *path, int64_t *size, int64_t *mtime_ns, noc_error *err)
{
    struct stat info;

    if (stat(path, &info) != 0)
        return noc_fail(err, NOC_ENOINPUT, "%s: %s", path, strerror(errno));
    *size = info.st_size;
    *mtime_ns = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
    return NOC_OK;
}

char *noc_path_join(const char *folder, const char *name, noc_error *err)
{
    size_t length = strlen(folder), size = length + strlen(name) + 2;

    if (name[0] == '/' || length == 0)
        return noc_strdup(name, err);
    char *path = noc_alloc(size, 1, err);
    if (path)
        snprintf(path, size, "%s%s%s", folder, folder[length - 1] == '/' ? "" : "/", name);
    return path;
}

char *noc_path_absolute(const char *path, noc_error *err)
{
    if (path[0] == '/')
        return noc_strdup(path, err);
    char *here = getcwd(NULL, 0);
    if (!here) {
        noc_fail(err, NOC_EIO, "the current folder has no name: %s", strerror(errno));
        return NULL;
    }
    while (strncmp(path, "./", 2) == 0)
        path += 2 + strspn(path + 2, "/");
    char *whole = noc_path_join(here, path, err);
    free(here);
    return whole;
}

char *noc_path_folder(const char *path, noc_error *err)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return noc_strdup(".", err);
    while (slash > path && slash[-1] == '/')
        slash--;
    if (slash == path)
        return noc_strdup("/", err);
    char *folder = noc_strdup(path, err);
    if (folder)
        folder[slash - path] = '\0';
    return folder;
}
