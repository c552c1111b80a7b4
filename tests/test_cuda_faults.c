/* Every call of the CUDA runtime fails once, at each of its places from opening to closing an engine: a typed
 * failure or the same mask, never a crash, and nothing is left behind (the emulated runtime looks when the
 * last device is closed, the address sanitizer at the end). And how many windows a batch gets. */
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/engine.h"
#include "tests/emulation/faults.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NO_MEMORY = 2, NOT_SUPPORTED = 801, LAUNCH = 719, ECC = 214 };
enum { CHANNELS = 2, D = 32, H = 32, W = 44, VOXELS = D * H * W }; /* two windows */

static noc_model *model;

static void load_model(void)
{
    noc_log_open(NOC_LOG_ERROR, NOC_LOG_TEXT, -1);
    ck_assert_int_eq(noc_model_load("tests/data/models/tiny", &model, NULL), NOC_OK);
}

static void free_model(void)
{
    noc_model_free(model);
    emu_fail(NULL);
}

static noc_prepared *make_scan(void)
{
    noc_image image = {.channels = CHANNELS, .type = NOC_VOXEL_F32, .slope = 1};
    noc_prepared *prepared = NULL;
    image.grid = (noc_grid){.size = {W, H, D}, .affine = {{1}, {0, 1}, {0, 0, 1}, {0, 0, 0, 1}}};
    image.bytes = (size_t)CHANNELS * VOXELS * sizeof(float);
    float *voxels = malloc(image.bytes);
    for (int i = 0; i < CHANNELS * VOXELS; i++)
        voxels[i] = (float)((unsigned)i * 2654435761u >> 16) / 32768 - 1;
    image.voxels = voxels;
    ck_assert_int_eq(noc_prepare(model->manifest, &image, 1, &prepared, NULL), NOC_OK);
    return prepared;
}

static noc_engine_options options_of(int batch)
{
    noc_engine_options options = NOC_ENGINE_DEFAULTS;
    options.device = "cuda";
    options.host = (noc_device_options){.threads = 1, .precision = NOC_PRECISION_F16};
    options.batch = batch;
    for (int a = 0; a < 3; a++)
        options.window[a] = 32;
    return options;
}

/* Opens, segments one scan, closes. mask[VOXELS] on success; *batch as opened. */
static noc_status run_study(int batch, unsigned char *mask, noc_error *err)
{
    noc_engine_options options = options_of(batch);
    noc_engine *engine = NULL;
    noc_prepared *scan = make_scan();
    noc_segmentation_result result = {0};
    noc_status status = noc_engine_open(&options, model, &engine, err);
    if (status == NOC_OK)
        status = noc_engine_segment(engine, scan, 0, &result, err);
    if (status == NOC_OK)
        memcpy(mask, result.voxels, VOXELS);
    free(result.voxels);
    noc_prepared_free(scan);
    noc_engine_close(engine);
    return status;
}

/* The n-th such call fails, for each `step`-th n until there is none: `type`, or the same mask where the
 * engine can do without it. */
static void fail_each(const char *call, int error, const char *how, int batch, int step, noc_status type,
                      bool may_succeed)
{
    static unsigned char expected[VOXELS], mask[VOXELS];
    noc_error err = {0};
    emu_fail(NULL);
    ck_assert_msg(run_study(batch, expected, &err) == NOC_OK, "%s", err.text);
    for (int n = 1;; n += step) {
        char plan[96];
        snprintf(plan, sizeof plan, "%s:%d:%d%s", call, n, error, how);
        emu_fail(plan);
        memset(&err, 0, sizeof err);
        noc_status status = run_study(batch, mask, &err);
        int failures = emu_failures();
        ck_assert_msg(failures > 0 || n > 1, "%s is never called", call);
        if (status == NOC_OK)
            ck_assert_msg((failures == 0 || may_succeed) && memcmp(mask, expected, VOXELS) == 0, "%s", plan);
        else
            ck_assert_msg(failures > 0 && (status == type || status == NOC_EUNAVAILABLE) &&
                              strstr(err.text, "CUDA"),
                          "%s: status %d, %s", plan, (int)status, err.text);
        if (failures == 0)
            return;
    }
}

START_TEST(allocations)
{
    fail_each("cudaMalloc", NO_MEMORY, "", 1, 1, NOC_ENOMEMORY, false);
    fail_each("cudaMallocHost", NO_MEMORY, "", 1, 1, NOC_ENOMEMORY, false);
}
END_TEST

/* With two windows a batch there is one fewer to try. */
START_TEST(halved)
{
    fail_each("cudaMalloc", NO_MEMORY, "", 2, 16, NOC_ENOMEMORY, true);
    fail_each("cudaMallocHost", NO_MEMORY, "", 2, 1, NOC_ENOMEMORY, true);
}
END_TEST

START_TEST(launches)
{
    fail_each("cudaLaunchKernelEx", LAUNCH, "", 1, 4, NOC_EDEVICE, true);
    fail_each("cudaLaunchKernelEx", ECC, ":sticky", 1, 15, NOC_EDEVICE, false);
}
END_TEST

START_TEST(waits_and_copies)
{
    fail_each("cudaStreamSynchronize", ECC, ":sticky", 1, 23, NOC_EDEVICE, false);
    fail_each("cudaMemcpyAsync", ECC, ":sticky", 1, 23, NOC_EDEVICE, false);
}
END_TEST

START_TEST(objects)
{
    fail_each("cudaGetDeviceCount", NOT_SUPPORTED, "", 1, 1, NOC_EDEVICE, false);
    fail_each("cudaGetDeviceProperties", ECC, "", 1, 1, NOC_EDEVICE, false);
    fail_each("cudaSetDevice", ECC, "", 1, 1, NOC_EDEVICE, true); /* the last closes */
    fail_each("cudaStreamCreateWithFlags", ECC, "", 1, 1, NOC_EDEVICE, false);
    fail_each("cudaMemGetInfo", ECC, "", 0, 1, NOC_EDEVICE, true);
}
END_TEST

/* Without graphs the steps are launched one by one. */
START_TEST(graphs)
{
    static const char *const calls[] = {"cudaStreamBeginCapture", "cudaStreamEndCapture",
                                        "cudaGraphInstantiateWithFlags", "cudaGraphLaunch"};
    for (int i = 0; i < 4; i++) {
        fail_each(calls[i], NOT_SUPPORTED, "", 1, 1, NOC_EDEVICE, true);
        fail_each(calls[i], ECC, ":sticky", 1, 1, NOC_EDEVICE, false);
    }
}
END_TEST

/* ---- time ---- */

static noc_status run_timed(noc_error *err)
{
    noc_engine_options options = options_of(1);
    noc_engine *engine = NULL;
    float *input = calloc((size_t)CHANNELS * 32 * 32 * 32, sizeof *input),
          *logits = calloc((size_t)3 * 32 * 32 * 32, sizeof *logits);
    noc_status status = noc_engine_open(&options, model, &engine, err);
    if (status == NOC_OK)
        noc_engine_seconds(engine);
    if (status == NOC_OK)
        status = noc_engine_forward(engine, 1, input, logits, err);
    if (status != NOC_OK && engine && emu_failures() == 1) /* the next one is none the worse */
        ck_assert_int_eq(noc_engine_forward(engine, 1, input, logits, NULL), NOC_OK);
    noc_engine_close(engine);
    free(logits);
    free(input);
    return status;
}

/* Of the last batch: one by one, as a graph, and step by step, when the steps' are its parts. */
START_TEST(seconds)
{
    enum { RUNS = 5, TIMED = 3 };
    noc_engine_options options = options_of(1);
    noc_engine *engine = NULL;
    float *input = calloc((size_t)CHANNELS * 32 * 32 * 32, sizeof *input),
          *logits = calloc((size_t)3 * 32 * 32 * 32, sizeof *logits);
    double sum = 0;
    ck_assert_int_eq(noc_engine_open(&options, model, &engine, NULL), NOC_OK);
    for (int i = 0; i < RUNS; i++) {
        const double *ops = i < TIMED ? NULL : noc_engine_seconds(engine);
        double begin = noc_clock_monotonic(), before = sum;
        ck_assert_int_eq(noc_engine_forward(engine, 1, input, logits, NULL), NOC_OK);
        double whole = noc_clock_monotonic() - begin, steps = noc_engine_batch_seconds(engine);
        ck_assert_msg(steps > 0 && steps <= whole, "run %d: %g s of %g", i, steps, whole);
        sum = 0;
        ops = ops ? noc_engine_seconds(engine) : NULL;
        for (int op = 0; ops && op < noc_engine_plan(engine)->op_count; op++)
            sum += ops[op];
        if (ops)
            ck_assert_double_eq_tol(sum - before, steps, 1e-4 * steps);
    }
    noc_engine_close(engine);
    free(logits);
    free(input);
}
END_TEST

START_TEST(events)
{
    static const char *const calls[] = {"cudaEventCreateWithFlags", "cudaEventRecord"},
                             *const texts[] = {"events of the network", "running the network"};
    noc_error err = {0};
    for (int i = 0; i < 2; i++)
        for (int n = 1;; n += 16) {
            char plan[96];
            snprintf(plan, sizeof plan, "%s:%d:%d", calls[i], n, ECC);
            emu_fail(plan);
            noc_status status = run_timed(&err);
            if (emu_failures() == 0)
                break;
            ck_assert_int_eq(status, NOC_EDEVICE);
            ck_assert_ptr_nonnull(strstr(err.text, texts[i]));
        }
}
END_TEST

/* ---- how many windows ---- */

static int batch_with(size_t free_bytes, int processes, int batch, size_t *window_bytes)
{
    char kib[32];
    noc_plan_stats stats;
    noc_engine_options options = options_of(batch);
    noc_engine *engine = NULL;
    options.host.processes = processes;
    snprintf(kib, sizeof kib, "%zu", free_bytes >> 10);
    setenv("EMU_MEMORY", kib, 1);
    ck_assert_int_eq(noc_engine_open(&options, model, &engine, NULL), NOC_OK);
    int made = noc_engine_batch(engine);
    noc_plan_stats_of(noc_engine_plan(engine), &stats);
    *window_bytes = stats.arena_bytes;
    noc_engine_close(engine);
    unsetenv("EMU_MEMORY");
    return made;
}

START_TEST(batches)
{
    enum { GIB = 1 << 30 };
    size_t window;
    ck_assert_int_eq(batch_with(GIB, 0, 0, &window), 8);
    ck_assert_int_eq(batch_with(0, 0, 0, &window), 1);
    ck_assert_int_eq(batch_with(2 * window * 13 / 2, 0, 0, &window), 6); /* half is for others */
    ck_assert_int_eq(batch_with(2 * window * 13 / 2, 3, 0, &window), 2);
    ck_assert_int_eq(batch_with(0, 0, 5, &window), 5); /* what is asked for is tried */
    emu_fail("cudaMalloc:3:2");
    ck_assert_int_eq(batch_with(GIB, 0, 0, &window), 4);
    ck_assert_int_eq(emu_failures(), 1);
}
END_TEST

/* Staging is of the host; what lies on the device counts for no limit of the host's. */
START_TEST(host_bytes)
{
    noc_engine_options options = options_of(2);
    noc_engine *engine = NULL;
    noc_network_memory memory;
    const int64_t size[3] = {64, 64, 64};
    size_t bytes, window = (size_t)CHANNELS * 32 * 32 * 32 * sizeof(float);
    ck_assert_int_eq(noc_engine_open(&options, model, &engine, NULL), NOC_OK);
    noc_engine_network_memory(engine, &memory);
    size_t pinned = memory.weights + memory.arena + memory.scratch - memory.device;
    ck_assert_uint_ge(pinned, window);
    ck_assert_uint_lt(pinned, memory.device);
    ck_assert_uint_lt(noc_engine_bytes(engine), memory.device);
    ck_assert_int_eq(noc_segmentation_bytes(engine, size, 64 * 64 * 64, 0, &bytes, NULL), NOC_OK);
    ck_assert_uint_eq(bytes, 64 * 64 * 64);
    noc_engine_close(engine);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_faults");
    TCase *tests = tcase_create("cuda_faults");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, load_model, free_model);
    tcase_add_test(tests, allocations);
    tcase_add_test(tests, halved);
    tcase_add_test(tests, launches);
    tcase_add_test(tests, waits_and_copies);
    tcase_add_test(tests, objects);
    tcase_add_test(tests, graphs);
    tcase_add_test(tests, seconds);
    tcase_add_test(tests, events);
    tcase_add_test(tests, batches);
    tcase_add_test(tests, host_bytes);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
