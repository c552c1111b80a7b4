/* A pool of threads for parallel loops. Work is cut in `count` pieces whatever the number of threads, so
 * results cannot depend on it; pieces are handed out dynamically. Waiting threads sleep. One loop at a time a
 * pool; the calling thread works too. */
#ifndef NOC_BASE_POOL_H
#define NOC_BASE_POOL_H

#include "engine/base/error.h"

typedef struct noc_pool noc_pool;

/* threads >= 1, the caller's included. */
noc_status noc_pool_create(int threads, noc_pool **pool, noc_error *err);
void noc_pool_free(noc_pool *pool);
int noc_pool_threads(const noc_pool *pool);

/* Calls piece(argument, i, thread) for i in [0, count), each once; thread in [0, threads). Returns when all
 * are done. */
void noc_pool_run(noc_pool *pool, int count, void (*piece)(void *argument, int i, int thread),
                  void *argument);

#endif
