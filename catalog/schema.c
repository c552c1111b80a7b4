/* The tables. A catalog is known by its application_id, its schema by user_version; each step of the list
 * adds to the one before, so that an older catalog is upgraded by the steps it has not seen.
 *
 * A result is `done` exactly when its part has a row in `part`; `written` names the number of a part that
 * is still open. NULL in a ratio is NaN (SQLite keeps none). Times are nanoseconds since 1970 UTC. */
#include "catalog/database.h"

enum { APPLICATION_ID = 0x4E4F4354 }; /* "NOCT" */

static const char schema_1[] =
    "CREATE TABLE study ("
    " id INTEGER PRIMARY KEY,"
    " key TEXT NOT NULL UNIQUE,"
    " layout TEXT NOT NULL,"
    " channels TEXT NOT NULL," /* absolute paths, one a line */
    " truth TEXT,"
    " size_i INTEGER, size_j INTEGER, size_k INTEGER," /* NULL: the header could not be read */
    " spacing_i REAL, spacing_j REAL, spacing_k REAL,"
    " voxel_bytes INTEGER NOT NULL,"
    " fingerprint TEXT NOT NULL"
    ") STRICT;"
    "CREATE INDEX study_channels ON study (channels);"

    "CREATE TABLE result_set ("
    " id INTEGER PRIMARY KEY,"
    " results TEXT NOT NULL UNIQUE,"
    " model TEXT NOT NULL,"
    " model_sha256 TEXT NOT NULL,"
    " window_d INTEGER NOT NULL, window_h INTEGER NOT NULL, window_w INTEGER NOT NULL,"
    " overlap REAL NOT NULL,"
    " blend TEXT NOT NULL,"
    " precision TEXT NOT NULL,"
    " last_part INTEGER NOT NULL DEFAULT 0" /* numbers are never given twice */
    ") STRICT;"

    "CREATE TABLE part ("
    " set_id INTEGER NOT NULL REFERENCES result_set (id),"
    " number INTEGER NOT NULL,"
    " bytes INTEGER NOT NULL,"
    " sha256 TEXT NOT NULL,"
    " studies INTEGER NOT NULL,"
    " created_ns INTEGER NOT NULL,"
    " PRIMARY KEY (set_id, number)"
    ") STRICT;"

    "CREATE TABLE result ("
    " set_id INTEGER NOT NULL REFERENCES result_set (id),"
    " study_id INTEGER NOT NULL REFERENCES study (id),"
    " state TEXT NOT NULL,"
    " attempts INTEGER NOT NULL DEFAULT 0,"
    " is_suspect INTEGER NOT NULL DEFAULT 0,"
    " deaths_alone INTEGER NOT NULL DEFAULT 0,"
    " failure TEXT, sentence TEXT,"
    " part INTEGER,"
    " source_sha256 TEXT, mask_sha256 TEXT,"
    " seconds_read REAL, seconds_prepare REAL, seconds_compute REAL, seconds_score REAL,"
    " windows INTEGER,"
    " PRIMARY KEY (set_id, study_id)"
    ") STRICT;"
    "CREATE INDEX result_study ON result (study_id);"
    "CREATE INDEX result_state ON result (set_id, state);"
    "CREATE INDEX result_part ON result (set_id, part);"

    "CREATE TABLE run ("
    " id INTEGER PRIMARY KEY,"
    " set_id INTEGER NOT NULL REFERENCES result_set (id),"
    " version TEXT NOT NULL, device TEXT NOT NULL, host TEXT NOT NULL,"
    " ranks INTEGER NOT NULL,"
    " configuration TEXT NOT NULL,"
    " started_ns INTEGER NOT NULL, ended_ns INTEGER,"
    " exit_code INTEGER"
    ") STRICT;"
    "CREATE INDEX run_set ON run (set_id);"

    "CREATE TABLE attempt ("
    " id INTEGER PRIMARY KEY,"
    " set_id INTEGER NOT NULL REFERENCES result_set (id),"
    " study_id INTEGER NOT NULL REFERENCES study (id),"
    " run_id INTEGER NOT NULL REFERENCES run (id),"
    " rank INTEGER NOT NULL,"
    " host TEXT NOT NULL,"
    " started_ns INTEGER NOT NULL, ended_ns INTEGER,"
    " seconds_read REAL, seconds_prepare REAL, seconds_compute REAL, seconds_score REAL,"
    " outcome TEXT," /* NULL: running; written, done, lost, given_back, changed, or a failure type */
    " sentence TEXT"
    ") STRICT;"
    "CREATE INDEX attempt_study ON attempt (study_id, set_id);"
    "CREATE INDEX attempt_run ON attempt (run_id);"
    "CREATE INDEX attempt_open ON attempt (set_id) WHERE outcome IS NULL OR outcome = 'written';"

    "CREATE TABLE metric ("
    " set_id INTEGER NOT NULL,"
    " study_id INTEGER NOT NULL,"
    " position INTEGER NOT NULL,"
    " label TEXT NOT NULL, name TEXT NOT NULL,"
    " has_truth INTEGER NOT NULL,"
    " tp INTEGER NOT NULL, fp INTEGER NOT NULL, fn INTEGER NOT NULL, tn INTEGER NOT NULL,"
    " dice REAL, iou REAL, precision REAL, recall REAL,"
    " truth_ml REAL, prediction_ml REAL, volume_similarity REAL,"
    " PRIMARY KEY (set_id, study_id, position),"
    " FOREIGN KEY (set_id, study_id) REFERENCES result (set_id, study_id)"
    ") STRICT;";

/* Which rules of plausibility a done mask breaks; NULL: none. (is_suspect is of a worker's death.) */
static const char schema_2[] = "ALTER TABLE result ADD COLUMN suspect TEXT;";

static const char *const schema_steps[] = {schema_1, schema_2};
enum { SCHEMA_VERSION = sizeof(schema_steps) / sizeof(schema_steps[0]) };

static const char sql_version[] = "PRAGMA user_version";
static const char sql_application[] = "PRAGMA application_id";
static const char sql_tables[] = "SELECT count(*) FROM sqlite_master";

static noc_status apply_step(noc_catalog *catalog, const char *step, int version, noc_error *err)
{
    char *stamp =
        sqlite3_mprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", APPLICATION_ID, version);
    if (!stamp)
        return noc_fail(err, NOC_ENOMEMORY, "%s: no memory for its schema", catalog->path);
    noc_status status = noc_database_script(catalog, step, err);
    if (status == NOC_OK)
        status = noc_database_script(catalog, stamp, err);
    sqlite3_free(stamp);
    return status;
}

noc_status noc_schema_apply(noc_catalog *catalog, const char *const steps[], int count, noc_error *err)
{
    bool is_own;
    int64_t version = 0;
    noc_status status = noc_database_enter(catalog, &is_own, err);
    if (status != NOC_OK)
        return status;
    /* Read again inside: another process may just have done the same. */
    status = noc_database_integer(catalog, sql_version, NULL, 0, 0, &version, err);
    for (int64_t i = version; i < count && status == NOC_OK; i++)
        status = apply_step(catalog, steps[i], (int)i + 1, err);
    return noc_database_leave(catalog, is_own, status, err);
}

static noc_status check_identity(noc_catalog *catalog, int64_t *version, noc_error *err)
{
    int64_t application, tables;
    noc_status status = noc_database_integer(catalog, sql_application, NULL, 0, 0, &application, err);
    if (status == NOC_OK)
        status = noc_database_integer(catalog, sql_version, NULL, 0, 0, version, err);
    if (status == NOC_OK)
        status = noc_database_integer(catalog, sql_tables, NULL, 0, 0, &tables, err);
    if (status != NOC_OK)
        return status;
    bool is_empty = application == 0 && *version == 0 && tables == 0;
    if (is_empty && catalog->mode != NOC_CATALOG_CREATE)
        return noc_fail(err, NOC_EDATA, "%s: an empty file, not a catalog; `nocturne scan` makes it one",
                        catalog->path);
    if (application != APPLICATION_ID && !is_empty)
        return noc_fail(err, NOC_EDATA,
                        "%s: a database of another program, not a catalog; name another file by --catalog",
                        catalog->path);
    /* No version of this program leaves one: a schema and its version come in one transaction. */
    if (application == APPLICATION_ID && *version < 1)
        return noc_fail(
            err, NOC_EDATA,
            "%s: says schema %lld, which never was: something else has changed it; take a copy from "
            "before that, or scan the archive into a new catalog (--catalog)",
            catalog->path, (long long)*version);
    return NOC_OK;
}

noc_status noc_schema_settle(noc_catalog *catalog, noc_error *err)
{
    int64_t version = 0;
    noc_status status = check_identity(catalog, &version, err);
    if (status != NOC_OK)
        return status;
    if (version > SCHEMA_VERSION)
        return noc_fail(
            err, NOC_EDATA,
            "%s: made by a newer version (schema %lld, this program knows %d); use that version for it",
            catalog->path, (long long)version, SCHEMA_VERSION);
    if (version == SCHEMA_VERSION)
        return NOC_OK;
    if (catalog->mode == NOC_CATALOG_READ)
        return noc_fail(err, NOC_EDATA,
                        "%s: made by an older version (schema %lld); `nocturne scan` upgrades it",
                        catalog->path, (long long)version);
    return noc_schema_apply(catalog, schema_steps, SCHEMA_VERSION, err);
}
