/* The ops of a plan on the CPU: each is cut in pieces that depend on its shape and the kernels alone, and the
 * pool's threads take them. A piece computes whole output elements, so who computes them does not matter. */
#include "engine/cpu/cpu.h"

#include <math.h>

enum {
    PIECES = 64,          /* aimed at for small ops, so that many threads have work */
    PIECE_FLOATS = 16384, /* of an elementwise op */
    PATCH_FLOATS = 16384, /* of convolution patches gathered at a time, at least a tile's */
    STRIP_LINES = 4,      /* of a depthwise piece */
};

static int smaller_of(int a, int b)
{
    return a < b ? a : b;
}

static int parts(int64_t n, int size)
{
    return (int)((n + size - 1) / size);
}

static float *scratch_of(const noc_network *network, int thread)
{
    return network->scratch + (size_t)thread * network->scratch_floats;
}

/* CONV and LINEAR: blocks of rows, and where those are few, groups of panels too. */
typedef struct product_job {
    const noc_network *network;
    noc_cpu_product product;
    noc_cpu_patches patches;
    bool is_patched;
    int rows_per_piece, groups, panels_per_group;
} product_job;

static int patch_floats(const noc_network *network, const noc_op *op)
{
    return op->kernel[0] * op->kernel[1] * op->kernel[2] * network->plan->values[op->input[0]].channels;
}

static int patch_rows(const noc_network *network, const noc_op *op)
{
    int tile = network->device->kernels->rows, tiles = PATCH_FLOATS / (tile * patch_floats(network, op));
    return tile * (tiles > 8 ? 8 : tiles < 1 ? 1 : tiles);
}

static void product_piece(void *argument, int i, int thread)
{
    const product_job *job = argument;
    const noc_cpu_kernels *kernels = job->network->device->kernels;
    noc_cpu_product p = job->product;
    int row = i / job->groups * job->rows_per_piece, group = i % job->groups, panels = p.last;
    p.rows = smaller_of(job->rows_per_piece, p.rows - row);
    p.first = group * job->panels_per_group;
    p.last = smaller_of(p.first + job->panels_per_group, panels);
    p.out += (size_t)row * p.out_step;
    if (p.residual)
        p.residual += (size_t)row * p.out_step;
    if (job->is_patched) {
        float *rows = scratch_of(job->network, thread);
        kernels->patches(&job->patches, row, p.rows, rows);
        p.in = rows;
    } else {
        p.in += (size_t)row * p.in_step;
    }
    kernels->product(&p);
}

static void run_product(noc_network *network, const noc_cpu_step *step)
{
    const noc_op *op = step->op;
    const noc_value *in = &network->plan->values[op->input[0]], *out = &network->plan->values[op->output];
    const noc_cpu_kernels *kernels = network->device->kernels;
    product_job job = {.network = network, .is_patched = op->kind == NOC_OP_CONV};
    int depth = job.is_patched ? patch_floats(network, op) : in->channels, tile = kernels->rows;
    int rows = (int)noc_cpu_tokens(out), panels = parts(out->channels, kernels->columns);
    int tiles = depth > 512 ? 1 : depth > 128 ? 4 : 8;
    tiles = smaller_of(tiles, rows / (tile * PIECES) > 1 ? rows / (tile * PIECES) : 1);
    job.rows_per_piece = job.is_patched ? smaller_of(patch_rows(network, op), tile * tiles) : tile * tiles;
    int blocks = parts(rows, job.rows_per_piece);
    job.groups = op->tail > 0 ? 1 : smaller_of(panels, parts(PIECES, blocks));
    job.panels_per_group = parts(panels, job.groups);
    job.groups = parts(panels, job.panels_per_group);
    job.product = (noc_cpu_product){
        .in = noc_cpu_value(network, op->input[0]),
        .in_step = (size_t)depth,
        .rows = rows,
        .depth = depth,
        .panels = step->weight,
        .bias = step->bias,
        .columns = out->channels,
        .tail = op->tail,
        .tail_constant = (float)op->tail_constant,
        .last = panels,
        .residual = op->residual >= 0 && !job.is_patched ? noc_cpu_value(network, op->residual) : NULL,
        .out = noc_cpu_value(network, op->output),
        .out_step = (size_t)out->channels,
        .activation = op->activation};
    job.patches = (noc_cpu_patches){.in = job.product.in, .channels = in->channels};
    for (int a = 0; a < 3; a++) {
        job.patches.grid[a] = in->grid[a];
        job.patches.out_grid[a] = out->grid[a];
        job.patches.kernel[a] = op->kernel[a];
        job.patches.stride[a] = op->stride[a];
        job.patches.padding[a] = op->padding[a];
    }
    noc_cpu_run(network->device, blocks * job.groups, product_piece, &job);
}

/* LAYER_NORM, AFFINE and ACTIVATION: runs of tokens. */
typedef struct token_job {
    const noc_cpu_kernels *kernels;
    const noc_cpu_step *step;
    const float *in;
    float *out;
    int64_t tokens;
    int channels, tokens_per_piece;
} token_job;

static void token_piece(void *argument, int i, int thread)
{
    const token_job *job = argument;
    const noc_cpu_step *step = job->step;
    (void)thread;
    int64_t from = (int64_t)i * job->tokens_per_piece;
    int rows = (int)(job->tokens - from < job->tokens_per_piece ? job->tokens - from : job->tokens_per_piece);
    const float *in = job->in + from * job->channels;
    float *out = job->out + from * job->channels;
    if (step->op->kind == NOC_OP_LAYER_NORM)
        job->kernels->layer_norm(in, out, rows, job->channels, step->weight, step->bias,
                                 (float)step->op->eps);
    else if (step->op->kind == NOC_OP_AFFINE)
        job->kernels->affine(in, out, rows, job->channels, step->weight, step->bias);
    else
        job->kernels->activate(in, out, (size_t)rows * (size_t)job->channels, step->op->activation);
}

static void run_tokens(noc_network *network, const noc_cpu_step *step)
{
    const noc_value *out = &network->plan->values[step->op->output];
    token_job job = {.kernels = network->device->kernels,
                     .step = step,
                     .in = noc_cpu_value(network, step->op->input[0]),
                     .out = noc_cpu_value(network, step->op->output),
                     .tokens = noc_cpu_tokens(out),
                     .channels = out->channels};
    job.tokens_per_piece = out->channels < PIECE_FLOATS ? PIECE_FLOATS / out->channels : 1;
    noc_cpu_run(network->device, parts(job.tokens, job.tokens_per_piece), token_piece, &job);
}

/* ATTENTION: keys and values are packed by head, then runs of queries of each head go through. */
typedef struct attention_job {
    const noc_network *network;
    const noc_op *op;
    const float *queries, *kv;
    float *out;
    int rows, keys, channels, dim, rows_per_piece;
    size_t key_floats, value_floats; /* packed, of one head */
} attention_job;

static size_t padded_keys(const noc_network *network, const noc_op *op)
{
    int columns = network->device->kernels->columns;
    return (size_t)parts(noc_cpu_tokens(&network->plan->values[op->input[1]]), columns) * (size_t)columns;
}

static void pack_head_piece(void *argument, int head, int thread)
{
    const attention_job *job = argument;
    size_t width = (size_t)job->network->device->kernels->columns, dim = (size_t)job->dim,
           keys = (size_t)job->keys;
    float *key_panels = job->network->heads + (size_t)head * (job->key_floats + job->value_floats);
    float *value_panels = key_panels + job->key_floats;
    float scale = (float)job->op->scale;
    (void)thread;
    for (size_t j = 0; j < job->key_floats / dim; j++)
        for (size_t c = 0; c < dim; c++) {
            const float *key = job->kv + j * 2 * (size_t)job->channels + (size_t)head * dim;
            key_panels[(j / width * dim + c) * width + j % width] = j < keys ? key[c] * scale : 0;
        }
    for (size_t c = 0; c < job->value_floats / keys; c++)
        for (size_t j = 0; j < keys; j++) {
            const float *value = job->kv + (j * 2 + 1) * (size_t)job->channels + (size_t)head * dim;
            value_panels[(c / width * keys + j) * width + c % width] = c < dim ? value[c] : 0;
        }
}

static void attention_piece(void *argument, int i, int thread)
{
    const attention_job *job = argument;
    int head = i % job->op->heads, row = i / job->op->heads * job->rows_per_piece;
    size_t at = (size_t)row * (size_t)job->channels + (size_t)head * (size_t)job->dim;
    const float *panels = job->network->heads + (size_t)head * (job->key_floats + job->value_floats);
    noc_cpu_attention a = {.queries = job->queries + at,
                           .query_step = (size_t)job->channels,
                           .rows = smaller_of(job->rows_per_piece, job->rows - row),
                           .keys = job->keys,
                           .dim = job->dim,
                           .key_panels = panels,
                           .value_panels = panels + job->key_floats,
                           .scores = scratch_of(job->network, thread),
                           .out = job->out + at,
                           .out_step = (size_t)job->channels};
    job->network->device->kernels->attention(&a);
}

static void run_attention(noc_network *network, const noc_cpu_step *step)
{
    const noc_op *op = step->op;
    const noc_value *out = &network->plan->values[op->output];
    const noc_cpu_kernels *kernels = network->device->kernels;
    attention_job job = {.network = network,
                         .op = op,
                         .queries = noc_cpu_value(network, op->input[0]),
                         .kv = noc_cpu_value(network, op->input[1]),
                         .out = noc_cpu_value(network, op->output),
                         .rows = (int)noc_cpu_tokens(out),
                         .channels = out->channels,
                         .keys = (int)noc_cpu_tokens(&network->plan->values[op->input[1]]),
                         .dim = out->channels / op->heads,
                         .rows_per_piece = kernels->rows * 4};
    job.key_floats = padded_keys(network, op) * (size_t)job.dim;
    job.value_floats = (size_t)parts(job.dim, kernels->columns) * (size_t)kernels->columns * (size_t)job.keys;
    noc_cpu_run(network->device, op->heads, pack_head_piece, &job);
    noc_cpu_run(network->device, parts(job.rows, job.rows_per_piece) * op->heads, attention_piece, &job);
}

/* DWCONV: strips of lines of a plane. */
typedef struct depthwise_job {
    const noc_cpu_kernels *kernels;
    noc_cpu_depthwise depthwise;
} depthwise_job;

static void depthwise_piece(void *argument, int i, int thread)
{
    const depthwise_job *job = argument;
    int height = job->depthwise.grid[1], strips = parts(height, STRIP_LINES), h = i % strips * STRIP_LINES;
    (void)thread;
    job->kernels->depthwise(&job->depthwise, i / strips, h, smaller_of(h + STRIP_LINES, height));
}

static void run_depthwise(noc_network *network, const noc_cpu_step *step)
{
    const noc_op *op = step->op;
    const noc_value *out = &network->plan->values[op->output];
    depthwise_job job = {network->device->kernels,
                         {.in = noc_cpu_value(network, op->input[0]),
                          .out = noc_cpu_value(network, op->output),
                          .grid = {out->grid[0], out->grid[1], out->grid[2]},
                          .channels = out->channels,
                          .weight = step->weight,
                          .bias = step->bias,
                          .activation = op->activation}};
    noc_cpu_run(network->device, out->grid[0] * parts(out->grid[1], STRIP_LINES), depthwise_piece, &job);
}

/* SUM and CONCAT: lines of the output; resized inputs are first blended along D and H. */
typedef struct mix_job {
    const noc_network *network;
    const noc_cpu_step *step;
} mix_job;

/* The line (d, h) of one input, on the output's D and H but its own W. */
static const float *input_line(const mix_job *job, int input, int d, int h, float *room)
{
    const noc_network *network = job->network;
    const noc_value *in = &network->plan->values[job->step->op->input[input]];
    const float *data = noc_cpu_value(network, job->step->op->input[input]);
    const noc_cpu_axis *axes = job->step->axes[input];
    size_t line = (size_t)in->grid[2] * (size_t)in->channels, plane = line * (size_t)in->grid[1];
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

static void mix_piece(void *argument, int i, int thread)
{
    const mix_job *job = argument;
    const noc_op *op = job->step->op;
    const noc_network *network = job->network;
    const noc_value *values = network->plan->values, *out = &values[op->output];
    float *room = scratch_of(network, thread);
    noc_cpu_mix m = {.width = out->grid[2],
                     .out_step = (size_t)out->channels,
                     .activation = op->activation,
                     .bias = job->step->bias,
                     .out = noc_cpu_value(network, op->output) +
                            (size_t)i * (size_t)out->grid[2] * (size_t)out->channels};
    for (int t = 0; t < op->input_count; t++) {
        const noc_value *in = &values[op->input[t]];
        m.lines[m.count] = input_line(job, t, i / out->grid[1], i % out->grid[1], room);
        m.axes[m.count] = job->step->axes[t][2].low ? &job->step->axes[t][2] : NULL;
        m.channels = in->channels;
        if (op->kind == NOC_OP_CONCAT) {
            m.count = 1;
            network->device->kernels->mix(&m);
            m.count = 0;
            m.out += in->channels;
        } else {
            m.count++;
            room += (size_t)in->grid[2] * (size_t)in->channels;
        }
    }
    if (op->kind == NOC_OP_SUM)
        network->device->kernels->mix(&m);
}

static void run_mix(noc_network *network, const noc_cpu_step *step)
{
    const noc_value *out = &network->plan->values[step->op->output];
    mix_job job = {network, step};
    noc_cpu_run(network->device, out->grid[0] * out->grid[1], mix_piece, &job);
}

size_t noc_cpu_op_scratch(const noc_network *network, const noc_op *op)
{
    size_t floats = 0;
    if (op->kind == NOC_OP_CONV)
        return (size_t)patch_rows(network, op) * (size_t)patch_floats(network, op);
    if (op->kind == NOC_OP_ATTENTION)
        return (size_t)network->device->kernels->rows * padded_keys(network, op);
    for (int i = 0; (op->kind == NOC_OP_SUM || op->kind == NOC_OP_CONCAT) && i < op->input_count; i++) {
        const noc_value *in = &network->plan->values[op->input[i]];
        floats += (size_t)in->grid[2] * (size_t)in->channels;
    }
    return floats;
}

size_t noc_cpu_op_heads(const noc_network *network, const noc_op *op)
{
    if (op->kind != NOC_OP_ATTENTION)
        return 0;
    size_t columns = (size_t)network->device->kernels->columns, heads = (size_t)op->heads;
    size_t dim = (size_t)network->plan->values[op->output].channels / heads;
    size_t keys = (size_t)noc_cpu_tokens(&network->plan->values[op->input[1]]);
    return heads * (padded_keys(network, op) * dim + (dim + columns - 1) / columns * columns * keys);
}

void noc_cpu_op_run(noc_network *network, const noc_cpu_step *step)
{
    switch (step->op->kind) {
    case NOC_OP_CONV:
    case NOC_OP_LINEAR:
        run_product(network, step);
        break;
    case NOC_OP_LAYER_NORM:
    case NOC_OP_AFFINE:
    case NOC_OP_ACTIVATION:
        run_tokens(network, step);
        break;
    case NOC_OP_ATTENTION:
        run_attention(network, step);
        break;
    case NOC_OP_DWCONV:
        run_depthwise(network, step);
        break;
    case NOC_OP_SUM:
    case NOC_OP_CONCAT:
        run_mix(network, step);
        break;
    }
}
