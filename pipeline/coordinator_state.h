/* The coordinator's inside, shared by coordinator.c (events and decisions), coordinator_peers.c (who lives),
 * coordinator_parts.c (masks on their way into committed parts) and coordinator_report.c (what people see).
 */
#ifndef NOC_COORDINATOR_STATE_H
#define NOC_COORDINATOR_STATE_H

#include "pipeline/coordinator.h"
#include "pipeline/message.h"
#include "pipeline/schedule.h"

typedef struct coordinator_peer {
    noc_role role;
    bool has_said_hello;
    bool is_lost;    /* dead or silent; a worker may come back */
    bool is_gone;    /* its process is gone for good */
    bool is_retired; /* cannot work: its device failed, or never opened */
    char host[128];
    char uuid[48];        /* of a worker's GPU, or "" */
    int64_t pid;          /* 0: not known yet */
    uint64_t start_ticks; /* of the process, so that a reused pid is not taken for it */
    double heard;         /* when it last said something */
    double missed;        /* since when its process is gone or stopped; 0: it runs */
    double seconds, busy, starved;
    int64_t windows;
    size_t peak_bytes;
} coordinator_peer;

typedef enum delivery_state {
    DELIVERY_WAITING,  /* the worker has it, no writer is free */
    DELIVERY_MOVING,   /* on its way from worker to writer */
    DELIVERY_HELD,     /* the writer has it, the lease is over */
    DELIVERY_IN_ROUND, /* being written */
    DELIVERY_IN_PART,  /* in the open part */
} delivery_state;

typedef struct coordinator_delivery {
    struct coordinator_delivery *next;
    delivery_state state;
    int64_t study;
    uint64_t lease;
    int worker, writer, group;
    double moving;         /* MOVING: since when its writer could have taken it */
    noc_part_study record; /* what the catalog will be told */
} coordinator_delivery;

typedef enum group_state { GROUP_IDLE, GROUP_ROUND, GROUP_CLOSING } group_state;

typedef struct coordinator_group {
    int first, count; /* ranks */
    group_state state;
    int answers; /* still awaited */
    double asked;
    int64_t part; /* open part's number, 0: none */
    int64_t studies, bytes;
    double opened;
} coordinator_group;

struct noc_coordinator {
    const noc_settings *settings;
    const noc_model *model;
    noc_configuration configuration;
    noc_layout layout;
    noc_link *link;
    noc_control *control;
    noc_catalog_lock *lock;
    noc_catalog *catalog;
    bool in_transaction;
    int64_t set, run;
    noc_schedule *schedule;
    noc_pending *studies; /* of this run, by id ascending */
    size_t study_count;
    coordinator_peer *peers;
    coordinator_group *groups;
    int group_count;
    coordinator_delivery *deliveries;
    int64_t last_part;
    char device[128], isa[16], arithmetic[256]; /* of the first worker */
    double started;                             /* first tick */
    double ticked;                              /* last time the slow things were looked at */
    double seen;                                /* last tick */
    double absence_s;                           /* as announced: how long it may be silent now */
    double status_written, progress_said;
    bool is_draining;
    double drain_deadline;
    noc_error failure; /* why the run ends other than by finishing; NOC_OK: none */
    bool wants_restart;
    bool must_leave;  /* a writer, a part or the catalog is lost: what is open cannot be committed any more */
    bool has_no_room; /* below the disk reserve: what is open is closed, and nothing more is written */
    bool is_over;
    int exit_code;
    int64_t done, failed; /* in this run */
    double first_grant;   /* 0: none yet */
};

/* coordinator.c */
/* Ends the run without another part: recovery takes care of what is open. The first failure counts. */
void coordinator_abandon(noc_coordinator *c, const noc_error *failure);
/* Ends the run with that failure (the first one counts): nothing more is granted or written. */
void coordinator_stop(noc_coordinator *c, const noc_error *failure);
/* Opens a transaction unless one is open; it ends at the end of the tick. False after a failure, which has
 * stopped the run. */
bool coordinator_begin(noc_coordinator *c);
bool coordinator_flush(noc_coordinator *c);
/* Stops the run at once unless status is NOC_OK: without its catalog nothing can be committed. */
bool coordinator_check(noc_coordinator *c, noc_status status, const noc_error *err);
/* Before what may block for long (a disk): the others shall be patient until the next word. */
void coordinator_announce(noc_coordinator *c);
/* The next word, right after. */
void coordinator_return(noc_coordinator *c);
/* A message of nothing but numbers. */
void coordinator_say(noc_coordinator *c, int to, noc_message_type type, int count, const uint64_t *numbers);
const noc_pending *coordinator_study(const noc_coordinator *c, int64_t id);

/* coordinator_peers.c */
void coordinator_present(noc_coordinator *c, int rank, noc_record *record);
void coordinator_hello(noc_coordinator *c, int rank, noc_record *record, double now);
void coordinator_heard(noc_coordinator *c, int rank, double now);
void coordinator_heartbeat(noc_coordinator *c, int rank, noc_record *record);
void coordinator_broken(noc_coordinator *c, int rank, noc_record *record);
/* Looks who died or fell silent; drains for a restart when too many did. */
void coordinator_watch(noc_coordinator *c, double now);

/* coordinator_parts.c */
void coordinator_finished(noc_coordinator *c, int worker, noc_record *record, double now);
void coordinator_holds(noc_coordinator *c, int writer, uint64_t lease);
void coordinator_round_done(noc_coordinator *c, int writer, noc_record *record, double now);
void coordinator_closed(noc_coordinator *c, int writer, noc_record *record);
/* Moves deliveries on, starts rounds, closes parts. True when something was started. */
bool coordinator_parts(noc_coordinator *c, double now, bool close_all);
/* No mask is between its worker and a committed part. */
bool coordinator_parts_are_settled(const noc_coordinator *c);
void coordinator_parts_free(noc_coordinator *c);

/* coordinator_report.c */
void coordinator_report(noc_coordinator *c, double now);
void coordinator_summary(noc_coordinator *c, double now);

#endif
