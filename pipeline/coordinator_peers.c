/* Who lives. A rank is heard by its messages; on the coordinator's own node the process itself is looked at
 * too, so that a death is known within two seconds and a stopped writer is told from one that is busy in a
 * round. */
#include "pipeline/coordinator_state.h"
#include "pipeline/process.h"

#include "engine/base/log.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HELLO_WAIT_S = 120, ROUND_WAIT_S = 300 }; /* the latter as for the coordinator's own disk */
#define GONE_WAIT_S                                                                                          \
    1.5 /* when everything is killed at once, the coordinator must not outlive the others long enough to     \
           blame them */

static bool is_on_this_node(const coordinator_peer *peer)
{
    char host[128] = "";
    gethostname(host, sizeof host - 1);
    return peer->pid > 0 && strcmp(host, peer->host) == 0;
}

static noc_process_state state_of(const coordinator_peer *peer)
{
    noc_process process = noc_process_look((pid_t)peer->pid);
    return process.start_ticks == peer->start_ticks ? process.state : NOC_PROCESS_GONE;
}

/* Every worker must compute the same bits. */
static bool has_same_arithmetic(noc_coordinator *c, int rank, const char *arithmetic)
{
    if (c->arithmetic[0] == '\0')
        snprintf(c->arithmetic, sizeof c->arithmetic, "%s", arithmetic);
    if (strcmp(c->arithmetic, arithmetic) == 0)
        return true;
    noc_log(NOC_LOG_ERROR,
            "rank %d computes with %s, others with %s: masks would depend on the rank; pin a common one with "
            "--isa",
            rank, arithmetic, c->arithmetic);
    return false;
}

/* Workers that can compute, as far as is known. */
static int working(const noc_coordinator *c)
{
    int count = 0;
    for (int i = 0; i < c->layout.workers; i++) {
        const coordinator_peer *peer = &c->peers[c->layout.first_worker + i];
        count += !peer->is_lost && !peer->is_retired;
    }
    return count;
}

/* Once for each worker that comes to a GPU which has one. */
static void say_shared(const noc_coordinator *c, int rank)
{
    const char *uuid = c->peers[rank].uuid;
    for (int i = 0; uuid[0] && i < c->layout.workers; i++) {
        int other = c->layout.first_worker + i;
        if (other == rank || c->peers[other].is_retired || strcmp(c->peers[other].uuid, uuid) != 0)
            continue;
        noc_log(NOC_LOG_WARN,
                "workers %d and %d share one GPU, %s, and wait for each other: --workers gives it fewer, "
                "CUDA_VISIBLE_DEVICES shows others",
                other, rank, uuid);
        return;
    }
}

void coordinator_present(noc_coordinator *c, int rank, noc_record *record)
{
    coordinator_peer *peer = &c->peers[rank];
    noc_record_get_fixed(record, peer->host, sizeof peer->host);
    peer->pid = (int64_t)noc_record_get_u64(record);
    peer->start_ticks = noc_record_get_u64(record);
}

void coordinator_hello(noc_coordinator *c, int rank, noc_record *record, double now)
{
    char arithmetic[256], device[128], isa[16];
    noc_error failure;
    coordinator_peer *peer = &c->peers[rank];
    noc_record_get_fixed(record, arithmetic, sizeof arithmetic);
    noc_record_get_fixed(record, device, sizeof device);
    noc_record_get_fixed(record, isa, sizeof isa);
    noc_record_get_error(record, &failure);
    noc_record_get_fixed(record, peer->uuid, sizeof peer->uuid);
    peer->has_said_hello = true;
    peer->heard = now;
    if (peer->role != NOC_ROLE_WORKER)
        return;
    if (failure.status == NOC_OK && !has_same_arithmetic(c, rank, arithmetic))
        noc_fail(&failure, NOC_ECONFIG,
                 "workers of one run must share an instruction set and library: use --isa");
    if (failure.status != NOC_OK) {
        peer->is_retired = true;
        noc_log(NOC_LOG_ERROR, "worker %d cannot work: %s", rank, failure.text);
        if (working(c) == 0)
            coordinator_stop(c, &failure);
        return;
    }
    if (c->device[0] == '\0') {
        memcpy(c->device, device, sizeof c->device);
        memcpy(c->isa, isa, sizeof c->isa);
    }
    say_shared(c, rank);
    noc_error err;
    coordinator_check(c, noc_schedule_add_worker(c->schedule, rank, now, &err), &err);
}

void coordinator_heard(noc_coordinator *c, int rank, double now)
{
    coordinator_peer *peer = &c->peers[rank];
    peer->heard = now;
    if (peer->role != NOC_ROLE_WORKER || !peer->has_said_hello || peer->is_retired)
        return;
    if (peer->is_lost && !peer->is_gone) { /* it was silent and woke up; its old leases are over */
        noc_error err;
        noc_log(NOC_LOG_INFO, "worker %d is heard again", rank);
        peer->is_lost = false;
        coordinator_check(c, noc_schedule_add_worker(c->schedule, rank, now, &err), &err);
    }
    noc_schedule_heard(c->schedule, rank, now);
}

void coordinator_heartbeat(noc_coordinator *c, int rank, noc_record *record)
{
    coordinator_peer *peer = &c->peers[rank];
    noc_record_get_u64(record);
    peer->seconds = noc_record_get_f64(record);
    peer->busy = noc_record_get_f64(record);
    peer->starved = noc_record_get_f64(record);
    peer->windows = (int64_t)noc_record_get_u64(record);
    peer->peak_bytes = (size_t)noc_record_get_u64(record);
}

void coordinator_broken(noc_coordinator *c, int rank, noc_record *record)
{
    noc_error failure;
    noc_record_get_error(record, &failure);
    if (failure.status == NOC_ETIMEOUT) { /* it leaves, by no fault of the other studies it holds */
        noc_log(NOC_LOG_ERROR, "worker %d is stuck in a study whose time is over: it is replaced", rank);
        c->peers[rank].is_lost = c->peers[rank].is_gone = true;
        noc_schedule_retire_worker(c->schedule, rank);
        return;
    }
    noc_log(NOC_LOG_ERROR, "the device of worker %d failed, it gets no more work: %s", rank, failure.text);
    c->peers[rank].is_retired = true;
    noc_schedule_retire_worker(c->schedule, rank);
    if (working(c) == 0)
        coordinator_stop(c, &failure);
}

static void lose_peer(noc_coordinator *c, int rank, const char *how)
{
    coordinator_peer *peer = &c->peers[rank];
    peer->is_lost = true;
    noc_log(NOC_LOG_WARN, "%s %d %s", peer->role == NOC_ROLE_WRITER ? "writer" : "worker", rank, how);
    if (peer->role == NOC_ROLE_WORKER) {
        noc_schedule_lose_worker(c->schedule, rank);
    } else {
        noc_error err;
        c->wants_restart |= !c->is_draining; /* a run that stops anyway is not started again */
        noc_fail(&err, NOC_ETEMPFAIL, "writer %d %s: its open part is lost, its studies are pending again",
                 rank, how);
        coordinator_abandon(c, &err);
    }
}

static bool is_in_round(const noc_coordinator *c, int rank, double now)
{
    int group = noc_layout_group_of(&c->layout, rank);
    return group >= 0 && c->groups[group].state != GROUP_IDLE && now - c->groups[group].asked < ROUND_WAIT_S;
}

/* Every other rank of another node is lost: it is the node that is gone, not a disk that takes its time. */
static bool is_node_gone(const noc_coordinator *c, int rank)
{
    const coordinator_peer *peer = &c->peers[rank];
    int others = 0, lost = 0;
    for (int i = 1; i < c->layout.ranks; i++) {
        bool is_beside = i != rank && strcmp(c->peers[i].host, peer->host) == 0;
        others += is_beside;
        lost += is_beside && c->peers[i].is_lost;
    }
    return !is_on_this_node(peer) && others > 0 && lost == others;
}

static void watch_process(noc_coordinator *c, int rank, double now)
{
    coordinator_peer *peer = &c->peers[rank];
    noc_process_state state = state_of(peer);
    if (state == NOC_PROCESS_RUNS) {
        peer->missed = 0;
        return;
    }
    if (peer->missed == 0)
        peer->missed = now;
    double gone_s = now - peer->missed;
    if (state == NOC_PROCESS_GONE && gone_s >= GONE_WAIT_S) {
        peer->is_gone = true;
        lose_peer(c, rank, "died");
    } else if (state == NOC_PROCESS_STOPPED && gone_s >= c->settings->lease_s) {
        lose_peer(c, rank, "was stopped and stays silent");
    }
}

static void watch_peer(noc_coordinator *c, int rank, double now)
{
    coordinator_peer *peer = &c->peers[rank];
    if (rank == 0 || peer->is_lost)
        return;
    if (is_on_this_node(peer))
        watch_process(c, rank, now);
    if (!peer->has_said_hello) {
        if (!peer->is_lost && now - c->started > HELLO_WAIT_S)
            lose_peer(c, rank, "never came up");
        return;
    }
    if (!peer->is_lost && now - peer->heard > c->settings->lease_s &&
        (!is_in_round(c, rank, now) || is_node_gone(c, rank)))
        lose_peer(c, rank, "has been silent for too long");
}

void coordinator_watch(noc_coordinator *c, double now)
{
    for (int rank = 1; rank < c->layout.ranks && !c->is_over; rank++)
        watch_peer(c, rank, now);
    int left = working(c), lost = 0;
    for (int i = 0; i < c->layout.workers; i++)
        lost += c->peers[c->layout.first_worker + i].is_lost;
    if (c->failure.status != NOC_OK || lost == 0 || (left > 0 && lost * 2 <= c->layout.workers))
        return;
    noc_error err;
    c->wants_restart |= !c->is_draining;
    noc_fail(&err, NOC_ETEMPFAIL, "%d of %d workers are gone", lost, c->layout.workers);
    coordinator_stop(c, &err);
}
