/* Scanning: which studies a path names, their headers, and all of them into the catalog in one transaction.
 *
 * Headers are read by several threads: on a network file system a scan waits for answers, not for work. A
 * header that cannot be read leaves the shape unknown and keeps its reason to itself; the run finds it
 * again and records it. */
#include "catalog/scan.h"

#include "catalog/database.h"
#include "catalog/source.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/base/pool.h"
#include "engine/base/text.h"
#include "engine/volume/nifti.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 8 };

/* ---- files ---- */

static void add_fingerprint(noc_text *text, const char *path)
{
    int64_t size, mtime_ns;
    const char *comma = text->size > 0 ? ";" : "";
    if (noc_file_fingerprint(path, &size, &mtime_ns, NULL) == NOC_OK)
        noc_text_add(text, "%s%lld:%lld", comma, (long long)size, (long long)mtime_ns);
    else
        noc_text_add(text, "%smissing", comma);
}

static void take_fingerprint(noc_study *study)
{
    noc_text text = {0};
    for (int i = 0; i < study->channel_count; i++)
        add_fingerprint(&text, study->channels[i]);
    if (study->truth)
        add_fingerprint(&text, study->truth);
    study->fingerprint = text.failed ? NULL : text.data;
    if (text.failed)
        noc_text_free(&text);
}

/* NOC_ENOMEMORY only: what else is wrong with a file is the run's question. */
static noc_status read_headers(noc_study *study)
{
    /* Whether a missing affine is accepted is the run's question; the shape is known either way. */
    const noc_nifti_options options = {.assume_ras = true};
    study->has_shape = true;
    study->voxel_bytes = 0;
    for (int i = 0; i < study->channel_count && study->has_shape; i++) {
        noc_nifti_header header;
        noc_status status = noc_nifti_read_header(study->channels[i], &options, &header, NULL);
        if (status == NOC_ENOMEMORY)
            return status;
        study->has_shape = status == NOC_OK;
        if (!study->has_shape)
            break;
        study->voxel_bytes += (int64_t)header.voxel_bytes;
        if (i == 0) {
            memcpy(study->size, header.grid.size, sizeof(study->size));
            memcpy(study->spacing_mm, header.grid.spacing_mm, sizeof(study->spacing_mm));
        }
    }
    if (!study->has_shape) {
        study->voxel_bytes = 0;
        memset(study->size, 0, sizeof(study->size));
        memset(study->spacing_mm, 0, sizeof(study->spacing_mm));
    }
    return NOC_OK;
}

/* Without memory the study has no fingerprint. */
static void look_at(void *argument, int i, int thread)
{
    noc_study *study = (noc_study *)argument + i;
    (void)thread;
    free(study->fingerprint);
    study->fingerprint = NULL;
    if (read_headers(study) == NOC_OK)
        take_fingerprint(study);
}

static noc_status look_at_all(noc_source *source, noc_error *err)
{
    noc_pool *pool = NULL;
    int threads = source->count < THREADS ? (int)source->count : THREADS;
    noc_status status = noc_pool_create(threads, &pool, err);
    if (status != NOC_OK)
        return status;
    noc_pool_run(pool, (int)source->count, look_at, source->studies);
    noc_pool_free(pool);
    for (size_t i = 0; i < source->count; i++) {
        if (!source->studies[i].fingerprint)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for the list of studies");
    }
    return NOC_OK;
}

/* ---- the catalog ---- */

/* A file named alone says nothing about truths or further channels: what a list said of it before stays. */
static noc_status keep_what_is_known(noc_catalog *catalog, noc_study *study, noc_error *err)
{
    noc_study known = {0};
    bool found = false;
    noc_status status = noc_catalog_find_image(catalog, study->channels[0], &found, &known, err);
    if (status != NOC_OK || !found)
        return status;
    noc_study_clear(study);
    *study = known;
    look_at(study, 0, 0);
    return study->fingerprint ? NOC_OK : noc_fail(err, NOC_ENOMEMORY, "no memory for a study");
}

/* Files of one name in many folders are the rule; a key that somebody gave will be looked for. */
static void warn_of_other_key(noc_source *source, const char *wanted, const noc_study *study)
{
    char plain[NOC_STUDY_KEY];
    noc_study_key_from_name(study->channels[0], plain);
    if (strcmp(wanted, study->key) != 0 && strcmp(wanted, plain) != 0)
        noc_source_warn(source, "key %s is taken by another image: this study becomes %s", wanted,
                        study->key);
}

static noc_status put_one(noc_catalog *catalog, noc_source *source, noc_study *study, noc_scan_report *report,
                          noc_error *err)
{
    noc_put what = NOC_PUT_UNCHANGED;
    noc_status status = NOC_OK;
    char wanted[NOC_STUDY_KEY];
    if (strcmp(study->layout, "file") == 0)
        status = keep_what_is_known(catalog, study, err);
    memcpy(wanted, study->key, sizeof(wanted));
    if (status == NOC_OK)
        status = noc_catalog_put_study(catalog, study, &what, err);
    if (status != NOC_OK)
        return status;
    warn_of_other_key(source, wanted, study);
    report->added += what == NOC_PUT_ADDED;
    report->changed += what == NOC_PUT_CHANGED;
    report->unchanged += what == NOC_PUT_UNCHANGED;
    report->unreadable += !study->has_shape;
    return NOC_OK;
}

static noc_status put_all(noc_catalog *catalog, noc_source *source, noc_scan_report *report, noc_error *err)
{
    bool is_own;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    for (size_t i = 0; i < source->count && status == NOC_OK; i++)
        status = put_one(catalog, source, &source->studies[i], report, err);
    return noc_database_leave(catalog, is_own, status, err);
}

noc_status noc_scan(noc_catalog *catalog, const char *path, const noc_scan_options *options,
                    noc_scan_report *report, noc_error *err)
{
    noc_source source = {.options = options};
    noc_scan_report made = {0};
    noc_status status = noc_layout_read(path, options->layout ? options->layout : "auto", &source, err);
    if (status == NOC_OK)
        status = look_at_all(&source, err);
    if (status == NOC_OK) {
        snprintf(made.layout, sizeof(made.layout), "%s", source.studies[0].layout);
        status = put_all(catalog, &source, &made, err);
    }
    made.warnings = source.warnings;
    made.has_order = source.has_order;
    snprintf(made.recognised, sizeof(made.recognised), "%s", source.recognised);
    noc_source_clear(&source);
    if (status == NOC_OK && report)
        *report = made;
    return status;
}
