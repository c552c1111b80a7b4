/* Names and texts of exported folders. */
#include "pipeline/export.h"

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/base/text.h"
#include "engine/volume/nifti.h"
#include "pipeline/command.h"
#include "pipeline/evaluate.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- names ---- */

/* Length of an entity ("sub-01") at text, whose value has letters and digits alone; 0: there is none. */
static size_t entity_length(const char *text, const char *entity)
{
    size_t length = strlen(entity), first = length;
    if (strncmp(text, entity, length) != 0)
        return 0;
    while (isalnum((unsigned char)text[length]))
        length++;
    return length > first && (text[length] == '_' || text[length] == 0) ? length : 0;
}

/* The key's letters and digits. */
static void subject_of(const char *key, char subject[NOC_STUDY_KEY])
{
    size_t n = 0;
    for (; *key; key++)
        if (isalnum((unsigned char)*key))
            subject[n++] = *key;
    if (n == 0)
        subject[n++] = '0';
    subject[n] = 0;
}

void noc_export_name(const noc_export *all, const char *key, char name[NOC_EXPORT_NAME])
{
    size_t sub = entity_length(key, "sub-");
    size_t ses = sub && key[sub] ? entity_length(key + sub + 1, "ses-") : 0;
    char subject[NOC_STUDY_KEY];
    if (!all->is_bids) {
        snprintf(name, NOC_EXPORT_NAME, "%s.nii.gz", key);
    } else if (sub && key[sub] == 0) {
        snprintf(name, NOC_EXPORT_NAME, "%s/anat/%s_dseg.nii.gz", key, key);
    } else if (ses && key[sub + 1 + ses] == 0) {
        snprintf(name, NOC_EXPORT_NAME, "%.*s/%s/anat/%s_dseg.nii.gz", (int)sub, key, key + sub + 1, key);
    } else {
        subject_of(key, subject);
        snprintf(name, NOC_EXPORT_NAME, "sub-%s/anat/sub-%s_dseg.nii.gz", subject, subject);
    }
}

/* ---- files ---- */

/* A file that is there stays: the same, or not without --force. */
static noc_status put_file(const noc_export *all, const char *path, const void *data, size_t size,
                           noc_error *err)
{
    noc_mapping old = {0};
    if (all->settings->force || access(path, F_OK) != 0)
        return noc_file_replace(path, data, size, err);
    bool is_same = noc_file_map(path, &old, NULL) == NOC_OK && old.size == size &&
                   (size == 0 || memcmp(old.data, data, size) == 0);
    noc_file_unmap(&old);
    return is_same ? NOC_OK
                   : noc_fail(err, NOC_ECANTCREATE, "%s: a file that differs is there; --force replaces it",
                              path);
}

static noc_status pack_mask(const noc_outcome *o, const char *path, const char *descrip, void **packed,
                            size_t *size, noc_error *err)
{
    return noc_nifti_pack_labels(path, &o->grid, o->mask_bytes == 2 ? NOC_VOXEL_U16 : NOC_VOXEL_U8, o->mask,
                                 descrip, packed, size, err);
}

static noc_status pack_probabilities(const noc_outcome *o, const char *path, const char *descrip,
                                     void **packed, size_t *size, noc_error *err)
{
    return noc_nifti_pack_probabilities(path, &o->grid, o->plane_count, o->probabilities, descrip, packed,
                                        size, err);
}

/* A file of the study below the target. *path: newly allocated. */
static noc_status export_file(const noc_export *all, const noc_outcome *outcome, const char *name,
                              noc_status (*pack)(const noc_outcome *o, const char *path, const char *descrip,
                                                 void **packed, size_t *size, noc_error *err),
                              char **path, noc_error *err)
{
    char descrip[80];
    void *packed;
    size_t size;
    char *made = noc_path_join(all->target, name, err);
    char *folder = made ? noc_path_folder(made, err) : NULL;
    noc_status status = folder ? noc_folder_create(folder, err) : NOC_ENOMEMORY;
    snprintf(descrip, sizeof descrip, "nocturne %.60s", noc_version());
    if (status == NOC_OK && (status = pack(outcome, made, descrip, &packed, &size, err)) == NOC_OK) {
        status = put_file(all, made, packed, size, err);
        free(packed);
    }
    free(folder);
    if (status == NOC_OK)
        *path = made;
    else
        free(made);
    return status;
}

noc_status noc_export_mask(const noc_export *all, const noc_outcome *outcome, const char *name, char **path,
                           noc_error *err)
{
    return export_file(all, outcome, name, pack_mask, path, err);
}

noc_status noc_export_probabilities(const noc_export *all, const noc_outcome *outcome, const char *name,
                                    noc_error *err)
{
    char other[NOC_EXPORT_NAME], *path;
    if (all->is_bids)
        snprintf(other, sizeof other, "%.*s_probseg.nii.gz", (int)(strlen(name) - strlen("_dseg.nii.gz")),
                 name);
    else
        snprintf(other, sizeof other, "probabilities/%s", name);
    noc_status status = export_file(all, outcome, other, pack_probabilities, &path, err);
    if (status == NOC_OK)
        free(path);
    return status;
}

/* Frees the text. */
static noc_status write_text(const noc_export *all, const char *name, noc_text *text, noc_error *err)
{
    char *path = noc_path_join(all->target, name, err);
    noc_status status = path ? NOC_OK : NOC_ENOMEMORY;
    if (status == NOC_OK && text->failed)
        status = noc_fail(err, NOC_ENOMEMORY, "no memory for %s", name);
    if (status == NOC_OK)
        status = put_file(all, path, text->data, text->size, err);
    noc_text_free(text);
    free(path);
    return status;
}

/* ---- texts ---- */

/* Of the first mask that can be read; none: no labels. */
static noc_status read_labels(const noc_export *all, noc_label **labels, int *count, noc_error *err)
{
    noc_status status = NOC_EDATA;
    *labels = NULL;
    *count = 0;
    for (size_t i = 0; i < all->count && status == NOC_EDATA; i++) {
        char *path = noc_part_path(all->folder.path, all->done[i].part, false, err);
        if (!path)
            return NOC_ENOMEMORY;
        status = noc_part_read_labels(path, all->done[i].key, labels, count, err);
        free(path);
    }
    return status == NOC_EDATA ? NOC_OK : status;
}

static noc_status describe_bids(const noc_export *all, const noc_label *labels, int count, noc_error *err)
{
    noc_text text = {0}, table = {0};
    char configuration[512];
    noc_configuration_describe(&all->folder.configuration, configuration, sizeof configuration);
    noc_text_add(&text, "{\n  \"Name\": \"Segmentations by nocturne\",\n  \"BIDSVersion\": \"1.9.0\",\n"
                        "  \"DatasetType\": \"derivative\",\n  \"GeneratedBy\": [\n"
                        "    {\"Name\": \"nocturne\", \"Version\": ");
    noc_text_add_json(&text, noc_version());
    noc_text_add(&text, ", \"Description\": ");
    noc_text_add_json(&text, configuration);
    noc_text_add(&text, "}\n  ]\n}\n");
    noc_text_add(&table, "index\tname\n0\tbackground\n");
    for (int i = 0; i < count; i++)
        noc_text_add(&table, "%d\t%s\n", labels[i].index, labels[i].name);
    noc_status status = write_text(all, "dataset_description.json", &text, err);
    if (status == NOC_OK)
        status = write_text(all, "dseg.tsv", &table, err);
    noc_text_free(&table);
    return status;
}

static noc_status describe_nnunet(const noc_export *all, const noc_label *labels, int count, noc_error *err)
{
    noc_text text = {0};
    noc_text_add(&text, "{\n    \"labels\": {\n        \"background\": 0");
    for (int i = 0; i < count; i++) {
        noc_text_add(&text, ",\n        ");
        noc_text_add_json(&text, labels[i].name);
        noc_text_add(&text, ": %d", labels[i].index);
    }
    noc_text_add(&text, "\n    },\n    \"file_ending\": \".nii.gz\"\n}\n");
    return write_text(all, "dataset.json", &text, err);
}

noc_status noc_export_describe(const noc_export *all, noc_error *err)
{
    noc_label *labels = NULL;
    int count = 0;
    noc_status status = NOC_OK;
    if (!all->is_bids && !all->is_nnunet)
        return NOC_OK;
    status = read_labels(all, &labels, &count, err);
    if (status == NOC_OK && all->is_bids)
        status = describe_bids(all, labels, count, err);
    if (status == NOC_OK && all->is_nnunet)
        status = describe_nnunet(all, labels, count, err);
    noc_part_labels_free(labels, count);
    return status;
}

/* The stored metrics of a study as an evaluation of its mask; what was not written is no case. */
static noc_status fill_case(const noc_export *all, noc_case *c, noc_error *err)
{
    const noc_done *done = c->done;
    const char *path = all->written[done - all->done];
    int count = done->metric_count;
    if (!path || count == 0 || count != all->done[0].metric_count || !done->metrics[0].has_truth) {
        c->failure.status = NOC_EDATA;
        return NOC_OK;
    }
    c->prediction = noc_strdup(path, err);
    c->scores = noc_alloc_zeroed((size_t)count, sizeof *c->scores, err);
    if (!c->prediction || !c->scores)
        return NOC_ENOMEMORY;
    c->score_count = count;
    for (int m = 0; m < count; m++)
        c->scores[m].metric = done->metrics[m];
    return NOC_OK;
}

static noc_status write_summary(const noc_export *all, noc_evaluate *made, noc_error *err)
{
    noc_values *values = NULL;
    noc_text text = {0};
    noc_status status =
        noc_evaluate_stored_classes(made, all->done[0].metrics, all->done[0].metric_count, err);
    if (status == NOC_OK)
        status = noc_case_list_stored(all->done, all->count, &made->list, err);
    for (size_t i = 0; status == NOC_OK && i < made->list.count; i++)
        status = fill_case(all, &made->list.cases[i], err);
    if (status == NOC_OK)
        status = noc_values_create(made, NULL, &values, err);
    if (status == NOC_OK) {
        noc_values_add_summary(values, &text);
        status = write_text(all, "summary.json", &text, err);
    }
    noc_values_free(values);
    return status;
}

noc_status noc_export_summarise(const noc_export *all, noc_error *err)
{
    noc_evaluate made = {.settings = all->settings};
    bool has_truth = false;
    for (size_t i = 0; i < all->count; i++)
        has_truth |= all->done[i].truth && all->written[i];
    if (!all->is_nnunet || !has_truth)
        return NOC_OK;
    noc_status status = write_summary(all, &made, err);
    noc_case_list_clear(&made.list);
    free(made.labels);
    return status;
}
