/* Result sets: a results folder holds the masks of one configuration, and a catalog may have many such
 * sets. */
#include "catalog/database.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SET_COLUMNS                                                                                          \
    "id, results, model, model_sha256, window_d, window_h, window_w, overlap, blend, precision"

static const char sql_by_results[] = "SELECT " SET_COLUMNS " FROM result_set WHERE results = ?1";
static const char sql_by_id[] = "SELECT " SET_COLUMNS " FROM result_set WHERE id = ?1";
static const char sql_only_one[] = "SELECT iif(count(*) = 1, max(id), 0) FROM result_set";
static const char sql_id_by_results[] = "SELECT id FROM result_set WHERE results = ?1";
static const char sql_insert[] =
    "INSERT INTO result_set (results, model, model_sha256, window_d, window_h, window_w, overlap,"
    " blend, precision) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
static const char sql_add_results[] =
    "INSERT OR IGNORE INTO result (set_id, study_id, state) SELECT ?1, id, 'pending' FROM study";

void noc_configuration_describe(const noc_configuration *configuration, char *text, size_t size)
{
    snprintf(
        text, size, "model %s (%.12s...), window %" PRId64 "x%" PRId64 "x%" PRId64 ", overlap %g, %s, %s",
        configuration->model, configuration->model_sha256, configuration->window[0], configuration->window[1],
        configuration->window[2], configuration->overlap, configuration->blend, configuration->precision);
}

static void copy_column(sqlite3_stmt *row, int column, char *out, size_t size)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    snprintf(out, size, "%s", text ? text : "");
}

static void read_configuration(sqlite3_stmt *row, noc_configuration *out)
{
    memset(out, 0, sizeof(*out));
    copy_column(row, 1, out->results, sizeof(out->results));
    copy_column(row, 2, out->model, sizeof(out->model));
    copy_column(row, 3, out->model_sha256, sizeof(out->model_sha256));
    for (int i = 0; i < 3; i++)
        out->window[i] = sqlite3_column_int64(row, 4 + i);
    out->overlap = sqlite3_column_double(row, 7);
    copy_column(row, 8, out->blend, sizeof(out->blend));
    copy_column(row, 9, out->precision, sizeof(out->precision));
}

/* *set = 0 when there is no such row. */
static noc_status find_set(noc_catalog *catalog, const char *sql, noc_sql_value value, int64_t *set,
                           noc_configuration *configuration, noc_error *err)
{
    sqlite3_stmt *row = NULL;
    bool has_row = false;
    noc_status status = noc_database_select(catalog, sql, &value, 1, &row, err);
    if (status == NOC_OK)
        status = noc_database_next(catalog, row, &has_row, err);
    if (status == NOC_OK) {
        *set = has_row ? sqlite3_column_int64(row, 0) : 0;
        if (has_row)
            read_configuration(row, configuration);
    }
    noc_database_finish(row);
    return status;
}

/* The name of a model is not part of it: its hash is. */
static bool is_same_configuration(const noc_configuration *a, const noc_configuration *b)
{
    return strcmp(a->model_sha256, b->model_sha256) == 0 &&
           memcmp(a->window, b->window, sizeof(a->window)) == 0 && a->overlap == b->overlap &&
           strcmp(a->blend, b->blend) == 0 && strcmp(a->precision, b->precision) == 0;
}

static noc_status check_configuration(const noc_configuration *old, const noc_configuration *asked,
                                      noc_error *err)
{
    char holds[256], wants[256];
    bool is_namesake =
        strcmp(old->model, asked->model) == 0 && strcmp(old->model_sha256, asked->model_sha256) != 0;
    if (is_same_configuration(old, asked))
        return NOC_OK;
    noc_configuration_describe(old, holds, sizeof(holds));
    noc_configuration_describe(asked, wants, sizeof(wants));
    /* The configurations first: a long path must not cut them off. */
    return noc_fail(
        err, NOC_ECONFIG, "the results folder holds %s; this run has %s%s; give it another folder (%s)",
        holds, wants, is_namesake ? " (of one name, but with other weights, model.yaml or --mirror)" : "",
        old->results);
}

noc_status noc_catalog_match_set(noc_catalog *catalog, const noc_configuration *configuration, int64_t *set,
                                 noc_error *err)
{
    int64_t id = 0;
    noc_configuration old;
    noc_status status =
        find_set(catalog, sql_by_results, noc_sql_string(configuration->results), &id, &old, err);
    if (status == NOC_OK && id != 0)
        status = check_configuration(&old, configuration, err);
    if (status == NOC_OK)
        *set = id;
    return status;
}

static noc_status add_set(noc_catalog *catalog, const noc_configuration *configuration, int64_t *set,
                          noc_error *err)
{
    noc_status status = noc_database_run(
        catalog, sql_insert,
        NOC_SQL_VALUES(noc_sql_string(configuration->results), noc_sql_string(configuration->model),
                       noc_sql_string(configuration->model_sha256), noc_sql_integer(configuration->window[0]),
                       noc_sql_integer(configuration->window[1]), noc_sql_integer(configuration->window[2]),
                       noc_sql_number(configuration->overlap), noc_sql_string(configuration->blend),
                       noc_sql_string(configuration->precision)),
        NULL, err);
    if (status == NOC_OK)
        *set = sqlite3_last_insert_rowid(catalog->db);
    return status;
}

noc_status noc_catalog_open_set(noc_catalog *catalog, const noc_configuration *configuration, int64_t *set,
                                noc_error *err)
{
    bool is_own;
    int64_t id = 0;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    status = noc_catalog_match_set(catalog, configuration, &id, err);
    if (status == NOC_OK && id == 0)
        status = add_set(catalog, configuration, &id, err);
    if (status == NOC_OK)
        status = noc_database_run(catalog, sql_add_results, NOC_SQL_VALUES(noc_sql_integer(id)), NULL, err);
    status = noc_database_leave(catalog, is_own, status, err);
    if (status == NOC_OK)
        *set = id;
    return status;
}

noc_status noc_catalog_find_set(noc_catalog *catalog, const char *results, int64_t *set, noc_error *err)
{
    int64_t id = 0;
    noc_status status = NOC_OK;
    if (results)
        status = noc_database_integer(catalog, sql_id_by_results, NOC_SQL_VALUES(noc_sql_string(results)), 0,
                                      &id, err);
    if (status == NOC_OK && id == 0)
        status = noc_database_integer(catalog, sql_only_one, NULL, 0, 0, &id, err);
    if (status == NOC_OK)
        *set = id;
    return status;
}

noc_status noc_catalog_read_set(noc_catalog *catalog, int64_t set, noc_configuration *configuration,
                                noc_error *err)
{
    int64_t id = 0;
    noc_configuration made;
    noc_status status = find_set(catalog, sql_by_id, noc_sql_integer(set), &id, &made, err);
    if (status != NOC_OK)
        return status;
    if (id == 0)
        return noc_fail(err, NOC_ENOINPUT, "%s: there is no result set %" PRId64, catalog->path, set);
    *configuration = made;
    return NOC_OK;
}
