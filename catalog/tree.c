/* Walking a folder. Archives hold links to files (which may lead nowhere until they are fetched), links to
 * folders, and folders that somebody else owns: none of them ends a scan. */
#include "catalog/tree.h"

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/volume/nifti.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 32 };

/* A folder that is being read, and those above it. */
typedef struct place {
    const struct place *above;
    const char *path;     /* of the folder */
    const char *relative; /* to the root; "" for the root */
    dev_t device;
    ino_t inode;
    int depth;
} place;

typedef struct walk {
    noc_tree *tree;
    noc_source *source;
    noc_error *err;
} walk;

size_t noc_tree_folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

static noc_status add_file(walk *w, char *path)
{
    noc_tree *tree = w->tree;
    if (tree->count == tree->capacity) {
        size_t more = tree->capacity ? tree->capacity * 2 : 256;
        char **grown = reallocarray(tree->files, more, sizeof(*grown));
        if (!grown) {
            free(path);
            return noc_fail(w->err, NOC_ENOMEMORY, "no memory for the list of files");
        }
        tree->files = grown;
        tree->capacity = more;
    }
    tree->files[tree->count++] = path;
    return NOC_OK;
}

static bool is_above(const place *at, const struct stat *about)
{
    for (; at; at = at->above) {
        if (at->device == about->st_dev && at->inode == about->st_ino)
            return true;
    }
    return false;
}

static noc_status read_folder(walk *w, const place *at);

static noc_status enter(walk *w, const place *at, const char *path, const char *relative, const char *name)
{
    struct stat about;
    if (stat(path, &about) != 0 || !S_ISDIR(about.st_mode))
        return NOC_OK;
    if (is_above(at, &about) || at->depth == MAX_DEPTH) {
        noc_source_warn(w->source, "folder %s: %s; left out", name,
                        at->depth == MAX_DEPTH ? "too deep" : "a link that leads back to a folder above it");
        return NOC_OK;
    }
    place below = {at, path, relative, about.st_dev, about.st_ino, at->depth + 1};
    return read_folder(w, &below);
}

/* Links, and what a file system does not tell, are asked about. */
static bool may_be_folder(const struct dirent *entry)
{
    return entry->d_type == DT_DIR || entry->d_type == DT_LNK || entry->d_type == DT_UNKNOWN;
}

static noc_status read_name(walk *w, const place *at, const struct dirent *entry)
{
    const char *name = entry->d_name;
    bool is_image = noc_nifti_is_image_name(name, NULL);
    if (name[0] == '.' || !(is_image || may_be_folder(entry)))
        return NOC_OK;
    char *path = noc_path_join(at->path, name, w->err);
    char *relative = at->relative[0] ? noc_path_join(at->relative, name, w->err) : noc_strdup(name, w->err);
    noc_status status = path && relative ? NOC_OK : NOC_ENOMEMORY;
    if (status == NOC_OK && is_image) {
        status = add_file(w, relative);
        relative = NULL;
    } else if (status == NOC_OK) {
        status = enter(w, at, path, relative, name);
    }
    free(relative);
    free(path);
    return status;
}

static noc_status read_folder(walk *w, const place *at)
{
    noc_status status = NOC_OK;
    const struct dirent *entry;
    DIR *folder = opendir(at->path);
    if (!folder && errno == ENOMEM)
        return noc_fail(w->err, NOC_ENOMEMORY, "no memory to read a folder");
    if (!folder) {
        noc_source_warn(w->source, "folder %s cannot be read (%s); left out",
                        at->relative + noc_tree_folder_length(at->relative), strerror(errno));
        return NOC_OK;
    }
    while (status == NOC_OK && (entry = readdir(folder)))
        status = read_name(w, at, entry);
    closedir(folder);
    return status;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

noc_status noc_tree_read(const char *folder, noc_source *source, noc_tree *tree, noc_error *err)
{
    walk w = {tree, source, err};
    struct stat about;
    if (stat(folder, &about) != 0)
        return noc_fail(err, NOC_ENOINPUT, "%s: %s", folder, strerror(errno));
    place at = {NULL, folder, "", about.st_dev, about.st_ino, 0};
    noc_status status = read_folder(&w, &at);
    if (status == NOC_OK && tree->count > 0)
        qsort(tree->files, tree->count, sizeof(*tree->files), compare_paths);
    return status;
}

void noc_tree_clear(noc_tree *tree)
{
    for (size_t i = 0; i < tree->count; i++)
        free(tree->files[i]);
    free(tree->files);
    memset(tree, 0, sizeof(*tree));
}
