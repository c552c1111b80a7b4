#include "engine/volume/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct type_row {
    const char *name;
    size_t size;
} type_row;

static const type_row types[] = {
    [NOC_VOXEL_U8] = {"uint8", 1},   [NOC_VOXEL_I8] = {"int8", 1},    [NOC_VOXEL_U16] = {"uint16", 2},
    [NOC_VOXEL_I16] = {"int16", 2},  [NOC_VOXEL_U32] = {"uint32", 4}, [NOC_VOXEL_I32] = {"int32", 4},
    [NOC_VOXEL_U64] = {"uint64", 8}, [NOC_VOXEL_I64] = {"int64", 8},  [NOC_VOXEL_F32] = {"float32", 4},
    [NOC_VOXEL_F64] = {"float64", 8},
};

size_t noc_voxel_size(noc_voxel_type type)
{
    return types[type].size;
}

const char *noc_voxel_name(noc_voxel_type type)
{
    return types[type].name;
}

size_t noc_grid_voxels(const noc_grid *grid)
{
    return (size_t)grid->size[0] * (size_t)grid->size[1] * (size_t)grid->size[2];
}

bool noc_grid_is_same(const noc_grid *a, const noc_grid *b, double tolerance)
{
    if (memcmp(a->size, b->size, sizeof a->size) != 0)
        return false;
    for (int r = 0; r < 3; r++)
        for (int c = 0; c < 4; c++)
            if (!(fabs(a->affine[r][c] - b->affine[r][c]) <= tolerance))
                return false;
    return true;
}

/* One loop a type, so that none of them branches a voxel. */
#define VALUES(type)                                                                                                  \
    {                                                                                                                 \
        const type *at = (const type *)image->voxels + first;                                                         \
        for (size_t i = 0; i < count; i++, at += step)                                                                \
            values[i] = (double)*at * slope + inter;                                                                  \
        break;                                                                                                        \
    }

void noc_image_values(const noc_image *image, size_t first, ptrdiff_t step, size_t count, double *values)
{
    double slope = image->slope, inter = image->inter;
    switch (image->type) {
    case NOC_VOXEL_U8:
        VALUES(uint8_t)
    case NOC_VOXEL_I8:
        VALUES(int8_t)
    case NOC_VOXEL_U16:
        VALUES(uint16_t)
    case NOC_VOXEL_I16:
        VALUES(int16_t)
    case NOC_VOXEL_U32:
        VALUES(uint32_t)
    case NOC_VOXEL_I32:
        VALUES(int32_t)
    case NOC_VOXEL_U64:
        VALUES(uint64_t)
    case NOC_VOXEL_I64:
        VALUES(int64_t)
    case NOC_VOXEL_F32:
        VALUES(float)
    case NOC_VOXEL_F64:
        VALUES(double)
    }
}

/* Linear index of the first voxel that is NaN or Inf; count when there is none. */
static size_t find_non_finite(const noc_image *image, size_t count)
{
    size_t i = 0;
    if (image->type == NOC_VOXEL_F32)
        for (const float *at = image->voxels; i < count && isfinite(at[i]);)
            i++;
    else if (image->type == NOC_VOXEL_F64)
        for (const double *at = image->voxels; i < count && isfinite(at[i]);)
            i++;
    else
        i = count;
    return i;
}

noc_status noc_image_check_finite(const noc_image *image, noc_error *err)
{
    size_t voxels = noc_grid_voxels(&image->grid), count = voxels * (size_t)image->channels;
    size_t bad = find_non_finite(image, count);
    if (bad == count)
        return NOC_OK;
    size_t ni = (size_t)image->grid.size[0], nj = (size_t)image->grid.size[1], at = bad % voxels;
    return noc_fail(err, NOC_ENONFINITE, "voxel (%zu, %zu, %zu) of channel %zu is not a finite number", at % ni,
                    at / ni % nj, at / ni / nj, bad / voxels);
}

void noc_image_clear(noc_image *image)
{
    free(image->voxels);
    memset(image, 0, sizeof *image);
}
