/* The worker over the real engine with a tiny model: masks do not depend on who shares a batch, nor on the
 * memory limit. */
#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/volume/nifti.h"
#include "worker/worker.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 5 };

static char folder[64];
static noc_model *model;
static noc_engine *engine;

static void set_up(void)
{
    noc_engine_options options = NOC_ENGINE_DEFAULTS;
    noc_error err;

    options.device = "cpu";
    options.host.threads = 2;
    options.batch = 3;
    ck_assert_msg(noc_model_load("tests/data/models/tiny", &model, &err) == NOC_OK, "%s", err.text);
    ck_assert_msg(noc_engine_open(&options, model, &engine, &err) == NOC_OK, "%s", err.text);
    snprintf(folder, sizeof folder, "/tmp/nocturne-worker-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void tear_down(void)
{
    char command[128];

    noc_engine_close(engine);
    noc_model_free(model);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

/* Sizes differ from study to study, so that their windows do. */
static noc_grid grid_of(int id)
{
    noc_grid grid = {.size = {30 + 4 * id, 37, 50 - 5 * id}, .spacing_mm = {1, 1, 2}};
    const double scale[3] = {-1, 1, 2}; /* stored towards the left */

    grid.nifti.version = 1;
    grid.nifti.sform_code = 1;
    grid.nifti.qfac = 1;
    for (int a = 0; a < 3; a++) {
        grid.affine[a][a] = grid.nifti.srow[a][a] = scale[a];
        grid.nifti.pixdim[a] = grid.spacing_mm[a];
    }
    grid.affine[3][3] = 1;
    return grid;
}

static void path_of(char path[128], int id, int channel)
{
    snprintf(path, 128, "%s/%d_%d.nii.gz", folder, id, channel);
}

static void write_scan(int id)
{
    noc_grid grid = grid_of(id);
    size_t n = noc_grid_voxels(&grid);
    uint8_t *voxels = malloc(n);
    char path[128];
    noc_error err;

    for (int channel = 0; channel < model->manifest->network.in_channels; channel++) {
        for (size_t i = 0; i < n; i++)
            voxels[i] = (uint8_t)((uint32_t)(i + (size_t)(id * 7 + channel)) * 2654435761U >> 30);
        path_of(path, id, channel);
        ck_assert_msg(noc_nifti_write_labels(path, &grid, NOC_VOXEL_U8, voxels, "test", &err) == NOC_OK, "%s",
                      err.text);
    }
    free(voxels);
}

static void segment_alone(int id, noc_segmentation_result *result)
{
    noc_image images[NOC_MAX_CHANNELS] = {0};
    noc_nifti_options options = {0};
    noc_prepared *prepared;
    char path[128];
    int channels = model->manifest->network.in_channels;

    for (int channel = 0; channel < channels; channel++) {
        path_of(path, id, channel);
        ck_assert_int_eq(noc_nifti_read(path, &options, &images[channel], NULL), NOC_OK);
    }
    ck_assert_int_eq(noc_prepare(model->manifest, images, channels, &prepared, NULL), NOC_OK);
    ck_assert_int_eq(noc_engine_segment(engine, prepared, 0, result, NULL), NOC_OK);
    noc_prepared_free(prepared);
}

static void submit(noc_worker *worker, int id)
{
    noc_study study = {.id = id, .channel_count = model->manifest->network.in_channels};
    char paths[NOC_MAX_CHANNELS][128];

    snprintf(study.key, sizeof study.key, "scan-%d", id);
    for (int channel = 0; channel < study.channel_count; channel++) {
        path_of(paths[channel], id, channel);
        study.channels[channel] = paths[channel];
    }
    ck_assert_int_eq(noc_worker_submit(worker, &study, 1, NULL), NOC_OK);
}

static void check_run(const noc_segmentation_result *alone, size_t memory)
{
    noc_worker *worker;
    noc_worker_options options = {.memory = memory};
    double give_up = noc_clock_monotonic() + 100;

    ck_assert_int_eq(noc_worker_create(engine, &options, &worker, NULL), NOC_OK);
    for (int id = 0; id < COUNT; id++)
        submit(worker, id);
    for (int taken = 0; taken < COUNT;) {
        noc_outcome *o = noc_worker_take(worker);
        ck_assert(noc_clock_monotonic() < give_up);
        if (!o) {
            noc_clock_sleep(0.005);
            continue;
        }
        ck_assert_msg(o->failure.status == NOC_OK, "%s: %s", o->key, o->failure.text);
        ck_assert_uint_eq(noc_grid_voxels(&o->grid) * (size_t)o->mask_bytes, alone[o->study].bytes);
        ck_assert_mem_eq(o->mask, alone[o->study].voxels, alone[o->study].bytes);
        noc_outcome_free(o);
        taken++;
    }
    noc_worker_free(worker);
}

START_TEST(masks_do_not_depend_on_neighbours_or_memory)
{
    noc_segmentation_result alone[COUNT];

    for (int id = 0; id < COUNT; id++) {
        write_scan(id);
        segment_alone(id, &alone[id]);
    }
    check_run(alone, 0);
    check_run(alone, noc_memory_resident() + noc_engine_bytes(engine) + (3 << 20));
    for (int id = 0; id < COUNT; id++)
        free(alone[id].voxels);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("worker_engine");
    TCase *tests = tcase_create("worker_engine");

    tcase_set_timeout(tests, 240);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, masks_do_not_depend_on_neighbours_or_memory);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
