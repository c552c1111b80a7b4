/* The CPUs that this process may use: those it may run on, and how many of them its cgroup's quota pays for.
 */
#ifndef NOC_BASE_CPUS_H
#define NOC_BASE_CPUS_H

#include "engine/base/error.h"

/* Numbers of the CPUs that the calling thread may run on, ascending; *numbers is released by free(). */
noc_status noc_cpus_allowed(int **numbers, int *count, noc_error *err);
/* How many these are, at least 1. */
int noc_cpus_count(void);
/* CPUs that the quota (cgroup v1 or v2) amounts to, rounded up; INT_MAX without one. */
int noc_cpus_quota(void);
/* Threads that can run at once: the smaller of both. */
int noc_cpus_usable(void);

/* From now on the calling thread, and every thread that it starts, runs on these CPUs only. */
noc_status noc_cpus_pin(const int *numbers, int count, noc_error *err);

#endif
