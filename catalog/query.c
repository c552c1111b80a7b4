/* Asking the catalog: counts and speed, each result with its metrics, each part. */
#include "catalog/database.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Out of the index alone: a run asks every few seconds. */
static const char sql_states[] = "SELECT state, count(*) FROM result WHERE set_id = ?1 GROUP BY state";
static const char sql_failures[] =
    "SELECT failure, count(*) FROM result WHERE set_id = ?1 AND state IN ('failed', 'quarantined') GROUP BY"
    " failure";
static const char sql_studies[] = "SELECT count(*) FROM study";
static const char sql_speed[] =
    "SELECT count(a.id), (max(a.ended_ns) - r.started_ns) / 1e9 FROM run r LEFT JOIN attempt a ON"
    " a.run_id = r.id AND a.outcome IN ('written', 'done') WHERE r.id = (SELECT max(id) FROM run WHERE"
    " set_id = ?1)";
static const char sql_results[] =
    "SELECT " NOC_STUDY_COLUMNS
    ", coalesce(r.state, 'pending'), coalesce(r.attempts, 0), r.failure, r.sentence, coalesce(r.part,"
    " 0), r.source_sha256, r.mask_sha256, r.seconds_read, r.seconds_prepare, r.seconds_compute,"
    " r.seconds_score, coalesce(r.windows, 0), r.suspect FROM study s LEFT JOIN result r ON r.study_id ="
    " s.id AND r.set_id = ?1 WHERE matches(?2, s.key) ORDER BY s.key";
static const char sql_metrics[] =
    "SELECT label, name, has_truth, tp, fp, fn, tn, dice, iou, precision, recall, truth_ml,"
    " prediction_ml, volume_similarity FROM metric WHERE set_id = ?1 AND study_id = ?2 ORDER BY"
    " position";
static const char sql_parts[] =
    "SELECT number, bytes, studies, sha256 FROM part WHERE set_id = ?1 ORDER BY number";

/* ---- counts ---- */

static void add_state(sqlite3_stmt *row, noc_counts *counts)
{
    noc_study_state state = NOC_PENDING;
    noc_study_state_from_name((const char *)sqlite3_column_text(row, 0), &state);
    counts->states[state] += sqlite3_column_int64(row, 1);
}

static void add_failure(sqlite3_stmt *row, noc_counts *counts)
{
    noc_status type = NOC_OK;
    const char *failure = (const char *)sqlite3_column_text(row, 0);
    if (failure && noc_status_from_name(failure, &type))
        counts->failures[type] += sqlite3_column_int64(row, 1);
}

static noc_status add_rows(noc_catalog *catalog, const char *sql, int64_t set,
                           void (*add)(sqlite3_stmt *row, noc_counts *counts), noc_counts *counts,
                           noc_error *err)
{
    sqlite3_stmt *row = NULL;
    bool has_row = true;
    noc_status status = noc_database_select(catalog, sql, NOC_SQL_VALUES(noc_sql_integer(set)), &row, err);
    while (status == NOC_OK && has_row) {
        status = noc_database_next(catalog, row, &has_row, err);
        if (status == NOC_OK && has_row)
            add(row, counts);
    }
    noc_database_finish(row);
    return status;
}

/* A study that the set has no row for is pending in it. */
static noc_status count_the_rest(noc_catalog *catalog, noc_counts *counts, noc_error *err)
{
    int64_t studies = 0;
    noc_status status = noc_database_integer(catalog, sql_studies, NULL, 0, 0, &studies, err);
    for (int i = 0; i < NOC_STATE_COUNT; i++)
        studies -= counts->states[i];
    if (status == NOC_OK)
        counts->states[NOC_PENDING] += studies;
    return status;
}

static noc_status read_speed(noc_catalog *catalog, int64_t set, noc_counts *counts, noc_error *err)
{
    sqlite3_stmt *row = NULL;
    bool has_row = false;
    noc_status status =
        noc_database_select(catalog, sql_speed, NOC_SQL_VALUES(noc_sql_integer(set)), &row, err);
    if (status == NOC_OK)
        status = noc_database_next(catalog, row, &has_row, err);
    if (status == NOC_OK && has_row) {
        double ended = (double)sqlite3_column_int64(row, 0), seconds = sqlite3_column_double(row, 1);
        if (ended > 0 && seconds > 0)
            counts->studies_per_hour = ended * 3600 / seconds;
    }
    noc_database_finish(row);
    return status;
}

noc_status noc_catalog_states(noc_catalog *catalog, int64_t set, noc_counts *counts, noc_error *err)
{
    noc_counts made = {.seconds_left = NAN};
    noc_status status = add_rows(catalog, sql_states, set, add_state, &made, err);
    if (status == NOC_OK)
        status = add_rows(catalog, sql_failures, set, add_failure, &made, err);
    if (status == NOC_OK)
        status = count_the_rest(catalog, &made, err);
    if (status == NOC_OK)
        *counts = made;
    return status;
}

noc_status noc_catalog_counts(noc_catalog *catalog, int64_t set, noc_counts *counts, noc_error *err)
{
    noc_counts made;
    noc_status status = noc_catalog_states(catalog, set, &made, err);
    if (status == NOC_OK)
        status = read_speed(catalog, set, &made, err);
    if (status != NOC_OK)
        return status;
    double left = (double)(made.states[NOC_PENDING] + made.states[NOC_RUNNING] + made.states[NOC_WRITTEN]);
    made.seconds_left = left == 0 ? 0 : made.studies_per_hour > 0 ? left * 3600 / made.studies_per_hour : NAN;
    *counts = made;
    return NOC_OK;
}

/* ---- results ---- */

typedef struct metric_list {
    noc_metric *items;
    int count, capacity;
} metric_list;

static double number_or_nan(sqlite3_stmt *row, int column)
{
    return sqlite3_column_type(row, column) == SQLITE_NULL ? NAN : sqlite3_column_double(row, column);
}

static void copy_text(sqlite3_stmt *row, int column, char out[NOC_METRIC_TEXT])
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    size_t length = text ? strnlen(text, NOC_METRIC_TEXT - 1) : 0;
    if (length > 0)
        memcpy(out, text, length);
    out[length] = 0;
}

static void read_metric(sqlite3_stmt *row, noc_metric *m)
{
    copy_text(row, 0, m->label);
    copy_text(row, 1, m->name);
    m->has_truth = sqlite3_column_int(row, 2) != 0;
    m->tp = (uint64_t)sqlite3_column_int64(row, 3);
    m->fp = (uint64_t)sqlite3_column_int64(row, 4);
    m->fn = (uint64_t)sqlite3_column_int64(row, 5);
    m->tn = (uint64_t)sqlite3_column_int64(row, 6);
    m->dice = number_or_nan(row, 7);
    m->iou = number_or_nan(row, 8);
    m->precision = number_or_nan(row, 9);
    m->recall = number_or_nan(row, 10);
    m->truth_ml = number_or_nan(row, 11);
    m->prediction_ml = number_or_nan(row, 12);
    m->volume_similarity = number_or_nan(row, 13);
}

static noc_status next_metric(metric_list *list, noc_metric **metric, noc_error *err)
{
    if (list->count == list->capacity) {
        int more = list->capacity ? list->capacity * 2 : 8;
        noc_metric *grown = reallocarray(list->items, (size_t)more, sizeof(*grown));
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for metrics");
        list->items = grown;
        list->capacity = more;
    }
    *metric = &list->items[list->count++];
    return NOC_OK;
}

static noc_status read_metrics(noc_catalog *catalog, sqlite3_stmt *row, int64_t set, int64_t study,
                               metric_list *list, noc_error *err)
{
    bool has_row = true;
    noc_status status = NOC_OK;
    list->count = 0;
    sqlite3_reset(row);
    sqlite3_bind_int64(row, 1, set);
    sqlite3_bind_int64(row, 2, study);
    while (status == NOC_OK && has_row) {
        noc_metric *metric = NULL;
        status = noc_database_next(catalog, row, &has_row, err);
        if (status == NOC_OK && has_row)
            status = next_metric(list, &metric, err);
        if (metric)
            read_metric(row, metric);
    }
    return status;
}

static noc_status read_result(noc_catalog *catalog, sqlite3_stmt *row, noc_result_row *out, noc_error *err)
{
    enum { FIRST = NOC_STUDY_COLUMN_COUNT };
    memset(out, 0, sizeof(*out));
    noc_status status = noc_study_from_row(catalog, row, &out->study, err);
    if (status != NOC_OK)
        return status;
    noc_study_state_from_name((const char *)sqlite3_column_text(row, FIRST), &out->state);
    out->attempts = sqlite3_column_int(row, FIRST + 1);
    out->failure = (const char *)sqlite3_column_text(row, FIRST + 2);
    out->sentence = (const char *)sqlite3_column_text(row, FIRST + 3);
    out->part = sqlite3_column_int64(row, FIRST + 4);
    out->source_sha256 = (const char *)sqlite3_column_text(row, FIRST + 5);
    out->mask_sha256 = (const char *)sqlite3_column_text(row, FIRST + 6);
    out->seconds_read = sqlite3_column_double(row, FIRST + 7);
    out->seconds_prepare = sqlite3_column_double(row, FIRST + 8);
    out->seconds_compute = sqlite3_column_double(row, FIRST + 9);
    out->seconds_score = sqlite3_column_double(row, FIRST + 10);
    out->windows = sqlite3_column_int64(row, FIRST + 11);
    out->suspect = (const char *)sqlite3_column_text(row, FIRST + 12);
    return NOC_OK;
}

/* Not cached: the callback may ask the catalog the same again. */
static noc_status prepare(noc_catalog *catalog, const char *sql, int64_t set, sqlite3_stmt **row,
                          noc_error *err)
{
    int code = sqlite3_prepare_v2(catalog->db, sql, -1, row, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_bind_int64(*row, 1, set);
    return code == SQLITE_OK ? NOC_OK : noc_database_fail(catalog, code, err);
}

noc_status noc_catalog_each_result(noc_catalog *catalog, int64_t set, const char *only,
                                   noc_status (*row)(void *argument, const noc_result_row *row,
                                                     noc_error *err),
                                   void *argument, noc_error *err)
{
    sqlite3_stmt *results = NULL, *metrics = NULL;
    metric_list list = {0};
    bool has_row = true;
    noc_status status = prepare(catalog, sql_results, set, &results, err);
    if (status == NOC_OK)
        status = prepare(catalog, sql_metrics, set, &metrics, err);
    if (status == NOC_OK && only)
        sqlite3_bind_text(results, 2, only, -1, SQLITE_STATIC);
    while (status == NOC_OK) {
        noc_result_row result;
        status = noc_database_next(catalog, results, &has_row, err);
        if (status != NOC_OK || !has_row)
            break;
        status = read_result(catalog, results, &result, err);
        if (status != NOC_OK)
            break;
        status = read_metrics(catalog, metrics, set, result.study.id, &list, err);
        result.metrics = list.items;
        result.metric_count = list.count;
        if (status == NOC_OK)
            status = row(argument, &result, err);
        noc_study_clear(&result.study);
    }
    free(list.items);
    sqlite3_finalize(metrics);
    sqlite3_finalize(results);
    return status;
}

noc_status noc_catalog_each_part(noc_catalog *catalog, int64_t set,
                                 noc_status (*row)(void *argument, const noc_part_row *row, noc_error *err),
                                 void *argument, noc_error *err)
{
    sqlite3_stmt *parts = NULL;
    bool has_row = true;
    noc_status status = prepare(catalog, sql_parts, set, &parts, err);
    while (status == NOC_OK) {
        status = noc_database_next(catalog, parts, &has_row, err);
        if (status != NOC_OK || !has_row)
            break;
        noc_part_row part = {
            .number = sqlite3_column_int64(parts, 0),
            .bytes = sqlite3_column_int64(parts, 1),
            .studies = sqlite3_column_int64(parts, 2),
            .sha256 = (const char *)sqlite3_column_text(parts, 3),
        };
        status = row(argument, &part, err);
    }
    sqlite3_finalize(parts);
    return status;
}
