/* Windows by MONAI's rules: starts and importance maps as in the golden files. The committed ones lack the
 * largest cases; with NOC_REFERENCE_DIR all are compared. */
#include "engine/safetensors.h"
#include "engine/window.h"

#include <check.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static noc_error err;

static const char *golden(const char *name)
{
    const char *reference = getenv("NOC_REFERENCE_DIR");
    static char path[512];

    snprintf(path, sizeof path, "%s/golden/windows/%s", reference ? reference : "tests/data", name);
    return path;
}

static void take_triple(const json_t *c, const char *key, int64_t triple[3])
{
    const json_t *array = json_object_get(c, key);

    ck_assert_uint_eq(json_array_size(array), 3);
    for (size_t a = 0; a < 3; a++)
        triple[a] = json_integer_value(json_array_get(array, a));
}

static void check_triple(const json_t *c, const char *key, const int64_t got[3])
{
    int64_t wanted[3];

    take_triple(c, key, wanted);
    for (int a = 0; a < 3; a++)
        ck_assert_msg(got[a] == wanted[a], "%s[%d] is %lld", key, a, (long long)got[a]);
}

static void check_axis(const json_t *starts, const noc_windows *w, int axis)
{
    ck_assert_int_eq(w->count[axis], (int)json_array_size(starts));
    for (int i = 0; i < w->count[axis]; i++)
        ck_assert_int_eq(noc_windows_start(w, axis, i),
                         json_integer_value(json_array_get(starts, (size_t)i)));
}

/* Window n is the n-th of three nested loops, D outermost. */
static void check_order(const noc_windows *w)
{
    int64_t n = 0, start[3];

    for (int d = 0; d < w->count[0]; d++)
        for (int h = 0; h < w->count[1]; h++)
            for (int x = 0; x < w->count[2]; x++, n++) {
                noc_windows_at(w, n, start);
                ck_assert_int_eq(start[0], noc_windows_start(w, 0, d));
                ck_assert_int_eq(start[1], noc_windows_start(w, 1, h));
                ck_assert_int_eq(start[2], noc_windows_start(w, 2, x));
            }
    ck_assert_int_eq(n, noc_windows_total(w));
}

START_TEST(golden_starts)
{
    json_error_t why;
    json_t *cases = json_load_file(golden("starts.json"), 0, &why), *c;
    size_t i;

    ck_assert_msg(cases != NULL, "%s", why.text);
    ck_assert_uint_ge(json_array_size(cases), 8);
    json_array_foreach(cases, i, c)
    {
        int64_t size[3], roi[3];
        noc_windows w;
        take_triple(c, "size", size);
        take_triple(c, "roi", roi);
        double overlap = json_number_value(json_object_get(c, "overlap"));
        ck_assert_int_eq(noc_windows_plan(size, roi, overlap, &w, &err), NOC_OK);
        check_triple(c, "padded", w.padded);
        check_triple(c, "pad_low", w.pad_low);
        check_triple(c, "interval", w.interval);
        ck_assert_int_eq(noc_windows_total(&w), json_integer_value(json_object_get(c, "windows")));
        for (int a = 0; a < 3; a++)
            check_axis(json_array_get(json_object_get(c, "axis_starts"), (size_t)a), &w, a);
        check_order(&w);
    }
    json_decref(cases);
}
END_TEST

/* The windows of the golden volumes, row by row as they were computed. */
START_TEST(golden_order)
{
    static const char *const names[] = {"thin_constant",       "thin_gaussian",       "box_constant",
                                        "box_gaussian",        "cuboid_gaussian_25",  "cuboid_constant_625",
                                        "equal_axis_gaussian", "cropped_roi_constant"};
    const size_t count = getenv("NOC_REFERENCE_DIR") ? sizeof names / sizeof names[0] : 2;

    for (size_t i = 0; i < count; i++) {
        char name[64];
        noc_safetensors *file = NULL;
        json_error_t why;
        int64_t size[3], roi[3], start[3];
        noc_windows w;
        snprintf(name, sizeof name, "%s.safetensors", names[i]);
        ck_assert_int_eq(noc_safetensors_open(golden(name), &file, &err), NOC_OK);
        json_t *c = json_loads(noc_safetensors_metadata(file, "case"), 0, &why);
        const noc_tensor *starts = noc_safetensors_find(file, "starts");
        take_triple(c, "size", size);
        take_triple(c, "roi", roi);
        ck_assert_int_eq(
            noc_windows_plan(size, roi, json_number_value(json_object_get(c, "overlap")), &w, &err), NOC_OK);
        ck_assert_int_eq(noc_windows_total(&w), starts->shape[0]);
        for (int64_t n = 0; n < starts->shape[0]; n++) {
            int32_t wanted[3];
            memcpy(wanted, (const char *)starts->data + n * (int64_t)sizeof wanted, sizeof wanted);
            noc_windows_at(&w, n, start);
            for (int a = 0; a < 3; a++)
                ck_assert_int_eq(start[a], wanted[a]);
        }
        json_decref(c);
        noc_safetensors_close(file);
    }
}
END_TEST

/* The product is taken in double and truncated: 40 * (1 - 0.8) is a little below 8. */
START_TEST(intervals)
{
    static const struct {
        int64_t window;
        double overlap;
        int64_t interval;
    } cases[] = {{40, 0.8, 7}, {50, 0.9, 4}, {30, 0.9, 2}, {10, 0.0, 10},  {10, 0.5, 5},
                 {4, 0.99, 1}, {1, 0.5, 1},  {3, 0.5, 1},  {128, 0.25, 96}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t size[3] = {300, 300, 300}, window[3] = {cases[i].window, 300, 400};
        noc_windows w;
        ck_assert_int_eq(noc_windows_plan(size, window, cases[i].overlap, &w, &err), NOC_OK);
        ck_assert_int_eq(w.interval[0], cases[i].interval);
        ck_assert_int_eq(w.interval[1], 300); /* one window: the axis is as long as it */
        ck_assert_int_eq(w.interval[2], 400);
        ck_assert_int_eq(w.pad_low[2], 50);
        ck_assert_int_eq(w.count[1] * w.count[2], 1);
    }
}
END_TEST

/* For any size: windows lie inside, cover every voxel, the first begins at 0 and the last ends at the end. */
START_TEST(every_voxel_is_covered)
{
    for (int64_t size = 1; size <= 40; size++)
        for (int64_t window = 1; window <= 20; window++)
            for (int step = 0; step < 10; step++) {
                const int64_t sizes[3] = {size, 1, 1}, roi[3] = {window, 1, 1};
                noc_windows w;
                int64_t reached = 0;
                ck_assert_int_eq(noc_windows_plan(sizes, roi, step / 10.0, &w, &err), NOC_OK);
                ck_assert_int_eq(noc_windows_start(&w, 0, 0), 0);
                for (int i = 0; i < w.count[0]; i++) {
                    int64_t start = noc_windows_start(&w, 0, i);
                    ck_assert(i == 0 || start > noc_windows_start(&w, 0, i - 1));
                    ck_assert_int_le(start, reached);
                    reached = start + window;
                }
                ck_assert_int_eq(reached, w.padded[0]);
                ck_assert_int_eq(w.padded[0], size > window ? size : window);
            }
}
END_TEST

START_TEST(what_cannot_be)
{
    static const int64_t one[3] = {1, 1, 1}, zero[3] = {4, 0, 4}, large[3] = {1 << 20, 1 << 20, 1 << 20};
    static const double overlaps[] = {-0.1, 1, 1.5, NAN, INFINITY};
    noc_windows w = {.size = {77}};

    for (size_t i = 0; i < sizeof overlaps / sizeof overlaps[0]; i++)
        ck_assert_int_eq(noc_windows_plan(one, one, overlaps[i], &w, &err), NOC_ECONFIG);
    ck_assert_int_eq(noc_windows_plan(one, zero, 0, &w, &err), NOC_ECONFIG);
    ck_assert_int_eq(noc_windows_plan(zero, one, 0, &w, &err), NOC_ECONFIG);
    ck_assert_int_eq(noc_windows_plan(large, one, 0, &w, &err), NOC_ETOOLARGE);
    ck_assert_int_eq(w.size[0], 77);
}
END_TEST

START_TEST(golden_importance)
{
    noc_safetensors *file = NULL;

    ck_assert_int_eq(noc_safetensors_open(golden("importance.safetensors"), &file, &err), NOC_OK);
    ck_assert_uint_ge(noc_safetensors_count(file), 1);
    for (size_t i = 0; i < noc_safetensors_count(file); i++) {
        const noc_tensor *tensor = noc_safetensors_item(file, i);
        size_t count = noc_tensor_count(tensor);
        float *map = NULL, *wanted = malloc(count * sizeof *wanted), least = INFINITY;
        ck_assert_int_eq(noc_tensor_floats(tensor, 0, count, wanted, &err), NOC_OK);
        ck_assert_int_eq(noc_importance_create(tensor->shape, NOC_BLEND_GAUSSIAN, &map, &err), NOC_OK);
        for (size_t n = 0; n < count; n++) {
            ck_assert_msg(fabsf(map[n] - wanted[n]) <= 2e-6f, "%s: [%zu] is %g, wanted %g", tensor->name, n,
                          (double)map[n], (double)wanted[n]);
            least = fminf(least, map[n]);
        }
        ck_assert(least >= 1e-3f);
        free(map);
        free(wanted);
    }
    noc_safetensors_close(file);
}
END_TEST

/* The formula in double: no weight below the larger of 0.001 and the smallest. A window of 1 or 2 voxels has
 * its smallest weight above that. */
START_TEST(importance_of_odd_windows)
{
    static const int64_t windows[][3] = {{1, 1, 1}, {2, 2, 2}, {2, 1, 2}, {5, 7, 3}, {33, 2, 9}};

    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++) {
        const int64_t *n = windows[i];
        double least = INFINITY, wanted[1000];
        float *map = NULL;
        int at = 0;
        for (int64_t d = 0; d < n[0]; d++)
            for (int64_t h = 0; h < n[1]; h++)
                for (int64_t w = 0; w < n[2]; w++, at++) {
                    const int64_t t[3] = {d, h, w};
                    wanted[at] = 1;
                    for (int a = 0; a < 3; a++) {
                        double x = (double)t[a] - (double)(n[a] - 1) / 2, s = 0.125 * (double)n[a];
                        wanted[at] *= exp(-x * x / (2 * s * s));
                    }
                    least = fmin(least, wanted[at]);
                }
        ck_assert_int_eq(noc_importance_create(n, NOC_BLEND_GAUSSIAN, &map, &err), NOC_OK);
        for (int k = 0; k < at; k++)
            ck_assert_double_eq_tol((double)map[k], fmax(wanted[k], fmax(least, 1e-3)), 2e-6);
        free(map);
    }
}
END_TEST

START_TEST(constant_blending_has_no_map)
{
    static const int64_t window[3] = {4, 4, 4};
    float some = 0, *map = &some;

    ck_assert_int_eq(noc_importance_create(window, NOC_BLEND_CONSTANT, &map, &err), NOC_OK);
    ck_assert_ptr_null(map);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("window");
    TCase *tests = tcase_create("window");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, golden_starts);
    tcase_add_test(tests, golden_order);
    tcase_add_test(tests, intervals);
    tcase_add_test(tests, every_voxel_is_covered);
    tcase_add_test(tests, what_cannot_be);
    tcase_add_test(tests, golden_importance);
    tcase_add_test(tests, importance_of_odd_windows);
    tcase_add_test(tests, constant_blending_has_no_map);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
