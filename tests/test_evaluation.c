/* Surface distances against the reference metrics, against all distances of all pairs of points, and with
 * masks so far from each other that planes are transformed; label maps of images that hold none. */
#include "engine/base/memory.h"
#include "engine/volume/nifti.h"
#include "worker/evaluation.h"

#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METRICS "tests/data/golden/metrics"

static const noc_tolerances one_and_two = {{1, 2}, 2};

static double real_of(const json_t *value)
{
    ck_assert_ptr_nonnull(value);
    if (json_is_string(value))
        return strcmp(json_string_value(value), "nan") == 0 ? (double)NAN : (double)INFINITY;
    return json_number_value(value);
}

static void check_value(const json_t *values, const char *name, double found, double tolerance)
{
    double wanted = real_of(json_object_get(values, name));
    bool is_right = isfinite(wanted) ? fabs(found - wanted) <= tolerance * fmax(1, fabs(wanted))
                                     : isnan(found) == isnan(wanted) && isinf(found) == isinf(wanted);

    ck_assert_msg(is_right, "%s is %.17g, expected %.17g", name, found, wanted);
}

static json_t *read_json(const char *path)
{
    json_error_t why;
    json_t *json = json_load_file(path, 0, &why);

    ck_assert_msg(json != NULL, "%s: %s", path, why.text);
    return json;
}

static void read_map(const char *name, const char *side, noc_label_map *map, double spacing_mm[3])
{
    char path[256];
    noc_image image;
    noc_nifti_options options = {0};
    noc_error err;

    snprintf(path, sizeof path, METRICS "/%s_%s.nii.gz", name, side);
    ck_assert_msg(noc_nifti_read(path, &options, &image, &err) == NOC_OK, "%s", err.text);
    ck_assert_msg(noc_label_map_make(&image, map, &err) == NOC_OK, "%s", err.text);
    memcpy(spacing_mm, image.grid.spacing_mm, sizeof image.grid.spacing_mm);
    noc_image_clear(&image);
}

static void check_evaluation(const noc_evaluation *e, const json_t *wanted)
{
    const json_t *deepmind = json_object_get(wanted, "deepmind"), *monai = json_object_get(wanted, "monai");
    const json_t *brats = json_object_get(wanted, "brats");
    const noc_surface *s = &e->surface;

    check_value(wanted, "tp", (double)e->metric.tp, 0);
    check_value(wanted, "fp", (double)e->metric.fp, 0);
    check_value(wanted, "fn", (double)e->metric.fn, 0);
    check_value(wanted, "tn", (double)e->metric.tn, 0);
    check_value(wanted, "dice", e->metric.dice, 1e-12);
    check_value(wanted, "truth_ml", e->metric.truth_ml, 1e-6);
    check_value(deepmind, "hd95", s->deepmind.hd95, 1e-6);
    check_value(deepmind, "hd100", s->deepmind.hd100, 1e-6);
    check_value(deepmind, "surface_dice_1mm", s->deepmind.surface_dice[0], 1e-6);
    check_value(deepmind, "surface_dice_2mm", s->deepmind.surface_dice[1], 1e-6);
    check_value(deepmind, "asd_truth_to_prediction", s->deepmind.asd_truth_to_prediction, 1e-6);
    check_value(deepmind, "asd_prediction_to_truth", s->deepmind.asd_prediction_to_truth, 1e-6);
    check_value(deepmind, "truth_mm2", s->deepmind.truth_mm2, 1e-6);
    check_value(deepmind, "prediction_mm2", s->deepmind.prediction_mm2, 1e-6);
    check_value(monai, "hd95", s->monai.hd95, 1e-4); /* it works in float32 */
    check_value(monai, "hd100", s->monai.hd100, 1e-4);
    check_value(monai, "assd", s->monai.assd, 1e-4);
    check_value(wanted, "medpy_hd95", s->medpy_hd95, 1e-6);
    check_value(brats, "dice", noc_brats_ratio(e, e->metric.dice), 1e-12);
    check_value(brats, "hd95", noc_brats_distance(e, s->deepmind.hd95, 374), 1e-6);
}

START_TEST(reference_pairs_give_the_reference_numbers)
{
    static const noc_class classes[] = {{.label = "1", .labels = {1}, .label_count = 1, .bit = -1},
                                        {.label = "2", .labels = {2}, .label_count = 1, .bit = -1},
                                        {.label = "1+2", .labels = {1, 2}, .label_count = 2, .bit = -1}};
    json_t *all = read_json(METRICS "/metrics.json"), *pair;
    size_t i;

    ck_assert_uint_eq(json_array_size(json_object_get(all, "pairs")), 20);
    json_array_foreach(json_object_get(all, "pairs"), i, pair)
    {
        const char *name = json_string_value(json_object_get(pair, "name"));
        noc_label_map truth, prediction;
        noc_evaluation e;
        double spacing_mm[3];
        read_map(name, "prediction", &prediction, spacing_mm);
        read_map(name, "truth", &truth, spacing_mm);
        for (int c = 0; c < 3; c++) {
            ck_assert_int_eq(noc_class_evaluate(&classes[c], &prediction, &truth, spacing_mm, &one_and_two,
                                                NULL, &e, NULL),
                             NOC_OK);
            if (e.metric.tp > 0 && e.metric.fp + e.metric.fn == 0)
                ck_assert(e.surface.deepmind.surface_dice[0] == 1);
            check_evaluation(&e, json_object_get(json_object_get(pair, "classes"), classes[c].label));
        }
        noc_label_map_clear(&truth);
        noc_label_map_clear(&prediction);
    }
    json_decref(all);
}
END_TEST

START_TEST(every_corner_weighs_what_its_surfels_do)
{
    const double spacing[3] = {0.7, 1.3, 2.2};
    double areas[256];
    json_t *file = read_json(METRICS "/surfel_normals.json"), *of_code, *normal;
    size_t code, n;

    noc_surfel_areas(spacing, areas);
    ck_assert_uint_eq(json_array_size(json_object_get(file, "normals")), 256);
    json_array_foreach(json_object_get(file, "normals"), code, of_code)
    {
        double area = 0;
        json_array_foreach(of_code, n, normal)
        {
            double square = 0;
            for (size_t a = 0; a < 3; a++) {
                double part = json_number_value(json_array_get(normal, a)) * spacing[(a + 1) % 3] *
                              spacing[(a + 2) % 3];
                square += part * part;
            }
            area += sqrt(square);
        }
        ck_assert_msg(fabs(areas[code] - area) < 1e-12, "code %zu: %g, expected %g", code, areas[code], area);
    }
    json_decref(file);
}
END_TEST

/* ---- against all pairs of points ---- */

static uint32_t random_state = 1;

static uint32_t next_random(uint32_t below)
{
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)random_state * below >> 32);
}

static bool is_set(const noc_bits *bits, int64_t i, int64_t j, int64_t k)
{
    return noc_bits_row(bits, j, k)[(i + 1) / 64] >> ((i + 1) % 64) & 1;
}

static void set(noc_bits *bits, int64_t i, int64_t j, int64_t k)
{
    noc_bits_row(bits, j, k)[(i + 1) / 64] |= (uint64_t)1 << ((i + 1) % 64);
}

static bool is_edge(const noc_bits *b, int64_t i, int64_t j, int64_t k)
{
    return is_set(b, i, j, k) &&
           !(is_set(b, i - 1, j, k) && is_set(b, i + 1, j, k) && is_set(b, i, j - 1, k) &&
             is_set(b, i, j + 1, k) && is_set(b, i, j, k - 1) && is_set(b, i, j, k + 1));
}

/* Largest and summed distance from the edges of a to the nearest of b. */
static double slow_distances(const noc_bits *a, const noc_bits *b, const double s[3], double *sum,
                             size_t *count)
{
    double most = 0;
    size_t n = (size_t)(a->size[0] * a->size[1] * a->size[2]), of_b = 0;
    int64_t(*points)[3] = malloc(n * sizeof *points);

    for (int64_t k = 0; k < b->size[2]; k++)
        for (int64_t j = 0; j < b->size[1]; j++)
            for (int64_t i = 0; i < b->size[0]; i++)
                if (is_edge(b, i, j, k))
                    memcpy(points[of_b++], (int64_t[3]){i, j, k}, sizeof *points);
    for (size_t v = 0; v < n; v++) {
        int64_t i = (int64_t)v % a->size[0], j = (int64_t)v / a->size[0] % a->size[1],
                k = (int64_t)v / a->size[0] / a->size[1];
        double best = INFINITY;
        if (!is_edge(a, i, j, k))
            continue;
        for (size_t p = 0; p < of_b; p++) {
            double di = (double)(points[p][0] - i) * s[0], dj = (double)(points[p][1] - j) * s[1],
                   dk = (double)(points[p][2] - k) * s[2];
            best = fmin(best, di * di + dj * dj + dk * dk);
        }
        most = fmax(most, sqrt(best));
        *sum += sqrt(best);
        ++*count;
    }
    free(points);
    return most;
}

static void add_box(noc_bits *bits, const int64_t low[3], const int64_t high[3])
{
    for (int64_t k = low[2]; k < high[2]; k++)
        for (int64_t j = low[1]; j < high[1]; j++)
            for (int64_t i = low[0]; i < high[0]; i++)
                set(bits, i, j, k);
}

static void compare_with_all_pairs(const noc_bits *a, const noc_bits *b, const double s[3])
{
    noc_surface found;
    double sum = 0;
    size_t count = 0;

    ck_assert_int_eq(noc_surface_measure(a, b, s, one_and_two.mm, 2, &found, NULL), NOC_OK);
    double most = fmax(slow_distances(a, b, s, &sum, &count), slow_distances(b, a, s, &sum, &count));
    ck_assert_double_eq_tol(found.monai.hd100, most, 1e-12 * most);
    ck_assert_double_eq_tol(found.monai.assd, sum / (double)count, 1e-9 * most);
}

START_TEST(distances_are_those_of_all_pairs_of_points)
{
    static const int64_t sizes[][3] = {{9, 7, 5},  {61, 6, 4},  {62, 5, 3},
                                       {63, 4, 5}, {130, 3, 2}, {1, 1, 40}};

    for (size_t n = 0; n < 60; n++) {
        const int64_t *size = sizes[n % 6];
        const double s[3] = {0.3 + next_random(40) * 0.1, 0.3 + next_random(40) * 0.1,
                             0.3 + next_random(40) * 0.1};
        noc_bits a, b;
        ck_assert_int_eq(noc_bits_create(size, &a, NULL), NOC_OK);
        ck_assert_int_eq(noc_bits_create(size, &b, NULL), NOC_OK);
        for (uint32_t voxels = 1 + next_random(60); voxels > 0; voxels--) {
            set(&a, next_random((uint32_t)size[0]), next_random((uint32_t)size[1]),
                next_random((uint32_t)size[2]));
            set(&b, next_random((uint32_t)size[0]), next_random((uint32_t)size[1]),
                next_random((uint32_t)size[2]));
        }
        compare_with_all_pairs(&a, &b, s);
        noc_bits_clear(&a);
        noc_bits_clear(&b);
    }
}
END_TEST

/* Also across the words of a row. */
START_TEST(values_do_not_depend_on_the_place_in_the_box)
{
    static const double s[3] = {0.8, 1.1, 2};
    noc_surface first, moved;

    for (int64_t offset = 0; offset < 70; offset++) {
        noc_bits a, b;
        ck_assert_int_eq(noc_bits_create((const int64_t[3]){80, 6, 5}, &a, NULL), NOC_OK);
        ck_assert_int_eq(noc_bits_create((const int64_t[3]){80, 6, 5}, &b, NULL), NOC_OK);
        add_box(&a, (const int64_t[3]){offset, 0, 0}, (const int64_t[3]){offset + 7, 4, 4});
        add_box(&b, (const int64_t[3]){offset + 3, 1, 1}, (const int64_t[3]){offset + 9, 6, 5});
        ck_assert_int_eq(noc_surface_measure(&a, &b, s, one_and_two.mm, 2, offset ? &moved : &first, NULL),
                         NOC_OK);
        if (offset > 0)
            ck_assert_mem_eq(&moved, &first, sizeof first);
        noc_bits_clear(&a);
        noc_bits_clear(&b);
    }
}
END_TEST

/* So many rows are tried from so many points that every plane is transformed. */
START_TEST(masks_far_from_each_other)
{
    static const double spacings[][3] = {{1, 1, 1}, {0.9, 0.4, 3}, {3, 2.5, 0.2}};
    const int64_t size[3] = {30, 90, 20};

    for (int n = 0; n < 3; n++) {
        noc_bits a, b;
        ck_assert_int_eq(noc_bits_create(size, &a, NULL), NOC_OK);
        ck_assert_int_eq(noc_bits_create(size, &b, NULL), NOC_OK);
        add_box(&a, (const int64_t[3]){0, 0, 0}, (const int64_t[3]){25, 12, 20});
        add_box(&b, (const int64_t[3]){3, 70, 2}, (const int64_t[3]){28, 75, 18});
        for (int voxel = 0; voxel < 40; voxel++)
            set(&b, next_random(30), 60 + next_random(30), next_random(20));
        compare_with_all_pairs(&a, &b, spacings[n]);
        noc_bits_clear(&a);
        noc_bits_clear(&b);
    }
}
END_TEST

/* ---- lesions ---- */

typedef struct lesion_case {
    const char *name;
    noc_lesion_rules rules;
    int64_t truth[3][6], prediction[3][6]; /* boxes, low and high: the voxels from low to before high */
    double dice, hd95;                     /* hd95 < 0: that of the whole masks */
    int tp, fp, fn;
} lesion_case;

static const lesion_case lesion_cases[] = {
    {"nothing", {3, 0, 374}, {{0}}, {{0}}, 1, 0, 0, 0, 0},
    {"parts so near are one",
     {2, 0, 374},
     {{0, 2, 2, 2, 4, 4}, {6, 2, 2, 8, 4, 4}},
     {{0, 2, 2, 2, 4, 4}},
     2 / 3.,
     -1,
     1,
     0,
     0},
    {"not farther ones",
     {2, 0, 374},
     {{0, 2, 2, 2, 4, 4}, {7, 2, 2, 9, 4, 4}},
     {{0, 2, 2, 2, 4, 4}},
     0.5,
     187,
     1,
     0,
     1},
    {"neither found", {2, 0, 100}, {{0, 2, 2, 2, 4, 4}, {7, 2, 2, 9, 4, 4}}, {{0}}, 0, 100, 0, 0, 2},
    {"what is none",
     {2, 0, 374},
     {{0, 2, 2, 2, 4, 4}},
     {{0, 2, 2, 2, 4, 4}, {7, 2, 2, 8, 3, 3}},
     0.5,
     187,
     1,
     1,
     0},
    {"only what is none", {2, 0, 50}, {{0}}, {{0, 2, 2, 2, 4, 4}, {7, 2, 2, 8, 3, 3}}, 0, 50, 0, 2, 0},
    {"a small one is left out with its prediction",
     {1, 8, 374},
     {{0, 0, 0, 3, 3, 3}, {7, 2, 2, 9, 4, 4}},
     {{0, 0, 0, 3, 3, 3}, {7, 2, 2, 8, 4, 4}},
     1,
     0,
     1,
     0,
     0},
    {"a larger one is not",
     {1, 7.9, 374},
     {{0, 0, 0, 3, 3, 3}, {7, 2, 2, 9, 4, 4}},
     {{0, 0, 0, 3, 3, 3}},
     0.5,
     187,
     1,
     0,
     1},
    {"a part that reaches over an edge",
     {1, 0, 374},
     {{1, 1, 1, 2, 2, 2}},
     {{2, 2, 1, 3, 3, 2}},
     0,
     -1,
     1,
     0,
     0},
    {"or another", {1, 0, 374}, {{1, 1, 1, 2, 2, 2}}, {{1, 2, 2, 2, 3, 3}}, 0, -1, 1, 0, 0},
    {"not over a corner", {1, 0, 374}, {{1, 1, 1, 2, 2, 2}}, {{2, 2, 2, 3, 3, 3}}, 0, 374, 0, 1, 1},
    {"one part that is of two lesions",
     {1, 0, 374},
     {{0, 0, 0, 1, 2, 2}, {4, 0, 0, 5, 2, 2}},
     {{0, 0, 0, 5, 2, 2}},
     1 / 3.,
     4,
     2,
     0,
     0},
};

static void make_masks(const lesion_case *c, int64_t offset, noc_bits masks[2])
{
    for (int m = 0; m < 2; m++) {
        ck_assert_int_eq(noc_bits_create((const int64_t[3]){offset + 10, 5, 5}, &masks[m], NULL), NOC_OK);
        for (int b = 0; b < 3; b++) {
            const int64_t *box = m ? c->prediction[b] : c->truth[b];
            add_box(&masks[m], (const int64_t[3]){box[0] + offset, box[1], box[2]},
                    (const int64_t[3]){box[3] + offset, box[4], box[5]});
        }
    }
}

/* At every place in a word. */
START_TEST(scores_of_lesions)
{
    static const double s[3] = {1, 1, 1};
    const lesion_case *c = &lesion_cases[_i];
    noc_bits masks[2];
    noc_lesion_scores found;
    noc_surface whole;

    for (int64_t offset = 0; offset < 70; offset++) {
        make_masks(c, offset, masks);
        ck_assert_int_eq(noc_surface_measure(&masks[0], &masks[1], s, NULL, 0, &whole, NULL), NOC_OK);
        ck_assert_int_eq(noc_lesions_score(&masks[0], &masks[1], s, &c->rules, &found, NULL), NOC_OK);
        ck_assert_msg(found.tp == c->tp && found.fp == c->fp && found.fn == c->fn, "%s: %d %d %d", c->name,
                      (int)found.tp, (int)found.fp, (int)found.fn);
        ck_assert_msg(fabs(found.dice - c->dice) < 1e-12, "%s: %g", c->name, found.dice);
        double hd95 = c->hd95 < 0 ? whole.deepmind.hd95 : c->hd95;
        ck_assert_msg(fabs(found.hd95 - hd95) < 1e-12, "%s: %g, not %g", c->name, found.hd95, hd95);
        noc_bits_clear(&masks[0]);
        noc_bits_clear(&masks[1]);
    }
}
END_TEST

/* All of a box, and nothing of its margin. */
START_TEST(dilation_ends_with_the_box)
{
    for (int64_t i = 1; i < 140; i++) {
        noc_bits bits;
        size_t count = 0;
        ck_assert_int_eq(noc_bits_create((const int64_t[3]){i, 4, 3}, &bits, NULL), NOC_OK);
        set(&bits, i / 2, 0, 0);
        ck_assert_int_eq(noc_bits_dilate(&bits, 80, NULL), NOC_OK);
        for (int64_t w = 0; w < bits.words * 6 * 5; w++)
            count += (size_t)__builtin_popcountll(bits.rows[w]);
        ck_assert_uint_eq(count, (size_t)(i * 4 * 3));
        noc_bits_clear(&bits);
    }
}
END_TEST

/* ---- label maps ---- */

static noc_image image_of(noc_voxel_type type, const void *values, int64_t i, int64_t j)
{
    noc_image image = {
        .grid = {.size = {i, j, 1}, .spacing_mm = {1, 1, 1}}, .channels = 1, .type = type, .slope = 1};

    image.bytes = (size_t)(i * j) * noc_voxel_size(type);
    image.voxels = malloc(image.bytes);
    memcpy(image.voxels, values, image.bytes);
    return image;
}

START_TEST(a_label_map_knows_where_labels_lie)
{
    noc_image image = image_of(NOC_VOXEL_F32, (const float[]){0, 7, 7, 65535, 0, 7, 0, 0, 3, 0, 0, 0}, 4, 3);
    noc_label_map map;

    ck_assert_int_eq(noc_label_map_make(&image, &map, NULL), NOC_OK);
    ck_assert_int_eq(map.box_count, 3);
    ck_assert(map.boxes[0].label == 3 && map.boxes[1].label == 7 && map.boxes[2].label == 65535);
    ck_assert(map.boxes[1].low[0] == 1 && map.boxes[1].high[0] == 2 && map.boxes[1].low[1] == 0 &&
              map.boxes[1].high[1] == 1);
    noc_label_map_clear(&map);
    noc_image_clear(&image);
}
END_TEST

/* Bytes are the map's own only where they are the values. */
START_TEST(scaled_bytes_are_labels_by_their_values)
{
    static const struct {
        double slope, inter;
        int label, voxel_bytes;
    } scales[] = {{1, 0, 3, 1}, {2, 0, 6, 2}, {1, 1, 4, 2}};
    noc_label_map map;

    for (size_t s = 0; s < sizeof scales / sizeof scales[0]; s++) {
        noc_image image = image_of(NOC_VOXEL_U8, (const uint8_t[]){3, 3, 3, 3}, 2, 2);
        image.slope = scales[s].slope;
        image.inter = scales[s].inter;
        ck_assert_int_eq(noc_label_map_make(&image, &map, NULL), NOC_OK);
        ck_assert_int_eq(map.voxel_bytes, scales[s].voxel_bytes);
        ck_assert_int_eq(map.boxes[0].label, scales[s].label);
        noc_label_map_clear(&map);
        noc_image_clear(&image);
    }
}
END_TEST

START_TEST(what_is_no_label_is_named)
{
    static const float bad[] = {-1, 0.5F, NAN, INFINITY, 65536};
    noc_label_map map;
    noc_error err;

    for (size_t b = 0; b < sizeof bad / sizeof bad[0]; b++) {
        noc_image image = image_of(NOC_VOXEL_F32, (const float[]){0, 1, 2, bad[b]}, 2, 2);
        ck_assert_int_eq(noc_label_map_make(&image, &map, &err), NOC_EDATA);
        ck_assert_ptr_nonnull(strstr(err.text, "voxel (1, 1, 0)"));
        ck_assert_ptr_null(map.voxels);
        noc_image_clear(&image);
    }
    noc_image image = image_of(NOC_VOXEL_U8, "abcd", 2, 2);
    image.channels = 2;
    ck_assert_int_eq(noc_label_map_make(&image, &map, &err), NOC_ECHANNELS);
    noc_image_clear(&image);
}
END_TEST

START_TEST(regions_of_predictions_may_be_bits)
{
    const noc_class class = {.label = "2+3", .labels = {2, 3}, .label_count = 2, .bit = 1};
    noc_image bits = image_of(NOC_VOXEL_U8, (const uint8_t[]){1, 2, 3, 0}, 4, 1);
    noc_image labels = image_of(NOC_VOXEL_U8, (const uint8_t[]){1, 2, 0, 3}, 4, 1);
    noc_label_map prediction, truth;
    noc_evaluation e;

    ck_assert_int_eq(noc_label_map_make(&bits, &prediction, NULL), NOC_OK);
    ck_assert_int_eq(noc_label_map_make(&labels, &truth, NULL), NOC_OK);
    ck_assert_int_eq(
        noc_class_evaluate(&class, &prediction, &truth, bits.grid.spacing_mm, &one_and_two, NULL, &e, NULL),
        NOC_OK);
    ck_assert(e.metric.tp == 1 && e.metric.fp == 1 && e.metric.fn == 1 && e.metric.tn == 1);
    noc_label_map_clear(&prediction);
    noc_label_map_clear(&truth);
    noc_image_clear(&bits);
    noc_image_clear(&labels);
}
END_TEST

START_TEST(an_axis_too_long_is_refused)
{
    noc_bits bits;
    noc_error err;

    ck_assert_int_eq(noc_bits_create((const int64_t[3]){NOC_SURFACE_AXIS + 1, 1, 1}, &bits, &err),
                     NOC_ETOOLARGE);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("evaluation");
    TCase *tests = tcase_create("evaluation");

    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, reference_pairs_give_the_reference_numbers);
    tcase_add_test(tests, every_corner_weighs_what_its_surfels_do);
    tcase_add_test(tests, distances_are_those_of_all_pairs_of_points);
    tcase_add_test(tests, values_do_not_depend_on_the_place_in_the_box);
    tcase_add_test(tests, masks_far_from_each_other);
    tcase_add_test(tests, dilation_ends_with_the_box);
    tcase_add_loop_test(tests, scores_of_lesions, 0, sizeof lesion_cases / sizeof lesion_cases[0]);
    tcase_add_test(tests, a_label_map_knows_where_labels_lie);
    tcase_add_test(tests, scaled_bytes_are_labels_by_their_values);
    tcase_add_test(tests, what_is_no_label_is_named);
    tcase_add_test(tests, regions_of_predictions_may_be_bits);
    tcase_add_test(tests, an_axis_too_long_is_refused);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
