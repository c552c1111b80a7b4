/* From folders and list files to studies in the catalog. Idempotent. Makes a study of every image that a list
 * or a dataset.json names, even if it is empty, broken or missing (shape unknown then); the run gives such a
 * study its failure type. */
#ifndef NOC_CATALOG_SCAN_H
#define NOC_CATALOG_SCAN_H

#include "catalog/catalog.h"

typedef struct noc_scan_report {
    int64_t added, changed, unchanged, unreadable; /* unreadable: among the others, shape unknown */
    int64_t warnings;
    char layout[16];      /* of the first study */
    char recognised[320]; /* by what the layout was known, and the order of the channels; "": a single file */
    bool has_order;       /* channels stand as the options name them */
} noc_scan_report;

typedef struct noc_scan_options {
    const char *layout; /* NULL: "auto" */
    /* Names of the channels that studies shall have, in order; none: all that there are, in the layout's. */
    const char *const *channels;
    int channel_count;
    void (*warn)(void *argument, const char *text); /* NULL: nobody listens */
    void *argument;
} noc_scan_options;

/* path: a folder, a dataset.json, a list, or a single NIfTI file. layout:
 *
 *   "msd"     dataset.json with `training` and `test` entries; names that begin with "._" are skipped
 *   "nnunet"  imagesTr, imagesTs/CASE_0000.nii.gz, labelsTr, labelsTs/CASE.nii.gz and a dataset.json with
 *             `channel_names`, or one whose `dataset` lists the files, or CASE_0000.nii.gz alone
 *   "brats"   CASE_flair, _t1, _t1ce, _t2, _seg, or CASE-t2f, -t1n, -t1c, -t2w, -seg, at any depth
 *   "bids"    sub-X/[ses-Y/]anat/sub-X[_ses-Y][_...]_SUFFIX: a study a session, a channel a suffix
 *   "list"    a CSV file (header key,image,truth in any order; channels in `image` separated by ';'; truth
 *             may be empty; paths relative to the file; UTF-8, BOM and CRLF accepted, quotes by RFC 4180)
 *   "folder"  every NIfTI file at any depth is a study
 *   "auto"    whichever of them it is
 *
 * nnunet, brats and bids know channels by name: those of the options are taken; without options, or where one
 * of them is not there, all are, FLAIR, T1w, T1gd and T2w first and in this order (where nnunet has others
 * besides, all as numbered). One transaction. NOC_ENOINPUT when path is missing, NOC_EDATA when nothing is
 * recognised (with what was looked for) or a dataset.json or list cannot be understood. Warnings: one a study
 * of several files (a missing or double channel, a missing truth), and wrong numTraining or numTest, what is
 * named twice, keys that had to be altered, files and channels that are left out, folders that cannot be
 * read. report may be NULL. */
noc_status noc_scan(noc_catalog *catalog, const char *path, const noc_scan_options *options,
                    noc_scan_report *report, noc_error *err);

/* File name -> key: extensions dropped, other characters than [A-Za-z0-9._-] become '_', at most 120 long;
 * never empty. */
void noc_study_key_from_name(const char *name, char key[NOC_STUDY_KEY]);

#endif
