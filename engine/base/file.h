/* Whole files, atomic replacement, durability. Paths are UTF-8 of any length. */
#ifndef NOC_BASE_FILE_H
#define NOC_BASE_FILE_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

/* A file mapped read-only. data is NULL when size is 0. */
typedef struct noc_mapping {
    const unsigned char *data;
    size_t size;
} noc_mapping;

/* Regular files only. Missing, no permission, a directory, a device: NOC_ENOINPUT with a sentence that names
 * the path. */
noc_status noc_file_map(const char *path, noc_mapping *mapping, noc_error *err);
void noc_file_unmap(noc_mapping *mapping);

/* Reads a whole regular file of at most max_bytes (more: NOC_ETOOLARGE) into memory that the caller frees;
 * one 0 byte follows the data. */
noc_status noc_file_read(const char *path, size_t max_bytes, char **data, size_t *size, noc_error *err);

/* Writes path as a temporary file beside it, fsync, rename over it, fsync of the folder.
 * NOC_ECANTCREATE when the temporary cannot be made, NOC_EIO when it cannot be written. */
noc_status noc_file_replace(const char *path, const void *data, size_t size, noc_error *err);

/* fsync of a file or folder by its name. */
noc_status noc_file_sync(const char *path, noc_error *err);

/* mkdir -p; what is new of the path is synced, name and all. NOC_ECANTCREATE. */
noc_status noc_folder_create(const char *path, noc_error *err);

/* size in bytes and mtime in ns since 1970. */
noc_status noc_file_fingerprint(const char *path, int64_t *size, int64_t *mtime_ns, noc_error *err);

/* Newly allocated "folder/name" (or name when it is absolute); the absolute form of a path; the folder of a
 * path
 * ("." when it has none). NULL only when memory ends (err filled). */
char *noc_path_join(const char *folder, const char *name, noc_error *err);
char *noc_path_absolute(const char *path, noc_error *err);
char *noc_path_folder(const char *path, noc_error *err);

#endif
