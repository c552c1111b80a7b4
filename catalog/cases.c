/* Studies out of files that belong together by their names. */
#include "catalog/tree.h"

#include "catalog/scan.h"
#include "engine/base/memory.h"
#include "engine/base/text.h"
#include "engine/volume/nifti.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char *const noc_modalities[4] = {"FLAIR", "T1w", "T1gd", "T2w"};

int noc_modality_of(const char *name)
{
    static const struct {
        const char *name;
        int place;
    } names[] = {{"flair", 0}, {"t2flair", 0}, {"t2-flair", 0}, {"t2_flair", 0}, {"t2f", 0},
                 {"t1", 1},    {"t1w", 1},     {"t1n", 1},      {"t1ce", 2},     {"t1gd", 2},
                 {"t1c", 2},   {"t1post", 2},  {"t2", 3},       {"t2w", 3}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcasecmp(names[i].name, name) == 0)
            return names[i].place;
    }
    return -1;
}

static bool is_same_channel(const char *a, const char *b)
{
    int place = noc_modality_of(a);
    return strcasecmp(a, b) == 0 || (place >= 0 && place == noc_modality_of(b));
}

static int find_channel(const char *wanted, const char *const *channels, int count)
{
    for (int c = 0; c < count; c++) {
        if (is_same_channel(wanted, channels[c]))
            return c;
    }
    return -1;
}

int noc_channel_order(noc_source *source, const char *const *channels, int count,
                      int order[NOC_STUDY_CHANNELS])
{
    const noc_scan_options *options = source->options;
    int wanted = options ? options->channel_count : 0;
    source->has_order = wanted > 0 && wanted <= NOC_STUDY_CHANNELS;
    for (int w = 0; w < wanted && source->has_order; w++) {
        order[w] = find_channel(options->channels[w], channels, count);
        if (order[w] >= 0)
            continue;
        source->has_order = false;
        noc_source_warn(source,
                        "no channel is named %s, which the model takes: all are taken, in the order told",
                        options->channels[w]);
    }
    if (source->has_order)
        return wanted;
    for (int c = 0; c < count; c++)
        order[c] = c;
    return count;
}

noc_status noc_cases_add(noc_cases *cases, const char *study, size_t length, noc_piece piece, noc_error *err)
{
    if (cases->count == cases->capacity) {
        size_t more = cases->capacity ? cases->capacity * 2 : 256;
        noc_piece *grown = reallocarray(cases->pieces, more, sizeof(*grown));
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for the list of files");
        cases->pieces = grown;
        cases->capacity = more;
    }
    piece.study = strndup(study, length);
    if (!piece.study)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the list of files");
    cases->pieces[cases->count++] = piece;
    return NOC_OK;
}

void noc_cases_clear(noc_cases *cases)
{
    for (size_t i = 0; i < cases->count; i++)
        free(cases->pieces[i].study);
    free(cases->pieces);
    memset(cases, 0, sizeof(*cases));
}

static int compare_pieces(const void *a, const void *b)
{
    const noc_piece *x = a, *y = b;
    int order = strcmp(x->study, y->study);
    if (order == 0)
        order = (x->channel > y->channel) - (x->channel < y->channel);
    return order ? order : strcmp(x->path, y->path);
}

/* ---- which truths are to be expected ---- */

/* The folder in which a study lies beside others: length of its path. A folder named as its study holds that
 * study alone. */
static size_t shelf_length(const char *study)
{
    size_t length = noc_tree_folder_length(study), own = strlen(study) - length, above = length;
    if (length == 0 || own == 0)
        return length;
    own--; /* the character before the channel's word */
    while (above > 1 && study[above - 2] != '/')
        above--;
    above--;
    return length - above == own + 1 && strncmp(study + above, study + length, own) == 0 ? above : length;
}

/* The beginning of a study's path, not a copy. */
typedef struct shelf {
    const char *path;
    size_t length;
} shelf;

static shelf shelf_of(const char *study)
{
    return (shelf){study, shelf_length(study)};
}

static int compare_shelves(const void *a, const void *b)
{
    const shelf *x = a, *y = b;
    int order = memcmp(x->path, y->path, x->length < y->length ? x->length : y->length);
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

typedef struct shelves {
    shelf *all; /* sorted; with a truth */
    size_t count;
} shelves;

static noc_status find_shelves(const noc_cases *cases, shelves *out, noc_error *err)
{
    out->all = noc_alloc(cases->count, sizeof(*out->all), err);
    if (!out->all)
        return NOC_ENOMEMORY;
    for (size_t i = 0; i < cases->count; i++) {
        shelf of = shelf_of(cases->pieces[i].study);
        bool is_last = out->count > 0 && compare_shelves(&of, &out->all[out->count - 1]) == 0;
        if (cases->pieces[i].channel == NOC_PIECE_TRUTH && !is_last)
            out->all[out->count++] = of;
    }
    qsort(out->all, out->count, sizeof(*out->all), compare_shelves);
    return NOC_OK;
}

static bool is_truth_expected(const shelves *truths, const char *study)
{
    shelf of = shelf_of(study);
    return bsearch(&of, truths->all, truths->count, sizeof(*truths->all), compare_shelves) != NULL;
}

/* ---- studies ---- */

static void add_oddity(noc_text *odd, const char *before, const char *name, const char *after)
{
    noc_text_add(odd, "%s%s%s%s", odd->size ? ", " : "", before, name, after);
}

/* Where a channel that is not there should be: newly allocated. */
static char *expected_path(const noc_piece *first, int channel, noc_error *err)
{
    char *path = NULL;
    size_t stem = strlen(first->path);
    noc_nifti_is_name(first->path, &stem);
    if (asprintf(&path, "%s%s%s", first->study, first->words[channel], first->path + stem) < 0) {
        noc_fail(err, NOC_ENOMEMORY, "no memory for the list of studies");
        return NULL;
    }
    return path;
}

/* files: a path a channel, in the order of the pieces' numbers. */
static void sort_out(const noc_cases *cases, const noc_piece *pieces, size_t count, const char **files,
                     const char **truth, noc_text *odd)
{
    for (size_t i = 0; i < count; i++) {
        int channel = pieces[i].channel;
        if (channel == NOC_PIECE_OTHER)
            continue;
        const char **slot = channel == NOC_PIECE_TRUTH ? truth : &files[channel];
        if (!*slot)
            *slot = pieces[i].path;
        else
            add_oddity(odd, "", channel == NOC_PIECE_TRUTH ? "a truth" : cases->channels[channel],
                       " more than once (the first by name counts)");
    }
}

/* "a/b/CASE_" -> "CASE.nii", a file's name that a key is made of. */
static char *case_name(const char *study, noc_error *err)
{
    char *name = NULL;
    const char *base = study + noc_tree_folder_length(study);
    size_t length = strlen(base);
    if (asprintf(&name, "%.*s.nii", (int)(length ? length - 1 : 0), base) < 0) {
        noc_fail(err, NOC_ENOMEMORY, "no memory for the list of studies");
        return NULL;
    }
    return name;
}

/* What is the same for all studies of the cases. */
typedef struct making {
    const noc_cases *cases;
    noc_source *source;
    shelves truths;
    int order[NOC_STUDY_CHANNELS]; /* a study's channel -> number of the pieces' */
    int channel_count;
} making;

static noc_status make_study(const making *m, const noc_piece *pieces, size_t count, noc_error *err)
{
    const noc_cases *cases = m->cases;
    noc_source_entry entry = {
        .folder = cases->folder, .layout = cases->layout, .channel_count = m->channel_count};
    const char *files[NOC_STUDY_CHANNELS] = {NULL};
    char *missing[NOC_STUDY_CHANNELS] = {NULL}, *name = case_name(pieces->study, err);
    noc_text odd = {0};
    noc_status status = name ? NOC_OK : NOC_ENOMEMORY;
    entry.name = name;
    sort_out(cases, pieces, count, files, &entry.truth, &odd);
    for (int c = 0; status == NOC_OK && c < m->channel_count; c++) {
        int number = m->order[c];
        entry.channels[c] = files[number];
        if (entry.channels[c])
            continue;
        add_oddity(&odd, "no ", cases->channels[number], "");
        entry.channels[c] = missing[c] = expected_path(pieces, number, err);
        status = missing[c] ? NOC_OK : NOC_ENOMEMORY;
    }
    if (!entry.truth && is_truth_expected(&m->truths, pieces->study))
        add_oddity(&odd, "no truth", "", "");
    if (status == NOC_OK && odd.size > 0) {
        char key[NOC_STUDY_KEY];
        noc_study_key_from_name(name, key);
        noc_source_warn(m->source, "study %s: %s", key, odd.data);
    }
    if (status == NOC_OK)
        status = odd.failed ? noc_fail(err, NOC_ENOMEMORY, "no memory for a warning")
                            : noc_source_add(m->source, &entry, err);
    for (int c = 0; c < m->channel_count; c++)
        free(missing[c]);
    noc_text_free(&odd);
    free(name);
    return status;
}

noc_status noc_cases_make(noc_cases *cases, noc_source *source, noc_error *err)
{
    making m = {.cases = cases, .source = source};
    if (cases->count == 0)
        return NOC_OK;
    m.channel_count = noc_channel_order(source, cases->channels, cases->channel_count, m.order);
    qsort(cases->pieces, cases->count, sizeof(*cases->pieces), compare_pieces);
    noc_status status = find_shelves(cases, &m.truths, err);
    for (size_t i = 0, end; status == NOC_OK && i < cases->count; i = end) {
        for (end = i + 1; end < cases->count && strcmp(cases->pieces[i].study, cases->pieces[end].study) == 0;
             end++)
            ;
        status = make_study(&m, cases->pieces + i, end - i, err);
    }
    free(m.truths.all);
    return status;
}
