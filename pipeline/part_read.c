/* Reading a part. The file may be anything: what it says is checked before it is believed, and memory is
 * taken only for what a file of its size can hold. */
#include "pipeline/part_format.h"

#include "engine/base/memory.h"
#include "engine/base/sha256.h"
#include "pipeline/results.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* deflate makes at most 1032 bytes of one. */
enum { MOST_INFLATION = 1100, MAX_LABELS = 65536 };

static noc_status open_part(const char *path, hid_t *file, int64_t *bytes, noc_error *err)
{
    struct stat info;
    char schema[32] = "";
    noc_status status = part_library_open(err);
    if (status != NOC_OK)
        return status;
    if (stat(path, &info) != 0)
        return noc_fail(err, NOC_EDATA, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return noc_fail(err, NOC_EDATA, "%s: not a file", path);
    hid_t access = part_access(H5F_LIBVER_V110);
    part_attributes a = {.path = path, .err = err};
    a.object = access < 0 ? -1 : H5Fopen(path, H5F_ACC_RDONLY, access);
    if (a.object < 0)
        a.status = part_fail(err, NOC_EDATA, path, "cannot be opened as a results part");
    part_get_text(&a, "schema", schema, sizeof schema);
    if (a.status == NOC_OK && strcmp(schema, PART_SCHEMA) != 0)
        a.status = noc_fail(err, NOC_EDATA, "%s: its schema is not " PART_SCHEMA, path);
    part_release(access);
    if (a.status != NOC_OK) {
        part_release(a.object);
        return a.status;
    }
    *file = a.object;
    *bytes = (int64_t)info.st_size;
    return NOC_OK;
}

/* ---- datasets ---- */

/* Bytes of its elements in memory; 0 with a sentence when that is impossible. */
static size_t dataset_bytes(hid_t dataset, const char *path, size_t element, size_t count, noc_error *err)
{
    size_t bytes = 0;
    hsize_t stored = H5Dget_storage_size(dataset);
    if (!noc_size_mul(element, count, &bytes) || bytes / MOST_INFLATION > stored || stored == 0) {
        noc_fail(err, NOC_EDATA, "%s: a table claims more than the file can hold", path);
        return 0;
    }
    return bytes;
}

static noc_status read_all(hid_t dataset, const char *path, hid_t type, size_t count, void **out,
                           noc_error *err)
{
    size_t bytes = dataset_bytes(dataset, path, H5Tget_size(type), count, err);
    if (bytes == 0)
        return NOC_EDATA;
    void *data = noc_alloc_zeroed(bytes, 1, err);
    if (!data)
        return NOC_ENOMEMORY;
    if (H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
        noc_status status = part_fail(err, NOC_EDATA, path, "damaged, its voxels or numbers cannot be read");
        free(data);
        return status;
    }
    *out = data;
    return NOC_OK;
}

/* The extent of a dataset of `rank` axes; false when it is another. */
static bool get_extent(hid_t dataset, int rank, hsize_t *dims)
{
    hid_t space = H5Dget_space(dataset);
    bool is_so = space >= 0 && H5Sget_simple_extent_ndims(space) == rank &&
                 H5Sget_simple_extent_dims(space, dims, NULL) == rank;
    part_release(space);
    return is_so;
}

/* Bytes of a voxel; 0 when it is no unsigned integer of 1, 2 or 4 bytes. */
static int voxel_bytes_of(hid_t dataset)
{
    hid_t type = H5Dget_type(dataset);
    size_t size = type >= 0 && H5Tget_class(type) == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_NONE
                      ? H5Tget_size(type)
                      : 0;
    part_release(type);
    return size == 1 || size == 2 || size == 4 ? (int)size : 0;
}

static bool is_grid(const hsize_t dims[3], int64_t size[3], size_t *voxels)
{
    size_t count = 1;
    for (int i = 0; i < 3; i++) {
        if (dims[i] == 0 || dims[i] > INT32_MAX || !noc_size_mul(count, (size_t)dims[i], &count))
            return false;
        size[2 - i] = (int64_t)dims[i];
    }
    *voxels = count;
    return true;
}

/* with_voxels false: only sizes. */
static noc_status read_voxels(hid_t group, const char *path, const char *name, bool with_voxels,
                              int64_t size[3], int *voxel_bytes, void **voxels, noc_error *err)
{
    hsize_t dims[3];
    size_t count = 0;
    noc_status status = NOC_OK;
    hid_t dataset = H5Dopen2(group, name, H5P_DEFAULT);
    if (dataset < 0)
        return part_fail(err, NOC_EDATA, path, "a mask cannot be opened");
    int bytes = voxel_bytes_of(dataset);
    if (bytes == 0 || !get_extent(dataset, 3, dims) || !is_grid(dims, size, &count))
        status = noc_fail(err, NOC_EDATA, "%s: %s is no volume of labels", path, name);
    else if (with_voxels)
        status = read_all(dataset, path,
                          bytes == 1   ? H5T_NATIVE_UINT8
                          : bytes == 2 ? H5T_NATIVE_UINT16
                                       : H5T_NATIVE_UINT32,
                          count, voxels, err);
    part_release(dataset);
    if (status == NOC_OK)
        *voxel_bytes = bytes;
    return status;
}

/* ---- a study ---- */

static void get_geometry(part_attributes *a, noc_grid *grid)
{
    noc_nifti_geometry *nifti = &grid->nifti;
    part_get(a, "affine", H5T_NATIVE_DOUBLE, 16, grid->affine);
    part_get(a, "spacing_mm", H5T_NATIVE_DOUBLE, 3, grid->spacing_mm);
    nifti->version = (int)part_get_integer(a, "nifti_version");
    nifti->qform_code = (int)part_get_integer(a, "qform_code");
    nifti->sform_code = (int)part_get_integer(a, "sform_code");
    part_get(a, "quatern", H5T_NATIVE_DOUBLE, 3, nifti->quatern);
    part_get(a, "qoffset", H5T_NATIVE_DOUBLE, 3, nifti->qoffset);
    nifti->qfac = part_get_real(a, "qfac");
    part_get(a, "srow", H5T_NATIVE_DOUBLE, 12, nifti->srow);
    part_get(a, "pixdim", H5T_NATIVE_DOUBLE, 3, nifti->pixdim);
    nifti->xyzt_units = (int)part_get_integer(a, "xyzt_units");
}

static void get_outcome(part_attributes *a, noc_outcome *o)
{
    part_get_text(a, "key", o->key, sizeof o->key);
    part_get_text(a, "mask_sha256", o->mask_sha256, sizeof o->mask_sha256);
    part_get_text(a, "source_sha256", o->source_sha256, sizeof o->source_sha256);
    part_get_text(a, "fingerprint", o->fingerprint, sizeof o->fingerprint);
    get_geometry(a, &o->grid);
    o->windows = part_get_integer(a, "windows");
    o->seconds_read = part_get_real(a, "seconds_read");
    o->seconds_prepare = part_get_real(a, "seconds_prepare");
    o->seconds_compute = part_get_real(a, "seconds_compute");
    o->seconds_score = part_get_real(a, "seconds_score");
    if (a->status == NOC_OK && H5Aexists(a->object, "suspect") > 0)
        part_get_text(a, "suspect", o->suspect, sizeof o->suspect);
    if (a->status == NOC_OK && H5Aexists(a->object, "probabilities_sha256") > 0)
        part_get_text(a, "probabilities_sha256", o->probabilities_sha256, sizeof o->probabilities_sha256);
}

/* what: "mask's voxels". */
static noc_status check_hash(const char *path, const char *what, const void *data, size_t bytes,
                             const char *says, noc_error *err)
{
    char found[NOC_SHA256_HEX];
    noc_status status = noc_sha256_of(data, bytes, found, err);
    if (status == NOC_OK && strcmp(found, says) != 0)
        return noc_fail(err, NOC_EDATA, "%s: the %s have SHA-256 %.12s..., its attribute says %.12s...", path,
                        what, found, says);
    return status;
}

static bool is_half(hid_t dataset)
{
    hid_t type = H5Dget_type(dataset), half = part_half_type();
    bool is_so = type >= 0 && half >= 0 && H5Tequal(type, half) > 0;
    part_release(type);
    part_release(half);
    return is_so;
}

static noc_status read_planes(hid_t dataset, const char *path, noc_outcome *o, noc_error *err)
{
    void *data = NULL;
    hid_t type = part_half_type();
    size_t count = noc_grid_voxels(&o->grid) * (size_t)o->plane_count;
    noc_status status = type < 0 ? part_fail(err, NOC_EINTERNAL, path, "no type of probabilities")
                                 : read_all(dataset, path, type, count, &data, err);
    part_release(type);
    o->probabilities = data;
    if (status == NOC_OK)
        status = check_hash(path, "probabilities", data, noc_outcome_probability_bytes(o),
                            o->probabilities_sha256, err);
    return status;
}

/* Those of a study whose attributes and mask are known. */
static noc_status get_probabilities(hid_t group, const char *path, noc_outcome *o, noc_error *err)
{
    hsize_t dims[4];
    int64_t size[3];
    size_t voxels;
    noc_status status = NOC_OK;
    if (!o->probabilities_sha256[0])
        return NOC_OK;
    hid_t dataset = H5Dopen2(group, "probabilities", H5P_DEFAULT);
    if (dataset < 0)
        return part_fail(err, NOC_EDATA, path, "probabilities cannot be opened");
    if (!is_half(dataset) || !get_extent(dataset, 4, dims) || dims[0] == 0 || dims[0] > MAX_LABELS ||
        !is_grid(dims + 1, size, &voxels) || memcmp(size, o->grid.size, sizeof size) != 0)
        status = noc_fail(err, NOC_EDATA, "%s: probabilities are none of the mask's voxels", path);
    if (status == NOC_OK) {
        o->plane_count = (int)dims[0];
        status = read_planes(dataset, path, o, err);
    }
    part_release(dataset);
    return status;
}

static noc_status get_voxels(hid_t group, const char *path, bool with_voxels, noc_outcome *o, noc_error *err)
{
    int64_t size[3];
    noc_status status =
        read_voxels(group, path, "mask", with_voxels, o->grid.size, &o->mask_bytes, &o->mask, err);
    if (status == NOC_OK && o->mask_bytes > 2)
        status = noc_fail(err, NOC_EDATA, "%s: a mask has voxels of 4 bytes", path);
    if (status == NOC_OK && with_voxels)
        status = check_hash(path, "mask's voxels", o->mask, noc_grid_voxels(&o->grid) * (size_t)o->mask_bytes,
                            o->mask_sha256, err);
    if (status != NOC_OK || H5Lexists(group, "regions", H5P_DEFAULT) <= 0)
        return status;
    status = read_voxels(group, path, "regions", with_voxels, size, &o->region_bytes, &o->regions, err);
    if (status == NOC_OK && memcmp(size, o->grid.size, sizeof size) != 0)
        status = noc_fail(err, NOC_EDATA, "%s: mask and regions differ in size", path);
    return status;
}

static bool is_key(const char *key)
{
    size_t length = strlen(key);
    return length > 0 && length < NOC_STUDY_KEY &&
           strspn(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == length;
}

static noc_status read_study(hid_t file, const char *path, const char *key, bool with_voxels,
                             bool with_probabilities, noc_outcome **outcome, noc_error *err)
{
    char name[sizeof "/studies/" + NOC_STUDY_KEY];
    noc_outcome *o = NULL;
    part_attributes a = {.object = -1, .path = path, .err = err};
    if (!is_key(key))
        return noc_fail(err, NOC_EDATA, "%s: it holds a study with an impossible name", path);
    snprintf(name, sizeof name, "/studies/%s", key);
    if (!(o = noc_alloc_zeroed(1, sizeof *o, err)))
        return NOC_ENOMEMORY;
    if ((a.object = H5Gopen2(file, name, H5P_DEFAULT)) < 0)
        a.status = part_fail(err, NOC_EDATA, path, "the study is not in it, or damaged");
    get_outcome(&a, o);
    if (a.status == NOC_OK && strcmp(key, o->key) != 0)
        a.status = noc_fail(err, NOC_EDATA, "%s: attribute key is that of another study", path);
    if (a.status == NOC_OK)
        a.status = get_voxels(a.object, path, with_voxels, o, err);
    if (a.status == NOC_OK && with_probabilities)
        a.status = get_probabilities(a.object, path, o, err);
    part_release(a.object);
    if (a.status == NOC_OK) {
        *outcome = o;
        return NOC_OK;
    }
    noc_outcome_free(o);
    return noc_within(err, a.status, "%s", key);
}

noc_status noc_part_read_study(const char *path, const char *key, bool with_probabilities,
                               noc_outcome **outcome, noc_error *err)
{
    hid_t file = -1;
    int64_t bytes;
    noc_status status = open_part(path, &file, &bytes, err);
    if (status == NOC_OK)
        status = read_study(file, path, key, true, with_probabilities, outcome, err);
    part_release(file);
    return status;
}

/* ---- labels ---- */

/* Elements of an attribute; 0: it is not there. */
static size_t attribute_count(hid_t object, const char *name)
{
    if (H5Aexists(object, name) <= 0)
        return 0;
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT), space = H5Aget_space(attribute);
    hssize_t count = H5Sget_simple_extent_npoints(space);
    part_release(space);
    part_release(attribute);
    return count > 0 ? (size_t)count : 0;
}

static void get_labels(part_attributes *a, int32_t *values, char (*names)[NOC_METRIC_TEXT], size_t count)
{
    hid_t type = part_string_type(sizeof *names);
    if (type < 0)
        a->status = part_fail(a->err, NOC_EINTERNAL, a->path, "no type of texts");
    part_get(a, "label_values", H5T_NATIVE_INT32, count, values);
    part_get(a, "labels", type, count, names);
    part_release(type);
}

static noc_status make_labels(part_attributes *a, size_t count, noc_label **labels, int *made)
{
    int32_t *values = noc_alloc_zeroed(count, sizeof *values, a->err);
    char(*names)[NOC_METRIC_TEXT] = noc_alloc_zeroed(count, sizeof *names, a->err);
    noc_label *list = noc_alloc_zeroed(count, sizeof *list, a->err);
    if (!values || !names || !list)
        a->status = NOC_ENOMEMORY;
    else
        get_labels(a, values, names, count);
    for (size_t i = 0; i < count && a->status == NOC_OK; i++) {
        names[i][sizeof *names - 1] = 0;
        list[i] = (noc_label){values[i], noc_strdup(names[i], a->err)};
        if (!list[i].name)
            a->status = NOC_ENOMEMORY;
    }
    free(values);
    free(names);
    if (a->status == NOC_OK) {
        *labels = list;
        *made = (int)count;
    } else if (list) {
        noc_part_labels_free(list, (int)count);
    }
    return a->status;
}

noc_status noc_part_read_labels(const char *path, const char *key, noc_label **labels, int *count,
                                noc_error *err)
{
    char name[sizeof "/studies/" + NOC_STUDY_KEY];
    part_attributes a = {.object = -1, .path = path, .err = err};
    hid_t file = -1;
    int64_t bytes;
    if (!is_key(key))
        return noc_fail(err, NOC_EDATA, "%s: a study with an impossible name", path);
    a.status = open_part(path, &file, &bytes, err);
    if (a.status != NOC_OK)
        return a.status;
    snprintf(name, sizeof name, "/studies/%s", key);
    if ((a.object = H5Gopen2(file, name, H5P_DEFAULT)) < 0)
        a.status = part_fail(err, NOC_EDATA, path, "the study is not in it, or damaged");
    size_t found = a.status == NOC_OK ? attribute_count(a.object, "label_values") : 0;
    if (found > MAX_LABELS)
        a.status = noc_fail(err, NOC_EDATA, "%s: more labels than there are", path);
    noc_status status = a.status;
    *labels = NULL;
    *count = 0;
    if (status == NOC_OK && found > 0)
        status = make_labels(&a, found, labels, count);
    part_release(a.object);
    part_release(file);
    return status;
}

void noc_part_labels_free(noc_label *labels, int count)
{
    for (int i = 0; i < count; i++)
        free(labels[i].name);
    free(labels);
}

/* ---- metrics ---- */

static bool has_all_columns(hid_t dataset, hid_t wanted)
{
    hid_t type = H5Dget_type(dataset);
    bool is_so = type >= 0 && H5Tget_class(type) == H5T_COMPOUND;
    for (int i = 0; is_so && i < H5Tget_nmembers(wanted); i++) {
        char *name = H5Tget_member_name(wanted, (unsigned)i);
        int at = name ? H5Tget_member_index(type, name) : -1;
        H5free_memory(name);
        is_so =
            at >= 0 && H5Tget_member_class(type, (unsigned)at) == H5Tget_member_class(wanted, (unsigned)i);
    }
    part_release(type);
    return is_so;
}

static noc_status read_rows(hid_t file, const char *path, part_metric **rows, size_t *count, noc_error *err)
{
    hsize_t dims[1] = {0};
    void *data = NULL;
    noc_status status = NOC_OK;
    hid_t type = part_metric_type(), dataset = type < 0 ? -1 : H5Dopen2(file, "/metrics", H5P_DEFAULT);
    if (dataset < 0)
        status = part_fail(err, NOC_EDATA, path, "/metrics cannot be opened");
    else if (!has_all_columns(dataset, type) || !get_extent(dataset, 1, dims))
        status = noc_fail(err, NOC_EDATA, "%s: /metrics has not the columns it should have", path);
    else if (dims[0] > 0)
        status = read_all(dataset, path, type, (size_t)dims[0], &data, err);
    part_release(dataset);
    part_release(type);
    if (status != NOC_OK)
        return status;
    *rows = data;
    *count = (size_t)dims[0];
    return NOC_OK;
}

/* The text in at most size - 1 bytes that may not be ended. */
static void copy_text(char *out, size_t size, const char *in)
{
    size_t length = strnlen(in, size - 1); /* NOLINT: never NULL */
    memcpy(out, in, length);
    out[length] = '\0';
}

static void fill_metric(noc_metric *m, const part_metric *row)
{
    copy_text(m->label, sizeof m->label, row->label);
    copy_text(m->name, sizeof m->name, row->name);
    m->has_truth = row->has_truth != 0;
    m->tp = row->tp, m->fp = row->fp, m->fn = row->fn, m->tn = row->tn;
    m->dice = row->dice, m->iou = row->iou;
    m->precision = row->precision, m->recall = row->recall;
    m->truth_ml = row->truth_ml, m->prediction_ml = row->prediction_ml;
    m->volume_similarity = row->volume_similarity;
}

static int compare_studies(const void *a, const void *b)
{
    return strcmp(((const noc_part_study *)a)->key, ((const noc_part_study *)b)->key);
}

static noc_status add_row(noc_part_record *part, const char *path, const part_metric *row, noc_error *err)
{
    noc_part_study wanted;
    copy_text(wanted.key, sizeof wanted.key, row->key);
    noc_part_study *study = part->study_count > 0 ? bsearch(&wanted, part->studies, part->study_count,
                                                            sizeof wanted, compare_studies)
                                                  : NULL;
    if (!study)
        return noc_fail(err, NOC_EDATA, "%s: /metrics has a row of a study that is not in it", path);
    noc_metric *grown = reallocarray(study->metrics, (size_t)study->metric_count + 1, sizeof *grown);
    if (!grown)
        return noc_fail(err, NOC_ENOMEMORY, "%s: no memory for its metrics", path);
    study->metrics = grown;
    fill_metric(&grown[study->metric_count++], row);
    return NOC_OK;
}

static noc_status read_metrics(hid_t file, const char *path, noc_part_record *part, noc_error *err)
{
    part_metric *rows = NULL;
    size_t count = 0;
    noc_status status = read_rows(file, path, &rows, &count, err);
    for (size_t i = 0; status == NOC_OK && i < count; i++)
        status = add_row(part, path, &rows[i], err);
    free(rows);
    return status;
}

/* ---- a part ---- */

static herr_t note_key(hid_t group, const char *name, const H5L_info_t *info, void *argument)
{
    noc_part_record *part = argument;
    (void)group;
    if (info->type != H5L_TYPE_HARD || !is_key(name))
        return -1;
    noc_part_study *grown = reallocarray(part->studies, part->study_count + 1, sizeof *grown);
    if (!grown)
        return -1;
    part->studies = grown;
    memset(&grown[part->study_count], 0, sizeof *grown);
    copy_text(grown[part->study_count].key, NOC_STUDY_KEY, name);
    part->study_count++;
    return 0;
}

static noc_status list_studies(hid_t file, const char *path, noc_part_record *part, noc_error *err)
{
    noc_status status = NOC_OK;
    hid_t studies = H5Gopen2(file, "/studies", H5P_DEFAULT);
    if (studies < 0 || H5Literate(studies, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, note_key, part) < 0)
        status = part_fail(err, NOC_EDATA, path, "its studies cannot be listed");
    part_release(studies);
    if (status == NOC_OK && part->study_count > 0)
        qsort(part->studies, part->study_count, sizeof *part->studies, compare_studies);
    return status;
}

static noc_status fill_study(hid_t file, const char *path, bool with_mask, noc_part_study *study,
                             noc_error *err)
{
    noc_outcome *o = NULL;
    noc_status status = read_study(file, path, study->key, with_mask, with_mask, &o, err);
    if (status != NOC_OK)
        return status;
    memcpy(study->source_sha256, o->source_sha256, sizeof study->source_sha256);
    memcpy(study->fingerprint, o->fingerprint, sizeof study->fingerprint);
    memcpy(study->mask_sha256, o->mask_sha256, sizeof study->mask_sha256);
    memcpy(study->suspect, o->suspect, sizeof study->suspect);
    study->seconds_read = o->seconds_read;
    study->seconds_prepare = o->seconds_prepare;
    study->seconds_compute = o->seconds_compute;
    study->seconds_score = o->seconds_score;
    study->windows = o->windows;
    noc_outcome_free(o);
    return NOC_OK;
}

static noc_status read_head(hid_t file, const char *path, noc_part_record *part,
                            noc_configuration *configuration, noc_error *err)
{
    part_attributes a = {.object = file, .path = path, .err = err};
    part->number = part_get_integer(&a, "part");
    part_get_configuration(&a, configuration);
    if (a.status == NOC_OK && part->number <= 0)
        a.status = noc_fail(err, NOC_EDATA, "%s: it says to be part %lld", path, (long long)part->number);
    return a.status;
}

noc_status noc_part_read(const char *path, bool with_masks, noc_part_record *part,
                         noc_configuration *configuration, noc_error *err)
{
    hid_t file = -1;
    noc_part_record read = {0};
    noc_configuration made;
    noc_status status = open_part(path, &file, &read.bytes, err);
    if (status == NOC_OK)
        status = read_head(file, path, &read, &made, err);
    if (status == NOC_OK)
        status = list_studies(file, path, &read, err);
    for (size_t i = 0; status == NOC_OK && i < read.study_count; i++)
        status = fill_study(file, path, with_masks, &read.studies[i], err);
    if (status == NOC_OK)
        status = read_metrics(file, path, &read, err);
    part_release(file);
    if (status != NOC_OK) {
        noc_part_record_clear(&read);
        return status;
    }
    if (configuration)
        *configuration = made;
    *part = read;
    return NOC_OK;
}
