/* Parts: a closed results file counts from the moment of its one transaction here. Numbers are never given
 * twice, not even after a part was dropped. */
#include "catalog/database.h"

#include "engine/base/clock.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char sql_find_result[] =
    "SELECT s.id, s.fingerprint, coalesce(r.state, 'pending'), coalesce(r.part, 0) FROM study s LEFT"
    " JOIN result r ON r.study_id = s.id AND r.set_id = ?1 WHERE s.key = ?2";
static const char sql_set_pending[] =
    "UPDATE result SET state = 'pending', part = NULL WHERE set_id = ?1 AND study_id = ?2 AND state IN"
    " ('running', 'written')";
static const char sql_set_done[] =
    "INSERT INTO result (set_id, study_id, state, part, source_sha256, mask_sha256, seconds_read,"
    " seconds_prepare, seconds_compute, seconds_score, windows, suspect) VALUES (?1, ?2, 'done', ?3, ?4,"
    " ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (set_id, study_id) DO UPDATE SET state = 'done',"
    " is_suspect = 0, failure = NULL, sentence = NULL, part = ?3, source_sha256 = ?4, mask_sha256 ="
    " ?5, seconds_read = ?6, seconds_prepare = ?7, seconds_compute = ?8, seconds_score = ?9, windows ="
    " ?10, suspect = ?11";
static const char sql_drop_metrics[] = "DELETE FROM metric WHERE set_id = ?1 AND study_id = ?2";
static const char sql_add_metric[] =
    "INSERT INTO metric (set_id, study_id, position, label, name, has_truth, tp, fp, fn, tn, dice, iou,"
    " precision, recall, truth_ml, prediction_ml, volume_similarity) VALUES (?1, ?2, ?3, ?4, ?5, ?6,"
    " ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
/* A lost attempt whose part was adopted has made it after all. */
static const char sql_finish_attempt[] =
    "UPDATE attempt SET ended_ns = coalesce(ended_ns, ?3), outcome = 'done', sentence = NULL,"
    " seconds_read = ?4, seconds_prepare = ?5, seconds_compute = ?6, seconds_score = ?7 WHERE id ="
    " (SELECT max(id) FROM attempt WHERE set_id = ?1 AND study_id = ?2 AND (outcome IS NULL OR outcome"
    " IN ('written', 'lost')))";
static const char sql_add_part[] =
    "INSERT INTO part (set_id, number, bytes, sha256, studies, created_ns) VALUES (?1, ?2, ?3, ?4, ?5,"
    " ?6)";
static const char sql_note_part[] = "UPDATE result_set SET last_part = max(last_part, ?2) WHERE id = ?1";
static const char sql_has_part[] = "SELECT count(*) FROM part WHERE set_id = ?1 AND number = ?2";
static const char sql_last_part[] = "SELECT last_part FROM result_set WHERE id = ?1";
static const char sql_drop_part_metrics[] =
    "DELETE FROM metric WHERE set_id = ?1 AND study_id IN (SELECT study_id FROM result WHERE set_id ="
    " ?1 AND part = ?2 AND state = 'done')";
static const char sql_drop_part_results[] =
    "UPDATE result SET state = 'pending', part = NULL, source_sha256 = NULL, mask_sha256 = NULL,"
    " seconds_read = NULL, seconds_prepare = NULL, seconds_compute = NULL, seconds_score = NULL,"
    " windows = NULL, suspect = NULL WHERE set_id = ?1 AND part = ?2 AND state = 'done'";
static const char sql_drop_part[] = "DELETE FROM part WHERE set_id = ?1 AND number = ?2";

void noc_part_record_clear(noc_part_record *part)
{
    if (!part)
        return;
    for (size_t i = 0; i < part->study_count; i++)
        free(part->studies[i].metrics);
    free(part->studies);
    memset(part, 0, sizeof(*part));
}

/* What the catalog says of a study that a part holds. */
typedef struct standing {
    bool is_known, is_changed, is_newer; /* newer: done in a later part */
    int64_t id;
} standing;

static noc_status find_standing(noc_catalog *catalog, int64_t set, int64_t number,
                                const noc_part_study *study, standing *out, noc_error *err)
{
    sqlite3_stmt *row = NULL;
    bool has_row = false;
    memset(out, 0, sizeof(*out));
    noc_status status =
        noc_database_select(catalog, sql_find_result,
                            NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_string(study->key)), &row, err);
    if (status == NOC_OK)
        status = noc_database_next(catalog, row, &has_row, err);
    if (status == NOC_OK && has_row) {
        const char *fingerprint = (const char *)sqlite3_column_text(row, 1);
        const char *state = (const char *)sqlite3_column_text(row, 2);
        out->is_known = true;
        out->id = sqlite3_column_int64(row, 0);
        out->is_changed =
            study->fingerprint[0] && fingerprint && strcmp(fingerprint, study->fingerprint) != 0;
        out->is_newer = state && strcmp(state, "done") == 0 && sqlite3_column_int64(row, 3) > number;
    }
    noc_database_finish(row);
    return status;
}

static noc_status add_metrics(noc_catalog *catalog, int64_t set, int64_t id, const noc_part_study *study,
                              noc_error *err)
{
    noc_status status = noc_database_run(
        catalog, sql_drop_metrics, NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(id)), NULL, err);
    for (int i = 0; i < study->metric_count && status == NOC_OK; i++) {
        const noc_metric *m = &study->metrics[i];
        status = noc_database_run(
            catalog, sql_add_metric,
            NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(id), noc_sql_integer(i),
                           noc_sql_string(m->label), noc_sql_string(m->name), noc_sql_integer(m->has_truth),
                           noc_sql_integer((int64_t)m->tp), noc_sql_integer((int64_t)m->fp),
                           noc_sql_integer((int64_t)m->fn), noc_sql_integer((int64_t)m->tn),
                           noc_sql_number(m->dice), noc_sql_number(m->iou), noc_sql_number(m->precision),
                           noc_sql_number(m->recall), noc_sql_number(m->truth_ml),
                           noc_sql_number(m->prediction_ml), noc_sql_number(m->volume_similarity)),
            NULL, err);
    }
    return status;
}

static noc_status set_done(noc_catalog *catalog, int64_t set, int64_t id, int64_t number,
                           const noc_part_study *study, noc_error *err)
{
    noc_status status = noc_database_run(
        catalog, sql_set_done,
        NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(id), noc_sql_integer(number),
                       noc_sql_string(study->source_sha256), noc_sql_string(study->mask_sha256),
                       noc_sql_number(study->seconds_read), noc_sql_number(study->seconds_prepare),
                       noc_sql_number(study->seconds_compute), noc_sql_number(study->seconds_score),
                       noc_sql_integer(study->windows),
                       noc_sql_string(study->suspect[0] ? study->suspect : NULL)),
        NULL, err);
    if (status == NOC_OK)
        status = add_metrics(catalog, set, id, study, err);
    if (status == NOC_OK)
        status = noc_database_run(
            catalog, sql_finish_attempt,
            NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(id), noc_sql_integer(noc_clock_unix_ns()),
                           noc_sql_number(study->seconds_read), noc_sql_number(study->seconds_prepare),
                           noc_sql_number(study->seconds_compute), noc_sql_number(study->seconds_score)),
            NULL, err);
    return status;
}

static noc_status commit_study(noc_catalog *catalog, int64_t set, int64_t number, const noc_part_study *study,
                               noc_error *err)
{
    standing now;
    noc_status status = find_standing(catalog, set, number, study, &now, err);
    if (status != NOC_OK || !now.is_known || now.is_newer)
        return status;
    if (!now.is_changed)
        return set_done(catalog, set, now.id, number, study, err);
    status = noc_database_run(catalog, sql_set_pending,
                              NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(now.id)), NULL, err);
    if (status == NOC_OK)
        status =
            noc_attempt_end(catalog, set, now.id, "changed", "the file changed while it was worked on", err);
    return status;
}

noc_status noc_catalog_note_part(noc_catalog *catalog, int64_t set, int64_t number, noc_error *err)
{
    bool is_own;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    status = noc_database_run(catalog, sql_note_part,
                              NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(number)), NULL, err);
    return noc_database_leave(catalog, is_own, status, err);
}

static noc_status add_part(noc_catalog *catalog, int64_t set, const noc_part_record *part, noc_error *err)
{
    bool has = false;
    noc_status status = noc_catalog_has_part(catalog, set, part->number, &has, err);
    if (status == NOC_OK && (has || part->number < 1))
        status = noc_fail(err, NOC_EINTERNAL, "%s: part %" PRId64 " cannot be added%s", catalog->path,
                          part->number, has ? ", it is there" : "");
    if (status == NOC_OK)
        status = noc_database_run(catalog, sql_add_part,
                                  NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(part->number),
                                                 noc_sql_integer(part->bytes), noc_sql_string(part->sha256),
                                                 noc_sql_integer((int64_t)part->study_count),
                                                 noc_sql_integer(noc_clock_unix_ns())),
                                  NULL, err);
    return status == NOC_OK ? noc_catalog_note_part(catalog, set, part->number, err) : status;
}

noc_status noc_catalog_commit_part(noc_catalog *catalog, int64_t set, const noc_part_record *part,
                                   noc_error *err)
{
    bool is_own;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    status = add_part(catalog, set, part, err);
    for (size_t i = 0; i < part->study_count && status == NOC_OK; i++)
        status = commit_study(catalog, set, part->number, &part->studies[i], err);
    return noc_database_leave(catalog, is_own, status, err);
}

noc_status noc_catalog_has_part(noc_catalog *catalog, int64_t set, int64_t number, bool *has, noc_error *err)
{
    int64_t count = 0;
    noc_status status = noc_database_integer(
        catalog, sql_has_part, NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(number)), 0, &count, err);
    if (status == NOC_OK)
        *has = count > 0;
    return status;
}

noc_status noc_catalog_last_part(noc_catalog *catalog, int64_t set, int64_t *number, noc_error *err)
{
    return noc_database_integer(catalog, sql_last_part, NOC_SQL_VALUES(noc_sql_integer(set)), 0, number, err);
}

noc_status noc_catalog_drop_part(noc_catalog *catalog, int64_t set, int64_t number, int64_t *count,
                                 noc_error *err)
{
    bool is_own;
    int64_t back = 0;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    status = noc_database_run(catalog, sql_drop_part_metrics,
                              NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(number)), NULL, err);
    if (status == NOC_OK)
        status = noc_database_run(catalog, sql_drop_part_results,
                                  NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(number)), &back, err);
    if (status == NOC_OK)
        status = noc_database_run(catalog, sql_drop_part,
                                  NOC_SQL_VALUES(noc_sql_integer(set), noc_sql_integer(number)), NULL, err);
    status = noc_database_leave(catalog, is_own, status, err);
    if (status == NOC_OK && count)
        *count = back;
    return status;
}
