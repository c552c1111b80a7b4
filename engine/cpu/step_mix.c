/* SUM and CONCAT: lines of the output; resized inputs are first blended along D and H. */
#include "engine/cpu/cpu.h"

#include <string.h>

static bool same_grid(const noc_value *a, const noc_value *b)
{
    return memcmp(a->grid, b->grid, sizeof a->grid) == 0;
}

void noc_cpu_axis_fill(int in, int out, noc_cpu_axis *axis)
{
    for (int i = 0; i < out; i++) {
        double source = (i + 0.5) * in / out - 0.5;
        if (source < 0)
            source = 0;
        int low = (int)source;
        if (low > in - 1)
            low = in - 1;
        double fraction = low == in - 1 ? 0 : source - low;
        axis->low[i] = low;
        axis->high[i] = fraction > 0 ? low + 1 : low;
        axis->fraction[i] = (float)fraction;
    }
}

noc_status noc_cpu_fill_axes(noc_network *network, const noc_op *op, noc_cpu_axis axes[NOC_OP_INPUTS][3],
                             noc_error *err)
{
    const noc_value *out = noc_cpu_value_of(network, op->output);
    size_t count = (size_t)out->grid[0] + (size_t)out->grid[1] + (size_t)out->grid[2];
    int32_t *table = noc_cpu_keep(network, count * (size_t)op->input_count, 3 * sizeof(int32_t), err);
    if (!table)
        return NOC_ENOMEMORY;
    for (int i = 0; i < op->input_count; i++)
        for (int a = 0; a < 3 && !same_grid(noc_cpu_value_of(network, op->input[i]), out); a++) {
            int n = out->grid[a];
            axes[i][a] =
                (noc_cpu_axis){.low = table, .high = table + n, .fraction = (float *)(table + 2 * n)};
            noc_cpu_axis_fill(noc_cpu_value_of(network, op->input[i])->grid[a], n, &axes[i][a]);
            table += 3 * n;
        }
    return NOC_OK;
}

size_t noc_cpu_line_floats(const noc_network *network, const noc_op *op, int input)
{
    const noc_value *in = noc_cpu_value_of(network, op->input[input]);
    return (size_t)in->grid[2] * (size_t)in->channels;
}

/* The line (d, h) of one input, on the output's D and H but its own W: blended in `room`, or where it lies.
 */
static const float *input_line(const noc_network *network, const noc_op *op, const noc_cpu_axis axes[3],
                               int input, int d, int h, float *room)
{
    const float *data = noc_cpu_value(network, op->input[input]);
    size_t line = noc_cpu_line_floats(network, op, input),
           plane = line * (size_t)noc_cpu_value_of(network, op->input[input])->grid[1];
    if (!axes[0].low)
        return data + (size_t)d * plane + (size_t)h * line;
    const float *low = data + (size_t)axes[0].low[d] * plane, *high = data + (size_t)axes[0].high[d] * plane;
    size_t h0 = (size_t)axes[1].low[h] * line, h1 = (size_t)axes[1].high[h] * line;
    float fd = axes[0].fraction[d], fh = axes[1].fraction[h];
    network->device->kernels->blend(
        (const float *const[]){low + h0, low + h1, high + h0, high + h1},
        (const float[]){(1 - fd) * (1 - fh), (1 - fd) * fh, fd * (1 - fh), fd * fh}, line, room);
    return room;
}

typedef struct mix_job {
    const noc_network *network;
    const noc_cpu_step *step;
} mix_job;

static void mix_piece(void *argument, int i, int thread)
{
    const mix_job *job = argument;
    const noc_network *network = job->network;
    const noc_op *op = job->step->ops;
    const noc_value *out = noc_cpu_value_of(network, op->output);
    float *room = noc_cpu_scratch(network, thread);
    noc_cpu_mix m = {.to = out->grid[2],
                     .out_step = (size_t)out->channels,
                     .activation = op->activation,
                     .bias = job->step->bias,
                     .out = noc_cpu_value(network, op->output) +
                            (size_t)i * (size_t)out->grid[2] * (size_t)out->channels};
    for (int t = 0; t < op->input_count; t++) {
        const noc_cpu_axis *axes = job->step->axes[t];
        m.lines[m.count] = input_line(network, op, axes, t, i / out->grid[1], i % out->grid[1], room);
        m.axes[m.count] = axes[2].low ? &axes[2] : NULL;
        m.channels = noc_cpu_value_of(network, op->input[t])->channels;
        if (op->kind == NOC_OP_CONCAT) {
            m.count = 1;
            network->device->kernels->mix(&m);
            m.count = 0;
            m.out += m.channels;
        } else {
            m.count++;
            room += noc_cpu_line_floats(network, op, t);
        }
    }
    if (op->kind == NOC_OP_SUM)
        network->device->kernels->mix(&m);
}

static int match(const noc_network *network, int first)
{
    noc_op_kind kind = network->plan->ops[first].kind;
    return kind == NOC_OP_SUM || kind == NOC_OP_CONCAT;
}

static noc_status prepare(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    size_t floats = 0;
    for (int i = 0; i < step->ops->input_count; i++)
        floats += noc_cpu_line_floats(network, step->ops, i);
    noc_cpu_want(network, floats, 0);
    noc_status status = noc_cpu_copy(network, &step->ops->bias, &step->bias, err);
    return status == NOC_OK ? noc_cpu_fill_axes(network, step->ops, step->axes, err) : status;
}

static void run(noc_network *network, const noc_cpu_step *step)
{
    const noc_value *out = noc_cpu_value_of(network, step->ops->output);
    mix_job job = {network, step};
    noc_cpu_run(network->device, out->grid[0] * out->grid[1], mix_piece, &job);
}

const noc_cpu_step_kind noc_cpu_mix_step = {match, prepare, run};
