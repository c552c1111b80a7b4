/* The window loop asks nothing of the allocator. The loop: from the end of a study's second batch of windows
 * to the end of its last, with all the gathering of layers and tiles that falls into it, for the engine and
 * for the worker's engine thread. What a study needs is made before its first window and given back after its
 * last. */
#include "engine/engine.h"
#include "tests/allocations.h"
#include "worker/active.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNELS = 2, STUDIES = 2, BATCH = 3 };

static const int64_t sizes[STUDIES][3] = {{45, 50, 58}, {31, 64, 40}};

static noc_error err;
static noc_model *model;

static void load_model(void)
{
    ck_assert_msg(noc_model_load("tests/data/models/tiny", &model, &err) == NOC_OK, "%s", err.text);
}

static void free_model(void)
{
    noc_model_free(model);
}

static noc_prepared *prepared_of(const int64_t size[3])
{
    noc_manifest m = *model->manifest;
    noc_image image = {.channels = CHANNELS, .type = NOC_VOXEL_U8, .slope = 1};
    noc_prepared *prepared = NULL;
    size_t voxels = (size_t)(size[0] * size[1] * size[2]);

    image.bytes = voxels * CHANNELS;
    uint8_t *stored = malloc(image.bytes);
    for (size_t i = 0; i < image.bytes; i++)
        stored[i] = (uint8_t)((uint32_t)i * 2654435761U >> 30);
    image.voxels = stored;
    image.grid.affine[3][3] = 1;
    for (int a = 0; a < 3; a++) {
        image.grid.size[a] = size[2 - a];
        image.grid.affine[a][a] = 1;
    }
    m.step_count = 0;
    ck_assert_msg(noc_prepare(&m, &image, 1, &prepared, &err) == NOC_OK, "%s", err.text);
    return prepared;
}

/* amx computes in bf16. */
static const char *const sets[] = {"amx", "avx512", "avx2", "portable"};
enum { SETS = sizeof sets / sizeof sets[0] };

/* NULL where this machine lacks the instruction set. */
static noc_engine *open_engine(const char *isa, bool with_probabilities)
{
    noc_engine_options options = NOC_ENGINE_DEFAULTS;
    noc_engine *engine = NULL;

    options.device = "cpu";
    options.host.threads = 2;
    options.host.isa = isa;
    options.host.precision = isa && strcmp(isa, "amx") == 0 ? NOC_PRECISION_BF16 : NOC_PRECISION_F32;
    options.batch = BATCH;
    options.with_probabilities = with_probabilities;
    options.overlap = 0.5;
    for (int a = 0; a < 3; a++)
        options.window[a] = 24;
    noc_status status = noc_engine_open(&options, model, &engine, &err);
    ck_assert_msg(status == NOC_OK || (isa && status == NOC_EUNAVAILABLE), "%s", err.text);
    return engine;
}

static void begin(noc_engine *engine, const noc_prepared *prepared, bool has_logits, size_t memory,
                  noc_segmentation **s)
{
    noc_status status = has_logits ? noc_segmentation_create_logits(engine, prepared, s, &err)
                                   : noc_segmentation_create(engine, prepared, memory, s, &err);
    ck_assert_msg(status == NOC_OK, "%s", err.text);
}

static int fill(noc_segmentation *const segmentations[STUDIES], noc_window_task tasks[BATCH])
{
    int count = 0;

    for (int turn = 0; turn < BATCH * STUDIES && count < BATCH; turn++)
        count += noc_segmentation_next(segmentations[turn % STUDIES], &tasks[count]);
    return count;
}

/* Both studies in shared batches; what the loop asked of the allocator. */
static long run_all(noc_engine *engine, noc_segmentation *const segmentations[STUDIES])
{
    noc_window_task tasks[BATCH];
    long before = 0;
    int runs = 0;

    noc_status status = NOC_OK; /* Check's words allocate: none of them in the loop */
    for (int count; status == NOC_OK && (count = fill(segmentations, tasks)) > 0;) {
        status = noc_engine_run(engine, tasks, count, &err);
        if (++runs == 2)
            before = allocations_count();
    }
    long after = allocations_count();
    ck_assert_msg(status == NOC_OK, "%s", err.text);
    ck_assert_int_gt(runs, 20);
    return after - before;
}

/* In one piece, in tiles, and as logits, one after another on the same engine; without and with
 * probabilities. */
START_TEST(engine_loop)
{
    noc_engine *engine = open_engine(sets[_i / 2], _i % 2);
    noc_prepared *prepared[STUDIES];
    size_t tiled[STUDIES], voxels; /* bytes that are too few for one piece */

    if (!engine)
        return;
    for (int i = 0; i < STUDIES; i++) {
        prepared[i] = prepared_of(sizes[i]);
        voxels = (size_t)(sizes[i][0] * sizes[i][1] * sizes[i][2]);
        ck_assert_int_eq(noc_segmentation_bytes(engine, sizes[i], voxels, 0, &tiled[i], &err), NOC_OK);
        tiled[i] = voxels + (tiled[i] - voxels) * 3 / 4;
    }
    for (int way = 0; way < 3; way++) {
        noc_segmentation *segmentations[STUDIES];
        const long before = allocations_count();
        for (int i = 0; i < STUDIES; i++)
            begin(engine, prepared[i], way == 2, way == 1 ? tiled[i] : 0, &segmentations[i]);
        ck_assert_int_gt(allocations_count(), before); /* they are seen */
        const long asked = run_all(engine, segmentations);
        ck_assert_msg(asked == 0, "way %d: %ld calls of the allocator", way, asked);
        for (int i = 0; i < STUDIES; i++) {
            ck_assert(noc_segmentation_is_done(segmentations[i]));
            noc_segmentation_free(segmentations[i]);
        }
    }
    for (int i = 0; i < STUDIES; i++)
        noc_prepared_free(prepared[i]);
    noc_engine_close(engine);
}
END_TEST

static void leave(void *argument, noc_job *job, noc_status status, const noc_error *failure)
{
    (void)failure;
    ck_assert_int_eq(status, NOC_OK);
    ck_assert_ptr_nonnull(job->result.voxels);
    *(bool *)argument = true;
}

/* The steps of the worker's engine thread, up to the one in which the study leaves. */
START_TEST(worker_loop)
{
    noc_engine *engine = open_engine(NULL, true);
    const noc_job_rules rules = {.engine = engine, .manifest = model->manifest, .timeout_s = 10000};
    const noc_study study = {.key = "scan"};
    noc_active active;
    noc_job *job;
    bool has_left = false;

    noc_active_init(&active, engine, &rules, leave, &has_left);
    ck_assert_int_eq(noc_job_create(&study, 1, &job, &err), NOC_OK);
    job->prepared = prepared_of(sizes[0]);
    noc_active_add(&active, job);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(noc_active_step(&active), BATCH);
    const noc_segmentation *s = job->segmentation;
    const long before = allocations_count();
    while (noc_segmentation_windows(s) - noc_segmentation_windows_done(s) > BATCH)
        noc_active_step(&active);
    ck_assert_int_eq(allocations_count() - before, 0);
    ck_assert_int_gt(noc_segmentation_windows_done(s), 20);
    ck_assert(!has_left);
    noc_active_step(&active);
    ck_assert(has_left);
    noc_job_free(job);
    noc_engine_close(engine);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("allocations");
    TCase *tests = tcase_create("allocations");

    tcase_set_timeout(tests, 300);
    tcase_add_checked_fixture(tests, load_model, free_model);
    tcase_add_loop_test(tests, engine_loop, 0, 2 * SETS);
    tcase_add_test(tests, worker_loop);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
