/* Scheduling: events in, decisions out. No MPI, no catalog, no clock: `now` is given, in seconds.
 *
 * A study is waiting, granted (leased to a worker), secured (its mask is with a writer) or over. A lease has
 * a number that is never used again; what comes with another number is late and refused. Longest studies
 * first; a study that was held by a worker that died is a suspect and runs alone on a worker, after all
 * others; two deaths while alone are a quarantine. */
#ifndef NOC_SCHEDULE_H
#define NOC_SCHEDULE_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct noc_schedule noc_schedule;

typedef struct noc_schedule_options {
    int attempts;     /* charged attempts before a study fails for good */
    double lease_s;   /* a worker silent for longer is lost */
    double backoff_s; /* wait before a study's second attempt; doubles with each */
    int depth;        /* studies a worker may hold at once */
} noc_schedule_options;

typedef enum noc_decision_kind {
    NOC_DECIDE_NOTHING,
    NOC_DECIDE_GRANT,      /* study to worker under lease */
    NOC_DECIDE_PUT_BACK,   /* study waits again; charged: `failure` counts as an attempt */
    NOC_DECIDE_SUSPECT,    /* its worker died: study waits again, to be run alone; is_alone: it was alone */
    NOC_DECIDE_FAIL,       /* study failed for good with `failure` */
    NOC_DECIDE_QUARANTINE, /* the same after two deaths alone, type crash */
    NOC_DECIDE_BRAKE, /* most of the last studies failed by one kind of fault: stop the run; `failure` says
                         which */
} noc_decision_kind;

typedef struct noc_decision {
    noc_decision_kind kind;
    int64_t study;
    int worker;
    uint64_t lease;
    bool is_charged, is_alone;
    noc_error failure;
} noc_decision;

noc_status noc_schedule_create(const noc_schedule_options *options, noc_schedule **schedule, noc_error *err);
void noc_schedule_free(noc_schedule *schedule);

/* Before the first decision is asked for. cost: any measure of work, larger = longer. */
noc_status noc_schedule_add_study(noc_schedule *schedule, int64_t study, double cost, int attempts,
                                  bool is_suspect, int deaths_alone, noc_error *err);

/* Events. */
noc_status noc_schedule_add_worker(noc_schedule *schedule, int worker, double now,
                                   noc_error *err); /* also when it comes back */
void noc_schedule_heard(noc_schedule *schedule, int worker, double now);
void noc_schedule_lose_worker(noc_schedule *schedule, int worker); /* it died: its leases end */
/* It leaves in order (a device failed): its leases end without suspicion or charge, and it gets nothing more.
 */
void noc_schedule_retire_worker(noc_schedule *schedule, int worker);
void noc_schedule_tick(noc_schedule *schedule, double now); /* silent workers are lost */
/* The worker's answer to a lease: failure->status NOC_OK is a mask ready to be delivered (the lease goes on
 * until secured). False: the lease is not current. */
bool noc_schedule_finish(noc_schedule *schedule, uint64_t lease, const noc_error *failure, double now);
bool noc_schedule_is_current(const noc_schedule *schedule, uint64_t lease, int64_t *study);
/* The mask is with a writer: the worker is free of it. False: the lease is not current, drop the mask. */
bool noc_schedule_secure(noc_schedule *schedule, uint64_t lease);
void noc_schedule_done(noc_schedule *schedule, int64_t study); /* its part is committed */
void noc_schedule_lose_mask(noc_schedule *schedule,
                            int64_t study); /* its open part is gone: it waits again, uncharged */
void noc_schedule_return(noc_schedule *schedule, uint64_t lease); /* given back unbegun, uncharged */
void noc_schedule_drain(noc_schedule *schedule);                  /* no more grants */
/* For the brake: a study ended so before this schedule was made, by ranks that died since. */
void noc_schedule_note_end(noc_schedule *schedule, noc_status status);

/* The next decision, until NOC_DECIDE_NOTHING. */
void noc_schedule_next(noc_schedule *schedule, double now, noc_decision *decision);

typedef struct noc_schedule_counts {
    int64_t waiting, granted, secured, over;
    int workers; /* alive */
} noc_schedule_counts;
void noc_schedule_counts_of(const noc_schedule *schedule, noc_schedule_counts *counts);
/* Alive as far as the schedule knows. */
bool noc_schedule_has_worker(const noc_schedule *schedule, int worker);

/* The global brake (never before 50 studies have ended): 80 % of the last 50 failed by faults of the machine
 * rather than of a scan. */
enum { NOC_BRAKE_WINDOW = 50, NOC_BRAKE_PERCENT = 80, NOC_DEATHS_ALONE = 2 };

#endif
