/* Names and paths of studies as a list gives them. Paths are made absolute by their folder's real path, but
 * a file's own name is kept even where it is a link: archives under version control link to files named by
 * their hash. */
#include "catalog/source.h"

#include "catalog/scan.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/volume/nifti.h"

#include <search.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char key_characters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

void noc_source_clear(noc_source *source)
{
    for (size_t i = 0; i < source->count; i++)
        noc_study_clear(&source->studies[i]);
    free(source->studies);
    tdestroy(source->seen, free);
    free(source->folder_given);
    free(source->folder_real);
    memset(source, 0, sizeof(*source));
}

void noc_source_warn(noc_source *source, const char *format, ...)
{
    char text[NOC_ERROR_TEXT];
    va_list values;
    source->warnings++;
    if (!source->options || !source->options->warn)
        return;
    va_start(values, format);
    vsnprintf(text, sizeof(text), format, values);
    va_end(values);
    source->options->warn(source->options->argument, text);
}

/* ---- keys ---- */

/* True when it had to be altered. */
static bool clean_key(const char *text, size_t length, char key[NOC_STUDY_KEY])
{
    bool is_altered = length >= NOC_STUDY_KEY;
    size_t kept = is_altered ? NOC_STUDY_KEY - 1 : length;
    memcpy(key, text, kept);
    key[kept] = 0;
    for (char *c = key; *c; c++) {
        if (!strchr(key_characters, *c)) {
            *c = '_';
            is_altered = true;
        }
    }
    /* "." and ".." mean folders, also inside the results file. */
    if (strspn(key, ".") == kept) {
        memset(key, '_', kept ? kept : 1);
        key[kept ? kept : 1] = 0;
        is_altered = true;
    }
    return is_altered;
}

void noc_study_key_from_name(const char *name, char key[NOC_STUDY_KEY])
{
    const char *slash = strrchr(name, '/');
    const char *base = slash ? slash + 1 : name;
    size_t length = strlen(base);
    if (!noc_nifti_is_name(base, &length)) {
        const char *dot = strrchr(base, '.');
        if (dot && dot > base)
            length = (size_t)(dot - base);
    }
    clean_key(base, length, key);
}

/* ---- paths ---- */

/* Where the folder does not exist there is nothing to resolve: the path as it is written. */
static noc_status resolve_folder(noc_source *source, const char *folder, noc_error *err)
{
    if (source->folder_given && strcmp(source->folder_given, folder) == 0)
        return NOC_OK;
    char *given = noc_strdup(folder, err);
    char *real = realpath(folder, NULL);
    if (!real)
        real = noc_path_absolute(folder, err);
    if (!given || !real) {
        free(given);
        free(real);
        return NOC_ENOMEMORY;
    }
    free(source->folder_given);
    free(source->folder_real);
    source->folder_given = given;
    source->folder_real = real;
    return NOC_OK;
}

static noc_status resolve(noc_source *source, const char *folder, const char *name, char **path,
                          noc_error *err)
{
    char *joined = noc_path_join(folder, name, err);
    char *parent = joined ? noc_path_folder(joined, err) : NULL;
    noc_status status = parent ? resolve_folder(source, parent, err) : NOC_ENOMEMORY;
    if (status == NOC_OK) {
        const char *slash = strrchr(joined, '/');
        *path = noc_path_join(source->folder_real, slash ? slash + 1 : joined, err);
        status = *path ? NOC_OK : NOC_ENOMEMORY;
    }
    free(parent);
    free(joined);
    return status;
}

/* ---- studies ---- */

static int compare_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

static noc_status note_seen(noc_source *source, const noc_study *study, bool *is_new, noc_error *err)
{
    char *mark = NULL;
    if (asprintf(&mark, "%s\n%s", study->key, study->channels[0]) < 0)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the list of studies");
    char **node = tsearch(mark, &source->seen, compare_text);
    *is_new = node && *node == mark;
    if (!*is_new)
        free(mark);
    return node ? NOC_OK : noc_fail(err, NOC_ENOMEMORY, "no memory for the list of studies");
}

static noc_status append_study(noc_source *source, noc_study *study, noc_error *err)
{
    if (source->count == source->capacity) {
        size_t more = source->capacity ? source->capacity * 2 : 64;
        noc_study *grown = reallocarray(source->studies, more, sizeof(*grown));
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for the list of studies");
        source->studies = grown;
        source->capacity = more;
    }
    source->studies[source->count++] = *study;
    memset(study, 0, sizeof(*study));
    return NOC_OK;
}

static void name_study(noc_source *source, const noc_source_entry *entry, noc_study *study)
{
    snprintf(study->layout, sizeof(study->layout), "%s", entry->layout);
    if (!entry->key || entry->key[0] == 0)
        noc_study_key_from_name(entry->name ? entry->name : entry->channels[0], study->key);
    else if (clean_key(entry->key, strlen(entry->key), study->key))
        noc_source_warn(source,
                        "a key has characters other than A-Z a-z 0-9 . _ - or is too long: it becomes %s",
                        study->key);
}

noc_status noc_source_add(noc_source *source, const noc_source_entry *entry, noc_error *err)
{
    noc_study study = {0};
    bool is_new = false;
    noc_status status = NOC_OK;
    name_study(source, entry, &study);
    for (int i = 0; i < entry->channel_count && status == NOC_OK; i++) {
        status = resolve(source, entry->folder, entry->channels[i], &study.channels[i], err);
        study.channel_count = i + 1;
    }
    if (status == NOC_OK && entry->truth)
        status = resolve(source, entry->folder, entry->truth, &study.truth, err);
    if (status == NOC_OK)
        status = note_seen(source, &study, &is_new, err);
    if (status == NOC_OK && !is_new)
        noc_source_warn(source, "study %s is named twice with the same image; the first time counts",
                        study.key);
    if (status == NOC_OK && is_new)
        status = append_study(source, &study, err);
    noc_study_clear(&study);
    return status;
}
