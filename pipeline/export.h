/* The parts of nocturne export: where a mask goes, and what stands beside the masks for other programs. */
#ifndef NOC_EXPORT_H
#define NOC_EXPORT_H

#include "pipeline/result_folder.h"
#include "pipeline/results.h"

typedef struct noc_export {
    const noc_settings *settings;
    noc_result_folder folder;
    noc_done *done; /* owned; what is exported */
    size_t count;
    char **written; /* [count] owned: the mask's absolute path; NULL: not exported */
    char *target;   /* owned: absolute, where the names below begin */
    bool is_bids, is_nnunet;
    void *taken;          /* tree of names */
    size_t probabilities; /* studies whose probabilities were exported */
} noc_export;

enum { NOC_EXPORT_NAME = 3 * NOC_STUDY_KEY + 64 };

/* A mask's name below the target: KEY.nii.gz, or by BIDS sub-X/[ses-Y/]anat/sub-X[_ses-Y]_dseg.nii.gz, where
 * sub-X_ses-Y is the key of a study that came from BIDS, and otherwise X the letters and digits of the key.
 */
void noc_export_name(const noc_export *all, const char *key, char name[NOC_EXPORT_NAME]);

/* Writes the mask below the target. Atomic. A file that is there stays where it is the same; where it differs
 * NOC_ECANTCREATE, unless --force. *path: newly allocated. */
noc_status noc_export_mask(const noc_export *all, const noc_outcome *outcome, const char *name, char **path,
                           noc_error *err);

/* Likewise its probabilities, which it must have: probabilities/KEY.nii.gz, by BIDS beside the mask NAME as
 * ..._probseg.nii.gz. */
noc_status noc_export_probabilities(const noc_export *all, const noc_outcome *outcome, const char *name,
                                    noc_error *err);

/* What is written before the masks: bids: dataset_description.json and dseg.tsv; nnunet: dataset.json. */
noc_status noc_export_describe(const noc_export *all, noc_error *err);
/* And after them: nnunet: summary.json of those that were exported and have a truth, from the stored metrics.
 */
noc_status noc_export_summarise(const noc_export *all, noc_error *err);

#endif
