/* Counts and ratios against the reference metrics, empty masks, and which truths fit. With
 * NOC_REFERENCE_DIR all pairs of the reference set are compared, otherwise those that lie in tests/data. */
#include "engine/base/memory.h"
#include "engine/volume/nifti.h"
#include "worker/score.h"

#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static noc_label labels_1_2[] = {{1, "one"}, {2, "two"}};
static noc_manifest label_model = {.output = NOC_OUTPUT_LABELS, .labels = labels_1_2, .label_count = 2};
static noc_manifest region_model = {
    .output = NOC_OUTPUT_REGIONS,
    .regions = {{"one", {1}, 1}, {"two", {2}, 1}, {"both", {1, 2}, 2}},
    .region_count = 3,
    .paints = {{0, 1}, {1, 4}},
    .paint_count = 2,
};

static void folder_of_metrics(char *path, size_t size)
{
    const char *reference = getenv("NOC_REFERENCE_DIR");

    if (reference)
        snprintf(path, size, "%s/golden/metrics", reference);
    else
        snprintf(path, size, "tests/data/golden/metrics");
}

static void read_image(const char *folder, const char *name, const char *what, noc_image *image)
{
    char path[1024];
    noc_error err;
    noc_nifti_options options = {0};

    snprintf(path, sizeof path, "%s/%s_%s.nii.gz", folder, name, what);
    ck_assert_msg(noc_nifti_read(path, &options, image, &err) == NOC_OK, "%s", err.text);
}

static double json_real_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    ck_assert_msg(value != NULL, "no %s", key);
    if (json_is_string(value))
        return strcmp(json_string_value(value), "nan") == 0 ? (double)NAN : (double)INFINITY;
    return json_number_value(value);
}

static void check_ratio(const json_t *expected, const char *key, double value, double tolerance)
{
    double e = json_real_of(expected, key);

    if (isnan(e))
        ck_assert_msg(isnan(value), "%s is %.17g, expected nan", key, value);
    else
        ck_assert_msg(fabs(value - e) <= tolerance, "%s is %.17g, expected %.17g", key, value, e);
}

static void check_count(const json_t *expected, const char *key, uint64_t value)
{
    uint64_t e = (uint64_t)json_integer_value(json_object_get(expected, key));

    ck_assert_msg(value == e, "%s is %llu, expected %llu", key, (unsigned long long)value,
                  (unsigned long long)e);
}

static void check_metric(const json_t *classes, const noc_metric *m)
{
    const json_t *e = json_object_get(classes, m->label);

    ck_assert_msg(e != NULL, "no class %s", m->label);
    ck_assert(m->has_truth);
    check_count(e, "tp", m->tp);
    check_count(e, "fp", m->fp);
    check_count(e, "fn", m->fn);
    check_count(e, "tn", m->tn);
    check_ratio(e, "dice", m->dice, 1e-12);
    check_ratio(e, "iou", m->iou, 1e-12);
    check_ratio(e, "precision", m->precision, 1e-12);
    check_ratio(e, "recall", m->recall, 1e-12);
    check_ratio(e, "volume_similarity", m->volume_similarity, 1e-12);
    check_ratio(e, "truth_ml", m->truth_ml, 1e-6 * json_real_of(e, "truth_ml"));
    check_ratio(e, "prediction_ml", m->prediction_ml, 1e-6 * json_real_of(e, "prediction_ml"));
}

/* Bits of the regions of a label mask. */
static uint8_t *bits_of(const noc_image *mask)
{
    size_t n = noc_grid_voxels(&mask->grid);
    uint8_t *bits = malloc(n);

    for (size_t i = 0; i < n; i++) {
        int label = ((const uint8_t *)mask->voxels)[i];
        bits[i] = label == 1 ? 1 | 4 : label == 2 ? 2 | 4 : 0;
    }
    return bits;
}

static void score_and_check(const noc_manifest *model, const noc_image *mask, const void *bits,
                            const noc_image *truth, const json_t *classes, int expected_count)
{
    noc_metric *metrics;
    int count;

    ck_assert_int_eq(noc_truth_check(model, &mask->grid, truth, NULL), NOC_OK);
    ck_assert_int_eq(
        noc_score(model, &mask->grid, mask->voxels, 1, bits, bits ? 1 : 0, truth, &metrics, &count, NULL),
        NOC_OK);
    ck_assert_int_eq(count, expected_count);
    for (int i = 0; i < count; i++)
        check_metric(classes, &metrics[i]);
    free(metrics);
}

START_TEST(reference_pairs_give_the_reference_numbers)
{
    char folder[1000], path[1100];
    json_error_t why;

    folder_of_metrics(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/metrics.json", folder);
    json_t *all = json_load_file(path, 0, &why);
    ck_assert_msg(all != NULL, "%s: %s", path, why.text);
    size_t i;
    json_t *pair;
    json_t *pairs = json_object_get(all, "pairs");
    ck_assert_uint_ge(json_array_size(pairs), 6);
    json_array_foreach(pairs, i, pair)
    {
        noc_image truth, mask;
        const char *name = json_string_value(json_object_get(pair, "name"));
        read_image(folder, name, "truth", &truth);
        read_image(folder, name, "prediction", &mask);
        uint8_t *bits = bits_of(&mask);
        const json_t *classes = json_object_get(pair, "classes");
        score_and_check(&label_model, &mask, NULL, &truth, classes, 2);
        score_and_check(&region_model, &mask, bits, &truth, classes, 3);
        score_and_check(&region_model, &mask, NULL, &truth, classes, 3);
        free(bits);
        noc_image_clear(&truth);
        noc_image_clear(&mask);
    }
    json_decref(all);
}
END_TEST

static noc_grid small_grid(int64_t i, int64_t j, int64_t k)
{
    noc_grid grid = {.size = {i, j, k}, .spacing_mm = {1, 2, 5}};

    for (int a = 0; a < 4; a++)
        grid.affine[a][a] = 1;
    return grid;
}

static noc_image float_image(noc_grid grid, const float *values)
{
    noc_image image = {.grid = grid, .channels = 1, .type = NOC_VOXEL_F32, .slope = 1};

    image.bytes = noc_grid_voxels(&grid) * sizeof *values;
    image.voxels = malloc(image.bytes);
    memcpy(image.voxels, values, image.bytes);
    return image;
}

START_TEST(without_a_truth_only_the_volume_is_told)
{
    noc_grid grid = small_grid(4, 1, 1);
    uint16_t mask[] = {1, 1, 2, 300};
    noc_metric *m;
    int count;

    ck_assert_int_eq(noc_score(&label_model, &grid, mask, 2, NULL, 0, NULL, &m, &count, NULL), NOC_OK);
    ck_assert_int_eq(count, 2);
    ck_assert_str_eq(m[0].label, "1");
    ck_assert_str_eq(m[0].name, "one");
    ck_assert(!m[0].has_truth);
    ck_assert_double_eq_tol(m[0].prediction_ml, 0.02, 1e-15);
    ck_assert_double_eq_tol(m[1].prediction_ml, 0.01, 1e-15);
    ck_assert(isnan(m[0].dice) && isnan(m[0].iou) && isnan(m[0].recall) && isnan(m[0].truth_ml));
    ck_assert_uint_eq(m[0].tp + m[0].fp + m[0].fn + m[0].tn, 0);
    free(m);
}
END_TEST

START_TEST(overlapping_regions_are_counted_by_their_bits)
{
    noc_grid grid = small_grid(4, 1, 1);
    uint8_t mask[] = {4, 1, 0, 0};
    uint32_t bits[] = {1 | 2 | 4, 4, 0, 2};
    noc_image truth = float_image(grid, (const float[]){1, 2, 2, 0});
    noc_metric *m;
    int count;

    ck_assert_int_eq(noc_score(&region_model, &grid, mask, 1, bits, 4, &truth, &m, &count, NULL), NOC_OK);
    ck_assert_str_eq(m[2].label, "1+2");
    ck_assert_str_eq(m[2].name, "both");
    ck_assert(m[0].tp == 1 && m[0].fp == 0 && m[0].fn == 0 && m[0].tn == 3);
    ck_assert(m[1].tp == 0 && m[1].fp == 2 && m[1].fn == 2 && m[1].tn == 0);
    ck_assert(m[2].tp == 2 && m[2].fp == 0 && m[2].fn == 1 && m[2].tn == 1);
    free(m);
    noc_image_clear(&truth);
}
END_TEST

/* Bytes are counted by pairs, every other type voxel by voxel. */
START_TEST(a_truth_of_bytes_counts_as_one_of_floats)
{
    enum { VOXELS = 509 };
    const noc_manifest *const models[] = {&label_model, &region_model};
    noc_grid grid = small_grid(VOXELS, 1, 1);
    uint8_t mask[VOXELS], bits[VOXELS];
    float values[VOXELS];
    noc_image bytes = {.grid = grid, .channels = 1, .type = NOC_VOXEL_U8, .slope = 1};
    bytes.voxels = malloc(VOXELS);
    for (int i = 0; i < VOXELS; i++) {
        ((uint8_t *)bytes.voxels)[i] = (uint8_t)(i % 16 < 8 ? 0 : i % 3);
        values[i] = (float)((uint8_t *)bytes.voxels)[i];
        mask[i] = (uint8_t)(i / 4 % 2 ? 0 : i % 5 % 3);
        bits[i] = (uint8_t)(i % 7);
    }
    noc_image floats = float_image(grid, values);
    for (int i = 0; i < 3; i++) {
        noc_metric *m[2];
        int count;
        for (int k = 0; k < 2; k++)
            ck_assert_int_eq(noc_score(models[i > 0], &grid, mask, 1, i > 1 ? bits : NULL, i > 1,
                                       k ? &bytes : &floats, &m[k], &count, NULL),
                             NOC_OK);
        for (int c = 0; c < count; c++) {
            ck_assert_uint_gt(m[0][c].tp * m[0][c].fp * m[0][c].fn, 0);
            ck_assert(m[0][c].tp == m[1][c].tp && m[0][c].fp == m[1][c].fp && m[0][c].fn == m[1][c].fn &&
                      m[0][c].tn == m[1][c].tn);
        }
        free(m[0]);
        free(m[1]);
    }
    ck_assert_int_eq(noc_truth_check(&label_model, &grid, &bytes, NULL), NOC_OK);
    ((uint8_t *)bytes.voxels)[VOXELS - 1] = 3;
    noc_error err;
    ck_assert_int_eq(noc_truth_check(&label_model, &grid, &bytes, &err), NOC_ETRUTH);
    ck_assert_ptr_nonnull(strstr(err.text, "is 3 at voxel (508, 0, 0)"));
    noc_image_clear(&floats);
    noc_image_clear(&bytes);
}
END_TEST

START_TEST(empty_masks_follow_the_conventions)
{
    noc_metric m = {.tn = 10};

    noc_metric_derive(&m, 1);
    ck_assert(isnan(m.dice) && isnan(m.iou) && isnan(m.precision) && isnan(m.recall) &&
              isnan(m.volume_similarity));
    m.fp = 3;
    noc_metric_derive(&m, 0.5);
    ck_assert(m.dice == 0 && m.iou == 0 && m.precision == 0 && isnan(m.recall) && m.volume_similarity == 0);
    ck_assert(m.prediction_ml == 1.5 && m.truth_ml == 0);
    m.fp = 0;
    m.fn = 2;
    noc_metric_derive(&m, 1);
    ck_assert(m.dice == 0 && isnan(m.precision) && m.recall == 0 && m.volume_similarity == 0);
}
END_TEST

START_TEST(a_truth_must_hold_known_whole_labels)
{
    noc_grid grid = small_grid(2, 2, 1);
    noc_error err;
    struct {
        float values[4];
        noc_status labels, regions;
    } cases[] = {
        {{0, 1, 2, 1}, NOC_OK, NOC_OK},
        {{0, 0, 0, 0}, NOC_OK, NOC_OK},
        {{0, 4, 2, 1}, NOC_ETRUTH, NOC_OK}, /* 4 is painted by the region model */
        {{0, 3, 2, 1}, NOC_ETRUTH, NOC_ETRUTH},
        {{0, 1.5F, 2, 1}, NOC_ETRUTH, NOC_ETRUTH},
        {{0, -1, 2, 1}, NOC_ETRUTH, NOC_ETRUTH},
        {{0, NAN, 2, 1}, NOC_ETRUTH, NOC_ETRUTH},
        {{0, 1, 2, INFINITY}, NOC_ETRUTH, NOC_ETRUTH},
        {{0, 1e9F, 2, 1}, NOC_ETRUTH, NOC_ETRUTH},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        noc_image truth = float_image(grid, cases[i].values);
        ck_assert_int_eq(noc_truth_check(&label_model, &grid, &truth, &err), cases[i].labels);
        ck_assert_int_eq(noc_truth_check(&region_model, &grid, &truth, &err), cases[i].regions);
        noc_image_clear(&truth);
    }
    ck_assert_ptr_nonnull(strstr(err.text, "voxel (1, 0, 0)"));
    noc_image truth = float_image(grid, cases[3].values);
    ck_assert_int_eq(noc_truth_check(&region_model, &grid, &truth, &err), NOC_ETRUTH);
    ck_assert_msg(
        strstr(err.text, "3 at voxel (1, 0, 0), a label that the model does not know (it knows 1, 2, 4)") !=
            NULL,
        "%s", err.text);
    noc_image_clear(&truth);
}
END_TEST

START_TEST(a_truth_must_lie_on_the_grid_of_the_scan)
{
    noc_grid grid = small_grid(2, 2, 1);
    noc_image truth = float_image(grid, (const float[]){0, 1, 2, 0});

    truth.grid.affine[0][3] = 5e-4;
    ck_assert_int_eq(noc_truth_check(&label_model, &grid, &truth, NULL), NOC_OK);
    truth.grid.affine[0][3] = 5e-3;
    ck_assert_int_eq(noc_truth_check(&label_model, &grid, &truth, NULL), NOC_ETRUTH);
    truth.grid.affine[0][3] = 0;
    truth.grid.size[0] = 4;
    truth.grid.size[1] = 1;
    ck_assert_int_eq(noc_truth_check(&label_model, &grid, &truth, NULL), NOC_ETRUTH);
    truth.grid = grid;
    truth.channels = 2;
    ck_assert_int_eq(noc_truth_check(&label_model, &grid, &truth, NULL), NOC_ETRUTH);
    noc_image_clear(&truth);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("score");
    TCase *tests = tcase_create("score");

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, reference_pairs_give_the_reference_numbers);
    tcase_add_test(tests, without_a_truth_only_the_volume_is_told);
    tcase_add_test(tests, overlapping_regions_are_counted_by_their_bits);
    tcase_add_test(tests, a_truth_of_bytes_counts_as_one_of_floats);
    tcase_add_test(tests, empty_masks_follow_the_conventions);
    tcase_add_test(tests, a_truth_must_hold_known_whole_labels);
    tcase_add_test(tests, a_truth_must_lie_on_the_grid_of_the_scan);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
