/* BIDS: sub-X/[ses-Y/]anat/sub-X[_ses-Y][_...]_T1w.nii.gz. A study is a session, its channels the suffixes
 * that at least half of all sessions have; a T1w with contrast agent (ce-) is T1gd. A dseg beside them is the
 * truth. */
#include "catalog/tree.h"

#include "engine/base/text.h"
#include "engine/volume/nifti.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KINDS = 64, SUFFIX = 32, MODALITIES = 4 };

/* A suffix, and how many studies have it. */
typedef struct kind {
    char word[SUFFIX];
    size_t studies, last; /* last: the study, from 1, that was counted */
    int channel;          /* NOC_PIECE_OTHER: left out */
} kind;

typedef struct bids {
    kind kinds[KINDS];
    int kind_count;
    size_t studies;
    const char *study; /* the last one */
    size_t study_length;
    const char *words[NOC_STUDY_CHANNELS];
} bids;

static bool has_part(const char *path, const char *part)
{
    size_t length = strlen(part);
    for (const char *at = path; (at = strstr(at, part)); at++) {
        if ((at == path || at[-1] == '/') && at[length] == '/')
            return true;
    }
    return false;
}

static bool is_ignored(const char *path)
{
    return has_part(path, "derivatives") || has_part(path, "sourcedata") || has_part(path, "code");
}

/* False: no raw image of BIDS. word: "T1w", "T1gd", "dseg", ... */
static bool parse(const char *path, char word[SUFFIX], size_t *length)
{
    size_t folder = noc_tree_folder_length(path), stem;
    const char *name = path + folder;
    if (folder < 5 || strncmp(name - 5, "anat/", 5) != 0 || (folder > 5 && name[-6] != '/') ||
        strncmp(name, "sub-", 4) != 0 || is_ignored(path) || !noc_nifti_is_name(name, &stem))
        return false;
    const char *mark = memrchr(name, '_', stem), *end = memchr(name, '_', stem);
    if (!mark)
        return false;
    if (strncmp(end, "_ses-", 5) == 0 && end != mark)
        end = strchr(end + 1, '_');
    size_t size = stem - (size_t)(mark + 1 - name);
    if (size == 0 || size >= SUFFIX)
        return false;
    snprintf(word, SUFFIX, "%.*s", (int)size, mark + 1);
    const char *agent = strstr(name, "_ce-");
    if (agent && agent < mark && strcmp(word, "T1w") == 0)
        snprintf(word, SUFFIX, "T1gd");
    *length = (size_t)(end + 1 - path);
    return strcmp(word, "mask") != 0 && strcmp(word, "probseg") != 0 && strcmp(word, "defacemask") != 0;
}

static kind *find_kind(bids *b, const char *word)
{
    int i = 0;
    while (i < b->kind_count && strcmp(b->kinds[i].word, word) != 0)
        i++;
    if (i == KINDS)
        return NULL;
    if (i == b->kind_count)
        memcpy(b->kinds[b->kind_count++].word, word, SUFFIX);
    return &b->kinds[i];
}

static void count_study(bids *b, const char *path, size_t length, kind *of)
{
    if (!b->study || b->study_length != length || strncmp(b->study, path, length) != 0) {
        b->studies++;
        b->study = path;
        b->study_length = length;
    }
    of->studies += of->last != b->studies;
    of->last = b->studies;
}

static int compare_kinds(const void *a, const void *b)
{
    const kind *x = a, *y = b;
    int m = noc_modality_of(x->word), n = noc_modality_of(y->word);
    if (m != n)
        return (m < 0 ? MODALITIES : m) - (n < 0 ? MODALITIES : n);
    return strcmp(x->word, y->word);
}

/* How a file of the channel would be named. */
static const char *word_of(const kind *of)
{
    return strcmp(of->word, "T1gd") == 0 ? "ce-gadolinium_T1w" : of->word;
}

static void choose_channels(bids *b, noc_cases *cases, noc_source *source)
{
    size_t most = 0;
    qsort(b->kinds, (size_t)b->kind_count, sizeof(*b->kinds), compare_kinds);
    for (int i = 0; i < b->kind_count; i++)
        if (strcmp(b->kinds[i].word, "dseg") != 0 && b->kinds[i].studies > most)
            most = b->kinds[i].studies;
    for (int i = 0; i < b->kind_count; i++) {
        kind *of = &b->kinds[i];
        if (strcmp(of->word, "dseg") == 0) {
            of->channel = NOC_PIECE_TRUTH;
        } else if ((of->studies * 2 < b->studies && of->studies < most) ||
                   cases->channel_count == NOC_STUDY_CHANNELS) {
            of->channel = NOC_PIECE_OTHER;
            noc_source_warn(source, "channel %s: %zu of %zu studies have it; left out", of->word, of->studies,
                            b->studies);
        } else {
            b->words[cases->channel_count] = word_of(of);
            cases->channels[cases->channel_count] = of->word;
            of->channel = cases->channel_count++;
        }
    }
}

static void recognise(const bids *b, const noc_cases *cases, noc_source *source)
{
    noc_text text = {0};
    noc_text_add(&text, "names sub-*/anat/sub-*_SUFFIX, %zu sessions; channels", b->studies);
    for (int c = 0; c < cases->channel_count; c++)
        noc_text_add(&text, "%s %s", c ? "," : "", cases->channels[c]);
    snprintf(source->recognised, sizeof(source->recognised), "%s", text.data ? text.data : "");
    noc_text_free(&text);
}

static noc_status add_files(bids *b, const noc_tree *tree, noc_cases *cases, noc_error *err)
{
    noc_status status = NOC_OK;
    char word[SUFFIX];
    size_t length;
    for (size_t i = 0; i < tree->count && status == NOC_OK; i++) {
        if (!parse(tree->files[i], word, &length))
            continue;
        const kind *of = find_kind(b, word);
        noc_piece piece = {.path = tree->files[i], .words = b->words};
        piece.channel = of ? of->channel : NOC_PIECE_OTHER;
        status = noc_cases_add(cases, piece.path, length, piece, err);
    }
    return status;
}

noc_status noc_bids_read(const char *folder, const noc_tree *tree, noc_source *source, size_t *used,
                         noc_error *err)
{
    noc_cases cases = {.folder = folder, .layout = "bids"};
    bids b = {0};
    char word[SUFFIX];
    size_t length;
    *used = 0;
    for (size_t i = 0; i < tree->count; i++) {
        bool is_named = parse(tree->files[i], word, &length);
        kind *of = is_named ? find_kind(&b, word) : NULL;
        *used += is_named || is_ignored(tree->files[i]);
        if (of)
            count_study(&b, tree->files[i], length, of);
    }
    if (b.studies == 0) /* derivatives alone */
        *used = 0;
    if (!source || b.studies == 0)
        return NOC_OK;
    choose_channels(&b, &cases, source);
    if (cases.channel_count == 0) /* truths alone */
        return NOC_OK;
    noc_status status = add_files(&b, tree, &cases, err);
    if (status == NOC_OK)
        status = noc_cases_make(&cases, source, err);
    recognise(&b, &cases, source);
    noc_cases_clear(&cases);
    return status;
}
