/* Writing a part. What always holds: with a communicator every rank makes every call of the library in the
 * same order with equal values, and only the voxels differ. A rank that fails makes no further call, neither
 * of the library nor of MPI: a call that failed here may have left the others waiting anywhere inside it, so
 * there is no place to meet them. It is the coordinator who hears of it and ends the job. */
#include "pipeline/part_format.h"

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "pipeline/results.h"

#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK_BYTES = 2 << 20, ATTRIBUTES_IN_PLACE = 256, METRIC_CHUNK = 1024 };

struct noc_part_writer {
    char *path;
    MPI_Comm communicator; /* MPI_COMM_NULL: alone */
    int rank;
    noc_part_header header;
    int failure;                   /* the system's number of the first write that failed; 0: none */
    hid_t file, studies, transfer; /* negative: not open */
    part_metric *rows;             /* of /metrics, written at close */
    size_t row_count, row_capacity;
};

char *noc_part_path(const char *folder, int64_t number, bool with_open, noc_error *err)
{
    char name[48];
    snprintf(name, sizeof name, "part-%06lld.h5%s", (long long)number, with_open ? ".open" : "");
    return noc_path_join(folder, name, err);
}

/* A shared part: where a failed call of MPI-IO leaves to. The library would go on after it, into calls that
 * the others do not make; nothing of it is used again in this process. */
static jmp_buf way_out;
static char why_out[MPI_MAX_ERROR_STRING];

static void leave_library(MPI_File *file, int *code, ...)
{
    int length, number = errno; /* most likely the system's own reason, which the code does not tell */
    char text[MPI_MAX_ERROR_STRING] = "";
    (void)file;
    MPI_Error_string(*code, text, &length);
    snprintf(why_out, sizeof why_out, "%.160s (%s)", text, number ? strerror(number) : "MPI-IO");
    longjmp(way_out, 1);
}

/* For every file opened from now on. */
static bool set_way_out(void)
{
    static MPI_Errhandler handler = MPI_ERRHANDLER_NULL;
    if (handler == MPI_ERRHANDLER_NULL && MPI_File_create_errhandler(leave_library, &handler) != MPI_SUCCESS)
        return false;
    return MPI_File_set_errhandler(MPI_FILE_NULL, handler) == MPI_SUCCESS;
}

static bool is_alone(const noc_part_writer *part)
{
    return part->communicator == MPI_COMM_NULL;
}

/* Alone: a failed write, which the library does not know of, is one of this step. */
static noc_status settle(const noc_part_writer *part, noc_status status, noc_error *err)
{
    if (part->failure != 0)
        return noc_fail(err, NOC_EIO, "%s: cannot be written: %s", part->path, strerror(part->failure));
    return status;
}

/* [all] Rank 0's clock, so that every rank writes the same time. */
static void now_of_all(const noc_part_writer *part, char text[NOC_CLOCK_TEXT])
{
    int64_t now = noc_clock_unix_ns();
    if (!is_alone(part))
        MPI_Bcast(&now, 1, MPI_INT64_T, 0, part->communicator);
    noc_clock_utc(now, 0, text);
}

/* ---- create ---- */

static hid_t create_file(noc_part_writer *part)
{
    hid_t access = part_access(H5F_LIBVER_V110), file = -1;
    if (access < 0)
        return -1;
    if (is_alone(part) ? part_use_driver(access, &part->failure)
                       : set_way_out() && H5Pset_fapl_mpio(access, part->communicator, MPI_INFO_NULL) >= 0)
        file = H5Fcreate(part->path, H5F_ACC_EXCL, H5P_DEFAULT, access);
    part_release(access);
    return file;
}

/* Attributes stay in the object's header, which has a checksum; no times, so that equal parts are equal
 * files. */
static hid_t create_group(hid_t parent, const char *name)
{
    hid_t creation = H5Pcreate(H5P_GROUP_CREATE), group = -1;
    if (creation >= 0 && H5Pset_attr_phase_change(creation, ATTRIBUTES_IN_PLACE, 0) >= 0 &&
        H5Pset_obj_track_times(creation, false) >= 0)
        group = H5Gcreate2(parent, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    part_release(creation);
    return group;
}

static const char *scale_name(const noc_part_header *header)
{
    return header->manifest->network.attention_scale == NOC_SCALE_HEAD_DIM ? "head_dim" : "num_heads";
}

/* What made it, on the file and on each study. */
static void put_maker(part_attributes *a, const noc_part_header *header)
{
    part_put_configuration(a, &header->configuration);
    part_put_text(a, "attention_scale", scale_name(header));
    part_put_text(a, "device", header->device);
    part_put_text(a, "isa", header->isa);
    part_put_text(a, "nocturne_version", header->version);
}

static noc_status write_head(noc_part_writer *part, int64_t number, noc_error *err)
{
    char created[NOC_CLOCK_TEXT], creator[80];
    part_attributes a = {.object = part->file, .path = part->path, .err = err};
    now_of_all(part, created);
    snprintf(creator, sizeof creator, "nocturne %s", part->header.version);
    part_put_text(&a, "schema", PART_SCHEMA);
    part_put_text(&a, "created", created);
    part_put_text(&a, "creator", creator);
    part_put_integer(&a, "part", number);
    put_maker(&a, &part->header);
    if (a.status == NOC_OK && (part->studies = create_group(part->file, "studies")) < 0)
        a.status = part_fail(err, NOC_EIO, part->path, "group studies cannot be made");
    return a.status;
}

static noc_status open_transfer(noc_part_writer *part, noc_error *err)
{
    part->transfer = H5Pcreate(H5P_DATASET_XFER);
    if (part->transfer < 0 || (!is_alone(part) && H5Pset_dxpl_mpio(part->transfer, H5FD_MPIO_COLLECTIVE) < 0))
        return part_fail(err, NOC_EINTERNAL, part->path, "no way of writing");
    return NOC_OK;
}

static noc_status new_writer(const char *folder, int64_t number, const noc_part_header *header,
                             MPI_Comm communicator, noc_part_writer **out, noc_error *err)
{
    noc_part_writer *part = noc_alloc_zeroed(1, sizeof *part, err);
    if (!part)
        return NOC_ENOMEMORY;
    part->communicator = communicator;
    part->header = *header;
    part->file = part->studies = part->transfer = -1;
    part->path = noc_part_path(folder, number, true, err);
    if (!part->path) {
        free(part);
        return NOC_ENOMEMORY;
    }
    if (communicator != MPI_COMM_NULL)
        MPI_Comm_rank(communicator, &part->rank);
    *out = part;
    return NOC_OK;
}

static void free_writer(noc_part_writer *part)
{
    free(part->rows);
    free(part->path);
    free(part);
}

static noc_status create(const char *folder, int64_t number, const noc_part_header *header,
                         MPI_Comm communicator, noc_part_writer **part, noc_error *err)
{
    noc_part_writer *made = NULL;
    noc_status status = part_library_open(err);
    if (status == NOC_OK)
        status = new_writer(folder, number, header, communicator, &made, err);
    if (status != NOC_OK)
        return status;
    made->file = create_file(made);
    if (made->file < 0)
        status = part_fail(err, NOC_ECANTCREATE, made->path, "cannot be created");
    status = settle(made, status, err);
    if (status != NOC_OK && made->file < 0) {
        free_writer(made);
        return status;
    }
    if (status == NOC_OK)
        status = write_head(made, number, err);
    if (status == NOC_OK)
        status = open_transfer(made, err);
    status = settle(made, status, err);
    if (status == NOC_OK)
        *part = made;
    else
        noc_part_abandon(made);
    return status;
}

noc_status noc_part_create(const char *folder, int64_t number, const noc_part_header *header,
                           MPI_Comm communicator, noc_part_writer **part, noc_error *err)
{
    if (setjmp(way_out) != 0)
        return noc_fail(err, NOC_ECANTCREATE, "%s: part %lld cannot be created: %s", folder,
                        (long long)number, why_out);
    return create(folder, number, header, communicator, part, err);
}

/* ---- voxels ---- */

static hsize_t smaller(hsize_t a, hsize_t b)
{
    return a < b ? a : b;
}

/* Whole planes of about CHUNK_BYTES; whole rows where a plane is much larger. */
static void choose_chunk(const hsize_t dims[3], hsize_t voxel_bytes, hsize_t chunk[3])
{
    hsize_t voxels = CHUNK_BYTES / voxel_bytes;
    chunk[2] = smaller(dims[2], 2 * voxels);
    chunk[1] = chunk[2] * dims[1] <= 2 * voxels ? dims[1] : smaller(dims[1], voxels / chunk[2] + 1);
    chunk[0] = smaller(dims[0], voxels / (chunk[2] * chunk[1]) + 1);
}

/* rank 4: planes of dims[1] to dims[3]. */
static hid_t create_voxels(hid_t group, const char *name, hid_t type, int rank, const hsize_t *dims)
{
    hsize_t chunk[4] = {1};
    hid_t space = H5Screate_simple(rank, dims, NULL), creation = H5Pcreate(H5P_DATASET_CREATE), dataset = -1;
    choose_chunk(dims + rank - 3, H5Tget_size(type), chunk + rank - 3);
    if (space >= 0 && creation >= 0 && H5Pset_chunk(creation, rank, chunk) >= 0 &&
        H5Pset_shuffle(creation) >= 0 && H5Pset_deflate(creation, 1) >= 0 &&
        H5Pset_obj_track_times(creation, false) >= 0)
        dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    part_release(creation);
    part_release(space);
    return dataset;
}

/* [all] Those without data select nothing. */
static bool write_data(const noc_part_writer *part, hid_t dataset, hid_t type, const void *data)
{
    const unsigned char nothing[8] = {0};
    hid_t space = H5Dget_space(dataset);
    if (space >= 0 && !data)
        H5Sselect_none(space);
    bool is_written =
        space >= 0 && H5Dwrite(dataset, type, space, space, part->transfer, data ? data : nothing) >= 0;
    part_release(space);
    return is_written;
}

/* [all] */
static noc_status write_voxels(noc_part_writer *part, hid_t group, const char *name, int voxel_bytes,
                               const noc_grid *grid, const void *voxels, noc_error *err)
{
    const hsize_t dims[3] = {(hsize_t)grid->size[2], (hsize_t)grid->size[1], (hsize_t)grid->size[0]};
    hid_t type = voxel_bytes == 1 ? H5T_STD_U8LE : voxel_bytes == 2 ? H5T_STD_U16LE : H5T_STD_U32LE;
    hid_t dataset = create_voxels(group, name, type, 3, dims);
    part_attributes a = {.object = dataset, .path = part->path, .err = err};
    if (dataset < 0)
        a.status = part_fail(err, NOC_EIO, part->path, "a mask cannot be made");
    part_put_texts(&a, "axes", "k\0j\0i", 2, 3);
    noc_status status = settle(part, a.status, err);
    if (status == NOC_OK && (!write_data(part, dataset, type, voxels) || H5Dclose(dataset) < 0))
        status = part_fail(err, NOC_EIO, part->path, "a mask cannot be written");
    return settle(part, status, err);
}

/* ---- probabilities ---- */

/* What the planes are: names in their order. */
static void put_classes(part_attributes *a, const noc_part_header *header, size_t count)
{
    const noc_manifest *m = header->manifest;
    bool has_regions = header->output == NOC_OUTPUT_REGIONS;
    char(*names)[NOC_METRIC_TEXT] = noc_alloc_zeroed(count, sizeof *names, a->err);
    if (!names) {
        a->status = NOC_ENOMEMORY;
        return;
    }
    if (!has_regions)
        snprintf(names[0], sizeof *names, "background");
    for (int i = 0; i < m->label_count && !has_regions; i++)
        if ((size_t)m->labels[i].index < count)
            snprintf(names[m->labels[i].index], sizeof *names, "%s", m->labels[i].name);
    for (int i = 0; i < m->region_count && has_regions && (size_t)i < count; i++)
        snprintf(names[i], sizeof *names, "%s", m->regions[i].name);
    part_put_text(a, "activation", has_regions ? "sigmoid" : "softmax");
    part_put_texts(a, "axes", "c\0k\0j\0i", 2, 4);
    part_put_texts(a, "classes", names[0], sizeof *names, count);
    free(names);
}

/* [all] A plane at a time, so that no call has more to write than that of a mask of 16 bits. */
static bool write_planes(const noc_part_writer *part, hid_t dataset, hid_t type, const hsize_t dims[4],
                         const uint16_t *data)
{
    const uint16_t nothing[1] = {0};
    hid_t memory = H5Screate_simple(3, dims + 1, NULL), file = H5Dget_space(dataset);
    hsize_t from[4] = {0};
    const hsize_t count[4] = {1, dims[1], dims[2], dims[3]}, voxels = dims[1] * dims[2] * dims[3];
    bool is_written = memory >= 0 && file >= 0;
    for (; is_written && from[0] < dims[0]; from[0]++) {
        H5Sselect_hyperslab(file, H5S_SELECT_SET, from, NULL, count, NULL);
        if (!data) {
            H5Sselect_none(memory);
            H5Sselect_none(file);
        }
        is_written = H5Dwrite(dataset, type, memory, file, part->transfer,
                              data ? data + from[0] * voxels : nothing) >= 0;
    }
    part_release(memory);
    part_release(file);
    return is_written;
}

/* [all] */
static noc_status write_probabilities(noc_part_writer *part, hid_t group, const noc_outcome *o,
                                      const uint16_t *data, noc_error *err)
{
    const hsize_t dims[4] = {(hsize_t)o->plane_count, (hsize_t)o->grid.size[2], (hsize_t)o->grid.size[1],
                             (hsize_t)o->grid.size[0]};
    hid_t type = part_half_type(),
          dataset = type < 0 ? -1 : create_voxels(group, "probabilities", type, 4, dims);
    part_attributes a = {.object = dataset, .path = part->path, .err = err};
    if (dataset < 0)
        a.status = part_fail(err, NOC_EIO, part->path, "probabilities cannot be made");
    else
        put_classes(&a, &part->header, dims[0]);
    noc_status status = settle(part, a.status, err);
    if (status == NOC_OK && (!write_planes(part, dataset, type, dims, data) || H5Dclose(dataset) < 0))
        status = part_fail(err, NOC_EIO, part->path, "probabilities cannot be written");
    part_release(type);
    return settle(part, status, err);
}

/* ---- a study ---- */

static void put_geometry(part_attributes *a, const noc_grid *grid)
{
    const noc_nifti_geometry *nifti = &grid->nifti;
    part_put_matrix(a, "affine", grid->affine[0], 4, 4);
    part_put_text(a, "space", "RAS+");
    part_put(a, "spacing_mm", H5T_NATIVE_DOUBLE, 3, grid->spacing_mm);
    part_put_integer(a, "nifti_version", nifti->version);
    part_put_integer(a, "qform_code", nifti->qform_code);
    part_put_integer(a, "sform_code", nifti->sform_code);
    part_put(a, "quatern", H5T_NATIVE_DOUBLE, 3, nifti->quatern);
    part_put(a, "qoffset", H5T_NATIVE_DOUBLE, 3, nifti->qoffset);
    part_put_real(a, "qfac", nifti->qfac);
    part_put_matrix(a, "srow", nifti->srow[0], 3, 4);
    part_put(a, "pixdim", H5T_NATIVE_DOUBLE, 3, nifti->pixdim);
    part_put_integer(a, "xyzt_units", nifti->xyzt_units);
}

/* What the numbers of the mask mean: `label_values` beside `labels`, their names. */
static void put_labels(part_attributes *a, const noc_part_header *header)
{
    const noc_manifest *m = header->manifest;
    bool has_regions = header->output == NOC_OUTPUT_REGIONS;
    size_t count = (size_t)(has_regions ? m->paint_count : m->label_count);
    char(*names)[NOC_METRIC_TEXT] = noc_alloc_zeroed(count + 1, sizeof *names, a->err);
    int32_t *values = noc_alloc_zeroed(count + 1, sizeof *values, a->err);
    if (!names || !values)
        a->status = NOC_ENOMEMORY;
    for (size_t i = 0; a->status == NOC_OK && i < count; i++) {
        const char *name = has_regions ? m->regions[m->paints[i].region].name : m->labels[i].name;
        values[i] = has_regions ? m->paints[i].label : m->labels[i].index;
        snprintf(names[i], sizeof *names, "%s", name);
    }
    if (count > 0) {
        part_put_texts(a, "labels", names[0], sizeof *names, count);
        part_put(a, "label_values", H5T_NATIVE_INT32, count, values);
    }
    free(names);
    free(values);
}

/* Names of the bits of `regions`, bit 0 first. */
static void put_regions(part_attributes *a, const noc_part_header *header)
{
    char names[NOC_MAX_REGIONS][NOC_METRIC_TEXT] = {{0}};
    const noc_manifest *m = header->manifest;
    if (header->output != NOC_OUTPUT_REGIONS || m->region_count == 0)
        return;
    for (int i = 0; i < m->region_count; i++)
        snprintf(names[i], sizeof names[i], "%s", m->regions[i].name);
    part_put_texts(a, "region_names", names[0], sizeof names[0], (size_t)m->region_count);
}

static void put_study(part_attributes *a, const noc_part_writer *part, const noc_part_entry *entry,
                      const char *created)
{
    const noc_outcome *o = &entry->outcome;
    part_put_text(a, "key", o->key);
    part_put_text(a, "mask_sha256", o->mask_sha256);
    part_put_text(a, "source", entry->source);
    part_put_text(a, "source_sha256", o->source_sha256);
    part_put_text(a, "fingerprint", o->fingerprint);
    put_geometry(a, &o->grid);
    put_labels(a, &part->header);
    put_regions(a, &part->header);
    put_maker(a, &part->header);
    part_put_text(a, "created", created);
    part_put_integer(a, "windows", o->windows);
    part_put_real(a, "seconds_read", o->seconds_read);
    part_put_real(a, "seconds_prepare", o->seconds_prepare);
    part_put_real(a, "seconds_compute", o->seconds_compute);
    part_put_real(a, "seconds_score", o->seconds_score);
    if (o->suspect[0])
        part_put_text(a, "suspect", o->suspect);
    if (o->plane_count > 0)
        part_put_text(a, "probabilities_sha256", o->probabilities_sha256);
}

static noc_status add_rows(noc_part_writer *part, const noc_outcome *o, noc_error *err)
{
    size_t needed = part->row_count + (size_t)o->metric_count;
    if (needed > part->row_capacity) {
        part_metric *grown = reallocarray(part->rows, needed * 2, sizeof *grown);
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "%s: no memory for its metrics", part->path);
        part->rows = grown;
        part->row_capacity = needed * 2;
    }
    for (int i = 0; i < o->metric_count; i++) {
        const noc_metric *m = &o->metrics[i];
        part_metric *row = memset(&part->rows[part->row_count++], 0, sizeof *row);
        memcpy(row->key, o->key, sizeof o->key);
        memcpy(row->state, "done", 4);
        memcpy(row->label, m->label, sizeof m->label);
        memcpy(row->name, m->name, sizeof m->name);
        row->tp = m->tp, row->fp = m->fp, row->fn = m->fn, row->tn = m->tn;
        row->dice = m->dice, row->iou = m->iou;
        row->precision = m->precision, row->recall = m->recall;
        row->truth_ml = m->truth_ml, row->prediction_ml = m->prediction_ml;
        row->volume_similarity = m->volume_similarity;
        row->has_truth = m->has_truth;
    }
    return NOC_OK;
}

/* [all] */
static noc_status write_entry(noc_part_writer *part, const noc_part_entry *entry, const char *created,
                              noc_error *err)
{
    const noc_outcome *o = &entry->outcome;
    bool is_owner = entry->owner == part->rank || is_alone(part);
    part_attributes a = {.path = part->path, .err = err};
    a.object = create_group(part->studies, o->key);
    if (a.object < 0)
        a.status = part_fail(err, NOC_EIO, part->path, "a study's group cannot be made");
    else
        put_study(&a, part, entry, created);
    if (a.status == NOC_OK)
        a.status = add_rows(part, o, err);
    noc_status status = settle(part, a.status, err);
    if (status == NOC_OK)
        status =
            write_voxels(part, a.object, "mask", o->mask_bytes, &o->grid, is_owner ? o->mask : NULL, err);
    if (status == NOC_OK && o->region_bytes > 0)
        status = write_voxels(part, a.object, "regions", o->region_bytes, &o->grid,
                              is_owner ? o->regions : NULL, err);
    if (status == NOC_OK && o->plane_count > 0)
        status = write_probabilities(part, a.object, o, is_owner ? o->probabilities : NULL, err);
    if (status == NOC_OK && H5Gclose(a.object) < 0)
        status = part_fail(err, NOC_EIO, part->path, "a study's group cannot be written");
    return status == NOC_OK ? NOC_OK : noc_within(err, status, "%s", o->key);
}

static noc_status write_entries(noc_part_writer *part, const noc_part_entry *entries, int count,
                                noc_error *err)
{
    char created[NOC_CLOCK_TEXT];
    noc_status status = NOC_OK;
    now_of_all(part, created);
    for (int i = 0; status == NOC_OK && i < count; i++)
        status = write_entry(part, &entries[i], created, err);
    /* A full disk should show in the round that fills it. */
    if (status == NOC_OK && H5Fflush(part->file, H5F_SCOPE_LOCAL) < 0)
        status = part_fail(err, NOC_EIO, part->path, "cannot be written");
    return settle(part, status, err);
}

noc_status noc_part_write(noc_part_writer *part, const noc_part_entry *entries, int count, noc_error *err)
{
    if (setjmp(way_out) != 0)
        return noc_fail(err, NOC_EIO, "%s: cannot be written: %s", part->path, why_out);
    return write_entries(part, entries, count, err);
}

/* ---- close ---- */

static hid_t create_metrics(const noc_part_writer *part, hid_t type)
{
    const hsize_t rows[1] = {part->row_count}, chunk[1] = {smaller(part->row_count, METRIC_CHUNK)};
    hid_t space = H5Screate_simple(1, rows, NULL), creation = H5Pcreate(H5P_DATASET_CREATE), dataset = -1;
    bool is_ready = space >= 0 && creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0;
    if (is_ready && chunk[0] > 0)
        is_ready = H5Pset_chunk(creation, 1, chunk) >= 0 && H5Pset_deflate(creation, 1) >= 0;
    if (is_ready)
        dataset = H5Dcreate2(part->file, "metrics", type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    part_release(creation);
    part_release(space);
    return dataset;
}

/* [all] Every rank knows all rows; rank 0 writes them. */
static noc_status write_metrics(noc_part_writer *part, noc_error *err)
{
    hid_t type = part_metric_type(), dataset = type < 0 ? -1 : create_metrics(part, type);
    part_attributes a = {.object = dataset, .path = part->path, .err = err};
    if (dataset < 0)
        a.status = part_fail(err, NOC_EIO, part->path, "/metrics cannot be made");
    part_put_text(&a, "empty_masks", "nnunet");
    noc_status status = settle(part, a.status, err);
    if (status == NOC_OK && part->row_count > 0 &&
        !write_data(part, dataset, type, part->rank == 0 ? part->rows : NULL))
        status = part_fail(err, NOC_EIO, part->path, "/metrics cannot be written");
    if (status == NOC_OK && H5Dclose(dataset) < 0)
        status = part_fail(err, NOC_EIO, part->path, "/metrics cannot be written");
    part_release(type);
    return settle(part, status, err);
}

static noc_status close_file(noc_part_writer *part, noc_error *err)
{
    noc_status status = NOC_OK;
    if (H5Gclose(part->studies) < 0 || H5Fflush(part->file, H5F_SCOPE_LOCAL) < 0)
        status = part_fail(err, NOC_EIO, part->path, "cannot be written");
    part->studies = -1;
    status = settle(part, status, err);
    if (status != NOC_OK)
        return status;
    herr_t closed = H5Fclose(part->file);
    part->file = -1;
    return settle(part, closed < 0 ? part_fail(err, NOC_EIO, part->path, "cannot be closed") : NOC_OK, err);
}

/* Each rank syncs, since each may be a machine of its own. */
static noc_status sync_file(noc_part_writer *part, int64_t *bytes, noc_error *err)
{
    struct stat info = {0};
    noc_status status = noc_file_sync(part->path, err);
    if (status == NOC_OK && stat(part->path, &info) != 0)
        status = noc_fail(err, NOC_EIO, "%s: %s", part->path, strerror(errno));
    if (status == NOC_OK)
        *bytes = (int64_t)info.st_size;
    return status;
}

static noc_status close_part(noc_part_writer *part, int64_t *bytes, noc_error *err)
{
    noc_status status = write_metrics(part, err);
    if (status == NOC_OK)
        status = close_file(part, err);
    if (status == NOC_OK)
        status = sync_file(part, bytes, err);
    if (status != NOC_OK)
        return status;
    part_release(part->transfer);
    free_writer(part);
    return NOC_OK;
}

noc_status noc_part_close(noc_part_writer *part, int64_t *bytes, noc_error *err)
{
    if (setjmp(way_out) != 0)
        return noc_fail(err, NOC_EIO, "%s: cannot be closed: %s", part->path, why_out);
    return close_part(part, bytes, err);
}

void noc_part_abandon(noc_part_writer *part)
{
    if (!part || !is_alone(part))
        return;
    unlink(part->path);
    part_release(part->studies);
    part_release(part->file);
    part_release(part->transfer);
    free_writer(part);
}
