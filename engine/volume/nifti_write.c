/* Label images and probabilities as single files. The bytes are made in memory and replace the file as a
 * whole: a reader never sees a part of a mask. */
#include "engine/base/file.h"
#include "engine/base/half.h"
#include "engine/base/memory.h"
#include "engine/volume/gzip.h"
#include "engine/volume/nifti_header.h"

#include <limits.h>
#include <nifti1.h>
#include <nifti2.h>
#include <stdlib.h>
#include <string.h>

static const int deflate_level = 6;

/* What the voxels are; planes 0: one label image. */
typedef struct content {
    noc_voxel_type type;
    int planes;
} content;

static nifti_2_header wide_header(const noc_grid *grid, content c, const char *descrip)
{
    const noc_nifti_geometry *g = &grid->nifti;
    nifti_2_header h = {
        .sizeof_hdr = NOC_NIFTI2_BYTES,
        .magic = {'n', '+', '2', 0, '\r', '\n', '\032', '\n'}, /* no room for a 0 that ends it */
        .datatype = c.type == NOC_VOXEL_F32  ? DT_FLOAT32
                    : c.type == NOC_VOXEL_U8 ? DT_UINT8
                                             : DT_UINT16,
        .bitpix = (short)(8 * noc_voxel_size(c.type)),
        .dim = {c.planes ? 4 : 3, grid->size[0], grid->size[1], grid->size[2], c.planes ? c.planes : 1, 1, 1,
                1},
        .pixdim = {g->qfac, g->pixdim[0], g->pixdim[1], g->pixdim[2], 1, 1, 1, 1},
        .vox_offset = NOC_NIFTI2_BYTES + NOC_NIFTI_EXTENDER,
        .scl_slope = 1,
        .intent_code = c.planes ? NIFTI_INTENT_NONE : NIFTI_INTENT_LABEL,
        .qform_code = g->qform_code,
        .sform_code = g->sform_code,
        .quatern_b = g->quatern[0],
        .quatern_c = g->quatern[1],
        .quatern_d = g->quatern[2],
        .qoffset_x = g->qoffset[0],
        .qoffset_y = g->qoffset[1],
        .qoffset_z = g->qoffset[2],
        .xyzt_units = g->xyzt_units,
    };

    memcpy(h.srow_x, g->srow[0], sizeof h.srow_x);
    memcpy(h.srow_y, g->srow[1], sizeof h.srow_y);
    memcpy(h.srow_z, g->srow[2], sizeof h.srow_z);
    if (descrip)
        memcpy(h.descrip, descrip, strnlen(descrip, sizeof h.descrip - 1));
    return h;
}

static nifti_1_header narrow_header(const nifti_2_header *wide)
{
    nifti_1_header h = {
        .sizeof_hdr = NOC_NIFTI1_BYTES,
        .regular = 'r',
        .magic = "n+1",
        .datatype = (short)wide->datatype,
        .bitpix = wide->bitpix,
        .vox_offset = NOC_NIFTI1_BYTES + NOC_NIFTI_EXTENDER,
        .scl_slope = 1,
        .intent_code = (short)wide->intent_code,
        .qform_code = (short)wide->qform_code,
        .sform_code = (short)wide->sform_code,
        .quatern_b = (float)wide->quatern_b,
        .quatern_c = (float)wide->quatern_c,
        .quatern_d = (float)wide->quatern_d,
        .qoffset_x = (float)wide->qoffset_x,
        .qoffset_y = (float)wide->qoffset_y,
        .qoffset_z = (float)wide->qoffset_z,
        .xyzt_units = (char)wide->xyzt_units,
    };

    memcpy(h.descrip, wide->descrip, sizeof h.descrip);
    for (int i = 0; i < 8; i++) {
        h.dim[i] = (short)wide->dim[i];
        h.pixdim[i] = (float)wide->pixdim[i];
    }
    for (int j = 0; j < 4; j++) {
        h.srow_x[j] = (float)wide->srow_x[j];
        h.srow_y[j] = (float)wide->srow_y[j];
        h.srow_z[j] = (float)wide->srow_z[j];
    }
    return h;
}

/* *size = where the voxels begin. */
static void encode_header(const noc_grid *grid, content c, const char *descrip,
                          unsigned char bytes[NOC_NIFTI2_BYTES + NOC_NIFTI_EXTENDER], size_t *size)
{
    const nifti_2_header wide = wide_header(grid, c, descrip);
    const bool is_large = grid->size[0] > SHRT_MAX || grid->size[1] > SHRT_MAX || grid->size[2] > SHRT_MAX ||
                          c.planes > SHRT_MAX;

    memset(bytes, 0, NOC_NIFTI2_BYTES + NOC_NIFTI_EXTENDER);
    if (grid->nifti.version == 2 || is_large) {
        memcpy(bytes, &wide, sizeof wide);
        *size = NOC_NIFTI2_BYTES + NOC_NIFTI_EXTENDER;
    } else {
        const nifti_1_header narrow = narrow_header(&wide);
        memcpy(bytes, &narrow, sizeof narrow);
        *size = NOC_NIFTI1_BYTES + NOC_NIFTI_EXTENDER;
    }
}

static bool ends_in(const char *text, const char *end)
{
    const size_t length = strlen(text), tail = strlen(end);

    return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* The uncompressed file but for its voxels, which begin at *voxels; NULL with a failure in err. */
static unsigned char *make_file(const char *path, const noc_grid *grid, content c, const char *descrip,
                                void **voxels, size_t *size, noc_error *err)
{
    unsigned char header[NOC_NIFTI2_BYTES + NOC_NIFTI_EXTENDER];
    size_t header_bytes, voxel_bytes = noc_size_product(noc_grid_voxels(grid), noc_voxel_size(c.type));

    encode_header(grid, c, descrip, header, &header_bytes);
    *size = noc_size_sum(header_bytes, noc_size_product(voxel_bytes, c.planes ? (size_t)c.planes : 1));
    unsigned char *whole = noc_alloc(*size, 1, err);
    if (!whole) {
        noc_within(err, NOC_ENOMEMORY, "%s", path);
        return NULL;
    }
    memcpy(whole, header, header_bytes);
    *voxels = whole + header_bytes;
    return whole;
}

/* The file as its name wants it; takes `whole`. */
static noc_status finish_file(const char *path, unsigned char *whole, size_t bytes, void **packed,
                              size_t *size, noc_error *err)
{
    if (!ends_in(path, ".gz")) {
        *packed = whole;
        *size = bytes;
        return NOC_OK;
    }
    noc_status status = noc_gzip_deflate(whole, bytes, deflate_level, packed, size, err);
    if (status != NOC_OK)
        noc_within(err, status, "%s", path);
    free(whole);
    return status;
}

noc_status noc_nifti_pack_labels(const char *path, const noc_grid *grid, noc_voxel_type type,
                                 const void *voxels, const char *descrip, void **packed, size_t *size,
                                 noc_error *err)
{
    size_t bytes;
    void *to;

    if (type != NOC_VOXEL_U8 && type != NOC_VOXEL_U16)
        return noc_fail(err, NOC_EINTERNAL, "%s: labels are uint8 or uint16, not %s", path,
                        noc_voxel_name(type));
    unsigned char *whole = make_file(path, grid, (content){.type = type}, descrip, &to, &bytes, err);
    if (!whole)
        return NOC_ENOMEMORY;
    memcpy(to, voxels, noc_grid_voxels(grid) * noc_voxel_size(type));
    return finish_file(path, whole, bytes, packed, size, err);
}

noc_status noc_nifti_pack_probabilities(const char *path, const noc_grid *grid, int planes,
                                        const uint16_t *probabilities, const char *descrip, void **packed,
                                        size_t *size, noc_error *err)
{
    const size_t count = noc_grid_voxels(grid) * (size_t)planes;
    size_t bytes;
    void *to;
    unsigned char *whole = make_file(path, grid, (content){NOC_VOXEL_F32, planes}, descrip, &to, &bytes, err);

    if (!whole)
        return NOC_ENOMEMORY;
    for (size_t i = 0; i < count; i++)
        ((float *)to)[i] = (float)noc_half_value(probabilities[i]);
    return finish_file(path, whole, bytes, packed, size, err);
}

noc_status noc_nifti_write_labels(const char *path, const noc_grid *grid, noc_voxel_type type,
                                  const void *voxels, const char *descrip, noc_error *err)
{
    void *packed;
    size_t size;
    noc_status status = noc_nifti_pack_labels(path, grid, type, voxels, descrip, &packed, &size, err);

    if (status != NOC_OK)
        return status;
    status = noc_file_replace(path, packed, size, err);
    free(packed);
    return status;
}
