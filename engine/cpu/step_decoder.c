/* The end of the decoder: LINEAR of the finest map, SUM with the other maps resized to its grid and its
 * activation, LINEAR to the classes. The widest tensor of the network (256 channels on the finest grid) never
 * exists. A piece is a few lines of a plane: the coarser maps are blended along D once for all its lines,
 * along H for each line, along W for each token, and a tile of tokens goes through to the classes. */
#include "engine/cpu/cpu.h"

enum { PANELS_FINE, PANELS_CLASSES };
enum { BLOCK_LINES = 8 };

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

/* Lines of a coarser input that BLOCK_LINES lines of the output may read. */
static int coarse_lines(const noc_network *network, const noc_op *sum, int input)
{
    int height = noc_cpu_value_of(network, sum->input[input])->grid[1],
        out = noc_cpu_value_of(network, sum->output)->grid[1];
    return noc_cpu_min(BLOCK_LINES * height / out + 3, height);
}

/* A tile of tokens of the fine map and of the sum; then the coarser inputs: their lines of this piece, and
 * one of them. */
static size_t scratch_floats(const noc_network *network, const noc_op *op)
{
    size_t floats = 2 * (size_t)network->device->kernels->rows *
                    (size_t)noc_cpu_value_of(network, op[1].output)->channels;
    for (int i = 0; i < op[1].input_count; i++)
        if (op[1].input[i] != op->output)
            floats +=
                (size_t)(coarse_lines(network, &op[1], i) + 1) * noc_cpu_line_floats(network, &op[1], i);
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

/* Lines of the terms: of the coarser ones blended along D, from line `first` on. */
typedef struct term {
    float *lines, *room;
    int first;
} term;

static void blend_planes(const decoder_job *job, int d, int h0, int h1, term terms[NOC_OP_INPUTS],
                         float *room)
{
    const noc_network *network = job->network;
    const noc_op *sum = &job->step->ops[1];
    for (int t = 0; t < sum->input_count; t++) {
        if (sum->input[t] == job->step->ops->output)
            continue;
        const noc_cpu_axis *axes = job->step->axes[t];
        const float *data = noc_cpu_value(network, sum->input[t]);
        size_t line = noc_cpu_line_floats(network, sum, t),
               plane = line * (size_t)noc_cpu_value_of(network, sum->input[t])->grid[1];
        int first = axes[1].low[h0];
        size_t at = (size_t)first * line, count = (size_t)(axes[1].high[h1 - 1] - first + 1) * line;
        terms[t] = (term){.lines = room, .room = room + count, .first = first};
        network->device->kernels->lerp(data + (size_t)axes[0].low[d] * plane + at,
                                       data + (size_t)axes[0].high[d] * plane + at, axes[0].fraction[d],
                                       count, room);
        room += count + line;
    }
}

/* The coarser terms on the line h, each with its own W. */
static void blend_lines(const decoder_job *job, int h, const term terms[NOC_OP_INPUTS], noc_cpu_mix *m)
{
    const noc_op *sum = &job->step->ops[1];
    for (int t = 0; t < m->count; t++) {
        if (sum->input[t] == job->step->ops->output)
            continue;
        const noc_cpu_axis *axes = job->step->axes[t];
        size_t line = noc_cpu_line_floats(job->network, sum, t);
        job->network->device->kernels->lerp(terms[t].lines + (size_t)(axes[1].low[h] - terms[t].first) * line,
                                            terms[t].lines +
                                                (size_t)(axes[1].high[h] - terms[t].first) * line,
                                            axes[1].fraction[h], line, terms[t].room);
        m->lines[t] = terms[t].room;
        m->axes[t] = &axes[2];
    }
}

/* Tokens of one line, from the fine map to the classes; `token` is the first. */
static void finish_line(const decoder_job *job, size_t token, noc_cpu_mix *m, float *fine)
{
    const noc_network *network = job->network;
    const noc_cpu_kernels *kernels = network->device->kernels;
    const noc_op *op = job->step->ops;
    const noc_value *in = noc_cpu_value_of(network, op->input[0]),
                    *sum = noc_cpu_value_of(network, op[1].output),
                    *classes = noc_cpu_value_of(network, op[2].output);
    size_t channels = (size_t)sum->channels;
    for (m->from = 0; m->from < sum->grid[2]; token += (size_t)(m->to - m->from), m->from = m->to) {
        m->to = noc_cpu_min(m->from + kernels->rows, sum->grid[2]);
        noc_cpu_product p =
            noc_cpu_product_of(op, &job->step->panels[PANELS_FINE],
                               noc_cpu_value(network, op->input[0]) + token * (size_t)in->channels,
                               (size_t)in->channels, m->to - m->from, fine, channels);
        kernels->product(&p);
        kernels->mix(m);
        p = noc_cpu_product_of(&op[2], &job->step->panels[PANELS_CLASSES], m->out, channels, m->to - m->from,
                               noc_cpu_value(network, op[2].output) + token * (size_t)classes->channels,
                               (size_t)classes->channels);
        kernels->product(&p);
    }
}

static void block_piece(void *argument, int i, int thread)
{
    const decoder_job *job = argument;
    const noc_op *op = job->step->ops;
    const noc_value *sum = noc_cpu_value_of(job->network, op[1].output);
    int blocks = noc_cpu_parts(sum->grid[1], BLOCK_LINES), d = i / blocks, h0 = i % blocks * BLOCK_LINES,
        h1 = noc_cpu_min(h0 + BLOCK_LINES, sum->grid[1]);
    size_t tile = (size_t)(job->network->device->kernels->rows * sum->channels);
    float *fine = noc_cpu_scratch(job->network, thread);
    term terms[NOC_OP_INPUTS] = {{0}};
    noc_cpu_mix m = {.count = op[1].input_count,
                     .channels = sum->channels,
                     .out = fine + tile,
                     .out_step = (size_t)sum->channels,
                     .activation = op[1].activation,
                     .bias = job->step->bias};
    for (int t = 0; t < m.count; t++)
        m.lines[t] = fine; /* of the one that is no coarser term */
    blend_planes(job, d, h0, h1, terms, fine + 2 * tile);
    for (int h = h0; h < h1; h++) {
        blend_lines(job, h, terms, &m);
        finish_line(job, (size_t)(d * sum->grid[1] + h) * (size_t)sum->grid[2], &m, fine);
    }
}

static void run(noc_network *network, const noc_cpu_step *step)
{
    const noc_value *sum = noc_cpu_value_of(network, step->ops[1].output);
    decoder_job job = {network, step};
    noc_cpu_run(network->device, sum->grid[0] * noc_cpu_parts(sum->grid[1], BLOCK_LINES), block_piece, &job);
}

const noc_cpu_step_kind noc_cpu_decoder_step = {match, prepare, run};
