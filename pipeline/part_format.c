#include "pipeline/part_format.h"

#include <ctype.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

noc_status part_library_open(noc_error *err)
{
    if (H5open() < 0 || H5Eset_auto2(H5E_DEFAULT, NULL, NULL) < 0)
        return noc_fail(err, NOC_EINTERNAL, "the HDF5 library does not start");
    return NOC_OK;
}

/* ---- failures ---- */

typedef struct reason {
    char text[256];
    int error_number; /* the system's, 0: none */
} reason;

static herr_t look_at_failure(unsigned depth, const H5E_error2_t *error, void *argument)
{
    reason *found = argument;
    const char *number = error->desc ? strstr(error->desc, "errno = ") : NULL;
    if (depth == 0)
        snprintf(found->text, sizeof found->text, "%s", error->desc ? error->desc : "");
    if (number && found->error_number == 0)
        found->error_number = atoi(number + strlen("errno = "));
    return 0;
}

noc_status part_fail(noc_error *err, noc_status status, const char *path, const char *what)
{
    reason found = {.text = ""};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, look_at_failure, &found);
    if (found.error_number != 0)
        return noc_fail(err, status, "%s: %s: %s", path, what, strerror(found.error_number));
    for (char *c = found.text; *c; c++)
        if (iscntrl((unsigned char)*c))
            *c = ' ';
    return noc_fail(err, status, "%s: %s%s%s", path, what, found.text[0] ? ": " : "", found.text);
}

void part_release(hid_t id)
{
    if (id < 0)
        return;
    hid_t kept = H5Eget_current_stack();
    H5Idec_ref(id);
    H5Eset_current_stack(kept);
}

/* ---- types and properties ---- */

hid_t part_string_type(size_t size)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0 && (H5Tset_size(type, size) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)) {
        part_release(type);
        return -1;
    }
    return type;
}

/* The library has one of its own from 1.14.4 on; h5py reads it as numpy.float16. */
hid_t part_half_type(void)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type >= 0 && (H5Tset_fields(type, 15, 10, 5, 0, 10) < 0 || H5Tset_size(type, 2) < 0 ||
                      H5Tset_ebias(type, 15) < 0)) {
        part_release(type);
        return -1;
    }
    return type;
}

static bool insert_text(hid_t compound, const char *name, size_t offset, size_t size)
{
    hid_t type = part_string_type(size);
    bool is_in = type >= 0 && H5Tinsert(compound, name, offset, type) >= 0;
    part_release(type);
    return is_in;
}

#define TEXT_MEMBER(member)                                                                                  \
    insert_text(type, #member, offsetof(part_metric, member), sizeof(((part_metric *)0)->member))
#define MEMBER(member, kind) (H5Tinsert(type, #member, offsetof(part_metric, member), kind) >= 0)

hid_t part_metric_type(void)
{
    hid_t type = H5Tcreate(H5T_COMPOUND, sizeof(part_metric));
    if (type < 0)
        return -1;
    bool is_whole = TEXT_MEMBER(key) && TEXT_MEMBER(state) && TEXT_MEMBER(failure) && TEXT_MEMBER(label) &&
                    TEXT_MEMBER(name) && MEMBER(tp, H5T_NATIVE_UINT64) && MEMBER(fp, H5T_NATIVE_UINT64) &&
                    MEMBER(fn, H5T_NATIVE_UINT64) && MEMBER(tn, H5T_NATIVE_UINT64) &&
                    MEMBER(dice, H5T_NATIVE_DOUBLE) && MEMBER(iou, H5T_NATIVE_DOUBLE) &&
                    MEMBER(precision, H5T_NATIVE_DOUBLE) && MEMBER(recall, H5T_NATIVE_DOUBLE) &&
                    MEMBER(truth_ml, H5T_NATIVE_DOUBLE) && MEMBER(prediction_ml, H5T_NATIVE_DOUBLE) &&
                    MEMBER(volume_similarity, H5T_NATIVE_DOUBLE) && MEMBER(has_truth, H5T_NATIVE_UINT8);
    if (is_whole)
        return type;
    part_release(type);
    return -1;
}

hid_t part_access(H5F_libver_t format)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    /* Locks would keep a read-only folder or a network share from being read; the coordinator's lock guards
     * writing. */
    if (access >= 0 && (H5Pset_libver_bounds(access, format, format) < 0 ||
                        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0 ||
                        H5Pset_file_locking(access, false, true) < 0)) {
        part_release(access);
        return -1;
    }
    return access;
}

/* ---- attributes: writing ---- */

static void put(part_attributes *a, const char *name, hid_t type, hid_t space, const void *data)
{
    char what[96];
    hid_t attribute = -1;
    if (a->status != NOC_OK)
        return;
    snprintf(what, sizeof what, "attribute %s cannot be written", name);
    attribute =
        type < 0 || space < 0 ? -1 : H5Acreate2(a->object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0 || H5Awrite(attribute, type, data) < 0)
        a->status = part_fail(a->err, NOC_EIO, a->path, what);
    if (attribute >= 0 && H5Aclose(attribute) < 0 && a->status == NOC_OK)
        a->status = part_fail(a->err, NOC_EIO, a->path, what);
}

void part_put(part_attributes *a, const char *name, hid_t type, size_t count, const void *data)
{
    hsize_t dims[1] = {count};
    hid_t space = count == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, dims, NULL);
    put(a, name, type, space, data);
    part_release(space);
}

void part_put_matrix(part_attributes *a, const char *name, const double *data, size_t rows, size_t columns)
{
    hsize_t dims[2] = {rows, columns};
    hid_t space = H5Screate_simple(2, dims, NULL);
    put(a, name, H5T_NATIVE_DOUBLE, space, data);
    part_release(space);
}

void part_put_texts(part_attributes *a, const char *name, const char *texts, size_t size, size_t count)
{
    hid_t type = part_string_type(size);
    part_put(a, name, type, count, texts);
    part_release(type);
}

void part_put_text(part_attributes *a, const char *name, const char *text)
{
    part_put_texts(a, name, text, strlen(text) + 1, 0);
}

void part_put_real(part_attributes *a, const char *name, double value)
{
    part_put(a, name, H5T_NATIVE_DOUBLE, 0, &value);
}

void part_put_integer(part_attributes *a, const char *name, int64_t value)
{
    part_put(a, name, H5T_NATIVE_INT64, 0, &value);
}

void part_put_configuration(part_attributes *a, const noc_configuration *configuration)
{
    char text[512];
    noc_configuration_describe(configuration, text, sizeof text);
    part_put_text(a, "configuration", text);
    part_put_text(a, "model", configuration->model);
    part_put_text(a, "model_sha256", configuration->model_sha256);
    part_put(a, "window", H5T_NATIVE_INT64, 3, configuration->window);
    part_put_real(a, "overlap", configuration->overlap);
    part_put_text(a, "blend", configuration->blend);
    part_put_text(a, "precision", configuration->precision);
}

/* ---- attributes: reading ---- */

static bool has_count(hid_t attribute, size_t count)
{
    hid_t space = H5Aget_space(attribute);
    bool is_so = space >= 0 && H5Sget_simple_extent_npoints(space) == (hssize_t)count;
    part_release(space);
    return is_so;
}

static bool has_class(hid_t attribute, H5T_class_t class)
{
    hid_t type = H5Aget_type(attribute);
    bool is_so = type >= 0 && H5Tget_class(type) == class;
    part_release(type);
    return is_so;
}

static hid_t open_attribute(part_attributes *a, const char *name)
{
    char what[96];
    if (a->status != NOC_OK)
        return -1;
    hid_t attribute = H5Aopen(a->object, name, H5P_DEFAULT);
    snprintf(what, sizeof what, "attribute %s is missing or damaged", name);
    if (attribute < 0)
        a->status = part_fail(a->err, NOC_EDATA, a->path, what);
    return attribute;
}

void part_get(part_attributes *a, const char *name, hid_t type, size_t count, void *data)
{
    hid_t attribute = open_attribute(a, name);
    if (attribute < 0)
        return;
    if (!has_class(attribute, H5Tget_class(type)) || !has_count(attribute, count))
        a->status = noc_fail(a->err, NOC_EDATA, "%s: attribute %s is not of the right kind", a->path, name);
    else if (H5Aread(attribute, type, data) < 0)
        a->status = part_fail(a->err, NOC_EDATA, a->path, "an attribute cannot be read");
    part_release(attribute);
}

/* The bytes of a fixed string; 0 when it is none. */
static size_t text_bytes(hid_t attribute)
{
    hid_t type = H5Aget_type(attribute);
    bool is_fixed = type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0;
    size_t size = is_fixed ? H5Tget_size(type) : 0;
    part_release(type);
    return size;
}

void part_get_text(part_attributes *a, const char *name, char *text, size_t size)
{
    hid_t attribute = open_attribute(a, name), type = -1;
    if (attribute < 0)
        return;
    size_t bytes = text_bytes(attribute);
    if (bytes == 0 || bytes > size || !has_count(attribute, 1))
        a->status = noc_fail(a->err, NOC_EDATA, "%s: attribute %s is not of the right kind", a->path, name);
    else if ((type = part_string_type(size)) < 0 || H5Aread(attribute, type, text) < 0)
        a->status = part_fail(a->err, NOC_EDATA, a->path, "an attribute cannot be read");
    else
        text[size - 1] = '\0';
    part_release(type);
    part_release(attribute);
}

double part_get_real(part_attributes *a, const char *name)
{
    double value = 0;
    part_get(a, name, H5T_NATIVE_DOUBLE, 1, &value);
    return value;
}

int64_t part_get_integer(part_attributes *a, const char *name)
{
    int64_t value = 0;
    part_get(a, name, H5T_NATIVE_INT64, 1, &value);
    return value;
}

void part_get_configuration(part_attributes *a, noc_configuration *configuration)
{
    memset(configuration, 0, sizeof *configuration);
    part_get_text(a, "model", configuration->model, sizeof configuration->model);
    part_get_text(a, "model_sha256", configuration->model_sha256, sizeof configuration->model_sha256);
    part_get(a, "window", H5T_NATIVE_INT64, 3, configuration->window);
    configuration->overlap = part_get_real(a, "overlap");
    part_get_text(a, "blend", configuration->blend, sizeof configuration->blend);
    part_get_text(a, "precision", configuration->precision, sizeof configuration->precision);
}
