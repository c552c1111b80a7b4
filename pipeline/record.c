/* Packing and unpacking of what ranks tell each other. */
#include "pipeline/record.h"

#include "engine/base/memory.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAGIC = 0x4e4f4352,
    VERSION = 1,
    HEADER = 24, /* magic u32, version u32, type u32, 0 u32, length u64 */
    MAX_METRICS = 1 << 16,
    MAX_PLANES = UINT16_MAX
};

void noc_record_put(noc_record *record, const void *data, size_t size)
{
    size_t need;
    if (record->failed)
        return;
    if (!noc_size_add(record->size, size, &need)) {
        record->failed = true;
        return;
    }
    if (need > record->capacity) {
        size_t capacity = need + need / 2 + 256;
        unsigned char *grown = realloc(record->data, capacity);
        if (!grown) {
            record->failed = true;
            return;
        }
        record->data = grown;
        record->capacity = capacity;
    }
    if (size > 0)
        memcpy(record->data + record->size, data, size);
    record->size = need;
}

void noc_record_begin(noc_record *record, uint32_t type)
{
    uint32_t head[6] = {MAGIC, VERSION, type, 0, 0, 0};
    memset(record, 0, sizeof *record);
    noc_record_put(record, head, sizeof head);
}

void noc_record_put_u64(noc_record *record, uint64_t value)
{
    noc_record_put(record, &value, sizeof value);
}

void noc_record_put_f64(noc_record *record, double value)
{
    noc_record_put(record, &value, sizeof value);
}

void noc_record_put_block(noc_record *record, const void *data, size_t size)
{
    noc_record_put_u64(record, size);
    noc_record_put(record, data, size);
}

void noc_record_put_text(noc_record *record, const char *text)
{
    if (text)
        noc_record_put_block(record, text, strlen(text) + 1);
    else
        noc_record_put_u64(record, 0);
}

void noc_record_put_error(noc_record *record, const noc_error *error)
{
    noc_record_put_u64(record, (uint64_t)error->status);
    noc_record_put_text(record, error->text);
}

noc_status noc_record_end(noc_record *record, noc_error *err)
{
    if (record->failed) {
        noc_record_free(record);
        return noc_fail(err, NOC_ENOMEMORY, "no memory for a message between ranks");
    }
    uint64_t length = record->size;
    memcpy(record->data + 16, &length, sizeof length);
    return NOC_OK;
}

void noc_record_free(noc_record *record)
{
    free(record->data);
    memset(record, 0, sizeof *record);
}

noc_status noc_record_open(noc_record *record, void *data, size_t size, uint32_t *type, noc_error *err)
{
    uint32_t head[4];
    uint64_t length;
    if (size < HEADER)
        return noc_fail(err, NOC_EINTERNAL, "a message of %zu bytes is shorter than its header", size);
    memcpy(head, data, sizeof head);
    memcpy(&length, (unsigned char *)data + 16, sizeof length);
    if (head[0] != MAGIC || head[1] != VERSION || length != size)
        return noc_fail(err, NOC_EINTERNAL,
                        "a message of another version or length (version %u, %llu of %zu bytes)", head[1],
                        (unsigned long long)length, size);
    *type = head[2];
    *record = (noc_record){.data = data, .size = size, .at = HEADER};
    return NOC_OK;
}

void noc_record_get(noc_record *record, void *data, size_t size)
{
    if (record->failed || size > record->size - record->at) {
        record->failed = true;
        memset(data, 0, size);
        return;
    }
    memcpy(data, record->data + record->at, size);
    record->at += size;
}

uint64_t noc_record_get_u64(noc_record *record)
{
    uint64_t value;
    noc_record_get(record, &value, sizeof value);
    return value;
}

int noc_record_get_count(noc_record *record, size_t least)
{
    uint64_t count = noc_record_get_u64(record);
    if (record->failed || count > (record->size - record->at) / least || count > INT_MAX) {
        record->failed = true;
        return 0;
    }
    return (int)count;
}

double noc_record_get_f64(noc_record *record)
{
    double value;
    noc_record_get(record, &value, sizeof value);
    return value;
}

void *noc_record_get_block(noc_record *record, size_t *size)
{
    uint64_t length = noc_record_get_u64(record);
    void *data = NULL;
    *size = 0;
    if (record->failed || length == 0)
        return NULL;
    if (length > record->size - record->at) {
        record->failed = true;
        return NULL;
    }
    if (!(data = noc_alloc(length, 1, NULL))) {
        record->failed = record->lacks_memory = true;
        return NULL;
    }
    noc_record_get(record, data, length);
    *size = length;
    return data;
}

char *noc_record_get_text(noc_record *record)
{
    size_t size;
    char *text = noc_record_get_block(record, &size);
    if (text && text[size - 1] != '\0') {
        free(text);
        record->failed = true;
        return NULL;
    }
    return text;
}

void noc_record_get_fixed(noc_record *record, char *text, size_t size)
{
    const char *whole = (const char *)record->data + record->at + sizeof(uint64_t);
    uint64_t length = noc_record_get_u64(record);
    text[0] = '\0';
    if (record->failed || length == 0)
        return;
    if (length > record->size - record->at || whole[length - 1] != '\0') {
        record->failed = true;
        return;
    }
    size_t kept = strnlen(whole, size - 1);
    memcpy(text, whole, kept);
    text[kept] = '\0';
    record->at += length;
}

void noc_record_get_error(noc_record *record, noc_error *error)
{
    uint64_t status = noc_record_get_u64(record);
    error->status = status <= NOC_ECONFIG ? (noc_status)status : NOC_EINTERNAL;
    noc_record_get_fixed(record, error->text, sizeof error->text);
}

void noc_record_put_study(noc_record *record, const noc_study *study)
{
    noc_record_put_u64(record, (uint64_t)study->id);
    noc_record_put_text(record, study->key);
    noc_record_put_text(record, study->layout);
    noc_record_put_u64(record, (uint64_t)study->channel_count);
    for (int i = 0; i < study->channel_count; i++)
        noc_record_put_text(record, study->channels[i]);
    noc_record_put_text(record, study->truth);
    noc_record_put_u64(record, study->has_shape);
    noc_record_put(record, study->size, sizeof study->size);
    noc_record_put(record, study->spacing_mm, sizeof study->spacing_mm);
    noc_record_put_u64(record, (uint64_t)study->voxel_bytes);
    noc_record_put_text(record, study->fingerprint);
}

static noc_status fail_to_read(const noc_record *record, const char *what, noc_error *err)
{
    return record->lacks_memory
               ? noc_fail(err, NOC_ENOMEMORY, "no memory for the record of %s", what)
               : noc_fail(err, NOC_EINTERNAL, "the record of %s is cut short or spoilt", what);
}

/* Where NULL is not a text. */
static char *get_needed_text(noc_record *record)
{
    char *text = noc_record_get_text(record);
    record->failed |= !text;
    return text;
}

noc_status noc_record_get_study(noc_record *record, noc_study *study, noc_error *err)
{
    memset(study, 0, sizeof *study);
    study->id = (int64_t)noc_record_get_u64(record);
    noc_record_get_fixed(record, study->key, sizeof study->key);
    noc_record_get_fixed(record, study->layout, sizeof study->layout);
    uint64_t channels = noc_record_get_u64(record);
    if (channels > NOC_STUDY_CHANNELS)
        record->failed = true;
    for (uint64_t i = 0; i < channels && !record->failed; i++)
        study->channels[study->channel_count++] = get_needed_text(record);
    study->truth = noc_record_get_text(record);
    study->has_shape = noc_record_get_u64(record) != 0;
    noc_record_get(record, study->size, sizeof study->size);
    noc_record_get(record, study->spacing_mm, sizeof study->spacing_mm);
    study->voxel_bytes = (int64_t)noc_record_get_u64(record);
    study->fingerprint = get_needed_text(record);
    if (!record->failed)
        return NOC_OK;
    noc_study_clear(study);
    return fail_to_read(record, "a study", err);
}

void noc_record_put_outcome(noc_record *record, const noc_outcome *outcome, bool with_voxels)
{
    size_t voxels = outcome->failure.status == NOC_OK ? noc_grid_voxels(&outcome->grid) : 0;
    noc_record_put_u64(record, (uint64_t)outcome->study);
    noc_record_put_text(record, outcome->key);
    noc_record_put_u64(record, outcome->lease);
    noc_record_put_error(record, &outcome->failure);
    noc_record_put(record, &outcome->grid, sizeof outcome->grid);
    noc_record_put_text(record, outcome->mask_sha256);
    noc_record_put_text(record, outcome->source_sha256);
    noc_record_put_text(record, outcome->fingerprint);
    noc_record_put_u64(record, (uint64_t)outcome->windows);
    noc_record_put_f64(record, outcome->seconds_read);
    noc_record_put_f64(record, outcome->seconds_prepare);
    noc_record_put_f64(record, outcome->seconds_compute);
    noc_record_put_f64(record, outcome->seconds_score);
    noc_record_put_block(record, outcome->metrics, (size_t)outcome->metric_count * sizeof *outcome->metrics);
    noc_record_put_text(record, outcome->suspect);
    noc_record_put_text(record, outcome->probabilities_sha256);
    noc_record_put_u64(record, (uint64_t)outcome->mask_bytes);
    noc_record_put_u64(record, (uint64_t)outcome->region_bytes);
    noc_record_put_u64(record, (uint64_t)outcome->plane_count);
    noc_record_put_block(record, outcome->mask, with_voxels ? voxels * (size_t)outcome->mask_bytes : 0);
    noc_record_put_block(record, outcome->regions, with_voxels ? voxels * (size_t)outcome->region_bytes : 0);
    noc_record_put_block(record, outcome->probabilities,
                         with_voxels && voxels > 0 ? noc_outcome_probability_bytes(outcome) : 0);
}

/* Bytes of `count` voxels of at most so many bytes each. */
static bool has_bytes(size_t bytes, size_t count, int voxel_bytes, int most)
{
    size_t wanted;
    return voxel_bytes >= 0 && voxel_bytes <= most && noc_size_mul(count, (size_t)voxel_bytes, &wanted) &&
           bytes == wanted;
}

static bool count_voxels(const noc_grid *grid, size_t *count)
{
    *count = 1;
    for (int axis = 0; axis < 3; axis++)
        if (grid->size[axis] < 1 || !noc_size_mul(*count, (size_t)grid->size[axis], count) ||
            *count > PTRDIFF_MAX)
            return false;
    return true;
}

/* The voxels, when they came along, must be all, and as many as the grid says. */
static void get_voxels(noc_record *record, noc_outcome *outcome)
{
    size_t voxels = 0, mask, regions, probabilities;
    if (outcome->failure.status == NOC_OK && !count_voxels(&outcome->grid, &voxels))
        record->failed = true;
    outcome->mask_bytes = (int)noc_record_get_u64(record);
    outcome->region_bytes = (int)noc_record_get_u64(record);
    uint64_t planes = noc_record_get_u64(record);
    outcome->plane_count = planes > MAX_PLANES ? 0 : (int)planes;
    outcome->mask = noc_record_get_block(record, &mask);
    outcome->regions = noc_record_get_block(record, &regions);
    outcome->probabilities = noc_record_get_block(record, &probabilities);
    if ((mask > 0 || regions > 0 || probabilities > 0) &&
        !(has_bytes(mask, voxels, outcome->mask_bytes, 4) &&
          has_bytes(regions, voxels, outcome->region_bytes, 4) &&
          has_bytes(probabilities, voxels, 2 * outcome->plane_count, 2 * MAX_PLANES)))
        record->failed = true;
}

/* Metrics travel as they lie in memory: their texts must end, and a truth value must be one. */
static void get_metrics(noc_record *record, noc_outcome *outcome)
{
    size_t size;
    outcome->metrics = noc_record_get_block(record, &size);
    outcome->metric_count = (int)(size / sizeof *outcome->metrics);
    if (size % sizeof *outcome->metrics != 0 || size / sizeof *outcome->metrics > MAX_METRICS)
        record->failed = true;
    for (int i = 0; i < outcome->metric_count && !record->failed; i++) {
        const noc_metric *metric = &outcome->metrics[i];
        record->failed = !memchr(metric->label, 0, sizeof metric->label) ||
                         !memchr(metric->name, 0, sizeof metric->name) ||
                         *(const unsigned char *)&metric->has_truth > 1;
    }
}

noc_status noc_record_get_outcome(noc_record *record, noc_outcome **outcome, noc_error *err)
{
    noc_outcome *out = calloc(1, sizeof *out);
    if (!out)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for an outcome");
    out->study = (int64_t)noc_record_get_u64(record);
    noc_record_get_fixed(record, out->key, sizeof out->key);
    out->lease = noc_record_get_u64(record);
    noc_record_get_error(record, &out->failure);
    noc_record_get(record, &out->grid, sizeof out->grid);
    noc_record_get_fixed(record, out->mask_sha256, sizeof out->mask_sha256);
    noc_record_get_fixed(record, out->source_sha256, sizeof out->source_sha256);
    noc_record_get_fixed(record, out->fingerprint, sizeof out->fingerprint);
    out->windows = (int64_t)noc_record_get_u64(record);
    out->seconds_read = noc_record_get_f64(record);
    out->seconds_prepare = noc_record_get_f64(record);
    out->seconds_compute = noc_record_get_f64(record);
    out->seconds_score = noc_record_get_f64(record);
    get_metrics(record, out);
    noc_record_get_fixed(record, out->suspect, sizeof out->suspect);
    noc_record_get_fixed(record, out->probabilities_sha256, sizeof out->probabilities_sha256);
    get_voxels(record, out);
    if (!record->failed) {
        *outcome = out;
        return NOC_OK;
    }
    noc_outcome_free(out);
    return fail_to_read(record, "an outcome", err);
}

uint64_t noc_record_lease_of(const noc_record *record)
{
    noc_record copy = *record;
    char key[NOC_STUDY_KEY];
    noc_record_get_u64(&copy);
    noc_record_get_fixed(&copy, key, sizeof key);
    return noc_record_get_u64(&copy);
}
