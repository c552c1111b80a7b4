/* How well the schedule fills its workers: a simulated archive against the least time that it could take. */
#ifndef NOC_BENCH_SCHEDULE_H
#define NOC_BENCH_SCHEDULE_H

#include "engine/base/error.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct noc_schedule_bench {
    int workers;
    int64_t studies;
    bool is_uniform; /* brains of 18 windows each, else a hospital's mixture */
    double spread;   /* what a study takes differs by up to this share from what its windows say */
    bool has_faults; /* 2 % of the studies fail once and 2 % of the workers die once */
} noc_schedule_bench;

typedef struct noc_schedule_bench_result {
    double makespan_s; /* until the last study ended, at 0.1 s a window */
    double bound_s;    /* max(longest study, workers' time computing or dead / workers): none ends sooner */
} noc_schedule_bench_result;

/* The same for the same bench. NOC_ENOMEMORY. */
noc_status noc_bench_schedule(const noc_schedule_bench *bench, noc_schedule_bench_result *result,
                              noc_error *err);

#endif
