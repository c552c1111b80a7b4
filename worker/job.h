/* A study on its way through the worker. One thread has it at a time: a reader, the engine thread, a
 * finisher; between them it lies in a queue. Its outcome exists from the start, so that no later failure
 * can lose it. */
#ifndef NOC_JOB_H
#define NOC_JOB_H

#include "worker/admission.h"
#include "worker/worker.h"

typedef struct noc_job {
    struct noc_job *next; /* in the list of pending or ready jobs */
    noc_study study;
    noc_outcome *outcome;
    size_t admitted_bytes;       /* entered at the admission; 0: not admitted */
    size_t bytes_when_segmented; /* what it needs once the prepared volume is gone */
    size_t bytes_when_finished;  /* what its outcome needs */
    size_t tile_memory;          /* for the segmentation; 0: no limit */
    bool is_alone;               /* needs the whole budget */
    noc_prepared *prepared;
    noc_image truth; /* zeroed: none */
    noc_segmentation *segmentation;
    noc_segmentation_result result;
    double seconds_used;       /* reading and preparing, against the time limit */
    double segmentation_start; /* monotonic */
    atomic_bool is_cancelled;  /* at the admission: withdrawn, or the worker ends */
} noc_job;

/* What the stages must know; the same for all jobs. */
typedef struct noc_job_rules {
    const noc_engine *engine; /* only functions that read what never changes */
    const noc_manifest *manifest;
    size_t budget;
    double timeout_s; /* 0: none */
    bool assume_ras;
    const atomic_bool *is_stopping; /* the worker ends */
} noc_job_rules;

/* A copy of the study. */
noc_status noc_job_create(const noc_study *study, uint64_t lease, noc_job **job, noc_error *err);
/* Everything it still has, the outcome included. */
void noc_job_free(noc_job *job);
/* Prepared volume, segmentation, truth, unfinished result. */
void noc_job_drop_volumes(noc_job *job);

/* From the headers: the bytes to be admitted (and the fields above). NOC_ETOOLARGE when the budget is too
 * small for it. */
noc_status noc_job_estimate(noc_job *job, const noc_job_rules *rules, size_t *bytes, noc_error *err);
/* Channels, truth, preparation. */
noc_status noc_job_read(noc_job *job, const noc_job_rules *rules, noc_error *err);
/* NOC_ETIMEOUT when seconds are more than the rules allow. */
noc_status noc_job_check_time(const noc_job_rules *rules, double seconds, noc_error *err);
/* Result -> mask, regions, metrics, hash in the outcome. */
noc_status noc_job_finish(noc_job *job, const noc_job_rules *rules, noc_error *err);

#endif
