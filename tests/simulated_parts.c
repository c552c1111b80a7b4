#include "tests/simulated_parts.h"

#include "tests/simulated_world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct row {
    noc_part_study study;
    uint64_t magic;
} row;

typedef struct ending {
    uint64_t magic;
    uint64_t rows;
} ending;

#define ROW_MAGIC UINT64_C(0x776f72)
#define END_MAGIC UINT64_C(0x646e65)

struct noc_part_writer {
    char *path;
    int file;
    uint64_t rows;
};

char *noc_part_path(const char *folder, int64_t number, bool with_open, noc_error *err)
{
    char *path = NULL;
    if (asprintf(&path, "%s/part-%06lld.h5%s", folder, (long long)number, with_open ? ".open" : "") < 0) {
        noc_fail(err, NOC_ENOMEMORY, "no memory for a path");
        return NULL;
    }
    return path;
}

static int failures;

void simulated_parts_fail(int count)
{
    failures = count;
}

bool simulated_parts_can_fail(void)
{
    return true;
}

static noc_status put(noc_part_writer *part, const void *data, size_t size, noc_error *err)
{
    if (!world_instant()) /* dead: nobody hears what it returns */
        return NOC_OK;
    if (failures > 0 && failures--)
        return noc_fail(err, NOC_EIO, "%s: %s", part->path, strerror(ENOSPC));
    if (write(part->file, data, size) != (ssize_t)size)
        return noc_fail(err, NOC_EIO, "%s: %s", part->path, strerror(errno));
    return NOC_OK;
}

noc_status noc_part_create(const char *folder, int64_t number, const noc_part_header *header,
                           MPI_Comm communicator, noc_part_writer **part, noc_error *err)
{
    noc_part_writer *p = calloc(1, sizeof *p);
    (void)communicator;
    p->path = noc_part_path(folder, number, true, err);
    p->file = world_instant() ? open(p->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666)
                              : open("/dev/null", O_RDWR | O_CLOEXEC);
    if (p->file < 0) {
        noc_fail(err, NOC_ECANTCREATE, "%s: %s", p->path, strerror(errno));
        free(p->path);
        free(p);
        return NOC_ECANTCREATE;
    }
    *part = p;
    return put(p, &header->configuration, sizeof header->configuration, err);
}

noc_status noc_part_write(noc_part_writer *part, const noc_part_entry *entries, int count, noc_error *err)
{
    noc_status status = NOC_OK;
    for (int i = 0; status == NOC_OK && i < count; i++) {
        const noc_outcome *o = &entries[i].outcome;
        row r = {.magic = ROW_MAGIC};
        memcpy(r.study.key, o->key, sizeof r.study.key);
        memcpy(r.study.source_sha256, o->source_sha256, sizeof r.study.source_sha256);
        memcpy(r.study.fingerprint, o->fingerprint, sizeof r.study.fingerprint);
        memcpy(r.study.mask_sha256, o->mask_sha256, sizeof r.study.mask_sha256);
        r.study.windows = o->windows;
        status = put(part, &r, sizeof r, err);
        part->rows++;
    }
    return status;
}

static void free_writer(noc_part_writer *part)
{
    close(part->file);
    free(part->path);
    free(part);
}

/* As the real one it asks the path, not the file, for the size. */
noc_status noc_part_close(noc_part_writer *part, int64_t *bytes, noc_error *err)
{
    struct stat info = {0};
    ending end = {END_MAGIC, part->rows};
    noc_status status = put(part, &end, sizeof end, err);
    if (status == NOC_OK && !world_is_dying() && stat(part->path, &info) != 0)
        status = noc_fail(err, NOC_EIO, "%s: %s", part->path, strerror(errno));
    if (status != NOC_OK)
        return status;
    *bytes = (int64_t)info.st_size;
    free_writer(part);
    return NOC_OK;
}

void noc_part_abandon(noc_part_writer *part)
{
    if (!part)
        return;
    if (world_instant())
        unlink(part->path);
    free_writer(part);
}

/* ---- reading ---- */

static noc_status damaged(const char *path, noc_error *err)
{
    return noc_fail(err, NOC_EDATA, "%s: no whole part", path);
}

static noc_status read_rows(FILE *file, const char *path, size_t count, noc_part_record *part, noc_error *err)
{
    ending end;
    part->studies = calloc(count + 1, sizeof *part->studies);
    for (size_t i = 0; i < count; i++) {
        row r;
        if (fread(&r, sizeof r, 1, file) != 1 || r.magic != ROW_MAGIC)
            return damaged(path, err);
        part->studies[part->study_count++] = r.study;
    }
    if (fread(&end, sizeof end, 1, file) != 1 || end.magic != END_MAGIC || end.rows != count)
        return damaged(path, err);
    return NOC_OK;
}

noc_status noc_part_read(const char *path, bool with_masks, noc_part_record *part,
                         noc_configuration *configuration, noc_error *err)
{
    FILE *file = fopen(path, "re");
    struct stat info;
    noc_configuration header;
    (void)with_masks;
    memset(part, 0, sizeof *part);
    if (!file)
        return noc_fail(err, NOC_EDATA, "%s: %s", path, strerror(errno));
    bool is_begun = fstat(fileno(file), &info) == 0 && fread(&header, sizeof header, 1, file) == 1;
    size_t rest = is_begun ? (size_t)info.st_size - sizeof header : 0;
    noc_status status = rest >= sizeof(ending) && (rest - sizeof(ending)) % sizeof(row) == 0
                            ? read_rows(file, path, (rest - sizeof(ending)) / sizeof(row), part, err)
                            : damaged(path, err);
    fclose(file);
    part->bytes = is_begun ? (int64_t)info.st_size : 0;
    if (status != NOC_OK)
        noc_part_record_clear(part);
    else if (configuration)
        *configuration = header;
    return status;
}

noc_status noc_index_write(const char *folder, noc_catalog *catalog, int64_t set, noc_error *err)
{
    (void)folder;
    (void)catalog;
    (void)set;
    (void)err;
    world_instant();
    return NOC_OK;
}
