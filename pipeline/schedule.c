/* The scheduler. All state is in two tables, studies and workers; decisions wait in a small queue that
 * noc_schedule_next empties before it grants anything. */
#include "pipeline/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum study_state { WAITING, GRANTED, SECURED, OVER } study_state;

typedef struct study {
    int64_t id;
    double cost;
    int attempts, deaths_alone;
    bool is_suspect;
    study_state state;
    int worker;     /* of the lease */
    bool is_alone;  /* the lease is one */
    uint64_t lease; /* 0: none */
    double not_before;
} study;

typedef struct worker {
    int id;
    bool is_alive;
    int held;       /* leases */
    bool has_alone; /* one of them is to be alone */
    double heard;
} worker;

struct noc_schedule {
    noc_schedule_options options;
    study *studies; /* in the order of grants: suspects last, then by cost descending, then as added */
    size_t study_count, study_capacity;
    bool is_sorted;
    size_t first_waiting; /* no study before it waits */
    worker *workers;
    int worker_count;
    noc_decision *decisions;
    size_t decision_count, decision_capacity, decision_at;
    uint64_t last_lease;
    bool is_draining;
    noc_status ended[NOC_BRAKE_WINDOW]; /* ring of how the last studies ended */
    int64_t ended_count;
    bool has_braked;
};

noc_status noc_schedule_create(const noc_schedule_options *options, noc_schedule **schedule, noc_error *err)
{
    noc_schedule *s = calloc(1, sizeof *s);
    if (!s)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the schedule");
    s->options = *options;
    *schedule = s;
    return NOC_OK;
}

void noc_schedule_free(noc_schedule *schedule)
{
    if (!schedule)
        return;
    free(schedule->studies);
    free(schedule->workers);
    free(schedule->decisions);
    free(schedule);
}

/* Room for one more element in a table of any kind. */
static bool grow(void **table, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return true;
    size_t wanted = *capacity ? *capacity * 2 : 64;
    void *grown = realloc(*table, wanted * size);
    if (!grown)
        return false;
    *table = grown;
    *capacity = wanted;
    return true;
}

noc_status noc_schedule_add_study(noc_schedule *schedule, int64_t id, double cost, int attempts,
                                  bool is_suspect, int deaths_alone, noc_error *err)
{
    /* two decisions a study can wait at once at most: its end and the brake */
    if (!grow((void **)&schedule->studies, schedule->study_count, &schedule->study_capacity, sizeof(study)))
        return noc_fail(err, NOC_ENOMEMORY, "no memory for a study in the schedule");
    schedule->studies[schedule->study_count++] = (study){
        .id = id, .cost = cost, .attempts = attempts, .is_suspect = is_suspect, .deaths_alone = deaths_alone};
    schedule->is_sorted = false;
    return NOC_OK;
}

static int compare_studies(const void *a, const void *b)
{
    const study *x = a, *y = b;
    if (x->is_suspect != y->is_suspect)
        return x->is_suspect - y->is_suspect;
    if (x->cost != y->cost)
        return x->cost < y->cost ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static void sort_studies(noc_schedule *schedule)
{
    if (schedule->is_sorted)
        return;
    if (schedule->study_count > 0)
        qsort(schedule->studies, schedule->study_count, sizeof(study), compare_studies);
    schedule->is_sorted = true;
    schedule->first_waiting = 0;
}

static worker *find_worker(const noc_schedule *schedule, int id)
{
    for (int i = 0; i < schedule->worker_count; i++)
        if (schedule->workers[i].id == id)
            return &schedule->workers[i];
    return NULL;
}

/* Leases are few (workers x depth), but they lie anywhere in the table: a plain search is fast enough for a
 * hundred thousand studies. */
static study *find_lease(const noc_schedule *schedule, uint64_t lease)
{
    for (size_t i = 0; lease && i < schedule->study_count; i++)
        if (schedule->studies[i].lease == lease)
            return &schedule->studies[i];
    return NULL;
}

static study *find_study(const noc_schedule *schedule, int64_t id)
{
    for (size_t i = 0; i < schedule->study_count; i++)
        if (schedule->studies[i].id == id)
            return &schedule->studies[i];
    return NULL;
}

static void decide(noc_schedule *schedule, const noc_decision *decision)
{
    /* A decision that finds no memory is made again after the next start: the catalog still says running. */
    if (grow((void **)&schedule->decisions, schedule->decision_count, &schedule->decision_capacity,
             sizeof(noc_decision)))
        schedule->decisions[schedule->decision_count++] = *decision;
}

noc_status noc_schedule_add_worker(noc_schedule *schedule, int id, double now, noc_error *err)
{
    worker *w = find_worker(schedule, id);
    if (!w) {
        worker *grown = realloc(schedule->workers, (size_t)(schedule->worker_count + 1) * sizeof *grown);
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for a worker in the schedule");
        schedule->workers = grown;
        w = &grown[schedule->worker_count++];
        *w = (worker){.id = id};
    }
    w->is_alive = true;
    w->heard = now;
    return NOC_OK;
}

bool noc_schedule_has_worker(const noc_schedule *schedule, int id)
{
    const worker *w = find_worker(schedule, id);
    return w && w->is_alive;
}

void noc_schedule_heard(noc_schedule *schedule, int id, double now)
{
    worker *w = find_worker(schedule, id);
    if (w && w->is_alive)
        w->heard = now;
}

/* Takes the lease from its worker; the study waits unless the caller says otherwise. */
static void end_lease(noc_schedule *schedule, study *s)
{
    worker *w = find_worker(schedule, s->worker);
    if (w && s->state == GRANTED) {
        w->held--;
        if (s->is_alone)
            w->has_alone = false;
    }
    s->lease = 0;
    s->is_alone = false;
    s->state = WAITING;
    schedule->first_waiting = 0;
}

static bool is_machine_fault(noc_status status)
{
    return noc_status_is_retryable(status) || status == NOC_EUNREADABLE;
}

/* Remembers how a study ended; brakes when most of the last ones ended by the machine's faults. */
static void note_end(noc_schedule *schedule, noc_status status)
{
    int faults = 0;
    schedule->ended[schedule->ended_count++ % NOC_BRAKE_WINDOW] = status;
    if (schedule->ended_count < NOC_BRAKE_WINDOW || schedule->has_braked)
        return;
    for (int i = 0; i < NOC_BRAKE_WINDOW; i++)
        faults += is_machine_fault(schedule->ended[i]);
    if (faults * 100 < NOC_BRAKE_WINDOW * NOC_BRAKE_PERCENT)
        return;
    noc_decision d = {.kind = NOC_DECIDE_BRAKE};
    noc_fail(&d.failure, NOC_EUNAVAILABLE,
             "%d of the last %d studies failed by faults of the machine (the last: %s); the run stops before "
             "it burns the rest",
             faults, NOC_BRAKE_WINDOW, noc_status_name(status));
    schedule->has_braked = true;
    schedule->is_draining = true;
    decide(schedule, &d);
}

static void end_study(noc_schedule *schedule, study *s, noc_decision_kind kind, const noc_error *failure)
{
    noc_decision d = {.kind = kind, .study = s->id, .failure = *failure};
    end_lease(schedule, s);
    s->state = OVER;
    decide(schedule, &d);
    note_end(schedule, failure->status);
}

static void suspect(noc_schedule *schedule, study *s)
{
    noc_error failure;
    noc_decision d = {.kind = NOC_DECIDE_SUSPECT, .study = s->id, .is_alone = s->is_alone};
    if (s->is_alone && ++s->deaths_alone >= NOC_DEATHS_ALONE) {
        noc_fail(&failure, NOC_ECRASH, "its worker died %d times while it held nothing else",
                 s->deaths_alone);
        end_study(schedule, s, NOC_DECIDE_QUARANTINE, &failure);
        return;
    }
    end_lease(schedule, s);
    s->is_suspect = true;
    schedule->is_sorted = false;
    decide(schedule, &d);
}

static void lose(noc_schedule *schedule, worker *w)
{
    w->is_alive = false;
    for (size_t i = 0; i < schedule->study_count; i++)
        if (schedule->studies[i].state == GRANTED && schedule->studies[i].worker == w->id)
            suspect(schedule, &schedule->studies[i]);
}

void noc_schedule_lose_worker(noc_schedule *schedule, int id)
{
    worker *w = find_worker(schedule, id);
    if (w && w->is_alive)
        lose(schedule, w);
}

static void put_back(noc_schedule *schedule, study *s, const noc_error *failure)
{
    noc_decision d = {.kind = NOC_DECIDE_PUT_BACK, .study = s->id, .is_charged = failure != NULL};
    if (failure)
        d.failure = *failure;
    end_lease(schedule, s);
    decide(schedule, &d);
}

void noc_schedule_retire_worker(noc_schedule *schedule, int id)
{
    worker *w = find_worker(schedule, id);
    if (!w)
        return;
    w->is_alive = false;
    for (size_t i = 0; i < schedule->study_count; i++)
        if (schedule->studies[i].state == GRANTED && schedule->studies[i].worker == id)
            put_back(schedule, &schedule->studies[i], NULL);
}

void noc_schedule_tick(noc_schedule *schedule, double now)
{
    for (int i = 0; i < schedule->worker_count; i++) {
        worker *w = &schedule->workers[i];
        if (w->is_alive && now - w->heard > schedule->options.lease_s)
            lose(schedule, w);
    }
}

bool noc_schedule_finish(noc_schedule *schedule, uint64_t lease, const noc_error *failure, double now)
{
    study *s = find_lease(schedule, lease);
    if (!s || s->state != GRANTED)
        return false;
    if (failure->status == NOC_OK)
        return true;
    bool is_last = !noc_status_is_retryable(failure->status) || s->attempts + 1 >= schedule->options.attempts;
    s->attempts++;
    if (is_last) {
        end_study(schedule, s, NOC_DECIDE_FAIL, failure);
        return true;
    }
    put_back(schedule, s, failure);
    s->not_before = now + schedule->options.backoff_s * ldexp(1, s->attempts - 1);
    return true;
}

bool noc_schedule_is_current(const noc_schedule *schedule, uint64_t lease, int64_t *id)
{
    const study *s = find_lease(schedule, lease);
    if (s && id)
        *id = s->id;
    return s != NULL;
}

bool noc_schedule_secure(noc_schedule *schedule, uint64_t lease)
{
    study *s = find_lease(schedule, lease);
    if (!s || s->state != GRANTED)
        return false;
    end_lease(schedule, s);
    s->state = SECURED;
    return true;
}

void noc_schedule_done(noc_schedule *schedule, int64_t id)
{
    study *s = find_study(schedule, id);
    if (!s || s->state == OVER)
        return;
    s->state = OVER;
    note_end(schedule, NOC_OK);
}

void noc_schedule_lose_mask(noc_schedule *schedule, int64_t id)
{
    study *s = find_study(schedule, id);
    if (s && s->state == SECURED)
        put_back(schedule, s, NULL);
}

void noc_schedule_return(noc_schedule *schedule, uint64_t lease)
{
    study *s = find_lease(schedule, lease);
    if (s && s->state == GRANTED)
        put_back(schedule, s, NULL);
}

void noc_schedule_drain(noc_schedule *schedule)
{
    schedule->is_draining = true;
}

static study *next_waiting(noc_schedule *schedule, double now, bool want_suspect)
{
    sort_studies(schedule);
    for (size_t i = schedule->first_waiting; i < schedule->study_count; i++) {
        study *s = &schedule->studies[i];
        if (s->state != WAITING) {
            if (i == schedule->first_waiting)
                schedule->first_waiting++;
            continue;
        }
        if (s->not_before <= now && s->is_suspect == want_suspect)
            return s;
    }
    return NULL;
}

static void grant(noc_schedule *schedule, study *s, worker *w, noc_decision *decision)
{
    s->state = GRANTED;
    s->worker = w->id;
    s->lease = ++schedule->last_lease;
    s->is_alone = s->is_suspect;
    w->held++;
    w->has_alone = s->is_alone;
    *decision = (noc_decision){.kind = NOC_DECIDE_GRANT,
                               .study = s->id,
                               .worker = w->id,
                               .lease = s->lease,
                               .is_alone = s->is_alone};
}

/* Workers that hold least are served first, so that the last studies spread over all. */
static worker *least_loaded(noc_schedule *schedule)
{
    worker *best = NULL;
    for (int i = 0; i < schedule->worker_count; i++) {
        worker *w = &schedule->workers[i];
        if (w->is_alive && !w->has_alone && w->held < schedule->options.depth &&
            (!best || w->held < best->held))
            best = w;
    }
    return best;
}

static bool decide_grant(noc_schedule *schedule, double now, noc_decision *decision)
{
    worker *w = schedule->is_draining ? NULL : least_loaded(schedule);
    if (!w)
        return false;
    study *s = next_waiting(schedule, now, false);
    if (!s && w->held == 0)
        s = next_waiting(schedule, now, true);
    if (s)
        grant(schedule, s, w, decision);
    return s != NULL;
}

void noc_schedule_next(noc_schedule *schedule, double now, noc_decision *decision)
{
    *decision = (noc_decision){.kind = NOC_DECIDE_NOTHING};
    if (schedule->decision_at < schedule->decision_count) {
        *decision = schedule->decisions[schedule->decision_at++];
        return;
    }
    schedule->decision_at = schedule->decision_count = 0;
    decide_grant(schedule, now, decision);
}

void noc_schedule_counts_of(const noc_schedule *schedule, noc_schedule_counts *counts)
{
    int64_t states[4] = {0};
    for (size_t i = 0; i < schedule->study_count; i++)
        states[schedule->studies[i].state]++;
    *counts = (noc_schedule_counts){.waiting = states[WAITING],
                                    .granted = states[GRANTED],
                                    .secured = states[SECURED],
                                    .over = states[OVER]};
    for (int i = 0; i < schedule->worker_count; i++)
        counts->workers += schedule->workers[i].is_alive;
}
