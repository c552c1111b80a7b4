/* Pairs of files by their names, and what --labels, --regions, --tolerance and --lesion-wise say. */
#include "pipeline/evaluate.h"

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/volume/nifti.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- what is asked for ---- */

/* The next item of a list; false at its end. */
static bool next_item(const char **at, char separator, char *item, size_t size)
{
    const char *end = *at ? strchr(*at, separator) : NULL;

    if (!*at)
        return false;
    snprintf(item, size, "%.*s", (int)(end ? end - *at : (ptrdiff_t)strlen(*at)), *at);
    *at = end ? end + 1 : NULL;
    return true;
}

/* "1", "1+2" */
static noc_status read_class(const char *text, const char *flag, noc_class *class, noc_error *err)
{
    char item[32];
    const char *at = text;
    noc_error why;

    memset(class, 0, sizeof *class);
    class->bit = -1;
    if (strlen(text) >= sizeof class->label)
        return noc_fail(err, NOC_EUSAGE, "--%s: \"%s\" is longer than %zu letters", flag, text,
                        sizeof class->label - 1);
    snprintf(class->label, sizeof class->label, "%s", text);
    while (next_item(&at, '+', item, sizeof item)) {
        int64_t label;
        if (noc_parse_integer(item, 1, NOC_LABEL_COUNT - 1, &label, &why) != NOC_OK)
            return noc_fail(err, NOC_EUSAGE, "--%s: \"%s\": %s", flag, text, why.text);
        class->labels[class->label_count++] = (uint16_t)label; /* at most every second letter of the text */
    }
    return NOC_OK;
}

static noc_status read_classes(const char *text, const char *flag, noc_class **classes, int *count,
                               noc_error *err)
{
    char item[NOC_METRIC_TEXT + 1];
    noc_status status = NOC_OK;
    size_t most = 1;

    for (const char *at = text; *at; at++)
        most += *at == ',';
    *classes = noc_alloc_zeroed(most, sizeof **classes, err);
    if (!*classes)
        return NOC_ENOMEMORY;
    for (const char *at = text; status == NOC_OK && next_item(&at, ',', item, sizeof item);) {
        status = read_class(item, flag, &(*classes)[(*count)++], err);
        for (int c = 0; status == NOC_OK && c < *count - 1; c++)
            if (strcmp((*classes)[c].label, item) == 0)
                status = noc_fail(err, NOC_EUSAGE, "--%s: %s is named twice", flag, item);
    }
    return status;
}

static noc_status read_tolerances(const char *text, noc_tolerances *tolerances, noc_error *err)
{
    char item[32];
    noc_error why;

    for (const char *at = text; next_item(&at, ',', item, sizeof item);) {
        if (tolerances->count == NOC_TOLERANCES)
            return noc_fail(err, NOC_EUSAGE, "--tolerance: more than %d", (int)NOC_TOLERANCES);
        if (noc_parse_number(item, 0, 1e6, &tolerances->mm[tolerances->count++], &why) != NOC_OK)
            return noc_fail(err, NOC_EUSAGE, "--tolerance: %s", why.text);
    }
    return NOC_OK;
}

/* Steps of dilation, 1 mm each in the challenges' scans, and volumes. */
static void choose_lesion_rules(noc_evaluate *all)
{
    static const struct {
        const char *challenge;
        noc_lesion_rules rules;
    } known[] = {{"gli", {3, 50, 0}},
                 {"ssa", {3, 50, 0}},
                 {"ped", {3, 50, 0}},
                 {"men", {1, 50, 0}},
                 {"met", {1, 2, 0}}};

    for (size_t n = 0; n < sizeof known / sizeof known[0]; n++)
        if (strcmp(all->settings->lesion_wise, known[n].challenge) == 0) {
            all->lesion_rules = known[n].rules;
            all->lesion_rules.penalty_mm = all->settings->penalty_mm;
            all->lesions = &all->lesion_rules;
        }
}

noc_status noc_evaluate_classes(noc_evaluate *all, noc_error *err)
{
    const noc_settings *s = all->settings;
    noc_status status = read_tolerances(s->tolerance, &all->tolerances, err);

    choose_lesion_rules(all);
    all->has_labels = s->labels != NULL;
    if (status == NOC_OK && s->labels)
        status = read_classes(s->labels, "labels", &all->labels, &all->label_count, err);
    for (int l = 0; status == NOC_OK && l < all->label_count; l++)
        if (all->labels[l].label_count > 1)
            status = noc_fail(err, NOC_EUSAGE, "--labels: %s is a region: --regions %s", all->labels[l].label,
                              all->labels[l].label);
    if (status == NOC_OK && s->regions)
        status = read_classes(s->regions, "regions", &all->regions, &all->region_count, err);
    for (int r = 0; status == NOC_OK && r < all->region_count; r++)
        if (all->regions[r].label_count == 1)
            status = noc_fail(err, NOC_EUSAGE, "--regions: %s is a label: --labels %s", all->regions[r].label,
                              all->regions[r].label);
    return status;
}

noc_status noc_evaluate_stored_classes(noc_evaluate *all, const noc_metric *metrics, int count,
                                       noc_error *err)
{
    noc_status status = NOC_OK;

    if (all->has_labels || all->region_count > 0)
        return noc_fail(err, NOC_EUSAGE,
                        "--stored scores what the model segments, without --labels and --regions");
    all->labels = noc_alloc((size_t)count, sizeof *all->labels, err);
    all->has_labels = true;
    if (!all->labels)
        return NOC_ENOMEMORY;
    for (int m = 0; status == NOC_OK && m < count; m++) {
        noc_class *class = &all->labels[all->label_count++];
        status = read_class(metrics[m].label, "stored", class, err);
        memcpy(class->name, metrics[m].name, sizeof class->name);
        class->bit = m;
    }
    return status;
}

/* ---- pairs ---- */

static noc_status add_case(noc_case_list *list, noc_case **added, noc_error *err)
{
    noc_case *grown = reallocarray(list->cases, list->count + 1, sizeof *grown);

    if (!grown)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for %zu pairs", list->count + 1);
    list->cases = grown;
    *added = memset(&grown[list->count++], 0, sizeof *grown);
    return NOC_OK;
}

/* One side of a case; a name that is there twice fails the case. */
static noc_status add_side(noc_case_list *list, const char *name, size_t length, char *path, bool is_truth,
                           noc_error *err)
{
    noc_case *c = NULL;
    noc_status status = path ? add_case(list, &c, err) : NOC_ENOMEMORY;

    if (status != NOC_OK) {
        free(path);
        return status;
    }
    *(is_truth ? &c->truth : &c->prediction) = path;
    c->name = strndup(name, length);
    return c->name ? NOC_OK : noc_fail(err, NOC_ENOMEMORY, "no memory for the name of a pair");
}

static noc_status add_folder(noc_case_list *list, const char *folder, const char *only, bool is_truth,
                             noc_error *err)
{
    struct dirent **names = NULL;
    int count = scandir(folder, &names, NULL, alphasort);
    size_t before = list->count, stem, seen = 0;
    noc_status status = NOC_OK;

    if (count < 0)
        return noc_fail(err, NOC_ENOINPUT, "%s: %s", folder, strerror(errno));
    for (int i = 0; i < count; i++) {
        const char *name = names[i]->d_name;
        if (status == NOC_OK && noc_nifti_is_image_name(name, &stem)) {
            seen++;
            status = add_side(list, name, stem, noc_path_join(folder, name, err), is_truth, err);
            if (status == NOC_OK && only && fnmatch(only, list->cases[list->count - 1].name, 0) != 0) {
                noc_case *last = &list->cases[--list->count];
                free(last->name);
                free(is_truth ? last->truth : last->prediction);
            }
        }
        free(names[i]);
    }
    free(names);
    if (status == NOC_OK && seen == 0)
        return noc_fail(err, NOC_EDATA, "%s: no NIfTI file in this folder", folder);
    if (status == NOC_OK && list->count == before)
        return noc_fail(err, NOC_ENOINPUT, "%s: no name matches \"%s\"", folder, only);
    return status;
}

static int compare_names(const void *a, const void *b)
{
    const noc_case *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    return order != 0 ? order : !x->prediction - !y->prediction;
}

/* Neighbours of one name become one case. */
static void join_pairs(noc_case_list *list)
{
    size_t kept = 0;

    qsort(list->cases, list->count, sizeof *list->cases, compare_names);
    for (size_t i = 0; i < list->count; i++) {
        noc_case *c = &list->cases[i], *last = kept > 0 ? &list->cases[kept - 1] : NULL;
        if (!last || strcmp(last->name, c->name) != 0) {
            list->cases[kept++] = *c;
            continue;
        }
        if ((c->prediction && last->prediction) || (c->truth && last->truth))
            noc_fail(&last->failure, NOC_EDATA, "%s is there twice, with another ending",
                     c->truth ? "its truth" : "its mask");
        if (c->truth && !last->truth) {
            last->truth = c->truth;
            c->truth = NULL;
        }
        free(c->name);
        free(c->prediction);
        free(c->truth);
    }
    list->count = kept;
    for (size_t i = 0; i < kept; i++) {
        noc_case *c = &list->cases[i];
        if (!c->prediction || !c->truth)
            noc_fail(&c->failure, NOC_ENOINPUT, "it has no %s of that name",
                     c->truth ? "mask among the predictions" : "truth");
    }
}

static noc_status pair_files(const char *prediction, const char *truth, noc_case_list *list, noc_error *err)
{
    const char *slash = strrchr(prediction, '/'), *name = slash ? slash + 1 : prediction;
    size_t stem = strlen(name);

    noc_nifti_is_name(name, &stem);
    noc_status status = add_side(list, name, stem, noc_strdup(prediction, err), false, err);
    if (status == NOC_OK) {
        list->cases[0].truth = noc_strdup(truth, err);
        status = list->cases[0].truth ? NOC_OK : NOC_ENOMEMORY;
    }
    return status;
}

noc_status noc_case_list_pair(const char *predictions, const char *truths, const char *only,
                              noc_case_list *list, noc_error *err)
{
    struct stat a, b;

    if (stat(predictions, &a) != 0)
        return noc_fail(err, NOC_ENOINPUT, "%s: %s", predictions, strerror(errno));
    if (stat(truths, &b) != 0)
        return noc_fail(err, NOC_ENOINPUT, "%s: %s", truths, strerror(errno));
    if (!S_ISDIR(a.st_mode) != !S_ISDIR(b.st_mode))
        return noc_fail(err, NOC_EUSAGE, "give two folders or two files, not one of each");
    if (!S_ISDIR(a.st_mode))
        return pair_files(predictions, truths, list, err);
    noc_status status = add_folder(list, predictions, only, false, err);
    if (status == NOC_OK)
        status = add_folder(list, truths, only, true, err);
    if (status == NOC_OK)
        join_pairs(list);
    return status;
}

noc_status noc_case_list_stored(const noc_done *done, size_t count, noc_case_list *list, noc_error *err)
{
    for (size_t i = 0; i < count; i++) {
        noc_case *c;
        if (!done[i].truth)
            continue;
        noc_status status = add_case(list, &c, err);
        if (status != NOC_OK)
            return status;
        c->done = &done[i];
        c->name = noc_strdup(done[i].key, err);
        c->truth = noc_strdup(done[i].truth, err);
        if (!c->name || !c->truth)
            return NOC_ENOMEMORY;
    }
    if (list->count == 0)
        return noc_fail(err, NOC_ENOINPUT, "no study that is done has a truth");
    qsort(list->cases, list->count, sizeof *list->cases, compare_names);
    return NOC_OK;
}

void noc_case_list_clear(noc_case_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->cases[i].name);
        free(list->cases[i].prediction);
        free(list->cases[i].truth);
        free(list->cases[i].scores);
    }
    free(list->cases);
    memset(list, 0, sizeof *list);
}
