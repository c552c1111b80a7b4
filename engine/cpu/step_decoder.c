/* The end of the decoder: LINEAR of the finest map, SUM with the other maps resized to its grid and its
 * activation, LINEAR to the classes. The widest tensor of the network (256 channels on the finest grid) never
 * exists. A piece is a few lines of a plane, so that the coarser maps are blended along D once for all of
 * them. */
#include "engine/cpu/cpu.h"

enum { PANELS_FINE, PANELS_CLASSES };
enum { BLOCK_LINES = 8 };

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
                op->activation == NOC_ACTIVATION_NONE && is_sum_with_coarser(network, op, &op[1]) &&
                op[2].kind == NOC_OP_LINEAR && op[2].tail == 0 && op[2].residual < 0 &&
                noc_plan_only_reader(network->plan, op->output) == first + 1 &&
                noc_cpu_follows(network, &op[2], &op[1]);
    return fits ? 3 : 0;
}

/* The step, but where its values lie. */
static noc_cpu_decoder decoder_of(const noc_network *network, const noc_cpu_step *step)
{
    const noc_op *op = step->ops;
    const noc_value *in = noc_cpu_value_of(network, op->input[0]),
                    *sum = noc_cpu_value_of(network, op[1].output);
    int tokens = (int)noc_cpu_tokens(sum);
    noc_cpu_decoder d = {.channels = sum->channels,
                         .lines = BLOCK_LINES,
                         .fine = noc_cpu_product_of(op, &step->panels[PANELS_FINE], NULL,
                                                    (size_t)in->channels, tokens, NULL, 0),
                         .count = op[1].input_count,
                         .bias = step->bias,
                         .activation = op[1].activation,
                         .classes = noc_cpu_product_of(&op[2], &step->panels[PANELS_CLASSES], NULL, 0, tokens,
                                                       NULL, (size_t)step->panels[PANELS_CLASSES].columns)};
    for (int a = 0; a < 3; a++)
        d.grid[a] = sum->grid[a];
    for (int t = 0; t < d.count; t++) {
        const noc_value *term = noc_cpu_value_of(network, op[1].input[t]);
        for (int a = 0; a < 3; a++)
            d.terms[t].grid[a] = term->grid[a];
        d.terms[t].axes = op[1].input[t] == op->output ? NULL : step->axes[t];
    }
    return d;
}

static noc_status prepare(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    const noc_op *op = step->ops;
    noc_status status = noc_cpu_pack(network, &op[0], 0, &step->panels[PANELS_FINE], err);
    if (status == NOC_OK)
        status = noc_cpu_copy(network, &op[1].bias, &step->bias, err);
    if (status == NOC_OK)
        status = noc_cpu_fill_axes(network, &op[1], step->axes, err);
    if (status == NOC_OK)
        status = noc_cpu_pack(network, &op[2], 0, &step->panels[PANELS_CLASSES], err);
    if (status != NOC_OK)
        return status;
    noc_cpu_decoder decoder = decoder_of(network, step);
    noc_cpu_want(network, network->device->kernels->decoder_floats(&decoder), 0);
    return NOC_OK;
}

typedef struct decoder_job {
    const noc_network *network;
    noc_cpu_decoder decoder;
} decoder_job;

static void block_piece(void *argument, int i, int thread)
{
    const decoder_job *job = argument;
    const int *grid = job->decoder.grid;
    int blocks = noc_cpu_parts(grid[1], BLOCK_LINES), h = i % blocks * BLOCK_LINES;
    job->network->device->kernels->decode(&job->decoder, i / blocks, h, noc_cpu_min(h + BLOCK_LINES, grid[1]),
                                          noc_cpu_scratch(job->network, thread));
}

static void run(noc_network *network, const noc_cpu_step *step)
{
    const noc_op *op = step->ops;
    decoder_job job = {network, decoder_of(network, step)};
    noc_cpu_decoder *d = &job.decoder;
    d->fine.in = noc_cpu_value(network, op->input[0]);
    d->classes.out = noc_cpu_value(network, op[2].output);
    for (int t = 0; t < d->count; t++)
        if (d->terms[t].axes)
            d->terms[t].in = noc_cpu_value(network, op[1].input[t]);
    noc_cpu_run(network->device, d->grid[0] * noc_cpu_parts(d->grid[1], BLOCK_LINES), block_piece, &job);
}

const noc_cpu_step_kind noc_cpu_decoder_step = {match, prepare, run};
