#include "engine/base/file.h"

#include "engine/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Opens a regular file for reading; its size. O_NONBLOCK so that a fifo does not hang. */
static noc_status open_regular(const char *path, int *file, size_t *size, noc_error *err)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return noc_fail(err, NOC_EUNREADABLE, "%s: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        const char *what = S_ISDIR(info.st_mode) ? "is a directory" : "is no regular file";
        close(fd);
        return noc_fail(err, NOC_EUNREADABLE, "%s: %s", path, what);
    }
    *file = fd;
    *size = (size_t)info.st_size;
    return NOC_OK;
}

noc_status noc_file_map(const char *path, noc_mapping *mapping, noc_error *err)
{
    int file;
    size_t size;
    noc_status status = open_regular(path, &file, &size, err);
    if (status != NOC_OK)
        return status;
    void *data = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0) : NULL;
    int why = errno;
    close(file);
    if (data == MAP_FAILED)
        return noc_fail(err, why == ENOMEM ? NOC_ENOMEMORY : NOC_EUNREADABLE, "%s: %s", path, strerror(why));
    *mapping = (noc_mapping){.data = data, .size = size};
    return NOC_OK;
}

void noc_file_unmap(noc_mapping *mapping)
{
    if (mapping->data)
        munmap((void *)mapping->data, mapping->size);
    *mapping = (noc_mapping){0};
}

/* Reads up to size bytes; fewer when the file is shorter than it was. -1 with errno. */
static ssize_t read_all(int file, char *data, size_t size)
{
    size_t have = 0;
    while (have < size) {
        ssize_t n = read(file, data + have, size - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        have += (size_t)n;
    }
    return (ssize_t)have;
}

noc_status noc_file_read(const char *path, size_t max_bytes, char **data, size_t *size, noc_error *err)
{
    int file;
    size_t bytes;
    noc_status status = open_regular(path, &file, &bytes, err);
    if (status != NOC_OK)
        return status;
    if (bytes > max_bytes) {
        close(file);
        return noc_fail(err, NOC_ETOOLARGE, "%s: %zu bytes, at most %zu are read", path, bytes, max_bytes);
    }
    char *text = noc_alloc(bytes + 1, 1, err);
    ssize_t have = text ? read_all(file, text, bytes) : -1;
    int why = errno;
    close(file);
    if (!text)
        return NOC_ENOMEMORY;
    if (have < 0) {
        free(text);
        return noc_fail(err, NOC_EUNREADABLE, "%s: %s", path, strerror(why));
    }
    text[have] = '\0';
    *data = text;
    *size = (size_t)have;
    return NOC_OK;
}

static int write_all(int file, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(file, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

/* Writes, syncs and closes; removes the temporary after a failure. */
static noc_status fill_temporary(int file, const char *temporary, const char *path, const void *data, size_t size,
                                 noc_error *err)
{
    int failed = write_all(file, data, size) != 0 || fsync(file) != 0;
    int why = errno;
    if (close(file) != 0 && !failed) {
        failed = 1;
        why = errno;
    }
    if (!failed && rename(temporary, path) != 0) {
        failed = 1;
        why = errno;
    }
    if (!failed)
        return NOC_OK;
    unlink(temporary);
    return noc_fail(err, NOC_EIO, "%s: %s", path, strerror(why));
}

noc_status noc_file_replace(const char *path, const void *data, size_t size, noc_error *err)
{
    size_t length = strlen(path) + 32;
    char *temporary = noc_alloc(length, 1, err), *folder = NULL;
    if (!temporary)
        return NOC_ENOMEMORY;
    snprintf(temporary, length, "%s.%ld.tmp", path, (long)getpid());
    unlink(temporary); /* of a process that had our number and died */
    int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    noc_status status = file < 0 ? noc_fail(err, NOC_ECANTCREATE, "%s: cannot be created: %s", path, strerror(errno))
                                 : fill_temporary(file, temporary, path, data, size, err);
    if (status == NOC_OK && !(folder = noc_path_folder(path, err)))
        status = NOC_ENOMEMORY;
    if (status == NOC_OK)
        status = noc_file_sync(folder, err);
    free(folder);
    free(temporary);
    return status;
}

noc_status noc_file_sync(const char *path, noc_error *err)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return noc_fail(err, NOC_EIO, "%s: %s", path, strerror(errno));
    int failed = fsync(file) != 0 && errno != EINVAL; /* some file systems cannot sync a folder */
    int why = errno;
    close(file);
    return failed ? noc_fail(err, NOC_EIO, "%s: fsync: %s", path, strerror(why)) : NOC_OK;
}

noc_status noc_folder_create(const char *path, noc_error *err)
{
    struct stat info;
    char *copy = noc_strdup(path, err);
    if (!copy)
        return NOC_ENOMEMORY;
    for (char *at = copy + 1; *copy && *at; at++)
        if (*at == '/') {
            *at = '\0';
            mkdir(copy, 0777);
            *at = '/';
        }
    int failed = mkdir(copy, 0777) != 0 && errno != EEXIST;
    int why = errno;
    free(copy);
    if (!failed && (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))) {
        failed = 1;
        why = ENOTDIR;
    }
    return failed ? noc_fail(err, NOC_ECANTCREATE, "%s: cannot be created: %s", path, strerror(why)) : NOC_OK;
}

noc_status noc_file_fingerprint(const char *path, int64_t *size, int64_t *mtime_ns, noc_error *err)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return noc_fail(err, NOC_EUNREADABLE, "%s: %s", path, strerror(errno));
    *size = info.st_size;
    *mtime_ns = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
    return NOC_OK;
}

char *noc_path_join(const char *folder, const char *name, noc_error *err)
{
    if (name[0] == '/')
        return noc_strdup(name, err);
    size_t length = strlen(folder), size = length + strlen(name) + 2;
    char *path = noc_alloc(size, 1, err);
    if (path)
        snprintf(path, size, "%s%s%s", folder, length && folder[length - 1] == '/' ? "" : "/", name);
    return path;
}

char *noc_path_absolute(const char *path, noc_error *err)
{
    if (path[0] == '/')
        return noc_strdup(path, err);
    char *here = getcwd(NULL, 0);
    if (!here) {
        noc_fail(err, NOC_EIO, "the current folder cannot be named: %s", strerror(errno));
        return NULL;
    }
    while (strncmp(path, "./", 2) == 0)
        path += 2;
    char *whole = noc_path_join(here, path, err);
    free(here);
    return whole;
}

char *noc_path_folder(const char *path, noc_error *err)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return noc_strdup(".", err);
    if (slash == path)
        return noc_strdup("/", err);
    char *folder = noc_strdup(path, err);
    if (folder)
        folder[slash - path] = '\0';
    return folder;
}
