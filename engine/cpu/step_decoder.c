/* The end of the decoder: LINEAR of the finest map, SUM with the other maps resized to its grid and its
 * activation, LINEAR to the classes. One line of tokens at a time, so the widest tensor of the network (256
 * channels on the finest grid) never exists. */
#include "engine/cpu/cpu.h"

enum { PANELS_FINE, PANELS_CLASSES };

typedef struct decoder_job {
    const noc_network *network;
    const noc_cpu_step *step;
} decoder_job;

/* All terms but the fine one lie on other grids: their lines are blended. */
static bool is_sum_with_coarser(const noc_network *network, const noc_op *fine, const noc_op *sum)
{
    const noc_value *out = noc_cpu_value_of(network, sum->output);
    int same = 0;
    for (int i = 0; i < sum->input_count; i++) {
        const noc_value *in = noc_cpu_value_of(network, sum->input[i]);
        bool is_same =
            in->grid[0] == out->grid[0] && in->grid[1] == out->grid[1] && in->grid[2] == out->grid[2];
        if (is_same != (sum->input[i] == fine->output))
            return false;
        same += is_same;
    }
    return sum->kind == NOC_OP_SUM && same == 1;
}

static int match(const noc_network *network, int first)
{
    const noc_op *op = &network->plan->ops[first];
    bool fits = first + 3 <= network->plan->op_count && op->kind == NOC_OP_LINEAR && op->residual < 0 &&
                is_sum_with_coarser(network, op, &op[1]) && op[2].kind == NOC_OP_LINEAR && op[2].tail == 0 &&
                op[2].residual < 0 && noc_plan_only_reader(network->plan, op->output) == first + 1 &&
                noc_cpu_follows(network, &op[2], &op[1]);
    return fits ? 3 : 0;
}

/* Lines of the coarser inputs, then a tile of tokens of the fine one and of the sum. */
static size_t scratch_floats(const noc_network *network, const noc_op *op)
{
    size_t floats = 2 * (size_t)network->device->kernels->rows *
                    (size_t)noc_cpu_value_of(network, op[1].output)->channels;
    for (int i = 0; i < op[1].input_count; i++)
        if (op[1].input[i] != op->output)
            floats += noc_cpu_line_floats(network, &op[1], i);
    return floats;
}

static noc_status prepare(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    const noc_op *op = step->ops;
    noc_cpu_want(network, scratch_floats(network, op), 0);
    noc_status status = noc_cpu_pack(network, &op[0], 0, &step->panels[PANELS_FINE], err);
    if (status == NOC_OK)
        status = noc_cpu_copy(network, &op[1].bias, &step->bias, err);
    if (status == NOC_OK)
        status = noc_cpu_fill_axes(network, &op[1], step->axes, err);
    return status == NOC_OK ? noc_cpu_pack(network, &op[2], 0, &step->panels[PANELS_CLASSES], err) : status;
}

/* The coarser maps on the line (d, h), each with its own W. */
static void blend_lines(const decoder_job *job, int d, int h, noc_cpu_mix *m, float *room)
{
    const noc_op *sum = &job->step->ops[1];
    for (int t = 0; t < m->count; t++) {
        const noc_cpu_axis *axes = job->step->axes[t];
        m->axes[t] = axes[2].low ? &axes[2] : NULL;
        if (sum->input[t] == job->step->ops->output)
            continue;
        m->lines[t] = noc_cpu_input_line(job->network, sum, axes, t, d, h, room);
        room += noc_cpu_line_floats(job->network, sum, t);
    }
}

static void line_piece(void *argument, int i, int thread)
{
    const decoder_job *job = argument;
    const noc_network *network = job->network;
    const noc_cpu_kernels *kernels = network->device->kernels;
    const noc_cpu_step *step = job->step;
    const noc_op *op = step->ops;
    const noc_value *in = noc_cpu_value_of(network, op->input[0]),
                    *sum = noc_cpu_value_of(network, op[1].output),
                    *classes = noc_cpu_value_of(network, op[2].output);
    size_t token = (size_t)i * (size_t)sum->grid[2], channels = (size_t)sum->channels;
    float *fine = noc_cpu_scratch(network, thread), *mixed = fine + (size_t)kernels->rows * channels;
    noc_cpu_mix m = {.count = op[1].input_count,
                     .channels = sum->channels,
                     .out = mixed,
                     .out_step = channels,
                     .activation = op[1].activation,
                     .bias = step->bias};
    blend_lines(job, i / sum->grid[1], i % sum->grid[1], &m, mixed + (size_t)kernels->rows * channels);
    for (int w = 0; w < sum->grid[2]; w = m.to, token += (size_t)(m.to - m.from)) {
        m.from = w;
        m.to = noc_cpu_min(w + kernels->rows, sum->grid[2]);
        noc_cpu_product p =
            noc_cpu_product_of(op, &step->panels[PANELS_FINE],
                               noc_cpu_value(network, op->input[0]) + token * (size_t)in->channels,
                               (size_t)in->channels, m.to - m.from, fine, channels);
        kernels->product(&p);
        for (int t = 0; t < m.count; t++)
            if (op[1].input[t] == op->output)
                m.lines[t] = fine;
        kernels->mix(&m);
        p = noc_cpu_product_of(&op[2], &step->panels[PANELS_CLASSES], mixed, channels, m.to - m.from,
                               noc_cpu_value(network, op[2].output) + token * (size_t)classes->channels,
                               (size_t)classes->channels);
        kernels->product(&p);
    }
}

static void run(noc_network *network, const noc_cpu_step *step)
{
    const noc_value *sum = noc_cpu_value_of(network, step->ops[1].output);
    decoder_job job = {network, step};
    noc_cpu_run(network->device, sum->grid[0] * sum->grid[1], line_piece, &job);
}

const noc_cpu_step_kind noc_cpu_decoder_step = {match, prepare, run};
