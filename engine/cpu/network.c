/* A plan on the CPU: its ops grouped in steps, weights packed once in the layout of the chosen kernels, one
 * arena for one window. Windows of a batch run one after another, so no bit can depend on the batch; the
 * threads share the work inside of a window. */
#include "engine/cpu/cpu.h"

#include "engine/base/clock.h"
#include "engine/base/memory.h"

#include <stdlib.h>
#include <string.h>

struct noc_cpu_block {
    noc_cpu_block *next;
    void *data;
};

/* Those of several ops first. */
static const noc_cpu_step_kind *const step_kinds[] = {
    &noc_cpu_attention_block_step,
    &noc_cpu_mixffn_step,
    &noc_cpu_decoder_step,
    &noc_cpu_conv_step,
    &noc_cpu_product_step,
    &noc_cpu_tokens_step,
    &noc_cpu_attention_step,
    &noc_cpu_depthwise_step,
    &noc_cpu_mix_step,
};
enum { STEP_KINDS = sizeof step_kinds / sizeof step_kinds[0] };

/* ---- values ---- */

int64_t noc_cpu_tokens(const noc_value *value)
{
    return (int64_t)value->grid[0] * value->grid[1] * value->grid[2];
}

const noc_value *noc_cpu_value_of(const noc_network *network, int value)
{
    return &network->plan->values[value];
}

float *noc_cpu_value(const noc_network *network, int value)
{
    if (value == 0)
        return (float *)(uintptr_t)network->input; /* no op writes the input */
    return network->arena + network->offsets[value];
}

bool noc_cpu_follows(const noc_network *network, const noc_op *op, const noc_op *before)
{
    return op->input[0] == before->output &&
           noc_plan_only_reader(network->plan, before->output) == (int)(op - network->plan->ops);
}

bool noc_cpu_is_plain_norm(const noc_op *op)
{
    return op->kind == NOC_OP_LAYER_NORM && !op->weight.data && !op->bias.data;
}

/* ---- what a network keeps ---- */

void *noc_cpu_keep(noc_network *network, size_t count, size_t size, noc_error *err)
{
    noc_cpu_block *block = noc_alloc_zeroed(1, sizeof *block, err);
    if (!block)
        return NULL;
    block->data = noc_alloc_zeroed(count, size, err);
    if (!block->data) {
        free(block);
        return NULL;
    }
    block->next = network->blocks;
    network->blocks = block;
    network->bytes += count * size;
    return block->data;
}

void noc_cpu_want(noc_network *network, size_t scratch, size_t shared)
{
    network->scratch_floats = scratch > network->scratch_floats ? scratch : network->scratch_floats;
    network->shared_floats = shared > network->shared_floats ? shared : network->shared_floats;
}

float *noc_cpu_scratch(const noc_network *network, int thread)
{
    return network->scratch + (size_t)thread * network->scratch_floats;
}

/* Panels of the columns, then of the tail. */
noc_status noc_cpu_pack(noc_network *network, const noc_op *op, int filled_depth, noc_cpu_panels *panels,
                        noc_error *err)
{
    const noc_cpu_kernels *kernels = network->device->kernels;
    int columns = noc_cpu_value_of(network, op->output)->channels, width = kernels->columns;
    int depth = (int)(op->weight.count / (size_t)(columns + op->tail)), run = depth;
    if (op->kind == NOC_OP_CONV && filled_depth == 0)
        run = op->kernel[2] * noc_cpu_value_of(network, op->input[0])->channels;
    int runs = depth / run, padded_run = filled_depth > run ? filled_depth : run;
    padded_run = noc_cpu_parts(padded_run, kernels->depth_step) * kernels->depth_step;
    *panels = (noc_cpu_panels){.columns = columns, .depth = depth, .count = noc_cpu_parts(columns, width)};
    size_t own = kernels->packed_floats(columns, runs, padded_run), tail = 0;
    if (op->tail > 0)
        tail = kernels->packed_floats(op->tail, runs, padded_run);
    panels->weight = noc_cpu_keep(network, own + tail, sizeof(float), err);
    panels->bias = noc_cpu_keep(network, (size_t)((panels->count + noc_cpu_parts(op->tail, width)) * width),
                                sizeof(float), err);
    if (!panels->weight || !panels->bias)
        return NOC_ENOMEMORY;
    kernels->pack(op->weight.data, columns, runs, run, padded_run, panels->weight);
    if (op->tail > 0)
        kernels->pack(op->weight.data + (size_t)columns * (size_t)depth, op->tail, runs, run, padded_run,
                      panels->weight + own);
    for (int o = 0; op->bias.data && o < columns + op->tail; o++)
        panels->bias[o < columns ? o : panels->count * width + o - columns] = (float)op->bias.data[o];
    return NOC_OK;
}

noc_status noc_cpu_copy(noc_network *network, const noc_weights *weights, float **copy, noc_error *err)
{
    if (!weights->data)
        return NOC_OK;
    *copy = noc_cpu_keep(network, weights->count, sizeof(float), err);
    if (!*copy)
        return NOC_ENOMEMORY;
    for (size_t i = 0; i < weights->count; i++)
        (*copy)[i] = (float)weights->data[i];
    return NOC_OK;
}

/* ---- life ---- */

static noc_status add_step(noc_network *network, int first, int *count, noc_error *err)
{
    for (int k = 0; k < STEP_KINDS; k++) {
        *count = step_kinds[k]->match(network, first);
        if (*count == 0)
            continue;
        noc_cpu_step *step = &network->steps[network->step_count++];
        step->kind = step_kinds[k];
        step->ops = &network->plan->ops[first];
        step->op_count = *count;
        return step->kind->prepare(network, step, err);
    }
    return noc_fail(err, NOC_EINTERNAL, "the CPU device does not know op kind %d",
                    (int)network->plan->ops[first].kind);
}

/* The arena, with the steps as groups. */
static noc_status place_values(noc_network *network, noc_error *err)
{
    const noc_plan *plan = network->plan;
    int *group = noc_alloc((size_t)plan->op_count, sizeof *group, err);
    network->offsets = noc_cpu_keep(network, (size_t)plan->value_count, sizeof *network->offsets, err);
    noc_status status = group && network->offsets ? NOC_OK : NOC_ENOMEMORY;
    for (int s = 0; status == NOC_OK && s < network->step_count; s++)
        for (int i = 0; i < network->steps[s].op_count; i++)
            group[network->steps[s].ops + i - plan->ops] = s;
    if (status == NOC_OK)
        status = noc_plan_place(plan, group, network->offsets, &network->arena_floats, err);
    free(group);
    return status;
}

/* Room for a planar input as tokens, where an op that is no convolution reads it. */
static noc_status reserve_input(noc_network *network, noc_error *err)
{
    const noc_plan *plan = network->plan;
    const noc_value *in = &plan->values[0];
    for (int i = 0; i < plan->op_count && !network->interleaved; i++) {
        if (plan->ops[i].kind == NOC_OP_CONV || !noc_op_reads(&plan->ops[i], 0))
            continue;
        network->interleaved =
            noc_cpu_keep(network, (size_t)noc_cpu_tokens(in), (size_t)in->channels * sizeof(float), err);
        if (!network->interleaved)
            return NOC_ENOMEMORY;
    }
    return NOC_OK;
}

static void share(noc_network *network, const noc_network *lender)
{
    network->is_borrower = true;
    network->arena = lender->arena;
    network->scratch = lender->scratch;
    network->scratch_floats = lender->scratch_floats;
    network->shared = lender->shared;
    network->interleaved = lender->interleaved;
}

static noc_status reserve(noc_network *network, noc_error *err)
{
    size_t threads = (size_t)noc_pool_threads(network->device->pool);
    noc_status status = reserve_input(network, err);
    if (status != NOC_OK)
        return status;
    network->scratch_floats =
        (network->scratch_floats + 31) / 16 * 16; /* threads do not share a cache line */
    network->arena = noc_cpu_keep(network, network->arena_floats, sizeof(float), err);
    network->scratch = noc_cpu_keep(network, threads * network->scratch_floats, sizeof(float), err);
    network->shared = noc_cpu_keep(network, network->shared_floats, sizeof(float), err);
    return network->arena && network->scratch && network->shared ? NOC_OK : NOC_ENOMEMORY;
}

noc_status noc_cpu_network_create(noc_device *device, const noc_plan *plan, int max_batch,
                                  const noc_network *lender, noc_network **network, noc_error *err)
{
    (void)max_batch; /* windows run one after another */
    noc_network *made = noc_alloc_zeroed(1, sizeof *made, err);
    if (!made)
        return NOC_ENOMEMORY;
    made->device = device;
    made->plan = plan;
    made->bytes = sizeof *made;
    made->steps = noc_cpu_keep(made, (size_t)plan->op_count, sizeof *made->steps, err);
    made->seconds = noc_cpu_keep(made, (size_t)plan->op_count, sizeof *made->seconds, err);
    noc_status status = made->steps && made->seconds ? NOC_OK : NOC_ENOMEMORY;
    for (int i = 0, count = 0; status == NOC_OK && i < plan->op_count; i += count)
        status = add_step(made, i, &count, err);
    if (status == NOC_OK)
        status = place_values(made, err);
    if (status == NOC_OK && lender)
        share(made, lender);
    else if (status == NOC_OK)
        status = reserve(made, err);
    if (status == NOC_OK)
        *network = made;
    else
        noc_cpu_network_free(made);
    return status;
}

void noc_cpu_network_free(noc_network *network)
{
    if (!network)
        return;
    while (network->blocks) {
        noc_cpu_block *block = network->blocks;
        network->blocks = block->next;
        free(block->data);
        free(block);
    }
    free(network);
}

void noc_cpu_network_memory(const noc_network *network, noc_network_memory *memory)
{
    size_t threads = (size_t)noc_pool_threads(network->device->pool), arena = network->arena_floats;
    if (network->interleaved)
        arena +=
            (size_t)noc_cpu_tokens(&network->plan->values[0]) * (size_t)network->plan->values[0].channels;
    memory->arena = network->is_borrower ? 0 : arena * sizeof(float);
    memory->scratch = network->is_borrower
                          ? 0
                          : (threads * network->scratch_floats + network->shared_floats) * sizeof(float);
    memory->weights = network->bytes - memory->arena - memory->scratch;
    memory->device = 0;
}

/* ---- running ---- */

enum { PLANAR_TOKENS = 4096 };

typedef struct planar {
    const float *in;
    float *out;
    const noc_value *value;
    const noc_window_input *window;
    int64_t tokens;
} planar;

/* Where a token lies in the grid that is not flipped. */
static int64_t unflipped(const int grid[3], unsigned flips, int64_t token)
{
    int64_t place = 0, rest = token, below = (int64_t)grid[0] * grid[1] * grid[2];
    for (int a = 0; a < 3; a++) {
        below /= grid[a];
        int64_t at = rest / below;
        rest %= below;
        place += (flips >> a & 1 ? grid[a] - 1 - at : at) * below;
    }
    return place;
}

static void planar_piece(void *argument, int i, int thread)
{
    const planar *p = argument;
    const noc_window_input *window = p->window;
    const int channels = p->value->channels;
    (void)thread;
    int64_t from = (int64_t)i * PLANAR_TOKENS,
            to = from + PLANAR_TOKENS < p->tokens ? from + PLANAR_TOKENS : p->tokens;
    for (int64_t t = from; t < to; t++) {
        float *out = p->out + (window->flips ? unflipped(p->value->grid, window->flips, t) : t);
        for (int c = 0; c < channels; c++, out += p->tokens) {
            float v = p->in[t * channels + c], sum = window->is_added ? *out + v : v;
            *out = window->mean_of > 1 ? sum / (float)window->mean_of : sum;
        }
    }
}

/* [tokens][channels] -> [channels][tokens], as the window wants it. */
static void copy_planar(noc_network *network, int value, const noc_window_input *window, float *out)
{
    const noc_value *v = &network->plan->values[value];
    planar p = {noc_cpu_value(network, value), out, v, window, noc_cpu_tokens(v)};
    noc_cpu_run(network->device, noc_cpu_parts(p.tokens, PLANAR_TOKENS), planar_piece, &p);
}

/* A step's time is its last op's. */
static void run_window(noc_network *network)
{
    double begin = noc_clock_monotonic();
    for (int i = 0; i < network->step_count; i++) {
        const noc_cpu_step *step = &network->steps[i];
        step->kind->run(network, step);
        double end = noc_clock_monotonic();
        network->seconds[step->ops + step->op_count - 1 - network->plan->ops] += end - begin;
        network->batch_seconds += end - begin;
        begin = end;
    }
}

const double *noc_cpu_network_seconds(noc_network *network)
{
    return network->seconds;
}

double noc_cpu_batch_seconds(const noc_network *network)
{
    return network->batch_seconds;
}

/* Makes a window the network's input. */
static void take_input(noc_network *network, const float *input, bool is_planar)
{
    const noc_value *in = &network->plan->values[0];
    size_t tokens = (size_t)noc_cpu_tokens(in), channels = (size_t)in->channels;
    network->input = input;
    network->is_planar = is_planar;
    if (!is_planar || !network->interleaved)
        return;
    for (size_t i = 0; i < tokens * channels; i++)
        network->interleaved[i] = input[i % channels * tokens + i / channels];
    network->input = network->interleaved;
    network->is_planar = false;
}

noc_status noc_cpu_network_run(noc_network *network, int batch, const noc_window_input input[],
                               bool is_planar, noc_buffer *const output[], const size_t offset[],
                               noc_error *err)
{
    const noc_plan *plan = network->plan;
    const noc_value *logits = &plan->values[plan->logits];
    size_t floats = (size_t)noc_cpu_tokens(logits) * (size_t)logits->channels;
    for (int b = 0; b < batch; b++)
        if (offset[b] > output[b]->bytes / sizeof(float) ||
            floats > output[b]->bytes / sizeof(float) - offset[b])
            return noc_fail(err, NOC_EINTERNAL, "logits of %zu floats do not fit into their buffer", floats);
    network->batch_seconds = 0;
    for (int b = 0; b < batch; b++) {
        take_input(network, input[b].host, is_planar);
        run_window(network);
        copy_planar(network, plan->logits, &input[b], output[b]->data + offset[b]);
    }
    return NOC_OK;
}

noc_status noc_cpu_network_read(noc_network *network, int value, float *out, noc_error *err)
{
    if (value <= 0 || value >= network->plan->value_count)
        return noc_fail(err, NOC_EINTERNAL, "value %d was not kept", value);
    copy_planar(network, value, &(noc_window_input){.host = NULL}, out);
    return NOC_OK;
}
