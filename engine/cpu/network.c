/* A plan on the CPU: weights packed once in the layout of the chosen kernels, one arena for one window.
 * Windows of a batch run one after another, so no bit can depend on the batch; the threads share the work
 * inside of a window. */
#include "engine/cpu/cpu.h"

#include "engine/base/clock.h"
#include "engine/base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int round_up(int n, int to)
{
    return (n + to - 1) / to * to;
}

int64_t noc_cpu_tokens(const noc_value *value)
{
    return (int64_t)value->grid[0] * value->grid[1] * value->grid[2];
}

float *noc_cpu_value(const noc_network *network, int value)
{
    if (value == 0)
        return (float *)(uintptr_t)network->input; /* no op writes the input */
    return network->arena + network->plan->values[value].offset;
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

/* Rows [from, from + n) of weight [..][depth] -> panels of `width` columns from panel number `panel` on. */
static void pack_panels(const double *weight, int from, int n, size_t depth, int width, int panel,
                        float *panels)
{
    for (int o = 0; o < n; o++) {
        float *column = panels + (size_t)(panel + o / width) * (size_t)width * depth + o % width;
        for (size_t k = 0; k < depth; k++)
            column[k * (size_t)width] = (float)weight[(size_t)(from + o) * depth + k];
    }
}

/* CONV and LINEAR: panels of the columns, then of the tail. */
static noc_status pack_product(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    const noc_op *op = step->op;
    int width = network->device->kernels->columns, columns = network->plan->values[op->output].channels;
    int padded = round_up(columns, width), all = padded + round_up(op->tail, width);
    size_t depth = op->weight.count / (size_t)(columns + op->tail);
    step->weight = noc_alloc_zeroed((size_t)all * depth, sizeof(float), err);
    step->bias = noc_alloc_zeroed((size_t)all, sizeof(float), err);
    if (!step->weight || !step->bias)
        return NOC_ENOMEMORY;
    pack_panels(op->weight.data, 0, columns, depth, width, 0, step->weight);
    pack_panels(op->weight.data, columns, op->tail, depth, width, padded / width, step->weight);
    for (int o = 0; op->bias.data && o < columns + op->tail; o++)
        step->bias[o < columns ? o : padded + o - columns] = (float)op->bias.data[o];
    network->bytes += (size_t)all * (depth + 1) * sizeof(float);
    return NOC_OK;
}

static noc_status pack_depthwise(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    const noc_op *op = step->op;
    int lanes = network->device->kernels->lanes, channels = network->plan->values[op->output].channels;
    int padded = round_up(channels, lanes);
    step->weight = noc_alloc_zeroed((size_t)padded * 27, sizeof(float), err);
    step->bias = noc_alloc_zeroed((size_t)padded, sizeof(float), err);
    if (!step->weight || !step->bias)
        return NOC_ENOMEMORY;
    for (int c = 0; c < channels; c++) {
        for (int t = 0; t < 27; t++)
            step->weight[(size_t)(c / lanes * 27 + t) * (size_t)lanes + (size_t)(c % lanes)] =
                (float)op->weight.data[(size_t)t * (size_t)channels + (size_t)c];
        if (op->bias.data)
            step->bias[c] = (float)op->bias.data[c];
    }
    network->bytes += (size_t)padded * 28 * sizeof(float);
    return NOC_OK;
}

static noc_status copy_weights(noc_network *network, const noc_weights *weights, float **copy, noc_error *err)
{
    if (!weights->data)
        return NOC_OK;
    *copy = noc_alloc(weights->count, sizeof(float), err);
    if (!*copy)
        return NOC_ENOMEMORY;
    for (size_t i = 0; i < weights->count; i++)
        (*copy)[i] = (float)weights->data[i];
    network->bytes += weights->count * sizeof(float);
    return NOC_OK;
}

static bool same_grid(const noc_value *a, const noc_value *b)
{
    return memcmp(a->grid, b->grid, sizeof a->grid) == 0;
}

/* SUM and CONCAT: positions of the inputs that have another grid. */
static noc_status fill_axes(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    const noc_op *op = step->op;
    const noc_value *values = network->plan->values, *out = &values[op->output];
    size_t count = (size_t)out->grid[0] + (size_t)out->grid[1] + (size_t)out->grid[2];
    int32_t *table = step->tables = noc_alloc(count * (size_t)op->input_count, 3 * sizeof(int32_t), err);
    if (!table)
        return NOC_ENOMEMORY;
    for (int i = 0; i < op->input_count; i++)
        for (int a = 0; a < 3 && !same_grid(&values[op->input[i]], out); a++) {
            int n = out->grid[a];
            step->axes[i][a] =
                (noc_cpu_axis){.low = table, .high = table + n, .fraction = (float *)(table + 2 * n)};
            noc_cpu_axis_fill(values[op->input[i]].grid[a], n, &step->axes[i][a]);
            table += 3 * n;
        }
    network->bytes += count * (size_t)op->input_count * 3 * sizeof(int32_t);
    return NOC_OK;
}

static noc_status prepare_step(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    const noc_op *op = step->op;
    switch (op->kind) {
    case NOC_OP_CONV:
    case NOC_OP_LINEAR:
        return pack_product(network, step, err);
    case NOC_OP_DWCONV:
        return pack_depthwise(network, step, err);
    case NOC_OP_LAYER_NORM:
    case NOC_OP_AFFINE:
        if (copy_weights(network, &op->weight, &step->weight, err) != NOC_OK)
            return NOC_ENOMEMORY;
        return copy_weights(network, &op->bias, &step->bias, err);
    case NOC_OP_SUM:
        if (copy_weights(network, &op->bias, &step->bias, err) != NOC_OK)
            return NOC_ENOMEMORY;
        return fill_axes(network, step, err);
    case NOC_OP_CONCAT:
        return fill_axes(network, step, err);
    case NOC_OP_ACTIVATION:
    case NOC_OP_ATTENTION:
        return NOC_OK;
    }
    return noc_fail(err, NOC_EINTERNAL, "the CPU device does not know op kind %d", (int)op->kind);
}

static noc_status reserve(noc_network *network, noc_error *err)
{
    const noc_plan *plan = network->plan;
    size_t threads = (size_t)noc_pool_threads(network->device->pool);
    for (int i = 0; i < plan->op_count; i++) {
        size_t scratch = noc_cpu_op_scratch(network, &plan->ops[i]),
               heads = noc_cpu_op_heads(network, &plan->ops[i]);
        if (scratch > network->scratch_floats)
            network->scratch_floats = scratch;
        if (heads > network->heads_floats)
            network->heads_floats = heads;
    }
    network->scratch_floats =
        (network->scratch_floats + 31) / 16 * 16; /* threads do not share a cache line */
    network->arena = noc_alloc(plan->arena_floats, sizeof(float), err);
    network->scratch = noc_alloc(threads * network->scratch_floats, sizeof(float), err);
    network->heads = noc_alloc_zeroed(network->heads_floats, sizeof(float), err);
    if (!network->arena || !network->scratch || !network->heads)
        return NOC_ENOMEMORY;
    network->bytes +=
        (plan->arena_floats + threads * network->scratch_floats + network->heads_floats) * sizeof(float);
    return NOC_OK;
}

noc_status noc_cpu_network_create(noc_device *device, const noc_plan *plan, int max_batch,
                                  noc_network **network, noc_error *err)
{
    (void)max_batch; /* windows run one after another */
    noc_network *made = noc_alloc_zeroed(1, sizeof *made, err);
    if (!made)
        return NOC_ENOMEMORY;
    made->device = device;
    made->plan = plan;
    made->bytes = sizeof *made;
    noc_status status = NOC_ENOMEMORY;
    made->steps = noc_alloc_zeroed((size_t)plan->op_count, sizeof *made->steps, err);
    made->seconds = noc_alloc_zeroed((size_t)plan->op_count, sizeof *made->seconds, err);
    if (!made->steps || !made->seconds)
        goto out;
    for (int i = 0; i < plan->op_count; i++) {
        made->steps[i].op = &plan->ops[i];
        status = prepare_step(made, &made->steps[i], err);
        if (status != NOC_OK)
            goto out;
    }
    status = reserve(made, err);
out:
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
    for (int i = 0; network->steps && i < network->plan->op_count; i++) {
        free(network->steps[i].weight);
        free(network->steps[i].bias);
        free(network->steps[i].tables);
    }
    free(network->steps);
    free(network->seconds);
    free(network->arena);
    free(network->heads);
    free(network->scratch);
    free(network);
}

size_t noc_cpu_network_bytes(const noc_network *network)
{
    return network->bytes;
}

enum { PLANAR_TOKENS = 4096 };

typedef struct planar {
    const float *in;
    float *out;
    int64_t tokens;
    int channels;
} planar;

static void planar_piece(void *argument, int i, int thread)
{
    const planar *p = argument;
    (void)thread;
    int64_t from = (int64_t)i * PLANAR_TOKENS,
            to = from + PLANAR_TOKENS < p->tokens ? from + PLANAR_TOKENS : p->tokens;
    for (int c = 0; c < p->channels; c++)
        for (int64_t t = from; t < to; t++)
            p->out[c * p->tokens + t] = p->in[t * p->channels + c];
}

/* [tokens][channels] -> [channels][tokens] */
static void copy_planar(noc_network *network, int value, float *out)
{
    const noc_value *v = &network->plan->values[value];
    planar p = {noc_cpu_value(network, value), out, noc_cpu_tokens(v), v->channels};
    noc_cpu_run(network->device, (int)((p.tokens + PLANAR_TOKENS - 1) / PLANAR_TOKENS), planar_piece, &p);
}

static void run_window(noc_network *network)
{
    double begin = noc_clock_monotonic();
    for (int i = 0; i < network->plan->op_count; i++) {
        noc_cpu_op_run(network, &network->steps[i]);
        double end = noc_clock_monotonic();
        network->seconds[i] += end - begin;
        begin = end;
    }
}

const double *noc_cpu_network_seconds(const noc_network *network)
{
    return network->seconds;
}

noc_status noc_cpu_network_run(noc_network *network, int batch, const float *const input[],
                               noc_buffer *const output[], const size_t offset[], noc_error *err)
{
    const noc_plan *plan = network->plan;
    const noc_value *logits = &plan->values[plan->logits];
    size_t floats = (size_t)noc_cpu_tokens(logits) * (size_t)logits->channels;
    for (int b = 0; b < batch; b++)
        if (offset[b] > output[b]->bytes / sizeof(float) ||
            floats > output[b]->bytes / sizeof(float) - offset[b])
            return noc_fail(err, NOC_EINTERNAL, "logits of %zu floats do not fit into their buffer", floats);
    for (int b = 0; b < batch; b++) {
        network->input = input[b];
        run_window(network);
        copy_planar(network, plan->logits, output[b]->data + offset[b]);
    }
    return NOC_OK;
}

noc_status noc_cpu_network_read(noc_network *network, int value, float *out, noc_error *err)
{
    if (value <= 0 || value >= network->plan->value_count)
        return noc_fail(err, NOC_EINTERNAL, "value %d was not kept", value);
    copy_planar(network, value, out);
    return NOC_OK;
}
