/* One study in, one outcome out. Three overlapping stages: readers (threads) read and prepare into a
 * bounded set, the engine thread drains windows (a batch may hold windows of different studies), finishers
 * (threads) paint, score and hash. Knows nothing of ranks.
 *
 * Submit and take never block, so that a rank's loop can serve messages. Every submitted study gives
 * exactly one outcome. */
#ifndef NOC_WORKER_H
#define NOC_WORKER_H

#include "catalog/study.h"
#include "engine/engine.h"

typedef struct noc_worker noc_worker;

typedef struct noc_worker_options {
    size_t memory; /* bound of this process's resident memory in bytes (studies are admitted under it); 0:
                      none */
    double study_timeout_s; /* 0: none; cooperative, between windows and reads */
    bool assume_ras;
    int readers;   /* threads; 0: default (1) */
    int finishers; /* threads; 0: default (1) */
} noc_worker_options;

typedef struct noc_outcome {
    int64_t study; /* id */
    char key[NOC_STUDY_KEY];
    uint64_t lease;    /* as submitted */
    noc_error failure; /* status NOC_OK: segmented; everything below is then valid (the seconds always) */
    noc_grid grid;     /* of the input file */
    int mask_bytes;    /* a voxel: 1 or 2 */
    void *mask;        /* labels (painted, for a region model), input voxel order; owned */
    int region_bytes;  /* 0 unless a region model: 1, 2 or 4 */
    void *regions;     /* owned */
    int plane_count;   /* of probabilities: classes or regions; 0: not asked for */
    uint16_t *probabilities;       /* f16, planes of the mask's order behind each other; owned */
    char mask_sha256[65];          /* of mask's bytes (little-endian) */
    char probabilities_sha256[65]; /* likewise; "": none */
    char source_sha256[NOC_STUDY_CHANNELS * 65]; /* of each channel file, joined by ';' */
    char fingerprint[512];                       /* the study's, as submitted ("" when longer) */
    noc_metric *metrics; /* one a label or region of the model, in manifest order; owned */
    int metric_count;
    char suspect[NOC_SUSPECT_TEXT]; /* the model's rules of plausibility that the mask breaks; "": none */
    int64_t windows;
    double seconds_read, seconds_prepare, seconds_compute, seconds_score;
    struct noc_admission
        *admission; /* the worker's memory account, which noc_outcome_free pays back; NULL elsewhere */
    size_t admitted_bytes;
} noc_outcome;

void noc_outcome_free(noc_outcome *outcome);
/* Voxels and metrics alone; what it was admitted with stays on the account. */
void noc_outcome_drop_results(noc_outcome *outcome);
size_t noc_outcome_probability_bytes(const noc_outcome *outcome);

typedef struct noc_worker_stats {
    double seconds;         /* since create */
    double seconds_busy;    /* the engine computed */
    double seconds_starved; /* it had nothing prepared */
    int64_t windows, studies;
    size_t peak_bytes; /* highest resident memory of the process */
} noc_worker_stats;

/* The engine must outlive the worker and is used by its engine thread only. */
noc_status noc_worker_create(noc_engine *engine, const noc_worker_options *options, noc_worker **worker,
                             noc_error *err);
/* Gives up what is unfinished (no outcomes any more) and joins the threads. */
void noc_worker_free(noc_worker *worker);

/* Copies the study. NOC_ENOMEMORY only. */
noc_status noc_worker_submit(noc_worker *worker, const noc_study *study, uint64_t lease, noc_error *err);
/* NULL when none is ready. The caller frees it. */
noc_outcome *noc_worker_take(noc_worker *worker);
/* Studies submitted and not yet taken. */
int noc_worker_in_hand(const noc_worker *worker);
/* Gives up studies whose reading has not begun (they get no outcome); calls returned() for each with study
 * id and lease. */
void noc_worker_withdraw(noc_worker *worker, void (*returned)(void *argument, int64_t study, uint64_t lease),
                         void *argument);
/* True when a study's time is over and its thread does not come back from a call (a file or a device that
 * never answers) long after that; *lease is the study's. Nothing but the end of the process helps then. */
bool noc_worker_is_stuck(noc_worker *worker, uint64_t *lease);
/* True while a thread is in a call for a study, for which noc_worker_free would wait. */
bool noc_worker_is_at_work(noc_worker *worker);
/* True when a device failure has ended this worker (every outcome after it fails with type `device`). */
bool noc_worker_is_broken(const noc_worker *worker);
void noc_worker_stats_of(noc_worker *worker, noc_worker_stats *stats);

#endif
