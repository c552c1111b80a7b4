#include "pipeline/placement.h"

#include "engine/base/cpus.h"
#include "engine/base/memory.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- what the system tells ---- */

/* "0-3,8" of a file: true and the next range; what is no range ends it. */
static bool read_range(FILE *file, int *first, int *last)
{
    int separator;
    if (fscanf(file, "%d", first) != 1)
        return false;
    *last = *first;
    separator = fgetc(file);
    if (separator == '-' && fscanf(file, "%d", last) == 1)
        fgetc(file); /* the comma */
    return true;
}

static void read_domain(const char *system, int domain, noc_topology *t)
{
    char path[512];
    int first, last;
    snprintf(path, sizeof path, "%s/node/node%d/cpulist", system, domain);
    FILE *file = fopen(path, "re");
    while (file && read_range(file, &first, &last))
        for (int i = 0; i < t->count; i++)
            if (t->cpus[i].number >= first && t->cpus[i].number <= last)
                t->cpus[i].domain = domain;
    if (file)
        fclose(file);
}

static void read_domains(const char *system, noc_topology *t)
{
    char path[512];
    int domain, end;
    snprintf(path, sizeof path, "%s/node", system);
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (sscanf(entry->d_name, "node%d%n", &domain, &end) == 1 && entry->d_name[end] == '\0')
            read_domain(system, domain, t);
    if (folder)
        closedir(folder);
}

static void read_core(const char *system, noc_cpu *cpu)
{
    char path[512];
    snprintf(path, sizeof path, "%s/cpu/cpu%d/topology/thread_siblings_list", system, cpu->number);
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    if (fscanf(file, "%d", &cpu->core) != 1)
        cpu->core = cpu->number;
    fclose(file);
}

static int by_place(const void *a, const void *b)
{
    const noc_cpu *x = a, *y = b;
    int order = x->domain != y->domain ? x->domain - y->domain : x->core - y->core;
    return order ? order : x->number - y->number;
}

noc_status noc_topology_read(const char *system, noc_topology *topology, noc_error *err)
{
    noc_topology t = {.quota = noc_cpus_quota()};
    int *numbers = NULL;
    noc_status status = noc_cpus_allowed(&numbers, &t.count, err);
    if (status != NOC_OK)
        return status;
    t.cpus = noc_alloc((size_t)t.count, sizeof *t.cpus, err);
    for (int i = 0; t.cpus && i < t.count; i++) {
        t.cpus[i] = (noc_cpu){.number = numbers[i], .core = numbers[i]};
        read_core(system, &t.cpus[i]);
    }
    free(numbers);
    if (!t.cpus)
        return NOC_ENOMEMORY;
    read_domains(system, &t);
    qsort(t.cpus, (size_t)t.count, sizeof *t.cpus, by_place);
    *topology = t;
    return NOC_OK;
}

void noc_topology_free(noc_topology *topology)
{
    free(topology->cpus);
    topology->cpus = NULL;
    topology->count = 0;
}

/* ---- shares ---- */

/* Where domain number `domain` (counted from 0 among those of the list) begins; `count` behind the last. */
static int domain_start(const noc_topology *t, int domain)
{
    int at = 0;
    for (; at < t->count; at++)
        if (at == 0 || t->cpus[at].domain != t->cpus[at - 1].domain)
            if (domain-- == 0)
                break;
    return at;
}

int noc_topology_domains(const noc_topology *topology)
{
    int domains = 0;
    while (domain_start(topology, domains) < topology->count)
        domains++;
    return domains;
}

int noc_topology_workers(const noc_topology *topology)
{
    int domains = noc_topology_domains(topology);
    int workers = domains < topology->quota ? domains : topology->quota;
    return workers > 0 ? workers : 1;
}

uint64_t noc_topology_fingerprint(const noc_topology *topology)
{
    uint64_t hash = 14695981039346656037u;
    for (int i = 0; i < topology->count; i++)
        hash = (hash ^ (uint64_t)topology->cpus[i].number) * 1099511628211u;
    return hash;
}

/* The part of `total` things that comes to worker `index`: its first, and the next one's. */
static int part_start(int total, int workers, int index)
{
    return (int)((int64_t)total * index / workers);
}

noc_placement noc_placement_of(const noc_topology *topology, int workers, int index)
{
    const noc_topology *t = topology;
    noc_placement p = {.count = t->count, .threads = t->count};
    int domains = noc_topology_domains(t);
    if (workers > t->count) {
        p.threads = t->count > 0;
    } else if (workers <= domains) {
        p.first = domain_start(t, part_start(domains, workers, index));
        p.threads = p.count = domain_start(t, part_start(domains, workers, index + 1)) - p.first;
    } else {
        p.first = part_start(t->count, workers, index);
        p.threads = p.count = part_start(t->count, workers, index + 1) - p.first;
    }
    int paid = part_start(t->quota, workers, index + 1) - part_start(t->quota, workers, index);
    if (p.threads > paid)
        p.threads = paid > 0 ? paid : 1;
    return p;
}

noc_status noc_placement_pin(const noc_topology *topology, const noc_placement *placement, noc_error *err)
{
    if (placement->count == topology->count)
        return NOC_OK;
    int *numbers = noc_alloc((size_t)placement->count, sizeof *numbers, err);
    if (!numbers)
        return NOC_ENOMEMORY;
    for (int i = 0; i < placement->count; i++)
        numbers[i] = topology->cpus[placement->first + i].number;
    noc_status status = noc_cpus_pin(numbers, placement->count, err);
    free(numbers);
    return status;
}

void noc_placement_add_cpus(noc_text *text)
{
    int *numbers = NULL, count = 0;
    if (noc_cpus_allowed(&numbers, &count, NULL) != NOC_OK)
        return;
    for (int i = 0, last; i < count; i = last + 1) {
        for (last = i; last + 1 < count && numbers[last + 1] == numbers[last] + 1;)
            last++;
        noc_text_add(text, "%s%d", i > 0 ? "," : "", numbers[i]);
        if (last > i)
            noc_text_add(text, "-%d", numbers[last]);
    }
    free(numbers);
}
