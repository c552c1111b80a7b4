/* Inside the catalog: the connection, its cached statements, transactions and the one place where SQLite's
 * codes become statuses. Only files of this folder (and its tests) include it.
 *
 *     status = noc_database_run(catalog, sql_delete, NOC_SQL_VALUES(noc_sql_integer(set)), &rows, err);
 *
 *     status = noc_database_select(catalog, sql_find, NOC_SQL_VALUES(noc_sql_string(key)), &row, err);
 *     while (status == NOC_OK && (status = noc_database_next(catalog, row, &has_row, err)) == NOC_OK &&
 * has_row)
 *         ...
 *     noc_database_finish(row);
 *
 * A statement is known by the address of its text: the texts are static and stand at the top of the file
 * that uses them. */
#ifndef NOC_CATALOG_DATABASE_H
#define NOC_CATALOG_DATABASE_H

#include "catalog/catalog.h"

#include <sqlite3.h>

enum { NOC_STATEMENTS = 96 };

struct noc_catalog {
    sqlite3 *db;
    char *path;
    noc_catalog_mode mode;
    bool in_transaction; /* by noc_catalog_begin */
    struct {
        const char *sql;
        sqlite3_stmt *handle;
    } statements[NOC_STATEMENTS];
    int statement_count;
};

typedef enum noc_sql_kind { NOC_SQL_INTEGER, NOC_SQL_NUMBER, NOC_SQL_STRING } noc_sql_kind;

typedef struct noc_sql_value {
    noc_sql_kind kind;
    int64_t integer;
    double number;
    const char *string; /* NULL binds NULL; must live until the statement is finished */
} noc_sql_value;

noc_sql_value noc_sql_integer(int64_t value);
noc_sql_value noc_sql_number(double value); /* NaN binds NULL */
noc_sql_value noc_sql_string(const char *value);

#define NOC_SQL_VALUES(...)                                                                                  \
    (const noc_sql_value[]){__VA_ARGS__},                                                                    \
        (int)(sizeof((const noc_sql_value[]){__VA_ARGS__}) / sizeof(noc_sql_value))

/* SQLite's code as a status, with the catalog's path and SQLite's sentence. */
noc_status noc_database_fail(const noc_catalog *catalog, int code, noc_error *err);

/* Values are bound to ?1, ?2, ... in order. */
noc_status noc_database_select(noc_catalog *catalog, const char *sql, const noc_sql_value *values, int count,
                               sqlite3_stmt **row, noc_error *err);
noc_status noc_database_next(noc_catalog *catalog, sqlite3_stmt *row, bool *has_row, noc_error *err);
void noc_database_finish(sqlite3_stmt *row);

/* Runs it to its end; *changes (may be NULL) = rows inserted, updated or deleted. */
noc_status noc_database_run(noc_catalog *catalog, const char *sql, const noc_sql_value *values, int count,
                            int64_t *changes, noc_error *err);
/* The first column of the first row as an integer; `otherwise` when there is no row or it is NULL. */
noc_status noc_database_integer(noc_catalog *catalog, const char *sql, const noc_sql_value *values, int count,
                                int64_t otherwise, int64_t *result, noc_error *err);
/* Several statements without values, not cached. */
noc_status noc_database_script(noc_catalog *catalog, const char *sql, noc_error *err);

/* A call that writes stands between enter and leave: it has a transaction of its own unless the caller
 * began one. leave commits when status is NOC_OK, rolls back otherwise, and returns the status of the
 * whole. */
noc_status noc_database_enter(noc_catalog *catalog, bool *is_own, noc_error *err);
noc_status noc_database_leave(noc_catalog *catalog, bool is_own, noc_status status, noc_error *err);

/* ---- schema.c ---- */

/* steps[i] takes a catalog from schema i to i + 1; each step adds, none removes. One transaction. */
noc_status noc_schema_apply(noc_catalog *catalog, const char *const steps[], int count, noc_error *err);
/* Makes (mode CREATE), upgrades (WRITE, CREATE) or checks the schema. */
noc_status noc_schema_settle(noc_catalog *catalog, noc_error *err);

/* ---- put.c ---- */

/* Columns of a study for SELECT ... FROM study s, and how many they are. */
#define NOC_STUDY_COLUMNS                                                                                    \
    "s.id, s.key, s.layout, s.channels, s.truth, s.size_i, s.size_j, s.size_k, s.spacing_i, s.spacing_j, "   \
    "s.spacing_k, s.voxel_bytes, s.fingerprint"
enum { NOC_STUDY_COLUMN_COUNT = 13 };

/* The study in columns 0 to 12 of the row; owned by the caller. */
noc_status noc_study_from_row(noc_catalog *catalog, sqlite3_stmt *row, noc_study *study, noc_error *err);
/* The study whose first channel is that file, whatever its key; *found false when there is none. */
noc_status noc_catalog_find_image(noc_catalog *catalog, const char *image, bool *found, noc_study *study,
                                  noc_error *err);

/* ---- run.c ---- */

/* Ends the study's open attempt, if there is one. */
noc_status noc_attempt_end(noc_catalog *catalog, int64_t set, int64_t study, const char *outcome,
                           const char *sentence, noc_error *err);

/* False when no state has that name. */
bool noc_study_state_from_name(const char *name, noc_study_state *state);

#endif
