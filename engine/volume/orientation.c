/* Orientation codes. The nearest axes are those of the rotation nearest to the affine (its polar factor), as nibabel finds them. */
#include "engine/volume/orientation.h"

#include <math.h>
#include <string.h>

static double determinant(double m[3][3])
{
    return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
           m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}

/* inverse transposed = cofactors / determinant */
static void invert_transposed(double m[3][3], double out[3][3])
{
    double d = determinant(m);
    for (int r = 0; r < 3; r++)
        for (int c = 0; c < 3; c++) {
            int r1 = (r + 1) % 3, r2 = (r + 2) % 3, c1 = (c + 1) % 3, c2 = (c + 2) % 3;
            out[r][c] = (m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]) / d;
        }
}

/* Orthogonal polar factor by Newton's iteration X <- (X + X^-T)/2 (Higham 1986); converges for every regular matrix. */
static void nearest_orthogonal(double m[3][3])
{
    double inverse[3][3];
    for (int i = 0; i < 100; i++) {
        double change = 0;
        invert_transposed(m, inverse);
        for (int r = 0; r < 3; r++)
            for (int c = 0; c < 3; c++) {
                double next = (m[r][c] + inverse[r][c]) / 2;
                change = fmax(change, fabs(next - m[r][c]));
                m[r][c] = next;
            }
        if (change < 1e-15)
            return;
    }
}

static double largest_entry(double m[3][3], int column)
{
    return fmax(fabs(m[0][column]), fmax(fabs(m[1][column]), fabs(m[2][column])));
}

/* File axes in the order in which they choose: the one with the largest entry first. */
static void choose_order(double m[3][3], int order[3])
{
    for (int i = 0; i < 3; i++)
        order[i] = i;
    for (int i = 1; i < 3; i++)
        for (int j = i; j > 0 && largest_entry(m, order[j]) > largest_entry(m, order[j - 1]); j--) {
            int swap = order[j];
            order[j] = order[j - 1];
            order[j - 1] = swap;
        }
}

/* For each file axis the world axis (0 x, 1 y, 2 z) it runs along, and its sign. */
static noc_status nearest_axes(const double affine[4][4], int world[3], int sign[3], noc_error *err)
{
    double m[3][3];
    int order[3];
    bool is_taken[3] = {false};
    for (int c = 0; c < 3; c++) {
        double length = sqrt(affine[0][c] * affine[0][c] + affine[1][c] * affine[1][c] + affine[2][c] * affine[2][c]);
        for (int r = 0; r < 3; r++)
            m[r][c] = affine[r][c] / length;
    }
    if (!(fabs(determinant(m)) > 1e-9))
        return noc_fail(err, NOC_EGEOMETRY, "the affine is singular: its axes do not span space");
    nearest_orthogonal(m);
    choose_order(m, order);
    for (int i = 0; i < 3; i++) {
        int axis = order[i], best = -1;
        for (int r = 0; r < 3; r++)
            if (!is_taken[r] && (best < 0 || fabs(m[r][axis]) > fabs(m[best][axis])))
                best = r;
        is_taken[best] = true;
        world[axis] = best;
        sign[axis] = m[best][axis] < 0 ? -1 : 1;
    }
    return NOC_OK;
}

/* "RAS" -> for x, y, z of the model: world axis and sign. */
static bool parse_code(const char *code, int world[3], int sign[3])
{
    static const char letters[] = "LRPAIS";
    bool is_seen[3] = {false};
    if (strlen(code) != 3)
        return false;
    for (int i = 0; i < 3; i++) {
        const char *at = strchr(letters, code[i]);
        if (!at || is_seen[(at - letters) / 2])
            return false;
        world[i] = (int)(at - letters) / 2;
        sign[i] = (at - letters) % 2 ? 1 : -1;
        is_seen[world[i]] = true;
    }
    return true;
}

noc_status noc_orientation_find(const double affine[4][4], const char *code, noc_orientation *orientation,
                                noc_error *err)
{
    int world[3], sign[3], wanted[3], wanted_sign[3];
    if (!parse_code(code, wanted, wanted_sign))
        return noc_fail(err, NOC_ECONFIG, "orientation \"%.16s\" is none of the 48, such as RAS or LPS", code);
    noc_status status = nearest_axes(affine, world, sign, err);
    if (status != NOC_OK)
        return status;
    for (int i = 0; i < 3; i++) /* letter i is model axis 2 - i: x is W, z is D */
        for (int axis = 0; axis < 3; axis++)
            if (world[axis] == wanted[i]) {
                orientation->axis[2 - i] = axis;
                orientation->is_flipped[2 - i] = sign[axis] != wanted_sign[i];
            }
    return NOC_OK;
}

void noc_orientation_size(const noc_orientation *orientation, const int64_t ijk[3], int64_t dhw[3])
{
    for (int m = 0; m < 3; m++)
        dhw[m] = ijk[orientation->axis[m]];
}

void noc_orientation_steps(const noc_orientation *orientation, const int64_t ijk[3], int64_t *origin, int64_t step[3])
{
    const int64_t stride[3] = {1, ijk[0], ijk[0] * ijk[1]};
    *origin = 0;
    for (int m = 0; m < 3; m++) {
        int axis = orientation->axis[m];
        step[m] = orientation->is_flipped[m] ? -stride[axis] : stride[axis];
        if (orientation->is_flipped[m])
            *origin += (ijk[axis] - 1) * stride[axis];
    }
}
