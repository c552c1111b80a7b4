/* Counts of all labels in one pass. Every stored label is looked up once as a set of classes (bit c: it
 * belongs to label or region c), so labels and overlapping regions are counted alike. */
#include "worker/score.h"

#include "engine/base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 4096, TABLE = 65536 };

/* One class is a label or a region. Labels of a label model exclude each other, so a voxel is in at most
 * one of them; regions overlap. */
typedef struct counter {
    int class_count;
    bool has_regions;
    int32_t *class_of;                 /* [TABLE] labels: class + 1 of a stored label, or 0 */
    uint32_t *regions_of;              /* [TABLE] regions: bits of a stored label */
    uint64_t *tp, *truth, *prediction; /* [class_count] */
} counter;

static int class_count_of(const noc_manifest *manifest)
{
    return manifest->output == NOC_OUTPUT_REGIONS ? manifest->region_count : manifest->label_count;
}

static void counter_clear(counter *c)
{
    free(c->class_of);
    free(c->regions_of);
    free(c->tp);
    free(c->truth);
    free(c->prediction);
}

static void fill_tables(counter *c, const noc_manifest *manifest)
{
    if (!c->has_regions) {
        for (int i = 0; i < manifest->label_count; i++)
            if (manifest->labels[i].index > 0 && manifest->labels[i].index < TABLE)
                c->class_of[manifest->labels[i].index] = i + 1;
        return;
    }
    for (int r = 0; r < manifest->region_count; r++)
        for (int t = 0; t < manifest->regions[r].truth_label_count; t++) {
            int label = manifest->regions[r].truth_labels[t];
            if (label >= 0 && label < TABLE)
                c->regions_of[label] |= (uint32_t)1 << r;
        }
}

static noc_status counter_create(counter *c, const noc_manifest *manifest, noc_error *err)
{
    memset(c, 0, sizeof *c);
    c->class_count = class_count_of(manifest);
    c->has_regions = manifest->output == NOC_OUTPUT_REGIONS;
    size_t n = (size_t)c->class_count;
    c->tp = noc_alloc_zeroed(n, sizeof *c->tp, err);
    c->truth = noc_alloc_zeroed(n, sizeof *c->truth, err);
    c->prediction = noc_alloc_zeroed(n, sizeof *c->prediction, err);
    if (c->has_regions)
        c->regions_of = noc_alloc_zeroed(TABLE, sizeof *c->regions_of, err);
    else
        c->class_of = noc_alloc_zeroed(TABLE, sizeof *c->class_of, err);
    if (!c->tp || !c->truth || !c->prediction ||
        !(c->has_regions ? (void *)c->regions_of : (void *)c->class_of)) {
        counter_clear(c);
        return NOC_ENOMEMORY;
    }
    fill_tables(c, manifest);
    return NOC_OK;
}

static uint32_t element(const void *data, int bytes, size_t i)
{
    if (bytes == 1)
        return ((const uint8_t *)data)[i];
    return bytes == 2 ? ((const uint16_t *)data)[i] : ((const uint32_t *)data)[i];
}

static uint32_t stored_label(double value)
{
    return value >= 0 && value < TABLE ? (uint32_t)value : 0;
}

static void count_label(counter *c, uint32_t truth, uint32_t prediction)
{
    int t = c->class_of[truth], p = c->class_of[prediction];

    if (t > 0)
        c->truth[t - 1]++;
    if (p > 0)
        c->prediction[p - 1]++;
    if (t > 0 && t == p)
        c->tp[t - 1]++;
}

static void count_regions(counter *c, uint32_t truth, uint32_t prediction)
{
    for (uint32_t left = truth | prediction; left; left &= left - 1) {
        int r = __builtin_ctz(left);
        uint32_t t = truth >> r & 1, p = prediction >> r & 1;
        c->truth[r] += t;
        c->prediction[r] += p;
        c->tp[r] += t & p;
    }
}

static void count_chunk(counter *c, const void *mask, int mask_bytes, const void *regions, int region_bytes,
                        size_t first, size_t count, const double *truth)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t t = truth ? stored_label(truth[i]) : 0;
        if (!c->has_regions)
            count_label(c, t, element(mask, mask_bytes, first + i));
        else if (region_bytes > 0)
            count_regions(c, c->regions_of[t], element(regions, region_bytes, first + i));
        else
            count_regions(c, c->regions_of[t], c->regions_of[element(mask, mask_bytes, first + i)]);
    }
}

static void region_label(const noc_region *region, char text[NOC_METRIC_TEXT])
{
    size_t at = 0;

    text[0] = '\0';
    for (int t = 0; t < region->truth_label_count && at < NOC_METRIC_TEXT; t++) {
        int n = snprintf(text + at, NOC_METRIC_TEXT - at, "%s%d", t > 0 ? "+" : "", region->truth_labels[t]);
        at += n > 0 ? (size_t)n : 0;
    }
}

/* Copies what fits, cut at a character. */
static void copy_name(char out[NOC_METRIC_TEXT], const char *name)
{
    size_t n = strlen(name ? name : "");

    if (n >= NOC_METRIC_TEXT) {
        n = NOC_METRIC_TEXT - 1;
        while (n > 0 && ((unsigned char)name[n] & 0xc0) == 0x80)
            n--;
    }
    memcpy(out, name ? name : "", n);
    out[n] = '\0';
}

void noc_metric_derive(noc_metric *metric, double voxel_ml)
{
    double tp = (double)metric->tp, fp = (double)metric->fp, fn = (double)metric->fn;
    double both = 2 * tp + fp + fn;

    metric->dice = both > 0 ? 2 * tp / both : (double)NAN;
    metric->iou = both > 0 ? tp / (tp + fp + fn) : (double)NAN;
    metric->precision = tp + fp > 0 ? tp / (tp + fp) : (double)NAN;
    metric->recall = tp + fn > 0 ? tp / (tp + fn) : (double)NAN;
    metric->volume_similarity = both > 0 ? 1 - fabs(fn - fp) / both : (double)NAN;
    metric->truth_ml = (tp + fn) * voxel_ml;
    metric->prediction_ml = (tp + fp) * voxel_ml;
}

static void fill_metric(noc_metric *m, const counter *c, int class, size_t voxels, bool has_truth,
                        double voxel_ml)
{
    uint64_t tp = c->tp[class], truth = c->truth[class], prediction = c->prediction[class];

    m->has_truth = has_truth;
    if (has_truth) {
        m->tp = tp;
        m->fp = prediction - tp;
        m->fn = truth - tp;
        m->tn = (uint64_t)voxels - truth - prediction + tp;
        noc_metric_derive(m, voxel_ml);
        return;
    }
    noc_metric_derive(m, voxel_ml); /* of zero counts: every ratio NaN */
    m->truth_ml = (double)NAN;
    m->prediction_ml = (double)prediction * voxel_ml;
}

static void fill_metrics(noc_metric *metrics, const counter *c, const noc_manifest *manifest,
                         const noc_grid *grid, bool has_truth)
{
    double voxel_ml = grid->spacing_mm[0] * grid->spacing_mm[1] * grid->spacing_mm[2] / 1000;

    for (int i = 0; i < c->class_count; i++) {
        if (c->has_regions)
            region_label(&manifest->regions[i], metrics[i].label);
        else
            snprintf(metrics[i].label, sizeof metrics[i].label, "%d", manifest->labels[i].index);
        copy_name(metrics[i].name, c->has_regions ? manifest->regions[i].name : manifest->labels[i].name);
        fill_metric(&metrics[i], c, i, noc_grid_voxels(grid), has_truth, voxel_ml);
    }
}

noc_status noc_score(const noc_manifest *manifest, const noc_grid *grid, const void *mask, int mask_bytes,
                     const void *regions, int region_bytes, const noc_image *truth, noc_metric **metrics,
                     int *metric_count, noc_error *err)
{
    counter c;
    double values[CHUNK];
    size_t voxels = noc_grid_voxels(grid);

    if (counter_create(&c, manifest, err) != NOC_OK)
        return NOC_ENOMEMORY;
    noc_metric *m = noc_alloc_zeroed((size_t)c.class_count, sizeof *m, err);
    if (!m) {
        counter_clear(&c);
        return NOC_ENOMEMORY;
    }
    for (size_t first = 0; first < voxels; first += CHUNK) {
        size_t count = voxels - first < CHUNK ? voxels - first : CHUNK;
        if (truth)
            noc_image_values(truth, first, 1, count, values);
        count_chunk(&c, mask, mask_bytes, regions, region_bytes, first, count, truth ? values : NULL);
    }
    fill_metrics(m, &c, manifest, grid, truth != NULL);
    *metrics = m;
    *metric_count = c.class_count;
    counter_clear(&c);
    return NOC_OK;
}

/* ---- does a truth fit ---- */

static void mark_known(const noc_manifest *manifest, bool known[TABLE])
{
    known[0] = true;
    for (int i = 0; i < manifest->label_count; i++)
        if (manifest->labels[i].index < TABLE)
            known[manifest->labels[i].index] = true;
    for (int p = 0; p < manifest->paint_count; p++)
        if (manifest->paints[p].label >= 0 && manifest->paints[p].label < TABLE)
            known[manifest->paints[p].label] = true;
    for (int r = 0; r < manifest->region_count; r++)
        for (int t = 0; t < manifest->regions[r].truth_label_count; t++) {
            int label = manifest->regions[r].truth_labels[t];
            if (label >= 0 && label < TABLE)
                known[label] = true;
        }
}

noc_status noc_truth_check_grid(const noc_grid *grid, const noc_grid *truth, const char *whose,
                                noc_error *err)
{
    const int64_t *a = grid->size, *b = truth->size;

    if (a[0] != b[0] || a[1] != b[1] || a[2] != b[2])
        return noc_fail(err, NOC_ETRUTH, "the truth has %lld x %lld x %lld voxels, the %s %lld x %lld x %lld",
                        (long long)b[0], (long long)b[1], (long long)b[2], whose, (long long)a[0],
                        (long long)a[1], (long long)a[2]);
    if (!noc_grid_is_same(grid, truth, 1e-3))
        return noc_fail(err, NOC_ETRUTH, "the truth's affine differs from the %s's by more than 1e-3", whose);
    return NOC_OK;
}

static noc_status check_values(const bool known[TABLE], const noc_grid *grid, size_t first, size_t count,
                               const double *values, noc_error *err)
{
    for (size_t i = 0; i < count; i++) {
        double v = values[i];
        bool is_label = v >= 0 && v < TABLE && v == floor(v);
        if (is_label && known[(size_t)v])
            continue;
        size_t at = first + i, ni = (size_t)grid->size[0], nj = (size_t)grid->size[1];
        const char *what =
            is_label ? "a label that the model does not know" : "not a whole number of a label";
        return noc_fail(err, NOC_ETRUTH, "the truth is %g at voxel (%zu, %zu, %zu), %s", v, at % ni,
                        at / ni % nj, at / ni / nj, what);
    }
    return NOC_OK;
}

noc_status noc_truth_check(const noc_manifest *manifest, const noc_grid *grid, const noc_image *truth,
                           noc_error *err)
{
    double values[CHUNK];

    if (truth->channels != 1)
        return noc_fail(err, NOC_ETRUTH, "the truth has %d channels, expected 1", truth->channels);
    noc_status status = noc_truth_check_grid(grid, &truth->grid, "scan", err);
    if (status != NOC_OK)
        return status;
    bool *known = noc_alloc_zeroed(TABLE, sizeof *known, err);
    if (!known)
        return NOC_ENOMEMORY;
    mark_known(manifest, known);
    size_t voxels = noc_grid_voxels(grid);
    for (size_t first = 0; first < voxels && status == NOC_OK; first += CHUNK) {
        size_t count = voxels - first < CHUNK ? voxels - first : CHUNK;
        noc_image_values(truth, first, 1, count, values);
        status = check_values(known, grid, first, count, values, err);
    }
    free(known);
    return status;
}
