/* BraTS: CASE/CASE_flair.nii.gz, _t1, _t1ce, _t2 and _seg until 2021, CASE-t2f.nii.gz, -t1n, -t1c, -t2w and
 * -seg since 2023, at any depth. */
#include "catalog/tree.h"

#include "engine/volume/nifti.h"

#include <stdio.h>
#include <string.h>

enum { CHANNELS = 4 };

/* In the order of noc_modalities. */
static const char *const old_words[CHANNELS] = {"flair", "t1", "t1ce", "t2"};
static const char *const new_words[CHANNELS] = {"t2f", "t1n", "t1c", "t2w"};

/* False: no name of BraTS. *length: of the study's part. */
static bool parse(const char *path, noc_piece *piece, size_t *length)
{
    const char *name = path + noc_tree_folder_length(path), *mark = NULL;
    size_t stem;
    if (!noc_nifti_is_name(name, &stem))
        return false;
    for (size_t i = 1; i < stem; i++)
        mark = name[i] == '_' || name[i] == '-' ? name + i : mark;
    if (!mark)
        return false;
    size_t size = stem - (size_t)(mark + 1 - name);
    piece->path = path;
    piece->words = *mark == '_' ? old_words : new_words;
    *length = (size_t)(mark + 1 - path);
    piece->channel = NOC_PIECE_TRUTH;
    if (size == 3 && strncmp(mark + 1, "seg", size) == 0)
        return true;
    for (int c = 0; c < CHANNELS; c++) {
        piece->channel = c;
        if (strlen(piece->words[c]) == size && strncmp(mark + 1, piece->words[c], size) == 0)
            return true;
    }
    return false;
}

noc_status noc_brats_read(const char *folder, const noc_tree *tree, noc_source *source, size_t *used,
                          noc_error *err)
{
    noc_cases cases = {.folder = folder, .layout = "brats", .channel_count = CHANNELS};
    noc_status status = NOC_OK;
    bool has_old = false, has_new = false;
    size_t scans = 0, length;
    memcpy(cases.channels, noc_modalities, sizeof(noc_modalities));
    *used = 0;
    for (size_t i = 0; i < tree->count && status == NOC_OK; i++) {
        noc_piece piece = {0};
        if (!parse(tree->files[i], &piece, &length))
            continue;
        ++*used;
        scans += piece.channel >= 0;
        has_old |= piece.words == old_words;
        has_new |= piece.words == new_words;
        if (source)
            status = noc_cases_add(&cases, piece.path, length, piece, err);
    }
    if (scans == 0) /* *_seg alone is anybody's name */
        *used = 0;
    if (source && status == NOC_OK)
        status = noc_cases_make(&cases, source, err);
    if (source)
        snprintf(source->recognised, sizeof(source->recognised),
                 "names%s%s; channels FLAIR, T1w, T1gd, T2w%s%s",
                 has_old ? " CASE_flair, _t1, _t1ce, _t2 (until 2021)" : "",
                 has_new ? " CASE-t2f, -t1n, -t1c, -t2w (since 2023)" : "",
                 has_old ? "; truths until 2021 have the enhancing tumour as 4" : "",
                 has_new ? "; truths since 2023 have it as 3, and from 2024 the resection cavity as 4" : "");
    noc_cases_clear(&cases);
    return status;
}
