/* The coordinator: the only writer of the catalog, and the only one to number and rename parts. Turns the
 * schedule's decisions into messages and catalog rows, and what ranks say into events. With two or more ranks
 * it never touches a device. */
#ifndef NOC_COORDINATOR_H
#define NOC_COORDINATOR_H

#include "catalog/lock.h"
#include "pipeline/control.h"
#include "pipeline/layout.h"
#include "pipeline/link.h"
#include "pipeline/results.h"
#include "pipeline/settings.h"

typedef struct noc_coordinator noc_coordinator;

typedef struct noc_coordinator_options {
    const noc_settings *settings;
    const noc_model *model;
    noc_configuration configuration; /* of the result set */
    noc_layout layout;
    noc_link *link;
    noc_control *control; /* NULL: no supervisor; progress goes to stderr */
    int64_t
        since_ns; /* when the supervisor began: what ended since then counts for the brake; 0: nothing did */
} noc_coordinator_options;

/* Takes the lock, opens catalog and result set, recovers what an earlier run left, reads what is pending. */
noc_status noc_coordinator_create(const noc_coordinator_options *options, noc_coordinator **coordinator,
                                  noc_error *err);
void noc_coordinator_free(noc_coordinator *coordinator);

/* True when the message was for the coordinator. */
bool noc_coordinator_handle(noc_coordinator *coordinator, noc_message *message, double now);
/* Makes decisions, starts rounds, closes and commits parts, reports. True when there was something to do. */
bool noc_coordinator_tick(noc_coordinator *coordinator, double now);

/* How long it announced to be away, until its next word to the others. */
double noc_coordinator_absence_s(const noc_coordinator *coordinator);

/* No new grants; ends soon with exit code 75. */
void noc_coordinator_drain(noc_coordinator *coordinator, const char *reason);

/* What is in hand is given back now, instead of being finished. Nothing before a drain. */
void noc_coordinator_hurry(noc_coordinator *coordinator, double now);

typedef struct noc_verdict {
    int exit_code;
    bool wants_restart;  /* ranks died and work remains: a full set should start again */
    bool has_dead_ranks; /* MPI_Finalize would never return, or late */
    int64_t ended;       /* studies that came to an end, of whatever kind */
} noc_verdict;

/* False while the run goes on. */
bool noc_coordinator_is_over(const noc_coordinator *coordinator, noc_verdict *verdict);

/* Estimated windows of a study (by its stored shape; 1 when unknown), the measure of its length. */
double noc_study_cost(const noc_study *study, const noc_manifest *manifest, const int64_t window[3],
                      double overlap);

#endif
