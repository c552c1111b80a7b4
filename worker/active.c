#include "worker/active.h"

#include "engine/base/clock.h"

#include <stdlib.h>
#include <string.h>

void noc_active_init(noc_active *active, noc_engine *engine, const noc_job_rules *rules,
                     void (*leave)(void *argument, noc_job *job, noc_status status, const noc_error *failure),
                     void *argument)
{
    int batch = noc_engine_batch(engine);

    memset(active, 0, sizeof *active);
    active->engine = engine;
    active->rules = rules;
    active->batch = batch < 1 ? 1 : batch > NOC_ACTIVE_BATCH ? NOC_ACTIVE_BATCH : batch;
    active->leave = leave;
    active->argument = argument;
}

bool noc_active_is_empty(const noc_active *active)
{
    return active->count == 0;
}

bool noc_active_has_room(const noc_active *active)
{
    int64_t left = 0;

    if (active->count == NOC_ACTIVE_MAX)
        return false;
    for (int i = 0; i < active->count; i++)
        left += noc_segmentation_windows(active->jobs[i]->segmentation) -
                noc_segmentation_windows_done(active->jobs[i]->segmentation);
    return left < active->batch;
}

static void remove_job(noc_active *active, const noc_job *job)
{
    for (int i = 0; i < active->count; i++)
        if (active->jobs[i] == job) {
            active->count--;
            memmove(&active->jobs[i], &active->jobs[i + 1],
                    (size_t)(active->count - i) * sizeof active->jobs[0]);
            return;
        }
}

/* The volumes are freed here, on the way out, so that the next study can be admitted. */
static void leave(noc_active *active, noc_job *job, noc_status status, const noc_error *failure)
{
    remove_job(active, job);
    noc_segmentation_free(job->segmentation);
    job->segmentation = NULL;
    noc_prepared_free(job->prepared);
    job->prepared = NULL;
    active->leave(active->argument, job, status, failure);
}

void noc_active_add(noc_active *active, noc_job *job)
{
    noc_error err;
    noc_status status =
        noc_segmentation_create(active->engine, job->prepared, job->tile_memory, &job->segmentation, &err);

    job->segmentation_start = noc_clock_monotonic();
    if (status != NOC_OK) {
        leave(active, job, status, &err);
        return;
    }
    active->jobs[active->count++] = job;
}

noc_job *noc_active_take(noc_active *active)
{
    if (active->count == 0)
        return NULL;
    noc_job *job = active->jobs[0];
    remove_job(active, job);
    return job;
}

static void drop_late(noc_active *active)
{
    noc_error err;
    double now = noc_clock_monotonic();

    for (int i = active->count - 1; i >= 0; i--) {
        noc_job *job = active->jobs[i];
        double seconds = job->seconds_used + now - job->segmentation_start;
        if (noc_job_check_time(active->rules, seconds, &err) != NOC_OK)
            leave(active, job, NOC_ETIMEOUT, &err);
    }
}

static int fill(noc_active *active, noc_window_task tasks[NOC_ACTIVE_BATCH])
{
    int count = 0;

    for (int i = 0; i < active->count && count < active->batch; i++)
        while (count < active->batch && noc_segmentation_next(active->jobs[i]->segmentation, &tasks[count]))
            count++;
    return count;
}

static noc_job *owner_of(const noc_active *active, const noc_segmentation *segmentation)
{
    for (int i = 0; i < active->count; i++)
        if (active->jobs[i]->segmentation == segmentation)
            return active->jobs[i];
    return NULL;
}

static int same_study(const noc_window_task *tasks, int count)
{
    int n = 1;

    while (n < count && tasks[n].segmentation == tasks[0].segmentation)
        n++;
    return n;
}

/* Time of a batch is shared among its windows. */
static void charge(noc_active *active, const noc_window_task *tasks, int count, double seconds)
{
    for (int i = 0; i < count; i++) {
        noc_job *job = owner_of(active, tasks[i].segmentation);
        job->outcome->seconds_compute += seconds / count;
        job->outcome->windows++;
    }
}

static void fail_all(noc_active *active, noc_status status, const noc_error *failure)
{
    while (active->count > 0)
        leave(active, active->jobs[0], status, failure);
}

static int run(noc_active *active, const noc_window_task *tasks, int count);

/* After a failed batch: each study by itself, so that only the one at fault is lost. */
static int run_apart(noc_active *active, const noc_window_task *tasks, int count)
{
    int done = 0;

    for (int at = 0, n; at < count && active->count > 0; at += n) {
        n = same_study(tasks + at, count - at);
        done += run(active, tasks + at, n);
    }
    return done;
}

static int run(noc_active *active, const noc_window_task *tasks, int count)
{
    noc_error err;
    double start = noc_clock_monotonic();
    noc_status status = noc_engine_run(active->engine, tasks, count, &err);

    if (status == NOC_OK) {
        charge(active, tasks, count, noc_clock_monotonic() - start);
        return count;
    }
    if (status == NOC_EDEVICE)
        fail_all(active, status, &err);
    else if (same_study(tasks, count) < count)
        return run_apart(active, tasks, count);
    else
        leave(active, owner_of(active, tasks[0].segmentation), status, &err);
    return 0;
}

static void pass_on_done(noc_active *active)
{
    for (int i = 0; i < active->count;) {
        noc_job *job = active->jobs[i];
        if (!noc_segmentation_is_done(job->segmentation)) {
            i++;
            continue;
        }
        noc_segmentation_take(job->segmentation, &job->result);
        leave(active, job, NOC_OK, NULL);
    }
}

int noc_active_step(noc_active *active)
{
    noc_window_task tasks[NOC_ACTIVE_BATCH];
    int done = 0;

    drop_late(active);
    int count = fill(active, tasks);
    if (count > 0)
        done = run(active, tasks, count);
    pass_on_done(active);
    return done;
}
