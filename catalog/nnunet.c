/* nnU-Net's raw data: imagesTr/CASE_0000.nii.gz, a file a channel, labelsTr/CASE.nii.gz, imagesTs likewise,
 * and a dataset.json that names the channels (`channel_names`; `modality` in version 1) or, instead of the
 * folders, the files (`dataset`). A folder of CASE_0000.nii.gz alone, as nnUNetv2_predict takes it, will do.
 */
#include "catalog/tree.h"

#include "engine/base/text.h"
#include "engine/volume/nifti.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIGITS = 4, MODALITIES = 4 };

typedef struct nnunet {
    int channel_count;
    const char *names[NOC_STUDY_CHANNELS]; /* by number; NULL: unnamed */
    int number_of[NOC_STUDY_CHANNELS];     /* of a study's channel */
    int channel_of[NOC_STUDY_CHANNELS];    /* of a number */
    char digits[NOC_STUDY_CHANNELS][8];    /* of a study's channel */
    const char *words[NOC_STUDY_CHANNELS]; /* these */
    size_t beyond;                         /* files whose number is none of a channel's */
    int order[NOC_STUDY_CHANNELS], wanted; /* as noc_channel_order says */
} nnunet;

/* ---- names of files ---- */

static bool is_below(const char *path, const char *folder)
{
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int number_at(const char *digits)
{
    int number = 0;
    for (int i = 0; i < DIGITS; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return -1;
        number = number * 10 + digits[i] - '0';
    }
    return number;
}

/* False: no name of nnU-Net. *number: of the channel; NOC_PIECE_TRUTH. *length: of the path up to the
 * channel's number, of a truth's up to its ending. */
static bool parse(const char *path, int *number, size_t *length)
{
    size_t folder = noc_tree_folder_length(path), stem;
    bool is_label = folder == 9 && (is_below(path, "labelsTr/") || is_below(path, "labelsTs/"));
    bool is_image =
        folder == 0 || (folder == 9 && (is_below(path, "imagesTr/") || is_below(path, "imagesTs/")));
    const char *name = path + folder;
    if (!(is_label || is_image) || !noc_nifti_is_name(name, &stem))
        return false;
    *number = NOC_PIECE_TRUTH;
    *length = folder + stem;
    if (is_label)
        return stem > 0;
    if (stem <= DIGITS + 1 || name[stem - DIGITS - 1] != '_')
        return false;
    *number = number_at(name + stem - DIGITS);
    *length -= DIGITS;
    return *number >= 0;
}

/* *used: files with a name of nnU-Net. *channels: as many as the highest number says. */
static void survey(const noc_tree *tree, size_t *used, int *channels)
{
    bool has_first = false;
    *used = 0;
    *channels = 0;
    for (size_t i = 0; i < tree->count; i++) {
        int number;
        size_t length;
        if (!parse(tree->files[i], &number, &length))
            continue;
        ++*used;
        has_first |= number == 0;
        if (number >= *channels && number < NOC_STUDY_CHANNELS)
            *channels = number + 1;
    }
    if (!has_first) /* _2019 alone is anybody's name */
        *used = 0;
}

/* ---- channels ---- */

static noc_status read_names(const json_t *dataset, nnunet *n, noc_error *err)
{
    const json_t *names = json_object_get(dataset, "channel_names");
    if (!json_is_object(names))
        names = json_object_get(dataset, "modality");
    if (!json_is_object(names) || json_object_size(names) < 1 || json_object_size(names) > NOC_STUDY_CHANNELS)
        return noc_fail(err, NOC_EDATA, "dataset.json: `channel_names` does not name 1 to %d channels",
                        NOC_STUDY_CHANNELS);
    n->channel_count = (int)json_object_size(names);
    for (int c = 0; c < n->channel_count; c++) {
        char key[16];
        snprintf(key, sizeof(key), "%d", c);
        n->names[c] = json_string_value(json_object_get(names, key));
        if (!n->names[c])
            return noc_fail(err, NOC_EDATA, "dataset.json: `channel_names` has no name for channel %d", c);
    }
    const char *ending = json_string_value(json_object_get(dataset, "file_ending"));
    if (ending && !noc_nifti_is_name(ending, NULL))
        return noc_fail(err, NOC_EDATA, "dataset.json: file_ending %s: only NIfTI files are read", ending);
    return NOC_OK;
}

/* Known channels are stored in the one order, whatever their numbers; with an unknown or double one among
 * them, as numbered. */
static void order_channels(nnunet *n)
{
    int number_of[MODALITIES] = {-1, -1, -1, -1}, known = 0;
    for (int c = 0; c < n->channel_count; c++) {
        int place = n->names[c] ? noc_modality_of(n->names[c]) : -1;
        n->number_of[c] = c;
        if (place >= 0 && number_of[place] < 0) {
            number_of[place] = c;
            known++;
        }
    }
    for (int place = 0, c = 0; known == n->channel_count && place < MODALITIES; place++) {
        if (number_of[place] >= 0)
            n->number_of[c++] = number_of[place];
    }
    for (int c = 0; c < n->channel_count; c++) {
        n->channel_of[n->number_of[c]] = c;
        snprintf(n->digits[c], sizeof(n->digits[c]), "%04d", n->number_of[c]);
        n->words[c] = n->digits[c];
    }
}

static void name_channels(const nnunet *n, const char *names[NOC_STUDY_CHANNELS])
{
    for (int c = 0; c < n->channel_count; c++) {
        const char *name = n->names[n->number_of[c]];
        names[c] = name ? name : n->words[c];
    }
}

static void recognise(const nnunet *n, const char *why, noc_source *source)
{
    noc_text text = {0};
    noc_text_add(&text, "%s; channels", why);
    for (int c = 0; c < n->channel_count; c++) {
        const char *name = n->names[n->number_of[c]];
        noc_text_add(&text, "%s %s%s_%s", c ? "," : "", name ? name : "", name ? " " : "", n->words[c]);
    }
    snprintf(source->recognised, sizeof(source->recognised), "%s", text.data ? text.data : "");
    noc_text_free(&text);
}

/* ---- studies ---- */

/* A truth's study is named as of its images. */
static noc_status add_file(nnunet *n, const char *path, int number, size_t length, noc_cases *cases,
                           noc_error *err)
{
    bool is_beyond = number >= n->channel_count;
    noc_piece piece = {.path = path, .channel = NOC_PIECE_TRUTH, .words = n->words};
    n->beyond += is_beyond;
    if (number >= 0) {
        piece.channel = is_beyond ? NOC_PIECE_OTHER : n->channel_of[number];
        return noc_cases_add(cases, path, length, piece, err);
    }
    char *study = NULL;
    int size = asprintf(&study, "images%.*s_", (int)length - 6, path + 6);
    if (size < 0)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the list of files");
    noc_status status = noc_cases_add(cases, study, (size_t)size, piece, err);
    free(study);
    return status;
}

static noc_status add_files(nnunet *n, const noc_tree *tree, noc_cases *cases, noc_error *err)
{
    noc_status status = NOC_OK;
    int number;
    size_t length;
    for (size_t i = 0; i < tree->count && status == NOC_OK; i++) {
        if (parse(tree->files[i], &number, &length))
            status = add_file(n, tree->files[i], number, length, cases, err);
    }
    return status;
}

static void warn_of_number(const json_t *dataset, const noc_cases *cases, noc_source *source)
{
    const json_t *number = json_object_get(dataset, "numTraining");
    size_t training = 0;
    for (size_t i = 0; i < cases->count; i++) {
        const char *study = cases->pieces[i].study;
        training +=
            is_below(study, "imagesTr/") && (i == 0 || strcmp(cases->pieces[i - 1].study, study) != 0);
    }
    if (number && !(json_is_integer(number) && json_integer_value(number) == (json_int_t)training))
        noc_source_warn(source,
                        "dataset.json: numTraining is wrong: there are %zu cases in imagesTr and labelsTr",
                        training);
}

static noc_status read_folders(nnunet *n, const char *folder, const noc_tree *tree, const json_t *dataset,
                               noc_source *source, noc_error *err)
{
    noc_cases cases = {.folder = folder, .layout = "nnunet", .channel_count = n->channel_count};
    name_channels(n, cases.channels);
    noc_status status = add_files(n, tree, &cases, err);
    if (status == NOC_OK)
        status = noc_cases_make(&cases, source, err);
    if (status == NOC_OK && n->beyond > 0)
        noc_source_warn(source, "%zu files have a channel number above %04d; left out", n->beyond,
                        n->channel_count - 1);
    if (status == NOC_OK)
        warn_of_number(dataset, &cases, source);
    noc_cases_clear(&cases);
    return status;
}

/* `dataset`: {CASE: {"images": [...], "label": ...}}, paths relative to dataset.json. */
static noc_status read_case(const nnunet *n, const char *folder, const char *name, const json_t *value,
                            noc_source *source, noc_error *err)
{
    noc_source_entry entry = {.folder = folder, .layout = "nnunet", .key = name};
    const json_t *images = json_object_get(value, "images"), *label = json_object_get(value, "label");
    size_t count = json_array_size(images);
    if (count < 1 || count > NOC_STUDY_CHANNELS)
        return noc_fail(err, NOC_EDATA,
                        "dataset.json: `dataset`: a case has no list of `images`, or too many");
    bool is_whole = count == (size_t)n->channel_count;
    entry.channel_count = is_whole ? n->wanted : (int)count;
    for (int c = 0; c < entry.channel_count; c++) {
        int from = is_whole ? n->number_of[n->order[c]] : c;
        entry.channels[c] = noc_dataset_path(json_array_get(images, (size_t)from));
        if (!entry.channels[c])
            return noc_fail(err, NOC_EDATA, "dataset.json: `dataset`: a case has an image that is no path");
    }
    entry.truth = noc_dataset_path(label);
    if (label && !json_is_null(label) && !entry.truth)
        return noc_fail(err, NOC_EDATA, "dataset.json: `dataset`: a case has a `label` that is no path");
    if (!is_whole)
        noc_source_warn(source, "study %s: %zu images for %d channels", name, count, n->channel_count);
    return noc_source_add(source, &entry, err);
}

static noc_status read_cases(nnunet *n, const char *folder, json_t *cases, noc_source *source, noc_error *err)
{
    const char *name, *names[NOC_STUDY_CHANNELS];
    json_t *value;
    name_channels(n, names);
    n->wanted = noc_channel_order(source, names, n->channel_count, n->order);
    json_object_foreach(cases, name, value)
    {
        noc_status status = read_case(n, folder, name, value, source, err);
        if (status != NOC_OK)
            return status;
    }
    return NOC_OK;
}

bool noc_nnunet_lists(const json_t *dataset)
{
    return json_is_object(json_object_get(dataset, "dataset"));
}

noc_status noc_nnunet_read(const char *folder, const noc_tree *tree, const json_t *dataset,
                           noc_source *source, size_t *used, noc_error *err)
{
    nnunet n = {0};
    survey(tree, used, &n.channel_count);
    if (!source)
        return NOC_OK;
    noc_status status = dataset ? read_names(dataset, &n, err) : NOC_OK;
    if (status != NOC_OK)
        return status;
    order_channels(&n);
    recognise(&n, dataset ? "dataset.json names the channels" : "names CASE_0000", source);
    return noc_nnunet_lists(dataset)
               ? read_cases(&n, folder, json_object_get(dataset, "dataset"), source, err)
               : read_folders(&n, folder, tree, dataset, source, err);
}
