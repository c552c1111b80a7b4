/* The scheduler. All state is in two tables, studies and workers; decisions wait in a small queue that
 * noc_schedule_next empties before it grants anything.
 *
 * A study never moves in its table. Whoever waits is in one of three heaps, whoever has a lease is in a list,
 * so that no event looks at the whole table: an archive has a hundred thousand studies, and few of them are
 * of interest at a time. */
#include "pipeline/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define AHEAD 1.25 /* what is held may take longer than it looks */

typedef enum study_state { WAITING, GRANTED, SECURED, OVER } study_state;

typedef struct study {
    int64_t id;
    double cost;
    int attempts, deaths_alone;
    bool is_suspect;
    study_state state;
    int worker;      /* of the lease */
    bool is_alone;   /* the lease is one */
    uint64_t lease;  /* 0: none */
    size_t lease_at; /* where in the list of leases */
    double not_before;
} study;

typedef struct worker {
    int id;
    bool is_alive;
    int held;       /* leases */
    double cost;    /* of what it holds */
    bool has_alone; /* one of them is to be alone */
    double heard;
} worker;

/* Places of studies in the table; the first one comes before all others. */
typedef struct heap {
    size_t *places, count;
    bool (*is_before)(const study *a, const study *b);
} heap;

struct noc_schedule {
    noc_schedule_options options;
    study *studies;                           /* in the order of their ids once is_ready */
    size_t study_count, study_capacity, room; /* room of each heap and of the list */
    bool is_ready;
    heap fresh, suspects; /* may be granted now: longest first */
    heap delayed;         /* may not yet: soonest first */
    size_t *leases, lease_count;
    int64_t states[OVER + 1]; /* how many studies are in each */
    double cost;              /* of all that wait or are granted */
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

/* ---- heaps ---- */

static bool is_longer(const study *a, const study *b)
{
    return a->cost != b->cost ? a->cost > b->cost : a->id < b->id;
}

static bool is_sooner(const study *a, const study *b)
{
    return a->not_before != b->not_before ? a->not_before < b->not_before : a->id < b->id;
}

static bool in_order(const noc_schedule *s, const heap *h, size_t upper, size_t lower)
{
    return !h->is_before(&s->studies[h->places[lower]], &s->studies[h->places[upper]]);
}

static void swap(heap *h, size_t a, size_t b)
{
    size_t place = h->places[a];
    h->places[a] = h->places[b];
    h->places[b] = place;
}

static void heap_put(const noc_schedule *s, heap *h, size_t place)
{
    size_t at = h->count++;
    h->places[at] = place;
    for (; at > 0 && !in_order(s, h, (at - 1) / 2, at); at = (at - 1) / 2)
        swap(h, at, (at - 1) / 2);
}

static study *heap_first(const noc_schedule *s, const heap *h)
{
    return h->count > 0 ? &s->studies[h->places[0]] : NULL;
}

static study *heap_take(const noc_schedule *s, heap *h)
{
    study *first = heap_first(s, h);
    if (!first)
        return NULL;
    h->places[0] = h->places[--h->count];
    for (size_t at = 0, below; (below = 2 * at + 1) < h->count; at = below) {
        if (below + 1 < h->count && !in_order(s, h, below, below + 1))
            below++;
        if (in_order(s, h, at, below))
            break;
        swap(h, at, below);
    }
    return first;
}

static void wait_for_grant(noc_schedule *s, study *waiting, double now)
{
    heap *h = waiting->is_suspect ? &s->suspects : &s->fresh;
    heap_put(s, waiting->not_before > now ? &s->delayed : h, (size_t)(waiting - s->studies));
}

/* ---- life ---- */

noc_status noc_schedule_create(const noc_schedule_options *options, noc_schedule **schedule, noc_error *err)
{
    noc_schedule *s = calloc(1, sizeof *s);
    if (!s)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the schedule");
    s->options = *options;
    s->fresh.is_before = s->suspects.is_before = is_longer;
    s->delayed.is_before = is_sooner;
    *schedule = s;
    return NOC_OK;
}

void noc_schedule_free(noc_schedule *schedule)
{
    if (!schedule)
        return;
    free(schedule->studies);
    free(schedule->fresh.places);
    free(schedule->suspects.places);
    free(schedule->delayed.places);
    free(schedule->leases);
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

/* Every heap and the list of leases can hold every study, so that no event needs memory. */
static bool make_room(noc_schedule *s)
{
    size_t **arrays[] = {&s->fresh.places, &s->suspects.places, &s->delayed.places, &s->leases};
    if (s->room >= s->study_capacity)
        return true;
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        size_t *grown = reallocarray(*arrays[i], s->study_capacity, sizeof *grown);
        if (!grown)
            return false;
        *arrays[i] = grown;
    }
    s->room = s->study_capacity;
    return true;
}

noc_status noc_schedule_add_study(noc_schedule *schedule, int64_t id, double cost, int attempts,
                                  bool is_suspect, int deaths_alone, noc_error *err)
{
    noc_schedule *s = schedule;
    if (!grow((void **)&s->studies, s->study_count, &s->study_capacity, sizeof(study)) || !make_room(s))
        return noc_fail(err, NOC_ENOMEMORY, "no memory for a study in the schedule");
    s->studies[s->study_count++] = (study){
        .id = id, .cost = cost, .attempts = attempts, .is_suspect = is_suspect, .deaths_alone = deaths_alone};
    s->states[WAITING]++;
    s->cost += cost;
    s->is_ready = false;
    return NOC_OK;
}

static int compare_ids(const void *a, const void *b)
{
    const study *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* Studies are added before anything is granted. */
static void settle(noc_schedule *s, double now)
{
    if (s->is_ready)
        return;
    if (s->study_count > 0)
        qsort(s->studies, s->study_count, sizeof(study), compare_ids);
    for (size_t i = 0; i < s->study_count; i++)
        wait_for_grant(s, &s->studies[i], now);
    s->is_ready = true;
}

static worker *find_worker(const noc_schedule *schedule, int id)
{
    for (int i = 0; i < schedule->worker_count; i++)
        if (schedule->workers[i].id == id)
            return &schedule->workers[i];
    return NULL;
}

/* Leases are few: workers x depth. */
static study *find_lease(const noc_schedule *s, uint64_t lease)
{
    for (size_t i = 0; lease && i < s->lease_count; i++)
        if (s->studies[s->leases[i]].lease == lease)
            return &s->studies[s->leases[i]];
    return NULL;
}

static study *find_study(const noc_schedule *s, int64_t id)
{
    const study key = {.id = id};
    return s->study_count > 0 ? bsearch(&key, s->studies, s->study_count, sizeof key, compare_ids) : NULL;
}

static void set_state(noc_schedule *schedule, study *s, study_state state)
{
    schedule->states[s->state]--;
    schedule->states[state]++;
    schedule->cost += ((state <= GRANTED) - (s->state <= GRANTED)) * s->cost;
    s->state = state;
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

/* Takes the lease from its worker. */
static void end_lease(noc_schedule *schedule, study *s, study_state next)
{
    worker *w = find_worker(schedule, s->worker);
    if (s->lease) {
        size_t last = schedule->leases[--schedule->lease_count];
        schedule->leases[s->lease_at] = last;
        schedule->studies[last].lease_at = s->lease_at;
        w->cost = --w->held > 0 ? w->cost - s->cost : 0;
        if (s->is_alone)
            w->has_alone = false;
    }
    s->lease = 0;
    s->is_alone = false;
    set_state(schedule, s, next);
}

static bool is_machine_fault(noc_status status)
{
    return noc_status_is_retryable(status) || status == NOC_EUNREADABLE;
}

/* Remembers how a study ended; brakes when most of the last ones ended by the machine's faults. */
void noc_schedule_note_end(noc_schedule *schedule, noc_status status)
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
    noc_schedule_note_end(schedule, failure->status);
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
    end_lease(schedule, s, WAITING);
    s->is_suspect = true;
    wait_for_grant(schedule, s, s->not_before);
    decide(schedule, &d);
}

/* A lease of that worker; NULL: it has none (any more). */
static study *lease_of(const noc_schedule *schedule, int id)
{
    for (size_t i = 0; i < schedule->lease_count; i++)
        if (schedule->studies[schedule->leases[i]].worker == id)
            return &schedule->studies[schedule->leases[i]];
    return NULL;
}

static void lose(noc_schedule *schedule, worker *w)
{
    w->is_alive = false;
    for (study *s; (s = lease_of(schedule, w->id));)
        suspect(schedule, s);
}

void noc_schedule_lose_worker(noc_schedule *schedule, int id)
{
    worker *w = find_worker(schedule, id);
    if (w && w->is_alive)
        lose(schedule, w);
}

/* not_before: 0 for at once. */
static void put_back(noc_schedule *schedule, study *s, const noc_error *failure, double not_before)
{
    noc_decision d = {.kind = NOC_DECIDE_PUT_BACK, .study = s->id, .is_charged = failure != NULL};
    if (failure)
        d.failure = *failure;
    end_lease(schedule, s, WAITING);
    s->not_before = not_before;
    wait_for_grant(schedule, s, 0);
    decide(schedule, &d);
}

void noc_schedule_retire_worker(noc_schedule *schedule, int id)
{
    worker *w = find_worker(schedule, id);
    if (!w)
        return;
    w->is_alive = false;
    for (study *s; (s = lease_of(schedule, id));)
        put_back(schedule, s, NULL, 0);
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
    put_back(schedule, s, failure, now + schedule->options.backoff_s * ldexp(1, s->attempts - 1));
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
    if (!s)
        return false;
    end_lease(schedule, s, SECURED);
    return true;
}

void noc_schedule_done(noc_schedule *schedule, int64_t id)
{
    study *s = find_study(schedule, id);
    if (!s || s->state == OVER)
        return;
    set_state(schedule, s, OVER);
    noc_schedule_note_end(schedule, NOC_OK);
}

void noc_schedule_lose_mask(noc_schedule *schedule, int64_t id)
{
    study *s = find_study(schedule, id);
    if (s && s->state == SECURED)
        put_back(schedule, s, NULL, 0);
}

void noc_schedule_return(noc_schedule *schedule, uint64_t lease)
{
    study *s = find_lease(schedule, lease);
    if (s)
        put_back(schedule, s, NULL, 0);
}

void noc_schedule_drain(noc_schedule *schedule)
{
    schedule->is_draining = true;
}

/* Those whose time has come may be granted. */
static void wake_delayed(noc_schedule *s, double now)
{
    for (study *first; (first = heap_first(s, &s->delayed)) && first->not_before <= now;)
        wait_for_grant(s, heap_take(s, &s->delayed), now);
}

static void grant(noc_schedule *schedule, study *s, worker *w, noc_decision *decision)
{
    set_state(schedule, s, GRANTED);
    s->worker = w->id;
    s->lease = ++schedule->last_lease;
    s->lease_at = schedule->lease_count;
    schedule->leases[schedule->lease_count++] = (size_t)(s - schedule->studies);
    s->is_alone = s->is_suspect;
    w->held++;
    w->cost += s->cost;
    w->has_alone = s->is_alone;
    *decision = (noc_decision){.kind = NOC_DECIDE_GRANT,
                               .study = s->id,
                               .worker = w->id,
                               .lease = s->lease,
                               .is_alone = s->is_alone};
}

/* Workers that hold least are served first, so that the last studies spread over all. */
static worker *least_loaded(noc_schedule *schedule, int *alive)
{
    worker *best = NULL;
    *alive = 0;
    for (int i = 0; i < schedule->worker_count; i++) {
        worker *w = &schedule->workers[i];
        *alive += w->is_alive;
        if (w->is_alive && !w->has_alone && w->held < schedule->options.depth &&
            (!best || w->cost < best->cost || (w->cost == best->cost && w->held < best->held)))
            best = w;
    }
    return best;
}

/* A study waits behind another one in a worker's hand only while the worker's fair share of all that is left
 * is clearly larger than both: otherwise somebody else will be free for it sooner. */
static bool is_within_share(const noc_schedule *schedule, const worker *w, const study *s, int alive)
{
    return w->held == 0 || alive == 1 || (w->cost + s->cost) * AHEAD * alive <= schedule->cost;
}

static bool decide_grant(noc_schedule *schedule, double now, noc_decision *decision)
{
    int alive;
    worker *w = schedule->is_draining ? NULL : least_loaded(schedule, &alive);
    if (!w)
        return false;
    settle(schedule, now);
    wake_delayed(schedule, now);
    study *s = heap_first(schedule, &schedule->fresh);
    heap *from = s ? &schedule->fresh : &schedule->suspects;
    if (!s && w->held == 0)
        s = heap_first(schedule, from);
    if (!s || !is_within_share(schedule, w, s, alive))
        return false;
    grant(schedule, heap_take(schedule, from), w, decision);
    return true;
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
                                    .over = schedule->states[OVER]};
    for (int i = 0; i < schedule->worker_count; i++)
        counts->workers += schedule->workers[i].is_alive;
}
