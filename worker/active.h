/* The segmentations under way. Windows are handed to the engine in the order in which studies came; a batch
 * that the first study cannot fill is filled up by the next, so few are under way at once. Used by the
 * engine thread alone. */
#ifndef NOC_ACTIVE_H
#define NOC_ACTIVE_H

#include "worker/job.h"

enum { NOC_ACTIVE_MAX = 8, NOC_ACTIVE_BATCH = 64 };

typedef struct noc_active {
    noc_engine *engine;
    const noc_job_rules *rules;
    int batch; /* at most NOC_ACTIVE_BATCH */
    /* A job that is segmented (NOC_OK) or has failed leaves by this; its segmentation is freed. */
    void (*leave)(void *argument, noc_job *job, noc_status status, const noc_error *failure);
    void *argument;
    noc_job *jobs[NOC_ACTIVE_MAX];
    int count;
} noc_active;

void noc_active_init(noc_active *active, noc_engine *engine, const noc_job_rules *rules,
                     void (*leave)(void *argument, noc_job *job, noc_status status, const noc_error *failure),
                     void *argument);
bool noc_active_is_empty(const noc_active *active);
/* True while windows that are not handed out yet do not fill a batch. */
bool noc_active_has_room(const noc_active *active);
/* Begins a prepared job's segmentation. */
void noc_active_add(noc_active *active, noc_job *job);
/* Computes one batch; the number of windows done. */
int noc_active_step(noc_active *active);
/* Gives up one of the jobs; NULL when there is none. */
noc_job *noc_active_take(noc_active *active);

#endif
