/* Inside of the CPU device: what its files share. */
#ifndef NOC_CPU_CPU_H
#define NOC_CPU_CPU_H

#include "engine/base/pool.h"
#include "engine/cpu/kernels.h"
#include "engine/device.h"

struct noc_device {
    noc_pool *pool;
    const noc_cpu_kernels *kernels;
    char name[96];
};

struct noc_buffer {
    float *data;
    size_t bytes;
};

/* An op with its weights packed for the kernels and its resize tables. */
typedef struct noc_cpu_step {
    const noc_op *op;
    float *weight, *bias;
    noc_cpu_axis axes[NOC_OP_INPUTS][3]; /* SUM, CONCAT: of inputs on another grid */
    void *tables;                        /* owns what axes point to */
} noc_cpu_step;

struct noc_network {
    noc_device *device;
    const noc_plan *plan;
    noc_cpu_step *steps;
    float *arena;   /* all values of one window but the input */
    float *heads;   /* keys and values of one attention op, packed by head */
    float *scratch; /* scratch_floats for each thread */
    size_t scratch_floats, heads_floats, bytes;
    const float *input; /* of the window that runs */
    double *seconds;    /* of each op so far */
};

/* noc_pool_run with denormals flushed to zero inside of the pieces. */
void noc_cpu_run(noc_device *device, int count, void (*piece)(void *argument, int i, int thread),
                 void *argument);

/* Positions of `out` samples on an axis of `in` samples (trilinear, align_corners false). */
void noc_cpu_axis_fill(int in, int out, noc_cpu_axis *axis);

/* Floats of a value, and where it lies while a window runs. */
int64_t noc_cpu_tokens(const noc_value *value);
float *noc_cpu_value(const noc_network *network, int value);

/* Floats an op wants of each thread's scratch and of `heads`. */
size_t noc_cpu_op_scratch(const noc_network *network, const noc_op *op);
size_t noc_cpu_op_heads(const noc_network *network, const noc_op *op);
void noc_cpu_op_run(noc_network *network, const noc_cpu_step *step);

noc_status noc_cpu_network_create(noc_device *device, const noc_plan *plan, int max_batch,
                                  noc_network **network, noc_error *err);
void noc_cpu_network_free(noc_network *network);
size_t noc_cpu_network_bytes(const noc_network *network);
noc_status noc_cpu_network_run(noc_network *network, int batch, const float *const input[],
                               noc_buffer *const output[], const size_t offset[], noc_error *err);
const double *noc_cpu_network_seconds(const noc_network *network);
noc_status noc_cpu_network_read(noc_network *network, int value, float *out, noc_error *err);
noc_status noc_cpu_gather(noc_device *device, const noc_gather *gather, noc_error *err);

#endif
