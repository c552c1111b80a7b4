/* A library to be preloaded that records, in the order in which they happened, the calls of all processes
 * that change files below a folder, for power_cut.py. In the environment:
 *
 *     NOC_RECORD       the file that takes the records
 *     NOC_RECORD_ROOT  the folder, without links in its path
 *     NOC_RECORD_NFS   a folder that statfs calls a network file system; may be missing
 *     NOC_RECORD_DIE   KIND:TEXT: the process is killed right after a call of that kind on a path that holds
 * TEXT; may be missing
 *
 * A record is written under a lock that is held over the call, so the order of records is that of the calls.
 * SQLite's shared memory (-shm) is left out: it is made anew from the log. What processes write to their
 * stderr is recorded too: it says what they acknowledge. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { PATH_SIZE = 4096, NFS = 0x6969 };

typedef enum call_kind {
    CREATE = 'c',
    WRITE = 'w',
    TRUNCATE = 't',
    SYNC = 's',
    SYNC_FOLDER = 'S',
    RENAME = 'r',
    LINK = 'l',
    UNLINK = 'u',
    MAKE_FOLDER = 'm',
    REMOVE_FOLDER = 'd',
    SAY = 'k'
} call_kind;

/* What stands before the two paths and the data of a record. */
typedef struct head {
    uint32_t kind, process;
    uint64_t inode;
    int64_t offset;
    uint32_t path_size, other_size;
    uint64_t data_size;
} head;

#define REAL(name) ((__typeof__(&(name)))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
static int log_file = -1;
static pid_t log_owner;

static void give_up(const char *why)
{
    fprintf(stderr, "shim_record: %s: %s\n", why, strerror(errno));
    _exit(99);
}

/* The lock belongs to the open file, so each process needs its own. */
static void lock_log(void)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    pthread_mutex_lock(&one);
    if (log_owner != getpid()) {
        log_file = REAL(open)(getenv("NOC_RECORD"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        log_owner = getpid();
    }
    while (log_file < 0 || fcntl(log_file, F_OFD_SETLKW, &whole) != 0)
        if (log_file < 0 || errno != EINTR)
            give_up("the record cannot be locked");
}

static void unlock_log(void)
{
    struct flock whole = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    fcntl(log_file, F_OFD_SETLK, &whole);
    pthread_mutex_unlock(&one);
}

static void put(const void *data, size_t size)
{
    if (size > 0 && REAL(write)(log_file, data, size) != (ssize_t)size)
        give_up("the record cannot be written");
}

static void record(call_kind kind, uint64_t inode, int64_t offset, const char *path, const char *other,
                   const void *data, size_t size)
{
    const head h = {.kind = kind,
                    .process = (uint32_t)getpid(),
                    .inode = inode,
                    .offset = offset,
                    .path_size = (uint32_t)strlen(path),
                    .other_size = (uint32_t)strlen(other),
                    .data_size = size};
    put(&h, sizeof h);
    put(path, h.path_size);
    put(other, h.other_size);
    put(data, size);
    const char *death = getenv("NOC_RECORD_DIE");
    if (death && death[0] == (char)kind && death[1] == ':' && strstr(path, death + 2))
        raise(SIGKILL);
}

/* ---- which files ---- */

/* The part of a path below the root ("" is the root itself); NULL when it lies elsewhere or is not recorded.
 */
static const char *below_root(const char *path)
{
    const char *root = getenv("NOC_RECORD_ROOT");
    size_t size = root && getenv("NOC_RECORD") ? strlen(root) : 0, whole = strlen(path);
    if (size == 0 || strncmp(path, root, size) != 0 || (path[size] != '/' && path[size] != '\0'))
        return NULL;
    if (whole > 4 && strcmp(path + whole - 4, "-shm") == 0)
        return NULL;
    return path + size + (path[size] == '/');
}

/* Of an open file, with what is known of it. */
static const char *path_of(int file, char path[PATH_SIZE], struct stat *info)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, PATH_SIZE - 1);
    if (size < 0)
        return NULL;
    path[size] = '\0';
    const char *name = below_root(path);
    if (!name || fstat(file, info) != 0 || (!S_ISREG(info->st_mode) && !S_ISDIR(info->st_mode)))
        return NULL;
    return name;
}

/* Of a name, whether something has it or not: its folder without links, and its last part. */
static const char *path_named(const char *name, char path[PATH_SIZE])
{
    char copy[PATH_SIZE], real[PATH_SIZE];
    size_t size = strlen(name);
    while (size > 1 && name[size - 1] == '/')
        size--;
    snprintf(copy, sizeof copy, "%.*s", (int)size, name);
    char *slash = strrchr(copy, '/');
    const char *last = slash ? slash + 1 : copy;
    if (slash)
        *slash = '\0';
    if (!realpath(!slash ? "." : *copy ? copy : "/", real))
        return NULL;
    int length = snprintf(path, PATH_SIZE, "%s/%s", strcmp(real, "/") == 0 ? "" : real, last);
    return length < PATH_SIZE ? below_root(path) : NULL;
}

/* ---- open ---- */

/* In between begin_open and end_open nobody else makes the file. */
static bool begin_open(int folder, const char *name, int flags, bool *is_new)
{
    struct stat info;
    if (!getenv("NOC_RECORD") || !(flags & (O_CREAT | O_TRUNC)))
        return false;
    lock_log();
    *is_new = fstatat(folder, name, &info, 0) != 0;
    return true;
}

static void end_open(int file, int flags, bool is_new)
{
    char path[PATH_SIZE];
    struct stat info;
    int error = errno;
    const char *name = file < 0 ? NULL : path_of(file, path, &info);
    if (name && is_new)
        record(CREATE, info.st_ino, 0, name, "", NULL, 0);
    else if (name && (flags & O_TRUNC))
        record(TRUNCATE, info.st_ino, 0, name, "", NULL, 0);
    unlock_log();
    errno = error;
}

#define OPEN(folder, call)                                                                                   \
    mode_t mode = 0;                                                                                         \
    bool is_new = false;                                                                                     \
    if (flags & O_CREAT) {                                                                                   \
        va_list arguments;                                                                                   \
        va_start(arguments, flags);                                                                          \
        mode = va_arg(arguments, mode_t);                                                                    \
        va_end(arguments);                                                                                   \
    }                                                                                                        \
    bool is_recorded = begin_open(folder, name, flags, &is_new);                                             \
    int file = call;                                                                                         \
    if (is_recorded)                                                                                         \
        end_open(file, flags, is_new);                                                                       \
    return file

int open(const char *name, int flags, ...)
{
    OPEN(AT_FDCWD, REAL(open)(name, flags, mode));
}

int open64(const char *name, int flags, ...)
{
    OPEN(AT_FDCWD, REAL(open64)(name, flags, mode));
}

int openat(int folder, const char *name, int flags, ...)
{
    OPEN(folder, REAL(openat)(folder, name, flags, mode));
}

int openat64(int folder, const char *name, int flags, ...)
{
    OPEN(folder, REAL(openat64)(folder, name, flags, mode));
}

/* ---- write ---- */

/* Where a write without an offset goes. */
static int64_t place_of(int file, const struct stat *info)
{
    int flags = fcntl(file, F_GETFL);
    return flags >= 0 && (flags & O_APPEND) ? info->st_size : lseek(file, 0, SEEK_CUR);
}

/* A call on an open file, under the lock where its file is recorded: name is then the file's. */
#define ON_FILE(file, type, call, then)                                                                      \
    char path[PATH_SIZE];                                                                                    \
    struct stat info;                                                                                        \
    int before = errno;                                                                                      \
    const char *name = getenv("NOC_RECORD") ? path_of(file, path, &info) : NULL;                             \
    errno = before;                                                                                          \
    if (!name)                                                                                               \
        return call;                                                                                         \
    lock_log();                                                                                              \
    fstat(file, &info);                                                                                      \
    int64_t place = place_of(file, &info);                                                                   \
    errno = before;                                                                                          \
    type result = call;                                                                                      \
    int error = errno;                                                                                       \
    if (result >= 0) {                                                                                       \
        then;                                                                                                \
    }                                                                                                        \
    unlock_log();                                                                                            \
    errno = error;                                                                                           \
    (void)place;                                                                                             \
    return result

static void record_pieces(const struct iovec *data, int count, ssize_t size, uint64_t inode, int64_t place,
                          const char *name)
{
    for (int i = 0; i < count && size > 0; i++) {
        size_t piece = data[i].iov_len < (size_t)size ? data[i].iov_len : (size_t)size;
        if (piece > 0)
            record(WRITE, inode, place, name, "", data[i].iov_base, piece);
        place += (int64_t)piece;
        size -= (ssize_t)piece;
    }
}

static void say(const void *data, size_t size)
{
    if (!getenv("NOC_RECORD"))
        return;
    lock_log();
    record(SAY, 0, 0, "", "", data, size);
    unlock_log();
}

ssize_t write(int file, const void *data, size_t size)
{
    if (file == STDERR_FILENO)
        say(data, size);
    ON_FILE(file, ssize_t, REAL(write)(file, data, size),
            record(WRITE, info.st_ino, place, name, "", data, (size_t)result));
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset)
{
    ON_FILE(file, ssize_t, REAL(pwrite)(file, data, size, offset),
            record(WRITE, info.st_ino, offset, name, "", data, (size_t)result));
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset)
{
    ON_FILE(file, ssize_t, REAL(pwrite64)(file, data, size, offset),
            record(WRITE, info.st_ino, offset, name, "", data, (size_t)result));
}

ssize_t writev(int file, const struct iovec *data, int count)
{
    ON_FILE(file, ssize_t, REAL(writev)(file, data, count),
            record_pieces(data, count, result, info.st_ino, place, name));
}

ssize_t pwritev(int file, const struct iovec *data, int count, off_t offset)
{
    ON_FILE(file, ssize_t, REAL(pwritev)(file, data, count, offset),
            record_pieces(data, count, result, info.st_ino, offset, name));
}

ssize_t pwritev64(int file, const struct iovec *data, int count, off64_t offset)
{
    ON_FILE(file, ssize_t, REAL(pwritev64)(file, data, count, offset),
            record_pieces(data, count, result, info.st_ino, offset, name));
}

int ftruncate(int file, off_t size)
{
    ON_FILE(file, int, REAL(ftruncate)(file, size), record(TRUNCATE, info.st_ino, size, name, "", NULL, 0));
}

int ftruncate64(int file, off64_t size)
{
    ON_FILE(file, int, REAL(ftruncate64)(file, size), record(TRUNCATE, info.st_ino, size, name, "", NULL, 0));
}

/* ---- sync ---- */

#define SYNCED record(S_ISDIR(info.st_mode) ? SYNC_FOLDER : SYNC, info.st_ino, 0, name, "", NULL, 0)

int fsync(int file)
{
    ON_FILE(file, int, REAL(fsync)(file), SYNCED);
}

int fdatasync(int file)
{
    ON_FILE(file, int, REAL(fdatasync)(file), SYNCED);
}

/* ---- names ---- */

/* A call on one or two names, under the lock where one is recorded. */
#define ON_NAMES(kind, from, to, call)                                                                       \
    char path[PATH_SIZE], other[PATH_SIZE];                                                                  \
    int before = errno;                                                                                      \
    const char *name = getenv("NOC_RECORD") ? path_named(from, path) : NULL;                                 \
    const char *target = name ? path_named(to, other) : NULL;                                                \
    errno = before;                                                                                          \
    if (!name)                                                                                               \
        return call;                                                                                         \
    lock_log();                                                                                              \
    int result = call, error = errno;                                                                        \
    if (result == 0)                                                                                         \
        record(kind, 0, 0, name, target ? target : "", NULL, 0);                                             \
    unlock_log();                                                                                            \
    errno = error;                                                                                           \
    return result

int rename(const char *from, const char *to)
{
    ON_NAMES(RENAME, from, to, REAL(rename)(from, to));
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    ON_NAMES(RENAME, from, to, REAL(renameat2)(from_folder, from, to_folder, to, flags));
}

int link(const char *from, const char *to)
{
    ON_NAMES(LINK, from, to, REAL(link)(from, to));
}

int unlink(const char *from)
{
    ON_NAMES(UNLINK, from, from, REAL(unlink)(from));
}

int mkdir(const char *from, mode_t mode)
{
    ON_NAMES(MAKE_FOLDER, from, from, REAL(mkdir)(from, mode));
}

int rmdir(const char *from)
{
    ON_NAMES(REMOVE_FOLDER, from, from, REAL(rmdir)(from));
}

/* ---- the kind of a file system ---- */

/* Only folders of that very name: MPI asks too, for others. */
static bool is_network(const char *path)
{
    const char *network = getenv("NOC_RECORD_NFS");
    return network && strcmp(path, network) == 0;
}

int statfs(const char *path, struct statfs *about)
{
    int result = REAL(statfs)(path, about);
    if (result == 0 && is_network(path))
        about->f_type = NFS;
    return result;
}

int statfs64(const char *path, struct statfs64 *about)
{
    int result = REAL(statfs64)(path, about);
    if (result == 0 && is_network(path))
        about->f_type = NFS;
    return result;
}
