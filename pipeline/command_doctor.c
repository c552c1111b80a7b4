/* nocturne doctor: what this machine offers, and what will be used. */
#include "pipeline/command.h"
#include "pipeline/placement.h"

#include "engine/base/memory.h"
#include "engine/base/text.h"

#include <hdf5.h>
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

typedef struct finding {
    const char *name;
    bool is_fine;
    char text[256];
} finding;

static void look_at_device(const noc_settings *settings, const noc_device_ops *ops, finding *f)
{
    noc_device_options options = {.isa = settings->isa, .threads = settings->threads};
    noc_device *device = NULL;
    noc_error err;
    noc_device_info info;
    f->name = ops->kind;
    f->is_fine = ops->open(&options, &device, &err) == NOC_OK;
    if (!f->is_fine) {
        snprintf(f->text, sizeof f->text, "%.250s", err.text);
        return;
    }
    ops->describe(device, &info);
    snprintf(f->text, sizeof f->text, "%s%s%s, %s, %s, %d threads", info.name, info.uuid[0] ? ", " : "",
             info.uuid, info.isa, info.precision, info.threads);
    ops->close(device);
    options.precision = NOC_PRECISION_AUTO;
    if (ops->precision(&options) == NOC_PRECISION_F32 || ops->open(&options, &device, NULL) != NOC_OK)
        return;
    ops->describe(device, &info);
    size_t used = strlen(f->text);
    snprintf(f->text + used, sizeof f->text - used, "; %s with %s", info.precision, info.isa);
    ops->close(device);
}

/* What the workers of a run on this node share out. */
static void look_at_placement(finding *f)
{
    noc_topology t = {0};
    noc_text cpus = {0};
    char quota[64] = "no quota";
    f->name = "numa";
    f->is_fine = noc_topology_read(NOC_SYSTEM_DEVICES, &t, NULL) == NOC_OK;
    if (!f->is_fine) {
        snprintf(f->text, sizeof f->text, "the system does not say which CPUs may be used: give --threads");
        return;
    }
    int workers = noc_topology_workers(&t), threads = noc_placement_of(&t, workers, 0).threads;
    if (t.quota < INT_MAX)
        snprintf(quota, sizeof quota, "a quota of %d", t.quota);
    noc_placement_add_cpus(&cpus);
    snprintf(f->text, sizeof f->text,
             "CPUs %.100s, domains %d, %s; workers of a run here %d, threads each %d",
             cpus.data ? cpus.data : "unknown", noc_topology_domains(&t), quota, workers, threads);
    noc_text_free(&cpus);
    noc_topology_free(&t);
}

static void look_at_mpi(finding *f)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(version, &length);
    version[strcspn(version, ",\n")] = '\0';
    int code = system("mpirun --version >/dev/null 2>&1");
    f->name = "mpi";
    f->is_fine = code == 0;
    snprintf(f->text, sizeof f->text, "%.150s%s", version,
             code == 0 ? "" : "; no mpirun in PATH: only --ranks 1 will work");
}

static void look_at_hdf5(finding *f)
{
    unsigned major, minor, release;
    H5get_libversion(&major, &minor, &release);
    f->name = "hdf5";
    f->is_fine = H5Zfilter_avail(H5Z_FILTER_DEFLATE) > 0 && H5Zfilter_avail(H5Z_FILTER_SHUFFLE) > 0;
    snprintf(f->text, sizeof f->text, "%u.%u.%u, parallel%s", major, minor, release,
             f->is_fine ? ", shuffle and deflate" : "; the deflate or shuffle filter is missing");
}

static void look_at_limits(const noc_settings *settings, finding *memory, finding *files, finding *disk)
{
    struct rlimit limit;
    struct statvfs space;
    getrlimit(RLIMIT_NOFILE, &limit);
    *memory = (finding){.name = "memory", .is_fine = noc_memory_limit() >= (size_t)1 << 30};
    snprintf(memory->text, sizeof memory->text, "%zu MiB usable (RAM and cgroup)", noc_memory_limit() >> 20);
    *files = (finding){.name = "open files", .is_fine = limit.rlim_cur >= 256};
    snprintf(files->text, sizeof files->text, "at most %llu", (unsigned long long)limit.rlim_cur);
    disk->name = "disk";
    disk->is_fine = statvfs(access(settings->results, F_OK) == 0 ? settings->results : ".", &space) == 0;
    size_t free_bytes = disk->is_fine ? (size_t)space.f_bavail * space.f_frsize : 0;
    disk->is_fine = free_bytes >= settings->disk_reserve;
    snprintf(disk->text, sizeof disk->text, "%zu MiB free for results", free_bytes >> 20);
}

static void print_json(const finding *findings, int count)
{
    noc_text text = {0};
    noc_text_add(&text, "{\"version\":");
    noc_text_add_json(&text, noc_version());
    for (int i = 0; i < count; i++) {
        noc_text_add(&text, ",");
        noc_text_add_json(&text, findings[i].name);
        noc_text_add(&text, ":{\"ok\":%s,\"text\":", findings[i].is_fine ? "true" : "false");
        noc_text_add_json(&text, findings[i].text);
        noc_text_add(&text, "}");
    }
    noc_text_add(&text, "}\n");
    fputs(text.data ? text.data : "", stdout);
    noc_text_free(&text);
}

int noc_command_doctor(const noc_settings *settings)
{
    finding findings[8] = {{0}};
    int count = 8, bad = 0;
    look_at_device(settings, &noc_cpu_ops, &findings[0]);
    look_at_device(settings, &noc_cuda_ops, &findings[1]);
    look_at_placement(&findings[2]);
    look_at_mpi(&findings[3]);
    look_at_hdf5(&findings[4]);
    look_at_limits(settings, &findings[5], &findings[6], &findings[7]);
    if (settings->json)
        print_json(findings, count);
    for (int i = 0; i < count; i++) {
        bool is_needed = findings[i].name != noc_cuda_ops.kind;
        if (!settings->json)
            printf("%-4s %-10s  %s\n",
                   findings[i].is_fine ? "ok"
                   : is_needed         ? "BAD"
                                       : "-",
                   findings[i].name, findings[i].text);
        bad += !findings[i].is_fine && is_needed;
    }
    return bad ? noc_status_exit(NOC_EUNAVAILABLE) : 0;
}
