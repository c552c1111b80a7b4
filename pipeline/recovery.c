/* Start-up recovery of a results folder. */
#include "pipeline/recovery.h"

#include "engine/base/file.h"
#include "engine/base/log.h"
#include "pipeline/process.h"
#include "pipeline/results.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct recovery_work {
    noc_catalog *catalog;
    int64_t set;
    const noc_configuration *configuration;
    noc_recovery *counts;
    int64_t *missing; /* parts of the catalog that are not as it says */
    size_t missing_count;
} recovery_work;

/* "part-000012.h5" or "part-000012.h5.SUFFIX" -> 12 and the suffix; 0 for another name, a number written in
 * another way included. */
static int64_t part_number(const char *name, const char **suffix)
{
    long long number;
    int used = 0;
    char usual[48];
    if (sscanf(name, "part-%lld.h5%n", &number, &used) != 1 || used == 0 || number <= 0)
        return 0;
    snprintf(usual, sizeof usual, "part-%06lld.h5", number);
    if (strncmp(name, usual, strlen(usual)) != 0)
        return 0;
    *suffix = name + used;
    return number;
}

/* renameat2 where the file system knows it, else link and unlink: neither replaces. */
static int rename_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    return link(from, to) == 0 ? unlink(from) : -1;
}

static noc_status rename_unknown(recovery_work *work, const char *path, const char *name, const char *reason,
                                 noc_error *err)
{
    char target[4096 + 64];
    snprintf(target, sizeof target, "%s.unknown", path);
    int failed = rename_new(path, target);
    for (int i = 1; failed && errno == EEXIST && i < 1000; i++) {
        snprintf(target, sizeof target, "%s.%d.unknown", path, i);
        failed = rename_new(path, target);
    }
    if (failed)
        return noc_fail(err, NOC_EIO, "%s: cannot be renamed: %s", path, strerror(errno));
    noc_log(NOC_LOG_WARN, "%s is not a part of this result set and was renamed *.unknown: %s", name, reason);
    work->counts->unknown++;
    return NOC_OK;
}

static bool is_same_configuration(const noc_configuration *a, const noc_configuration *b)
{
    return strcmp(a->model_sha256, b->model_sha256) == 0 &&
           memcmp(a->window, b->window, sizeof a->window) == 0 && a->overlap == b->overlap &&
           strcmp(a->blend, b->blend) == 0 && strcmp(a->precision, b->precision) == 0;
}

/* A part that was renamed but not committed: the power went between the two. */
static noc_status adopt(recovery_work *work, const char *path, const char *name, int64_t number,
                        noc_error *err)
{
    noc_part_record part = {0};
    noc_configuration configuration;
    noc_error why = {.status = NOC_OK};
    noc_status status = noc_part_read(path, true, &part, &configuration, &why);
    if (status == NOC_ENOMEMORY)
        return noc_fail(err, status, "%s", why.text);
    if (status != NOC_OK)
        return rename_unknown(work, path, name, why.text, err);
    part.number = number;
    if (!is_same_configuration(&configuration, work->configuration)) {
        status = rename_unknown(work, path, name, "it was made with another configuration", err);
    } else {
        status =
            noc_file_sync(work->configuration->results, err); /* its name, before the catalog counts on it */
        if (status == NOC_OK)
            status = noc_catalog_commit_part(work->catalog, work->set, &part, err);
        if (status == NOC_OK) {
            work->counts->adopted++;
            noc_log(NOC_LOG_INFO, "%s was complete but not yet in the catalog: adopted with %zu studies",
                    name, part.study_count);
        }
    }
    noc_part_record_clear(&part);
    return status;
}

/* Of a process that was killed before it renamed it; others than runs write the index too. */
static bool is_leftover(const char *name)
{
    static const char *const patterns[] = {"status.json.%d.%*u.tmp%n", "run.json.%d.%*u.tmp%n",
                                           ".index-%d.h5%n"};
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        int pid, end = 0;
        if (sscanf(name, patterns[i], &pid, &end) == 1 && end > 0 && name[end] == '\0')
            return noc_process_look(pid).state == NOC_PROCESS_GONE;
    }
    return false;
}

static noc_status remove_file(const char *path, noc_error *err)
{
    return unlink(path) == 0 ? NOC_OK
                             : noc_fail(err, NOC_EIO, "%s: what a killed run left cannot be removed: %s",
                                        path, strerror(errno));
}

static noc_status recover_part(recovery_work *work, const char *path, const char *name, int64_t number,
                               noc_error *err)
{
    bool is_known;
    noc_status status = noc_catalog_has_part(work->catalog, work->set, number, &is_known, err);
    return status == NOC_OK && !is_known ? adopt(work, path, name, number, err) : status;
}

static noc_status recover_file(recovery_work *work, const char *name, noc_error *err)
{
    const char *suffix = "", *folder = work->configuration->results;
    noc_status status = NOC_OK;
    int64_t number = part_number(name, &suffix);
    if (number == 0 && !is_leftover(name))
        return NOC_OK;
    if (number > work->counts->last_part)
        work->counts->last_part = number;
    char *path = noc_path_join(folder, name, err);
    if (!path)
        return NOC_ENOMEMORY;
    if (number == 0) {
        status = remove_file(path, err);
    } else if (strcmp(suffix, ".open") == 0) {
        status = remove_file(path, err);
        work->counts->removed_open += status == NOC_OK;
    } else if (*suffix == '\0') {
        status = recover_part(work, path, name, number, err);
    }
    free(path);
    return status;
}

static noc_status recover_folder(recovery_work *work, noc_error *err)
{
    struct dirent **entries;
    noc_status status = NOC_OK;
    int count = scandir(work->configuration->results, &entries, NULL, alphasort);
    if (count < 0)
        return noc_fail(err, NOC_EIO, "%s: cannot be listed: %s", work->configuration->results,
                        strerror(errno));
    for (int i = 0; i < count; i++) {
        if (status == NOC_OK)
            status = recover_file(work, entries[i]->d_name, err);
        free(entries[i]);
    }
    free(entries);
    return status;
}

static noc_status note_missing(void *argument, const noc_part_row *row, noc_error *err)
{
    recovery_work *work = argument;
    struct stat info;
    char *path = noc_part_path(work->configuration->results, row->number, false, err);
    if (!path)
        return NOC_ENOMEMORY;
    bool is_there = stat(path, &info) == 0 && info.st_size == row->bytes;
    free(path);
    if (row->number > work->counts->last_part)
        work->counts->last_part = row->number;
    if (is_there)
        return NOC_OK;
    int64_t *grown = realloc(work->missing, (work->missing_count + 1) * sizeof *grown);
    if (!grown)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the list of missing parts");
    work->missing = grown;
    work->missing[work->missing_count++] = row->number;
    return NOC_OK;
}

static noc_status drop_missing(recovery_work *work, noc_error *err)
{
    noc_status status = noc_catalog_each_part(work->catalog, work->set, note_missing, work, err);
    for (size_t i = 0; status == NOC_OK && i < work->missing_count; i++) {
        int64_t studies = 0, number = work->missing[i];
        char *path = noc_part_path(work->configuration->results, number, false, err), name[32];
        snprintf(name, sizeof name, "part-%06lld.h5", (long long)number);
        if (!path)
            return NOC_ENOMEMORY;
        if (access(path, F_OK) == 0)
            status = rename_unknown(work, path, name, "its size is not what the catalog says", err);
        free(path);
        if (status == NOC_OK)
            status = noc_catalog_drop_part(work->catalog, work->set, number, &studies, err);
        if (status == NOC_OK)
            noc_log(NOC_LOG_WARN, "%s is gone or damaged: its %lld studies are pending again", name,
                    (long long)studies);
        work->counts->dropped++;
    }
    free(work->missing);
    return status;
}

noc_status noc_recover(noc_catalog *catalog, int64_t set, const noc_configuration *configuration,
                       noc_recovery *recovery, noc_error *err)
{
    noc_recovery counts = {0};
    recovery_work work = {.catalog = catalog, .set = set, .configuration = configuration, .counts = &counts};
    noc_status status = noc_folder_create(configuration->results, err);
    if (status == NOC_OK)
        status = noc_catalog_last_part(catalog, set, &counts.last_part, err);
    if (status == NOC_OK)
        status = recover_folder(&work, err);
    if (status == NOC_OK)
        status = drop_missing(&work, err);
    if (status == NOC_OK)
        status = noc_catalog_recover(catalog, set, &counts.put_back, err);
    if (status == NOC_OK)
        *recovery = counts;
    return status;
}

noc_status noc_part_publish(const char *folder, int64_t number, noc_error *err)
{
    char *from = noc_part_path(folder, number, true, err), *to = noc_part_path(folder, number, false, err);
    noc_status status = from && to ? NOC_OK : NOC_ENOMEMORY;
    if (status == NOC_OK && rename_new(from, to) != 0)
        status = noc_fail(err, NOC_EIO, "%s: cannot be renamed to its final name: %s", from, strerror(errno));
    if (status == NOC_OK)
        status = noc_file_sync(folder, err);
    free(from);
    free(to);
    return status;
}
