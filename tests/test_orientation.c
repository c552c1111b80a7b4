/* The 48 orientations: every file orientation to every model orientation and back, judged by where voxels lie
 * in space and not by the code under test. */
#include "engine/volume/orientation.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ORIENTATIONS = 48 };

static const double file_spacing[3] = {0.7, 1.5, 3}; /* i, j, k */

static noc_error err;

/* Number n of the 48: axis[m] = where axis m goes (0 = x, 1 = y, 2 = z), sign[m] = to which side. */
static void orientation_of(int n, int axis[3], double sign[3])
{
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

    memcpy(axis, orders[n / 8], sizeof orders[0]);
    for (int m = 0; m < 3; m++)
        sign[m] = n >> m & 1 ? -1 : 1;
}

/* A file whose axes i, j, k lie so in space. */
static void affine_of(int n, double affine[4][4])
{
    int axis[3];
    double sign[3];

    orientation_of(n, axis, sign);
    memset(affine, 0, 16 * sizeof affine[0][0]);
    for (int j = 0; j < 3; j++) {
        affine[axis[j]][j] = sign[j] * file_spacing[j];
        affine[j][3] = 10 * j - 7;
    }
    affine[3][3] = 1;
}

/* The model's code: letters of its x, y and z axes. */
static void code_of(int n, char code[4])
{
    int axis[3];
    double sign[3];

    orientation_of(n, axis, sign);
    for (int m = 0; m < 3; m++)
        code[m] = sign[m] > 0 ? "RAS"[axis[m]] : "LPI"[axis[m]];
    code[3] = '\0';
}

/* World place of a voxel of the file. */
static double place(const double affine[4][4], int world, const int64_t ijk[3])
{
    double sum = affine[world][3];

    for (int a = 0; a < 3; a++)
        sum += affine[world][a] * (double)ijk[a];
    return sum;
}

static void from_index(int64_t index, const int64_t size[3], int64_t ijk[3])
{
    ijk[0] = index % size[0];
    ijk[1] = index / size[0] % size[1];
    ijk[2] = index / size[0] / size[1];
}

/* A step along each model axis goes to the side that its letter names, and along no other axis. */
static void check_steps(const double affine[4][4], int model, const int64_t ijk_size[3],
                        const noc_orientation *o)
{
    int axis[3];
    double sign[3], dhw_spacing[3];
    int64_t dhw[3], origin, step[3];
    int seen[60] = {0};

    orientation_of(model, axis, sign);
    noc_orientation_size(o, ijk_size, dhw);
    noc_orientation_spacing(o, file_spacing, dhw_spacing);
    noc_orientation_steps(o, ijk_size, &origin, step);
    ck_assert_int_eq(dhw[0] * dhw[1] * dhw[2], 60);
    for (int64_t d = 0; d < dhw[0]; d++)
        for (int64_t h = 0; h < dhw[1]; h++)
            for (int64_t w = 0; w < dhw[2]; w++) {
                int64_t index = origin + d * step[0] + h * step[1] + w * step[2], here[3], first[3];
                const int64_t along[3] = {w, h, d};
                ck_assert(index >= 0 && index < 60);
                seen[index]++;
                from_index(index, ijk_size, here);
                from_index(origin, ijk_size, first);
                for (int m = 0; m < 3; m++) {
                    double moved = place(affine, axis[m], here) - place(affine, axis[m], first);
                    double spacing = noc_affine_column(affine, o->axis[2 - m]);
                    ck_assert_double_eq_tol(dhw_spacing[2 - m], spacing, 1e-12);
                    ck_assert_double_eq_tol(moved, sign[m] * spacing * (double)along[m], 1e-12);
                }
            }
    for (int i = 0; i < 60; i++)
        ck_assert_int_eq(seen[i], 1); /* each voxel once: there and back is the same volume */
}

START_TEST(every_file_to_every_model)
{
    static const int64_t size[3] = {3, 4, 5};

    for (int file = 0; file < ORIENTATIONS; file++)
        for (int model = 0; model < ORIENTATIONS; model++) {
            double affine[4][4];
            char code[4];
            noc_orientation o;
            affine_of(file, affine);
            code_of(model, code);
            ck_assert_msg(noc_orientation_find(affine, code, &o, &err) == NOC_OK, "%s", err.text);
            check_steps(affine, model, size, &o);
        }
}
END_TEST

/* Turned by less than 45 degrees about an axis, and sheared, a file keeps its orientation. */
START_TEST(oblique)
{
    for (int file = 0; file < ORIENTATIONS; file++)
        for (int about = 0; about < 3; about++)
            for (int degrees = -44; degrees <= 44; degrees += 11) {
                const double c = cos(degrees * M_PI / 180), s = sin(degrees * M_PI / 180);
                int a = (about + 1) % 3, b = (about + 2) % 3;
                double affine[4][4], turned[4][4];
                noc_orientation plain, o;
                affine_of(file, affine);
                ck_assert_int_eq(noc_orientation_find(affine, "RAS", &plain, &err), NOC_OK);
                memcpy(turned, affine, sizeof turned);
                for (int j = 0; j < 3; j++) {
                    turned[a][j] = c * affine[a][j] - s * affine[b][j];
                    turned[b][j] = s * affine[a][j] + c * affine[b][j];
                }
                ck_assert_int_eq(noc_orientation_find(turned, "RAS", &o, &err), NOC_OK);
                ck_assert_mem_eq(o.axis, plain.axis, sizeof o.axis);
                ck_assert_mem_eq(o.is_flipped, plain.is_flipped, sizeof o.is_flipped);
            }
}
END_TEST

START_TEST(bad_codes)
{
    static const char *const codes[] = {"", "RA", "RASS", "ras", "RRS", "RLS", "XYZ", "R A", "RAP"};
    double affine[4][4];
    noc_orientation o;

    affine_of(0, affine);
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        ck_assert_int_eq(noc_orientation_find(affine, codes[i], &o, &err), NOC_ECONFIG);
        ck_assert_ptr_nonnull(strstr(err.text, "orientation"));
    }
}
END_TEST

START_TEST(singular)
{
    double affine[4][4];
    noc_orientation o;

    for (int kind = 0; kind < 5; kind++) {
        affine_of(11, affine);
        ck_assert(noc_affine_is_regular(affine));
        if (kind == 0)
            memset(affine, 0, sizeof affine);
        for (int i = 0; i < 3 && kind == 1; i++)
            affine[i][2] = 0;
        for (int i = 0; i < 3 && kind == 2; i++)
            affine[i][2] = affine[i][0] - 2 * affine[i][1];
        if (kind == 3)
            affine[1][1] = NAN;
        if (kind == 4)
            affine[2][3] = INFINITY;
        ck_assert_msg(!noc_affine_is_regular(affine), "kind %d", kind);
        ck_assert_int_eq(noc_orientation_find(affine, "RAS", &o, &err), NOC_EGEOMETRY);
        ck_assert_ptr_nonnull(strstr(err.text, "singular"));
    }
}
END_TEST

/* Spacings of a micrometre and of a kilometre are no reason to call an affine singular. */
START_TEST(extreme_spacings)
{
    double affine[4][4];
    noc_orientation o;

    affine_of(0, affine);
    for (int i = 0; i < 3; i++)
        affine[i][0] *= 1e-3, affine[i][2] *= 1e6;
    ck_assert_int_eq(noc_orientation_find(affine, "LPS", &o, &err), NOC_OK);
    for (int m = 0; m < 3; m++) {
        ck_assert_int_eq(o.axis[m], 2 - m);
        ck_assert_int_eq(o.is_flipped[m], m > 0);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("orientation");
    TCase *tests = tcase_create("orientation");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, every_file_to_every_model);
    tcase_add_test(tests, oblique);
    tcase_add_test(tests, bad_codes);
    tcase_add_test(tests, singular);
    tcase_add_test(tests, extreme_spacings);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
