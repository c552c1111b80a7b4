/* nocturne infer: one scan, through the same worker as a run, so that its mask is the same. */
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/volume/nifti.h"
#include "pipeline/command.h"
#include "pipeline/opening.h"
#include "worker/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static noc_status check_arguments(const noc_settings *settings, noc_error *err)
{
    noc_status status = noc_opening_paths(settings, false, err);

    if (status != NOC_OK)
        return status;
    size_t n = strlen(settings->output);
    bool is_nifti = (n > 4 && strcmp(settings->output + n - 4, ".nii") == 0) ||
                    (n > 7 && strcmp(settings->output + n - 7, ".nii.gz") == 0);
    if (!is_nifti)
        return noc_fail(err, NOC_EUSAGE, "%s: the mask's name must end in .nii or .nii.gz", settings->output);
    if (settings->argument_count < 1)
        return noc_fail(err, NOC_EUSAGE, "which scan? give its file, or one file a channel");
    if (settings->argument_count > NOC_STUDY_CHANNELS)
        return noc_fail(err, NOC_EUSAGE, "%d files, a scan has at most %d channels", settings->argument_count,
                        (int)NOC_STUDY_CHANNELS);
    return noc_opening_files(settings, err);
}

/* The worker's only study, waited for. */
static noc_status segment(const noc_settings *settings, noc_engine *engine, noc_outcome **outcome,
                          noc_error *err)
{
    noc_worker *worker;
    noc_study study = {.key = "scan", .layout = "file", .channel_count = settings->argument_count};
    noc_worker_options options = {.memory = noc_opening_memory(settings),
                                  .study_timeout_s = settings->study_timeout_s,
                                  .assume_ras = settings->assume_ras};
    noc_status status = noc_worker_create(engine, &options, &worker, err);

    if (status != NOC_OK)
        return status;
    for (int i = 0; i < study.channel_count; i++)
        study.channels[i] = settings->arguments[i];
    status = noc_worker_submit(worker, &study, 0, err);
    noc_outcome *o = NULL;
    while (status == NOC_OK && !(o = noc_worker_take(worker)))
        noc_clock_sleep(0.005);
    noc_worker_free(worker);
    if (status != NOC_OK)
        return status;
    if (o->failure.status != NOC_OK) {
        status = noc_fail(err, o->failure.status, "%s", o->failure.text);
        noc_outcome_free(o);
        return status;
    }
    *outcome = o;
    return NOC_OK;
}

static uint64_t count_label(const noc_outcome *o, int label)
{
    size_t voxels = noc_grid_voxels(&o->grid);
    uint64_t count = 0;

    for (size_t i = 0; i < voxels; i++)
        count +=
            label == (o->mask_bytes == 1 ? ((const uint8_t *)o->mask)[i] : ((const uint16_t *)o->mask)[i]);
    return count;
}

static void add_label(noc_text *text, bool as_json, bool is_first, int label, const char *name,
                      uint64_t voxels)
{
    if (!as_json) {
        noc_text_add(text, ", %d (%s) %llu voxels", label, name, (unsigned long long)voxels);
        return;
    }
    noc_text_add(text, "%s{\"label\":%d,\"name\":", is_first ? "" : ",", label);
    noc_text_add_json(text, name);
    noc_text_add(text, ",\"voxels\":%llu}", (unsigned long long)voxels);
}

/* Painted labels of a region model go by the name of the region that paints them. */
static void add_labels(noc_text *text, bool as_json, const noc_manifest *m, const noc_outcome *o)
{
    if (m->output == NOC_OUTPUT_LABELS) {
        for (int i = 0; i < m->label_count; i++)
            add_label(text, as_json, i == 0, m->labels[i].index, m->labels[i].name,
                      count_label(o, m->labels[i].index));
        return;
    }
    for (int i = 0; i < m->paint_count; i++)
        add_label(text, as_json, i == 0, m->paints[i].label, m->regions[m->paints[i].region].name,
                  count_label(o, m->paints[i].label));
}

/* OUT.nii.gz -> OUT_probabilities.nii.gz, newly allocated. */
static char *probabilities_path(const char *output, noc_error *err)
{
    noc_text path = {0};
    size_t stem = strlen(output);

    noc_nifti_is_name(output, &stem);
    noc_text_add(&path, "%.*s_probabilities%s", (int)stem, output, output + stem);
    if (path.failed) {
        noc_text_free(&path);
        noc_fail(err, NOC_ENOMEMORY, "no memory for a path");
        return NULL;
    }
    return path.data;
}

static noc_status write_probabilities(const noc_settings *settings, const noc_outcome *o, const char *descrip,
                                      noc_error *err)
{
    void *packed;
    size_t size;
    char *path = probabilities_path(settings->output, err);
    noc_status status = path ? noc_nifti_pack_probabilities(path, &o->grid, o->plane_count, o->probabilities,
                                                            descrip, &packed, &size, err)
                             : NOC_ENOMEMORY;

    if (status == NOC_OK) {
        status = noc_file_replace(path, packed, size, err);
        free(packed);
    }
    free(path);
    return status;
}

static noc_status print(const noc_settings *settings, const noc_manifest *manifest, const noc_outcome *o,
                        double seconds, noc_error *err)
{
    noc_text text = {0};

    if (settings->json) {
        noc_text_add(&text, "{\"output\":");
        noc_text_add_json(&text, settings->output);
        noc_text_add(&text,
                     ",\"mask_sha256\":\"%s\",\"seconds\":%.3f,\"seconds_compute\":%.3f,\"windows\":%lld,"
                     "\"labels\":[",
                     o->mask_sha256, seconds, o->seconds_compute, (long long)o->windows);
        add_labels(&text, true, manifest, o);
        noc_text_add(&text, "]");
        if (o->probabilities) {
            char *path = probabilities_path(settings->output, NULL);
            noc_text_add(&text, ",\"probabilities\":");
            noc_text_add_json(&text, path);
            free(path);
        }
        if (o->suspect[0]) {
            noc_text_add(&text, ",\"suspect\":");
            noc_text_add_json(&text, o->suspect);
        }
        noc_text_add(&text, "}\n");
    } else {
        noc_text_add(&text, "%s: %.1f s, %lld windows", settings->output, seconds, (long long)o->windows);
        add_labels(&text, false, manifest, o);
        if (o->suspect[0])
            noc_text_add(&text, "; suspect: %s", o->suspect);
        noc_text_add(&text, "\n");
    }
    noc_status status = noc_opening_print(&text, err);
    noc_text_free(&text);
    return status;
}

static noc_status infer(const noc_settings *settings, noc_error *err)
{
    noc_model *model = NULL;
    noc_engine *engine = NULL;
    noc_outcome *outcome = NULL;
    char descrip[80];
    noc_status status = check_arguments(settings, err);

    if (status == NOC_OK)
        status = noc_opening_model(settings, &model, err);
    if (status == NOC_OK)
        status = noc_opening_engine(settings, model, &engine, err);
    double start = noc_clock_monotonic();
    if (status == NOC_OK)
        status = segment(settings, engine, &outcome, err);
    if (status == NOC_OK) {
        snprintf(descrip, sizeof descrip, "nocturne %s", noc_version());
        noc_voxel_type type =
            outcome->mask_bytes == 1 ? NOC_VOXEL_U8 : NOC_VOXEL_U16; /* NOLINT: there is one */
        status = noc_nifti_write_labels(settings->output, &outcome->grid, type, outcome->mask, descrip, err);
        if (status == NOC_OK && outcome->probabilities)
            status = write_probabilities(settings, outcome, descrip, err);
    }
    if (status == NOC_OK)
        status = print(settings, model->manifest, outcome, noc_clock_monotonic() - start, err);
    noc_outcome_free(outcome);
    noc_engine_close(engine);
    noc_model_free(model);
    return status;
}

int noc_command_infer(const noc_settings *settings)
{
    noc_error err;

    return infer(settings, &err) == NOC_OK ? 0 : noc_command_fail(&err);
}
