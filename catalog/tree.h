/* Inside the scan: the NIfTI files below a folder, and the studies that names of files form. */
#ifndef NOC_CATALOG_TREE_H
#define NOC_CATALOG_TREE_H

#include "catalog/source.h"

typedef struct noc_tree {
    char **files; /* relative to the folder, sorted; owned */
    size_t count, capacity;
} noc_tree;

/* Every file with a NIfTI name, links included, whether or not it can be read (of pairs the .hdr). Names that
 * begin with a dot are left out; folders that cannot be read and links back to a folder above are warnings.
 */
noc_status noc_tree_read(const char *folder, noc_source *source, noc_tree *tree, noc_error *err);
void noc_tree_clear(noc_tree *tree);

/* Length of the folder's part of a path, its slash included; 0 when it has none. */
size_t noc_tree_folder_length(const char *path);

/* ---- studies of several files ---- */

enum { NOC_PIECE_TRUTH = -1, NOC_PIECE_OTHER = -2 };

/* A file of a study. */
typedef struct noc_piece {
    char *study;      /* path up to the word that tells the channel, the same for all files of a study */
    const char *path; /* the tree's */
    const char *const *words; /* how channels are named in this study's files, in the order of the channels */
    int channel; /* or NOC_PIECE_TRUTH; NOC_PIECE_OTHER: the study exists, the file is not used */
} noc_piece;

typedef struct noc_cases {
    const char *folder, *layout;
    const char *channels[NOC_STUDY_CHANNELS]; /* names */
    int channel_count;
    noc_piece *pieces;
    size_t count, capacity;
} noc_cases;

/* study: its first `length` characters count. */
noc_status noc_cases_add(noc_cases *cases, const char *study, size_t length, noc_piece piece, noc_error *err);
/* A study of each group of pieces, with all channels that are wanted: one that is missing is named where it
 * should be, so that the run finds it missing. What is odd about a study is one warning: channels that are
 * missing or there twice, no truth although others beside it have one. */
noc_status noc_cases_make(noc_cases *cases, noc_source *source, noc_error *err);
void noc_cases_clear(noc_cases *cases);

/* FLAIR, T1w, T1gd, T2w: the order in which known channels are stored. */
extern const char *const noc_modalities[4];
/* Which of the channels a study gets, and in which order: those of the options, where all are among them,
 * else all as they are (with a warning). Returns how many. */
int noc_channel_order(noc_source *source, const char *const *channels, int count,
                      int order[NOC_STUDY_CHANNELS]);
/* Place in noc_modalities of "flair", "T1ce", "t1n", ...; -1: none of them. */
int noc_modality_of(const char *name);

/* ---- layouts ---- */

/* Each makes the studies that its names form, and says in source->recognised by what it knew them. *used:
 * files of the tree that belong to it (with source NULL nothing else is done, and `tree` alone counts). */
noc_status noc_brats_read(const char *folder, const noc_tree *tree, noc_source *source, size_t *used,
                          noc_error *err);
noc_status noc_bids_read(const char *folder, const noc_tree *tree, noc_source *source, size_t *used,
                         noc_error *err);
/* True when dataset.json (NULL: there is none) lists the files itself, so that the folder need not be walked.
 */
bool noc_nnunet_lists(const json_t *dataset);
/* dataset: its root, or NULL; where it lists the files the tree is empty. */
noc_status noc_nnunet_read(const char *folder, const noc_tree *tree, const json_t *dataset,
                           noc_source *source, size_t *used, noc_error *err);

#endif
