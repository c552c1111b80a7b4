/* The supervisor of a run: starts mpirun in a session of its own, shows progress, relays a request to drain,
 * takes the verdict from rank 0 (never from mpirun's exit code), and starts the ranks again when they died
 * before the work was done. Before a new start every process left of the old session is killed and waited
 * for. */
#ifndef NOC_SUPERVISOR_H
#define NOC_SUPERVISOR_H

#include "pipeline/settings.h"

typedef struct noc_supervisor_options {
    const noc_settings *settings;
    int ranks;
    int argc;
    char **argv;          /* of the ranks, argv[0] replaced by this program */
    int64_t until_unix_s; /* 0: none; handed on, so that a restart keeps it */
} noc_supervisor_options;

/* The run's exit code. NOC_EUNAVAILABLE when there is no mpirun. */
noc_status noc_supervise(const noc_supervisor_options *options, int *exit_code, noc_error *err);

/* True in a process that an MPI launcher started (PMIX_RANK or OMPI_COMM_WORLD_RANK). */
bool noc_is_rank(void);

#endif
