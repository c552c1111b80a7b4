/* A library to be preloaded that lets calls on files fail, for tests of faults. In the environment:
 *
 *     NOC_FAULT=OPERATION:TEXT:ACTION:AFTER:TIMES[;...]
 *
 * OPERATION  open, create (an open that may write), write, sync, rename, remove
 * TEXT       what the file's path must hold
 * ACTION     EIO, ENOSPC, EROFS, EACCES: the call fails so; short: half of a write is written;
 *            crash: the process dies instead; die: the process dies right after; hang: it never returns
 * AFTER      so many calls of this process pass first; TIMES: so many suffer then, 0: all that follow
 *
 * Each call that suffers adds a line to the file NOC_FAULT_LOG. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_RULES = 8, PATH_SIZE = 4096 };

typedef enum action { PASS, FAIL, SHORT, CRASH, DIE, HANG } action;

typedef struct rule {
    char operation[16], text[128];
    action action;
    int error;
    long after, times;
    atomic_long seen;
} rule;

static rule rules[MAX_RULES];
static int rule_count;

#define REAL(name) ((__typeof__(&(name)))dlsym(RTLD_NEXT, #name))

static void read_action(rule *r, const char *name)
{
    static const struct {
        const char *name;
        action action;
        int error;
    } all[] = {{"EIO", FAIL, EIO},       {"ENOSPC", FAIL, ENOSPC}, {"EROFS", FAIL, EROFS},
               {"EACCES", FAIL, EACCES}, {"short", SHORT, 0},      {"crash", CRASH, 0},
               {"die", DIE, 0},          {"hang", HANG, 0}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(name, all[i].name) == 0) {
            r->action = all[i].action;
            r->error = all[i].error;
        }
}

__attribute__((constructor)) static void read_rules(void)
{
    const char *text = getenv("NOC_FAULT");
    while (text && *text && rule_count < MAX_RULES) {
        rule *r = &rules[rule_count];
        char name[16];
        if (sscanf(text, "%15[^:]:%127[^:]:%15[^:]:%ld:%ld", r->operation, r->text, name, &r->after,
                   &r->times) != 5) {
            fprintf(stderr, "shim_faults: NOC_FAULT cannot be read: %s\n", text);
            _exit(99);
        }
        read_action(r, name);
        rule_count++;
        text = strchr(text, ';');
        text = text ? text + 1 : NULL;
    }
}

static void note(const rule *r, const char *path)
{
    const char *log = getenv("NOC_FAULT_LOG");
    int file = log ? REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    char line[PATH_SIZE + 64];
    int size = snprintf(line, sizeof line, "%ld %s %s\n", (long)getpid(), r->operation, path);
    if (file < 0)
        return;
    if (REAL(write)(file, line, (size_t)size) != size)
        fprintf(stderr, "shim_faults: no log\n");
    close(file);
}

static void die(void)
{
    raise(SIGKILL);
}

/* What this call suffers; errno is set for FAIL. */
static action suffer(const char *operation, const char *path)
{
    for (int i = 0; i < rule_count; i++) {
        rule *r = &rules[i];
        if (strcmp(r->operation, operation) != 0 || !strstr(path, r->text))
            continue;
        long seen = atomic_fetch_add(&r->seen, 1);
        if (seen < r->after || (r->times > 0 && seen >= r->after + r->times))
            continue;
        note(r, path);
        if (r->action == CRASH)
            die();
        while (r->action == HANG)
            pause();
        errno = r->error;
        return r->action;
    }
    return PASS;
}

static action suffer_descriptor(const char *operation, int file)
{
    char link[64], path[PATH_SIZE];
    if (rule_count == 0)
        return PASS;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return PASS;
    path[size] = '\0';
    return suffer(operation, path);
}

/* The result of a call that was made, unless the process dies of it. */
#define MADE(what, call)                                                                                     \
    do {                                                                                                     \
        __typeof__(call) result_ = (call);                                                                   \
        if ((what) == DIE)                                                                                   \
            die();                                                                                           \
        return result_;                                                                                      \
    } while (0)

/* ---- open ---- */

static action suffer_open(const char *path, bool may_write)
{
    action what = suffer("open", path);
    return what == PASS && may_write ? suffer("create", path) : what;
}

#define OPEN(name, ...)                                                                                      \
    mode_t mode = 0;                                                                                         \
    if (flags & O_CREAT) {                                                                                   \
        va_list arguments;                                                                                   \
        va_start(arguments, flags);                                                                          \
        mode = va_arg(arguments, mode_t);                                                                    \
        va_end(arguments);                                                                                   \
    }                                                                                                        \
    action what = suffer_open(path, (flags & (O_CREAT | O_WRONLY | O_RDWR)) != 0);                           \
    if (what == FAIL)                                                                                        \
        return -1;                                                                                           \
    MADE(what, REAL(name)(__VA_ARGS__, flags, mode))

int open(const char *path, int flags, ...)
{
    OPEN(open, path);
}

int open64(const char *path, int flags, ...)
{
    OPEN(open64, path);
}

int openat(int folder, const char *path, int flags, ...)
{
    OPEN(openat, folder, path);
}

int openat64(int folder, const char *path, int flags, ...)
{
    OPEN(openat64, folder, path);
}

FILE *fopen(const char *path, const char *mode)
{
    action what = suffer_open(path, mode[0] != 'r');
    return what == FAIL ? NULL : REAL(fopen)(path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
    action what = suffer_open(path, mode[0] != 'r');
    return what == FAIL ? NULL : REAL(fopen64)(path, mode);
}

/* ---- write ---- */

#define WRITE(name, ...)                                                                                     \
    action what = suffer_descriptor("write", file);                                                          \
    if (what == FAIL)                                                                                        \
        return -1;                                                                                           \
    if (what == SHORT && size > 1)                                                                           \
        size /= 2;                                                                                           \
    MADE(what, REAL(name)(__VA_ARGS__))

ssize_t write(int file, const void *data, size_t size)
{
    WRITE(write, file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset)
{
    WRITE(pwrite, file, data, size, offset);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset)
{
    WRITE(pwrite64, file, data, size, offset);
}

/* Of several pieces the first half is written. */
ssize_t writev(int file, const struct iovec *data, int size)
{
    WRITE(writev, file, data, size);
}

ssize_t pwritev(int file, const struct iovec *data, int size, off_t offset)
{
    WRITE(pwritev, file, data, size, offset);
}

ssize_t pwritev64(int file, const struct iovec *data, int size, off64_t offset)
{
    WRITE(pwritev64, file, data, size, offset);
}

/* ---- sync ---- */

int fsync(int file)
{
    action what = suffer_descriptor("sync", file);
    if (what == FAIL)
        return -1;
    MADE(what, REAL(fsync)(file));
}

int fdatasync(int file)
{
    action what = suffer_descriptor("sync", file);
    if (what == FAIL)
        return -1;
    MADE(what, REAL(fdatasync)(file));
}

/* ---- names ---- */

int rename(const char *from, const char *to)
{
    action what = suffer("rename", from);
    if (what == FAIL)
        return -1;
    MADE(what, REAL(rename)(from, to));
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    action what = suffer("rename", from);
    if (what == FAIL)
        return -1;
    MADE(what, REAL(renameat2)(from_folder, from, to_folder, to, flags));
}

int unlink(const char *path)
{
    action what = suffer("remove", path);
    if (what == FAIL)
        return -1;
    MADE(what, REAL(unlink)(path));
}
