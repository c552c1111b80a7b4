#include "pipeline/result_folder.h"

#include "engine/base/file.h"
#include "engine/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static noc_status find_set(noc_result_folder *folder, const noc_settings *settings, const char *results,
                           noc_error *err)
{
    noc_status status = noc_catalog_open(settings->catalog, NOC_CATALOG_READ, &folder->catalog, err);
    if (status == NOC_OK)
        status = noc_catalog_find_set(folder->catalog, results, &folder->set, err);
    if (status == NOC_OK && folder->set == 0)
        status =
            noc_fail(err, NOC_ENOINPUT, "%s: the catalog knows no results in %s", settings->catalog, results);
    if (status == NOC_OK)
        status = noc_catalog_read_set(folder->catalog, folder->set, &folder->configuration, err);
    return status;
}

/* Without --results the only set's own folder counts, wherever the command was called. */
static noc_status find_path(noc_result_folder *folder, const noc_settings *settings, const char *results,
                            noc_error *err)
{
    const char *known = folder->configuration.results;
    const char *path = strcmp(settings->results, "results") == 0 && is_folder(known) ? known : results;
    if (!is_folder(path))
        return noc_fail(err, NOC_ENOINPUT, "%s: there is no such results folder", path);
    folder->path = noc_strdup(path, err);
    return folder->path ? NOC_OK : NOC_ENOMEMORY;
}

noc_status noc_result_folder_open(const noc_settings *settings, noc_result_folder *folder, noc_error *err)
{
    noc_result_folder made = {0};
    char *results = noc_path_absolute(settings->results, err);
    noc_status status = results ? find_set(&made, settings, results, err) : NOC_ENOMEMORY;
    if (status == NOC_OK)
        status = find_path(&made, settings, results, err);
    free(results);
    if (status == NOC_OK)
        *folder = made;
    else
        noc_result_folder_close(&made);
    return status;
}

void noc_result_folder_close(noc_result_folder *folder)
{
    noc_catalog_close(folder->catalog);
    free(folder->path);
    memset(folder, 0, sizeof *folder);
}

/* ---- what is done ---- */

typedef struct done_list {
    noc_done *items;
    size_t count, capacity;
} done_list;

static noc_status copy_row(noc_done *done, const noc_result_row *row, noc_error *err)
{
    memset(done, 0, sizeof *done);
    done->part = row->part;
    memcpy(done->key, row->study.key, sizeof done->key);
    snprintf(done->mask_sha256, sizeof done->mask_sha256, "%s", row->mask_sha256 ? row->mask_sha256 : "");
    done->source_sha256 = noc_strdup(row->source_sha256 ? row->source_sha256 : "", err);
    done->metrics = noc_alloc((size_t)row->metric_count, sizeof *done->metrics, err);
    if (row->study.truth)
        done->truth = noc_strdup(row->study.truth, err);
    if (!done->source_sha256 || !done->metrics || (row->study.truth && !done->truth))
        return NOC_ENOMEMORY;
    if (row->metric_count > 0)
        memcpy(done->metrics, row->metrics, (size_t)row->metric_count * sizeof *done->metrics);
    done->metric_count = row->metric_count;
    return NOC_OK;
}

static noc_status add_done(void *argument, const noc_result_row *row, noc_error *err)
{
    done_list *list = argument;
    if (row->state != NOC_DONE)
        return NOC_OK;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity * 2 + 64;
        noc_done *grown = reallocarray(list->items, capacity, sizeof *grown);
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for the list of masks");
        list->items = grown;
        list->capacity = capacity;
    }
    return copy_row(&list->items[list->count++], row, err);
}

static int compare_done(const void *a, const void *b)
{
    const noc_done *x = a, *y = b;
    if (x->part != y->part)
        return x->part < y->part ? -1 : 1;
    return strcmp(x->key, y->key);
}

noc_status noc_result_folder_done(const noc_result_folder *folder, const char *only, noc_done **list,
                                  size_t *count, noc_error *err)
{
    done_list made = {0};
    noc_status status = noc_catalog_each_result(folder->catalog, folder->set, only, add_done, &made, err);
    if (status != NOC_OK) {
        noc_done_free(made.items, made.count);
        return status;
    }
    if (made.count > 0)
        qsort(made.items, made.count, sizeof *made.items, compare_done);
    *list = made.items;
    *count = made.count;
    return NOC_OK;
}

void noc_done_free(noc_done *list, size_t count)
{
    for (size_t i = 0; list && i < count; i++) {
        free(list[i].source_sha256);
        free(list[i].truth);
        free(list[i].metrics);
    }
    free(list);
}
