/* LINEAR: blocks of rows, and where those are few, groups of panels too. */
#include "engine/cpu/cpu.h"

enum { PIECES = 64 /* aimed at, so that many threads have work */ };

noc_cpu_product noc_cpu_product_of(const noc_op *op, const noc_cpu_panels *panels, const float *in,
                                   size_t in_step, int rows, float *out, size_t out_step)
{
    return (noc_cpu_product){.in = in,
                             .in_step = in_step,
                             .rows = rows,
                             .depth = panels->depth,
                             .panels = panels->weight,
                             .bias = panels->bias,
                             .columns = panels->columns,
                             .tail = op->tail,
                             .tail_constant = (float)op->tail_constant,
                             .last = panels->count,
                             .out = out,
                             .out_step = out_step,
                             .activation = op->activation};
}

typedef struct product_job {
    const noc_network *network;
    noc_cpu_product product;
    int rows_per_piece, groups, panels_per_group;
} product_job;

static void product_piece(void *argument, int i, int thread)
{
    const product_job *job = argument;
    noc_cpu_product p = job->product;
    int row = i / job->groups * job->rows_per_piece, group = i % job->groups, panels = p.last;
    (void)thread;
    p.rows = noc_cpu_min(job->rows_per_piece, p.rows - row);
    p.first = group * job->panels_per_group;
    p.last = noc_cpu_min(p.first + job->panels_per_group, panels);
    p.in += (size_t)row * p.in_step;
    p.out += (size_t)row * p.out_step;
    if (p.residual)
        p.residual += (size_t)row * p.out_step;
    job->network->device->kernels->product(&p);
}

static int match(const noc_network *network, int first)
{
    return network->plan->ops[first].kind == NOC_OP_LINEAR;
}

static noc_status prepare(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    return noc_cpu_pack(network, step->ops, 0, &step->panels[0], err);
}

static void run(noc_network *network, const noc_cpu_step *step)
{
    const noc_op *op = step->ops;
    const noc_value *out = noc_cpu_value_of(network, op->output);
    int tile = network->device->kernels->rows, rows = (int)noc_cpu_tokens(out), depth = step->panels[0].depth;
    int tiles = depth > 512 ? 1 : depth > 128 ? 4 : 8;
    product_job job = {.network = network,
                       .product = noc_cpu_product_of(
                           op, &step->panels[0], noc_cpu_value(network, op->input[0]), (size_t)depth, rows,
                           noc_cpu_value(network, op->output), (size_t)out->channels)};
    if (op->residual >= 0)
        job.product.residual = noc_cpu_value(network, op->residual);
    tiles = noc_cpu_min(tiles, rows / (tile * PIECES) > 1 ? rows / (tile * PIECES) : 1);
    job.rows_per_piece = tile * tiles;
    int blocks = noc_cpu_parts(rows, job.rows_per_piece), panels = job.product.last;
    job.groups = op->tail > 0 ? 1 : noc_cpu_min(panels, noc_cpu_parts(PIECES, blocks));
    job.panels_per_group = noc_cpu_parts(panels, job.groups);
    job.groups = noc_cpu_parts(panels, job.panels_per_group);
    noc_cpu_run(network->device, blocks * job.groups, product_piece, &job);
}

const noc_cpu_step_kind noc_cpu_product_step = {match, prepare, run};
