/* DWCONV by itself: strips of lines of a plane. */
#include "engine/cpu/cpu.h"

enum { STRIP_LINES = 4 };

typedef struct depthwise_job {
    const noc_cpu_kernels *kernels;
    noc_cpu_depthwise depthwise;
} depthwise_job;

static void depthwise_piece(void *argument, int i, int thread)
{
    const depthwise_job *job = argument;
    int height = job->depthwise.grid[1], strips = noc_cpu_parts(height, STRIP_LINES),
        h = i % strips * STRIP_LINES;
    (void)thread;
    job->kernels->depthwise(&job->depthwise, i / strips, h, noc_cpu_min(h + STRIP_LINES, height));
}

static int match(const noc_network *network, int first)
{
    return network->plan->ops[first].kind == NOC_OP_DWCONV;
}

noc_status noc_cpu_pack_depthwise(noc_network *network, const noc_op *op, float **weight, float **bias,
                                  noc_error *err)
{
    int lanes = network->device->kernels->lanes, width = network->device->kernels->columns;
    int channels = noc_cpu_value_of(network, op->output)->channels;
    size_t padded = (size_t)noc_cpu_parts(channels, width) * (size_t)width;
    *weight = noc_cpu_keep(network, padded * 27, sizeof(float), err);
    *bias = noc_cpu_keep(network, padded, sizeof(float), err);
    if (!*weight || !*bias)
        return NOC_ENOMEMORY;
    for (int c = 0; c < channels; c++) {
        for (int t = 0; t < 27; t++)
            (*weight)[(size_t)(c / lanes * 27 + t) * (size_t)lanes + (size_t)(c % lanes)] =
                (float)op->weight.data[(size_t)t * (size_t)channels + (size_t)c];
        if (op->bias.data)
            (*bias)[c] = (float)op->bias.data[c];
    }
    return NOC_OK;
}

static noc_status prepare(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    return noc_cpu_pack_depthwise(network, step->ops, &step->weight, &step->bias, err);
}

static void run(noc_network *network, const noc_cpu_step *step)
{
    const noc_op *op = step->ops;
    const noc_value *out = noc_cpu_value_of(network, op->output);
    depthwise_job job = {network->device->kernels,
                         {.in = noc_cpu_value(network, op->input[0]),
                          .out = noc_cpu_value(network, op->output),
                          .grid = {out->grid[0], out->grid[1], out->grid[2]},
                          .channels = out->channels,
                          .weight = step->weight,
                          .bias = step->bias,
                          .activation = op->activation}};
    noc_cpu_run(network->device, out->grid[0] * noc_cpu_parts(out->grid[1], STRIP_LINES), depthwise_piece,
                &job);
}

const noc_cpu_step_kind noc_cpu_depthwise_step = {match, prepare, run};
