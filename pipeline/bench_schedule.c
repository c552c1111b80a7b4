/* nocturne bench schedule: archives that nobody computes, handed out by the real schedule with a clock of its
 * own. */
#include "pipeline/bench_schedule.h"

#include "engine/base/memory.h"
#include "pipeline/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_S 0.1  /* what a window takes */
#define RETURN_S 30.0 /* until a dead worker is there again */
#define FAULTY 0.02   /* of the studies fail once, of the workers die once */
#define PI 3.14159265358979323846

enum { DEPTH = 4, ATTEMPTS = 3 };

typedef enum event_kind { STUDY_ENDS, WORKER_DIES, WORKER_RETURNS } event_kind;

typedef struct event {
    double at;
    event_kind kind;
    int worker, life; /* an end of an earlier life never comes */
} event;

typedef struct job {
    int64_t study;
    uint64_t lease;
} job;

typedef struct fleet {
    const noc_schedule_bench *bench;
    noc_schedule *schedule;
    double *lengths; /* s, by study id - 1 */
    bool *fails;     /* at its first end; likewise */
    job *queue;      /* [worker * DEPTH + i], the first is being computed */
    double *since;   /* of that, by worker */
    int *held, *life;
    event *events; /* a heap, soonest first */
    int event_count;
    double spent; /* s of workers: computed, in vain or not, or dead */
    uint64_t random;
} fleet;

/* ---- events ---- */

static void add_event(fleet *f, event e)
{
    int at = f->event_count++;
    for (; at > 0 && f->events[(at - 1) / 2].at > e.at; at = (at - 1) / 2)
        f->events[at] = f->events[(at - 1) / 2];
    f->events[at] = e;
}

static event next_event(fleet *f)
{
    event first = f->events[0], last = f->events[--f->event_count];
    int at = 0;
    for (int below; (below = 2 * at + 1) < f->event_count; at = below) {
        if (below + 1 < f->event_count && f->events[below + 1].at < f->events[below].at)
            below++;
        if (f->events[below].at >= last.at)
            break;
        f->events[at] = f->events[below];
    }
    f->events[at] = last;
    return first;
}

/* ---- workers ---- */

static void begin(fleet *f, int worker, double now)
{
    double length = f->lengths[f->queue[worker * DEPTH].study - 1];
    f->since[worker] = now;
    add_event(f, (event){now + length, STUDY_ENDS, worker, f->life[worker]});
}

static void take_grants(fleet *f, double now)
{
    noc_decision d;
    for (noc_schedule_next(f->schedule, now, &d); d.kind != NOC_DECIDE_NOTHING;
         noc_schedule_next(f->schedule, now, &d)) {
        if (d.kind != NOC_DECIDE_GRANT)
            continue;
        f->queue[d.worker * DEPTH + f->held[d.worker]++] = (job){d.study, d.lease};
        if (f->held[d.worker] == 1)
            begin(f, d.worker, now);
    }
}

static void end_study(fleet *f, const event *e)
{
    job *queue = &f->queue[e->worker * DEPTH], ended = queue[0];
    bool *fails = &f->fails[ended.study - 1];
    noc_error outcome = {.status = *fails ? NOC_EDEVICE : NOC_OK};
    f->spent += e->at - f->since[e->worker];
    noc_schedule_finish(f->schedule, ended.lease, &outcome, e->at);
    if (!*fails && noc_schedule_secure(f->schedule, ended.lease))
        noc_schedule_done(f->schedule, ended.study);
    *fails = false;
    memmove(queue, queue + 1, (DEPTH - 1) * sizeof *queue);
    if (--f->held[e->worker] > 0)
        begin(f, e->worker, e->at);
}

static noc_status take_event(fleet *f, const event *e, noc_error *err)
{
    int w = e->worker;
    if (e->kind == WORKER_RETURNS)
        return noc_schedule_add_worker(f->schedule, w, e->at, err);
    if (e->kind == STUDY_ENDS && e->life == f->life[w])
        end_study(f, e);
    if (e->kind == WORKER_DIES) {
        f->spent += (f->held[w] > 0 ? e->at - f->since[w] : 0) + RETURN_S;
        f->held[w] = 0;
        f->life[w]++;
        noc_schedule_lose_worker(f->schedule, w);
        add_event(f, (event){e->at + RETURN_S, WORKER_RETURNS, w, 0});
    }
    return NOC_OK;
}

/* *took: s until the last study ended. */
static noc_status run_fleet(fleet *f, double *took, noc_error *err)
{
    noc_schedule_counts counts;
    noc_status status = NOC_OK;
    double now = 0;
    take_grants(f, now);
    noc_schedule_counts_of(f->schedule, &counts);
    while (status == NOC_OK && counts.over < f->bench->studies) {
        if (f->event_count > 0) {
            event e = next_event(f);
            now = e.at;
            status = take_event(f, &e, err);
        } else /* all wait for a second attempt */
            now += WINDOW_S;
        take_grants(f, now);
        noc_schedule_counts_of(f->schedule, &counts);
    }
    for (int i = 0; i < f->event_count; i++)
        if (f->events[i].kind == WORKER_RETURNS) /* too late to matter */
            f->spent -= f->events[i].at - now;
    *took = now;
    return status;
}

/* ---- archives ---- */

static double uniform(fleet *f)
{
    f->random = f->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return ((double)(f->random >> 11) + 0.5) / 9007199254740992.0;
}

/* Brains are all alike, 240x240x155 in windows of 128; a hospital's scans are log-normal, most of 8 to 60
 * windows, some of hundreds. */
static double windows_of(fleet *f)
{
    double normal = sqrt(-2 * log(uniform(f))) * cos(2 * PI * uniform(f));
    return f->bench->is_uniform ? 18 : ceil(exp(3 + 0.8 * normal));
}

static noc_status fill(fleet *f, double *longest, noc_error *err)
{
    const noc_schedule_bench *b = f->bench;
    noc_status status = NOC_OK;
    double sum = 0;
    *longest = 0;
    for (int64_t i = 0; status == NOC_OK && i < b->studies; i++) {
        double windows = windows_of(f);
        f->lengths[i] = WINDOW_S * windows * (1 + b->spread * (2 * uniform(f) - 1));
        f->fails[i] = b->has_faults && uniform(f) < FAULTY;
        sum += f->lengths[i];
        *longest = fmax(*longest, f->lengths[i]);
        status = noc_schedule_add_study(f->schedule, i + 1, windows, 0, false, 0, err);
    }
    for (int w = 0; status == NOC_OK && w < b->workers; w++) {
        if (b->has_faults && uniform(f) < FAULTY)
            add_event(f, (event){sum / b->workers * uniform(f), WORKER_DIES, w, 0});
        status = noc_schedule_add_worker(f->schedule, w, 0, err);
    }
    return status;
}

static noc_status make_fleet(fleet *f, noc_error *err)
{
    size_t workers = (size_t)f->bench->workers, studies = (size_t)f->bench->studies;
    noc_schedule_options options = {.attempts = ATTEMPTS, .lease_s = 1e9, .backoff_s = 1, .depth = DEPTH};
    f->lengths = noc_alloc(studies, sizeof *f->lengths, err);
    f->fails = noc_alloc_zeroed(studies, sizeof *f->fails, err);
    f->queue = noc_alloc_zeroed(workers * DEPTH, sizeof *f->queue, err);
    f->since = noc_alloc_zeroed(workers, sizeof *f->since, err);
    f->held = noc_alloc_zeroed(workers, sizeof *f->held, err);
    f->life = noc_alloc_zeroed(workers, sizeof *f->life, err);
    f->events = noc_alloc(2 * workers, sizeof *f->events, err); /* a study's end and a death or return */
    if (!f->lengths || !f->fails || !f->queue || !f->since || !f->held || !f->life || !f->events)
        return NOC_ENOMEMORY;
    return noc_schedule_create(&options, &f->schedule, err);
}

noc_status noc_bench_schedule(const noc_schedule_bench *bench, noc_schedule_bench_result *result,
                              noc_error *err)
{
    fleet f = {.bench = bench, .random = 1};
    double longest = 0;
    noc_status status = make_fleet(&f, err);
    if (status == NOC_OK)
        status = fill(&f, &longest, err);
    if (status == NOC_OK)
        status = run_fleet(&f, &result->makespan_s, err);
    result->bound_s = fmax(longest, f.spent / bench->workers);
    noc_schedule_free(f.schedule);
    free(f.lengths);
    free(f.fails);
    free(f.queue);
    free(f.since);
    free(f.held);
    free(f.life);
    free(f.events);
    return status;
}
