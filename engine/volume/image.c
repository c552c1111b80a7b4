/* Voxel types, values and grids. What always holds: a voxel's value is stored*slope + inter, computed in
 * double. */
#include "engine/volume/image.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

static const struct {
    const char *name;
    size_t size;
} types[] = {
    [NOC_VOXEL_U8] = {"uint8", 1},    [NOC_VOXEL_I8] = {"int8", 1},    [NOC_VOXEL_U16] = {"uint16", 2},
    [NOC_VOXEL_I16] = {"int16", 2},   [NOC_VOXEL_U32] = {"uint32", 4}, [NOC_VOXEL_I32] = {"int32", 4},
    [NOC_VOXEL_U64] = {"uint64", 8},  [NOC_VOXEL_I64] = {"int64", 8},  [NOC_VOXEL_F32] = {"float32", 4},
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
    for (int i = 0; i < 3; i++)
        if (a->size[i] != b->size[i])
            return false;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            if (!(fabs(a->affine[i][j] - b->affine[i][j]) <= tolerance))
                return false;
    return true;
}

#define TAKE_VALUES(c_type)                                                                                  \
    do {                                                                                                     \
        const c_type *stored = (const c_type *)image->voxels + first;                                        \
        for (size_t n = 0; n < count; n++)                                                                   \
            values[n] = (double)stored[(ptrdiff_t)n * step] * slope + inter;                                 \
    } while (0)

void noc_image_values(const noc_image *image, size_t first, ptrdiff_t step, size_t count, double *values)
{
    const double slope = image->slope, inter = image->inter;

    switch (image->type) {
    case NOC_VOXEL_U8:
        TAKE_VALUES(uint8_t);
        break;
    case NOC_VOXEL_I8:
        TAKE_VALUES(int8_t);
        break;
    case NOC_VOXEL_U16:
        TAKE_VALUES(uint16_t);
        break;
    case NOC_VOXEL_I16:
        TAKE_VALUES(int16_t);
        break;
    case NOC_VOXEL_U32:
        TAKE_VALUES(uint32_t);
        break;
    case NOC_VOXEL_I32:
        TAKE_VALUES(int32_t);
        break;
    case NOC_VOXEL_U64:
        TAKE_VALUES(uint64_t);
        break;
    case NOC_VOXEL_I64:
        TAKE_VALUES(int64_t);
        break;
    case NOC_VOXEL_F32:
        TAKE_VALUES(float);
        break;
    case NOC_VOXEL_F64:
        TAKE_VALUES(double);
        break;
    }
}

static noc_status fail_at(const noc_image *image, size_t index, double value, noc_error *err)
{
    const size_t ni = (size_t)image->grid.size[0], nj = (size_t)image->grid.size[1];
    const size_t nk = (size_t)image->grid.size[2];

    return noc_fail(err, NOC_ENONFINITE, "voxel (%zu, %zu, %zu) of channel %zu is %s", index % ni,
                    index / ni % nj, index / ni / nj % nk, index / ni / nj / nk + 1,
                    isnan(value) ? "NaN" : "infinite");
}

/* Whether every value that the type can store is finite after slope and inter. */
static bool is_always_finite(const noc_image *image)
{
    const double most = 18446744073709551616.0; /* 2^64: the largest of any integer type */

    return image->type != NOC_VOXEL_F32 && image->type != NOC_VOXEL_F64 &&
           isfinite(most * fabs(image->slope) + fabs(image->inter));
}

noc_status noc_image_check_finite(const noc_image *image, noc_error *err)
{
    enum { BLOCK = 4096 };
    double values[BLOCK];
    const size_t voxels = noc_grid_voxels(&image->grid) * (size_t)image->channels;

    if (is_always_finite(image))
        return NOC_OK;
    for (size_t first = 0; first < voxels; first += BLOCK) {
        const size_t count = voxels - first < BLOCK ? voxels - first : BLOCK;
        size_t bad = 0;
        noc_image_values(image, first, 1, count, values);
        for (size_t n = 0; n < count; n++)
            bad += !(fabs(values[n]) <= DBL_MAX);
        if (bad == 0)
            continue;
        size_t at = 0;
        while (at + 1 < count && isfinite(values[at]))
            at++;
        return fail_at(image, first + at, values[at], err);
    }
    return NOC_OK;
}

bool noc_image_is_plain_bytes(const noc_image *image)
{
    return image->type == NOC_VOXEL_U8 && image->slope == 1 && image->inter == 0;
}

void noc_image_clear(noc_image *image)
{
    free(image->voxels);
    *image = (noc_image){0};
}
