/* The line between a supervisor and rank 0 on the same node: an abstract Unix socket, text lines. Its end is
 * how each learns of the other's death.
 *
 *   rank 0 -> supervisor   "progress TEXT", "summary TEXT", "failure TEXT", "verdict CODE RESTART",
 *                          "busy SECONDS" (it may be silent now)
 *   supervisor -> rank 0   "drain" */
#ifndef NOC_CONTROL_H
#define NOC_CONTROL_H

#include "engine/base/error.h"

#include <sys/types.h>

typedef struct noc_control noc_control;

/* Supervisor: listens; the name to hand to rank 0 in the environment variable NOC_CONTROL. */
noc_status noc_control_listen(noc_control **control, noc_error *err);
const char *noc_control_name(const noc_control *control);
/* Rank 0. NOC_EUNAVAILABLE when the supervisor is not on this node or gone. */
noc_status noc_control_connect(const char *name, noc_control **control, noc_error *err);
void noc_control_close(noc_control *control);
/* Supervisor: forgets the present peer, to accept that of the next start. */
void noc_control_reset(noc_control *control);

/* Supervisor: the process that connected last. */
pid_t noc_control_peer(const noc_control *control);
bool noc_control_is_connected(const noc_control *control);
/* True once the peer that was connected has gone. */
bool noc_control_is_cut(const noc_control *control);

/* Sends one line (without the newline); silently nothing when there is no peer. */
void noc_control_say(noc_control *control, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The next whole line, valid until the next call; NULL when there is none now. Accepts a peer when listening.
 */
const char *noc_control_hear(noc_control *control);

#endif
