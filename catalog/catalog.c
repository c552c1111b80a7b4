/* The connection: opening by mode, transactions, cached statements, and SQLite's codes as statuses.
 *
 * Writers use WAL where the file system is local, a rollback journal elsewhere (WAL shares memory between
 * processes, which network file systems do not), and synchronous EXTRA, so that a commit has reached the
 * disk: with FULL a power cut could bring a removed journal back, and with it take the commit back. Readers
 * never write: not even a journal mode. */
#include "catalog/database.h"

#include "engine/base/file.h"
#include "engine/base/memory.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static const char sql_begin[] = "BEGIN IMMEDIATE";
static const char sql_commit[] = "COMMIT";
static const char sql_rollback[] = "ROLLBACK";

enum { BUSY_MS = 10000 };

/* ---- failures ---- */

static noc_status status_of_code(const noc_catalog *catalog, int code)
{
    switch (code & 0xff) {
    case SQLITE_FULL:
    case SQLITE_IOERR:
        return NOC_EIO;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return NOC_EUNAVAILABLE;
    case SQLITE_NOMEM:
        return NOC_ENOMEMORY;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
        return NOC_EDATA;
    case SQLITE_CANTOPEN:
        return catalog->mode == NOC_CATALOG_READ ? NOC_ENOINPUT : NOC_ECANTCREATE; /* what stands beside it */
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return NOC_ECANTCREATE;
    default:
        return NOC_EINTERNAL;
    }
}

noc_status noc_database_fail(const noc_catalog *catalog, int code, noc_error *err)
{
    const char *text = catalog->db ? sqlite3_errmsg(catalog->db) : sqlite3_errstr(code);
    int number = catalog->db ? sqlite3_system_errno(catalog->db) : 0;
    int kind = code & 0xff;
    noc_status status = status_of_code(catalog, code);
    if (number != 0 && (kind == SQLITE_IOERR || kind == SQLITE_CANTOPEN || kind == SQLITE_FULL))
        return noc_fail(err, status, "%s: %s (%s)", catalog->path, text, strerror(number));
    return noc_fail(err, status, "%s: %s", catalog->path, text);
}

/* ---- statements ---- */

noc_sql_value noc_sql_integer(int64_t value)
{
    return (noc_sql_value){.kind = NOC_SQL_INTEGER, .integer = value};
}

noc_sql_value noc_sql_number(double value)
{
    return (noc_sql_value){.kind = NOC_SQL_NUMBER, .number = value};
}

noc_sql_value noc_sql_string(const char *value)
{
    return (noc_sql_value){.kind = NOC_SQL_STRING, .string = value};
}

static noc_status find_statement(noc_catalog *catalog, const char *sql, sqlite3_stmt **statement,
                                 noc_error *err)
{
    for (int i = 0; i < catalog->statement_count; i++) {
        if (catalog->statements[i].sql == sql) {
            *statement = catalog->statements[i].handle;
            return NOC_OK;
        }
    }
    if (catalog->statement_count == NOC_STATEMENTS)
        return noc_fail(err, NOC_EINTERNAL, "%s: more statements than its cache holds", catalog->path);
    sqlite3_stmt *made = NULL;
    int code = sqlite3_prepare_v3(catalog->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &made, NULL);
    if (code != SQLITE_OK)
        return noc_database_fail(catalog, code, err);
    catalog->statements[catalog->statement_count].sql = sql;
    catalog->statements[catalog->statement_count++].handle = made;
    *statement = made;
    return NOC_OK;
}

static int bind_value(sqlite3_stmt *statement, int position, const noc_sql_value *value)
{
    switch (value->kind) {
    case NOC_SQL_INTEGER:
        return sqlite3_bind_int64(statement, position, value->integer);
    case NOC_SQL_NUMBER:
        return sqlite3_bind_double(statement, position, value->number);
    case NOC_SQL_STRING:
        break;
    }
    return value->string ? sqlite3_bind_text(statement, position, value->string, -1, SQLITE_STATIC)
                         : sqlite3_bind_null(statement, position);
}

noc_status noc_database_select(noc_catalog *catalog, const char *sql, const noc_sql_value *values, int count,
                               sqlite3_stmt **row, noc_error *err)
{
    sqlite3_stmt *statement = NULL;
    noc_status status = find_statement(catalog, sql, &statement, err);
    if (status != NOC_OK)
        return status;
    if (sqlite3_stmt_busy(statement))
        return noc_fail(err, NOC_EINTERNAL, "%s: a statement was used inside itself", catalog->path);
    for (int i = 0; i < count; i++) {
        int code = bind_value(statement, i + 1, &values[i]);
        if (code != SQLITE_OK) {
            noc_database_finish(statement);
            return noc_database_fail(catalog, code, err);
        }
    }
    *row = statement;
    return NOC_OK;
}

noc_status noc_database_next(noc_catalog *catalog, sqlite3_stmt *row, bool *has_row, noc_error *err)
{
    int code = sqlite3_step(row);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return noc_database_fail(catalog, code, err);
    *has_row = code == SQLITE_ROW;
    return NOC_OK;
}

void noc_database_finish(sqlite3_stmt *row)
{
    if (!row)
        return;
    sqlite3_reset(row);
    sqlite3_clear_bindings(row);
}

noc_status noc_database_run(noc_catalog *catalog, const char *sql, const noc_sql_value *values, int count,
                            int64_t *changes, noc_error *err)
{
    sqlite3_stmt *row = NULL;
    bool has_row = true;
    noc_status status = noc_database_select(catalog, sql, values, count, &row, err);
    while (status == NOC_OK && has_row)
        status = noc_database_next(catalog, row, &has_row, err);
    noc_database_finish(row);
    if (status == NOC_OK && changes)
        *changes = sqlite3_changes64(catalog->db);
    return status;
}

noc_status noc_database_integer(noc_catalog *catalog, const char *sql, const noc_sql_value *values, int count,
                                int64_t otherwise, int64_t *result, noc_error *err)
{
    sqlite3_stmt *row = NULL;
    bool has_row = false;
    noc_status status = noc_database_select(catalog, sql, values, count, &row, err);
    if (status == NOC_OK)
        status = noc_database_next(catalog, row, &has_row, err);
    if (status == NOC_OK) {
        bool is_there = has_row && sqlite3_column_type(row, 0) != SQLITE_NULL;
        *result = is_there ? sqlite3_column_int64(row, 0) : otherwise;
    }
    noc_database_finish(row);
    return status;
}

noc_status noc_database_script(noc_catalog *catalog, const char *sql, noc_error *err)
{
    int code = sqlite3_exec(catalog->db, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? NOC_OK : noc_database_fail(catalog, code, err);
}

/* ---- transactions ---- */

static void roll_back(noc_catalog *catalog)
{
    /* After a full disk SQLite has already rolled back. */
    if (!sqlite3_get_autocommit(catalog->db))
        noc_database_run(catalog, sql_rollback, NULL, 0, NULL, NULL);
}

static noc_status commit(noc_catalog *catalog, noc_error *err)
{
    noc_status status = noc_database_run(catalog, sql_commit, NULL, 0, NULL, err);
    if (status != NOC_OK)
        roll_back(catalog);
    return status;
}

noc_status noc_catalog_begin(noc_catalog *catalog, noc_error *err)
{
    if (catalog->in_transaction)
        return noc_fail(err, NOC_EINTERNAL, "%s: a transaction inside a transaction", catalog->path);
    if (catalog->mode == NOC_CATALOG_READ)
        return noc_fail(err, NOC_EINTERNAL, "%s: opened for reading only", catalog->path);
    noc_status status = noc_database_run(catalog, sql_begin, NULL, 0, NULL, err);
    catalog->in_transaction = status == NOC_OK;
    return status;
}

noc_status noc_catalog_commit(noc_catalog *catalog, noc_error *err)
{
    if (!catalog->in_transaction)
        return noc_fail(err, NOC_EINTERNAL, "%s: no transaction to commit", catalog->path);
    catalog->in_transaction = false;
    if (sqlite3_get_autocommit(catalog->db))
        return noc_fail(err, NOC_EIO, "%s: the transaction was given up after a failure", catalog->path);
    return commit(catalog, err);
}

void noc_catalog_rollback(noc_catalog *catalog)
{
    catalog->in_transaction = false;
    roll_back(catalog);
}

noc_status noc_database_enter(noc_catalog *catalog, bool *is_own, noc_error *err)
{
    *is_own = !catalog->in_transaction;
    if (*is_own)
        return noc_catalog_begin(catalog, err);
    if (sqlite3_get_autocommit(catalog->db))
        return noc_fail(err, NOC_EIO, "%s: the transaction was given up after a failure", catalog->path);
    return NOC_OK;
}

noc_status noc_database_leave(noc_catalog *catalog, bool is_own, noc_status status, noc_error *err)
{
    if (!is_own)
        return status;
    if (status == NOC_OK)
        return noc_catalog_commit(catalog, err);
    noc_catalog_rollback(catalog);
    return status;
}

/* ---- opening ---- */

/* matches(pattern, key): the shell's wildcards; a NULL pattern matches all. */
static void matches(sqlite3_context *context, int count, sqlite3_value **values)
{
    (void)count;
    const char *pattern = (const char *)sqlite3_value_text(values[0]);
    const char *key = (const char *)sqlite3_value_text(values[1]);
    sqlite3_result_int(context, !pattern || (key && fnmatch(pattern, key, 0) == 0));
}

static bool is_network_type(unsigned long type)
{
    static const unsigned long types[] = {
        0x6969,     /* NFS */
        0x517B,     /* SMB */
        0xFF534D42, /* CIFS */
        0xFE534D42, /* SMB 2 */
        0x0BD00BD0, /* Lustre */
        0x47504653, /* GPFS */
        0x19830326, /* BeeGFS */
        0x00C36400, /* Ceph */
        0x5346414F, /* AFS */
        0x6B414653, /* kAFS */
        0x65735546, /* FUSE: sshfs and others */
        0x01021997, /* 9P */
        0xAAD7AAEA, /* PanFS */
        0x7461636F, /* OCFS 2 */
        0x01161970, /* GFS 2 */
        0x20030528, /* OrangeFS */
        0x786F4256, /* shared folders of VirtualBox */
    };
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if ((type & 0xFFFFFFFFul) == types[i])
            return true;
    }
    return false;
}

static bool is_on_network(const char *path)
{
    struct statfs about;
    char *folder = noc_path_folder(path, NULL);
    bool is_network = folder && statfs(folder, &about) == 0 && is_network_type((unsigned long)about.f_type);
    free(folder);
    return is_network;
}

/* True when a log beside the file, of one kind or the other, holds something. */
static bool has_log(const char *path, const char *ending)
{
    struct stat about;
    char *name = sqlite3_mprintf("%s%s", path, ending);
    bool has = name && stat(name, &about) == 0 && about.st_size > 0;
    sqlite3_free(name);
    return has;
}

/* By the header, through SQLite's own handle: closing another one would drop its locks on the file. */
static bool is_wal(noc_catalog *catalog)
{
    sqlite3_file *file = NULL;
    unsigned char version = 0;
    int code = sqlite3_file_control(catalog->db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
    return code == SQLITE_OK && file && file->pMethods &&
           file->pMethods->xRead(file, &version, 1, 18) == SQLITE_OK && version == 2;
}

static noc_status connect_with(noc_catalog *catalog, const char *name, int flags, noc_error *err)
{
    int code = sqlite3_open_v2(name, &catalog->db, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_busy_timeout(catalog->db, BUSY_MS);
    if (code == SQLITE_OK)
        code = sqlite3_create_function(catalog->db, "matches", 2, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL,
                                       matches, NULL, NULL);
    return code == SQLITE_OK ? NOC_OK : noc_database_fail(catalog, code, err);
}

static void disconnect(noc_catalog *catalog)
{
    for (int i = 0; i < catalog->statement_count; i++)
        sqlite3_finalize(catalog->statements[i].handle);
    catalog->statement_count = 0;
    sqlite3_close(catalog->db);
    catalog->db = NULL;
}

/* "file:" with everything that a URI would take for its own escaped. */
static char *immutable_name(const char *path)
{
    sqlite3_str *name = sqlite3_str_new(NULL);
    sqlite3_str_appendall(name, "file:");
    for (const char *c = path; *c; c++)
        sqlite3_str_appendf(name, strchr("%?#", *c) ? "%%%02X" : "%c", (unsigned char)*c);
    sqlite3_str_appendall(name, "?immutable=1");
    return sqlite3_str_finish(name);
}

/* A file in a folder that cannot be written: without a log beside it all it holds is in the file itself. */
static noc_status connect_immutable(noc_catalog *catalog, noc_error *err)
{
    char *name = immutable_name(catalog->path);
    if (!name)
        return noc_fail(err, NOC_ENOMEMORY, "%s: no memory to open it", catalog->path);
    noc_status status = connect_with(catalog, name, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, err);
    if (status == NOC_OK)
        status = noc_schema_settle(catalog, err);
    sqlite3_free(name);
    return status;
}

/* Reading a file in WAL mode makes its index (-shm) where there is none, and leaves it there. One made by
 * another user could lock the owner out, so who may not write the file reads it without. */
static bool would_leave_index(noc_catalog *catalog)
{
    return access(catalog->path, W_OK) != 0 && !has_log(catalog->path, "-wal") && is_wal(catalog);
}

static noc_status open_to_read(noc_catalog *catalog, noc_error *err)
{
    noc_error first = {0};
    if (is_on_network(catalog->path) && has_log(catalog->path, "-wal"))
        return noc_fail(err, NOC_EUNAVAILABLE, "%s: has an open write-ahead log on a network file system",
                        catalog->path);
    noc_status status = connect_with(catalog, catalog->path, SQLITE_OPEN_READONLY, &first);
    bool is_quiet = status == NOC_OK && would_leave_index(catalog);
    if (status == NOC_OK && !is_quiet)
        status = noc_schema_settle(catalog, &first);
    bool is_refused =
        (status == NOC_ENOINPUT || status == NOC_ECANTCREATE) && access(catalog->path, R_OK) == 0;
    if (is_refused && (has_log(catalog->path, "-wal") || has_log(catalog->path, "-journal")))
        return noc_fail(err, NOC_EUNAVAILABLE,
                        "%s: has unfinished changes that only its writer can settle: `nocturne run` does",
                        catalog->path);
    if (is_quiet || is_refused) {
        disconnect(catalog);
        return connect_immutable(catalog, err);
    }
    return status == NOC_OK ? NOC_OK : noc_fail(err, status, "%s", first.text);
}

static noc_status open_to_write(noc_catalog *catalog, noc_error *err)
{
    int flags = SQLITE_OPEN_READWRITE | (catalog->mode == NOC_CATALOG_CREATE ? SQLITE_OPEN_CREATE : 0);
    noc_status status = connect_with(catalog, catalog->path, flags, err);
    if (status == NOC_OK && sqlite3_db_readonly(catalog->db, "main") == 1)
        status = noc_fail(err, NOC_ECANTCREATE, "%s: may not be written", catalog->path);
    if (status == NOC_OK)
        status = noc_database_script(catalog, "PRAGMA synchronous = EXTRA; PRAGMA foreign_keys = ON", err);
    if (status == NOC_OK)
        status = noc_schema_settle(catalog, err);
    if (status == NOC_OK)
        status = noc_database_script(
            catalog,
            is_on_network(catalog->path) ? "PRAGMA journal_mode = DELETE" : "PRAGMA journal_mode = WAL", err);
    return status;
}

noc_status noc_catalog_open(const char *path, noc_catalog_mode mode, noc_catalog **catalog, noc_error *err)
{
    struct stat about;
    bool is_there = stat(path, &about) == 0;
    if (!is_there && mode != NOC_CATALOG_CREATE)
        return noc_fail(err, NOC_ENOINPUT, "%s: there is no catalog; `nocturne scan` makes one", path);
    if (is_there && !S_ISREG(about.st_mode))
        return noc_fail(err, NOC_EDATA, "%s: not a file, so not a catalog", path);
    noc_catalog *made = noc_alloc_zeroed(1, sizeof(*made), err);
    if (!made)
        return NOC_ENOMEMORY;
    made->mode = mode;
    made->path = noc_strdup(path, err);
    noc_status status = made->path ? NOC_OK : NOC_ENOMEMORY;
    if (status == NOC_OK)
        status = mode == NOC_CATALOG_READ ? open_to_read(made, err) : open_to_write(made, err);
    if (status != NOC_OK) {
        noc_catalog_close(made);
        return status;
    }
    *catalog = made;
    return NOC_OK;
}

void noc_catalog_close(noc_catalog *catalog)
{
    if (!catalog)
        return;
    disconnect(catalog);
    free(catalog->path);
    free(catalog);
}
