/* One rank of a run: its roles, and the loop that serves them. MPI is called from this loop's thread only; it
 * sleeps when there is nothing to do. */
#ifndef NOC_RANK_H
#define NOC_RANK_H

#include "pipeline/coordinator.h"
#include "pipeline/placement.h"

typedef struct noc_rank_options {
    const noc_settings *settings;
    const noc_model *model;
    noc_configuration configuration;
    noc_layout layout;
    noc_link *link;
    noc_control *control;  /* rank 0 with a supervisor, else NULL */
    MPI_Comm group;        /* of the writers that share a part with this one, else MPI_COMM_NULL */
    int coordinator;       /* its pid when it is on this node, else 0 */
    int node_workers;      /* worker ranks on this node, */
    int node_worker;       /* and the number of this one */
    noc_topology topology; /* its CPUs that this rank may use */
    int sharers, share;    /* worker ranks that share these CPUs, and the number of this one */
    int64_t until_unix_s;  /* stop then; 0: never */
    int64_t since_ns;      /* when the supervisor began; 0: none */
} noc_rank_options;

/* Runs until the coordinator ends the run. Rank 0's verdict is the run's; other ranks return exit code 0, or
 * 75 when the coordinator or the launcher is gone. NOC_OK or why this rank could not begin. */
noc_status noc_rank_run(const noc_rank_options *options, noc_verdict *verdict, noc_error *err);

#endif
