/* The scheduler. All state is in two tables, studies and workers; decisions wait in a small queue that
 * noc_schedule_next empties before it grants anything.
 *
 * An archive has a hundred thousand studies and a run asks for one as often, so that nothing here walks over
 * all of them: what waits lies in heaps (a study in one at most), leases in order of their numbers, studies
 * in order of their ids, and each change of a state is counted as it is made. */
#include "pipeline/schedule.h"

#include <assert.h>
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

/* The least on top. Entries are places in the table of studies. */
typedef struct heap {
    size_t *places, count;
} heap;

typedef enum heap_kind { READY, READY_ALONE, LATER, HEAPS } heap_kind;

typedef struct lease_entry {
    uint64_t number;
    size_t place;
} lease_entry;

typedef struct worker {
    int id;
    bool is_alive;
    int held;       /* leases */
    bool has_alone; /* one of them is to be alone */
    double heard;
} worker;

struct noc_schedule {
    noc_schedule_options options;
    study *studies; /* by id once is_settled */
    size_t study_count, study_capacity;
    bool is_settled;     /* all studies are there, and those that wait are in a heap */
    heap heaps[HEAPS];   /* of what waits: innocents, suspects, and those whose backoff is not over */
    lease_entry *leases; /* of granted studies, by number */
    size_t lease_count;
    int64_t states[OVER + 1]; /* how many studies are in each */
    int64_t looks;
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
    for (int i = 0; i < HEAPS; i++)
        free(schedule->heaps[i].places);
    free(schedule->leases);
    free(schedule->studies);
    free(schedule->workers);
    free(schedule->decisions);
    free(schedule);
}

/* Room for one more study wherever it may come to stand, so that no event fails for want of memory. */
static bool make_room(noc_schedule *schedule)
{
    size_t wanted = schedule->study_capacity ? schedule->study_capacity * 2 : 64;
    if (schedule->study_count < schedule->study_capacity)
        return true;
    for (int i = 0; i < HEAPS; i++) {
        size_t *places = reallocarray(schedule->heaps[i].places, wanted, sizeof *places);
        if (!places)
            return false;
        schedule->heaps[i].places = places;
    }
    lease_entry *leases = reallocarray(schedule->leases, wanted, sizeof *leases);
    if (!leases)
        return false;
    schedule->leases = leases;
    study *studies = reallocarray(schedule->studies, wanted, sizeof *studies);
    if (!studies)
        return false;
    schedule->studies = studies;
    schedule->study_capacity = wanted;
    return true;
}

noc_status noc_schedule_add_study(noc_schedule *schedule, int64_t id, double cost, int attempts,
                                  bool is_suspect, int deaths_alone, noc_error *err)
{
    assert(!schedule->is_settled);
    if (!make_room(schedule))
        return noc_fail(err, NOC_ENOMEMORY, "no memory for a study in the schedule");
    schedule->studies[schedule->study_count++] = (study){
        .id = id, .cost = cost, .attempts = attempts, .is_suspect = is_suspect, .deaths_alone = deaths_alone};
    schedule->states[WAITING]++;
    return NOC_OK;
}

/* ---- what waits ---- */

static bool is_before(noc_schedule *schedule, heap_kind kind, size_t a, size_t b)
{
    const study *x = &schedule->studies[a], *y = &schedule->studies[b];
    schedule->looks++;
    if (kind == LATER && x->not_before != y->not_before)
        return x->not_before < y->not_before;
    return x->cost != y->cost ? x->cost > y->cost : x->id < y->id;
}

static void swap(size_t *a, size_t *b)
{
    size_t kept = *a;
    *a = *b;
    *b = kept;
}

static void push(noc_schedule *schedule, heap_kind kind, size_t place)
{
    heap *h = &schedule->heaps[kind];
    size_t at = h->count++;
    h->places[at] = place;
    for (; at > 0 && is_before(schedule, kind, h->places[at], h->places[(at - 1) / 2]); at = (at - 1) / 2)
        swap(&h->places[at], &h->places[(at - 1) / 2]);
}

static void pop(noc_schedule *schedule, heap_kind kind)
{
    heap *h = &schedule->heaps[kind];
    h->places[0] = h->places[--h->count];
    for (size_t at = 0, least;; at = least) {
        least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < h->count; child++)
            if (is_before(schedule, kind, h->places[child], h->places[least]))
                least = child;
        if (least == at)
            return;
        swap(&h->places[at], &h->places[least]);
    }
}

static void wait_in_line(noc_schedule *schedule, const study *s)
{
    heap_kind kind = s->not_before > 0 ? LATER : s->is_suspect ? READY_ALONE : READY;
    push(schedule, kind, (size_t)(s - schedule->studies));
}

static void set_state(noc_schedule *schedule, study *s, study_state state)
{
    schedule->states[s->state]--;
    schedule->states[state]++;
    s->state = state;
    if (state == WAITING)
        wait_in_line(schedule, s);
}

static int compare_ids(const void *a, const void *b)
{
    const study *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* Once, with the first event: studies come in any order. */
static void settle(noc_schedule *schedule)
{
    if (schedule->is_settled)
        return;
    schedule->is_settled = true;
    if (schedule->study_count > 0)
        qsort(schedule->studies, schedule->study_count, sizeof(study), compare_ids);
    for (size_t i = 0; i < schedule->study_count; i++)
        wait_in_line(schedule, &schedule->studies[i]);
}
static worker *find_worker(const noc_schedule *schedule, int id)
{
    for (int i = 0; i < schedule->worker_count; i++)
        if (schedule->workers[i].id == id)
            return &schedule->workers[i];
    return NULL;
}

/* ---- leases ---- */

/* The first that is not older than that number. */
static size_t lease_at(noc_schedule *schedule, uint64_t number)
{
    size_t first = 0, end = schedule->lease_count;
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        schedule->looks++;
        if (schedule->leases[middle].number < number)
            first = middle + 1;
        else
            end = middle;
    }
    return first;
}

static study *find_lease(noc_schedule *schedule, uint64_t number)
{
    size_t at = lease_at(schedule, number);
    bool is_there = at < schedule->lease_count && schedule->leases[at].number == number;
    return is_there ? &schedule->studies[schedule->leases[at].place] : NULL;
}

static study *find_study(noc_schedule *schedule, int64_t id)
{
    size_t first = 0, end = schedule->study_count;
    settle(schedule);
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        schedule->looks++;
        if (schedule->studies[middle].id < id)
            first = middle + 1;
        else
            end = middle;
    }
    bool is_there = first < schedule->study_count && schedule->studies[first].id == id;
    return is_there ? &schedule->studies[first] : NULL;
}

/* Takes the lease, if there is one, from its worker. */
static void end_lease(noc_schedule *schedule, study *s, study_state state)
{
    if (s->state == GRANTED) {
        worker *w = find_worker(schedule, s->worker);
        lease_entry *gone = &schedule->leases[lease_at(schedule, s->lease)];
        memmove(gone, gone + 1,
                (size_t)(schedule->leases + schedule->lease_count - (gone + 1)) * sizeof *gone);
        schedule->lease_count--;
        w->held--;
        if (s->is_alone)
            w->has_alone = false;
    }
    s->lease = 0;
    s->is_alone = false;
    set_state(schedule, s, state);
}

static bool has_room_to_decide(noc_schedule *schedule)
{
    size_t wanted = schedule->decision_capacity ? schedule->decision_capacity * 2 : 64;
    if (schedule->decision_count < schedule->decision_capacity)
        return true;
    noc_decision *decisions = reallocarray(schedule->decisions, wanted, sizeof *decisions);
    if (!decisions)
        return false;
    schedule->decisions = decisions;
    schedule->decision_capacity = wanted;
    return true;
}

static void decide(noc_schedule *schedule, const noc_decision *decision)
{
    /* A decision that finds no memory is made again after the next start: the catalog still says running. */
    if (has_room_to_decide(schedule))
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
    end_lease(schedule, s, OVER);
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
    s->is_suspect = true;
    end_lease(schedule, s, WAITING);
    decide(schedule, &d);
}

/* The first study from lease *at on that is with the worker. */
static study *next_held(noc_schedule *schedule, int holder, size_t *at)
{
    for (; *at < schedule->lease_count; ++*at) {
        study *s = &schedule->studies[schedule->leases[*at].place];
        if (s->worker == holder)
            return s;
    }
    return NULL;
}

static void lose(noc_schedule *schedule, worker *w)
{
    size_t at = 0;
    w->is_alive = false;
    for (study *s = next_held(schedule, w->id, &at); s; s = next_held(schedule, w->id, &at))
        suspect(schedule, s); /* which takes its lease away */
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
    end_lease(schedule, s, WAITING);
    decide(schedule, &d);
}

void noc_schedule_retire_worker(noc_schedule *schedule, int id)
{
    worker *w = find_worker(schedule, id);
    size_t at = 0;
    if (!w)
        return;
    w->is_alive = false;
    for (study *s = next_held(schedule, id, &at); s; s = next_held(schedule, id, &at))
        put_back(schedule, s, NULL);
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
    if (!s)
        return false;
    if (failure->status == NOC_OK)
        return true;
    bool is_last = !noc_status_is_retryable(failure->status) || s->attempts + 1 >= schedule->options.attempts;
    s->attempts++;
    if (is_last) {
        end_study(schedule, s, NOC_DECIDE_FAIL, failure);
        return true;
    }
    s->not_before = now + schedule->options.backoff_s * ldexp(1, s->attempts - 1);
    put_back(schedule, s, failure);
    return true;
}

bool noc_schedule_is_current(noc_schedule *schedule, uint64_t lease, int64_t *id)
{
    const study *s = find_lease(schedule, lease);
    if (s && id)
        *id = s->id;
    return s != NULL;
}

bool noc_schedule_secure(noc_schedule *schedule, uint64_t lease)
{
    study *s = find_lease(schedule, lease);
    if (s)
        end_lease(schedule, s, SECURED);
    return s != NULL;
}

void noc_schedule_done(noc_schedule *schedule, int64_t id)
{
    study *s = find_study(schedule, id);
    if (!s || s->state == OVER)
        return;
    end_lease(schedule, s, OVER);
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
    if (s)
        put_back(schedule, s, NULL);
}

void noc_schedule_drain(noc_schedule *schedule)
{
    schedule->is_draining = true;
}

/* ---- grants ---- */

/* The place on top, without those that came to their end while they waited. */
static study *top(noc_schedule *schedule, heap_kind kind)
{
    heap *h = &schedule->heaps[kind];
    while (h->count > 0 && schedule->studies[h->places[0]].state != WAITING)
        pop(schedule, kind);
    return h->count > 0 ? &schedule->studies[h->places[0]] : NULL;
}

/* Those whose backoff is over stand in line again. */
static void wake(noc_schedule *schedule, double now)
{
    for (study *s = top(schedule, LATER); s && s->not_before <= now; s = top(schedule, LATER)) {
        pop(schedule, LATER);
        push(schedule, s->is_suspect ? READY_ALONE : READY, (size_t)(s - schedule->studies));
    }
}

static void grant(noc_schedule *schedule, heap_kind kind, worker *w, noc_decision *decision)
{
    study *s = top(schedule, kind);
    pop(schedule, kind);
    set_state(schedule, s, GRANTED);
    s->worker = w->id;
    s->lease = ++schedule->last_lease;
    s->is_alone = s->is_suspect;
    schedule->leases[schedule->lease_count++] = (lease_entry){s->lease, (size_t)(s - schedule->studies)};
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

static void decide_grant(noc_schedule *schedule, double now, noc_decision *decision)
{
    worker *w = schedule->is_draining ? NULL : least_loaded(schedule);
    if (!w)
        return;
    settle(schedule);
    wake(schedule, now);
    if (top(schedule, READY))
        grant(schedule, READY, w, decision);
    else if (w->held == 0 && top(schedule, READY_ALONE))
        grant(schedule, READY_ALONE, w, decision);
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
    *counts = (noc_schedule_counts){.waiting = schedule->states[WAITING],
                                    .granted = schedule->states[GRANTED],
                                    .secured = schedule->states[SECURED],
                                    .over = schedule->states[OVER],
                                    .looks = schedule->looks};
    for (int i = 0; i < schedule->worker_count; i++)
        counts->workers += schedule->workers[i].is_alive;
}
