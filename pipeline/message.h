/* What ranks tell each other. Fields are in the order they stand in the record (u64 unless said).
 *
 *   worker      -> coordinator  PRESENT, HELLO, HEARTBEAT, FINISHED, RETURNED, BROKEN
 *   writer      -> coordinator  PRESENT, HELLO, PING, HOLDS, ROUND_DONE, CLOSED,
 *                               FINISHED (a mask that it cannot keep)
 *   coordinator -> worker       GRANT, DELIVER, DISCARD, WITHDRAW
 *   coordinator -> writer       DROP, ROUND, CLOSE
 *   coordinator -> all          PING, STOP
 *   worker      -> writer       MASK
 *
 * Writers of a group also send each other ROUND, by an all-gather of MPI: count, then per study: outcome
 * without voxels, source text. */
#ifndef NOC_MESSAGE_H
#define NOC_MESSAGE_H

typedef enum noc_message_type {
    NOC_SAY_HELLO = 1, /* arithmetic text (what decides the bits), device text, isa text, error (why it cannot
                          work), UUID text of its GPU */
    NOC_SAY_PRESENT,   /* host text, pid, pid's start time: at once, since a device may open slowly */
    NOC_SAY_HEARTBEAT, /* studies in hand, f64 seconds, busy, starved; windows, peak bytes */
    NOC_SAY_FINISHED,  /* outcome without voxels */
    NOC_SAY_RETURNED,  /* lease */
    NOC_SAY_BROKEN,    /* error: `device`, or `timeout` from a rank that leaves since it is stuck */
    NOC_SAY_HOLDS,     /* lease: the mask has arrived at the writer */
    NOC_SAY_ROUND_DONE, /* part, bytes of the open file, error */
    NOC_SAY_CLOSED,     /* part, bytes, error */
    NOC_SAY_GRANT,      /* lease, study */
    NOC_SAY_DELIVER,    /* lease, writer's rank: send it the mask */
    NOC_SAY_DISCARD,    /* lease: nobody wants the mask */
    NOC_SAY_WITHDRAW,   /* give back what has not begun */
    NOC_SAY_DROP,       /* lease */
    NOC_SAY_ROUND,      /* part, isa text, device text, count, then per study: lease, source text */
    NOC_SAY_CLOSE,      /* part */
    NOC_SAY_PING,       /* coordinator: s that it may be silent now; writer: nothing */
    NOC_SAY_STOP,       /* 1 when ranks are lost: MPI_Finalize would never return */
    NOC_SAY_MASK,       /* outcome with voxels */
} noc_message_type;

/* By a worker at most, for which it has leases. */
enum { NOC_STUDIES_HELD = 4 };

typedef enum noc_role { NOC_ROLE_COORDINATOR, NOC_ROLE_WRITER, NOC_ROLE_WORKER } noc_role;

#endif
