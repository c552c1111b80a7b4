/* CONV, with the LAYER_NORM that follows it: lines of the output. Where lines are many, a piece is a block of
 * a few lines of several planes with all their columns, walked plane by plane, with a ring of the input's
 * lines that its windows need in the thread's scratch; a line is normalised while it is hot. Where lines are
 * few, the whole input is filled first, a piece is one panel of columns of several lines, so that its weights
 * stay near, and the norm comes after. */
#include "engine/cpu/cpu.h"

enum {
    MANY_LINES = 128,
    LINES_PER_PIECE = 8, /* where they are few */
    BLOCK_LINES = 8,     /* where they are many */
    BLOCK_PLANES = 16,
    ROWS_MOST = 32,  /* of a tile: rows behind the last output are read too */
    LINE_SLACK = 32, /* floats: a product is filled up to a whole step */
};

typedef struct conv_job {
    const noc_network *network;
    noc_cpu_conv conv;
    const noc_op *norm; /* NULL: none, or after */
    const float *scale, *shift;
    int lines, panels;
    int along_d, planes; /* pieces along D, planes of a piece */
} conv_job;

static bool has_many_lines(const noc_cpu_conv *c)
{
    return c->out_grid[0] * c->out_grid[1] >= MANY_LINES;
}

static int ring_lines(const noc_cpu_conv *c)
{
    return (BLOCK_LINES - 1) * c->stride[1] + c->kernel[1];
}

/* Planes up to the last one that plane d of the output needs, from *next on. */
static void fill_ring(const noc_cpu_kernels *kernels, const noc_cpu_conv *c, int d, int *next)
{
    int first = d * c->stride[0] - c->padding[0], end = noc_cpu_min(first + c->kernel[0], c->grid[0]);
    int last_line = noc_cpu_min(c->first_line + c->ring_lines, c->grid[1]);
    *next = *next < first ? first : *next;
    for (*next = *next < 0 ? 0 : *next; *next < end; (*next)++)
        for (int h = c->first_line; h < last_line; h++)
            kernels->conv_fill(c, *next, h);
}

static void block_piece(void *argument, int i, int thread)
{
    const conv_job *job = argument;
    const noc_cpu_kernels *kernels = job->network->device->kernels;
    noc_cpu_conv c = job->conv;
    int d0 = i % job->along_d * job->planes, d1 = noc_cpu_min(d0 + job->planes, c.out_grid[0]);
    int h0 = i / job->along_d * BLOCK_LINES, h1 = noc_cpu_min(h0 + BLOCK_LINES, c.out_grid[1]), next = 0;
    c.lines = noc_cpu_scratch(job->network, thread);
    c.planes = c.kernel[0];
    c.ring_lines = ring_lines(&c);
    c.first_line = h0 * c.stride[1] - c.padding[1] > 0 ? h0 * c.stride[1] - c.padding[1] : 0;
    for (int d = d0; d < d1; d++) {
        fill_ring(kernels, &c, d, &next);
        for (int line = d * c.out_grid[1] + h0; line < d * c.out_grid[1] + h1; line++) {
            float *out = c.out + (size_t)(line * c.out_grid[2]) * (size_t)c.columns;
            kernels->conv(&c, line, 0, job->panels);
            if (job->norm)
                kernels->layer_norm(out, out, c.out_grid[2], c.columns, job->scale, job->shift,
                                    (float)job->norm->eps);
        }
    }
}

static void panel_piece(void *argument, int i, int thread)
{
    const conv_job *job = argument;
    int panel = i % job->panels, line = i / job->panels * LINES_PER_PIECE;
    (void)thread;
    for (int end = noc_cpu_min(line + LINES_PER_PIECE, job->lines); line < end; line++)
        job->network->device->kernels->conv(&job->conv, line, panel, panel + 1);
}

static void fill_piece(void *argument, int d, int thread)
{
    const conv_job *job = argument;
    (void)thread;
    for (int h = 0; h < job->conv.grid[1]; h++)
        job->network->device->kernels->conv_fill(&job->conv, d, h);
}

static void norm_piece(void *argument, int line, int thread)
{
    const conv_job *job = argument;
    float *out = job->conv.out + (size_t)(line * job->conv.out_grid[2]) * (size_t)job->conv.columns;
    (void)thread;
    job->network->device->kernels->layer_norm(out, out, job->conv.out_grid[2], job->conv.columns, job->scale,
                                              job->shift, (float)job->norm->eps);
}

static int match(const noc_network *network, int first)
{
    const noc_op *op = &network->plan->ops[first];
    if (op->kind != NOC_OP_CONV)
        return 0;
    bool has_norm = first + 1 < network->plan->op_count && op[1].kind == NOC_OP_LAYER_NORM &&
                    noc_cpu_follows(network, &op[1], op);
    return has_norm ? 2 : 1;
}

static noc_cpu_conv conv_of(const noc_network *network, const noc_op *op)
{
    const noc_value *in = noc_cpu_value_of(network, op->input[0]),
                    *out = noc_cpu_value_of(network, op->output);
    noc_cpu_conv conv = {.channels = in->channels, .columns = out->channels};
    for (int a = 0; a < 3; a++) {
        conv.grid[a] = in->grid[a];
        conv.out_grid[a] = out->grid[a];
        conv.kernel[a] = op->kernel[a];
        conv.stride[a] = op->stride[a];
        conv.padding[a] = op->padding[a];
    }
    return conv;
}

static noc_status prepare(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    noc_cpu_conv conv = conv_of(network, step->ops);
    size_t line = network->device->kernels->conv_line_floats(&conv),
           beyond =
               (size_t)(ROWS_MOST * conv.stride[2] + conv.kernel[2] + 1) * (size_t)conv.channels + LINE_SLACK;
    if (has_many_lines(&conv))
        noc_cpu_want(network, (size_t)(conv.kernel[0] * ring_lines(&conv)) * line + beyond, 0);
    else
        noc_cpu_want(network, 0, (size_t)(conv.grid[0] * conv.grid[1]) * line + beyond);
    noc_status status = noc_cpu_pack(network, step->ops, 0, &step->panels[0], err);
    if (status == NOC_OK && step->op_count > 1)
        status = noc_cpu_copy(network, &step->ops[1].weight, &step->weight, err);
    if (status == NOC_OK && step->op_count > 1)
        status = noc_cpu_copy(network, &step->ops[1].bias, &step->bias, err);
    return status;
}

static void run(noc_network *network, const noc_cpu_step *step)
{
    const noc_op *op = step->ops, *norm = step->op_count > 1 ? &step->ops[1] : NULL;
    const noc_value *out = noc_cpu_value_of(network, op->output);
    conv_job job = {.network = network,
                    .conv = conv_of(network, op),
                    .scale = step->weight,
                    .shift = step->bias,
                    .lines = out->grid[0] * out->grid[1],
                    .norm = norm,
                    .panels = step->panels[0].count};
    job.conv.in = noc_cpu_value(network, op->input[0]);
    job.conv.is_planar = op->input[0] == 0 && network->is_planar;
    job.conv.lines = network->shared;
    job.conv.planes = job.conv.grid[0];
    job.conv.ring_lines = job.conv.grid[1];
    job.conv.panels = step->panels[0].weight;
    job.conv.bias = step->panels[0].bias;
    job.conv.out = noc_cpu_value(network, norm ? norm->output : op->output);
    if (has_many_lines(&job.conv)) {
        int blocks = noc_cpu_parts(out->grid[1], BLOCK_LINES),
            wanted = 2 * noc_pool_threads(network->device->pool);
        job.along_d = noc_cpu_parts(out->grid[0], BLOCK_PLANES);
        if (blocks * job.along_d < wanted)
            job.along_d = noc_cpu_min(noc_cpu_parts(wanted, blocks), out->grid[0]);
        job.planes = noc_cpu_parts(out->grid[0], job.along_d);
        noc_cpu_run(network->device, blocks * job.along_d, block_piece, &job);
        return;
    }
    noc_cpu_run(network->device, job.conv.grid[0], fill_piece, &job);
    noc_cpu_run(network->device, noc_cpu_parts(job.lines, LINES_PER_PIECE) * job.panels, panel_piece, &job);
    if (norm)
        noc_cpu_run(network->device, job.lines, norm_piece, &job);
}

const noc_cpu_step_kind noc_cpu_conv_step = {match, prepare, run};
