/* Which file axis is which model axis. What always holds: the three file axes are each used once, so that a
 * volume that goes to the model's axes and back is the same volume, voxel for voxel. */
#include "engine/volume/orientation.h"

#include <math.h>
#include <string.h>

/* Below this the parallelepiped of the three unit axes has no volume: a file's floats cannot say more. */
static const double least_volume = 1e-6;

static double determinant(const double m[3][3])
{
    return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) -
           m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
           m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}

double noc_affine_column(const double affine[4][4], int axis)
{
    return hypot(hypot(affine[0][axis], affine[1][axis]), affine[2][axis]);
}

/* The affine's columns, each of length 1. False where that cannot be. */
static bool unit_columns(const double affine[4][4], double unit[3][3])
{
    for (int j = 0; j < 3; j++) {
        const double length = noc_affine_column(affine, j);
        if (!(length > 0) || !isfinite(length) || !isfinite(affine[j][3]))
            return false;
        for (int i = 0; i < 3; i++)
            unit[i][j] = affine[i][j] / length;
    }
    return true;
}

bool noc_affine_is_regular(const double affine[4][4])
{
    double unit[3][3];

    return unit_columns(affine, unit) && fabs(determinant(unit)) > least_volume;
}

/* out = transposed inverse of m. */
static void invert_transposed(const double m[3][3], double out[3][3])
{
    const double scale = 1 / determinant(m);

    for (int i = 0; i < 3; i++) {
        const int i1 = (i + 1) % 3, i2 = (i + 2) % 3;
        for (int j = 0; j < 3; j++) {
            const int j1 = (j + 1) % 3, j2 = (j + 2) % 3;
            out[i][j] = scale * (m[i1][j1] * m[i2][j2] - m[i1][j2] * m[i2][j1]);
        }
    }
}

/* The nearest orthogonal matrix (the polar factor), by Newton's iteration: quadratic, from a regular matrix
 * always. */
static void orthogonalise(double m[3][3])
{
    double change = 1;

    for (int round = 0; round < 100 && change > 1e-15; round++) {
        double other[3][3];
        invert_transposed(m, other);
        change = 0;
        for (int i = 0; i < 3; i++) {
            for (int j = 0; j < 3; j++) {
                const double mean = 0.5 * (m[i][j] + other[i][j]);
                change = fmax(change, fabs(mean - m[i][j]));
                m[i][j] = mean;
            }
        }
    }
}

/* For each world axis (x, y, z) the file axis that is nearest to it, and whether that runs to the negative
 * side. */
static void match_axes(const double rotation[3][3], int file_axis[3], bool is_negative[3])
{
    bool is_taken[3] = {false};

    for (int j = 0; j < 3; j++) {
        int best = -1;
        for (int i = 0; i < 3; i++)
            if (!is_taken[i] && (best < 0 || fabs(rotation[i][j]) > fabs(rotation[best][j])))
                best = i;
        is_taken[best] = true;
        file_axis[best] = j;
        is_negative[best] = rotation[best][j] < 0;
    }
}

/* The three letters as world axes (0 = x, 1 = y, 2 = z) and sides. */
static bool parse_code(const char *code, int world[3], bool is_negative[3])
{
    static const char positive[] = "RAS", negative[] = "LPI";
    bool is_taken[3] = {false};

    if (strlen(code) != 3)
        return false;
    for (int n = 0; n < 3; n++) {
        const char *plus = strchr(positive, code[n]), *minus = strchr(negative, code[n]);
        if (!plus && !minus)
            return false;
        world[n] = (int)(plus ? plus - positive : minus - negative);
        is_negative[n] = minus != NULL;
        if (is_taken[world[n]])
            return false;
        is_taken[world[n]] = true;
    }
    return true;
}

noc_status noc_orientation_find(const double affine[4][4], const char *code, noc_orientation *orientation,
                                noc_error *err)
{
    int world[3], file_axis[3];
    bool wants_negative[3], is_negative[3];
    double rotation[3][3];

    if (!parse_code(code, world, wants_negative))
        return noc_fail(
            err, NOC_ECONFIG,
            "orientation \"%.16s\": expected one letter each of R or L, A or P, S or I, as in RAS", code);
    if (!noc_affine_is_regular(affine) || !unit_columns(affine, rotation))
        return noc_fail(err, NOC_EGEOMETRY, "the affine is singular");
    orthogonalise(rotation);
    match_axes(rotation, file_axis, is_negative);
    for (int m = 0; m < 3; m++) {
        const int letter = 2 - m; /* D is the model's z */
        orientation->axis[m] = file_axis[world[letter]];
        orientation->is_flipped[m] = is_negative[world[letter]] != wants_negative[letter];
    }
    return NOC_OK;
}

void noc_orientation_size(const noc_orientation *orientation, const int64_t ijk[3], int64_t dhw[3])
{
    for (int m = 0; m < 3; m++)
        dhw[m] = ijk[orientation->axis[m]];
}

void noc_orientation_spacing(const noc_orientation *orientation, const double ijk[3], double dhw[3])
{
    for (int m = 0; m < 3; m++)
        dhw[m] = ijk[orientation->axis[m]];
}

void noc_orientation_steps(const noc_orientation *orientation, const int64_t ijk[3], int64_t *origin,
                           int64_t step[3])
{
    const int64_t strides[3] = {1, ijk[0], ijk[0] * ijk[1]};

    *origin = 0;
    for (int m = 0; m < 3; m++) {
        const int axis = orientation->axis[m];
        step[m] = orientation->is_flipped[m] ? -strides[axis] : strides[axis];
        if (orientation->is_flipped[m])
            *origin += (ijk[axis] - 1) * strides[axis];
    }
}
