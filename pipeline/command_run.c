/* nocturne run: the supervisor, a rank, or everything in one process; and --dry-run. */
#include "pipeline/command.h"
#include "pipeline/deadline.h"
#include "pipeline/opening.h"
#include "pipeline/rank.h"
#include "pipeline/supervisor.h"

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "worker/worker.h"

#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOCK_WAIT_S 15.0
#define MEET_S 120 /* for all ranks to meet: who waits for a dead one, with no supervisor left, ends then */

/* The configuration of the result set: what decides the masks. */
static noc_status make_configuration(const noc_settings *settings, const noc_model *model,
                                     noc_configuration *configuration, noc_error *err)
{
    const noc_manifest *m = model->manifest;
    noc_configuration c = {.overlap = settings->overlap >= 0 ? settings->overlap : m->overlap};
    noc_blend blend = settings->blend >= 0 ? (noc_blend)settings->blend : m->blend;
    char *results = noc_path_absolute(settings->results, err);
    if (!results)
        return NOC_ENOMEMORY;
    if (strlen(results) >= sizeof c.results) {
        free(results);
        return noc_fail(err, NOC_EUSAGE, "the path of the results folder is longer than %zu bytes",
                        sizeof c.results - 1);
    }
    memcpy(c.results, results, strlen(results) + 1);
    free(results);
    snprintf(c.model, sizeof c.model, "%s", m->name);
    memcpy(c.model_sha256, model->sha256, sizeof c.model_sha256);
    for (int i = 0; i < 3; i++)
        c.window[i] = settings->window[i] > 0 ? settings->window[i] : m->window[i];
    snprintf(c.blend, sizeof c.blend, "%s", blend == NOC_BLEND_GAUSSIAN ? "gaussian" : "constant");
    noc_engine_options engine = NOC_ENGINE_DEFAULTS;
    noc_precision precision;
    noc_settings_engine(settings, &engine);
    noc_status status = noc_engine_precision(&engine, &precision, err);
    if (status != NOC_OK)
        return status;
    snprintf(c.precision, sizeof c.precision, "%s", noc_precision_name(precision));
    *configuration = c;
    return NOC_OK;
}

/* One a GPU; on CPUs one a domain of memory. */
static int default_workers(const noc_settings *settings, const noc_topology *topology)
{
    const noc_device_ops *ops = &noc_cpu_ops;
    int index, count;
    noc_device_find(settings->device, &ops, &index, NULL);
    if (ops == &noc_cpu_ops)
        return noc_topology_workers(topology);
    count = index < 0 ? ops->count() : 1;
    return count > 1 ? count : 1;
}

static noc_status count_ranks(const noc_settings *settings, const noc_topology *topology, int *ranks,
                              noc_error *err)
{
    if (settings->lease_s < 2 * settings->heartbeat_s)
        return noc_fail(err, NOC_EUSAGE,
                        "a lease of %g s is shorter than two heartbeats of %g s: every rank would seem lost",
                        settings->lease_s, settings->heartbeat_s);
    int writers = settings->writers > 0 ? settings->writers : 1;
    int workers = settings->workers > 0 ? settings->workers : default_workers(settings, topology);
    if (settings->ranks > 0 && settings->workers > 0 && settings->ranks >= 3 &&
        settings->ranks != 1 + writers + settings->workers)
        return noc_fail(
            err, NOC_EUSAGE,
            "--ranks %d is not 1 coordinator + %d writers + %d workers; give one of --ranks and --workers",
            settings->ranks, writers, settings->workers);
    *ranks = settings->ranks > 0 ? settings->ranks : 1 + writers + workers;
    return NOC_OK;
}

/* ---- in one process ---- */

static noc_status run_alone(noc_rank_options *options, noc_verdict *verdict, noc_error *err)
{
    noc_status status = noc_layout_make(1, 1, 1, &options->layout, err);
    if (status == NOC_OK)
        status = noc_link_open_local(&options->link, err);
    if (status != NOC_OK)
        return status;
    options->group = MPI_COMM_NULL;
    options->node_workers = options->sharers = 1;
    status = noc_rank_run(options, verdict, err);
    noc_link_close(options->link);
    return status;
}

/* ---- a rank among others ---- */

/* [all] Worker ranks on this node; those among them that may use the same CPUs as this one, and which of them
 * it is: a launcher that binds ranks has shared the CPUs out already. */
static void count_workers(noc_rank_options *options, MPI_Comm node, int is_worker)
{
    MPI_Comm sharers;
    int color = (int)(noc_topology_fingerprint(&options->topology) & INT_MAX);
    MPI_Allreduce(&is_worker, &options->node_workers, 1, MPI_INT, MPI_SUM, node);
    MPI_Scan(&is_worker, &options->node_worker, 1, MPI_INT, MPI_SUM, node);
    options->node_worker -= is_worker;
    MPI_Comm_split(node, is_worker ? color : MPI_UNDEFINED, 0, &sharers);
    if (sharers == MPI_COMM_NULL)
        return;
    MPI_Comm_size(sharers, &options->sharers);
    MPI_Comm_rank(sharers, &options->share);
    MPI_Comm_free(&sharers);
}

/* [all] What ranks of a node share, and the communicator of each group of writers. */
static void split_world(noc_rank_options *options, int rank)
{
    MPI_Comm node;
    int is_worker = noc_layout_is_worker(&options->layout, rank);
    int group = noc_layout_group_of(&options->layout, rank), size = 1, coordinator = rank == 0 ? getpid() : 0;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node);
    count_workers(options, node, is_worker);
    MPI_Allreduce(&coordinator, &options->coordinator, 1, MPI_INT, MPI_MAX, node);
    MPI_Comm_free(&node);
    MPI_Comm_split(MPI_COMM_WORLD, group >= 0 ? group : MPI_UNDEFINED, rank, &options->group);
    if (options->group == MPI_COMM_NULL)
        return;
    MPI_Comm_set_errhandler(options->group, MPI_ERRORS_RETURN);
    MPI_Comm_size(options->group, &size);
    if (size == 1) /* alone in its group: the serial driver is simpler and reports a full disk better */
        options->group = MPI_COMM_NULL;
}

static void say_verdict(noc_control *control, const noc_verdict *verdict)
{
    noc_control_say(control, "verdict %d %d %lld", verdict->exit_code, verdict->wants_restart,
                    (long long)verdict->ended);
}

static noc_status run_rank(noc_rank_options *options, noc_verdict *verdict, noc_error *err)
{
    int provided, rank, size;
    const char *name = getenv("NOC_CONTROL"), *until = getenv("NOC_UNTIL"), *since = getenv("NOC_SINCE");
    /* Rather ROMIO: the other one takes a semaphore of the whole machine by the file's name, so that who is
     * killed with it in hand holds up every later run, and it takes half a write for a whole one. */
    setenv("OMPI_MCA_io_ompio_priority", "1", 0);
    signal(SIGALRM, SIG_DFL); /* whoever started this may have ignored it */
    alarm(MEET_S);
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return noc_fail(err, NOC_EUNAVAILABLE, "MPI does not start");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    noc_log_open(options->settings->log_level, options->settings->log_format, rank);
    if (until)
        options->until_unix_s = atoll(until);
    if (since)
        options->since_ns = atoll(since);
    noc_status status = noc_layout_make(size, options->settings->writers, options->settings->writers_per_part,
                                        &options->layout, err);
    if (status != NOC_OK)
        return status;
    split_world(options, rank);
    status = noc_link_open_mpi(&options->link, err);
    if (status == NOC_OK && rank == 0 && name && noc_control_connect(name, &options->control, err) != NOC_OK)
        return NOC_EUNAVAILABLE; /* a supervisor that is gone wants no run */
    alarm(0);
    if (status == NOC_OK)
        status = noc_rank_run(options, verdict, err);
    if (rank == 0 && status != NOC_OK) {
        *verdict = (noc_verdict){.exit_code = noc_status_exit(status)};
        if (options->control)
            noc_control_say(options->control, "failure %s", err->text);
        else
            noc_log(NOC_LOG_ERROR, "%s", err->text);
    }
    if (rank == 0)
        say_verdict(options->control, verdict);
    else if (status != NOC_OK)
        noc_log(NOC_LOG_ERROR, "%s", err->text);
    return status;
}

/* MPI_Finalize where every rank still lives, bounded, since one may die this moment; else the plain end of
 * the process. */
static void leave_mpi(noc_rank_options *options, noc_verdict *verdict)
{
    fflush(stderr);
    noc_link_close(options->link);
    noc_control_close(options->control);
    /* The supervisor has the verdict; mpirun would complain about any other code. */
    if (getenv("NOC_CONTROL"))
        verdict->exit_code = 0;
    if (verdict->has_dead_ranks)
        _exit(verdict->exit_code);
    alarm(10);
    MPI_Finalize();
    alarm(0);
}

/* ---- --dry-run ---- */

/* Seconds a window takes here, by computing one; 0 when the engine does not open. */
static double time_window(const noc_settings *settings, const noc_model *model)
{
    noc_engine_options options = NOC_ENGINE_DEFAULTS;
    noc_engine *engine = NULL;
    double seconds = 0;
    noc_settings_engine(settings, &options);
    if (noc_engine_open(&options, model, &engine, NULL) != NOC_OK)
        return 0;
    const noc_plan *plan = noc_engine_plan(engine);
    const noc_value *in = &plan->values[0], *out = &plan->values[plan->logits];
    size_t voxels = (size_t)in->grid[0] * (size_t)in->grid[1] * (size_t)in->grid[2];
    size_t logits =
        (size_t)out->grid[0] * (size_t)out->grid[1] * (size_t)out->grid[2] * (size_t)out->channels;
    for (int a = 0; a < 3; a++)
        logits *= (size_t)plan->upsample[a];
    float *input = noc_alloc_zeroed(voxels * (size_t)in->channels, sizeof *input, NULL);
    float *output = noc_alloc(logits, sizeof *output, NULL);
    for (int i = 0; input && output && i < 2; i++) {
        double begin = noc_clock_monotonic();
        if (noc_engine_forward(engine, 1, input, output, NULL) == NOC_OK)
            seconds = noc_clock_monotonic() - begin;
    }
    free(input);
    free(output);
    noc_engine_close(engine);
    return seconds;
}

typedef struct forecast {
    size_t studies;
    double windows, mask_bytes, voxel_bytes, probability_bytes;
    size_t unknown;
} forecast;

static void add_forecast(forecast *f, const noc_study *study, const noc_model *model,
                         const noc_configuration *c)
{
    f->studies++;
    f->windows += noc_study_cost(study, model->manifest, c->window, c->overlap);
    f->unknown += !study->has_shape;
    f->mask_bytes += (double)study->size[0] * (double)study->size[1] * (double)study->size[2];
    f->voxel_bytes += (double)study->voxel_bytes;
    f->probability_bytes += 2.0 * model->manifest->network.num_classes * (double)study->size[0] *
                            (double)study->size[1] * (double)study->size[2];
}

static noc_status read_forecast(const noc_settings *settings, const noc_model *model,
                                const noc_configuration *c, forecast *f, noc_error *err)
{
    noc_catalog *catalog = NULL;
    noc_pending *list = NULL;
    size_t count = 0;
    int64_t set = 0;
    noc_status status = noc_catalog_open(settings->catalog, NOC_CATALOG_READ, &catalog, err);
    if (status == NOC_OK)
        status = noc_catalog_match_set(catalog, c, &set, err);
    if (status == NOC_OK)
        status = noc_catalog_pending(catalog, set, settings->only, settings->limit, &list, &count, err);
    for (size_t i = 0; status == NOC_OK && i < count; i++)
        add_forecast(f, &list[i].study, model, c);
    noc_pending_free(list, count);
    noc_catalog_close(catalog);
    return status;
}

static noc_status dry_run(const noc_settings *settings, const noc_model *model, const noc_configuration *c,
                          noc_error *err)
{
    forecast f = {0};
    noc_status status = read_forecast(settings, model, c, &f, err);
    if (status != NOC_OK)
        return status;
    double seconds = time_window(settings, model);
    double hours = seconds * f.windows / 3600 / (settings->workers > 0 ? settings->workers : 1);
    double probabilities = settings->save_probabilities ? f.probability_bytes / 1e9 : 0;
    if (settings->json) {
        printf("{\"studies\":%zu,\"windows\":%.0f,\"hours\":%.6f,\"gigabytes_read\":%.3f,\"gigabytes_of_"
               "masks\":%.3f,\"gigabytes_of_probabilities\":%.3f,\"unknown_shape\":%zu}\n",
               f.studies, f.windows, hours, f.voxel_bytes / 1e9, f.mask_bytes / 1e9, probabilities,
               f.unknown);
        return NOC_OK;
    }
    printf("studies pending   %zu%s\n", f.studies,
           f.unknown ? " (some of unknown shape, counted as one window)" : "");
    printf("windows           %.0f\n", f.windows);
    printf("compute           %.2f hours (%.3f s a window on this machine)\n", hours, seconds);
    printf("voxels to read    %.3f GB inflated\n", f.voxel_bytes / 1e9);
    printf("masks             %.3f GB before compression\n", f.mask_bytes / 1e9);
    if (settings->save_probabilities)
        printf("probabilities     %.3f GB before compression\n", probabilities);
    return NOC_OK;
}

/* ---- the command ---- */

/* Waits for a run that is just ending, and names the one that is not, before anything is started. */
static noc_status need_lock(const noc_settings *settings, noc_error *err)
{
    noc_catalog_lock *lock;
    noc_status status = noc_catalog_lock_take(settings->catalog, LOCK_WAIT_S, &lock, err);
    if (status == NOC_OK)
        noc_catalog_lock_release(lock);
    return status;
}

static noc_status need_catalog(const noc_settings *settings, noc_error *err)
{
    return access(settings->catalog, F_OK) == 0
               ? NOC_OK
               : noc_fail(err, NOC_ENOINPUT,
                          "%s: no such catalog; make one with: nocturne scan DIR --catalog %s",
                          settings->catalog, settings->catalog);
}

static noc_status run(const noc_settings *settings, int argc, char **argv, int *exit_code, noc_error *err)
{
    noc_model *model = NULL;
    noc_verdict verdict = {0};
    noc_rank_options rank = {.settings = settings, .group = MPI_COMM_NULL};
    int ranks = 0;
    noc_status status = noc_deadline_parse(settings->until, time(NULL), &rank.until_unix_s, err);
    noc_topology_read(NOC_SYSTEM_DEVICES, &rank.topology, NULL); /* else empty: nothing is known, or pinned */
    if (status == NOC_OK)
        status = count_ranks(settings, &rank.topology, &ranks, err);
    if (status == NOC_OK && !settings->model)
        status = noc_fail(err, NOC_EUSAGE, "which model? give its folder with -m");
    if (status == NOC_OK)
        status = need_catalog(settings, err);
    if (status == NOC_OK)
        status = noc_opening_model(settings, &model, err);
    if (status == NOC_OK)
        status = make_configuration(settings, model, &rank.configuration, err);
    rank.model = model;
    bool is_rank = noc_is_rank();
    if (status != NOC_OK) {
        /* said below */
    } else if (settings->is_dry_run) {
        status = dry_run(settings, model, &rank.configuration, err);
    } else if (is_rank) {
        status = run_rank(&rank, &verdict, err);
    } else if (ranks == 1) {
        status = run_alone(&rank, &verdict, err);
    } else {
        noc_supervisor_options options = {.settings = settings,
                                          .ranks = ranks,
                                          .argc = argc,
                                          .argv = argv,
                                          .until_unix_s = rank.until_unix_s};
        noc_layout layout;
        status = noc_layout_make(ranks, settings->writers, settings->writers_per_part, &layout, err);
        if (status == NOC_OK)
            status = need_lock(settings, err);
        if (status == NOC_OK)
            status = noc_supervise(&options, &verdict.exit_code, err);
    }
    if (is_rank && rank.link)
        leave_mpi(&rank, &verdict);
    noc_model_free(model);
    noc_topology_free(&rank.topology);
    *exit_code = verdict.exit_code;
    return status;
}

int noc_command_run(const noc_settings *settings, int argc, char **argv)
{
    noc_error err = {.status = NOC_OK};
    int exit_code = 0;
    noc_status status = run(settings, argc, argv, &exit_code, &err);
    if (status != NOC_OK && noc_is_rank() && getenv("NOC_CONTROL"))
        return 0; /* the supervisor knows, and says it */
    return status == NOC_OK ? exit_code : noc_command_fail(&err);
}
