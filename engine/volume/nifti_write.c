/* Writing label images byte by byte: header, extender, voxels; gzipped as one member. */
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/volume/nifti.h"

#include <libdeflate.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nifti2.h>
#include <nifti1.h>

enum { INTENT_LABEL = 1002, COMPRESSION_LEVEL = 6, NIFTI1_LARGEST_DIM = 32767 };

static void fill_two(const noc_grid *grid, int datatype, size_t voxel_size, const char *descrip, nifti_2_header *h)
{
    const noc_nifti_geometry *g = &grid->nifti;
    *h = (nifti_2_header){.sizeof_hdr = 540,
                          .magic = {'n', '+', '2', '\0', '\r', '\n', '\032', '\n'},
                          .datatype = (int16_t)datatype,
                          .bitpix = (int16_t)(8 * voxel_size),
                          .dim = {3, grid->size[0], grid->size[1], grid->size[2], 1, 1, 1, 1},
                          .pixdim = {g->qfac, g->pixdim[0], g->pixdim[1], g->pixdim[2], 0, 0, 0, 0},
                          .vox_offset = 544,
                          .scl_slope = 1,
                          .qform_code = g->qform_code,
                          .sform_code = g->sform_code,
                          .quatern_b = g->quatern[0],
                          .quatern_c = g->quatern[1],
                          .quatern_d = g->quatern[2],
                          .qoffset_x = g->qoffset[0],
                          .qoffset_y = g->qoffset[1],
                          .qoffset_z = g->qoffset[2],
                          .xyzt_units = g->xyzt_units,
                          .intent_code = INTENT_LABEL};
    memcpy(h->srow_x, g->srow[0], sizeof h->srow_x);
    memcpy(h->srow_y, g->srow[1], sizeof h->srow_y);
    memcpy(h->srow_z, g->srow[2], sizeof h->srow_z);
    snprintf(h->descrip, sizeof h->descrip, "%s", descrip);
}

static void fill_one(const nifti_2_header *two, nifti_1_header *h)
{
    *h = (nifti_1_header){.sizeof_hdr = 348,
                          .regular = 'r',
                          .magic = {'n', '+', '1', '\0'},
                          .datatype = two->datatype,
                          .bitpix = two->bitpix,
                          .vox_offset = 352,
                          .scl_slope = 1,
                          .qform_code = (short)two->qform_code,
                          .sform_code = (short)two->sform_code,
                          .quatern_b = (float)two->quatern_b,
                          .quatern_c = (float)two->quatern_c,
                          .quatern_d = (float)two->quatern_d,
                          .qoffset_x = (float)two->qoffset_x,
                          .qoffset_y = (float)two->qoffset_y,
                          .qoffset_z = (float)two->qoffset_z,
                          .xyzt_units = (char)two->xyzt_units,
                          .intent_code = INTENT_LABEL};
    for (int i = 0; i < 8; i++) {
        h->dim[i] = (short)two->dim[i];
        h->pixdim[i] = (float)two->pixdim[i];
    }
    for (int i = 0; i < 4; i++) {
        h->srow_x[i] = (float)two->srow_x[i];
        h->srow_y[i] = (float)two->srow_y[i];
        h->srow_z[i] = (float)two->srow_z[i];
    }
    memcpy(h->descrip, two->descrip, sizeof h->descrip);
}

static bool is_version_two(const noc_grid *grid)
{
    for (int i = 0; i < 3; i++)
        if (grid->size[i] > NIFTI1_LARGEST_DIM)
            return true;
    return grid->nifti.version == 2;
}

/* Header, extender and voxels in one block. */
static noc_status build(const noc_grid *grid, noc_voxel_type type, const void *voxels, const char *descrip, void **data,
                        size_t *size, noc_error *err)
{
    nifti_2_header two;
    nifti_1_header one;
    size_t voxel_size = noc_voxel_size(type), bytes = noc_grid_voxels(grid) * voxel_size;
    fill_two(grid, type == NOC_VOXEL_U16 ? 512 : 2, voxel_size, descrip, &two);
    fill_one(&two, &one);
    bool is_two = is_version_two(grid);
    size_t header = is_two ? sizeof two : sizeof one;
    unsigned char *block = noc_alloc(header + 4 + bytes, 1, err);
    if (!block)
        return NOC_ENOMEMORY;
    memcpy(block, is_two ? (void *)&two : (void *)&one, header);
    memset(block + header, 0, 4);
    memcpy(block + header + 4, voxels, bytes);
    *data = block;
    *size = header + 4 + bytes;
    return NOC_OK;
}

static noc_status compress_block(void **data, size_t *size, noc_error *err)
{
    struct libdeflate_compressor *c = libdeflate_alloc_compressor(COMPRESSION_LEVEL);
    size_t bound = c ? libdeflate_gzip_compress_bound(c, *size) : 0;
    void *packed = c ? noc_alloc(bound, 1, err) : NULL;
    size_t bytes = packed ? libdeflate_gzip_compress(c, *data, *size, packed, bound) : 0;
    libdeflate_free_compressor(c);
    if (bytes == 0) {
        free(packed);
        return noc_fail(err, NOC_ENOMEMORY, "no memory to compress %zu bytes", *size);
    }
    free(*data);
    *data = packed;
    *size = bytes;
    return NOC_OK;
}

noc_status noc_nifti_write_labels(const char *path, const noc_grid *grid, noc_voxel_type type, const void *voxels,
                                  const char *descrip, noc_error *err)
{
    void *data = NULL;
    size_t size, length = strlen(path);
    noc_status status = build(grid, type, voxels, descrip, &data, &size, err);
    if (status == NOC_OK && length > 3 && strcmp(path + length - 3, ".gz") == 0)
        status = compress_block(&data, &size, err);
    if (status == NOC_OK)
        status = noc_file_replace(path, data, size, err);
    free(data);
    return status;
}
