/* nocturne export: masks as NIfTI files on the grids of their scans, from the results alone. */
#include "pipeline/command.h"
#include "pipeline/export.h"

#include "engine/base/file.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"

#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Keys that differ may have one name in BIDS. */
static noc_status take_name(noc_export *all, const char *name, noc_error *err)
{
    char *mark = noc_strdup(name, err);
    char **node = mark ? tsearch(mark, &all->taken, compare_names) : NULL;
    if (node && *node == mark)
        return NOC_OK;
    free(mark);
    if (!node)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the list of masks");
    return noc_fail(err, NOC_EDATA, "another study has the name %s in BIDS; --format plain has a file a key",
                    name);
}

static noc_status export_study(noc_export *all, size_t i, noc_error *err)
{
    char name[NOC_EXPORT_NAME];
    noc_outcome *outcome = NULL;
    char *path = noc_part_path(all->folder.path, all->done[i].part, false, err);
    if (!path)
        return NOC_ENOMEMORY;
    noc_export_name(all, all->done[i].key, name);
    noc_status status = take_name(all, name, err);
    if (status == NOC_OK)
        status = noc_part_read_study(path, all->done[i].key, all->settings->probabilities, &outcome, err);
    if (status == NOC_OK)
        status = noc_export_mask(all, outcome, name, &all->written[i], err);
    if (status == NOC_OK && outcome->probabilities) {
        status = noc_export_probabilities(all, outcome, name, err);
        all->probabilities += status == NOC_OK;
    }
    noc_outcome_free(outcome);
    free(path);
    return status;
}

/* A part that cannot be read costs its masks; a target that cannot be written ends it. */
static noc_status export_all(noc_export *all, noc_error *err)
{
    size_t written = 0;
    noc_status first = NOC_OK;
    for (size_t i = 0; i < all->count; i++) {
        noc_error why = {.status = NOC_OK};
        noc_status status = export_study(all, i, &why);
        written += status == NOC_OK;
        if (status == NOC_OK)
            continue;
        if (first == NOC_OK) {
            first = status;
            *err = why;
        }
        if (status != NOC_EDATA)
            break;
        noc_log(NOC_LOG_ERROR, "%s: not exported: %s", all->done[i].key, why.text);
    }
    printf("exported %zu masks", written);
    if (all->settings->probabilities)
        printf(", %zu with probabilities,", all->probabilities);
    printf(" to %s\n", all->settings->output);
    if (first == NOC_OK && all->settings->probabilities && written > 0 && all->probabilities == 0)
        return noc_fail(
            err, NOC_ENOINPUT,
            "no study here has probabilities: they are stored by nocturne run --save-probabilities");
    return first;
}

static noc_status open_all(noc_export *all, noc_error *err)
{
    const noc_settings *s = all->settings;
    if (!s->output)
        return noc_fail(err, NOC_EUSAGE, "where to? give a folder with --output");
    all->is_bids = strcmp(s->format, "bids") == 0;
    all->is_nnunet = strcmp(s->format, "nnunet") == 0;
    noc_status status = noc_result_folder_open(s, &all->folder, err);
    if (status == NOC_OK)
        status = noc_result_folder_done(&all->folder, s->only, &all->done, &all->count, err);
    if (status == NOC_OK && all->count == 0 && s->only)
        status = noc_fail(err, NOC_ENOINPUT, "no study that is done matches \"%s\"", s->only);
    if (status != NOC_OK)
        return status;
    char *output = noc_path_join(s->output, all->is_bids ? "derivatives/nocturne" : "", err);
    all->target = output ? noc_path_absolute(output, err) : NULL;
    all->written = noc_alloc_zeroed(all->count, sizeof *all->written, err);
    free(output);
    return all->target && all->written ? noc_folder_create(all->target, err) : NOC_ENOMEMORY;
}

static void close_all(noc_export *all)
{
    for (size_t i = 0; all->written && i < all->count; i++)
        free(all->written[i]);
    free(all->written);
    free(all->target);
    tdestroy(all->taken, free);
    noc_done_free(all->done, all->count);
    noc_result_folder_close(&all->folder);
}

int noc_command_export(const noc_settings *settings)
{
    noc_export all = {.settings = settings};
    noc_error err = {.status = NOC_OK}, why;
    noc_status status = open_all(&all, &err);
    if (status == NOC_OK)
        status = noc_export_describe(&all, &err);
    if (status == NOC_OK)
        status = export_all(&all, &err);
    if (status == NOC_OK || status == NOC_EDATA) {
        noc_status last = noc_export_summarise(&all, &why);
        if (status == NOC_OK && (status = last) != NOC_OK)
            err = why;
    }
    close_all(&all);
    return status == NOC_OK ? 0 : noc_command_fail(&err);
}
