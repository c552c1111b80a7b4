/* Counts of all classes in one pass. Every stored label is looked up once: for labels as the one class that
 * it is, for regions, which overlap, as the set of those that it belongs to (bit r: region r). */
#include "worker/score.h"

#include "engine/base/memory.h"
#include "worker/label_map.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 4096, BYTES = 256 /* values of one */ };

/* One class is a label or a region. */
typedef struct counter {
    int class_count;
    bool has_regions;
    int32_t *class_of;                 /* [NOC_LABEL_COUNT] labels: class + 1 of a stored label, or 0 */
    uint32_t *regions_of;              /* [NOC_LABEL_COUNT] regions: bits of a stored label */
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
            if (manifest->labels[i].index > 0 && manifest->labels[i].index < NOC_LABEL_COUNT)
                c->class_of[manifest->labels[i].index] = i + 1;
        return;
    }
    for (int r = 0; r < manifest->region_count; r++)
        for (int t = 0; t < manifest->regions[r].truth_label_count; t++) {
            int label = manifest->regions[r].truth_labels[t];
            if (label >= 0 && label < NOC_LABEL_COUNT)
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
        c->regions_of = noc_alloc_zeroed(NOC_LABEL_COUNT, sizeof *c->regions_of, err);
    else
        c->class_of = noc_alloc_zeroed(NOC_LABEL_COUNT, sizeof *c->class_of, err);
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
    return value >= 0 && value < NOC_LABEL_COUNT ? (uint32_t)value : 0;
}

static void count_label(counter *c, uint32_t truth, uint32_t prediction, uint64_t voxels)
{
    int t = c->class_of[truth], p = c->class_of[prediction];

    if (t > 0)
        c->truth[t - 1] += voxels;
    if (p > 0)
        c->prediction[p - 1] += voxels;
    if (t > 0 && t == p)
        c->tp[t - 1] += voxels;
}

static void count_regions(counter *c, uint32_t truth, uint32_t prediction, uint64_t voxels)
{
    for (uint32_t left = truth | prediction; left; left &= left - 1) {
        int r = __builtin_ctz(left);
        uint64_t t = truth >> r & 1, p = prediction >> r & 1;
        c->truth[r] += t * voxels;
        c->prediction[r] += p * voxels;
        c->tp[r] += (t & p) * voxels;
    }
}

/* Voxels where the truth has that label and the mask (or its region bits) that element. */
static void count_pair(counter *c, uint32_t truth, uint32_t predicted, bool is_bits, uint64_t voxels)
{
    if (!c->has_regions)
        count_label(c, truth, predicted, voxels);
    else
        count_regions(c, c->regions_of[truth], is_bits ? predicted : c->regions_of[predicted], voxels);
}

static void count_values(counter *c, const void *predicted, int bytes, bool is_bits, const noc_image *truth,
                         size_t voxels)
{
    double values[CHUNK];

    for (size_t first = 0; first < voxels; first += CHUNK) {
        size_t count = voxels - first < CHUNK ? voxels - first : CHUNK;
        if (truth)
            noc_image_values(truth, first, 1, count, values);
        for (size_t i = 0; i < count; i++)
            count_pair(c, truth ? stored_label(values[i]) : 0, element(predicted, bytes, first + i), is_bits,
                       1);
    }
}

/* The same of bytes: how often each pair of them occurs, background eight voxels at a time. */
static noc_status count_bytes(counter *c, const uint8_t *predicted, bool is_bits, const uint8_t *truth,
                              size_t voxels, noc_error *err)
{
    uint64_t *pairs = noc_alloc_zeroed((size_t)BYTES * BYTES, sizeof *pairs, err), p, t;
    size_t i = 0;

    if (!pairs)
        return NOC_ENOMEMORY;
    for (; i + sizeof p <= voxels; i += sizeof p) {
        memcpy(&p, predicted + i, sizeof p);
        memcpy(&t, truth + i, sizeof t);
        if ((p | t) != 0)
            for (size_t k = 0; k < sizeof p; k++)
                pairs[truth[i + k] * BYTES + predicted[i + k]]++;
    }
    for (; i < voxels; i++)
        pairs[truth[i] * BYTES + predicted[i]]++;
    for (uint32_t at = 1; at < BYTES * BYTES; at++) /* background of both is in no class */
        if (pairs[at] > 0)
            count_pair(c, at / BYTES, at % BYTES, is_bits, pairs[at]);
    free(pairs);
    return NOC_OK;
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

const char *const noc_ratio_names[NOC_RATIO_COUNT] = {
    "dice", "iou", "precision", "recall", "truth_ml", "prediction_ml", "volume_similarity"};

void noc_metric_ratios(const noc_metric *metric, double ratios[NOC_RATIO_COUNT])
{
    ratios[NOC_DICE] = metric->dice;
    ratios[NOC_IOU] = metric->iou;
    ratios[NOC_PRECISION] = metric->precision;
    ratios[NOC_RECALL] = metric->recall;
    ratios[NOC_TRUTH_ML] = metric->truth_ml;
    ratios[NOC_PREDICTION_ML] = metric->prediction_ml;
    ratios[NOC_VOLUME_SIMILARITY] = metric->volume_similarity;
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
    noc_status status = NOC_OK;
    size_t voxels = noc_grid_voxels(grid);
    const void *predicted = region_bytes > 0 ? regions : mask;
    int bytes = region_bytes > 0 ? region_bytes : mask_bytes;

    if (counter_create(&c, manifest, err) != NOC_OK)
        return NOC_ENOMEMORY;
    noc_metric *m = noc_alloc_zeroed((size_t)c.class_count, sizeof *m, err);
    if (!m) {
        counter_clear(&c);
        return NOC_ENOMEMORY;
    }
    if (truth && bytes == 1 && noc_image_is_plain_bytes(truth))
        status = count_bytes(&c, predicted, region_bytes > 0, truth->voxels, voxels, err);
    else
        count_values(&c, predicted, bytes, region_bytes > 0, truth, voxels);
    if (status == NOC_OK) {
        fill_metrics(m, &c, manifest, grid, truth != NULL);
        *metrics = m;
        *metric_count = c.class_count;
    } else
        free(m);
    counter_clear(&c);
    return status;
}

/* ---- does a truth fit ---- */

static void mark_known(const noc_manifest *manifest, bool known[NOC_LABEL_COUNT])
{
    known[0] = true;
    for (int i = 0; i < manifest->label_count; i++)
        if (manifest->labels[i].index < NOC_LABEL_COUNT)
            known[manifest->labels[i].index] = true;
    for (int p = 0; p < manifest->paint_count; p++)
        if (manifest->paints[p].label >= 0 && manifest->paints[p].label < NOC_LABEL_COUNT)
            known[manifest->paints[p].label] = true;
    for (int r = 0; r < manifest->region_count; r++)
        for (int t = 0; t < manifest->regions[r].truth_label_count; t++) {
            int label = manifest->regions[r].truth_labels[t];
            if (label >= 0 && label < NOC_LABEL_COUNT)
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

/* "1, 2, 4": the first that fit. */
static void list_known(const bool known[NOC_LABEL_COUNT], char text[NOC_METRIC_TEXT])
{
    size_t used = 0;

    text[0] = '\0';
    for (int label = 1; label < NOC_LABEL_COUNT && used < NOC_METRIC_TEXT - sizeof ", 65535, ..."; label++)
        if (known[label])
            used += (size_t)snprintf(text + used, NOC_METRIC_TEXT - used, "%s%d", used ? ", " : "", label);
    if (used >= NOC_METRIC_TEXT - sizeof ", 65535, ...")
        snprintf(text + used, NOC_METRIC_TEXT - used, ", ...");
}

static noc_status check_values(const bool known[NOC_LABEL_COUNT], const noc_grid *grid, size_t first,
                               size_t count, const double *values, noc_error *err)
{
    for (size_t i = 0; i < count; i++) {
        double v = values[i];
        bool is_label = noc_is_label(v);
        if (is_label && known[(size_t)v])
            continue;
        size_t at = first + i, ni = (size_t)grid->size[0], nj = (size_t)grid->size[1];
        char labels[NOC_METRIC_TEXT];
        list_known(known, labels);
        return noc_fail(err, NOC_ETRUTH, "the truth is %g at voxel (%zu, %zu, %zu), %s%s%s", v, at % ni,
                        at / ni % nj, at / ni / nj,
                        is_label ? "a label that the model does not know (it knows "
                                 : "not a whole number of a label",
                        is_label ? labels : "", is_label ? ")" : "");
    }
    return NOC_OK;
}

static bool are_known(const bool known[NOC_LABEL_COUNT], const uint8_t *labels, size_t voxels)
{
    bool seen[BYTES] = {false};

    for (size_t i = 0; i < voxels; i++)
        seen[labels[i]] = true;
    for (int label = 0; label < BYTES; label++)
        if (seen[label] && !known[label])
            return false;
    return true;
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
    bool *known = noc_alloc_zeroed(NOC_LABEL_COUNT, sizeof *known, err);
    if (!known)
        return NOC_ENOMEMORY;
    mark_known(manifest, known);
    size_t voxels = noc_grid_voxels(grid), first = 0;
    if (noc_image_is_plain_bytes(truth) && are_known(known, truth->voxels, voxels))
        first = voxels; /* else the first that is not is looked for */
    for (; first < voxels && status == NOC_OK; first += CHUNK) {
        size_t count = voxels - first < CHUNK ? voxels - first : CHUNK;
        noc_image_values(truth, first, 1, count, values);
        status = check_values(known, grid, first, count, values, err);
    }
    free(known);
    return status;
}
