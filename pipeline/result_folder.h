/* A results folder as a command finds it: which set of the catalog it belongs to and which masks should be in
 * it. */
#ifndef NOC_RESULT_FOLDER_H
#define NOC_RESULT_FOLDER_H

#include "catalog/catalog.h"
#include "pipeline/settings.h"

typedef struct noc_result_folder {
    noc_catalog *catalog; /* read-only */
    int64_t set;
    noc_configuration configuration;
    char *path; /* of the folder that is there; not what the catalog says when it was moved and --results
                   tells where */
} noc_result_folder;

/* NOC_ENOINPUT when the catalog has no such set, or the folder is not there. */
noc_status noc_result_folder_open(const noc_settings *settings, noc_result_folder *folder, noc_error *err);
void noc_result_folder_close(noc_result_folder *folder);

/* A mask that the catalog says is done. */
typedef struct noc_done {
    int64_t part;
    char key[NOC_STUDY_KEY];
    char mask_sha256[65];
    char *source_sha256; /* owned, like truth and metrics */
    char *truth;         /* path; NULL: none */
    noc_metric *metrics;
    int metric_count;
} noc_done;

/* Those whose key matches the glob `only` (NULL: all), by part, then key. Free with noc_done_free. */
noc_status noc_result_folder_done(const noc_result_folder *folder, const char *only, noc_done **list,
                                  size_t *count, noc_error *err);
void noc_done_free(noc_done *list, size_t count);

#endif
