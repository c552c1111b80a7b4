#include "engine/base/cpus.h"

#include "engine/base/memory.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FEWEST_CPUS = 1024, MOST_CPUS = 1 << 20 /* of a set: the system refuses one that is too small */ };

/* The set of allowed CPUs and its size in bytes, to be released by CPU_FREE; NULL when it cannot be had. */
static cpu_set_t *allowed_set(size_t *size)
{
    for (int cpus = FEWEST_CPUS; cpus <= MOST_CPUS; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        *size = CPU_ALLOC_SIZE((size_t)cpus);
        if (!set)
            return NULL;
        CPU_ZERO_S(*size, set);
        if (sched_getaffinity(0, *size, set) == 0)
            return set;
        CPU_FREE(set);
        if (errno != EINVAL)
            return NULL;
    }
    return NULL;
}

noc_status noc_cpus_allowed(int **numbers, int *count, noc_error *err)
{
    size_t size;
    cpu_set_t *set = allowed_set(&size);
    if (!set)
        return noc_fail(err, NOC_EUNAVAILABLE, "the system does not say which CPUs this process may use");
    int *list = noc_alloc((size_t)CPU_COUNT_S(size, set), sizeof *list, err), found = 0;
    for (int i = 0; list && i < (int)(8 * size); i++)
        if (CPU_ISSET_S((size_t)i, size, set))
            list[found++] = i;
    CPU_FREE(set);
    if (!list)
        return NOC_ENOMEMORY;
    *numbers = list;
    *count = found;
    return NOC_OK;
}

int noc_cpus_count(void)
{
    size_t size;
    cpu_set_t *set = allowed_set(&size);
    int count = set ? CPU_COUNT_S(size, set) : 1;
    if (set)
        CPU_FREE(set);
    return count > 0 ? count : 1;
}

/* A quota and, in the same file or in one of its own, its period. */
static int quota_of(const char *path, const char *period_path)
{
    long long quota = 0, period = 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return INT_MAX;
    int found = fscanf(file, "%lld %lld", &quota, &period);
    fclose(file);
    if (period_path && (file = fopen(period_path, "re"))) {
        found += fscanf(file, "%lld", &period) == 1;
        fclose(file);
    }
    if (found < 2 || quota <= 0 || period <= 0 || quota / period >= INT_MAX)
        return INT_MAX;
    return (int)((quota + period - 1) / period);
}

/* The folder of this process in the unified hierarchy, or "". */
static void own_cgroup(char *folder, size_t size)
{
    char line[512];
    folder[0] = '\0';
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, "0::", 3) == 0) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(folder, size, "%s", line + 3);
        }
    fclose(file);
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* Each group on the way up to the root binds as well. */
int noc_cpus_quota(void)
{
    char folder[512], path[600];
    int lowest = quota_of("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    own_cgroup(folder, sizeof folder);
    for (;;) {
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", folder);
        lowest = smaller(lowest, quota_of(path, NULL));
        char *slash = strrchr(folder, '/');
        if (!slash)
            return lowest;
        *slash = '\0';
    }
}

int noc_cpus_usable(void)
{
    return smaller(noc_cpus_count(), noc_cpus_quota());
}

noc_status noc_cpus_pin(const int *numbers, int count, noc_error *err)
{
    int largest = 0;
    for (int i = 0; i < count; i++)
        largest = numbers[i] > largest ? numbers[i] : largest;
    size_t size = CPU_ALLOC_SIZE((size_t)largest + 1);
    cpu_set_t *set = CPU_ALLOC((size_t)largest + 1);
    if (!set)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for a set of CPUs");
    CPU_ZERO_S(size, set);
    for (int i = 0; i < count; i++)
        CPU_SET_S((size_t)numbers[i], size, set);
    int failed = sched_setaffinity(0, size, set) == 0 ? 0 : errno;
    CPU_FREE(set);
    return failed ? noc_fail(err, NOC_EUNAVAILABLE, "the CPUs cannot be chosen: %s", strerror(failed))
                  : NOC_OK;
}
