/* How ranks reach each other: nonblocking messages between (or, with one rank, within) processes. Never
 * blocks; never fails towards the caller: what could not be sent to a dead rank is abandoned with its buffer,
 * and silence is what the others notice. A rank that has lost a message for want of memory must fall silent.
 */
#ifndef NOC_LINK_H
#define NOC_LINK_H

#include "pipeline/record.h"

#include <mpi.h>

typedef struct noc_link noc_link;

typedef struct noc_message {
    int from;
    uint32_t type;
    noc_record record; /* record.data is owned by the message: noc_record_free */
} noc_message;

/* One process, rank 0 of 1; MPI is not touched. */
noc_status noc_link_open_local(noc_link **link, noc_error *err);
/* Over MPI_COMM_WORLD (initialised); duplicates the communicator. [all] */
noc_status noc_link_open_mpi(noc_link **link, noc_error *err);
/* Abandons what is still under way. */
void noc_link_close(noc_link *link);

int noc_link_rank(const noc_link *link);
int noc_link_size(const noc_link *link);

/* Ends the record, takes over its block and zeroes it. */
void noc_link_send(noc_link *link, int to, noc_record *record);
/* The next message that has wholly arrived, in order per sender; false when there is none. */
bool noc_link_receive(noc_link *link, noc_message *message);
/* True once a message to or from this rank was lost for want of memory: others may wait for it for ever while
 * this rank's heartbeats comfort them, so it must leave. Masks too large to be received do not count; their
 * delivery ends in time. */
bool noc_link_has_lost(const noc_link *link);
/* True when everything sent has left. */
bool noc_link_is_flushed(noc_link *link);

#endif
