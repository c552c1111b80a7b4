#include "tests/simulated_worker.h"

#include "engine/base/sha256.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct item {
    struct item *next;
    noc_outcome *outcome;
} item;

struct noc_worker {
    item *jobs, *results; /* in their order; the first job is being computed */
    bool is_broken;
};

static void put(item **list, noc_outcome *outcome)
{
    item *made = calloc(1, sizeof *made);
    made->outcome = outcome;
    while (*list)
        list = &(*list)->next;
    *list = made;
}

static noc_outcome *take(item **list)
{
    item *first = *list;
    noc_outcome *outcome = first ? first->outcome : NULL;
    if (first)
        *list = first->next;
    free(first);
    return outcome;
}

noc_worker *simulated_worker_create(void)
{
    return calloc(1, sizeof(noc_worker));
}

void simulated_worker_free(noc_worker *worker)
{
    if (!worker)
        return;
    while (worker->jobs)
        noc_outcome_free(take(&worker->jobs));
    while (worker->results)
        noc_outcome_free(take(&worker->results));
    free(worker);
}

int64_t simulated_worker_current(const noc_worker *worker)
{
    return worker->jobs ? worker->jobs->outcome->study : 0;
}

void simulated_mask(const char *key, unsigned char mask[8], char sha256[65])
{
    memset(mask, 0, 8);
    for (size_t i = 0; key[i]; i++)
        mask[i % 8] = (unsigned char)(mask[i % 8] * 31 + key[i]);
    noc_sha256_of(mask, 8, sha256, NULL);
}

static void fill_outcome(noc_outcome *o)
{
    o->grid.size[0] = o->grid.size[1] = o->grid.size[2] = 2;
    o->mask_bytes = 1;
    o->mask = malloc(8);
    simulated_mask(o->key, o->mask, o->mask_sha256);
    snprintf(o->source_sha256, sizeof o->source_sha256, "%064d", 7);
    o->windows = 1;
}

void simulated_worker_finish(noc_worker *worker, const noc_error *failure)
{
    noc_outcome *o = take(&worker->jobs);
    o->failure = *failure;
    worker->is_broken |= failure->status == NOC_EDEVICE;
    if (failure->status == NOC_OK)
        fill_outcome(o);
    put(&worker->results, o);
}

/* ---- worker/worker.h ---- */

noc_status noc_worker_submit(noc_worker *worker, const noc_study *study, uint64_t lease, noc_error *err)
{
    noc_outcome *o = calloc(1, sizeof *o);
    if (!o)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for a study");
    o->study = study->id;
    o->lease = lease;
    memcpy(o->key, study->key, sizeof o->key);
    snprintf(o->fingerprint, sizeof o->fingerprint, "%s", study->fingerprint);
    put(&worker->jobs, o);
    while (worker->is_broken && worker->jobs) /* every outcome of a broken worker fails so */
        simulated_worker_finish(worker, &(noc_error){.status = NOC_EDEVICE, .text = "the device is gone"});
    return NOC_OK;
}

noc_outcome *noc_worker_take(noc_worker *worker)
{
    return take(&worker->results);
}

int noc_worker_in_hand(const noc_worker *worker)
{
    int count = 0;
    for (const item *i = worker->jobs; i; i = i->next)
        count++;
    for (const item *i = worker->results; i; i = i->next)
        count++;
    return count;
}

void noc_worker_withdraw(noc_worker *worker, void (*returned)(void *argument, int64_t study, uint64_t lease),
                         void *argument)
{
    item **unbegun = worker->jobs ? &worker->jobs->next : &worker->jobs;
    while (*unbegun) {
        noc_outcome *o = take(unbegun);
        returned(argument, o->study, o->lease);
        noc_outcome_free(o);
    }
}

bool noc_worker_is_stuck(noc_worker *worker, uint64_t *lease)
{
    (void)worker;
    (void)lease;
    return false;
}

bool noc_worker_is_broken(const noc_worker *worker)
{
    return worker->is_broken;
}

void noc_worker_stats_of(noc_worker *worker, noc_worker_stats *stats)
{
    (void)worker;
    memset(stats, 0, sizeof *stats);
}
