/* index.h5: one name for every mask of a results folder, wherever its part lies in it. Written beside and put
 * in place whole. */
#include "pipeline/part_format.h"

#include "engine/base/file.h"
#include "pipeline/results.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PART_NAME = 32, TARGET = NOC_STUDY_KEY + 16 };

typedef struct link_to {
    char key[NOC_STUDY_KEY];
    int64_t part;
} link_to;

typedef struct link_list {
    link_to *items;
    size_t count, capacity;
} link_list;

static noc_status note_done(void *argument, const noc_result_row *row, noc_error *err)
{
    link_list *links = argument;
    if (row->state != NOC_DONE)
        return NOC_OK;
    if (links->count == links->capacity) {
        size_t capacity = links->capacity * 2 + 64;
        link_to *grown = reallocarray(links->items, capacity, sizeof *grown);
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for the index");
        links->items = grown;
        links->capacity = capacity;
    }
    link_to *item = &links->items[links->count++];
    memcpy(item->key, row->study.key, sizeof item->key);
    item->part = row->part;
    return NOC_OK;
}

static void target_of(const link_to *link, char file[PART_NAME], char object[TARGET])
{
    snprintf(file, PART_NAME, "part-%06lld.h5", (long long)link->part);
    snprintf(object, TARGET, "/studies/%s", link->key);
}

/* ---- what is there ---- */

static bool is_linked(hid_t studies, const link_to *link)
{
    char file[PART_NAME], object[TARGET], value[256 + TARGET];
    const char *linked_file = NULL, *linked_object = NULL;
    unsigned flags;
    H5L_info_t info;
    target_of(link, file, object);
    return H5Lget_info(studies, link->key, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_EXTERNAL &&
           info.u.val_size <= sizeof value &&
           H5Lget_val(studies, link->key, value, sizeof value, H5P_DEFAULT) >= 0 &&
           H5Lunpack_elink_val(value, info.u.val_size, &flags, &linked_file, &linked_object) >= 0 &&
           strcmp(linked_file, file) == 0 && strcmp(linked_object, object) == 0;
}

static bool has_configuration(hid_t file, const noc_configuration *wanted)
{
    noc_configuration found;
    part_attributes a = {.object = file, .path = ""};
    char schema[32];
    part_get_text(&a, "schema", schema, sizeof schema);
    part_get_configuration(&a, &found);
    return a.status == NOC_OK && strcmp(schema, PART_INDEX_SCHEMA) == 0 &&
           strcmp(found.model, wanted->model) == 0 && strcmp(found.model_sha256, wanted->model_sha256) == 0 &&
           memcmp(found.window, wanted->window, sizeof found.window) == 0 &&
           found.overlap == wanted->overlap && strcmp(found.blend, wanted->blend) == 0 &&
           strcmp(found.precision, wanted->precision) == 0;
}

typedef struct open_index {
    hid_t file, studies; /* negative: not open */
} open_index;

static void close_index(open_index *index)
{
    part_release(index->studies);
    part_release(index->file);
}

/* False when the file is missing, damaged or of another configuration. */
static bool try_open(const char *path, const noc_configuration *configuration, open_index *index)
{
    hid_t properties = part_access(H5F_LIBVER_V18);
    *index = (open_index){-1, -1};
    if (properties >= 0 && access(path, F_OK) == 0)
        index->file = H5Fopen(path, H5F_ACC_RDONLY, properties);
    if (index->file >= 0 && has_configuration(index->file, configuration))
        index->studies = H5Gopen2(index->file, "studies", H5P_DEFAULT);
    part_release(properties);
    return index->studies >= 0;
}

static const link_to *first_unlinked(const open_index *index, const link_list *links)
{
    for (size_t i = 0; i < links->count; i++)
        if (!is_linked(index->studies, &links->items[i]))
            return &links->items[i];
    return NULL;
}

static bool is_right(const char *path, const noc_configuration *configuration, const link_list *links)
{
    H5G_info_t info;
    open_index index;
    bool is_so = try_open(path, configuration, &index) && H5Gget_info(index.studies, &info) >= 0 &&
                 info.nlinks == links->count && !first_unlinked(&index, links);
    close_index(&index);
    return is_so;
}

static noc_status check_links(const char *path, const noc_configuration *configuration,
                              const link_list *links, noc_error *err)
{
    open_index index;
    noc_status status = NOC_OK;
    if (!try_open(path, configuration, &index)) {
        status = noc_fail(err, NOC_EDATA, "missing, damaged or of another configuration");
    } else {
        const link_to *lost = first_unlinked(&index, links);
        if (lost)
            status = noc_fail(err, NOC_EDATA, "%s is not linked to part-%06lld.h5", lost->key,
                              (long long)lost->part);
    }
    close_index(&index);
    return status;
}

/* ---- what should be there ---- */

static noc_status fill_index(hid_t file, const char *path, const noc_configuration *configuration,
                             const link_list *links, noc_error *err)
{
    char part[PART_NAME], object[TARGET];
    part_attributes a = {.object = file, .path = path, .err = err};
    part_put_text(&a, "schema", PART_INDEX_SCHEMA);
    part_put_configuration(&a, configuration);
    if (a.status != NOC_OK)
        return a.status;
    hid_t studies = H5Gcreate2(file, "studies", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (studies < 0)
        a.status = part_fail(err, NOC_EIO, path, "cannot be made");
    for (size_t i = 0; a.status == NOC_OK && i < links->count; i++) {
        target_of(&links->items[i], part, object);
        if (H5Lcreate_external(part, object, studies, links->items[i].key, H5P_DEFAULT, H5P_DEFAULT) < 0)
            a.status = part_fail(err, NOC_EIO, path, "a link cannot be made");
    }
    part_release(studies);
    return a.status;
}

/* A whole file beside the index. */
static noc_status write_new(const char *path, const noc_configuration *configuration, const link_list *links,
                            noc_error *err)
{
    hid_t properties = part_access(H5F_LIBVER_V18), file = -1;
    noc_status status = NOC_OK;
    if (properties >= 0)
        file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, properties);
    if (file < 0)
        status = part_fail(err, NOC_ECANTCREATE, path, "cannot be created");
    else
        status = fill_index(file, path, configuration, links, err);
    if (file >= 0 && (H5Fflush(file, H5F_SCOPE_LOCAL) < 0 || H5Fclose(file) < 0) && status == NOC_OK)
        status = part_fail(err, NOC_EIO, path, "cannot be written");
    part_release(properties);
    return status == NOC_OK ? noc_file_sync(path, err) : status;
}

static noc_status write_index(const char *folder, const char *path, const noc_configuration *configuration,
                              const link_list *links, noc_error *err)
{
    char name[48];
    snprintf(name, sizeof name, ".index-%ld.h5", (long)getpid());
    char *made = noc_path_join(folder, name, err);
    if (!made)
        return NOC_ENOMEMORY;
    noc_status status = write_new(made, configuration, links, err);
    if (status == NOC_OK && rename(made, path) != 0)
        status = noc_fail(err, NOC_EIO, "%s: cannot be replaced: %s", path, strerror(errno));
    if (status == NOC_OK)
        status = noc_file_sync(folder, err);
    else
        unlink(made);
    free(made);
    return status;
}

/* What the index must say, from the catalog. The caller frees links->items and *path in any case. */
static noc_status read_wanted(const char *folder, noc_catalog *catalog, int64_t set, char **path,
                              noc_configuration *configuration, link_list *links, noc_error *err)
{
    *path = noc_path_join(folder, "index.h5", err);
    noc_status status = *path ? part_library_open(err) : NOC_ENOMEMORY;
    if (status == NOC_OK)
        status = noc_catalog_read_set(catalog, set, configuration, err);
    if (status == NOC_OK)
        status = noc_catalog_each_result(catalog, set, NULL, note_done, links, err);
    return status;
}

noc_status noc_index_write(const char *folder, noc_catalog *catalog, int64_t set, noc_error *err)
{
    link_list links = {0};
    noc_configuration configuration;
    char *path = NULL;
    noc_status status = read_wanted(folder, catalog, set, &path, &configuration, &links, err);
    /* One that is right may have been put in place by a run that was killed before it synced the name. */
    if (status == NOC_OK)
        status = is_right(path, &configuration, &links)
                     ? noc_file_sync(folder, err)
                     : write_index(folder, path, &configuration, &links, err);
    free(links.items);
    free(path);
    return status;
}

noc_status noc_index_check(const char *folder, noc_catalog *catalog, int64_t set, noc_error *err)
{
    link_list links = {0};
    noc_configuration configuration;
    char *path = NULL;
    noc_status status = read_wanted(folder, catalog, set, &path, &configuration, &links, err);
    if (status == NOC_OK)
        status = check_links(path, &configuration, &links, err);
    free(links.items);
    free(path);
    return status;
}
