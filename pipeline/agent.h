/* The agent of a worker rank: takes leases from the coordinator to the worker and its outcomes back. */
#ifndef NOC_AGENT_H
#define NOC_AGENT_H

#include "pipeline/link.h"

typedef struct noc_agent noc_agent;

noc_status noc_agent_create(noc_link *link, noc_worker *worker, double heartbeat_s, noc_agent **agent,
                            noc_error *err);
void noc_agent_free(noc_agent *agent);

/* GRANT, DELIVER, DISCARD, WITHDRAW. True when the message was for a worker. */
bool noc_agent_handle(noc_agent *agent, noc_message *message);
/* True once a thread of the worker never came back from a study whose time is over: the coordinator was told,
 * and this rank shall leave. */
bool noc_agent_is_stuck(const noc_agent *agent);
/* Sends outcomes and heartbeats. True when there was something to do. */
bool noc_agent_tick(noc_agent *agent, double now);

#endif
