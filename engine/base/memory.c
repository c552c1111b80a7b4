/* Checked sizes and aligned blocks; the limits that the machine and its control groups set. */
#include "engine/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    ALIGNMENT = 64,
    LARGE_BYTES = 4 << 20, /* blocks from here on lie in large pages, where the system has them: */
    LARGE_PAGE = 2 << 20,  /* walking over volumes and feature maps misses the page tables less */
    PATH_BYTES = 4096
};

bool noc_size_mul(size_t a, size_t b, size_t *out)
{
    size_t product;

    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

bool noc_size_add(size_t a, size_t b, size_t *out)
{
    size_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

size_t noc_size_product(size_t a, size_t b)
{
    size_t product;

    return noc_size_mul(a, b, &product) ? product : SIZE_MAX;
}

size_t noc_size_sum(size_t a, size_t b)
{
    size_t sum;

    return noc_size_add(a, b, &sum) ? sum : SIZE_MAX;
}

void *noc_alloc(size_t count, size_t size, noc_error *err)
{
    size_t bytes, rounded;
    void *block = NULL;

    if (!noc_size_mul(count, size, &bytes) || !noc_size_add(bytes, LARGE_PAGE, &rounded)) {
        noc_fail(err, NOC_ENOMEMORY, "%zu items of %zu bytes are more than an address can count", count,
                 size);
        return NULL;
    }
    const size_t step = bytes < LARGE_BYTES ? ALIGNMENT : LARGE_PAGE;
    rounded = bytes > 0 ? (bytes + step - 1) / step * step : step;
    if (rounded <= PTRDIFF_MAX)
        block = aligned_alloc(step, rounded);
    if (!block)
        noc_fail(err, NOC_ENOMEMORY, "no memory for %zu bytes", bytes);
    else if (step == LARGE_PAGE)
        madvise(block, rounded, MADV_HUGEPAGE);
    return block;
}

void *noc_alloc_zeroed(size_t count, size_t size, noc_error *err)
{
    void *block = noc_alloc(count, size, err);

    if (block)
        memset(block, 0, count * size);
    return block;
}

char *noc_strdup(const char *text, noc_error *err)
{
    char *copy = strdup(text);

    if (!copy)
        noc_fail(err, NOC_ENOMEMORY, "no memory for a text of %zu bytes", strlen(text));
    return copy;
}

/* The number that stands in a file; SIZE_MAX when there is none ("max", no such file). */
static size_t read_limit(const char *path)
{
    unsigned long long value;
    FILE *file = fopen(path, "re");

    if (!file)
        return SIZE_MAX;
    int found = fscanf(file, "%llu", &value);
    fclose(file);
    return found == 1 && value < SIZE_MAX ? (size_t)value : SIZE_MAX;
}

/* The lowest limit on the way from a group up to the root of its hierarchy, since each ancestor binds as
 * well. */
static size_t group_limit(const char *mount, const char *group, const char *file)
{
    char folder[PATH_BYTES], path[2 * PATH_BYTES];
    size_t lowest = SIZE_MAX;

    snprintf(folder, sizeof folder, "%s", group);
    for (;;) {
        snprintf(path, sizeof path, "%s%s/%s", mount, strcmp(folder, "/") == 0 ? "" : folder, file);
        size_t limit = read_limit(path);
        if (limit < lowest)
            lowest = limit;
        char *slash = strrchr(folder, '/');
        if (!slash)
            return lowest;
        *slash = '\0';
    }
}

/* Lines of /proc/self/cgroup: "0::/group" (version 2) and "5:memory:/group" (version 1). */
static size_t cgroup_limit(void)
{
    size_t lowest = SIZE_MAX, limit = SIZE_MAX;
    char *line = NULL;
    size_t capacity = 0;
    FILE *file = fopen("/proc/self/cgroup", "re");

    if (!file)
        return SIZE_MAX;
    while (getline(&line, &capacity, file) > 0) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group || strlen(group) >= PATH_BYTES)
            continue;
        *group++ = '\0';
        if (strcmp(controllers + 1, "") == 0)
            limit = group_limit("/sys/fs/cgroup", group, "memory.max");
        else if (strcmp(controllers + 1, "memory") == 0)
            limit = group_limit("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes");
        else
            continue;
        if (limit < lowest)
            lowest = limit;
    }
    free(line);
    fclose(file);
    return lowest;
}

size_t noc_memory_limit(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t limit = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : SIZE_MAX;
    size_t group = cgroup_limit();

    return group < limit ? group : limit;
}

/* A line "NAME:   123 kB" of /proc/self/status, in bytes; 0 when there is none. */
static size_t status_bytes(const char *name)
{
    char line[256];
    size_t kibibytes = 0, length = strlen(name);
    FILE *file = fopen("/proc/self/status", "re");

    if (!file)
        return 0;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, name, length) == 0 && line[length] == ':' &&
            sscanf(line + length + 1, "%zu", &kibibytes) == 1)
            break;
    }
    fclose(file);
    return kibibytes * 1024;
}

size_t noc_memory_resident(void)
{
    return status_bytes("VmRSS");
}

size_t noc_memory_peak(void)
{
    return status_bytes("VmHWM");
}
