/* Other processes of this node, as /proc shows them. */
#ifndef NOC_PROCESS_H
#define NOC_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

typedef enum noc_process_state { NOC_PROCESS_RUNS, NOC_PROCESS_STOPPED, NOC_PROCESS_GONE } noc_process_state;

typedef struct noc_process {
    noc_process_state state; /* GONE: not there, or only waiting to be reaped */
    pid_t session;
    uint64_t start_ticks; /* when it started; a pid that is used again has another */
} noc_process;

noc_process noc_process_look(pid_t pid);

/* SIGKILL to every process of that session that is not gone. How many there were. */
int noc_session_kill(pid_t session);

/* Living processes of the session that run the program of this one. */
int noc_session_ranks(pid_t session);

#endif
