/* nocturne verify: the first promise, proved from the files. Every mask that the catalog calls done is read
 * from its part, and what the part says of it is compared with what the catalog says. Damage is what breaks
 * the promise; a note is what the next run will settle. */
#include "pipeline/command.h"

#include "engine/base/memory.h"
#include "engine/base/text.h"
#include "pipeline/opening.h"
#include "pipeline/result_folder.h"
#include "pipeline/results.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PART_NAME = 64 };

typedef struct part_facts {
    int64_t number, bytes;
} part_facts;

typedef struct verification {
    noc_result_folder folder;
    noc_done *done; /* by part, then key */
    size_t done_count;
    part_facts *parts; /* of the catalog, by number */
    size_t part_count, part_capacity;
    noc_text lines, damage_json, notes_json;
    int64_t good, damaged, notes;
} verification;

/* ---- findings ---- */

__attribute__((format(printf, 5, 6))) static void find(verification *v, bool is_damage, const char *part,
                                                       const char *key, const char *format, ...)
{
    char sentence[NOC_ERROR_TEXT + 64];
    noc_text *json = is_damage ? &v->damage_json : &v->notes_json;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    *(is_damage ? &v->damaged : &v->notes) += 1;
    noc_text_add(&v->lines, "%s: %s: %s%s%s\n", is_damage ? "damage" : "note", part, key ? key : "",
                 key ? ": " : "", sentence);
    noc_text_add(json, "%s{\"part\":", json->size > 0 ? "," : "");
    noc_text_add_json(json, part);
    noc_text_add(json, ",\"key\":");
    noc_text_add_json(json, key);
    noc_text_add(json, ",\"sentence\":");
    noc_text_add_json(json, sentence);
    noc_text_add(json, "}");
}

/* ---- one study ---- */

static bool is_same(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

static bool is_same_metric(const noc_metric *a, const noc_metric *b)
{
    return strcmp(a->label, b->label) == 0 && strcmp(a->name, b->name) == 0 && a->has_truth == b->has_truth &&
           a->tp == b->tp && a->fp == b->fp && a->fn == b->fn && a->tn == b->tn &&
           is_same(a->dice, b->dice) && is_same(a->iou, b->iou) && is_same(a->precision, b->precision) &&
           is_same(a->recall, b->recall) && is_same(a->truth_ml, b->truth_ml) &&
           is_same(a->prediction_ml, b->prediction_ml) && is_same(a->volume_similarity, b->volume_similarity);
}

/* The catalog may tell them in another order. */
static bool has_same_metrics(const noc_done *done, const noc_part_study *study)
{
    if (done->metric_count != study->metric_count)
        return false;
    for (int i = 0; i < done->metric_count; i++) {
        bool is_found = false;
        for (int j = 0; j < study->metric_count && !is_found; j++)
            is_found = is_same_metric(&done->metrics[i], &study->metrics[j]);
        if (!is_found)
            return false;
    }
    return true;
}

static const noc_part_study *find_study(const noc_part_record *part, const char *key)
{
    for (size_t i = 0; i < part->study_count; i++)
        if (strcmp(part->studies[i].key, key) == 0)
            return &part->studies[i];
    return NULL;
}

static noc_status check_study(verification *v, const char *path, const char *name,
                              const noc_part_record *part, const noc_done *done, noc_error *err)
{
    int64_t before = v->damaged;
    noc_outcome *outcome = NULL;
    noc_error why = {.status = NOC_OK};
    const noc_part_study *study = find_study(part, done->key);
    if (!study) {
        find(v, true, name, done->key, "the study is not in the part");
        return NOC_OK;
    }
    if (strcmp(study->mask_sha256, done->mask_sha256) != 0)
        find(v, true, name, done->key, "the mask's SHA-256 is %.12s..., the catalog says %.12s...",
             study->mask_sha256, done->mask_sha256);
    if (strcmp(study->source_sha256, done->source_sha256) != 0)
        find(v, true, name, done->key, "the scan's SHA-256 differs from the catalog's");
    if (!has_same_metrics(done, study))
        find(v, true, name, done->key, "the metrics differ from the catalog's");
    noc_status status = noc_part_read_study(path, done->key, true, &outcome, &why);
    if (status == NOC_ENOMEMORY)
        return noc_fail(err, status, "%s", why.text);
    if (status != NOC_OK)
        find(v, true, name, done->key, "%s", why.text);
    noc_outcome_free(outcome);
    v->good += v->damaged == before;
    return NOC_OK;
}

/* ---- one part ---- */

/* The parts come in the order of their numbers and the masks lie in it: *at moves on over all of them once.
 */
static size_t masks_of_part(const verification *v, int64_t number, size_t *at)
{
    size_t count = 0;
    while (*at < v->done_count && v->done[*at].part < number)
        ++*at;
    while (*at + count < v->done_count && v->done[*at + count].part == number)
        count++;
    return count;
}

static void compare_part(verification *v, const char *name, const part_facts *facts,
                         const noc_part_record *part, const noc_configuration *made)
{
    const noc_configuration *c = &v->folder.configuration;
    if (part->bytes != facts->bytes)
        find(v, true, name, NULL, "it has %" PRId64 " bytes, the catalog says %" PRId64, part->bytes,
             facts->bytes);
    if (part->number != facts->number)
        find(v, true, name, NULL, "it says to be part %" PRId64, part->number);
    if (strcmp(made->model_sha256, c->model_sha256) != 0 ||
        memcmp(made->window, c->window, sizeof c->window) != 0 || made->overlap != c->overlap ||
        strcmp(made->blend, c->blend) != 0 || strcmp(made->precision, c->precision) != 0)
        find(v, true, name, NULL, "it was made with another configuration");
}

static noc_status check_part(verification *v, const part_facts *facts, size_t *at, noc_error *err)
{
    char name[PART_NAME];
    noc_part_record part = {0};
    noc_configuration made;
    noc_error why = {.status = NOC_OK};
    size_t count = masks_of_part(v, facts->number, at);
    snprintf(name, sizeof name, "part-%06" PRId64 ".h5", facts->number);
    char *path = noc_part_path(v->folder.path, facts->number, false, err);
    if (!path)
        return NOC_ENOMEMORY;
    noc_status status = noc_part_read(path, false, &part, &made, &why);
    if (status == NOC_OK) {
        compare_part(v, name, facts, &part, &made);
        for (size_t i = *at; status == NOC_OK && i < *at + count; i++)
            status = check_study(v, path, name, &part, &v->done[i], err);
    } else if (status == NOC_ENOMEMORY) {
        noc_fail(err, status, "%s", why.text);
    } else {
        find(v, true, name, NULL, "%s (%zu masks should be in it)", why.text, count);
        status = NOC_OK;
    }
    noc_part_record_clear(&part);
    free(path);
    return status;
}

static int compare_numbers(const void *a, const void *b)
{
    const part_facts *x = a, *y = b;
    return (x->number > y->number) - (x->number < y->number);
}

static bool is_part_known(const verification *v, int64_t number)
{
    const part_facts key = {.number = number};
    return v->part_count > 0 && bsearch(&key, v->parts, v->part_count, sizeof key, compare_numbers);
}

static void check_orphans(verification *v)
{
    char name[PART_NAME];
    for (size_t i = 0; i < v->done_count; i++) {
        snprintf(name, sizeof name, "part-%06" PRId64 ".h5", v->done[i].part);
        if (!is_part_known(v, v->done[i].part))
            find(v, true, name, v->done[i].key, "the catalog counts on a part it does not know");
    }
}

/* ---- the folder ---- */

static int is_part_name(const struct dirent *entry)
{
    return strncmp(entry->d_name, "part-", 5) == 0;
}

static void look_at_name(verification *v, const char *name)
{
    long long number;
    int used = 0;
    if (sscanf(name, "part-%lld.h5%n", &number, &used) != 1 || used == 0)
        return;
    size_t length = strlen(name);
    if (strcmp(name + used, ".open") == 0)
        find(v, false, name, NULL,
             "an unfinished part: of a run that goes on, or left by one that was killed");
    else if (length > 8 && strcmp(name + length - 8, ".unknown") == 0)
        find(v, false, name, NULL, "set aside by an earlier run: not a part of this result set");
    else if (name[used] == '\0' && !is_part_known(v, number))
        find(v, false, name, NULL, "not in the catalog; the next run adopts it or sets it aside");
}

static noc_status add_part(void *argument, const noc_part_row *row, noc_error *err)
{
    verification *v = argument;
    if (v->part_count == v->part_capacity) {
        size_t capacity = v->part_capacity * 2 + 64;
        part_facts *grown = reallocarray(v->parts, capacity, sizeof *grown);
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for the list of parts");
        v->parts = grown;
        v->part_capacity = capacity;
    }
    v->parts[v->part_count++] = (part_facts){.number = row->number, .bytes = row->bytes};
    return NOC_OK;
}

/* The end of a run writes the index, so only after one is it damage when it does not lead to every mask; nor
 * is it when another run came to its end meanwhile. */
static noc_status check_index(verification *v, int64_t ended_run, noc_error *err)
{
    int64_t now = 0;
    noc_error why = {.status = NOC_OK};
    if (ended_run == 0)
        return NOC_OK;
    noc_status found = noc_index_check(v->folder.path, v->folder.catalog, v->folder.set, &why);
    if (found != NOC_OK && found != NOC_EDATA)
        return noc_fail(err, found, "%s", why.text);
    noc_status status = noc_catalog_ended_run(v->folder.catalog, v->folder.set, &now, err);
    if (status == NOC_OK && found != NOC_OK && now == ended_run)
        find(v, true, "index.h5", NULL, "%s; `nocturne verify --index` writes it anew", why.text);
    return status;
}

/* The folder is listed first and the parts are asked for last, so that a run that goes on meanwhile looks
 * neither lost nor unknown. */
static noc_status check_all(verification *v, noc_error *err)
{
    struct dirent **names = NULL;
    int64_t ended_run = 0;
    size_t at = 0;
    int name_count = scandir(v->folder.path, &names, is_part_name, alphasort);
    if (name_count < 0)
        return noc_fail(err, NOC_EIO, "%s: cannot be listed: %s", v->folder.path, strerror(errno));
    noc_status status = noc_catalog_ended_run(v->folder.catalog, v->folder.set, &ended_run, err);
    if (status == NOC_OK)
        status = noc_result_folder_done(&v->folder, NULL, &v->done, &v->done_count, err);
    if (status == NOC_OK)
        status = noc_catalog_each_part(v->folder.catalog, v->folder.set, add_part, v, err);
    for (size_t i = 0; status == NOC_OK && i < v->part_count; i++)
        status = check_part(v, &v->parts[i], &at, err);
    if (status == NOC_OK)
        status = check_index(v, ended_run, err);
    if (status == NOC_OK)
        check_orphans(v);
    for (int i = 0; i < name_count; i++) {
        if (status == NOC_OK)
            look_at_name(v, names[i]->d_name);
        free(names[i]);
    }
    free(names);
    return status;
}

/* ---- the answer ---- */

static void say(const verification *v, bool as_json, noc_text *text)
{
    if (as_json) {
        noc_text_add(
            text, "{\"masks\":%" PRId64 ",\"expected\":%zu,\"parts\":%zu,\"damage\":[%s],\"notes\":[%s]}\n",
            v->good, v->done_count, v->part_count, v->damage_json.data ? v->damage_json.data : "",
            v->notes_json.data ? v->notes_json.data : "");
        return;
    }
    noc_text_add(text, "%s", v->lines.data ? v->lines.data : "");
    if (v->damaged == 0)
        noc_text_add(text, "verified %" PRId64 " masks in %zu parts: all good\n", v->good, v->part_count);
    else
        noc_text_add(
            text,
            "verified %zu masks in %zu parts: %" PRId64 " good, %" PRId64
            " findings of damage; move damaged parts away, and the next run does their studies anew\n",
            v->done_count, v->part_count, v->good, v->damaged);
}

static noc_status print(const verification *v, bool as_json, noc_error *err)
{
    noc_text text = {0};
    say(v, as_json, &text);
    text.failed = text.failed || v->lines.failed || v->damage_json.failed || v->notes_json.failed;
    noc_status status = noc_opening_print(&text, err);
    noc_text_free(&text);
    return status;
}

static noc_status run(const noc_settings *settings, verification *v, noc_error *err)
{
    noc_status status = noc_result_folder_open(settings, &v->folder, err);
    if (status == NOC_OK && settings->index)
        status = noc_index_write(v->folder.path, v->folder.catalog, v->folder.set, err);
    if (status == NOC_OK)
        status = check_all(v, err);
    if (status == NOC_OK)
        status = print(v, settings->json, err);
    return status;
}

int noc_command_verify(const noc_settings *settings)
{
    verification v = {.good = 0};
    noc_error err = {.status = NOC_OK};
    noc_status status = run(settings, &v, &err);
    int code = status != NOC_OK ? noc_command_fail(&err)
               : v.damaged > 0  ? noc_status_exit(NOC_EUNAVAILABLE)
                                : 0;
    noc_text_free(&v.lines);
    noc_text_free(&v.damage_json);
    noc_text_free(&v.notes_json);
    free(v.parts);
    noc_done_free(v.done, v.done_count);
    noc_result_folder_close(&v.folder);
    return code;
}
