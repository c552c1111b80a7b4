/* NIfTI headers: both versions become one struct, then every field that matters is checked. */
#include "engine/volume/nifti_header.h"

#include <math.h>
#include <string.h>

#include <nifti2_io.h>

enum { DEFAULT_MAX_GIB = 64 };

typedef struct type_code {
    int code;
    noc_voxel_type type;
} type_code;

static const type_code type_codes[] = {
    {2, NOC_VOXEL_U8},     {256, NOC_VOXEL_I8},   {512, NOC_VOXEL_U16}, {4, NOC_VOXEL_I16},  {768, NOC_VOXEL_U32},
    {8, NOC_VOXEL_I32},    {1280, NOC_VOXEL_U64}, {1024, NOC_VOXEL_I64}, {16, NOC_VOXEL_F32}, {64, NOC_VOXEL_F64},
};

/* The fields of either version, as those of NIfTI-2. */
static void widen(const nifti_1_header *one, nifti_2_header *two)
{
    memset(two, 0, sizeof *two);
    two->sizeof_hdr = one->sizeof_hdr;
    memcpy(two->magic, one->magic, 4);
    two->datatype = one->datatype;
    two->bitpix = one->bitpix;
    for (int i = 0; i < 8; i++) {
        two->dim[i] = one->dim[i];
        two->pixdim[i] = (double)one->pixdim[i];
    }
    /* a float: beyond any offset that makes sense it must not overflow the conversion */
    two->vox_offset = one->vox_offset >= 0 && one->vox_offset < 1e15f ? (int64_t)one->vox_offset : -1;
    two->scl_slope = (double)one->scl_slope;
    two->scl_inter = (double)one->scl_inter;
    two->qform_code = one->qform_code;
    two->sform_code = one->sform_code;
    two->quatern_b = (double)one->quatern_b;
    two->quatern_c = (double)one->quatern_c;
    two->quatern_d = (double)one->quatern_d;
    two->qoffset_x = (double)one->qoffset_x;
    two->qoffset_y = (double)one->qoffset_y;
    two->qoffset_z = (double)one->qoffset_z;
    for (int i = 0; i < 4; i++) {
        two->srow_x[i] = (double)one->srow_x[i];
        two->srow_y[i] = (double)one->srow_y[i];
        two->srow_z[i] = (double)one->srow_z[i];
    }
    two->xyzt_units = one->xyzt_units;
}

static noc_status decode(const char *path, const unsigned char *bytes, size_t size, nifti_2_header *header, int *version,
                         bool *is_swapped, noc_error *err)
{
    int32_t length;
    nifti_1_header one;
    if (size < sizeof one)
        return noc_fail(err, NOC_EUNREADABLE, "%s: %zu bytes, a NIfTI header has 348", path, size);
    memcpy(&length, bytes, sizeof length);
    *is_swapped = __builtin_bswap32((uint32_t)length) == 348 || __builtin_bswap32((uint32_t)length) == 540;
    if (*is_swapped)
        length = (int32_t)__builtin_bswap32((uint32_t)length);
    if (length == 348 && (memcmp(bytes + 344, "n+1", 4) == 0 || memcmp(bytes + 344, "ni1", 4) == 0)) {
        memcpy(&one, bytes, sizeof one);
        if (*is_swapped)
            nifti_swap_as_nifti1(&one);
        widen(&one, header);
        *version = 1;
        return NOC_OK;
    }
    if (length == 540 && size >= sizeof *header && (memcmp(bytes + 4, "n+2", 4) == 0 || memcmp(bytes + 4, "ni2", 4) == 0)) {
        memcpy(header, bytes, sizeof *header);
        if (*is_swapped)
            nifti_swap_as_nifti2(header);
        *version = 2;
        return NOC_OK;
    }
    return noc_fail(err, NOC_EUNREADABLE, "%s: is no NIfTI file", path);
}

static noc_status check_type(const char *path, const nifti_2_header *h, noc_voxel_type *type, noc_error *err)
{
    for (size_t i = 0; i < sizeof type_codes / sizeof type_codes[0]; i++) {
        if (type_codes[i].code != h->datatype)
            continue;
        *type = type_codes[i].type;
        if (h->bitpix != 0 && (size_t)h->bitpix != 8 * noc_voxel_size(*type))
            return noc_fail(err, NOC_EUNREADABLE, "%s: its header contradicts itself: data type %s, %d bits a voxel", path,
                            noc_voxel_name(*type), h->bitpix);
        return NOC_OK;
    }
    const char *name = h->datatype == 128 || h->datatype == 2304 ? "colour (RGB)" : h->datatype == 32 || h->datatype == 1792 || h->datatype == 2048 ? "complex" : "of an unknown or unsupported type";
    return noc_fail(err, NOC_EUNSUPPORTED, "%s: its voxels are %s (NIfTI data type %d); integers and floats of up to 64 bits are read", path,
                    name, h->datatype);
}

/* Sizes, channels and bytes; axes beyond the fourth must be 1. */
static noc_status check_dims(const char *path, const nifti_2_header *h, size_t max_bytes, noc_nifti_header *out,
                             noc_error *err)
{
    int64_t dims[8] = {0, 1, 1, 1, 1, 1, 1, 1};
    if (h->dim[0] < 1 || h->dim[0] > 7)
        return noc_fail(err, NOC_EGEOMETRY, "%s: dim[0] is %lld, an image has 1 to 7 axes", path, (long long)h->dim[0]);
    for (int i = 1; i <= h->dim[0]; i++) {
        if (h->dim[i] < 1)
            return noc_fail(err, NOC_EGEOMETRY, "%s: axis %d has %lld voxels", path, i, (long long)h->dim[i]);
        dims[i] = h->dim[i];
    }
    for (int i = 5; i < 8; i++)
        if (dims[i] != 1)
            return noc_fail(err, NOC_EUNSUPPORTED, "%s: axis %d has %lld entries; images of up to four axes are read", path, i,
                            (long long)dims[i]);
    size_t bytes = noc_voxel_size(out->type);
    for (int i = 1; i <= 4; i++)
        if (__builtin_mul_overflow(bytes, (size_t)dims[i], &bytes) || bytes > max_bytes)
            return noc_fail(err, NOC_ETOOLARGE, "%s: %lld x %lld x %lld x %lld voxels are more than the limit of %zu MiB", path,
                            (long long)dims[1], (long long)dims[2], (long long)dims[3], (long long)dims[4], max_bytes >> 20);
    if (dims[4] > 4096)
        return noc_fail(err, NOC_EUNSUPPORTED, "%s: %lld channels", path, (long long)dims[4]);
    memcpy(out->grid.size, dims + 1, sizeof out->grid.size);
    out->channels = (int)dims[4];
    out->voxel_bytes = bytes;
    return NOC_OK;
}

static void keep_geometry(const nifti_2_header *h, int version, noc_nifti_geometry *g)
{
    *g = (noc_nifti_geometry){.version = version,
                              .qform_code = h->qform_code,
                              .sform_code = h->sform_code,
                              .quatern = {h->quatern_b, h->quatern_c, h->quatern_d},
                              .qoffset = {h->qoffset_x, h->qoffset_y, h->qoffset_z},
                              .qfac = h->pixdim[0],
                              .pixdim = {h->pixdim[1], h->pixdim[2], h->pixdim[3]},
                              .xyzt_units = h->xyzt_units};
    memcpy(g->srow[0], h->srow_x, sizeof g->srow[0]);
    memcpy(g->srow[1], h->srow_y, sizeof g->srow[1]);
    memcpy(g->srow[2], h->srow_z, sizeof g->srow[2]);
}

static void affine_of_qform(const noc_nifti_geometry *g, double affine[4][4])
{
    nifti_dmat44 m = nifti_quatern_to_dmat44(g->quatern[0], g->quatern[1], g->quatern[2], g->qoffset[0], g->qoffset[1],
                                             g->qoffset[2], fabs(g->pixdim[0]), fabs(g->pixdim[1]), fabs(g->pixdim[2]),
                                             g->qfac < 0 ? -1 : 1);
    memcpy(affine, m.m, sizeof m.m);
}

/* Usable: finite, and its three columns span space. */
static bool is_regular(const double affine[4][4])
{
    double lengths = 1;
    for (int r = 0; r < 3; r++)
        for (int c = 0; c < 4; c++)
            if (!isfinite(affine[r][c]))
                return false;
    for (int c = 0; c < 3; c++)
        lengths *= sqrt(affine[0][c] * affine[0][c] + affine[1][c] * affine[1][c] + affine[2][c] * affine[2][c]);
    double d = affine[0][0] * (affine[1][1] * affine[2][2] - affine[1][2] * affine[2][1]) -
               affine[0][1] * (affine[1][0] * affine[2][2] - affine[1][2] * affine[2][0]) +
               affine[0][2] * (affine[1][0] * affine[2][1] - affine[1][1] * affine[2][0]);
    return lengths > 0 && isfinite(lengths) && fabs(d) > 1e-6 * lengths;
}

static bool has_spacing(const noc_nifti_geometry *g)
{
    for (int i = 0; i < 3; i++)
        if (!(isfinite(g->pixdim[i]) && g->pixdim[i] != 0))
            return false;
    return true;
}

/* sform over qform, as the standard has it; neither: only with assume_ras. */
static noc_status find_affine(const char *path, bool assume_ras, noc_grid *grid, noc_error *err)
{
    const noc_nifti_geometry *g = &grid->nifti;
    const char *form = "sform";
    memset(grid->affine, 0, sizeof grid->affine);
    grid->affine[3][3] = 1;
    if (g->sform_code > 0) {
        memcpy(grid->affine, g->srow, sizeof g->srow);
    } else if (g->qform_code > 0) {
        form = "qform";
        if (!has_spacing(g))
            return noc_fail(err, NOC_EGEOMETRY, "%s: its voxel sizes are %g x %g x %g mm", path, g->pixdim[0], g->pixdim[1], g->pixdim[2]);
        affine_of_qform(g, grid->affine);
    } else if (assume_ras) {
        form = "voxel size";
        for (int i = 0; i < 3; i++)
            grid->affine[i][i] = fabs(g->pixdim[i]);
    } else {
        return noc_fail(err, NOC_EGEOMETRY, "%s: its header does not say how it lies in space (both form codes are 0); --assume-ras takes it as it is", path);
    }
    if (!is_regular(grid->affine))
        return noc_fail(err, NOC_EGEOMETRY, "%s: the affine of its %s is zero, not finite or singular", path, form);
    return NOC_OK;
}

static void find_spacing(noc_grid *grid)
{
    for (int c = 0; c < 3; c++) {
        double spacing = fabs(grid->nifti.pixdim[c]);
        if (!(isfinite(spacing) && spacing > 0))
            spacing = sqrt(grid->affine[0][c] * grid->affine[0][c] + grid->affine[1][c] * grid->affine[1][c] +
                           grid->affine[2][c] * grid->affine[2][c]);
        grid->spacing_mm[c] = spacing;
    }
}

static noc_status find_voxels(const char *path, const nifti_2_header *h, nifti_info *info, noc_error *err)
{
    int64_t least = h->sizeof_hdr + 4;
    info->is_pair = h->magic[1] == 'i';
    int64_t offset = h->vox_offset == 0 && !info->is_pair ? least : h->vox_offset;
    if (offset < (info->is_pair ? 0 : least) || offset > (int64_t)1 << 31)
        return noc_fail(err, NOC_EUNREADABLE, "%s: its header puts the voxels at byte %lld", path, (long long)h->vox_offset);
    info->voxel_offset = (size_t)offset;
    bool is_scaled = isfinite(h->scl_slope) && h->scl_slope != 0;
    info->slope = is_scaled ? h->scl_slope : 1;
    info->inter = is_scaled && isfinite(h->scl_inter) ? h->scl_inter : 0;
    return NOC_OK;
}

noc_status nifti_parse(const char *path, const unsigned char *bytes, size_t size, const noc_nifti_options *options,
                       nifti_info *info, noc_error *err)
{
    nifti_2_header h;
    int version = 0;
    size_t max_bytes = options && options->max_bytes ? options->max_bytes : (size_t)DEFAULT_MAX_GIB << 30;
    nifti_info out = {0};
    nifti_set_debug_level(0);
    noc_status status = decode(path, bytes, size, &h, &version, &out.is_swapped, err);
    if (status == NOC_OK)
        status = check_type(path, &h, &out.header.type, err);
    if (status == NOC_OK)
        status = check_dims(path, &h, max_bytes, &out.header, err);
    if (status == NOC_OK)
        status = find_voxels(path, &h, &out, err);
    if (status != NOC_OK)
        return status;
    keep_geometry(&h, version, &out.header.grid.nifti);
    status = find_affine(path, options && options->assume_ras, &out.header.grid, err);
    if (status != NOC_OK)
        return status;
    find_spacing(&out.header.grid);
    *info = out;
    return NOC_OK;
}
