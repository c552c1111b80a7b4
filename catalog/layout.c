/* What a path is: a list, one file, or a folder in one of the layouts, told by its dataset.json or by the
 * names in it. */
#include "catalog/tree.h"

#include "engine/base/file.h"
#include "engine/volume/nifti.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static const char nothing_recognised[] =
    "%s: nothing to scan in this folder; what can be scanned is a folder with a dataset.json (Decathlon, "
    "nnU-Net), with names of BraTS or BIDS, or with NIfTI files, a CSV list with the header key,image,truth, "
    "or "
    "a NIfTI file";

static bool is_layout(const char *layout, const char *name)
{
    return strcmp(layout, name) == 0;
}

static bool is_auto_or(const char *layout, const char *name)
{
    return is_layout(layout, "auto") || is_layout(layout, name);
}

static bool has_ending(const char *path, const char *ending)
{
    size_t length = strlen(path), size = strlen(ending);
    return length >= size && strcasecmp(path + length - size, ending) == 0;
}

/* Every image a study of its own. */
static noc_status read_each(const char *folder, const noc_tree *tree, noc_source *source, size_t *used,
                            noc_error *err)
{
    noc_status status = NOC_OK;
    for (size_t i = 0; i < tree->count && status == NOC_OK; i++) {
        noc_source_entry entry = {
            .folder = folder, .layout = "folder", .channels = {tree->files[i]}, .channel_count = 1};
        status = noc_source_add(source, &entry, err);
    }
    *used = tree->count;
    snprintf(source->recognised, sizeof(source->recognised), "each NIfTI file is a study of one channel");
    return status;
}

/* The layout whose names most files have; "folder" when no layout knows more than a few. */
static noc_status guess(const char *folder, const noc_tree *tree, const char **layout, noc_error *err)
{
    size_t bids = 0, brats = 0, nnunet = 0;
    noc_status status = noc_bids_read(folder, tree, NULL, &bids, err);
    if (status == NOC_OK)
        status = noc_brats_read(folder, tree, NULL, &brats, err);
    if (status == NOC_OK)
        status = noc_nnunet_read(folder, tree, NULL, NULL, &nnunet, err);
    size_t most = bids > brats ? bids : brats;
    most = most > nnunet ? most : nnunet;
    *layout = most * 2 < tree->count || most == 0 ? "folder"
              : most == bids                      ? "bids"
              : most == brats                     ? "brats"
                                                  : "nnunet";
    return status;
}

static noc_status read_tree(const char *folder, const char *layout, const json_t *dataset, noc_source *source,
                            noc_error *err)
{
    noc_tree tree = {0};
    size_t used = 0;
    noc_status status = noc_nnunet_lists(dataset) ? NOC_OK : noc_tree_read(folder, source, &tree, err);
    if (status == NOC_OK && is_layout(layout, "auto"))
        status = guess(folder, &tree, &layout, err);
    if (status == NOC_OK) {
        if (is_layout(layout, "bids"))
            status = noc_bids_read(folder, &tree, source, &used, err);
        else if (is_layout(layout, "brats"))
            status = noc_brats_read(folder, &tree, source, &used, err);
        else if (is_layout(layout, "nnunet"))
            status = noc_nnunet_read(folder, &tree, dataset, source, &used, err);
        else
            status = read_each(folder, &tree, source, &used, err);
    }
    if (status == NOC_OK && source->count == 0)
        status = noc_fail(err, NOC_EDATA, nothing_recognised, folder);
    if (status == NOC_OK && used < tree.count)
        noc_source_warn(source, "%zu NIfTI files have no name of the layout %s; left out", tree.count - used,
                        layout);
    noc_tree_clear(&tree);
    return status;
}

/* Version 1 of nnU-Net has the Decathlon's lists, whose names lack the channel's number. */
static bool is_nnunet(const json_t *dataset)
{
    return json_object_get(dataset, "channel_names") != NULL;
}

static noc_status read_dataset(const char *path, const char *layout, noc_source *source, noc_error *err)
{
    json_t *dataset = NULL;
    char *folder = NULL;
    noc_status status = noc_dataset_load(path, &dataset, err);
    if (status == NOC_OK &&
        (is_layout(layout, "nnunet") || (is_layout(layout, "auto") && is_nnunet(dataset)))) {
        folder = noc_path_folder(path, err);
        status = folder ? read_tree(folder, "nnunet", dataset, source, err) : NOC_ENOMEMORY;
    } else if (status == NOC_OK) {
        status = noc_msd_read(path, dataset, source, err);
        snprintf(source->recognised, sizeof(source->recognised), "dataset.json lists the files");
    }
    free(folder);
    json_decref(dataset);
    return status;
}

static noc_status read_folder(const char *path, const char *layout, noc_source *source, noc_error *err)
{
    struct stat about;
    bool takes_json = is_auto_or(layout, "msd") || is_layout(layout, "nnunet");
    if (is_layout(layout, "list"))
        return noc_fail(err, NOC_EDATA, "%s: a folder; --layout list takes a CSV file", path);
    char *name = noc_path_join(path, "dataset.json", err);
    if (!name)
        return NOC_ENOMEMORY;
    noc_status status;
    if (takes_json && stat(name, &about) == 0)
        status = read_dataset(name, layout, source, err);
    else if (is_layout(layout, "msd"))
        status = noc_fail(err, NOC_EDATA, "%s: no dataset.json in this folder", path);
    else
        status = read_tree(path, layout, NULL, source, err);
    free(name);
    return status;
}

static noc_status read_file(const char *path, const char *layout, noc_source *source, noc_error *err)
{
    if (is_auto_or(layout, "folder") && noc_nifti_is_name(path, NULL)) {
        noc_source_entry entry = {.folder = ".", .layout = "file", .channels = {path}, .channel_count = 1};
        return noc_source_add(source, &entry, err);
    }
    if (has_ending(path, ".json") && (is_auto_or(layout, "msd") || is_layout(layout, "nnunet")))
        return read_dataset(path, layout, source, err);
    if (!is_auto_or(layout, "list"))
        return noc_fail(err, NOC_EDATA, "%s: a file; --layout %s takes a folder", path, layout);
    snprintf(source->recognised, sizeof(source->recognised), "a CSV file");
    return noc_list_read(path, source, err);
}

noc_status noc_layout_read(const char *path, const char *layout, noc_source *source, noc_error *err)
{
    struct stat about;
    if (stat(path, &about) != 0)
        return noc_fail(err, NOC_ENOINPUT, "%s: %s", path, strerror(errno));
    if (S_ISDIR(about.st_mode))
        return read_folder(path, layout, source, err);
    if (S_ISREG(about.st_mode))
        return read_file(path, layout, source, err);
    return noc_fail(err, NOC_EDATA, "%s: neither a folder nor a file", path);
}
