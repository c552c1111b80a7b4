/* The worker over an engine made up here: its "network" is v -> (v > 0), its windows are the planes along
 * k, and the first voxel of a scan chooses a fault. So queueing, admission and failures are shown without a
 * device. */
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/base/sha256.h"
#include "engine/volume/nifti.h"
#include "worker/admission.h"
#include "worker/worker.h"

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- the engine ---- */

enum { FINE = 10, FAILS = 200, BREAKS_DEVICE = 201, NO_MEMORY = 202, SLOW = 203 };

struct noc_engine {
    noc_model model;
    noc_manifest manifest;
    int batch;
    int planes; /* of probabilities */
    double window_s;
    int mixed_batches, runs; /* read after the worker is gone */
    int most_studies_in_batch;
    int tiled, mixed_with_tiled; /* segmentations with a memory limit, batches in which they were not alone */
};

struct noc_segmentation {
    noc_engine *engine;
    const noc_prepared *prepared;
    int64_t size[3];
    int64_t handed, done;
    int fault;
    bool is_tiled;
    noc_segmentation_result result;
};

const noc_model *noc_engine_model(const noc_engine *engine)
{
    return &engine->model;
}

size_t noc_engine_bytes(const noc_engine *engine)
{
    (void)engine;
    return 0;
}

int noc_engine_batch(const noc_engine *engine)
{
    return engine->batch;
}

int noc_engine_probabilities(const noc_engine *engine)
{
    return engine->planes;
}

noc_status noc_segmentation_bytes(const noc_engine *engine, const int64_t size[3], size_t grid_voxels,
                                  size_t memory, size_t *bytes, noc_error *err)
{
    (void)engine;
    (void)size;
    *bytes = grid_voxels * 4;
    if (memory == 0 || *bytes <= memory)
        return NOC_OK;
    if (memory < grid_voxels * 2)
        return noc_fail(err, NOC_ETOOLARGE, "a tile needs %zu bytes", grid_voxels * 2);
    *bytes = memory;
    return NOC_OK;
}

noc_status noc_engine_upload(const noc_engine *engine, noc_prepared *prepared, noc_error *err)
{
    (void)engine;
    (void)prepared;
    return noc_fail(err, NOC_ENOMEMORY, "no room");
}

noc_status noc_segmentation_create(noc_engine *engine, const noc_prepared *prepared, size_t memory,
                                   noc_segmentation **segmentation, noc_error *err)
{
    const int64_t origin[3] = {0}, one[3] = {1, 1, 1};
    float first;

    noc_prepared_cut(prepared, origin, one, 0, &first);
    if ((int)first == NO_MEMORY)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for slabs");
    noc_segmentation *s = calloc(1, sizeof *s);
    s->engine = engine;
    s->prepared = prepared;
    s->fault = (int)first;
    s->is_tiled = memory > 0;
    engine->tiled += s->is_tiled;
    noc_prepared_size(prepared, s->size);
    bool has_regions = engine->manifest.output == NOC_OUTPUT_REGIONS;
    s->result.kind = has_regions ? NOC_GATHER_REGIONS : NOC_GATHER_LABELS;
    s->result.element_bytes = 1;
    s->result.bytes = noc_grid_voxels(noc_prepared_grid(prepared));
    s->result.voxels = malloc(s->result.bytes);
    if (engine->planes > 0)
        s->result.probabilities = calloc(s->result.bytes * (size_t)engine->planes, sizeof(uint16_t));
    *segmentation = s;
    return NOC_OK;
}

void noc_segmentation_free(noc_segmentation *segmentation)
{
    if (segmentation) {
        free(segmentation->result.voxels);
        free(segmentation->result.probabilities);
    }
    free(segmentation);
}

int64_t noc_segmentation_windows(const noc_segmentation *segmentation)
{
    return segmentation->size[0];
}

int64_t noc_segmentation_windows_done(const noc_segmentation *segmentation)
{
    return segmentation->done;
}

bool noc_segmentation_next(noc_segmentation *segmentation, noc_window_task *task)
{
    if (segmentation->handed == segmentation->size[0])
        return false;
    *task = (noc_window_task){segmentation, segmentation->handed++};
    return true;
}

static void compute_plane(noc_segmentation *s, int64_t d)
{
    const int64_t start[3] = {d, 0, 0}, size[3] = {1, s->size[1], s->size[2]};
    size_t n = (size_t)(size[1] * size[2]);
    float *plane = malloc(n * sizeof *plane);

    noc_prepared_cut(s->prepared, start, size, 0, plane);
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)s->result.voxels)[(size_t)d * n + i] = plane[i] > 0;
    free(plane);
}

noc_status noc_engine_run(noc_engine *engine, const noc_window_task *tasks, int count, noc_error *err)
{
    int studies = 1;

    ck_assert_int_le(count, engine->batch);
    engine->runs++;
    for (int i = 0; i < count; i++) {
        noc_clock_sleep(tasks[i].segmentation->fault == SLOW ? 0.02 : engine->window_s);
        studies += i > 0 && tasks[i].segmentation != tasks[i - 1].segmentation;
        if (tasks[i].segmentation->fault == FAILS)
            return noc_fail(err, NOC_EINTERNAL, "window %lld failed", (long long)tasks[i].number);
        if (tasks[i].segmentation->fault == BREAKS_DEVICE)
            return noc_fail(err, NOC_EDEVICE, "the device is lost");
    }
    engine->mixed_batches += studies > 1;
    for (int i = 0; i < count; i++)
        engine->mixed_with_tiled += studies > 1 && tasks[i].segmentation->is_tiled;
    engine->most_studies_in_batch =
        studies > engine->most_studies_in_batch ? studies : engine->most_studies_in_batch;
    for (int i = 0; i < count; i++) {
        compute_plane(tasks[i].segmentation, tasks[i].number);
        tasks[i].segmentation->done++;
    }
    return NOC_OK;
}

bool noc_segmentation_is_done(const noc_segmentation *segmentation)
{
    return segmentation->done == segmentation->size[0];
}

void noc_segmentation_take(noc_segmentation *segmentation, noc_segmentation_result *result)
{
    *result = segmentation->result;
    segmentation->result.voxels = NULL;
    segmentation->result.probabilities = NULL;
}

void noc_regions_paint(const noc_manifest *manifest, const void *bits, int element_bytes, size_t count,
                       unsigned char *labels)
{
    ck_assert_int_eq(element_bytes, 1);
    for (size_t i = 0; i < count; i++)
        labels[i] = ((const uint8_t *)bits)[i] & 1 ? (unsigned char)manifest->paints[0].label : 0;
}

/* ---- scans ---- */

static char folder[64];
static noc_engine engine;
static noc_label label_one = {1, "one"};

static void set_up(void)
{
    memset(&engine, 0, sizeof engine);
    engine.manifest.network.in_channels = 1;
    engine.manifest.network.num_classes = 2;
    memcpy(engine.manifest.orientation, "RAS", 4);
    engine.manifest.output = NOC_OUTPUT_LABELS;
    engine.manifest.labels = &label_one;
    engine.manifest.label_count = 1;
    engine.model.manifest = &engine.manifest;
    engine.batch = 4;
    snprintf(folder, sizeof folder, "/tmp/nocturne-worker-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void tear_down(void)
{
    char command[128];

    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

static noc_grid grid_of(int64_t ni, int64_t nj, int64_t nk)
{
    noc_grid grid = {.size = {ni, nj, nk}, .spacing_mm = {1, 1, 1}};

    grid.nifti.version = 1;
    grid.nifti.sform_code = 1;
    grid.nifti.qfac = 1;
    grid.nifti.xyzt_units = 2;
    for (int a = 0; a < 3; a++) {
        grid.affine[a][a] = 1;
        grid.nifti.srow[a][a] = 1;
        grid.nifti.pixdim[a] = 1;
    }
    grid.affine[3][3] = 1;
    return grid;
}

static uint8_t voxel_of(size_t i, int kind)
{
    return i == 0 ? (uint8_t)kind : i * 7 % 11 > 5;
}

static char *path_of(const char *name)
{
    char *path = malloc(sizeof folder + strlen(name) + 2);

    sprintf(path, "%s/%s", folder, name);
    return path;
}

static char *write_scan(const char *name, int kind, noc_grid grid)
{
    char *path = path_of(name);
    size_t n = noc_grid_voxels(&grid);
    uint8_t *voxels = malloc(n);
    noc_error err;

    for (size_t i = 0; i < n; i++)
        voxels[i] = voxel_of(i, kind);
    ck_assert_msg(noc_nifti_write_labels(path, &grid, NOC_VOXEL_U8, voxels, "test", &err) == NOC_OK, "%s",
                  err.text);
    free(voxels);
    return path;
}

/* A study of one channel; takes the path. */
static void submit_path(noc_worker *worker, int id, char *path, char *truth)
{
    noc_study study = {.id = id, .channel_count = 1, .channels = {path}, .truth = truth};

    snprintf(study.key, sizeof study.key, "scan-%d", id);
    ck_assert_int_eq(noc_worker_submit(worker, &study, (uint64_t)id + 1000, NULL), NOC_OK);
    free(path);
    free(truth);
}

static void submit(noc_worker *worker, int id, int kind, noc_grid grid)
{
    char name[32];

    snprintf(name, sizeof name, "scan-%d.nii", id);
    submit_path(worker, id, write_scan(name, kind, grid), NULL);
}

static noc_worker *create_with(noc_worker_options options)
{
    noc_worker *worker;
    noc_error err;

    ck_assert_msg(noc_worker_create(&engine, &options, &worker, &err) == NOC_OK, "%s", err.text);
    return worker;
}

/* Takes until `count` outcomes came, by id (each once). */
static void take_all(noc_worker *worker, int count, noc_outcome **outcomes)
{
    double give_up = noc_clock_monotonic() + 60;

    memset(outcomes, 0, (size_t)count * sizeof *outcomes);
    for (int taken = 0; taken < count;) {
        noc_outcome *o = noc_worker_take(worker);
        ck_assert_msg(noc_clock_monotonic() < give_up, "%d of %d outcomes came", taken, count);
        if (!o) {
            noc_clock_sleep(0.002);
            continue;
        }
        ck_assert_int_lt(o->study, count);
        ck_assert_msg(!outcomes[o->study], "two outcomes of %s", o->key);
        ck_assert_uint_eq(o->lease, (uint64_t)o->study + 1000);
        outcomes[o->study] = o;
        taken++;
    }
    ck_assert_int_eq(noc_worker_in_hand(worker), 0);
    ck_assert_ptr_null(noc_worker_take(worker));
}

static void free_all(noc_outcome **outcomes, int count)
{
    for (int i = 0; i < count; i++)
        noc_outcome_free(outcomes[i]);
}

static void check_fine(const noc_outcome *o, int64_t windows)
{
    size_t n = noc_grid_voxels(&o->grid);
    char hex[65];

    ck_assert_msg(o->failure.status == NOC_OK, "%s: %s", o->key, o->failure.text);
    ck_assert_int_eq(o->mask_bytes, 1);
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++)
        wrong += ((const uint8_t *)o->mask)[i] != (voxel_of(i, 1) > 0);
    ck_assert_uint_eq(wrong, 0);
    noc_sha256_of(o->mask, n, hex, NULL);
    ck_assert_str_eq(hex, o->mask_sha256);
    ck_assert_int_eq(o->windows, windows);
    ck_assert_int_eq(o->metric_count, 1);
    ck_assert_str_eq(o->metrics[0].label, "1");
}

static void check_failed(const noc_outcome *o, noc_status status)
{
    ck_assert_msg(o->failure.status == status, "%s: %s, expected %s (%s)", o->key,
                  noc_status_name(o->failure.status), noc_status_name(status), o->failure.text);
    ck_assert_ptr_null(o->mask);
    ck_assert_ptr_null(o->metrics);
    ck_assert_str_ne(o->failure.text, "");
}

/* ---- tests ---- */

/* The first is slow enough for the next to be read meanwhile, and its windows do not fill its last batch. */
START_TEST(batches_hold_windows_of_several_studies)
{
    enum { COUNT = 20, WINDOWS = 9 + 19 * 3 };
    noc_outcome *outcomes[COUNT];
    noc_worker_stats stats;
    noc_worker *worker = create_with((noc_worker_options){.readers = _i, .finishers = _i});

    for (int i = 0; i < COUNT; i++)
        submit(worker, i, i == 0 ? SLOW : FINE, grid_of(8, 9, i == 0 ? 9 : 3));
    take_all(worker, COUNT, outcomes);
    noc_worker_stats_of(worker, &stats);
    ck_assert_int_eq(stats.studies, COUNT);
    ck_assert(stats.seconds_busy > 0 && stats.seconds_busy + stats.seconds_starved <= stats.seconds + 0.001);
    ck_assert(stats.peak_bytes > 0);
    noc_worker_free(worker);
    for (int i = 0; i < COUNT; i++) {
        check_fine(outcomes[i], i == 0 ? 9 : 3);
        ck_assert(outcomes[i]->seconds_compute > 0);
    }
    ck_assert_int_gt(engine.mixed_batches, 0);
    ck_assert_int_eq(stats.windows, WINDOWS);
    ck_assert_int_lt(engine.runs, WINDOWS);
    free_all(outcomes, COUNT);
}
END_TEST

START_TEST(a_failing_study_costs_only_itself)
{
    enum { COUNT = 12 };
    noc_outcome *outcomes[COUNT];
    engine.window_s = 0.002;
    noc_worker *worker = create_with((noc_worker_options){0});

    for (int i = 0; i < COUNT; i++)
        submit(worker, i, i == 5 || i == 6 ? FAILS : i == 8 ? NO_MEMORY : FINE, grid_of(8, 8, 3));
    take_all(worker, COUNT, outcomes);
    ck_assert(!noc_worker_is_broken(worker));
    noc_worker_free(worker);
    for (int i = 0; i < COUNT; i++) {
        if (i == 5 || i == 6)
            check_failed(outcomes[i], NOC_EINTERNAL);
        else if (i == 8)
            check_failed(outcomes[i], NOC_ENOMEMORY);
        else
            check_fine(outcomes[i], 3);
    }
    free_all(outcomes, COUNT);
}
END_TEST

START_TEST(a_lost_device_ends_the_worker)
{
    enum { COUNT = 8 };
    noc_outcome *outcomes[COUNT];
    engine.batch = 1;
    noc_worker *worker = create_with((noc_worker_options){0});

    for (int i = 0; i < COUNT; i++)
        submit(worker, i, i == 2 ? BREAKS_DEVICE : FINE, grid_of(8, 8, 3));
    take_all(worker, COUNT, outcomes);
    ck_assert(noc_worker_is_broken(worker));
    for (int i = 0; i < COUNT; i++)
        if (i < 2)
            check_fine(outcomes[i], 3);
        else
            check_failed(outcomes[i], NOC_EDEVICE);
    noc_worker_free(worker);
    free_all(outcomes, COUNT);
}
END_TEST

START_TEST(what_cannot_be_read_has_its_type)
{
    enum { COUNT = 7 };
    noc_outcome *outcomes[COUNT];
    noc_worker *worker = create_with((noc_worker_options){0});
    noc_grid grid = grid_of(6, 5, 4), other = grid_of(6, 5, 4);
    other.affine[0][3] = other.nifti.srow[0][3] = 2;

    submit_path(worker, 0, path_of("missing.nii"), NULL);
    submit_path(worker, 1, path_of(""), NULL);
    char *junk = path_of("junk.nii.gz");
    ck_assert_int_eq(noc_file_replace(junk, "junk", 4, NULL), NOC_OK);
    submit_path(worker, 2, junk, NULL);
    submit_path(worker, 3, write_scan("a.nii.gz", FINE, grid), write_scan("other.nii.gz", 1, other));
    submit_path(worker, 4, write_scan("b.nii.gz", FINE, grid), path_of("no-truth.nii"));
    noc_study two = {.id = 5, .channel_count = 2, .key = "two"};
    two.channels[0] = two.channels[1] = write_scan("c.nii.gz", FINE, grid);
    ck_assert_int_eq(noc_worker_submit(worker, &two, 1005, NULL), NOC_OK);
    free(two.channels[0]);
    submit_path(worker, 6, write_scan("d.nii.gz", 1, grid), write_scan("truth.nii.gz", 1, grid));

    take_all(worker, COUNT, outcomes);
    noc_worker_free(worker);
    for (int i = 0; i < 3; i++)
        check_failed(outcomes[i], NOC_EUNREADABLE);
    check_failed(outcomes[3], NOC_ETRUTH);
    check_failed(outcomes[4], NOC_EUNREADABLE);
    check_failed(outcomes[5], NOC_ECHANNELS);
    check_fine(outcomes[6], 4);
    ck_assert(outcomes[6]->metrics[0].has_truth && outcomes[6]->metrics[0].dice == 1);
    free_all(outcomes, COUNT);
}
END_TEST

START_TEST(an_outcome_tells_where_it_came_from)
{
    noc_outcome *outcome;
    char *data, hex[65], *path = write_scan("scan.nii.gz", FINE, grid_of(6, 5, 4));
    size_t size;
    noc_worker *worker = create_with((noc_worker_options){0});
    noc_study study = {
        .id = 0, .key = "k", .channel_count = 1, .channels = {path}, .fingerprint = (char[]){"12:34"}};

    ck_assert_int_eq(noc_worker_submit(worker, &study, 1000, NULL), NOC_OK);
    take_all(worker, 1, &outcome);
    ck_assert_int_eq(noc_file_read(path, 1 << 20, &data, &size, NULL), NOC_OK);
    noc_sha256_of(data, size, hex, NULL);
    ck_assert_str_eq(outcome->source_sha256, hex);
    ck_assert_str_eq(outcome->fingerprint, "12:34");
    ck_assert_str_eq(outcome->key, "k");
    ck_assert_int_eq(outcome->grid.size[2], 4);
    noc_outcome_free(outcome);
    noc_worker_free(worker);
    free(data);
    free(path);
}
END_TEST

START_TEST(regions_are_kept_and_painted)
{
    noc_outcome *outcome;
    engine.manifest.output = NOC_OUTPUT_REGIONS;
    engine.manifest.label_count = 0;
    engine.manifest.region_count = 1;
    engine.manifest.regions[0] = (noc_region){"whole", {1, 3}, 2};
    engine.manifest.paint_count = 1;
    engine.manifest.paints[0] = (noc_paint){0, 3};
    noc_worker *worker = create_with((noc_worker_options){0});

    submit(worker, 0, FINE, grid_of(4, 4, 4));
    take_all(worker, 1, &outcome);
    ck_assert_int_eq(outcome->region_bytes, 1);
    for (size_t i = 0; i < 64; i++) {
        ck_assert_int_eq(((const uint8_t *)outcome->regions)[i], voxel_of(i, 1));
        ck_assert_int_eq(((const uint8_t *)outcome->mask)[i], 3 * voxel_of(i, 1));
    }
    ck_assert_str_eq(outcome->metrics[0].label, "1+3");
    noc_worker_free(worker);
    noc_outcome_free(outcome); /* may outlive its worker */
}
END_TEST

START_TEST(a_slow_study_runs_into_its_time_limit)
{
    enum { COUNT = 4 };
    noc_outcome *outcomes[COUNT];
    noc_worker *worker = create_with((noc_worker_options){.study_timeout_s = 0.4});

    for (int i = 0; i < COUNT; i++)
        submit(worker, i, i == 1 ? SLOW : FINE, grid_of(4, 4, i == 1 ? 200 : 5));
    take_all(worker, COUNT, outcomes);
    noc_worker_free(worker);
    for (int i = 0; i < COUNT; i++)
        if (i == 1)
            check_failed(outcomes[i], NOC_ETIMEOUT);
        else
            check_fine(outcomes[i], 5);
    free_all(outcomes, COUNT);
}
END_TEST

static void note_returned(void *argument, int64_t study, uint64_t lease)
{
    int *returned = argument;

    ck_assert_uint_eq(lease, (uint64_t)study + 1000);
    returned[study]++;
}

START_TEST(withdrawn_studies_have_no_outcome)
{
    enum { COUNT = 30 };
    int returned[COUNT] = {0}, outcomes[COUNT] = {0}, taken = 0;
    noc_worker *worker = create_with((noc_worker_options){0});
    double give_up = noc_clock_monotonic() + 60;

    for (int i = 0; i < COUNT; i++)
        submit(worker, i, SLOW, grid_of(4, 4, 4));
    noc_worker_withdraw(worker, note_returned, returned);
    while (noc_worker_in_hand(worker) > 0 && noc_clock_monotonic() < give_up) {
        noc_outcome *o = noc_worker_take(worker);
        if (!o) {
            noc_clock_sleep(0.005);
            continue;
        }
        ck_assert_int_eq(o->failure.status, NOC_OK);
        outcomes[o->study]++;
        taken++;
        noc_outcome_free(o);
    }
    ck_assert_int_lt(taken, COUNT);
    for (int i = 0; i < COUNT; i++)
        ck_assert_msg(returned[i] + outcomes[i] == 1, "scan-%d: %d returned, %d outcomes", i, returned[i],
                      outcomes[i]);
    noc_worker_free(worker);
}
END_TEST

START_TEST(a_worker_can_be_freed_in_the_middle)
{
    noc_worker *worker = create_with((noc_worker_options){.readers = 2, .finishers = 2});

    for (int i = 0; i < 30; i++)
        submit(worker, i, SLOW, grid_of(4, 4, 40));
    noc_clock_sleep(0.03 * _i);
    double start = noc_clock_monotonic();
    noc_worker_free(worker);
    ck_assert_double_lt(noc_clock_monotonic() - start, 1);
}
END_TEST

static double cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

START_TEST(an_idle_worker_sleeps)
{
    noc_worker_stats stats;
    noc_worker *worker = create_with((noc_worker_options){.readers = 2, .finishers = 2});

    noc_clock_sleep(0.05);
    double before = cpu_seconds();
    noc_clock_sleep(0.5);
    ck_assert_double_lt(cpu_seconds() - before, 0.01);
    noc_worker_stats_of(worker, &stats);
    ck_assert_double_gt(stats.seconds_starved, 0.4);
    ck_assert_double_eq(stats.seconds_busy, 0);
    noc_worker_free(worker);
}
END_TEST

/* ---- memory ---- */

static const size_t mib = 1 << 20;

/* A scan of 4 MiB: 4 for voxels, 16 for its segmentation, 8 at least in tiles; 4 more while it is read. */
static noc_grid large(void)
{
    return grid_of(512, 512, 16);
}

/* Takes `count` outcomes and frees each at once, as it would hold memory. */
static void take_and_free(noc_worker *worker, int count, const noc_status *expected)
{
    double give_up = noc_clock_monotonic() + 60;

    for (int taken = 0; taken < count;) {
        noc_outcome *o = noc_worker_take(worker);
        ck_assert_msg(noc_clock_monotonic() < give_up, "%d of %d outcomes came", taken, count);
        if (!o) {
            noc_clock_sleep(0.002);
            continue;
        }
        if (expected[o->study] == NOC_OK)
            check_fine(o, o->grid.size[2]);
        else
            check_failed(o, expected[o->study]);
        if (expected[o->study] == NOC_ETOOLARGE)
            ck_assert_ptr_nonnull(strstr(o->failure.text, "MiB"));
        noc_outcome_free(o);
        taken++;
    }
}

START_TEST(studies_wait_until_they_fit)
{
    const noc_status fine[4] = {NOC_OK};
    engine.batch = 64;
    noc_worker *worker = create_with((noc_worker_options){.memory = noc_memory_resident() + 50 * mib});

    for (int i = 0; i < 4; i++)
        submit(worker, i, FINE, large());
    take_and_free(worker, 4, fine);
    noc_worker_free(worker);
    ck_assert_int_le(engine.most_studies_in_batch, 2);
}
END_TEST

START_TEST(a_study_that_needs_tiles_runs_alone)
{
    const noc_status fine[4] = {NOC_OK};
    engine.batch = 64;
    engine.window_s = 0.001;
    noc_worker *worker = create_with((noc_worker_options){.memory = noc_memory_resident() + 17 * mib});

    for (int i = 0; i < 4; i++)
        submit(worker, i, FINE, i == 1 ? large() : grid_of(16, 16, 8));
    take_and_free(worker, 4, fine);
    noc_worker_free(worker);
    ck_assert_int_eq(engine.tiled, 1);
    ck_assert_int_eq(engine.mixed_with_tiled, 0);
}
END_TEST

START_TEST(what_cannot_be_cut_is_too_large)
{
    const noc_status expected[3] = {NOC_OK, NOC_ETOOLARGE, NOC_OK};
    noc_worker *worker = create_with((noc_worker_options){.memory = noc_memory_resident() + 10 * mib});

    for (int i = 0; i < 3; i++)
        submit(worker, i, FINE, i == 1 ? large() : grid_of(16, 16, 8));
    take_and_free(worker, 3, expected);
    noc_worker_free(worker);
}
END_TEST

/* It fits in tiles, but what is told apart when it is segmented has no room. */
START_TEST(looking_for_the_largest_component_takes_room)
{
    static int kept[] = {0};

    for (engine.manifest.keep_count = 0; engine.manifest.keep_count < 2; engine.manifest.keep_count++) {
        const noc_status expected[1] = {engine.manifest.keep_count > 0 ? NOC_ETOOLARGE : NOC_OK};
        noc_worker *worker = create_with((noc_worker_options){.memory = noc_memory_resident() + 14 * mib});
        engine.manifest.keep_largest = kept;
        submit(worker, 0, FINE, large());
        take_and_free(worker, 1, expected);
        noc_worker_free(worker);
    }
}
END_TEST

/* Twice (1 + 2 * 2) bytes of 4 Mi voxels, since what is sent is a copy: 40 MiB. */
START_TEST(probabilities_count)
{
    const noc_status expected[2] = {NOC_ETOOLARGE, NOC_OK};
    char hex[65];
    engine.planes = 2;
    noc_worker *worker = create_with((noc_worker_options){.memory = noc_memory_resident() + 39 * mib});
    submit(worker, 0, FINE, large());
    take_and_free(worker, 1, expected);
    noc_worker_free(worker);

    noc_outcome *o;
    worker = create_with((noc_worker_options){.memory = noc_memory_resident() + 42 * mib});
    submit(worker, 0, FINE, large());
    take_all(worker, 1, &o);
    ck_assert_int_eq(o->failure.status, NOC_OK);
    ck_assert_int_eq(o->plane_count, 2);
    ck_assert_uint_eq(noc_outcome_probability_bytes(o), 16 * mib);
    noc_sha256_of(o->probabilities, 16 * mib, hex, NULL);
    ck_assert_str_eq(o->probabilities_sha256, hex);
    noc_outcome_free(o);
    noc_worker_free(worker);
}
END_TEST

START_TEST(outcomes_count_until_they_are_freed)
{
    noc_outcome *outcomes[2];
    noc_worker *worker = create_with((noc_worker_options){.memory = noc_memory_resident() + 19 * mib});

    for (int i = 0; i < 2; i++)
        submit(worker, i, FINE, large());
    while (!(outcomes[0] = noc_worker_take(worker)))
        noc_clock_sleep(0.002);
    noc_clock_sleep(0.3);
    ck_assert_ptr_null(noc_worker_take(worker)); /* 8 of the 19 MiB are still held by the first mask */
    double freed = noc_clock_monotonic();
    noc_outcome_free(outcomes[0]);
    while (!(outcomes[1] = noc_worker_take(worker)))
        noc_clock_sleep(0.002);
    ck_assert_double_lt(noc_clock_monotonic() - freed, 4);
    ck_assert_int_eq(outcomes[1]->failure.status, NOC_OK);
    noc_outcome_free(outcomes[1]);
    noc_worker_free(worker);
}
END_TEST

typedef struct entrant {
    noc_admission *admission;
    size_t bytes;
    bool is_alone;
    atomic_bool is_cancelled, is_over, is_in;
} entrant;

static void *enter_main(void *argument)
{
    entrant *e = argument;

    atomic_store(&e->is_in, noc_admission_enter(e->admission, e->bytes, e->is_alone, &e->is_cancelled));
    atomic_store(&e->is_over, true);
    return NULL;
}

static void check_soon(atomic_bool *flag)
{
    for (int i = 0; i < 2000 && !atomic_load(flag); i++)
        noc_clock_sleep(0.002);
    ck_assert(atomic_load(flag));
}

START_TEST(the_admission_lets_in_what_fits)
{
    noc_admission *a;
    atomic_bool no = false;
    pthread_t second, third;

    ck_assert_int_eq(noc_admission_create(100, &a, NULL), NOC_OK);
    ck_assert(noc_admission_enter(a, 60, false, &no));
    ck_assert(noc_admission_enter(a, 40, false, &no));
    entrant b = {.admission = a, .bytes = 30};
    pthread_create(&second, NULL, enter_main, &b);
    noc_clock_sleep(0.05);
    ck_assert(!atomic_load(&b.is_over));
    noc_admission_change(a, 60, 40); /* 80 of 100: not yet */
    noc_clock_sleep(0.05);
    ck_assert(!atomic_load(&b.is_over));
    noc_admission_finish(a, 40, 10);
    check_soon(&b.is_over);
    pthread_join(second, NULL);
    ck_assert(atomic_load(&b.is_in)); /* 40 + 30 in work, 10 kept */

    entrant c = {.admission = a, .bytes = 20, .is_alone = true};
    pthread_create(&third, NULL, enter_main, &c);
    noc_admission_finish(a, 40, 0);
    noc_clock_sleep(0.05);
    ck_assert(!atomic_load(&c.is_over)); /* b is still in work */
    noc_admission_finish(a, 30, 0);
    check_soon(&c.is_over);
    pthread_join(third, NULL);
    noc_admission_finish(a, 20, 0);
    noc_admission_drop(a);
    noc_admission_leave(a, 10); /* the outcome goes last */
}
END_TEST

START_TEST(the_admission_can_be_cancelled)
{
    noc_admission *a;
    atomic_bool no = false;
    pthread_t thread;

    ck_assert_int_eq(noc_admission_create(100, &a, NULL), NOC_OK);
    ck_assert(noc_admission_enter(a, 100, false, &no));
    entrant b = {.admission = a, .bytes = 1};
    pthread_create(&thread, NULL, enter_main, &b);
    noc_clock_sleep(0.02);
    atomic_store(&b.is_cancelled, true);
    noc_admission_wake(a);
    pthread_join(thread, NULL);
    ck_assert(!atomic_load(&b.is_in));
    noc_admission_finish(a, 100, 0);
    noc_admission_drop(a);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("worker");
    TCase *tests = tcase_create("worker");

    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_loop_test(tests, batches_hold_windows_of_several_studies, 1, 4);
    tcase_add_test(tests, a_failing_study_costs_only_itself);
    tcase_add_test(tests, a_lost_device_ends_the_worker);
    tcase_add_test(tests, what_cannot_be_read_has_its_type);
    tcase_add_test(tests, an_outcome_tells_where_it_came_from);
    tcase_add_test(tests, regions_are_kept_and_painted);
    tcase_add_test(tests, a_slow_study_runs_into_its_time_limit);
    tcase_add_test(tests, withdrawn_studies_have_no_outcome);
    tcase_add_loop_test(tests, a_worker_can_be_freed_in_the_middle, 0, 4);
    tcase_add_test(tests, an_idle_worker_sleeps);
    tcase_add_test(tests, studies_wait_until_they_fit);
    tcase_add_test(tests, a_study_that_needs_tiles_runs_alone);
    tcase_add_test(tests, what_cannot_be_cut_is_too_large);
    tcase_add_test(tests, looking_for_the_largest_component_takes_room);
    tcase_add_test(tests, probabilities_count);
    tcase_add_test(tests, outcomes_count_until_they_are_freed);
    tcase_add_test(tests, the_admission_lets_in_what_fits);
    tcase_add_test(tests, the_admission_can_be_cancelled);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
