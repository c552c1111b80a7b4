/* From header bytes to a layout. NIfTI-1 is widened to NIfTI-2's fields first, so every check is made once.
 * What always holds: a decoded layout has sizes of at least 1 whose product of bytes fits the limit, and a
 * regular affine. */
#include "engine/volume/nifti_header.h"

#include "engine/base/memory.h"
#include "engine/volume/orientation.h"

#include <limits.h>
#include <math.h>
#include <nifti2_io.h>
#include <pthread.h>
#include <string.h>

_Static_assert(sizeof(nifti_1_header) == NOC_NIFTI1_BYTES, "a NIfTI-1 header has 348 bytes");
_Static_assert(sizeof(nifti_2_header) == NOC_NIFTI2_BYTES, "a NIfTI-2 header has 540 bytes");

static const size_t default_limit = (size_t)64 << 30;
static const int64_t farthest_offset = (int64_t)1 << 30;

static const struct {
    int code, bits;
    noc_voxel_type type;
} known_types[] = {
    {DT_UINT8, 8, NOC_VOXEL_U8},     {DT_INT8, 8, NOC_VOXEL_I8},     {DT_UINT16, 16, NOC_VOXEL_U16},
    {DT_INT16, 16, NOC_VOXEL_I16},   {DT_UINT32, 32, NOC_VOXEL_U32}, {DT_INT32, 32, NOC_VOXEL_I32},
    {DT_UINT64, 64, NOC_VOXEL_U64},  {DT_INT64, 64, NOC_VOXEL_I64},  {DT_FLOAT32, 32, NOC_VOXEL_F32},
    {DT_FLOAT64, 64, NOC_VOXEL_F64},
};

static void silence_library(void)
{
    nifti_set_debug_level(0);
}

/* vox_offset is a float in NIfTI-1; what is no whole number becomes -1. */
static int64_t whole_offset(float offset)
{
    return offset >= 0 && offset < 1e18f && truncf(offset) == offset ? (int64_t)offset : -1;
}

static void widen(const nifti_1_header *h, nifti_2_header *wide)
{
    *wide = (nifti_2_header){
        .sizeof_hdr = h->sizeof_hdr,
        .datatype = h->datatype,
        .bitpix = h->bitpix,
        .vox_offset = whole_offset(h->vox_offset),
        .scl_slope = h->scl_slope,
        .scl_inter = h->scl_inter,
        .qform_code = h->qform_code,
        .sform_code = h->sform_code,
        .quatern_b = h->quatern_b,
        .quatern_c = h->quatern_c,
        .quatern_d = h->quatern_d,
        .qoffset_x = h->qoffset_x,
        .qoffset_y = h->qoffset_y,
        .qoffset_z = h->qoffset_z,
        .xyzt_units = (unsigned char)h->xyzt_units,
    };
    memcpy(wide->magic, h->magic, sizeof h->magic);
    for (int i = 0; i < 8; i++) {
        wide->dim[i] = h->dim[i];
        wide->pixdim[i] = (double)h->pixdim[i];
    }
    for (int i = 0; i < 4; i++) {
        wide->srow_x[i] = h->srow_x[i];
        wide->srow_y[i] = h->srow_y[i];
        wide->srow_z[i] = h->srow_z[i];
    }
}

/* The header in this machine's byte order and NIfTI-2's fields. */
static noc_status take_fields(const unsigned char *bytes, size_t size, nifti_2_header *wide, int *version,
                              bool *is_swapped, noc_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    nifti_1_header narrow;

    pthread_once(&once, silence_library);
    if (size == 0)
        return noc_fail(err, NOC_EUNREADABLE, "is empty");
    if (size < NOC_NIFTI1_BYTES)
        return noc_fail(err, NOC_EUNREADABLE, "holds %zu bytes, a NIfTI header has %d", size,
                        NOC_NIFTI1_BYTES);
    *version = nifti_header_version((const char *)bytes, size);
    if (*version == 0)
        return noc_fail(err, NOC_EUNREADABLE, "is not NIfTI: an Analyze header without NIfTI's magic");
    if (*version != 1 && *version != 2)
        return noc_fail(err, NOC_EUNREADABLE, "is not NIfTI");
    if (*version == 2 && size < NOC_NIFTI2_BYTES)
        return noc_fail(err, NOC_EUNREADABLE, "holds %zu bytes, a NIfTI-2 header has %d", size,
                        NOC_NIFTI2_BYTES);
    memcpy(&narrow, bytes, sizeof narrow);
    *is_swapped = narrow.sizeof_hdr != NOC_NIFTI1_BYTES && narrow.sizeof_hdr != NOC_NIFTI2_BYTES;
    if (*version == 1) {
        if (*is_swapped)
            swap_nifti_header(&narrow, 1);
        widen(&narrow, wide);
    } else {
        memcpy(wide, bytes, sizeof *wide);
        if (*is_swapped)
            swap_nifti_header(wide, 2);
    }
    return NOC_OK;
}

static noc_status take_type(const nifti_2_header *h, noc_nifti_header *header, noc_error *err)
{
    for (size_t n = 0; n < sizeof known_types / sizeof known_types[0]; n++) {
        if (known_types[n].code != h->datatype)
            continue;
        if (known_types[n].bits != h->bitpix)
            return noc_fail(err, NOC_EUNREADABLE, "datatype %s has %d bits a voxel, bitpix says %d",
                            noc_voxel_name(known_types[n].type), known_types[n].bits, h->bitpix);
        header->type = known_types[n].type;
        return NOC_OK;
    }
    return noc_fail(err, NOC_EUNSUPPORTED,
                    "voxels of datatype %d (%s): integers and floats up to 64 bits are read", h->datatype,
                    nifti_datatype_string(h->datatype));
}

static noc_status take_sizes(const nifti_2_header *h, noc_nifti_header *header, noc_error *err)
{
    const int64_t axes = h->dim[0];

    if (axes < 1 || axes > 7)
        return noc_fail(err, NOC_EGEOMETRY, "dim[0] is %lld, expected 1 to 7 axes", (long long)axes);
    for (int i = 1; i <= axes; i++)
        if (h->dim[i] < 1)
            return noc_fail(err, NOC_EGEOMETRY, "dim[%d] is %lld, expected 1 or more", i,
                            (long long)h->dim[i]);
    for (int i = 5; i <= axes; i++)
        if (h->dim[i] > 1)
            return noc_fail(err, NOC_EUNSUPPORTED, "axis %d has %lld entries: up to 4 axes are read", i,
                            (long long)h->dim[i]);
    for (int i = 0; i < 3; i++)
        header->grid.size[i] = i < axes ? h->dim[i + 1] : 1;
    const int64_t channels = axes >= 4 ? h->dim[4] : 1;
    if (channels > INT_MAX)
        return noc_fail(err, NOC_ETOOLARGE, "%lld channels", (long long)channels);
    header->channels = (int)channels;
    return NOC_OK;
}

/* After type, sizes and offset are known. */
static noc_status check_bytes(noc_nifti_layout *layout, size_t limit, noc_error *err)
{
    noc_nifti_header *header = &layout->header;
    const int64_t *n = header->grid.size;
    size_t bytes = noc_voxel_size(header->type), all;
    const bool fits =
        noc_size_mul(bytes, (size_t)n[0], &bytes) && noc_size_mul(bytes, (size_t)n[1], &bytes) &&
        noc_size_mul(bytes, (size_t)n[2], &bytes) && noc_size_mul(bytes, (size_t)header->channels, &bytes) &&
        noc_size_add(bytes, layout->offset, &all) && all <= (limit ? limit : default_limit);

    if (!fits)
        return noc_fail(err, NOC_ETOOLARGE,
                        "%lldx%lldx%lld voxels of %s in %d channels from byte %zu on are more than %zu bytes",
                        (long long)n[0], (long long)n[1], (long long)n[2], noc_voxel_name(header->type),
                        header->channels, layout->offset, limit ? limit : default_limit);
    header->voxel_bytes = bytes;
    return NOC_OK;
}

static noc_status take_offset(const nifti_2_header *h, int version, noc_nifti_layout *layout, noc_error *err)
{
    const int header_bytes = version == 1 ? NOC_NIFTI1_BYTES : NOC_NIFTI2_BYTES;
    const int64_t least = layout->is_single_file ? header_bytes + NOC_NIFTI_EXTENDER : 0;

    if (h->vox_offset < least || h->vox_offset > farthest_offset)
        return noc_fail(err, NOC_EUNREADABLE,
                        "vox_offset is no place for voxels: they begin at byte %lld or after",
                        (long long)least);
    layout->offset = (size_t)h->vox_offset;
    return NOC_OK;
}

static noc_status take_scale(const nifti_2_header *h, noc_nifti_layout *layout, noc_error *err)
{
    const bool has_scale = h->scl_slope != 0 && isfinite(h->scl_slope);

    if (has_scale && !isfinite(h->scl_inter))
        return noc_fail(err, NOC_EUNREADABLE, "scl_slope is %g but scl_inter is not finite", h->scl_slope);
    layout->slope = has_scale ? h->scl_slope : 1;
    layout->inter = has_scale ? h->scl_inter : 0;
    return NOC_OK;
}

static void take_geometry(const nifti_2_header *h, int version, noc_nifti_geometry *g)
{
    *g = (noc_nifti_geometry){
        .version = version,
        .qform_code = h->qform_code,
        .sform_code = h->sform_code,
        .quatern = {h->quatern_b, h->quatern_c, h->quatern_d},
        .qoffset = {h->qoffset_x, h->qoffset_y, h->qoffset_z},
        .qfac = h->pixdim[0],
        .pixdim = {h->pixdim[1], h->pixdim[2], h->pixdim[3]},
        .xyzt_units = h->xyzt_units,
    };
    for (int j = 0; j < 4; j++) {
        g->srow[0][j] = h->srow_x[j];
        g->srow[1][j] = h->srow_y[j];
        g->srow[2][j] = h->srow_z[j];
    }
    /* An axis that the file does not have may leave its edge 0. A mask has all three, and needs one. */
    for (int i = (int)h->dim[0]; i < 3; i++)
        if (g->pixdim[i] == 0 && g->sform_code <= 0)
            g->pixdim[i] = 1;
}

static noc_status affine_of_qform(const noc_nifti_geometry *g, double affine[4][4], noc_error *err)
{
    const double *q = g->quatern, squares = q[0] * q[0] + q[1] * q[1] + q[2] * q[2];

    if (!(squares <= 1.0001))
        return noc_fail(err, NOC_EGEOMETRY, "the qform's quaternion is not of length 1");
    const nifti_dmat44 rotation = nifti_quatern_to_dmat44(q[0], q[1], q[2], g->qoffset[0], g->qoffset[1],
                                                          g->qoffset[2], 1, 1, 1, g->qfac < 0 ? -1 : 1);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            affine[i][j] = rotation.m[i][j] * (i < 3 && j < 3 ? fabs(g->pixdim[j]) : 1);
    return NOC_OK;
}

static noc_status find_affine(const noc_nifti_geometry *g, bool assume_ras, double affine[4][4],
                              noc_error *err)
{
    noc_status status = NOC_OK;
    const char *source = "sform";

    memset(affine, 0, 16 * sizeof affine[0][0]);
    affine[3][3] = 1;
    if (g->sform_code > 0) {
        memcpy(affine, g->srow, sizeof g->srow);
    } else if (g->qform_code > 0) {
        source = "qform";
        status = affine_of_qform(g, affine, err);
    } else if (assume_ras) {
        source = "pixdim";
        for (int i = 0; i < 3; i++)
            affine[i][i] = fabs(g->pixdim[i]);
    } else {
        return noc_fail(err, NOC_EGEOMETRY, "no orientation: qform_code and sform_code are both 0");
    }
    if (status == NOC_OK && !noc_affine_is_regular(affine))
        return noc_fail(err, NOC_EGEOMETRY, "the affine of the %s is zero, singular or not finite", source);
    return status;
}

static noc_status take_space(const nifti_2_header *h, int version, const noc_nifti_options *options,
                             noc_grid *grid, noc_error *err)
{
    take_geometry(h, version, &grid->nifti);
    const noc_status status = find_affine(&grid->nifti, options->assume_ras, grid->affine, err);
    if (status != NOC_OK)
        return status;
    for (int i = 0; i < 3; i++) {
        const double pixdim = fabs(grid->nifti.pixdim[i]);
        grid->spacing_mm[i] = pixdim > 0 && isfinite(pixdim) ? pixdim : noc_affine_column(grid->affine, i);
    }
    return NOC_OK;
}

noc_status noc_nifti_decode(const unsigned char *bytes, size_t size, const noc_nifti_options *options,
                            noc_nifti_layout *layout, noc_error *err)
{
    nifti_2_header h;
    noc_nifti_layout l = {0};
    int version = 0;
    noc_status status = take_fields(bytes, size, &h, &version, &l.is_swapped, err);

    if (status != NOC_OK)
        return status;
    l.is_single_file = h.magic[1] == '+';
    if ((status = take_sizes(&h, &l.header, err)) != NOC_OK ||
        (status = take_type(&h, &l.header, err)) != NOC_OK ||
        (status = take_offset(&h, version, &l, err)) != NOC_OK ||
        (status = check_bytes(&l, options->max_bytes, err)) != NOC_OK ||
        (status = take_scale(&h, &l, err)) != NOC_OK ||
        (status = take_space(&h, version, options, &l.header.grid, err)) != NOC_OK)
        return status;
    *layout = l;
    return NOC_OK;
}
