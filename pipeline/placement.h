/* How the workers of a node share its CPUs: a domain of memory each, or a run of neighbouring CPUs where they
 * are more than the domains. */
#ifndef NOC_PLACEMENT_H
#define NOC_PLACEMENT_H

#include "engine/base/error.h"
#include "engine/base/text.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct noc_cpu {
    int number;
    int domain; /* of memory (NUMA) */
    int core;   /* the lowest number among the CPUs that are threads of the same core */
} noc_cpu;

/* The CPUs that this process may use, by domain, core and number, so that neighbours in the list are near. */
typedef struct noc_topology {
    noc_cpu *cpus;
    int count;
    int quota; /* CPUs that its cgroup pays for; INT_MAX: all */
} noc_topology;

#define NOC_SYSTEM_DEVICES "/sys/devices/system"

/* system: NOC_SYSTEM_DEVICES. What it does not tell: one domain, a core for each CPU. Release by
 * noc_topology_free. */
noc_status noc_topology_read(const char *system, noc_topology *topology, noc_error *err);
void noc_topology_free(noc_topology *topology);

/* Domains with CPUs in the list. */
int noc_topology_domains(const noc_topology *topology);
/* Workers that this node has by default: one a domain, but no more than the quota pays for; at least 1. */
int noc_topology_workers(const noc_topology *topology);
/* Equal for processes that may use the same CPUs. */
uint64_t noc_topology_fingerprint(const noc_topology *topology);

/* CPUs [first, first + count) of the list, and how many threads are to run there; 0 when nothing is known. */
typedef struct noc_placement {
    int first, count, threads;
} noc_placement;

/* Of worker `index` of `workers` that may use the same CPUs. A share is a contiguous part of the list: whole
 * domains where there are enough of them, else as equal as can be; all of it where workers are more than
 * CPUs, since the system then shares better. */
noc_placement noc_placement_of(const noc_topology *topology, int workers, int index);
/* Pins the calling thread, and those it starts from now on, to the share; nothing to do for all CPUs. */
noc_status noc_placement_pin(const noc_topology *topology, const noc_placement *placement, noc_error *err);

/* "0-15,32": the CPUs that the calling thread may use now. */
void noc_placement_add_cpus(noc_text *text);

#endif
