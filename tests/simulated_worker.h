/* A worker that computes nothing: the program that links this file has its own worker/worker.h. A study is
 * finished when the simulation says so; its mask is a function of its key. */
#ifndef NOC_SIMULATED_WORKER_H
#define NOC_SIMULATED_WORKER_H

#include "worker/worker.h"

noc_worker *simulated_worker_create(void);
void simulated_worker_free(noc_worker *worker);

/* The study that is being computed: its id, 0 when there is none. */
int64_t simulated_worker_current(const noc_worker *worker);
/* It ends, with a mask or with that failure. A device failure is the end of the worker. */
void simulated_worker_finish(noc_worker *worker, const noc_error *failure);

/* SHA-256 of the mask of a key. */
void simulated_mask(const char *key, unsigned char mask[8], char sha256[65]);

#endif
