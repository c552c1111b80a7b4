/* From folders and list files to studies in the catalog. Idempotent. Makes a study of every image that a list
 * or a dataset.json names, even if it is empty, broken or missing (shape unknown then); the run gives such a
 * study its failure type. */
#ifndef NOC_CATALOG_SCAN_H
#define NOC_CATALOG_SCAN_H

#include "catalog/catalog.h"

typedef struct noc_scan_report {
    int64_t added, changed, unchanged, unreadable; /* unreadable: among the others, shape unknown */
    int64_t warnings;
} noc_scan_report;

/* path: a folder with dataset.json (MSD layout: `training` and `test` entries; names that begin with "._" are
 * skipped), a CSV list file (header key,image,truth in any order; channels in `image` separated by ';'; truth
 * may be empty; paths relative to the file; UTF-8, BOM and CRLF accepted, quotes by RFC 4180), or a single
 * NIfTI file. One transaction. NOC_ENOINPUT when path is missing, NOC_EDATA when nothing is recognised (with
 * what was looked for). Warnings (wrong numTraining or numTest, duplicate lines) are given to warn(), which
 * may be NULL. */
noc_status noc_scan(noc_catalog *catalog, const char *path, void (*warn)(void *argument, const char *text),
                    void *argument, noc_scan_report *report, noc_error *err);

/* File name -> key: extensions dropped, other characters than [A-Za-z0-9._-] become '_', at most 120 long;
 * never empty. */
void noc_study_key_from_name(const char *name, char key[NOC_STUDY_KEY]);

#endif
