/* Events and decisions. One tick: what is due is looked at, the schedule's decisions become messages and
 * rows, masks move on, and the transaction that gathered the rows is committed. What always holds: a study is
 * done in the catalog only after its part was closed, synced and renamed. */
#include "pipeline/command.h"
#include "pipeline/coordinator_state.h"
#include "pipeline/recovery.h"

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOCK_WAIT_S 15.0
#define DRAIN_S 60.0   /* for what is in hand when a run is asked to stop */
#define RESTART_S 10.0 /* the same before ranks are started again */
#define LATE_S 10.0    /* for a round that is under way then */
#define WATCH_S 0.5
#define ABSENCE_S 300.0 /* for a disk that takes its time */

/* ---- small services ---- */

void coordinator_stop(noc_coordinator *c, const noc_error *failure)
{
    if (c->failure.status != NOC_OK)
        return;
    c->failure = *failure;
    noc_log(failure->status == NOC_ETEMPFAIL ? NOC_LOG_WARN : NOC_LOG_ERROR, "the run stops: %s",
            failure->text);
    noc_schedule_drain(c->schedule);
}

void coordinator_abandon(noc_coordinator *c, const noc_error *failure)
{
    if (c->failure.status != NOC_OK)
        noc_log(NOC_LOG_ERROR, "%s", failure->text);
    c->must_leave = true;
    coordinator_stop(c, failure);
}

bool coordinator_check(noc_coordinator *c, noc_status status, const noc_error *err)
{
    if (status != NOC_OK)
        coordinator_abandon(c, err);
    return status == NOC_OK;
}

bool coordinator_begin(noc_coordinator *c)
{
    noc_error err;
    if (!c->in_transaction && coordinator_check(c, noc_catalog_begin(c->catalog, &err), &err))
        c->in_transaction = true;
    return c->in_transaction;
}

bool coordinator_flush(noc_coordinator *c)
{
    noc_error err;
    if (!c->in_transaction)
        return true;
    c->in_transaction = false;
    noc_status status = noc_catalog_commit(c->catalog, &err);
    if (status != NOC_OK)
        noc_catalog_rollback(c->catalog);
    return coordinator_check(c, status, &err);
}

void coordinator_say(noc_coordinator *c, int to, noc_message_type type, int count, const uint64_t *numbers)
{
    noc_record record;
    noc_record_begin(&record, type);
    for (int i = 0; i < count; i++)
        noc_record_put_u64(&record, numbers[i]);
    noc_link_send(c->link, to, &record);
}

/* To the ranks, and, when it changes, to the supervisor. */
static void ping(noc_coordinator *c, double absence_s)
{
    for (int rank = 1; rank < c->layout.ranks; rank++)
        if (!c->peers[rank].is_gone)
            coordinator_say(c, rank, NOC_SAY_PING, 1, (uint64_t[]){(uint64_t)absence_s});
    if (c->absence_s != absence_s && c->control)
        noc_control_say(c->control, "busy %.0f", absence_s);
    c->absence_s = absence_s;
}

void coordinator_announce(noc_coordinator *c)
{
    ping(c, ABSENCE_S);
}

void coordinator_return(noc_coordinator *c)
{
    ping(c, 0);
}

double noc_coordinator_absence_s(const noc_coordinator *c)
{
    return c->absence_s;
}

static int compare_ids(const void *a, const void *b)
{
    const noc_pending *x = a, *y = b;
    return (x->study.id > y->study.id) - (x->study.id < y->study.id);
}

const noc_pending *coordinator_study(const noc_coordinator *c, int64_t id)
{
    const noc_pending key = {.study = {.id = id}};
    return bsearch(&key, c->studies, c->study_count, sizeof key, compare_ids);
}

/* ---- life ---- */

double noc_study_cost(const noc_study *study, const noc_manifest *manifest, const int64_t window[3],
                      double overlap)
{
    noc_windows windows;
    noc_prepare_needs needs;
    const int64_t size[3] = {study->size[2], study->size[1], study->size[0]};
    const double spacing_mm[3] = {study->spacing_mm[2], study->spacing_mm[1], study->spacing_mm[0]};
    if (!study->has_shape)
        return 1;
    noc_prepare_estimate(manifest, size, spacing_mm, 0, &needs);
    if (noc_windows_plan(needs.size, window, overlap, &windows, NULL) != NOC_OK)
        return 1;
    return (double)noc_windows_total(&windows);
}

static noc_status fill_schedule(noc_coordinator *c, noc_error *err)
{
    noc_schedule_options options = {.attempts = c->settings->attempts,
                                    .lease_s = c->settings->lease_s,
                                    .backoff_s = 1,
                                    .depth = NOC_STUDIES_HELD};
    noc_status status = noc_schedule_create(&options, &c->schedule, err);
    for (size_t i = 0; status == NOC_OK && i < c->study_count; i++) {
        const noc_pending *p = &c->studies[i];
        double cost =
            noc_study_cost(&p->study, c->model->manifest, c->configuration.window, c->configuration.overlap);
        status = noc_schedule_add_study(c->schedule, p->study.id, cost, p->attempts, p->is_suspect,
                                        p->deaths_alone, err);
    }
    return status;
}

/* Ranks that die take their memory of how studies ended with them. */
static noc_status recall_ends(noc_coordinator *c, int64_t since_ns, noc_error *err)
{
    noc_status ends[NOC_BRAKE_WINDOW];
    int count = 0;
    noc_status status =
        since_ns > 0 ? noc_catalog_ends(c->catalog, c->set, since_ns, ends, NOC_BRAKE_WINDOW, &count, err)
                     : NOC_OK;
    while (status == NOC_OK && count > 0)
        noc_schedule_note_end(c->schedule, ends[--count]);
    return status;
}

static noc_status open_catalog(noc_coordinator *c, noc_error *err)
{
    const noc_settings *s = c->settings;
    noc_recovery recovery;
    noc_status status = noc_catalog_lock_take(s->catalog, LOCK_WAIT_S, &c->lock, err);
    if (status == NOC_OK)
        status = noc_catalog_open(s->catalog, NOC_CATALOG_WRITE, &c->catalog, err);
    if (status == NOC_OK)
        status = noc_catalog_open_set(c->catalog, &c->configuration, &c->set, err);
    if (status == NOC_OK)
        status = noc_recover(c->catalog, c->set, &c->configuration, &recovery, err);
    if (status != NOC_OK)
        return status;
    c->last_part = recovery.last_part;
    if (recovery.put_back > 0 || recovery.removed_open > 0)
        noc_log(NOC_LOG_INFO,
                "an earlier run was cut short: %lld unfinished parts removed, %lld studies pending again",
                (long long)recovery.removed_open, (long long)recovery.put_back);
    status = noc_catalog_pending(c->catalog, c->set, s->only, s->limit, &c->studies, &c->study_count, err);
    if (status == NOC_OK && c->study_count > 0)
        qsort(c->studies, c->study_count, sizeof *c->studies, compare_ids);
    return status;
}

static noc_status begin_run(noc_coordinator *c, noc_error *err)
{
    noc_run_record record = {.ranks = c->layout.ranks};
    snprintf(record.version, sizeof record.version, "%s", noc_version());
    snprintf(record.device, sizeof record.device, "%s", c->settings->device);
    gethostname(record.host, sizeof record.host - 1);
    return c->study_count == 0 ? NOC_OK : noc_catalog_begin_run(c->catalog, c->set, &record, &c->run, err);
}

static noc_status make_tables(noc_coordinator *c, noc_error *err)
{
    c->group_count = noc_layout_groups(&c->layout);
    c->peers = noc_alloc_zeroed((size_t)c->layout.ranks, sizeof *c->peers, err);
    c->groups = noc_alloc_zeroed((size_t)c->group_count, sizeof *c->groups, err);
    if (!c->peers || !c->groups)
        return NOC_ENOMEMORY;
    for (int i = 0; i < c->group_count; i++)
        noc_layout_group(&c->layout, i, &c->groups[i].first, &c->groups[i].count);
    for (int rank = 0; rank < c->layout.ranks; rank++)
        if (noc_layout_is_worker(&c->layout, rank))
            c->peers[rank].role = NOC_ROLE_WORKER;
        else if (rank > 0)
            c->peers[rank].role = NOC_ROLE_WRITER;
    return NOC_OK;
}

noc_status noc_coordinator_create(const noc_coordinator_options *options, noc_coordinator **coordinator,
                                  noc_error *err)
{
    noc_coordinator *c = calloc(1, sizeof *c);
    if (!c)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the coordinator");
    c->settings = options->settings;
    c->model = options->model;
    c->configuration = options->configuration;
    c->layout = options->layout;
    c->link = options->link;
    c->control = options->control;
    noc_status status = make_tables(c, err);
    if (status == NOC_OK) {
        coordinator_announce(c); /* a recovery may read whole parts */
        status = open_catalog(c, err);
    }
    if (status == NOC_OK)
        status = fill_schedule(c, err);
    if (status == NOC_OK)
        status = recall_ends(c, options->since_ns, err);
    if (status == NOC_OK)
        status = begin_run(c, err);
    if (status != NOC_OK) {
        noc_coordinator_free(c);
        return status;
    }
    c->started = noc_clock_monotonic();
    *coordinator = c;
    return NOC_OK;
}

void noc_coordinator_free(noc_coordinator *coordinator)
{
    if (!coordinator)
        return;
    coordinator_parts_free(coordinator);
    noc_schedule_free(coordinator->schedule);
    noc_pending_free(coordinator->studies, coordinator->study_count);
    noc_catalog_close(coordinator->catalog);
    noc_catalog_lock_release(coordinator->lock);
    free(coordinator->peers);
    free(coordinator->groups);
    free(coordinator);
}

/* ---- events ---- */

bool noc_coordinator_handle(noc_coordinator *c, noc_message *message, double now)
{
    noc_record *record = &message->record;
    int from = message->from;
    coordinator_heard(c, from, now);
    switch (message->type) {
    case NOC_SAY_PRESENT:
        coordinator_present(c, from, record);
        return true;
    case NOC_SAY_HELLO:
        coordinator_hello(c, from, record, now);
        return true;
    case NOC_SAY_HEARTBEAT:
        coordinator_heartbeat(c, from, record);
        return true;
    case NOC_SAY_FINISHED:
        coordinator_finished(c, from, record, now);
        return true;
    case NOC_SAY_RETURNED:
        noc_schedule_return(c->schedule, noc_record_get_u64(record));
        return true;
    case NOC_SAY_BROKEN:
        coordinator_broken(c, from, record);
        return true;
    case NOC_SAY_HOLDS:
        coordinator_holds(c, from, noc_record_get_u64(record));
        return true;
    case NOC_SAY_ROUND_DONE:
        coordinator_round_done(c, from, record, now);
        return true;
    case NOC_SAY_CLOSED:
        coordinator_closed(c, from, record);
        return true;
    default:
        return false;
    }
}

void noc_coordinator_drain(noc_coordinator *c, const char *reason)
{
    if (c->is_draining || c->is_over)
        return;
    noc_log(NOC_LOG_INFO, "%s: no new studies; what is in hand is finished or given back", reason);
    c->is_draining = true;
    c->drain_deadline = noc_clock_monotonic() + (c->wants_restart ? RESTART_S : DRAIN_S);
    noc_schedule_drain(c->schedule);
    for (int i = 0; i < c->layout.workers; i++)
        coordinator_say(c, c->layout.first_worker + i, NOC_SAY_WITHDRAW, 0, NULL);
}

void noc_coordinator_hurry(noc_coordinator *c, double now)
{
    if (!c->is_draining || c->is_over || now >= c->drain_deadline)
        return;
    noc_log(NOC_LOG_WARN, "asked again: what is in hand is given back now");
    c->drain_deadline = now;
}

/* ---- decisions ---- */

static void act_grant(noc_coordinator *c, const noc_decision *d, double now)
{
    noc_error err;
    noc_record record;
    const noc_pending *pending = coordinator_study(c, d->study);
    if (!coordinator_begin(c) ||
        !coordinator_check(c,
                           noc_catalog_start(c->catalog, c->set, c->run, d->study, d->worker,
                                             c->peers[d->worker].host, &err),
                           &err))
        return;
    if (c->first_grant == 0)
        c->first_grant = now;
    noc_record_begin(&record, NOC_SAY_GRANT);
    noc_record_put_u64(&record, d->lease);
    noc_record_put_study(&record, &pending->study);
    noc_link_send(c->link, d->worker, &record);
}

static void act_end(noc_coordinator *c, const noc_decision *d)
{
    noc_error err;
    noc_study_state state = d->kind == NOC_DECIDE_QUARANTINE ? NOC_QUARANTINED : NOC_FAILED;
    const noc_pending *pending = coordinator_study(c, d->study);
    noc_log(NOC_LOG_WARN, "%s %s: %s", pending->study.key, state == NOC_FAILED ? "failed" : "is quarantined",
            noc_status_name(d->failure.status));
    c->failed++;
    if (coordinator_begin(c))
        coordinator_check(c, noc_catalog_fail(c->catalog, c->set, d->study, state, &d->failure, &err), &err);
}

static void act(noc_coordinator *c, const noc_decision *d, double now)
{
    noc_error err;
    const noc_error *failure = d->is_charged ? &d->failure : NULL;
    switch (d->kind) {
    case NOC_DECIDE_GRANT:
        act_grant(c, d, now);
        break;
    case NOC_DECIDE_PUT_BACK:
        if (coordinator_begin(c))
            coordinator_check(
                c, noc_catalog_put_back(c->catalog, c->set, d->study, d->is_charged, failure, &err), &err);
        break;
    case NOC_DECIDE_SUSPECT:
        if (coordinator_begin(c))
            coordinator_check(c, noc_catalog_mark_suspect(c->catalog, c->set, d->study, d->is_alone, &err),
                              &err);
        break;
    case NOC_DECIDE_FAIL:
    case NOC_DECIDE_QUARANTINE:
        act_end(c, d);
        break;
    case NOC_DECIDE_BRAKE:
        coordinator_stop(c, &d->failure);
        break;
    case NOC_DECIDE_NOTHING:
        break;
    }
}

static bool decide(noc_coordinator *c, double now)
{
    noc_decision decision;
    bool did_something = false;
    for (noc_schedule_next(c->schedule, now, &decision); decision.kind != NOC_DECIDE_NOTHING;
         noc_schedule_next(c->schedule, now, &decision)) {
        act(c, &decision, now);
        did_something = true;
    }
    return did_something;
}

/* ---- the end ---- */

static bool has_unfinished(const noc_coordinator *c)
{
    noc_schedule_counts counts;
    noc_schedule_counts_of(c->schedule, &counts);
    return counts.waiting + counts.granted + counts.secured > 0;
}

static int exit_code_of(noc_coordinator *c)
{
    noc_counts counts;
    noc_error err;
    if (c->failure.status != NOC_OK)
        return noc_status_exit(c->failure.status);
    if (c->is_draining && has_unfinished(c))
        return noc_status_exit(NOC_ETEMPFAIL);
    if (noc_catalog_states(c->catalog, c->set, &counts, &err) != NOC_OK) {
        noc_log(NOC_LOG_ERROR, "%s", err.text);
        return noc_status_exit(err.status);
    }
    return counts.states[NOC_FAILED] + counts.states[NOC_QUARANTINED] > 0 ? 1 : 0;
}

/* A worker that is still at something comes to MPI_Finalize late, if ever; writers whose round or close does
 * not end well may wait for each other for ever. */
static bool has_dead_ranks(const noc_coordinator *c)
{
    noc_schedule_counts counts;
    noc_schedule_counts_of(c->schedule, &counts);
    bool has_dead = counts.granted > 0;
    for (int rank = 1; rank < c->layout.ranks; rank++)
        has_dead |= c->peers[rank].is_lost;
    for (int i = 0; i < c->group_count; i++)
        has_dead |= c->groups[i].count > 1 && c->groups[i].state != GROUP_IDLE;
    return has_dead;
}

static void finish(noc_coordinator *c, double now)
{
    noc_error err;
    coordinator_announce(c);
    if (coordinator_flush(c) && !c->must_leave)
        coordinator_check(c, noc_index_write(c->configuration.results, c->catalog, c->set, &err), &err);
    if (c->run > 0 &&
        noc_catalog_recover(c->catalog, c->set, NULL, &err) != NOC_OK) /* the next start does it, then */
        noc_log(NOC_LOG_DEBUG, "%s", err.text);
    c->exit_code = exit_code_of(c);
    if (c->run > 0 && noc_catalog_end_run(c->catalog, c->run, c->exit_code, &err) != NOC_OK)
        noc_log(NOC_LOG_WARN, "the end of the run could not be recorded: %s", err.text);
    c->is_over = true;
    coordinator_summary(c, now);
    uint64_t has_dead = has_dead_ranks(c);
    for (int rank = 1; rank < c->layout.ranks; rank++)
        coordinator_say(c, rank, NOC_SAY_STOP, 1, &has_dead);
}

static bool is_overdue(const noc_coordinator *c, double now)
{
    return c->drain_deadline > 0 && now > c->drain_deadline;
}

/* A round that goes on for so long after the last moment does not end; recovery takes care of its part. */
static void give_up_rounds(noc_coordinator *c, double now)
{
    noc_error err;
    if (!is_overdue(c, now - LATE_S))
        return;
    for (int i = 0; i < c->group_count && !c->must_leave; i++)
        if (c->groups[i].state != GROUP_IDLE) {
            noc_fail(&err, NOC_ETEMPFAIL, "part %lld does not come to its end: it is given up",
                     (long long)c->groups[i].part);
            coordinator_abandon(c, &err);
        }
}

/* A run that stops for a reason closes what is written; when that is lost it leaves at once. */
static void look_for_the_end(noc_coordinator *c, const noc_schedule_counts *counts, double now)
{
    bool no_more_grants = c->is_draining || c->failure.status != NOC_OK;
    bool none_in_hand = counts->granted == 0 || c->has_no_room || is_overdue(c, now) ||
                        (c->failure.status != NOC_OK && counts->workers == 0);
    if (c->must_leave ||
        ((counts->waiting == 0 || no_more_grants) && none_in_hand && coordinator_parts_are_settled(c)))
        finish(c, now);
}

bool noc_coordinator_tick(noc_coordinator *c, double now)
{
    noc_schedule_counts counts;
    if (c->is_over)
        return false;
    if (now - c->seen > 2 * WATCH_S) /* it was away itself: what the others said meanwhile is heard first */
        c->ticked = now;
    c->seen = now;
    if (now - c->ticked >= WATCH_S) {
        c->ticked = now;
        ping(c, 0);
        if (c->layout.ranks > 1) /* a worker in this very process cannot be lost */
            noc_schedule_tick(c->schedule, now);
        coordinator_watch(c, now);
        coordinator_report(c, now);
    }
    if (c->failure.status != NOC_OK && c->drain_deadline == 0)
        noc_coordinator_drain(c, "the run stops");
    bool did_something = decide(c, now);
    noc_schedule_counts_of(c->schedule, &counts);
    bool close_all = (counts.granted == 0 && (counts.waiting == 0 || c->is_draining)) || is_overdue(c, now);
    did_something |= coordinator_parts(c, now, close_all);
    coordinator_flush(c);
    give_up_rounds(c, now);
    look_for_the_end(c, &counts, now);
    return did_something;
}

bool noc_coordinator_is_over(const noc_coordinator *c, noc_verdict *verdict)
{
    if (!c->is_over)
        return false;
    *verdict = (noc_verdict){.exit_code = c->exit_code,
                             .wants_restart = c->wants_restart,
                             .has_dead_ranks = has_dead_ranks(c),
                             .ended = c->done + c->failed};
    return true;
}
