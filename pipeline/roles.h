/* The roles of a rank, and one turn of the loop that serves them: what has arrived is handled, what is due is
 * said. Which roles there are is the layout's matter, the turn is the same for all. It knows no process, no
 * signal and no clock of its own, so that a whole job can be simulated in one process.
 *
 * Whoever was away itself (stopped, or held by a disk) takes that time from nobody's account; a coordinator
 * that was away unannounced for a lease has been given up by the others and must leave. */
#ifndef NOC_ROLES_H
#define NOC_ROLES_H

#include "pipeline/agent.h"
#include "pipeline/coordinator.h"
#include "pipeline/writer.h"

typedef struct noc_roles {
    noc_link *link;
    double lease_s, heartbeat_s;
    noc_coordinator *coordinator; /* NULL, like the next two: not this rank's; owned by the caller */
    noc_writer *writer;
    noc_agent *agent;
    bool must_stop;        /* the coordinator said so */
    bool has_lost_ranks;   /* and that MPI_Finalize would never return */
    double heard;          /* rank 0, by the others */
    double absence_s;      /* that rank 0 announced */
    double looked;         /* when the loop last came round */
    double last_heartbeat; /* a writer's */
} noc_roles;

/* Before the first turn. */
void noc_roles_begin(noc_roles *roles, double now);
/* Once before each turn. True: this is a coordinator that was away for too long; it must leave at once. */
bool noc_roles_were_missed(noc_roles *roles, double now);
/* True when there was something to do. */
bool noc_roles_turn(noc_roles *roles, double now);
/* True when rank 0 has been silent for too long: there is nobody to work for any more. */
bool noc_roles_are_abandoned(const noc_roles *roles, double now);

#endif
