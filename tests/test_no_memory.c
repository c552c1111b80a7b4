/* Whatever allocation fails: one sentence, no crash, nothing left behind, and the next try works. */
#include "catalog/catalog.h"
#include "catalog/scan.h"
#include "catalog/source.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/base/pool.h"
#include "engine/base/queue.h"
#include "engine/base/sha256.h"
#include "engine/base/yaml.h"
#include "engine/volume/nifti.h"
#include "tests/fail_alloc.h"
#include "tests/nifti_sample.h"
#include "tests/reference_weights.h"
#include "worker/evaluation.h"
#include "worker/worker.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { NI = 6, NJ = 5, NK = 4, VOXELS = NI * NJ * NK };

static char folder[64];

static const char *at(const char *name)
{
    static char paths[8][128];
    static int turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void make_folder(void)
{
    /* in memory where that is possible: a catalog is synced a thousand times */
    snprintf(folder, sizeof folder, "%s/no-memory.XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

/* ---- base ---- */

static noc_status read_yaml(void *argument, noc_error *err)
{
    static const char text[] = "a: [1, 2]\nb: {c: \"x\", d: 1.5}\n";
    noc_yaml *doc = NULL;
    noc_status status = noc_yaml_parse(argument, text, sizeof text - 1, &doc, err);
    if (status == NOC_OK)
        HOLDS(noc_yaml_count(noc_yaml_root(doc)) == 2);
    noc_yaml_free(doc);
    return status;
}

static noc_status replace_and_read(void *argument, noc_error *err)
{
    char *data = NULL;
    size_t size;
    const char *path = argument;
    noc_status status = noc_file_replace(path, "1234", 4, err);
    if (status == NOC_OK)
        status = noc_file_read(path, 100, &data, &size, err);
    if (status == NOC_OK)
        HOLDS(memcmp(data, "1234", 4) == 0);
    free(data);
    return status;
}

static noc_status hash(void *argument, noc_error *err)
{
    char hex[NOC_SHA256_HEX];
    (void)argument;
    noc_status status = noc_sha256_of("abc", 3, hex, err);
    if (status == NOC_OK)
        HOLDS(strcmp(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") == 0);
    return status;
}

static void mark(void *argument, int i, int thread)
{
    (void)thread;
    ((char *)argument)[i] = 1;
}

static noc_status use_pool(void *argument, noc_error *err)
{
    noc_pool *pool = NULL;
    char marks[64] = {0};
    (void)argument;
    noc_status status = noc_pool_create(3, &pool, err);
    if (status != NOC_OK)
        return status;
    noc_pool_run(pool, 64, mark, marks);
    noc_pool_free(pool);
    for (int i = 0; i < 64; i++)
        HOLDS(marks[i] == 1);
    return NOC_OK;
}

START_TEST(base)
{
    char path[128];
    snprintf(path, sizeof path, "%s", at("file"));
    const struct {
        fail_alloc_run run;
        void *argument;
    } runs[] = {{read_yaml, path}, {replace_and_read, path}, {hash, NULL}, {use_pool, NULL}};
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++)
        ck_assert_int_gt(fail_alloc_each(runs[i].run, runs[i].argument, _i), 0);
}
END_TEST

/* ---- volume ---- */

static void write_scan(const char *path)
{
    unsigned char data[SAMPLE_HEADER_BYTES + 2 * VOXELS] = {0};
    nifti_sample s = nifti_sample_of(1, NI, NJ, NK);
    size_t size = nifti_sample_header(&s, data);
    data[size] = 7;
    if (strstr(path, ".gz")) {
        gzFile file = gzopen(path, "wb");
        ck_assert_int_gt(gzwrite(file, data, (unsigned)(size + 2 * VOXELS)), 0);
        gzclose(file);
    } else {
        sample_write(path, data, size + 2 * VOXELS);
    }
}

static noc_status read_and_write(void *argument, noc_error *err)
{
    noc_image image;
    const noc_nifti_options options = {.with_sha256 = true};
    noc_status status = noc_nifti_read(argument, &options, &image, err);
    if (status != NOC_OK)
        return status;
    HOLDS(((int16_t *)image.voxels)[0] == 7);
    HOLDS(strlen(image.sha256) == 64);
    char mask[128];
    uint8_t labels[VOXELS] = {1};
    snprintf(mask, sizeof mask, "%s", at("mask.nii.gz"));
    status = noc_nifti_write_labels(mask, &image.grid, NOC_VOXEL_U8, labels, "test", err);
    noc_image_clear(&image);
    return status;
}

START_TEST(volume)
{
    const char *names[] = {"scan.nii", "scan.nii.gz"};
    for (int i = 0; i < 2; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s", at(names[i]));
        write_scan(path);
        ck_assert_int_gt(fail_alloc_each(read_and_write, path, _i), 0);
    }
}
END_TEST

/* ---- catalog ---- */

static const noc_configuration configuration = {.results = "/results",
                                                .model = "m",
                                                .model_sha256 = "aa",
                                                .window = {8, 8, 8},
                                                .overlap = 0.5,
                                                .blend = "constant",
                                                .precision = "f32"};

typedef struct archive {
    char catalog[128], list[128], dataset[128];
    int rows;
} archive;

static noc_status check_row(void *argument, const noc_result_row *row, noc_error *err)
{
    (void)err;
    ++*(int *)argument;
    HOLDS(row->study.has_shape && row->study.size[0] == NI);
    HOLDS(row->state == NOC_DONE || row->state == NOC_FAILED);
    HOLDS(row->state != NOC_DONE || (row->metric_count == 1 && row->metrics[0].tp == 5));
    return NOC_OK;
}

/* Every study but the last is done in one part, the last fails. */
static noc_status run_studies(noc_catalog *catalog, int64_t set, noc_error *err)
{
    const noc_run_record record = {.version = "v", .device = "d", .host = "h", .ranks = 1};
    const noc_error failure = {.status = NOC_EUNREADABLE, .text = "a sentence"};
    noc_pending *pending = NULL;
    size_t count = 0;
    int64_t run, back;
    noc_metric metric = {.label = "1", .name = "one", .has_truth = true, .tp = 5};
    noc_part_study done[8] = {0};
    noc_part_record part = {.number = 1, .bytes = 3, .studies = done};
    noc_status status = noc_catalog_begin_run(catalog, set, &record, &run, err);
    if (status == NOC_OK)
        status = noc_catalog_recover(catalog, set, &back, err);
    if (status == NOC_OK)
        status = noc_catalog_pending(catalog, set, NULL, 0, &pending, &count, err);
    HOLDS(status != NOC_OK || count == 3);
    for (size_t i = 0; i < count && status == NOC_OK; i++) {
        const noc_study *study = &pending[i].study;
        status = noc_catalog_start(catalog, set, run, study->id, 1, "h", err);
        if (status == NOC_OK && i + 1 == count) {
            status = noc_catalog_fail(catalog, set, study->id, NOC_FAILED, &failure, err);
        } else if (status == NOC_OK) {
            noc_part_study *entry = &done[part.study_count++];
            memcpy(entry->key, study->key, sizeof entry->key);
            snprintf(entry->fingerprint, sizeof entry->fingerprint, "%s", study->fingerprint);
            entry->metrics = &metric;
            entry->metric_count = 1;
            status = noc_catalog_mark_written(catalog, set, study->id, 1, err);
        }
    }
    if (status == NOC_OK)
        status = noc_catalog_commit_part(catalog, set, &part, err);
    if (status == NOC_OK)
        status = noc_catalog_end_run(catalog, run, 0, err);
    noc_pending_free(pending, count);
    return status;
}

static noc_status use_catalog(void *argument, noc_error *err)
{
    archive *a = argument;
    noc_catalog *catalog = NULL;
    noc_scan_report report;
    noc_counts counts;
    int64_t set;
    int rows = 0;
    unlink(a->catalog);
    noc_status status = noc_catalog_open(a->catalog, NOC_CATALOG_CREATE, &catalog, err);
    if (status == NOC_OK)
        status = noc_scan(catalog, a->list, &(noc_scan_options){0}, &report, err);
    HOLDS(status != NOC_OK || report.added == 2);
    if (status == NOC_OK)
        status = noc_scan(catalog, a->dataset, &(noc_scan_options){0}, &report, err);
    HOLDS(status != NOC_OK || (report.added == 1 && report.unchanged == 0));
    if (status == NOC_OK)
        status = noc_catalog_open_set(catalog, &configuration, &set, err);
    if (status == NOC_OK)
        status = run_studies(catalog, set, err);
    if (status == NOC_OK)
        status = noc_catalog_counts(catalog, set, &counts, err);
    HOLDS(status != NOC_OK || (counts.states[NOC_DONE] == 2 && counts.states[NOC_FAILED] == 1));
    if (status == NOC_OK)
        status = noc_catalog_each_result(catalog, set, NULL, check_row, &rows, err);
    HOLDS(status != NOC_OK || rows == 3);
    noc_catalog_close(catalog);
    return status;
}

START_TEST(a_catalog_and_its_studies)
{
    static const char list[] = "key,image,truth\na,a.nii,a.nii\nb,a.nii;b.nii.gz,\n";
    static const char dataset[] =
        "{\"training\": [{\"image\": \"c.nii\", \"label\": \"a.nii\"}], \"test\": []}";
    const char *names[] = {"a.nii", "b.nii.gz", "c.nii"};
    archive a;
    snprintf(a.catalog, sizeof a.catalog, "%s", at("catalog.sqlite"));
    snprintf(a.list, sizeof a.list, "%s", at("list.csv"));
    snprintf(a.dataset, sizeof a.dataset, "%s", at("dataset.json"));
    sample_write(a.list, list, sizeof list - 1);
    sample_write(a.dataset, dataset, sizeof dataset - 1);
    for (int i = 0; i < 3; i++)
        write_scan(at(names[i]));
    ck_assert_int_gt(fail_alloc_each(use_catalog, &a, _i), 0);
}
END_TEST

/* BraTS with a channel missing, BIDS, nnU-Net with a channel missing, scans in folders. */
static noc_status read_layouts(void *argument, noc_error *err)
{
    static const struct {
        const char *layout, *folder;
        size_t studies;
    } layouts[] = {{"auto", "brats", 2}, {"auto", "bids", 2}, {"auto", "nnunet", 2}, {"folder", "brats", 8}};
    noc_status status = NOC_OK;
    (void)argument;
    for (size_t i = 0; status == NOC_OK && i < sizeof layouts / sizeof layouts[0]; i++) {
        noc_source source = {0};
        status = noc_layout_read(at(layouts[i].folder), layouts[i].layout, &source, err);
        HOLDS(status != NOC_OK || source.count == layouts[i].studies);
        noc_source_clear(&source);
    }
    return status;
}

START_TEST(layouts)
{
    static const char dataset[] = "{\"channel_names\": {\"0\": \"T1\", \"1\": \"FLAIR\"}}";
    static const char *const names[] = {
        "brats/a/a_t1.nii",
        "brats/a/a_t2.nii",
        "brats/a/a_t1ce.nii",
        "brats/a/a_flair.nii",
        "brats/a/a_seg.nii",
        "brats/b/b_t1.nii",
        "brats/b/b_t2.nii",
        "brats/b/b_flair.nii",
        "bids/sub-1/anat/sub-1_T1w.nii",
        "bids/sub-2/ses-1/anat/sub-2_ses-1_T1w.nii",
        "nnunet/imagesTr/c_0000.nii",
        "nnunet/imagesTr/c_0001.nii",
        "nnunet/labelsTr/c.nii",
        "nnunet/imagesTs/d_0000.nii",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *parent = noc_path_folder(at(names[i]), NULL);
        ck_assert_int_eq(noc_folder_create(parent, NULL), NOC_OK);
        free(parent);
        sample_write(at(names[i]), "", 0);
    }
    sample_write(at("nnunet/dataset.json"), dataset, sizeof dataset - 1);
    ck_assert_int_gt(fail_alloc_each(read_layouts, NULL, _i), 0);
}
END_TEST

/* ---- engine ---- */

/* The smallest ensemble there is. */
static const char *write_model(void)
{
    static const char manifest[] =
        "format: nocturne-model/1\nname: m\nfamily: segformer3d\nweights: [v.safetensors, w.safetensors]\n"
        "network:\n  in_channels: 1\n  num_classes: 2\n  embed_dims: [2, 2, 2, 2]\n  num_heads: [1, 1, 1, "
        "1]\n"
        "  depths: [1, 1, 1, 1]\n  sr_ratios: [2, 1, 1, 1]\n  mlp_ratios: [1, 1, 1, 1]\n"
        "  patch_kernel: [7, 3, 3, 3]\n  patch_stride: [4, 2, 2, 2]\n  patch_padding: [3, 1, 1, 1]\n"
        "  decoder_dim: 2\n  attention_scale: head_dim\n"
        "input:\n  channels: [a]\n  prepare: [{step: zscore}]\n"
        "window:\n  size: [32, 32, 32]\n  overlap: 0.5\n  blend: gaussian\n  mirror: [x]\n"
        "output:\n  kind: labels\n  labels: [{index: 1, name: one}]\n";
    noc_manifest *read = NULL;
    noc_error err;
    sample_write(at("model.yaml"), manifest, sizeof manifest - 1);
    ck_assert_msg(noc_manifest_load(folder, &read, &err) == NOC_OK, "%s", err.text);
    for (int i = 0; i < read->fold_count; i++)
        ck_assert_msg(reference_weights_write(read->weights[i], &read->network, 0, "", (uint64_t)i, &err) ==
                          NOC_OK,
                      "%s", err.text);
    noc_manifest_free(read);
    return folder;
}

static noc_status load(void *argument, noc_error *err)
{
    noc_model *model = NULL;
    noc_status status = noc_model_load(argument, &model, err);
    noc_model_free(model);
    return status;
}

static noc_status plan(void *argument, noc_error *err)
{
    noc_plan *made = NULL;
    noc_status status =
        noc_model_plan(argument, 0, (int64_t[]){32, 32, 32}, NOC_REWRITE_ALL, false, &made, err);
    noc_plan_free(made);
    return status;
}

static const noc_engine_options options = {.device = "cpu",
                                           .host = {.threads = 2, .isa = "portable"},
                                           .overlap = -1,
                                           .blend = -1,
                                           .rewrites = NOC_REWRITE_ALL};

static noc_status open_engine(void *argument, noc_error *err)
{
    noc_engine *engine = NULL;
    noc_status status = noc_engine_open(&options, argument, &engine, err);
    noc_engine_close(engine);
    return status;
}

START_TEST(a_model_and_its_network)
{
    noc_model *model;
    write_model();
    ck_assert_int_gt(fail_alloc_each(load, folder, _i), 0);
    ck_assert_int_eq(noc_model_load(folder, &model, NULL), NOC_OK);
    ck_assert_int_gt(fail_alloc_each(plan, model, _i), 0);
    ck_assert_int_gt(fail_alloc_each(open_engine, model, _i), 0);
    noc_model_free(model);
}
END_TEST

typedef struct scan {
    noc_engine *engine;
    const char *path;
    uint8_t *expected;
} scan;

static noc_status segment(void *argument, noc_error *err)
{
    scan *s = argument;
    noc_image image;
    noc_prepared *prepared = NULL;
    noc_segmentation_result result = {0};
    noc_status status = noc_nifti_read(s->path, NULL, &image, err);
    if (status == NOC_OK)
        status = noc_prepare(noc_engine_model(s->engine)->manifest, &image, 1, &prepared, err);
    if (status == NOC_OK)
        status = noc_engine_segment(s->engine, prepared, 0, &result, err);
    if (status == NOC_OK && s->expected)
        HOLDS(memcmp(result.voxels, s->expected, result.bytes) == 0);
    if (status == NOC_OK && !s->expected)
        s->expected = result.voxels;
    else
        free(result.voxels);
    noc_prepared_free(prepared);
    noc_image_clear(&image);
    return status;
}

START_TEST(a_segmentation)
{
    noc_model *model;
    scan s = {.path = at("scan.nii")};
    ck_assert_int_eq(noc_model_load(write_model(), &model, NULL), NOC_OK);
    ck_assert_int_eq(noc_engine_open(&options, model, &s.engine, NULL), NOC_OK);
    write_scan(s.path);
    ck_assert_int_eq(segment(&s, NULL), NOC_OK);
    ck_assert_int_gt(fail_alloc_each(segment, &s, _i), 0);
    free(s.expected);
    noc_engine_close(s.engine);
    noc_model_free(model);
}
END_TEST

/* ---- evaluation ---- */

static noc_status evaluate(void *argument, noc_error *err)
{
    static const noc_class class = {.label = "1", .labels = {1}, .label_count = 1, .bit = -1};
    static const noc_tolerances tolerances = {{1}, 1};
    static const noc_lesion_rules lesions = {1, 0, 374};
    noc_image *images = argument;
    noc_label_map maps[2] = {{.voxels = NULL}};
    noc_evaluation e;
    noc_status status = noc_label_map_make(&images[0], &maps[0], err);

    if (status == NOC_OK)
        status = noc_label_map_make(&images[1], &maps[1], err);
    if (status == NOC_OK)
        status = noc_class_evaluate(&class, &maps[0], &maps[1], images[0].grid.spacing_mm, &tolerances,
                                    &lesions, &e, err);
    if (status == NOC_OK)
        HOLDS(e.metric.tp == 1 && e.metric.fp == 1 && e.surface.monai.hd100 == 2);
    noc_label_map_clear(&maps[0]);
    noc_label_map_clear(&maps[1]);
    return status;
}

START_TEST(an_evaluation)
{
    uint16_t voxels[2][4] = {{1, 0, 1, 3}, {1, 0, 0, 2}};
    noc_image images[2];

    for (int i = 0; i < 2; i++)
        images[i] = (noc_image){.grid = {.size = {4, 1, 1}, .spacing_mm = {1, 1, 1}},
                                .channels = 1,
                                .type = NOC_VOXEL_U16,
                                .slope = 1,
                                .voxels = voxels[i]};
    ck_assert_int_gt(fail_alloc_each(evaluate, images, _i), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("no_memory");
    TCase *cases = tcase_create("no_memory");
    tcase_set_timeout(cases, 600);
    tcase_add_checked_fixture(cases, make_folder, remove_folder);
    tcase_add_loop_test(cases, base, 0, 2);
    tcase_add_loop_test(cases, volume, 0, 2);
    tcase_add_loop_test(cases, a_catalog_and_its_studies, 0, 2);
    tcase_add_loop_test(cases, layouts, 0, 2);
    tcase_add_loop_test(cases, a_model_and_its_network, 0, 2);
    tcase_add_loop_test(cases, a_segmentation, 0, 2);
    tcase_add_loop_test(cases, an_evaluation, 0, 2);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
