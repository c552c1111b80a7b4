/* nocturne export: masks as NIfTI files on the grids of their scans, from the results alone. */
#include "pipeline/command.h"

#include "engine/base/file.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/volume/nifti.h"
#include "pipeline/result_folder.h"
#include "pipeline/results.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static noc_status check_settings(const noc_settings *settings, noc_error *err)
{
    if (settings->format && strcmp(settings->format, "plain") != 0)
        return noc_fail(err, NOC_EUSAGE, "--format %s: `plain` is what this version writes",
                        settings->format);
    if (!settings->output)
        return noc_fail(err, NOC_EUSAGE, "where to? give a folder with --output");
    return NOC_OK;
}

static noc_status write_mask(const noc_outcome *outcome, const char *target, noc_error *err)
{
    char name[NOC_STUDY_KEY + 16], descrip[80];
    snprintf(name, sizeof name, "%s.nii.gz", outcome->key);
    snprintf(descrip, sizeof descrip, "nocturne %.60s", noc_version());
    char *path = noc_path_join(target, name, err);
    if (!path)
        return NOC_ENOMEMORY;
    noc_status status =
        noc_nifti_write_labels(path, &outcome->grid, outcome->mask_bytes == 2 ? NOC_VOXEL_U16 : NOC_VOXEL_U8,
                               outcome->mask, descrip, err);
    free(path);
    return status;
}

static noc_status export_study(const noc_result_folder *folder, const noc_done *done, const char *target,
                               noc_error *err)
{
    noc_outcome *outcome = NULL;
    char *path = noc_part_path(folder->path, done->part, false, err);
    if (!path)
        return NOC_ENOMEMORY;
    noc_status status = noc_part_read_study(path, done->key, &outcome, err);
    if (status == NOC_OK)
        status = write_mask(outcome, target, err);
    noc_outcome_free(outcome);
    free(path);
    return status;
}

/* A part that cannot be read costs its masks; a target that cannot be written ends it. */
static noc_status export_all(const noc_result_folder *folder, const noc_done *list, size_t count,
                             const char *target, noc_error *err)
{
    size_t written = 0;
    noc_status first = NOC_OK;
    for (size_t i = 0; i < count; i++) {
        noc_error why = {.status = NOC_OK};
        noc_status status = export_study(folder, &list[i], target, &why);
        written += status == NOC_OK;
        if (status == NOC_OK)
            continue;
        if (first == NOC_OK) {
            first = status;
            *err = why;
        }
        if (status != NOC_EDATA)
            break;
        noc_log(NOC_LOG_ERROR, "%s: not exported: %s", list[i].key, why.text);
    }
    printf("exported %zu masks to %s\n", written, target);
    return first;
}

static noc_status run(const noc_settings *settings, noc_error *err)
{
    noc_result_folder folder = {0};
    noc_done *list = NULL;
    size_t count = 0;
    noc_status status = check_settings(settings, err);
    if (status == NOC_OK)
        status = noc_result_folder_open(settings, &folder, err);
    if (status == NOC_OK)
        status = noc_result_folder_done(&folder, settings->only, &list, &count, err);
    if (status == NOC_OK && count == 0 && settings->only)
        status = noc_fail(err, NOC_ENOINPUT, "no study that is done matches \"%s\"", settings->only);
    if (status == NOC_OK)
        status = noc_folder_create(settings->output, err);
    if (status == NOC_OK)
        status = export_all(&folder, list, count, settings->output, err);
    noc_done_free(list, count);
    noc_result_folder_close(&folder);
    return status;
}

int noc_command_export(const noc_settings *settings)
{
    noc_error err = {.status = NOC_OK};
    return run(settings, &err) == NOC_OK ? 0 : noc_command_fail(&err);
}
