/* Studies in and out of the catalog.
 *
 * A study is the same as one in the catalog when it has its key and its first channel file. A key that
 * another file has is settled by putting the names of more and more folders in front, then by a number
 * behind; since that sequence depends on the study's own path alone, scanning again finds the same row. */
#include "catalog/database.h"

#include "engine/base/memory.h"
#include "engine/base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char sql_find_key[] = "SELECT " NOC_STUDY_COLUMNS " FROM study s WHERE s.key = ?1";
static const char sql_find_image[] =
    "SELECT " NOC_STUDY_COLUMNS
    " FROM study s WHERE s.channels = ?1 OR (s.channels > ?1 || char(10) AND s.channels < ?1 ||"
    " char(11)) ORDER BY s.key LIMIT 1";
static const char sql_keys_of_image[] =
    "SELECT s.key FROM study s WHERE s.channels = ?1 OR (s.channels > ?1 || char(10) AND s.channels < ?1 ||"
    " char(11))";
static const char sql_has_key[] = "SELECT count(*) FROM study WHERE key = ?1";
static const char sql_insert[] =
    "INSERT INTO study (key, layout, channels, truth, size_i, size_j, size_k, spacing_i, spacing_j,"
    " spacing_k, voxel_bytes, fingerprint) VALUES (?1, ?2, ?3, ?4, iif(?5, ?6, NULL), iif(?5, ?7,"
    " NULL), iif(?5, ?8, NULL), ?9, ?10, ?11, ?12, ?13)";
static const char sql_update[] =
    "UPDATE study SET layout = ?2, channels = ?3, truth = ?4, size_i = iif(?5, ?6, NULL), size_j ="
    " iif(?5, ?7, NULL), size_k = iif(?5, ?8, NULL), spacing_i = ?9, spacing_j = ?10, spacing_k = ?11,"
    " voxel_bytes = ?12, fingerprint = ?13 WHERE key = ?1";
static const char sql_add_results[] =
    "INSERT OR IGNORE INTO result (set_id, study_id, state) SELECT id, ?1, 'pending' FROM result_set";
static const char sql_drop_metrics[] = "DELETE FROM metric WHERE study_id = ?1";
static const char sql_reset_results[] =
    "UPDATE result SET state = 'pending', attempts = 0, is_suspect = 0, deaths_alone = 0, failure ="
    " NULL, sentence = NULL, part = NULL, source_sha256 = NULL, mask_sha256 = NULL, seconds_read ="
    " NULL, seconds_prepare = NULL, seconds_compute = NULL, seconds_score = NULL, windows = NULL,"
    " suspect = NULL WHERE study_id = ?1";

/* ---- rows ---- */

static noc_status split_channels(const noc_catalog *catalog, const char *text, noc_study *study,
                                 noc_error *err)
{
    while (*text) {
        size_t length = strcspn(text, "\n");
        if (study->channel_count == NOC_STUDY_CHANNELS)
            return noc_fail(err, NOC_EDATA, "%s: study %s has more than %d channels", catalog->path,
                            study->key, NOC_STUDY_CHANNELS);
        study->channels[study->channel_count] = strndup(text, length);
        if (!study->channels[study->channel_count])
            return noc_fail(err, NOC_ENOMEMORY, "no memory for a study");
        study->channel_count++; /* NOLINT: the study owns them */
        text += length + (text[length] == '\n');
    }
    return NOC_OK;
}

static const char *column_text(sqlite3_stmt *row, int column)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    return text ? text : "";
}

noc_status noc_study_from_row(noc_catalog *catalog, sqlite3_stmt *row, noc_study *study, noc_error *err)
{
    noc_study made = {.id = sqlite3_column_int64(row, 0)};
    snprintf(made.key, sizeof(made.key), "%s", column_text(row, 1));
    snprintf(made.layout, sizeof(made.layout), "%s", column_text(row, 2));
    noc_status status = split_channels(catalog, column_text(row, 3), &made, err);
    if (status == NOC_OK && sqlite3_column_type(row, 4) != SQLITE_NULL) {
        made.truth = noc_strdup(column_text(row, 4), err);
        status = made.truth ? NOC_OK : NOC_ENOMEMORY;
    }
    made.has_shape = sqlite3_column_type(row, 5) != SQLITE_NULL;
    for (int i = 0; i < 3; i++) {
        made.size[i] = sqlite3_column_int64(row, 5 + i);
        made.spacing_mm[i] = sqlite3_column_double(row, 8 + i);
    }
    made.voxel_bytes = sqlite3_column_int64(row, 11);
    if (status == NOC_OK) {
        made.fingerprint = noc_strdup(column_text(row, 12), err);
        status = made.fingerprint ? NOC_OK : NOC_ENOMEMORY;
    }
    if (status == NOC_OK)
        *study = made;
    else
        noc_study_clear(&made);
    return status;
}

static noc_status find_by(noc_catalog *catalog, const char *sql, const char *value, bool *found,
                          noc_study *study, noc_error *err)
{
    sqlite3_stmt *row = NULL;
    bool has_row = false;
    noc_status status = noc_database_select(catalog, sql, NOC_SQL_VALUES(noc_sql_string(value)), &row, err);
    if (status == NOC_OK)
        status = noc_database_next(catalog, row, &has_row, err);
    if (status == NOC_OK && has_row)
        status = noc_study_from_row(catalog, row, study, err);
    noc_database_finish(row);
    if (status == NOC_OK)
        *found = has_row;
    return status;
}

noc_status noc_catalog_find_image(noc_catalog *catalog, const char *image, bool *found, noc_study *study,
                                  noc_error *err)
{
    return find_by(catalog, sql_find_image, image, found, study, err);
}

noc_status noc_catalog_find_study(noc_catalog *catalog, const char *key, noc_study *study, noc_error *err)
{
    bool found = false;
    noc_status status = find_by(catalog, sql_find_key, key, &found, study, err);
    if (status == NOC_OK && !found)
        return noc_fail(err, NOC_ENOINPUT, "%s: there is no study %s", catalog->path, key);
    return status;
}

/* ---- keys ---- */

/* The last `folders` folder names of path and the key, joined by '_'. False when there are not so many or
 * it would be too long. */
static bool key_with_folders(const char *path, int folders, const char *key, char out[NOC_STUDY_KEY])
{
    const char *end = strrchr(path, '/');
    const char *start = end;
    for (int i = 0; i < folders; i++) {
        while (start && start > path && start[-1] != '/')
            start--;
        if (!start || start == end)
            return false;
        if (i + 1 < folders) {
            if (start <= path + 1)
                return false;
            start--; /* onto the '/' before this name */
        }
    }
    int length = snprintf(out, NOC_STUDY_KEY, "%.*s_%s", (int)(end - start), start, key);
    for (char *c = out; *c; c++) {
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", *c))
            *c = '_';
    }
    return length < NOC_STUDY_KEY;
}

static void numbered_key(const char *key, long long number, char out[NOC_STUDY_KEY])
{
    char suffix[32];
    int length = snprintf(suffix, sizeof(suffix), "-%lld", number);
    snprintf(out, NOC_STUDY_KEY, "%.*s%s", NOC_STUDY_KEY - 1 - length, key, suffix);
}

static bool is_numbered(const char *candidate, const char *key)
{
    char same[NOC_STUDY_KEY];
    const char *dash = strrchr(candidate, '-');
    long long number = dash ? strtoll(dash + 1, NULL, 10) : 0;
    numbered_key(key, number, same);
    return number >= 2 && strcmp(candidate, same) == 0;
}

/* The key with a number that the image has already; *out "" when it has none. */
static noc_status find_numbered(noc_catalog *catalog, const char *image, const char *key,
                                char out[NOC_STUDY_KEY], noc_error *err)
{
    sqlite3_stmt *row = NULL;
    bool has_row = true;
    noc_status status =
        noc_database_select(catalog, sql_keys_of_image, NOC_SQL_VALUES(noc_sql_string(image)), &row, err);
    out[0] = 0;
    while (status == NOC_OK && out[0] == 0) {
        status = noc_database_next(catalog, row, &has_row, err);
        if (status != NOC_OK || !has_row)
            break;
        if (is_numbered(column_text(row, 0), key))
            snprintf(out, NOC_STUDY_KEY, "%s", column_text(row, 0));
    }
    noc_database_finish(row);
    return status;
}

static noc_status is_number_taken(noc_catalog *catalog, const char *key, long long number, bool *is_taken,
                                  noc_error *err)
{
    char candidate[NOC_STUDY_KEY];
    int64_t count = 0;
    numbered_key(key, number, candidate);
    noc_status status =
        noc_database_integer(catalog, sql_has_key, NOC_SQL_VALUES(noc_sql_string(candidate)), 0, &count, err);
    *is_taken = count > 0;
    return status;
}

/* A number behind the key that is free, in few questions: a list that gives all its studies one key would ask
 * for each number again with each of them. */
static noc_status find_free_number(noc_catalog *catalog, const char *key, char out[NOC_STUDY_KEY],
                                   noc_error *err)
{
    long long taken = 1, free_one = 2;
    bool is_taken = false;
    noc_status status = is_number_taken(catalog, key, free_one, &is_taken, err);
    while (status == NOC_OK && is_taken) {
        taken = free_one;
        free_one *= 2;
        status = is_number_taken(catalog, key, free_one, &is_taken, err);
    }
    while (status == NOC_OK && free_one - taken > 1) {
        long long middle = taken + (free_one - taken) / 2;
        status = is_number_taken(catalog, key, middle, &is_taken, err);
        if (is_taken)
            taken = middle;
        else
            free_one = middle;
    }
    numbered_key(key, free_one, out);
    return status;
}

static bool is_key(const char *key)
{
    size_t length = strspn(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    return length > 0 && key[length] == 0 && strspn(key, ".") < length;
}

/* ---- putting ---- */

static noc_status check_study(const noc_study *study, noc_error *err)
{
    if (!is_key(study->key))
        return noc_fail(err, NOC_EDATA, "a study key is made of A-Z a-z 0-9 . _ -, not '%s'", study->key);
    if (study->channel_count < 1 || study->channel_count > NOC_STUDY_CHANNELS)
        return noc_fail(err, NOC_EDATA, "study %s: %d channels, 1 to %d are possible", study->key,
                        study->channel_count, NOC_STUDY_CHANNELS);
    for (int i = 0; i < study->channel_count; i++) {
        if (study->channels[i][0] == 0 || strchr(study->channels[i], '\n'))
            return noc_fail(err, NOC_EDATA, "study %s: a path that is empty or has a line break", study->key);
    }
    return NOC_OK;
}

static bool is_same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool is_same_input(const noc_study *a, const noc_study *b)
{
    if (a->channel_count != b->channel_count || !is_same_text(a->truth, b->truth) ||
        !is_same_text(a->fingerprint, b->fingerprint))
        return false;
    for (int i = 0; i < a->channel_count; i++) {
        if (strcmp(a->channels[i], b->channels[i]) != 0)
            return false;
    }
    return true;
}

static bool is_same_header(const noc_study *a, const noc_study *b)
{
    return strcmp(a->layout, b->layout) == 0 && a->has_shape == b->has_shape &&
           a->voxel_bytes == b->voxel_bytes && memcmp(a->size, b->size, sizeof(a->size)) == 0;
}

static noc_status write_study(noc_catalog *catalog, const char *sql, const noc_study *study, noc_error *err)
{
    noc_text channels = {0};
    for (int i = 0; i < study->channel_count; i++)
        noc_text_add(&channels, "%s%s", i ? "\n" : "", study->channels[i]);
    noc_status status = NOC_OK;
    if (channels.failed)
        status = noc_fail(err, NOC_ENOMEMORY, "no memory for study %s", study->key);
    if (status == NOC_OK)
        status = noc_database_run(
            catalog, sql,
            NOC_SQL_VALUES(noc_sql_string(study->key), noc_sql_string(study->layout),
                           noc_sql_string(channels.data), noc_sql_string(study->truth),
                           noc_sql_integer(study->has_shape), noc_sql_integer(study->size[0]),
                           noc_sql_integer(study->size[1]), noc_sql_integer(study->size[2]),
                           noc_sql_number(study->has_shape ? study->spacing_mm[0] : NAN),
                           noc_sql_number(study->has_shape ? study->spacing_mm[1] : NAN),
                           noc_sql_number(study->has_shape ? study->spacing_mm[2] : NAN),
                           noc_sql_integer(study->voxel_bytes),
                           noc_sql_string(study->fingerprint ? study->fingerprint : "")),
            NULL, err);
    noc_text_free(&channels);
    return status;
}

static noc_status add_study(noc_catalog *catalog, noc_study *study, noc_error *err)
{
    noc_status status = write_study(catalog, sql_insert, study, err);
    if (status != NOC_OK)
        return status;
    study->id = sqlite3_last_insert_rowid(catalog->db);
    return noc_database_run(catalog, sql_add_results, NOC_SQL_VALUES(noc_sql_integer(study->id)), NULL, err);
}

static noc_status change_study(noc_catalog *catalog, const noc_study *study, noc_error *err)
{
    noc_status status = write_study(catalog, sql_update, study, err);
    if (status == NOC_OK)
        status = noc_database_run(catalog, sql_drop_metrics, NOC_SQL_VALUES(noc_sql_integer(study->id)), NULL,
                                  err);
    if (status == NOC_OK)
        status = noc_database_run(catalog, sql_reset_results, NOC_SQL_VALUES(noc_sql_integer(study->id)),
                                  NULL, err);
    return status;
}

static noc_status renew_study(noc_catalog *catalog, const noc_study *old, noc_study *study, noc_put *what,
                              noc_error *err)
{
    study->id = old->id;
    if (!is_same_input(old, study)) {
        *what = NOC_PUT_CHANGED;
        return change_study(catalog, study, err);
    }
    *what = NOC_PUT_UNCHANGED;
    return is_same_header(old, study) ? NOC_OK : write_study(catalog, sql_update, study, err);
}

/* Under that key: renews the image's own study or, where nobody has the key, adds it. *is_settled false: it
 * is another image's. */
static noc_status settle_as(noc_catalog *catalog, noc_study *study, bool *is_settled, noc_put *what,
                            noc_error *err)
{
    noc_study old = {0};
    bool found = false;
    noc_status status = find_by(catalog, sql_find_key, study->key, &found, &old, err);
    if (status != NOC_OK)
        return status;
    *is_settled = !found || (old.channel_count > 0 && strcmp(old.channels[0], study->channels[0]) == 0);
    if (!found) {
        *what = NOC_PUT_ADDED;
        status = add_study(catalog, study, err);
    } else if (*is_settled) {
        status = renew_study(catalog, &old, study, what, err);
    }
    noc_study_clear(&old);
    return status;
}

static noc_status settle_study(noc_catalog *catalog, noc_study *study, noc_put *what, noc_error *err)
{
    char key[NOC_STUDY_KEY];
    bool is_settled = false;
    memcpy(key, study->key, sizeof(key));
    noc_status status = settle_as(catalog, study, &is_settled, what, err);
    for (int folders = 1; status == NOC_OK && !is_settled; folders++) {
        if (!key_with_folders(study->channels[0], folders, key, study->key))
            break;
        status = settle_as(catalog, study, &is_settled, what, err);
    }
    if (status != NOC_OK || is_settled)
        return status;
    status = find_numbered(catalog, study->channels[0], key, study->key, err);
    if (status == NOC_OK && study->key[0] == 0)
        status = find_free_number(catalog, key, study->key, err);
    return status == NOC_OK ? settle_as(catalog, study, &is_settled, what, err) : status;
}

noc_status noc_catalog_put_study(noc_catalog *catalog, noc_study *study, noc_put *what, noc_error *err)
{
    bool is_own;
    noc_put done = NOC_PUT_UNCHANGED;
    char key[NOC_STUDY_KEY];
    int64_t id = study->id;
    noc_status status = check_study(study, err);
    if (status == NOC_OK)
        status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    memcpy(key, study->key, sizeof(key));
    status = settle_study(catalog, study, &done, err);
    status = noc_database_leave(catalog, is_own, status, err);
    if (status == NOC_OK) {
        *what = done;
    } else {
        memcpy(study->key, key, sizeof(key));
        study->id = id;
    }
    return status;
}
