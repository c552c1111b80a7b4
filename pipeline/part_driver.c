/* The file driver under parts written by one process. It tells the library of no failed write: the library
 * keeps what it could not write, and a failed close crashes the process at its end [HDF5 1.10.8]. It notes
 * the first failure where the writer sees it, and from then on writes nothing. */
#include "pipeline/part_format.h"

#if H5_VERSION_GE(1, 14, 0)
#include <H5FDdevelop.h>
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct driver_file {
    H5FD_t pub; /* the library's, first */
    int descriptor;
    int *failure;
    haddr_t end_allocated, end_written;
} driver_file;

/* What H5Pset_driver carries. */
typedef struct driver_info {
    int *failure;
} driver_info;

static void note_failure(driver_file *file)
{
    if (*file->failure == 0)
        *file->failure = errno;
}

/* In the words of the library's own driver, for part_fail. */
static void push_reason(const char *what)
{
    H5Epush2(H5E_DEFAULT, __FILE__, __func__, __LINE__, H5E_ERR_CLS, H5E_VFL, H5E_CANTOPENFILE,
             "%s: errno = %d", what, errno);
}

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t access, haddr_t max_address)
{
    const driver_info *info = H5Pget_driver_info(access);
    int mode = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;
    (void)max_address;
    if (!info || !(flags & H5F_ACC_EXCL))
        return NULL;
    driver_file *file = calloc(1, sizeof *file);
    if (!file)
        return NULL;
    file->failure = info->failure;
    file->descriptor = open(name, mode, 0666);
    if (file->descriptor < 0) {
        push_reason("open");
        free(file);
        return NULL;
    }
    return &file->pub;
}

static herr_t driver_close(H5FD_t *base)
{
    driver_file *file = (driver_file *)base;
    if (close(file->descriptor) != 0)
        note_failure(file);
    free(file);
    return 0;
}

static herr_t driver_query(const H5FD_t *base, unsigned long *flags)
{
    (void)base;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t driver_get_eoa(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const driver_file *)base)->end_allocated;
}

static herr_t driver_set_eoa(H5FD_t *base, H5FD_mem_t type, haddr_t address)
{
    (void)type;
    ((driver_file *)base)->end_allocated = address;
    return 0;
}

static haddr_t driver_get_eof(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const driver_file *)base)->end_written;
}

/* Zeros beyond the end, and after a failure whatever is there: the file will be thrown away. */
static herr_t driver_read(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size,
                          void *buffer)
{
    driver_file *file = (driver_file *)base;
    size_t done = 0;
    (void)type;
    (void)transfer;
    memset(buffer, 0, size);
    while (done < size) {
        ssize_t got = pread(file->descriptor, (char *)buffer + done, size - done, (off_t)(address + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            note_failure(file);
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    return 0;
}

static herr_t driver_write(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size,
                           const void *buffer)
{
    driver_file *file = (driver_file *)base;
    size_t done = 0;
    (void)type;
    (void)transfer;
    while (done < size && *file->failure == 0) {
        ssize_t put =
            pwrite(file->descriptor, (const char *)buffer + done, size - done, (off_t)(address + done));
        if (put > 0)
            done += (size_t)put;
        else if (put == 0)
            *file->failure = ENOSPC;
        else if (errno != EINTR)
            note_failure(file);
    }
    if (address + size > file->end_written)
        file->end_written = address + size;
    return 0;
}

static herr_t driver_truncate(H5FD_t *base, hid_t transfer, hbool_t is_closing)
{
    driver_file *file = (driver_file *)base;
    (void)transfer;
    (void)is_closing;
    if (*file->failure == 0 && file->end_written != file->end_allocated &&
        ftruncate(file->descriptor, (off_t)file->end_allocated) != 0)
        note_failure(file);
    file->end_written = file->end_allocated;
    return 0;
}

static const H5FD_class_t driver_class = {
#if H5_VERSION_GE(1, 14, 0)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)500, /* below 512: never registered with the library's makers */
#endif
    .name = "nocturne",
    .maxaddr = HADDR_MAX - 1,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(driver_info),
    .open = driver_open,
    .close = driver_close,
    .query = driver_query,
    .get_eoa = driver_get_eoa,
    .set_eoa = driver_set_eoa,
    .get_eof = driver_get_eof,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

bool part_use_driver(hid_t access, int *failure)
{
    const driver_info info = {.failure = failure};
    hid_t driver = H5FDregister(&driver_class);
    bool is_set = driver >= 0 && H5Pset_driver(access, driver, &info) >= 0;
    part_release(driver);
    return is_set;
}
