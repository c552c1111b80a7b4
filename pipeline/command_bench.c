/* nocturne bench engine | pipeline | schedule. */
#include "pipeline/command.h"

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "pipeline/bench_schedule.h"
#include "pipeline/opening.h"
#include "pipeline/profile.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ENGINE_REPEATS = 7 };

/* ---- engine ---- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct engine_bench {
    noc_engine *engine;
    float *input, *logits;
    double *seconds;   /* a window, one a repeat; ascending in the end */
    double *network_s; /* the same of the network alone */
    double mean_s;
    double *op_seconds;   /* of each op of the plan, in the warm-up */
    noc_profile *profile; /* NULL: not wanted */
    int repeats, batch, views;
} engine_bench;

static noc_status prepare_engine(const noc_settings *settings, const noc_model *model, engine_bench *b,
                                 noc_error *err)
{
    noc_settings one = *settings;
    one.batch = settings->batch > 0 ? settings->batch : 1;
    noc_status status = noc_opening_engine(&one, model, &b->engine, err);
    if (status != NOC_OK)
        return status;
    const noc_plan *plan = noc_engine_plan(b->engine);
    const noc_value *in = &plan->values[0], *out = &plan->values[plan->logits];
    size_t count = (size_t)in->channels, logits = (size_t)out->channels;
    for (int a = 0; a < 3; a++) {
        count *= (size_t)in->grid[a];
        logits *= (size_t)out->grid[a] * (size_t)plan->upsample[a];
    }
    b->repeats = settings->repeats > 0 ? settings->repeats : ENGINE_REPEATS;
    b->batch = noc_engine_batch(b->engine);
    b->views = noc_model_views(model);
    count *= (size_t)b->batch;
    logits *= (size_t)b->batch;
    b->input = noc_alloc(count, sizeof *b->input, err);
    b->logits = noc_alloc(logits, sizeof *b->logits, err);
    b->seconds = noc_alloc((size_t)b->repeats, sizeof *b->seconds, err);
    b->network_s = noc_alloc((size_t)b->repeats, sizeof *b->network_s, err);
    b->op_seconds = noc_alloc((size_t)plan->op_count, sizeof *b->op_seconds, err);
    if (!b->input || !b->logits || !b->seconds || !b->network_s || !b->op_seconds)
        return NOC_ENOMEMORY;
    for (size_t i = 0; i < count; i++)
        b->input[i] = (float)(i * 2654435761u % 65536) / 32768 - 1;
    return NOC_OK;
}

static noc_status measure_engine(engine_bench *b, bool is_profiled, noc_error *err)
{
    noc_status status = noc_engine_forward(b->engine, b->batch, b->input, b->logits, err); /* warm-up */
    if (is_profiled) /* single ops are timed from now on */
        memcpy(b->op_seconds, noc_engine_seconds(b->engine),
               (size_t)noc_engine_plan(b->engine)->op_count * sizeof *b->op_seconds);
    for (int i = 0; status == NOC_OK && i < b->repeats; i++) {
        double begin = noc_clock_monotonic();
        status = noc_engine_forward(b->engine, b->batch, b->input, b->logits, err);
        b->seconds[i] = (noc_clock_monotonic() - begin) / b->batch;
        b->mean_s += b->seconds[i] / b->repeats;
        b->network_s[i] = noc_engine_batch_seconds(b->engine) / b->batch;
    }
    qsort(b->seconds, (size_t)b->repeats, sizeof *b->seconds, compare_doubles);
    qsort(b->network_s, (size_t)b->repeats, sizeof *b->network_s, compare_doubles);
    return status;
}

/* What one object says in JSON, but for its end. */
static void add_json(const engine_bench *b, noc_text *text)
{
    noc_device_info info;
    noc_network_memory memory;
    const noc_value *in = &noc_engine_plan(b->engine)->values[0];
    noc_engine_describe(b->engine, &info);
    noc_engine_network_memory(b->engine, &memory);
    noc_text_add(text,
                 "{\"seconds_per_window\":%.6f,\"median_seconds_per_window\":%.6f,"
                 "\"mean_seconds_per_window\":%.9f,\"network_seconds_per_window\":%.9f,"
                 "\"network_median_seconds_per_window\":%.9f,\"windows\":%d,\"batch\":%d,\"views\":%d,"
                 "\"shape\":[%d,%d,%d,%d],"
                 "\"device\":\"%s\",\"precision\":\"%s\",\"isa\":\"%s\",\"threads\":%d,"
                 "\"arena_bytes\":%zu,\"scratch_bytes\":%zu,\"weight_bytes\":%zu",
                 b->seconds[0], b->seconds[b->repeats / 2], b->mean_s, b->network_s[0],
                 b->network_s[b->repeats / 2], b->repeats * b->batch, b->batch, b->views, in->channels,
                 in->grid[0], in->grid[1], in->grid[2], info.kind, info.precision, info.isa, info.threads,
                 memory.arena, memory.scratch, memory.weights);
}

static void add_line(const engine_bench *b, noc_text *text)
{
    noc_device_info info;
    noc_network_memory memory;
    noc_plan_stats stats;
    const noc_plan *plan = noc_engine_plan(b->engine);
    const noc_value *in = &plan->values[0];
    noc_engine_describe(b->engine, &info);
    noc_engine_network_memory(b->engine, &memory);
    noc_plan_stats_of(plan, &stats);
    noc_text_add(text,
                 "%dx%dx%dx%d: %.1f ms a window (best of %d; median %.1f), %.0f GFLOP/s; network %.2f ms a "
                 "window (median %.2f); %s, %s, %s, %d threads; "
                 "MiB: arena %.1f, scratch %.1f, weights %.1f\n",
                 in->channels, in->grid[0], in->grid[1], in->grid[2], b->seconds[0] * 1e3, b->repeats,
                 b->seconds[b->repeats / 2] * 1e3, 2e-9 * (double)stats.macs * b->views / b->seconds[0],
                 b->network_s[0] * 1e3, b->network_s[b->repeats / 2] * 1e3, info.name, info.isa,
                 info.precision, info.threads, (double)memory.arena / 1048576,
                 (double)memory.scratch / 1048576, (double)memory.weights / 1048576);
    if (b->views > 1)
        noc_text_add(text, "a window is %d passes, the mean of %d networks and their flips\n", b->views,
                     noc_engine_model(b->engine)->manifest->fold_count);
}

static noc_status print_engine(const noc_settings *settings, const engine_bench *b, noc_error *err)
{
    const noc_plan *plan = noc_engine_plan(b->engine);
    noc_text text = {0};
    settings->json ? add_json(b, &text) : add_line(b, &text);
    if (b->profile && settings->json) {
        noc_text_add(&text, ",");
        noc_profile_add_json(b->profile, plan, &text);
    } else if (b->profile) {
        noc_profile_add_table(b->profile, plan, &text);
    }
    if (settings->json)
        noc_text_add(&text, "}\n");
    noc_status status = noc_opening_print(&text, err);
    noc_text_free(&text);
    return status;
}

/* The steps of a pass of the measured windows, without those of the warm-up. */
static noc_status make_profile(engine_bench *b, noc_error *err)
{
    const noc_plan *plan = noc_engine_plan(b->engine);
    const double *now = noc_engine_seconds(b->engine);
    noc_device_info info;
    noc_device_limits limits;
    noc_engine_describe(b->engine, &info);
    bool is_f32 = strcmp(info.precision, noc_precision_name(NOC_PRECISION_F32)) == 0;
    for (int i = 0; i < plan->op_count; i++)
        b->op_seconds[i] = (now[i] - b->op_seconds[i]) / (b->repeats * b->batch * b->views);
    noc_status status = noc_engine_limits(b->engine, &limits, err);
    if (status == NOC_OK)
        status = noc_profile_make(plan, is_f32 ? 4 : 2, &limits, b->op_seconds, b->mean_s / b->views,
                                  &b->profile, err);
    return status;
}

static noc_status bench_engine(const noc_settings *settings, const noc_model *model, noc_error *err)
{
    engine_bench b = {0};
    noc_status status = prepare_engine(settings, model, &b, err);
    if (status == NOC_OK)
        status = measure_engine(&b, settings->profile, err);
    if (status == NOC_OK && settings->profile)
        status = make_profile(&b, err);
    if (status == NOC_OK)
        status = print_engine(settings, &b, err);
    noc_profile_free(b.profile);
    noc_engine_close(b.engine);
    free(b.op_seconds);
    free(b.input);
    free(b.logits);
    free(b.seconds);
    free(b.network_s);
    return status;
}

/* ---- pipeline ---- */

/* Runs this program with those arguments; its exit code, or 127. */
static int run_program(char *const arguments[])
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(STDERR_FILENO, STDOUT_FILENO);
        execv("/proc/self/exe", arguments);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return 127;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static noc_status scan_all(const noc_settings *settings, const char *program, const char *catalog,
                           noc_error *err)
{
    char **arguments = calloc((size_t)settings->argument_count + 6, sizeof *arguments);
    int count = 0;
    if (!arguments)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the arguments");
    arguments[count++] = (char *)program;
    arguments[count++] = (char *)"scan";
    arguments[count++] = (char *)"--catalog";
    arguments[count++] = (char *)catalog;
    for (int i = 1; i < settings->argument_count; i++)
        arguments[count++] = settings->arguments[i];
    int code = run_program(arguments);
    free(arguments);
    return code == 0 ? NOC_OK : noc_fail(err, NOC_EDATA, "the scan ended with exit code %d", code);
}

/* The words of a command: pairs, of which one without a value is left out. */
typedef struct words {
    char *list[48], text[48][48];
    int count;
} words;

static void add_pair(words *w, const char *flag, const char *value)
{
    if (!value)
        return;
    w->list[w->count++] = (char *)flag;
    w->list[w->count++] = (char *)value;
}

__attribute__((format(printf, 4, 5))) static void add_value(words *w, bool is_given, const char *flag,
                                                            const char *format, ...)
{
    char *text = w->text[w->count];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof w->text[0], format, arguments);
    va_end(arguments);
    add_pair(w, flag, is_given ? text : NULL);
}

static void add_engine(words *w, const noc_settings *s)
{
    static const char *const mirrors[] = {"none", "z", "y", "z,y", "x", "z,x", "y,x", "z,y,x"};
    add_pair(w, "--device", s->device);
    add_pair(w, "--precision", s->precision);
    add_pair(w, "--isa", s->isa);
    add_value(w, s->threads > 0, "--threads", "%d", s->threads);
    add_value(w, s->memory > 0, "--memory", "%zu", s->memory);
    add_value(w, s->batch > 0, "--batch", "%d", s->batch);
    add_value(w, s->window[0] > 0, "--window", "%lld,%lld,%lld", (long long)s->window[0],
              (long long)s->window[1], (long long)s->window[2]);
    add_value(w, s->overlap >= 0, "--overlap", "%.17g", s->overlap);
    add_pair(w, "--blend", s->blend < 0 ? NULL : s->blend == NOC_BLEND_GAUSSIAN ? "gaussian" : "constant");
    add_pair(w, "--mirror", s->mirror < 0 ? NULL : mirrors[s->mirror]);
}

/* One run into a folder of its own; prints a row from its run.json. */
static noc_status run_with(const noc_settings *settings, const char *program, const char *folder,
                           const char *catalog, int workers, noc_error *err)
{
    char results[4096], *path;
    words w = {0};
    json_error_t why;
    snprintf(results, sizeof results, "%s/results-%d", folder, workers);
    add_pair(&w, program, "run");
    add_pair(&w, "-m", settings->model);
    add_pair(&w, "--catalog", catalog);
    add_pair(&w, "--results", results);
    add_value(&w, true, "--workers", "%d", workers);
    add_pair(&w, "--progress", "none");
    add_pair(&w, "--log-level", "warn");
    add_engine(&w, settings);
    int code = run_program(w.list);
    if (code != 0 && code != 1)
        return noc_fail(err, NOC_EINTERNAL, "the run with %d workers ended with exit code %d", workers, code);
    if (!(path = noc_path_join(results, "run.json", err)))
        return NOC_ENOMEMORY;
    json_t *root = json_load_file(path, 0, &why);
    free(path);
    if (!root)
        return noc_fail(err, NOC_EIO, "run.json cannot be read: %s", why.text);
    double seconds = json_number_value(json_object_get(root, "seconds"));
    double done = json_number_value(json_object_get(root, "done"));
    double busy = json_number_value(json_object_get(root, "engine_busy"));
    double starved = json_number_value(json_object_get(root, "engine_starved"));
    double peak = json_number_value(json_object_get(root, "worker_peak_bytes"));
    json_decref(root);
    printf(settings->json ? "{\"workers\":%d,\"studies\":%.0f,\"seconds\":%.3f,\"studies_per_hour\":%.0f,"
                            "\"engine_busy\":%.3f,\"engine_starved\":%.3f,\"worker_peak_mib\":%.0f}\n"
                          : "%d workers: %.0f studies in %.2f s, %.0f an hour; engine busy %.2f, waiting for "
                            "scans %.2f; worker's peak memory %.0f MiB\n",
           workers, done, seconds, seconds > 0 ? done * 3600 / seconds : 0, busy, starved, peak / 1048576);
    return NOC_OK;
}

static noc_status bench_pipeline(const noc_settings *settings, const char *program, noc_error *err)
{
    char folder[] = "/tmp/nocturne-bench-XXXXXX", catalog[64];
    if (settings->argument_count < 2)
        return noc_fail(err, NOC_EUSAGE, "bench pipeline -m MODEL DIR: which scans?");
    if (!mkdtemp(folder))
        return noc_fail(err, NOC_ECANTCREATE, "%s: %s", folder, strerror(errno));
    snprintf(catalog, sizeof catalog, "%s/catalog.sqlite", folder);
    noc_status status = scan_all(settings, program, catalog, err);
    int first = settings->workers > 0 ? settings->workers : 1,
        last = settings->workers > 0 ? settings->workers : 2;
    for (int workers = first; status == NOC_OK && workers <= last; workers++)
        status = run_with(settings, program, folder, catalog, workers, err);
    char *arguments[] = {(char *)"rm", (char *)"-rf", folder, NULL};
    pid_t pid = fork();
    if (pid == 0) {
        execvp("rm", arguments);
        _exit(127);
    }
    if (pid > 0)
        waitpid(pid, NULL, 0);
    return status;
}

/* ---- schedule ---- */

static noc_status print_schedule(const noc_settings *settings, const noc_schedule_bench *b, noc_error *err)
{
    noc_schedule_bench_result r;
    noc_status status = noc_bench_schedule(b, &r, err);
    if (status == NOC_OK)
        printf(settings->json ? "{\"workers\":%d,\"studies\":%lld,\"archive\":\"%s\",\"faults\":%s,"
                                "\"bound_s\":%.3f,\"makespan_s\":%.3f,\"over_percent\":%.3f}\n"
                              : "%7d %8lld  %-6s %6s %11.1f %11.1f %8.2f %%\n",
               b->workers, (long long)b->studies, b->is_uniform ? "brains" : "mixed",
               settings->json  ? b->has_faults ? "true" : "false"
               : b->has_faults ? "2 %"
                               : "none",
               r.bound_s, r.makespan_s, 100 * (r.makespan_s / r.bound_s - 1));
    return status;
}

static noc_status bench_schedule(const noc_settings *settings, noc_error *err)
{
    static const int usual[] = {1, 8, 64, 1000};
    enum { USUAL = sizeof usual / sizeof usual[0], STUDIES_A_WORKER = 100 };
    noc_status status = NOC_OK;
    if (!settings->json)
        puts("workers  studies archive faults     bound, s makespan, s     over");
    for (int i = 0; status == NOC_OK && i < (settings->workers > 0 ? 1 : USUAL); i++)
        for (int kind = 0; status == NOC_OK && kind < 4; kind++) {
            noc_schedule_bench b = {.workers = settings->workers > 0 ? settings->workers : usual[i],
                                    .is_uniform = kind / 2,
                                    .has_faults = kind % 2,
                                    .spread = 0.3};
            b.studies = settings->limit > 0 ? settings->limit : (int64_t)b.workers * STUDIES_A_WORKER;
            status = print_schedule(settings, &b, err);
        }
    return status;
}

int noc_command_bench(const noc_settings *settings, const char *program)
{
    noc_error err;
    noc_model *model = NULL;
    noc_status status;
    const char *what = settings->argument_count > 0 ? settings->arguments[0] : "";
    bool is_engine = strcmp(what, "engine") == 0;
    if (strcmp(what, "schedule") == 0)
        status = bench_schedule(settings, &err);
    else if (!is_engine && strcmp(what, "pipeline") != 0)
        status = noc_fail(&err, NOC_EUSAGE, "bench what? engine, pipeline or schedule");
    else if ((status = noc_opening_model(settings, &model, &err)) == NOC_OK)
        status = is_engine ? bench_engine(settings, model, &err) : bench_pipeline(settings, program, &err);
    noc_model_free(model);
    return status == NOC_OK ? 0 : noc_command_fail(&err);
}
