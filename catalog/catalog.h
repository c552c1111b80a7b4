/* The catalog: which studies there are and what became of them (SQLite). One writer at a time: scan, retry or
 * the coordinator of a run, which holds the lock beside the file (catalog/lock.h). Several result sets (a
 * results folder with one configuration) share a catalog.
 *
 * States of a study in a set: pending -> running -> written (in an open part) -> done, or failed,
 * quarantined. */
#ifndef NOC_CATALOG_H
#define NOC_CATALOG_H

#include "catalog/study.h"

#include <stddef.h>

typedef struct noc_catalog noc_catalog;

typedef enum noc_catalog_mode {
    NOC_CATALOG_READ,   /* must exist; read-only; never disturbs a run */
    NOC_CATALOG_WRITE,  /* must exist */
    NOC_CATALOG_CREATE, /* made when missing */
} noc_catalog_mode;

typedef enum noc_study_state {
    NOC_PENDING,
    NOC_RUNNING,
    NOC_WRITTEN,
    NOC_DONE,
    NOC_FAILED,
    NOC_QUARANTINED,
    NOC_STATE_COUNT
} noc_study_state;

const char *noc_study_state_name(noc_study_state state); /* "pending", ... */

/* WAL on local disks, rollback journal on network file systems; busy timeout; foreign keys. Commits that
 * others rely on are durable (synchronous FULL). NOC_ENOINPUT when it must exist and does not,
 * NOC_EUNAVAILABLE when locked for good, NOC_EDATA when it is no catalog or its schema is newer, NOC_EIO
 * (disk full, I/O error) with path and reason. Older schemas are upgraded by WRITE and CREATE. */
noc_status noc_catalog_open(const char *path, noc_catalog_mode mode, noc_catalog **catalog, noc_error *err);
void noc_catalog_close(noc_catalog *catalog);

/* Everything between begin and commit is one durable transaction. Nested calls are a bug. */
noc_status noc_catalog_begin(noc_catalog *catalog, noc_error *err);
noc_status noc_catalog_commit(noc_catalog *catalog, noc_error *err);
void noc_catalog_rollback(noc_catalog *catalog);

/* ---- studies ---- */

typedef enum noc_put { NOC_PUT_ADDED, NOC_PUT_CHANGED, NOC_PUT_UNCHANGED } noc_put;

/* Adds or updates by key. A changed fingerprint, path or truth puts the study's results of every set back to
 * pending. The key is settled here: when another study with different paths has study->key, the folder's name
 * is put in front (noc_study_key rules); study->key and id are updated. */
noc_status noc_catalog_put_study(noc_catalog *catalog, noc_study *study, noc_put *what, noc_error *err);
/* NOC_ENOINPUT when there is none. */
noc_status noc_catalog_find_study(noc_catalog *catalog, const char *key, noc_study *study, noc_error *err);

/* ---- result sets ---- */

typedef struct noc_configuration {
    char results[4096]; /* absolute path of the results folder */
    char model[128];    /* name */
    char model_sha256[65];
    int64_t window[3];
    double overlap;
    char blend[16];    /* "constant", "gaussian" */
    char precision[8]; /* "f32" */
} noc_configuration;

/* "model hippocampus (1c6c...), window 48x64x48, overlap 0.5, gaussian, f32" */
void noc_configuration_describe(const noc_configuration *configuration, char *text, size_t size);

/* The set of that results folder; made when new, with a pending result for every study. NOC_ECONFIG naming
 * both configurations when the folder has another one. */
noc_status noc_catalog_open_set(noc_catalog *catalog, const noc_configuration *configuration, int64_t *set,
                                noc_error *err);
/* The set of that results folder; *set = 0 when it is new. NOC_ECONFIG as above. */
noc_status noc_catalog_match_set(noc_catalog *catalog, const noc_configuration *configuration, int64_t *set,
                                 noc_error *err);
/* The set of a results folder; with results NULL or no set for it: the only set, if there is just one. *set =
 * 0 and NOC_OK when there is none. */
noc_status noc_catalog_find_set(noc_catalog *catalog, const char *results, int64_t *set, noc_error *err);
noc_status noc_catalog_read_set(noc_catalog *catalog, int64_t set, noc_configuration *configuration,
                                noc_error *err);

/* ---- a run ---- */

typedef struct noc_run_record {
    char version[64], device[128], host[128];
    int ranks;
} noc_run_record;

noc_status noc_catalog_begin_run(noc_catalog *catalog, int64_t set, const noc_run_record *record,
                                 int64_t *run, noc_error *err);
noc_status noc_catalog_end_run(noc_catalog *catalog, int64_t run, int exit_code, noc_error *err);
/* How the last studies ended in runs that began since then, latest first: NOC_OK or the type of the failure;
 * at most `limit` of them, *count is how many. */
noc_status noc_catalog_ends(noc_catalog *catalog, int64_t set, int64_t since_ns, noc_status *ends, int limit,
                            int *count, noc_error *err);
/* The set's latest run if it came to its end and could write, index included; *run = 0 otherwise. */
noc_status noc_catalog_ended_run(noc_catalog *catalog, int64_t set, int64_t *run, noc_error *err);

/* After a crash: running and written become pending again (no attempt charged); open attempts are closed as
 * "lost". Adds pending rows for studies that have none in this set. *count = rows put back. */
noc_status noc_catalog_recover(noc_catalog *catalog, int64_t set, int64_t *count, noc_error *err);

/* A pending study and what scheduling needs to know about it. */
typedef struct noc_pending {
    noc_study study;
    int attempts;    /* charged so far */
    bool is_suspect; /* held by a worker that died: to be run alone */
    int deaths_alone;
} noc_pending;

/* Pending studies in key order whose key matches the glob `only` (NULL: all), at most `limit` (0: all). set
 * 0: every study is pending. Free with noc_pending_free. */
noc_status noc_catalog_pending(noc_catalog *catalog, int64_t set, const char *only, int64_t limit,
                               noc_pending **list, size_t *count, noc_error *err);
void noc_pending_free(noc_pending *list, size_t count);

/* pending -> running; opens an attempt row. */
noc_status noc_catalog_start(noc_catalog *catalog, int64_t set, int64_t run, int64_t study, int rank,
                             const char *host, noc_error *err);
/* running -> written, in part number `part` that is still open. */
noc_status noc_catalog_mark_written(noc_catalog *catalog, int64_t set, int64_t study, int64_t part,
                                    noc_error *err);
/* running/written -> pending; charged: counts as an attempt with that failure (type and sentence are kept as
 * the last failure). */
noc_status noc_catalog_put_back(noc_catalog *catalog, int64_t set, int64_t study, bool charged,
                                const noc_error *failure, noc_error *err);
/* A worker died holding it: marks it suspect; alone: one more death alone. Back to pending. */
noc_status noc_catalog_mark_suspect(noc_catalog *catalog, int64_t set, int64_t study, bool alone,
                                    noc_error *err);
/* -> failed or quarantined, with type and sentence; quarantined: by one more death alone. */
noc_status noc_catalog_fail(noc_catalog *catalog, int64_t set, int64_t study, noc_study_state state,
                            const noc_error *failure, noc_error *err);

/* What a closed part says of one of its studies. */
typedef struct noc_part_study {
    char key[NOC_STUDY_KEY];
    char source_sha256[NOC_STUDY_CHANNELS * 65]; /* of each channel file, joined by ';' */
    char fingerprint[512];                       /* as the study had when it was read; "" when unknown */
    char mask_sha256[65];                        /* of the mask's voxels */
    double seconds_read, seconds_prepare, seconds_compute, seconds_score;
    int64_t windows;
    noc_metric *metrics; /* owned */
    int metric_count;
    char suspect[NOC_SUSPECT_TEXT]; /* broken rules of plausibility, "" when none */
} noc_part_study;

typedef struct noc_part_record {
    int64_t number;
    int64_t bytes;
    char sha256[65];         /* of the file, "" when not taken */
    noc_part_study *studies; /* owned */
    size_t study_count;
} noc_part_record;

void noc_part_record_clear(noc_part_record *part);

/* The one transaction that makes a closed, renamed part count: the part row, its studies done, their metrics,
 * earlier masks superseded. Studies whose fingerprint in the catalog differs from the part's stay pending
 * (the file changed meanwhile). Durable on return. */
noc_status noc_catalog_commit_part(noc_catalog *catalog, int64_t set, const noc_part_record *part,
                                   noc_error *err);
noc_status noc_catalog_has_part(noc_catalog *catalog, int64_t set, int64_t number, bool *has, noc_error *err);
/* That number is given: no later part gets it, whatever becomes of this one. Durable on return unless a
 * transaction is open. */
noc_status noc_catalog_note_part(noc_catalog *catalog, int64_t set, int64_t number, noc_error *err);
/* Highest number given, 0 when none. */
noc_status noc_catalog_last_part(noc_catalog *catalog, int64_t set, int64_t *number, noc_error *err);
/* A part that is gone from disk or damaged: its studies that count on it are pending again, the row goes.
 * *count = studies. */
noc_status noc_catalog_drop_part(noc_catalog *catalog, int64_t set, int64_t number, int64_t *count,
                                 noc_error *err);

/* ---- asking ---- */

typedef struct noc_counts {
    int64_t states[NOC_STATE_COUNT];
    int64_t failures[32];    /* by noc_status: failed or quarantined studies by their last type */
    double studies_per_hour; /* of the latest run; 0 when unknown */
    double seconds_left;     /* NaN when unknown, 0 when nothing is left */
} noc_counts;

/* States and failures alone; speed and time left unknown. set 0: every study counts as pending. */
noc_status noc_catalog_states(noc_catalog *catalog, int64_t set, noc_counts *counts, noc_error *err);
/* All of them: also looks at every attempt of the latest run. */
noc_status noc_catalog_counts(noc_catalog *catalog, int64_t set, noc_counts *counts, noc_error *err);

/* One study with its result. Strings belong to the row and live until the callback returns. */
typedef struct noc_result_row {
    noc_study study;
    noc_study_state state;
    int attempts;
    const char *failure;                     /* type, NULL when none */
    const char *sentence;                    /* NULL when none */
    int64_t part;                            /* number when done (or written), else 0 */
    const char *source_sha256, *mask_sha256; /* NULL when not done */
    const char *suspect;                     /* broken rules of plausibility, NULL when none */
    double seconds_read, seconds_prepare, seconds_compute, seconds_score;
    int64_t windows;
    const noc_metric *metrics;
    int metric_count;
} noc_result_row;

/* Calls row() for each study of the set in key order; it may stop by returning another status, which is
 * passed on. */
noc_status noc_catalog_each_result(noc_catalog *catalog, int64_t set, const char *only,
                                   noc_status (*row)(void *argument, const noc_result_row *row,
                                                     noc_error *err),
                                   void *argument, noc_error *err);

typedef struct noc_part_row {
    int64_t number, bytes, studies;
    const char *sha256;
} noc_part_row;
noc_status noc_catalog_each_part(noc_catalog *catalog, int64_t set,
                                 noc_status (*row)(void *argument, const noc_part_row *row, noc_error *err),
                                 void *argument, noc_error *err);

/* failed and quarantined studies of the set (key glob, failure type; NULL: any) become pending with attempts
 * 0. */
noc_status noc_catalog_retry(noc_catalog *catalog, int64_t set, const char *only, const char *failure_type,
                             int64_t *count, noc_error *err);

#endif
