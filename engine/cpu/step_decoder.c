/* The end of the decoder: LINEAR of the finest map, SUM with the other maps resized to its grid and its
 * activation, LINEAR to the classes. One line of tokens at a time, so the widest tensor of the network (256
 * channels on the finest grid) never exists. */
#include "engine/cpu/cpu.h"

enum { PANELS_FINE, PANELS_CLASSES };

typedef struct decoder_job {
    const noc_network *network;
    const noc_cpu_step *step;
} decoder_job;

static int match(const noc_network *network, int first)
{
    const noc_op *op = &network->plan->ops[first];
    if (first + 3 > network->plan->op_count || op->kind != NOC_OP_LINEAR || op->residual >= 0 ||
        op[1].kind != NOC_OP_SUM || op[2].kind != NOC_OP_LINEAR || op[2].tail > 0 || op[2].residual >= 0 ||
        noc_plan_only_reader(network->plan, op->output) != first + 1 ||
        !noc_cpu_follows(network, &op[2], &op[1]))
        return 0;
    const noc_value *fine = noc_cpu_value_of(network, op->output),
                    *sum = noc_cpu_value_of(network, op[1].output);
    return noc_cpu_tokens(fine) == noc_cpu_tokens(sum) && fine->grid[2] == sum->grid[2] &&
                   op[1].input_count > 1
               ? 3
               : 0;
}

/* Lines of the coarser inputs, of the fine one and of the sum. */
static size_t scratch_floats(const noc_network *network, const noc_op *op)
{
    const noc_value *sum = noc_cpu_value_of(network, op[1].output);
    size_t floats = (size_t)sum->grid[2] * (size_t)sum->channels;
    for (int i = 0; i < op[1].input_count; i++)
        floats += noc_cpu_line_floats(network, &op[1], i);
    return floats;
}

static noc_status prepare(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    const noc_op *op = step->ops;
    noc_cpu_want(network, scratch_floats(network, op), 0);
    noc_status status = noc_cpu_pack(network, &op[0], &step->panels[PANELS_FINE], err);
    if (status == NOC_OK)
        status = noc_cpu_copy(network, &op[1].bias, &step->bias, err);
    if (status == NOC_OK)
        status = noc_cpu_fill_axes(network, &op[1], step->axes, err);
    return status == NOC_OK ? noc_cpu_pack(network, &op[2], &step->panels[PANELS_CLASSES], err) : status;
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
    int width = sum->grid[2];
    size_t line = (size_t)i * (size_t)width;
    float *room = noc_cpu_scratch(network, thread);
    noc_cpu_mix m = {.count = op[1].input_count,
                     .width = width,
                     .channels = sum->channels,
                     .out_step = (size_t)sum->channels,
                     .activation = op[1].activation,
                     .bias = step->bias};
    for (int t = 0; t < m.count; t++) {
        const noc_cpu_axis *axes = step->axes[t];
        m.axes[t] = axes[2].low ? &axes[2] : NULL;
        if (op[1].input[t] == op->output) {
            noc_cpu_product fine =
                noc_cpu_product_of(op, &step->panels[PANELS_FINE],
                                   noc_cpu_value(network, op->input[0]) + line * (size_t)in->channels,
                                   (size_t)in->channels, width, room, (size_t)sum->channels);
            kernels->product(&fine);
            m.lines[t] = room;
        } else {
            m.lines[t] =
                noc_cpu_input_line(network, &op[1], axes, t, i / sum->grid[1], i % sum->grid[1], room);
        }
        room += noc_cpu_line_floats(network, &op[1], t);
    }
    m.out = room;
    kernels->mix(&m);
    noc_cpu_product p = noc_cpu_product_of(
        &op[2], &step->panels[PANELS_CLASSES], room, (size_t)sum->channels, width,
        noc_cpu_value(network, op[2].output) + line * (size_t)classes->channels, (size_t)classes->channels);
    kernels->product(&p);
}

static void run(noc_network *network, const noc_cpu_step *step)
{
    const noc_value *sum = noc_cpu_value_of(network, step->ops[1].output);
    decoder_job job = {network, step};
    noc_cpu_run(network->device, sum->grid[0] * sum->grid[1], line_piece, &job);
}

const noc_cpu_step_kind noc_cpu_decoder_step = {match, prepare, run};
