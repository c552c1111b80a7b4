/* Masks on their way: worker -> writer -> open part -> closed, renamed, committed part. A delivery is made
 * when a worker says that a mask is ready, and ends with the commit of its part; a lost part puts its studies
 * back. */
#include "pipeline/coordinator_state.h"
#include "pipeline/recovery.h"

#include "engine/base/log.h"
#include "engine/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

enum {
    MASKS_PER_WRITER = 4, /* on their way to or waiting at one writer: bounds its memory */
    MOVE_WAIT_S = 120     /* a mask that a writer without a round has not by then will not come */
};

static void delivery_free(coordinator_delivery *d)
{
    free(d->record.metrics);
    free(d);
}

void coordinator_parts_free(noc_coordinator *c)
{
    while (c->deliveries) {
        coordinator_delivery *d = c->deliveries;
        c->deliveries = d->next;
        delivery_free(d);
    }
}

static coordinator_delivery *find_delivery(const noc_coordinator *c, uint64_t lease)
{
    coordinator_delivery *d = c->deliveries;
    while (d && d->lease != lease)
        d = d->next;
    return d;
}

static void remove_delivery(noc_coordinator *c, coordinator_delivery *gone)
{
    for (coordinator_delivery **at = &c->deliveries; *at; at = &(*at)->next)
        if (*at == gone) {
            *at = gone->next;
            delivery_free(gone);
            return;
        }
}

/* What the catalog will be told when the part is committed. */
static void fill_record(noc_part_study *record, noc_outcome *outcome)
{
    memcpy(record->key, outcome->key, sizeof record->key);
    memcpy(record->source_sha256, outcome->source_sha256, sizeof record->source_sha256);
    memcpy(record->fingerprint, outcome->fingerprint, sizeof record->fingerprint);
    memcpy(record->mask_sha256, outcome->mask_sha256, sizeof record->mask_sha256);
    memcpy(record->suspect, outcome->suspect, sizeof record->suspect);
    record->seconds_read = outcome->seconds_read;
    record->seconds_prepare = outcome->seconds_prepare;
    record->seconds_compute = outcome->seconds_compute;
    record->seconds_score = outcome->seconds_score;
    record->windows = outcome->windows;
    record->metrics = outcome->metrics;
    record->metric_count = outcome->metric_count;
    outcome->metrics = NULL;
}

static bool add_delivery(noc_coordinator *c, int worker, noc_outcome *outcome)
{
    coordinator_delivery *d = calloc(1, sizeof *d), **end = &c->deliveries;
    if (!d)
        return false;
    d->study = outcome->study;
    d->lease = outcome->lease;
    d->worker = worker;
    fill_record(&d->record, outcome);
    while (*end)
        end = &(*end)->next;
    *end = d;
    return true;
}

/* Heartbeats would renew the lease for ever. */
static void end_lease(noc_coordinator *c, int worker, uint64_t lease, const noc_error *failure, double now)
{
    noc_schedule_finish(c->schedule, lease, failure, now);
    coordinator_say(c, worker, NOC_SAY_DISCARD, 1, &lease);
}

void coordinator_finished(noc_coordinator *c, int worker, noc_record *record, double now)
{
    noc_outcome *outcome;
    noc_error failure;
    uint64_t lease = noc_record_lease_of(record);
    if (noc_record_get_outcome(record, &outcome, &failure) != NOC_OK) {
        end_lease(c, worker, lease, &failure, now);
        return;
    }
    if (!noc_schedule_finish(c->schedule, lease, &outcome->failure, now)) {
        coordinator_say(c, worker, NOC_SAY_DISCARD, 1, &lease);
    } else if (outcome->failure.status == NOC_OK && !add_delivery(c, worker, outcome)) {
        noc_fail(&failure, NOC_ENOMEMORY, "the coordinator has no memory for a finished study");
        end_lease(c, worker, lease, &failure, now);
    }
    noc_outcome_free(outcome);
}

void coordinator_holds(noc_coordinator *c, int writer, uint64_t lease)
{
    coordinator_delivery *d = find_delivery(c, lease);
    if (d && d->state == DELIVERY_MOVING && d->writer == writer && noc_schedule_secure(c->schedule, lease))
        d->state = DELIVERY_HELD;
    else
        coordinator_say(c, writer, NOC_SAY_DROP, 1, &lease);
}

static int masks_at(const noc_coordinator *c, int writer)
{
    int count = 0;
    for (const coordinator_delivery *d = c->deliveries; d; d = d->next)
        count += d->writer == writer && d->state >= DELIVERY_MOVING && d->state <= DELIVERY_IN_ROUND;
    return count;
}

static bool send_to_writer(noc_coordinator *c, coordinator_delivery *d, double now)
{
    int best = -1, least = MASKS_PER_WRITER;
    for (int i = 0; i < c->layout.writers; i++) {
        int writer = c->layout.first_writer + i, masks = masks_at(c, writer);
        if (masks < least) {
            best = writer;
            least = masks;
        }
    }
    if (best < 0)
        return false;
    d->state = DELIVERY_MOVING;
    d->moving = now;
    d->writer = best;
    d->group = noc_layout_group_of(&c->layout, best);
    coordinator_say(c, d->worker, NOC_SAY_DELIVER, 2, (uint64_t[]){d->lease, (uint64_t)best});
    return true;
}

/* A mask too large for its writer's memory never arrives, and nobody speaks of it. A round may take long, and
 * its writer takes nothing meanwhile. */
static void watch_moving(noc_coordinator *c, coordinator_delivery *d, double now)
{
    noc_error failure;
    if (c->groups[d->group].state != GROUP_IDLE)
        d->moving = now;
    if (now - d->moving < MOVE_WAIT_S)
        return;
    noc_fail(&failure, NOC_ETIMEOUT, "the mask did not arrive at writer %d within %d s", d->writer,
             MOVE_WAIT_S);
    noc_schedule_finish(c->schedule, d->lease, &failure, now);
}

/* Sends waiting masks on, and forgets those whose lease ended on the way. */
static bool move_deliveries(noc_coordinator *c, double now)
{
    bool did_something = false;
    for (coordinator_delivery *d = c->deliveries, *next; d; d = next) {
        next = d->next;
        if (d->state > DELIVERY_MOVING)
            continue;
        if (d->state == DELIVERY_MOVING)
            watch_moving(c, d, now);
        if (!noc_schedule_is_current(c->schedule, d->lease, NULL)) {
            coordinator_say(c, d->worker, NOC_SAY_DISCARD, 1, &d->lease);
            remove_delivery(c, d);
        } else if (d->state == DELIVERY_WAITING) {
            did_something |= send_to_writer(c, d, now);
        }
    }
    return did_something;
}

/* Stops before the disk is full, while what is open can still be closed. */
static bool has_room(noc_coordinator *c)
{
    if (c->has_no_room)
        return false;
    struct statvfs disk;
    noc_error err;
    const char *folder = c->configuration.results;
    if (statvfs(folder, &disk) != 0)
        return true;
    size_t free_bytes = (size_t)disk.f_bavail * disk.f_frsize;
    if (free_bytes >= c->settings->disk_reserve)
        return true;
    noc_fail(&err, NOC_EIO, "%s: only %zu MiB are free on this file system, less than the reserve of %zu MiB",
             folder, free_bytes >> 20, c->settings->disk_reserve >> 20);
    c->has_no_room = true;
    coordinator_stop(c, &err);
    return false;
}

static void put_sources(noc_record *record, const noc_study *study)
{
    char text[4096];
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; study && i < study->channel_count; i++) {
        int n = snprintf(text + used, sizeof text - used, "%s%s", i ? ";" : "", study->channels[i]);
        if (n < 0 || (used += (size_t)n) >= sizeof text)
            break;
    }
    noc_record_put_text(record, text);
}

/* Tells one writer of the group which of the round's masks are its own. */
static void ask_round(noc_coordinator *c, const coordinator_group *group, int writer)
{
    noc_record record;
    uint64_t count = 0;
    for (const coordinator_delivery *d = c->deliveries; d; d = d->next)
        count += d->state == DELIVERY_IN_ROUND && d->writer == writer;
    noc_record_begin(&record, NOC_SAY_ROUND);
    noc_record_put_u64(&record, (uint64_t)group->part);
    noc_record_put_text(&record, c->isa);
    noc_record_put_text(&record, c->device);
    noc_record_put_u64(&record, count);
    for (const coordinator_delivery *d = c->deliveries; d; d = d->next)
        if (d->state == DELIVERY_IN_ROUND && d->writer == writer) {
            const noc_pending *study = coordinator_study(c, d->study);
            noc_record_put_u64(&record, d->lease);
            put_sources(&record, study ? &study->study : NULL);
        }
    noc_link_send(c->link, writer, &record);
}

/* A new part gets a number that nobody has heard yet: on record before a writer hears it, since one of an
 * earlier start may live on where the supervisor cannot reach it, and still act on its last order. */
static bool number_part(noc_coordinator *c, coordinator_group *group, double now)
{
    noc_error err;
    int64_t number = c->last_part + 1;
    if (!coordinator_begin(c) ||
        !coordinator_check(c, noc_catalog_note_part(c->catalog, c->set, number, &err), &err) ||
        !coordinator_flush(c))
        return false;
    group->part = c->last_part = number;
    group->opened = now;
    return true;
}

static bool start_round(noc_coordinator *c, int index, double now)
{
    coordinator_group *group = &c->groups[index];
    int64_t room = c->settings->part_studies - group->studies, count = 0;
    for (const coordinator_delivery *d = c->deliveries; d && count < room; d = d->next)
        count += d->state == DELIVERY_HELD && d->group == index;
    if (count == 0 || !has_room(c) || (group->part == 0 && !number_part(c, group, now)))
        return false;
    for (coordinator_delivery *d = c->deliveries; d && count > 0; d = d->next)
        if (d->state == DELIVERY_HELD && d->group == index) {
            d->state = DELIVERY_IN_ROUND;
            count--;
        }
    group->state = GROUP_ROUND;
    group->answers = group->count;
    group->asked = now;
    if (group->first == 0) /* this very process */
        coordinator_announce(c);
    for (int i = 0; i < group->count; i++)
        ask_round(c, group, group->first + i);
    return true;
}

static void start_close(noc_coordinator *c, coordinator_group *group, double now)
{
    group->state = GROUP_CLOSING;
    group->answers = group->count;
    group->asked = now;
    if (group->first == 0)
        coordinator_announce(c);
    for (int i = 0; i < group->count; i++)
        coordinator_say(c, group->first + i, NOC_SAY_CLOSE, 1, (uint64_t[]){(uint64_t)group->part});
}

static bool is_full(const noc_coordinator *c, const coordinator_group *group, double now)
{
    return group->studies >= c->settings->part_studies || group->bytes >= (int64_t)c->settings->part_bytes ||
           now - group->opened >= c->settings->part_seconds;
}

bool coordinator_parts(noc_coordinator *c, double now, bool close_all)
{
    bool did_something = move_deliveries(c, now);
    for (int i = 0; i < c->group_count && !c->is_over && !c->must_leave; i++) {
        coordinator_group *group = &c->groups[i];
        if (group->state != GROUP_IDLE)
            continue;
        bool must_close = group->part && is_full(c, group, now);
        if (!must_close && start_round(c, i, now)) {
            did_something = true;
        } else if (group->part && group->state == GROUP_IDLE && (must_close || close_all || c->has_no_room)) {
            start_close(c, group, now);
            did_something = true;
        }
    }
    return did_something;
}

bool coordinator_parts_are_settled(const noc_coordinator *c)
{
    for (int i = 0; i < c->group_count; i++)
        if (c->groups[i].part)
            return false;
    for (const coordinator_delivery *d = c->deliveries; d; d = d->next)
        if (d->state >= DELIVERY_HELD && !c->has_no_room)
            return false;
    return true;
}

/* The answer of one writer of a group; the group itself once all have answered well, else NULL. */
static coordinator_group *take_answer(noc_coordinator *c, int writer, noc_record *record, group_state state)
{
    noc_error failure;
    int index = noc_layout_group_of(&c->layout, writer);
    int64_t part = (int64_t)noc_record_get_u64(record), bytes = (int64_t)noc_record_get_u64(record);
    noc_record_get_error(record, &failure);
    if (index < 0 || c->groups[index].state != state || c->groups[index].part != part)
        return NULL;
    coordinator_group *group = &c->groups[index];
    if (bytes > 0)
        group->bytes = bytes;
    if (failure.status != NOC_OK) { /* the part is gone, and with it the group's way on */
        coordinator_abandon(c, &failure);
        return NULL;
    }
    return --group->answers == 0 ? group : NULL;
}

void coordinator_round_done(noc_coordinator *c, int writer, noc_record *record, double now)
{
    noc_error err;
    coordinator_group *group = take_answer(c, writer, record, GROUP_ROUND);
    (void)now;
    if (writer == 0)
        coordinator_return(c);
    if (!group || !coordinator_begin(c))
        return;
    int index = (int)(group - c->groups);
    for (coordinator_delivery *d = c->deliveries; d; d = d->next) {
        if (d->state != DELIVERY_IN_ROUND || d->group != index)
            continue;
        d->state = DELIVERY_IN_PART;
        group->studies++;
        if (!coordinator_check(c, noc_catalog_mark_written(c->catalog, c->set, d->study, group->part, &err),
                               &err))
            return;
    }
    group->state = GROUP_IDLE;
}

/* The studies of the group's part, as the catalog wants them. The metrics stay the deliveries'. */
static noc_status collect_part(noc_coordinator *c, int index, noc_part_record *part, noc_error *err)
{
    coordinator_group *group = &c->groups[index];
    noc_part_study *studies = noc_alloc_zeroed((size_t)group->studies + 1, sizeof *studies, err);
    size_t count = 0;
    if (!studies)
        return NOC_ENOMEMORY;
    for (coordinator_delivery *d = c->deliveries; d; d = d->next)
        if (d->state == DELIVERY_IN_PART && d->group == index)
            studies[count++] = d->record;
    *part = (noc_part_record){
        .number = group->part, .bytes = group->bytes, .studies = studies, .study_count = count};
    return NOC_OK;
}

static void finish_part(noc_coordinator *c, int index)
{
    coordinator_group *group = &c->groups[index];
    for (coordinator_delivery *d = c->deliveries, *next; d; d = next) {
        next = d->next;
        if (d->state != DELIVERY_IN_PART || d->group != index)
            continue;
        noc_schedule_done(c->schedule, d->study);
        c->done++;
        remove_delivery(c, d);
    }
    group->part = group->studies = group->bytes = 0;
    group->state = GROUP_IDLE;
}

void coordinator_closed(noc_coordinator *c, int writer, noc_record *record)
{
    noc_error err;
    noc_part_record part = {0};
    coordinator_group *group = take_answer(c, writer, record, GROUP_CLOSING);
    if (!group || !coordinator_flush(c))
        return;
    int index = (int)(group - c->groups);
    coordinator_announce(c);
    noc_status status = noc_part_publish(c->configuration.results, group->part, &err);
    if (status == NOC_OK)
        status = collect_part(c, index, &part, &err);
    if (status == NOC_OK)
        status = noc_catalog_commit_part(c->catalog, c->set, &part, &err);
    free(part.studies);
    coordinator_return(c);
    if (!coordinator_check(c, status, &err))
        return;
    noc_log(NOC_LOG_DEBUG, "part %lld is committed with %lld studies", (long long)group->part,
            (long long)group->studies);
    finish_part(c, index);
}
