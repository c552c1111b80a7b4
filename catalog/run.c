/* A run and the states of its studies. Every change names the states it may come from; another one is a bug
 * of the caller and changes nothing. */
#include "catalog/database.h"

#include "engine/base/clock.h"
#include "engine/base/memory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const state_names[NOC_STATE_COUNT] = {"pending", "running", "written",
                                                         "done",    "failed",  "quarantined"};

static const char sql_begin_run[] =
    "INSERT INTO run (set_id, version, device, host, ranks, configuration, started_ns) VALUES (?1, ?2,"
    " ?3, ?4, ?5, ?6, ?7)";
static const char sql_end_run[] = "UPDATE run SET ended_ns = ?2, exit_code = ?3 WHERE id = ?1";
static const char sql_ended_run[] =
    "SELECT iif(exit_code NOT IN (?2, ?3), id, 0) FROM run WHERE set_id = ?1 ORDER BY id DESC LIMIT 1";

/* A study's end is its latest attempt. */
static const char sql_ends[] =
    "SELECT iif(r.state = 'done', 'ok', r.failure) FROM attempt a JOIN result r ON r.set_id = a.set_id AND"
    " r.study_id = a.study_id WHERE a.run_id IN (SELECT id FROM run WHERE set_id = ?1 AND started_ns >= ?2)"
    " AND r.state IN ('done', 'failed', 'quarantined') AND a.id = (SELECT max(id) FROM attempt WHERE set_id ="
    " a.set_id AND study_id = a.study_id) ORDER BY a.ended_ns DESC LIMIT ?3";

static const char sql_recover_results[] =
    "UPDATE result SET state = 'pending', part = NULL WHERE set_id = ?1 AND state IN ('running',"
    " 'written')";
static const char sql_recover_attempts[] =
    "UPDATE attempt SET ended_ns = coalesce(ended_ns, ?2), outcome = 'lost' WHERE set_id = ?1 AND"
    " (outcome IS NULL OR outcome = 'written')";
static const char sql_add_results[] =
    "INSERT OR IGNORE INTO result (set_id, study_id, state) SELECT ?1, id, 'pending' FROM study";

static const char sql_pending[] =
    "SELECT " NOC_STUDY_COLUMNS
    ", r.attempts, r.is_suspect, r.deaths_alone FROM study s LEFT JOIN result r ON r.study_id = s.id AND"
    " r.set_id = ?1 WHERE coalesce(r.state, 'pending') = 'pending' AND matches(?2, s.key) ORDER BY s.key"
    " LIMIT iif(?3 > 0, ?3, -1)";

static const char sql_start[] =
    "UPDATE result SET state = 'running', part = NULL WHERE set_id = ?1 AND study_id = ?2 AND state ="
    " 'pending'";
static const char sql_open_attempt[] =
    "INSERT INTO attempt (set_id, study_id, run_id, rank, host, started_ns) VALUES (?1, ?2, ?3, ?4, ?5,"
    " ?6)";
static const char sql_end_attempt[] =
    "UPDATE attempt SET ended_ns = coalesce(ended_ns, ?3), outcome = ?4, sentence = ?5 WHERE id ="
    " (SELECT max(id) FROM attempt WHERE set_id = ?1 AND study_id = ?2 AND (outcome IS NULL OR outcome"
    " = 'written'))";

static const char sql_mark_written[] =
    "UPDATE result SET state = 'written', part = ?3 WHERE set_id = ?1 AND study_id = ?2 AND state ="
    " 'running'";
static const char sql_put_back[] =
    "UPDATE result SET state = 'pending', part = NULL WHERE set_id = ?1 AND study_id = ?2 AND state IN"
    " ('running', 'written')";
static const char sql_charge[] =
    "UPDATE result SET attempts = attempts + 1, failure = ?3, sentence = ?4 WHERE set_id = ?1 AND"
    " study_id = ?2";
static const char sql_suspect[] =
    "UPDATE result SET is_suspect = 1, deaths_alone = deaths_alone + ?3 WHERE set_id = ?1 AND study_id"
    " = ?2";
/* A study is quarantined by one more death alone. */
static const char sql_fail[] =
    "UPDATE result SET attempts = attempts + (state = 'running'), deaths_alone = deaths_alone + (?3 ="
    " 'quarantined'), state = ?3, failure = ?4, sentence = ?5, part = NULL WHERE set_id = ?1 AND study_id ="
    " ?2 AND state IN ('pending', 'running', 'written')";
static const char sql_retry[] =
    "UPDATE result SET state = 'pending', attempts = 0, is_suspect = 0, deaths_alone = 0, failure ="
    " NULL, sentence = NULL WHERE set_id = ?1 AND state IN ('failed', 'quarantined') AND (?3 IS NULL OR"
    " failure = ?3) AND matches(?2, (SELECT key FROM study WHERE id = study_id))";

const char *noc_study_state_name(noc_study_state state)
{
    return (unsigned)state < NOC_STATE_COUNT ? state_names[state] : "unknown";
}

bool noc_study_state_from_name(const char *name, noc_study_state *state)
{
    for (int i = 0; name && i < NOC_STATE_COUNT; i++) {
        if (strcmp(name, state_names[i]) == 0) {
            *state = (noc_study_state)i;
            return true;
        }
    }
    return false;
}

/* ---- runs ---- */

noc_status noc_catalog_begin_run(noc_catalog *catalog, int64_t set, const noc_run_record *record,
                                 int64_t *run, noc_error *err)
{
    bool is_own;
    char text[256];
    int64_t id = 0;
    noc_configuration configuration;
    noc_status status = noc_catalog_read_set(catalog, set, &configuration, err);
    if (status == NOC_OK)
        status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    noc_configuration_describe(&configuration, text, sizeof(text));
    status = noc_database_run(catalog, sql_begin_run,
                              NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_string(record->version),
                                             noc_sql_string(record->device), noc_sql_string(record->host),
                                             noc_sql_integer(record->ranks), noc_sql_string(text),
                                             noc_sql_integer(noc_clock_unix_ns())),
                              NULL, err);
    if (status == NOC_OK)
        id = sqlite3_last_insert_rowid(catalog->db);
    status = noc_database_leave(catalog, is_own, status, err);
    if (status == NOC_OK)
        *run = id;
    return status;
}

/* A statement that must change exactly one result, of study ?2; `what` says what was asked for. */
static noc_status change_one(noc_catalog *catalog, const char *sql, const noc_sql_value *values, int count,
                             const char *what, noc_error *err)
{
    int64_t changes = 0;
    noc_status status = noc_database_run(catalog, sql, values, count, &changes, err);
    if (status == NOC_OK && changes != 1)
        return noc_fail(err, NOC_EINTERNAL, "%s: study %" PRId64 " cannot be %s from its state",
                        catalog->path, values[1].integer, what);
    return status;
}

noc_status noc_catalog_end_run(noc_catalog *catalog, int64_t run, int exit_code, noc_error *err)
{
    bool is_own;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    int64_t changes = 0;
    status = noc_database_run(catalog, sql_end_run,
                              NOC_SQL_VALUES(noc_sql_integer(run), noc_sql_integer(noc_clock_unix_ns()),
                                             noc_sql_integer(exit_code)),
                              &changes, err);
    if (status == NOC_OK && changes != 1)
        status = noc_fail(err, NOC_EINTERNAL, "%s: there is no run %" PRId64, catalog->path, run);
    return noc_database_leave(catalog, is_own, status, err);
}

noc_status noc_catalog_ended_run(noc_catalog *catalog, int64_t set, int64_t *run, noc_error *err)
{
    return noc_database_integer(catalog, sql_ended_run,
                                NOC_SQL_VALUES(noc_sql_integer(set),
                                               noc_sql_integer(noc_status_exit(NOC_EIO)),
                                               noc_sql_integer(noc_status_exit(NOC_ECANTCREATE))),
                                0, run, err);
}

noc_status noc_catalog_ends(noc_catalog *catalog, int64_t set, int64_t since_ns, noc_status *ends, int limit,
                            int *count, noc_error *err)
{
    sqlite3_stmt *row = NULL;
    bool has_row = true;
    int found = 0;
    noc_status status = noc_database_select(
        catalog, sql_ends,
        NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(since_ns), noc_sql_integer(limit)), &row, err);
    while (status == NOC_OK && has_row) {
        status = noc_database_next(catalog, row, &has_row, err);
        if (status != NOC_OK || !has_row)
            break;
        const char *name = (const char *)sqlite3_column_text(row, 0);
        if (!name || !noc_status_from_name(name, &ends[found]))
            ends[found] = NOC_OK; /* of a later version: not known to be the machine's fault */
        found++;
    }
    noc_database_finish(row);
    if (status == NOC_OK)
        *count = found;
    return status;
}

noc_status noc_catalog_recover(noc_catalog *catalog, int64_t set, int64_t *count, noc_error *err)
{
    bool is_own;
    int64_t back = 0;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    status = noc_database_run(catalog, sql_recover_attempts,
                              NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(noc_clock_unix_ns())),
                              NULL, err);
    if (status == NOC_OK)
        status =
            noc_database_run(catalog, sql_recover_results, NOC_SQL_VALUES(noc_sql_integer(set)), &back, err);
    if (status == NOC_OK)
        status = noc_database_run(catalog, sql_add_results, NOC_SQL_VALUES(noc_sql_integer(set)), NULL, err);
    status = noc_database_leave(catalog, is_own, status, err);
    if (status == NOC_OK && count)
        *count = back;
    return status;
}

/* ---- pending studies ---- */

static noc_status append_pending(noc_catalog *catalog, sqlite3_stmt *row, noc_pending **list, size_t *count,
                                 size_t *capacity, noc_error *err)
{
    if (*count == *capacity) {
        size_t more = *capacity ? *capacity * 2 : 64;
        noc_pending *grown = reallocarray(*list, more, sizeof(**list));
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for the list of pending studies");
        *list = grown;
        *capacity = more;
    }
    noc_pending *pending = &(*list)[*count];
    memset(pending, 0, sizeof(*pending));
    noc_status status = noc_study_from_row(catalog, row, &pending->study, err);
    if (status != NOC_OK)
        return status;
    pending->attempts = sqlite3_column_int(row, NOC_STUDY_COLUMN_COUNT);
    pending->is_suspect = sqlite3_column_int(row, NOC_STUDY_COLUMN_COUNT + 1) != 0;
    pending->deaths_alone = sqlite3_column_int(row, NOC_STUDY_COLUMN_COUNT + 2);
    ++*count;
    return NOC_OK;
}

noc_status noc_catalog_pending(noc_catalog *catalog, int64_t set, const char *only, int64_t limit,
                               noc_pending **list, size_t *count, noc_error *err)
{
    sqlite3_stmt *row = NULL;
    noc_pending *made = NULL;
    size_t length = 0, capacity = 0;
    bool has_row = true;
    noc_status status = noc_database_select(
        catalog, sql_pending,
        NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_string(only), noc_sql_integer(limit)), &row, err);
    while (status == NOC_OK && has_row) {
        status = noc_database_next(catalog, row, &has_row, err);
        if (status == NOC_OK && has_row)
            status = append_pending(catalog, row, &made, &length, &capacity, err);
    }
    noc_database_finish(row);
    if (status != NOC_OK) {
        noc_pending_free(made, length);
        return status;
    }
    *list = made;
    *count = length;
    return NOC_OK;
}

void noc_pending_free(noc_pending *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        noc_study_clear(&list[i].study);
    free(list);
}

/* ---- states ---- */

noc_status noc_catalog_start(noc_catalog *catalog, int64_t set, int64_t run, int64_t study, int rank,
                             const char *host, noc_error *err)
{
    bool is_own;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    status = change_one(catalog, sql_start, NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(study)),
                        "started", err);
    if (status == NOC_OK)
        status = noc_database_run(catalog, sql_open_attempt,
                                  NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(study),
                                                 noc_sql_integer(run), noc_sql_integer(rank),
                                                 noc_sql_string(host ? host : ""),
                                                 noc_sql_integer(noc_clock_unix_ns())),
                                  NULL, err);
    return noc_database_leave(catalog, is_own, status, err);
}

noc_status noc_attempt_end(noc_catalog *catalog, int64_t set, int64_t study, const char *outcome,
                           const char *sentence, noc_error *err)
{
    return noc_database_run(catalog, sql_end_attempt,
                            NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(study),
                                           noc_sql_integer(noc_clock_unix_ns()), noc_sql_string(outcome),
                                           noc_sql_string(sentence)),
                            NULL, err);
}

noc_status noc_catalog_mark_written(noc_catalog *catalog, int64_t set, int64_t study, int64_t part,
                                    noc_error *err)
{
    bool is_own;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    status = change_one(catalog, sql_mark_written,
                        NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(study), noc_sql_integer(part)),
                        "written", err);
    if (status == NOC_OK)
        status = noc_attempt_end(catalog, set, study, "written", NULL, err);
    return noc_database_leave(catalog, is_own, status, err);
}

noc_status noc_catalog_put_back(noc_catalog *catalog, int64_t set, int64_t study, bool charged,
                                const noc_error *failure, noc_error *err)
{
    bool is_own;
    const char *type = failure ? noc_status_name(failure->status) : NULL;
    const char *sentence = failure ? failure->text : NULL;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    status = change_one(catalog, sql_put_back, NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(study)),
                        "put back", err);
    if (status == NOC_OK && charged)
        status = noc_database_run(catalog, sql_charge,
                                  NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(study),
                                                 noc_sql_string(type), noc_sql_string(sentence)),
                                  NULL, err);
    if (status == NOC_OK)
        status = noc_attempt_end(catalog, set, study, type ? type : "given_back", sentence, err);
    return noc_database_leave(catalog, is_own, status, err);
}

noc_status noc_catalog_mark_suspect(noc_catalog *catalog, int64_t set, int64_t study, bool alone,
                                    noc_error *err)
{
    bool is_own;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    status = change_one(catalog, sql_put_back, NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(study)),
                        "put back", err);
    if (status == NOC_OK)
        status = noc_database_run(
            catalog, sql_suspect,
            NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(study), noc_sql_integer(alone)), NULL, err);
    if (status == NOC_OK)
        status = noc_attempt_end(catalog, set, study, noc_status_name(NOC_ECRASH),
                                 alone ? "its worker died while it held this study alone"
                                       : "its worker died while it held this study and others",
                                 err);
    return noc_database_leave(catalog, is_own, status, err);
}

noc_status noc_catalog_fail(noc_catalog *catalog, int64_t set, int64_t study, noc_study_state state,
                            const noc_error *failure, noc_error *err)
{
    bool is_own;
    const char *type = noc_status_name(failure->status);
    if (state != NOC_FAILED && state != NOC_QUARANTINED)
        return noc_fail(err, NOC_EINTERNAL, "a failure cannot make a study %s", noc_study_state_name(state));
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    status = change_one(catalog, sql_fail,
                        NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(study),
                                       noc_sql_string(noc_study_state_name(state)), noc_sql_string(type),
                                       noc_sql_string(failure->text)),
                        noc_study_state_name(state), err);
    if (status == NOC_OK)
        status = noc_attempt_end(catalog, set, study, type, failure->text, err);
    return noc_database_leave(catalog, is_own, status, err);
}

noc_status noc_catalog_retry(noc_catalog *catalog, int64_t set, const char *only, const char *failure_type,
                             int64_t *count, noc_error *err)
{
    bool is_own;
    int64_t changes = 0;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    status = noc_database_run(
        catalog, sql_retry,
        NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_string(only), noc_sql_string(failure_type)), &changes,
        err);
    status = noc_database_leave(catalog, is_own, status, err);
    if (status == NOC_OK && count)
        *count = changes;
    return status;
}
