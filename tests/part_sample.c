#include "tests/part_sample.h"

#include "engine/base/sha256.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static noc_label labels[] = {{1, "Anterior"}, {2, "Hippocampe postérieur"}};
static noc_manifest label_model = {.output = NOC_OUTPUT_LABELS, .labels = labels, .label_count = 2};
static noc_manifest region_model = {
    .output = NOC_OUTPUT_REGIONS,
    .regions = {{"whole", {1, 2}, 2}, {"core", {2}, 1}},
    .region_count = 2,
    .paints = {{0, 1}, {1, 2}},
    .paint_count = 2,
};
static const int64_t sizes[SAMPLE_STUDIES][3] = {{35, 51, 35}, {7, 5, 3},      {1, 1, 1},
                                                 {12, 9, 4},   {260, 250, 41}, {2, 33, 17}};

void sample_header(noc_output_kind output, noc_part_header *header)
{
    const noc_configuration configuration = {
        .results = "/elsewhere",
        .model = "sample",
        .model_sha256 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        .window = {48, 64, 48},
        .overlap = 0.625,
        .blend = "gaussian",
        .precision = "f32",
    };
    *header = (noc_part_header){
        .configuration = configuration,
        .manifest = output == NOC_OUTPUT_LABELS ? &label_model : &region_model,
        .device = "cpu (sample)",
        .isa = "avx2",
        .version = "0.1.0 (sample)",
        .output = output,
    };
}

static void sample_grid(int number, noc_grid *grid)
{
    memcpy(grid->size, sizes[number], sizeof grid->size);
    for (int i = 0; i < 3; i++) {
        grid->spacing_mm[i] = 1 + 0.1 * i + number;
        grid->nifti.pixdim[i] = grid->spacing_mm[i];
        grid->nifti.quatern[i] = 0.25 * i;
        grid->nifti.qoffset[i] = -10.5 * i;
        for (int j = 0; j < 4; j++)
            grid->affine[i][j] = grid->nifti.srow[i][j] = i == j ? grid->spacing_mm[i] : 0.125 * j;
    }
    grid->affine[3][3] = 1;
    grid->nifti.version = 1 + number % 2;
    grid->nifti.qform_code = 1;
    grid->nifti.sform_code = 4;
    grid->nifti.qfac = -1;
    grid->nifti.xyzt_units = 10;
}

/* Blobs of labels, with a seed a study. */
static void *sample_voxels(const noc_grid *grid, int bytes, unsigned modulus, unsigned seed)
{
    size_t count = noc_grid_voxels(grid);
    unsigned char *voxels = calloc(count, (size_t)bytes);
    for (size_t i = 0; voxels && i < count; i++) {
        unsigned value = (unsigned)((i / 9 * 2654435761u + seed) >> 13) % modulus;
        memcpy(voxels + i * (size_t)bytes, &value, (size_t)bytes);
    }
    return voxels;
}

static void sample_metric(int number, int label, noc_metric *metric)
{
    bool has_truth = number % 2 == 0;
    *metric = (noc_metric){.has_truth = has_truth,
                           .dice = NAN,
                           .iou = NAN,
                           .precision = NAN,
                           .recall = NAN,
                           .truth_ml = NAN,
                           .prediction_ml = 1.5 * number + label,
                           .volume_similarity = NAN};
    snprintf(metric->label, sizeof metric->label, "%d", label);
    snprintf(metric->name, sizeof metric->name, "%s", labels[label - 1].name);
    if (!has_truth)
        return;
    metric->tp = 100 + (uint64_t)number;
    metric->fp = 7;
    metric->fn = (uint64_t)label;
    metric->tn = UINT64_C(1) << 53;
    metric->dice = 0.1 + 0.1 * label;
    metric->iou = 1.0 / 3;
    metric->truth_ml = 3.25;
}

void sample_entry(noc_output_kind output, int number, noc_part_entry *entry)
{
    noc_outcome *o = &entry->outcome;
    memset(entry, 0, sizeof *entry);
    snprintf(entry->source, sizeof entry->source, "/scans/Müller/study_%03d.nii.gz", number);
    snprintf(o->key, sizeof o->key, "study_%03d", number);
    snprintf(o->source_sha256, sizeof o->source_sha256, "%064d", number);
    snprintf(o->fingerprint, sizeof o->fingerprint, "%d:1700000000000000000", 1000 + number);
    sample_grid(number, &o->grid);
    o->mask_bytes = number == 3 ? 2 : 1;
    o->mask = sample_voxels(&o->grid, o->mask_bytes, number == 3 ? 40000 : 3, (unsigned)number);
    if (output == NOC_OUTPUT_REGIONS) {
        o->region_bytes = number == 5 ? 4 : number == 4 ? 2 : 1;
        o->regions = sample_voxels(&o->grid, o->region_bytes, 4, (unsigned)number);
    }
    noc_sha256_of(o->mask, noc_grid_voxels(&o->grid) * (size_t)o->mask_bytes, o->mask_sha256, NULL);
    if (number % 3 == 1) {
        noc_grid planes = o->grid;
        o->plane_count = output == NOC_OUTPUT_LABELS ? 3 : 2;
        planes.size[2] *= o->plane_count;
        o->probabilities = sample_voxels(&planes, 2, 0x3c01, (unsigned)number);
        noc_sha256_of(o->probabilities, noc_outcome_probability_bytes(o), o->probabilities_sha256, NULL);
    }
    o->metric_count = 2;
    o->metrics = calloc(2, sizeof *o->metrics);
    for (int label = 1; o->metrics && label <= 2; label++)
        sample_metric(number, label, &o->metrics[label - 1]);
    if (number % 3 == 1)
        snprintf(o->suspect, sizeof o->suspect, "Anterior: %d components, expected 1 to 1", number + 1);
    o->windows = 8 + number;
    o->seconds_read = 0.5;
    o->seconds_prepare = 0.25;
    o->seconds_compute = 2.75;
    o->seconds_score = 0.125 * number;
}

void sample_entry_clear(noc_part_entry *entry)
{
    noc_outcome_drop_results(&entry->outcome);
    memset(entry, 0, sizeof *entry);
}

/* ---- parts and catalog ---- */

static noc_status write_round(noc_part_writer *part, noc_output_kind output, int first, int count,
                              noc_error *err)
{
    noc_part_entry *entries = calloc((size_t)count + 1, sizeof *entries);
    if (!entries)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the sample");
    for (int i = 0; i < count; i++)
        sample_entry(output, first + i, &entries[i]);
    noc_status status = noc_part_write(part, entries, count, err);
    for (int i = 0; i < count; i++)
        sample_entry_clear(&entries[i]);
    free(entries);
    return status;
}

static noc_status publish(const char *folder, int64_t number, noc_error *err)
{
    char *open = noc_part_path(folder, number, true, err),
         *closed = noc_part_path(folder, number, false, err);
    noc_status status = open && closed ? NOC_OK : NOC_ENOMEMORY;
    if (status == NOC_OK && rename(open, closed) != 0)
        status = noc_fail(err, NOC_EIO, "%s cannot be renamed", open);
    free(open);
    free(closed);
    return status;
}

noc_status sample_write_part(const char *folder, noc_output_kind output, int64_t number, int first, int count,
                             int64_t *bytes, noc_error *err)
{
    noc_part_header header;
    noc_part_writer *part = NULL;
    sample_header(output, &header);
    noc_status status = noc_part_create(folder, number, &header, MPI_COMM_NULL, &part, err);
    if (status == NOC_OK)
        status = write_round(part, output, first, count / 2, err);
    if (status == NOC_OK)
        status = write_round(part, output, first + count / 2, count - count / 2, err);
    if (status == NOC_OK)
        status = noc_part_close(part, bytes, err);
    return status == NOC_OK ? publish(folder, number, err) : status;
}

static noc_status add_study(noc_catalog *catalog, int number, noc_error *err)
{
    noc_study study = {.layout = "file", .channel_count = 1};
    noc_put what;
    char text[64];
    snprintf(study.key, sizeof study.key, "study_%03d", number);
    snprintf(text, sizeof text, "/scans/study_%03d.nii.gz", number);
    study.channels[0] = strdup(text);
    snprintf(text, sizeof text, "%d:1700000000000000000", 1000 + number);
    study.fingerprint = strdup(text);
    noc_status status = noc_catalog_put_study(catalog, &study, &what, err);
    noc_study_clear(&study);
    return status;
}

noc_status sample_catalog_create(const char *folder, noc_catalog **catalog, int64_t *set, noc_error *err)
{
    char path[1024];
    noc_part_header header;
    snprintf(path, sizeof path, "%s/catalog.sqlite", folder);
    sample_header(NOC_OUTPUT_LABELS, &header);
    snprintf(header.configuration.results, sizeof header.configuration.results, "%s", folder);
    noc_status status = noc_catalog_open(path, NOC_CATALOG_CREATE, catalog, err);
    for (int i = 0; status == NOC_OK && i < SAMPLE_STUDIES; i++)
        status = add_study(*catalog, i, err);
    return status == NOC_OK ? noc_catalog_open_set(*catalog, &header.configuration, set, err) : status;
}

noc_status sample_commit(const char *folder, noc_catalog *catalog, int64_t set, int64_t number, int first,
                         int count, noc_error *err)
{
    noc_part_record part = {0};
    int64_t bytes;
    noc_status status = sample_write_part(folder, NOC_OUTPUT_LABELS, number, first, count, &bytes, err);
    char *path = noc_part_path(folder, number, false, err);
    if (status == NOC_OK)
        status = path ? noc_part_read(path, true, &part, NULL, err) : NOC_ENOMEMORY;
    if (status == NOC_OK)
        status = noc_catalog_commit_part(catalog, set, &part, err);
    noc_part_record_clear(&part);
    free(path);
    return status;
}

/* ---- comparing ---- */

static bool differs(const char *key, const char *what)
{
    fprintf(stderr, "%s: %s differs\n", key, what);
    return false;
}

static bool is_same(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

static bool is_metric(const noc_metric *a, const noc_metric *b)
{
    return strcmp(a->label, b->label) == 0 && strcmp(a->name, b->name) == 0 && a->has_truth == b->has_truth &&
           a->tp == b->tp && a->fp == b->fp && a->fn == b->fn && a->tn == b->tn &&
           is_same(a->dice, b->dice) && is_same(a->iou, b->iou) && is_same(a->precision, b->precision) &&
           is_same(a->recall, b->recall) && is_same(a->truth_ml, b->truth_ml) &&
           is_same(a->prediction_ml, b->prediction_ml) && is_same(a->volume_similarity, b->volume_similarity);
}

bool sample_is_study(const noc_part_entry *entry, const noc_part_study *study)
{
    const noc_outcome *o = &entry->outcome;
    if (strcmp(o->key, study->key) != 0)
        return differs(o->key, "key");
    if (strcmp(o->mask_sha256, study->mask_sha256) != 0)
        return differs(o->key, "the mask's SHA-256");
    if (strcmp(o->source_sha256, study->source_sha256) != 0 ||
        strcmp(o->fingerprint, study->fingerprint) != 0)
        return differs(o->key, "the source");
    if (strcmp(o->suspect, study->suspect) != 0)
        return differs(o->key, "what is suspect");
    if (o->windows != study->windows || o->seconds_read != study->seconds_read ||
        o->seconds_prepare != study->seconds_prepare || o->seconds_compute != study->seconds_compute ||
        o->seconds_score != study->seconds_score)
        return differs(o->key, "the work");
    if (o->metric_count != study->metric_count)
        return differs(o->key, "the number of metrics");
    for (int i = 0; i < o->metric_count; i++)
        if (!is_metric(&o->metrics[i], &study->metrics[i]))
            return differs(o->key, "a metric");
    return true;
}

bool sample_is_outcome(const noc_part_entry *entry, const noc_outcome *outcome)
{
    const noc_outcome *o = &entry->outcome;
    const noc_nifti_geometry *a = &o->grid.nifti, *b = &outcome->grid.nifti;
    size_t voxels = noc_grid_voxels(&o->grid);
    if (!noc_grid_is_same(&o->grid, &outcome->grid, 0) ||
        memcmp(o->grid.spacing_mm, outcome->grid.spacing_mm, sizeof o->grid.spacing_mm) != 0)
        return differs(o->key, "the grid");
    if (a->version != b->version || a->qform_code != b->qform_code || a->sform_code != b->sform_code ||
        a->qfac != b->qfac || a->xyzt_units != b->xyzt_units ||
        memcmp(a->quatern, b->quatern, sizeof a->quatern) ||
        memcmp(a->qoffset, b->qoffset, sizeof a->qoffset) || memcmp(a->srow, b->srow, sizeof a->srow) ||
        memcmp(a->pixdim, b->pixdim, sizeof a->pixdim))
        return differs(o->key, "the NIfTI header");
    if (o->mask_bytes != outcome->mask_bytes || o->region_bytes != outcome->region_bytes ||
        memcmp(o->mask, outcome->mask, voxels * (size_t)o->mask_bytes) != 0)
        return differs(o->key, "the mask");
    if (o->region_bytes > 0 && memcmp(o->regions, outcome->regions, voxels * (size_t)o->region_bytes) != 0)
        return differs(o->key, "the regions");
    if (o->plane_count != outcome->plane_count ||
        strcmp(o->probabilities_sha256, outcome->probabilities_sha256) != 0 ||
        !o->probabilities != !outcome->probabilities ||
        (o->probabilities &&
         memcmp(o->probabilities, outcome->probabilities, noc_outcome_probability_bytes(o)) != 0))
        return differs(o->key, "the probabilities");
    return strcmp(o->mask_sha256, outcome->mask_sha256) == 0 || differs(o->key, "the SHA-256");
}
