/* ATTENTION by itself, and the whole attention block of a transformer with it:
 *
 *   x -> LAYER_NORM -> [LINEAR q] ----------------------------------> ATTENTION -> [LINEAR] (+ x)
 *                  \-> [CONV of stride = kernel -> LAYER_NORM ->] LINEAR kv ---/
 *
 * (a single head has neither of the LINEARs after rewrite d).
 *
 * First come the keys and values, runs of reduced tokens at a time, packed by head as the kernel reads them:
 * all of them are 128 KiB for 512 keys of a head of 32, and stay in L2. Then the queries, a few tiles of rows
 * at a time: from the norm to the residual they stay in the thread's scratch. Without heads, products or
 * norms in memory a block reads x twice and writes it once. */
#include "engine/cpu/cpu.h"

#include <string.h>

enum { QUERY_TILES = 4 /* of a piece at most */ };

static noc_cpu_heads heads_of(const noc_network *network, const noc_op *op)
{
    int channels = noc_cpu_value_of(network, op->output)->channels;
    return (noc_cpu_heads){.count = op->heads,
                           .dim = channels / op->heads,
                           .keys = (int)noc_cpu_tokens(noc_cpu_value_of(network, op->input[1])),
                           .channels = channels,
                           .kv_columns = noc_cpu_value_of(network, op->input[1])->channels};
}

static size_t packed_floats(const noc_network *network, const noc_cpu_heads *h)
{
    return (size_t)h->count * network->device->kernels->head_floats(h);
}

static noc_status check_heads(const noc_cpu_heads *h, noc_error *err)
{
    return h->dim <= NOC_CPU_HEAD_DIM
               ? NOC_OK
               : noc_fail(err, NOC_EUNSUPPORTED, "heads of %d channels; the CPU device takes up to %d",
                          h->dim, NOC_CPU_HEAD_DIM);
}

/* Of a piece: fewer where threads would have none. `heads`: those that are pieces of their own. */
static int rows_per_piece(const noc_network *network, int rows, int heads)
{
    const int tile = network->device->kernels->rows, threads = noc_pool_threads(network->device->pool);
    int tiles = QUERY_TILES;
    while (tiles > 1 && noc_cpu_parts(rows, tile * tiles) * heads < 2 * threads)
        tiles /= 2;
    return tile * tiles;
}

/* Rows of queries of one head against all keys; queries, residual (or NULL) and out are rows of all channels.
 */
static void attend(const noc_network *network, const noc_cpu_heads *h, int head, const float *queries,
                   int rows, float *scores, const float *residual, float *out)
{
    const noc_cpu_kernels *kernels = network->device->kernels;
    noc_cpu_attention a = {.heads = h,
                           .queries = queries + head * h->dim,
                           .query_step = (size_t)h->channels,
                           .rows = rows,
                           .packed = network->shared + (size_t)head * kernels->head_floats(h),
                           .scores = scores,
                           .residual = residual ? residual + head * h->dim : NULL,
                           .out = out + head * h->dim,
                           .out_step = (size_t)h->channels};
    kernels->attention(&a);
}

/* ---- the op alone ---- */

typedef struct attention_job {
    const noc_network *network;
    const noc_op *op;
    noc_cpu_heads heads;
    int rows, rows_per_piece;
} attention_job;

static void pack_piece(void *argument, int i, int thread)
{
    const attention_job *job = argument;
    const noc_cpu_heads *h = &job->heads;
    int tile = job->network->device->kernels->rows, first = i * tile;
    const float *kv = noc_cpu_value(job->network, job->op->input[1]);
    (void)thread;
    job->network->device->kernels->pack_keys(h, kv + (size_t)first * (size_t)h->kv_columns, first,
                                             noc_cpu_min(tile, h->keys - first), (float)job->op->scale,
                                             job->network->shared);
}

static void attention_piece(void *argument, int i, int thread)
{
    const attention_job *job = argument;
    const noc_cpu_heads *h = &job->heads;
    int head = i % h->count, row = i / h->count * job->rows_per_piece;
    size_t at = (size_t)row * (size_t)h->channels;
    const float *residual =
        job->op->residual >= 0 ? noc_cpu_value(job->network, job->op->residual) + at : NULL;
    attend(job->network, h, head, noc_cpu_value(job->network, job->op->input[0]) + at,
           noc_cpu_min(job->rows_per_piece, job->rows - row), noc_cpu_scratch(job->network, thread), residual,
           noc_cpu_value(job->network, job->op->output) + at);
}

static int match(const noc_network *network, int first)
{
    return network->plan->ops[first].kind == NOC_OP_ATTENTION;
}

static noc_status prepare(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    noc_cpu_heads h = heads_of(network, step->ops);
    noc_cpu_want(network, network->device->kernels->score_floats(&h), packed_floats(network, &h));
    return check_heads(&h, err);
}

/* What lies behind the last key or column of a panel counts as zero. */
static void clear_shared(const noc_network *network, const noc_cpu_heads *h)
{
    memset(network->shared, 0, packed_floats(network, h) * sizeof(float));
}

static void run(noc_network *network, const noc_cpu_step *step)
{
    int tile = network->device->kernels->rows;
    attention_job job = {.network = network,
                         .op = step->ops,
                         .heads = heads_of(network, step->ops),
                         .rows = (int)noc_cpu_tokens(noc_cpu_value_of(network, step->ops->output))};
    job.rows_per_piece = rows_per_piece(network, job.rows, job.heads.count);
    clear_shared(network, &job.heads);
    noc_cpu_run(network->device, noc_cpu_parts(job.heads.keys, tile), pack_piece, &job);
    noc_cpu_run(network->device, noc_cpu_parts(job.rows, job.rows_per_piece) * job.heads.count,
                attention_piece, &job);
}

const noc_cpu_step_kind noc_cpu_attention_step = {match, prepare, run};

/* ---- the block ---- */

/* Its ops; sr and sr_norm are NULL where keys are not reduced, query and projection where rewrite d was. */
typedef struct block {
    const noc_op *norm, *query, *sr, *sr_norm, *kv, *attention, *projection;
} block;

enum { PANELS_QUERY, PANELS_SR, PANELS_KV, PANELS_PROJECTION };

static bool is_plain_linear(const noc_op *op)
{
    return op->kind == NOC_OP_LINEAR && op->tail == 0 && op->activation == NOC_ACTIVATION_NONE;
}

static bool is_reduction(const noc_op *op)
{
    for (int a = 0; a < 3; a++)
        if (op->kernel[a] != op->stride[a] || op->padding[a] != 0)
            return false;
    return op->kind == NOC_OP_CONV;
}

/* That nobody outside of [first, last] reads the value. */
static bool is_inner(const noc_network *network, int value, int first, int last)
{
    const noc_plan *plan = network->plan;
    for (int i = 0; i < plan->op_count; i++)
        if ((i < first || i > last) && noc_op_reads(&plan->ops[i], value))
            return false;
    return !noc_plan_is_result(plan, value);
}

/* The ops of a block from number `at` on, by their kinds; how many, 0: they are no block. */
static int locate_block(const noc_network *network, int at, block *b)
{
    const noc_op *op = &network->plan->ops[at], *first = op,
                 *end = network->plan->ops + network->plan->op_count;
    *b = (block){.norm = op++};
    if (end - op < 2)
        return 0;
    if (is_plain_linear(op) && op[1].kind != NOC_OP_ATTENTION)
        b->query = op++;
    if (end - op >= 2 && is_reduction(op)) {
        b->sr = op++;
        b->sr_norm = op++;
    }
    if (end - op < 2 || op[1].kind != NOC_OP_ATTENTION)
        return 0;
    b->kv = op++;
    b->attention = op++;
    if (b->query && op < end)
        b->projection = op++;
    return (int)(op - first);
}

/* That they read each other as in a block. */
static bool is_joined(const block *b)
{
    const int normed = b->norm->output;
    if (b->query && (!b->projection || b->query->residual >= 0 || b->query->input[0] != normed ||
                     !is_plain_linear(b->projection) || b->attention->residual >= 0 ||
                     b->projection->input[0] != b->attention->output))
        return false;
    if (b->sr && (b->sr_norm->kind != NOC_OP_LAYER_NORM || b->sr->input[0] != normed ||
                  b->sr_norm->input[0] != b->sr->output))
        return false;
    return noc_cpu_is_plain_norm(b->norm) && is_plain_linear(b->kv) && b->kv->residual < 0 &&
           b->kv->input[0] == (b->sr ? b->sr_norm->output : normed) && b->attention->residual != normed &&
           b->attention->input[0] == (b->query ? b->query->output : normed) &&
           b->attention->input[1] == b->kv->output;
}

static int match_block(const noc_network *network, int at)
{
    block b;
    int count = locate_block(network, at, &b);
    bool fits = count > 0 && is_joined(&b);
    for (int i = at; fits && i < at + count - 1; i++)
        fits = is_inner(network, network->plan->ops[i].output, at, at + count - 1);
    return fits ? count : 0;
}

static int patch_floats(const noc_network *network, const block *b)
{
    int channels = noc_cpu_value_of(network, b->norm->output)->channels;
    return b->sr ? channels * b->sr->kernel[0] * b->sr->kernel[1] * b->sr->kernel[2] : channels;
}

/* Keys are made a tile at a time, reduced ones in whole lines. */
static int keys_per_piece(const noc_network *network, const block *b)
{
    int tile = network->device->kernels->rows,
        width = b->sr ? noc_cpu_value_of(network, b->sr->output)->grid[2] : tile;
    return width < tile ? tile / width * width : width;
}

static noc_status prepare_block(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    block b;
    if (locate_block(network, (int)(step->ops - network->plan->ops), &b) == 0)
        return noc_fail(err, NOC_EINTERNAL, "no attention block begins at %s",
                        noc_cpu_value_of(network, step->ops->output)->name);
    noc_cpu_heads h = heads_of(network, b.attention);
    size_t tile = (size_t)network->device->kernels->rows, rows = tile * QUERY_TILES;
    size_t channels = (size_t)h.channels, patch = (size_t)patch_floats(network, &b),
           keys = (size_t)keys_per_piece(network, &b), run = b.sr ? (size_t)b.sr->kernel[2] * channels : 0;
    size_t query_side = rows * (b.query ? 3 : 1) * channels + network->device->kernels->score_floats(&h),
           key_side = keys * (patch + channels + (size_t)h.kv_columns + run);
    noc_cpu_want(network, query_side > key_side ? query_side : key_side, packed_floats(network, &h));
    noc_status status = check_heads(&h, err);
    if (status == NOC_OK && b.query)
        status = noc_cpu_pack(network, b.query, 0, &step->panels[PANELS_QUERY], err);
    if (status == NOC_OK && b.sr)
        status = noc_cpu_pack(network, b.sr, (int)patch, &step->panels[PANELS_SR], err);
    if (status == NOC_OK && b.sr)
        status = noc_cpu_copy(network, &b.sr_norm->weight, &step->weight, err);
    if (status == NOC_OK && b.sr)
        status = noc_cpu_copy(network, &b.sr_norm->bias, &step->bias, err);
    if (status == NOC_OK)
        status = noc_cpu_pack(network, b.kv, 0, &step->panels[PANELS_KV], err);
    if (status == NOC_OK && b.projection)
        status = noc_cpu_pack(network, b.projection, 0, &step->panels[PANELS_PROJECTION], err);
    return status;
}

typedef struct block_job {
    const noc_network *network;
    const noc_cpu_step *step;
    block ops;
    noc_cpu_heads heads;
    const float *in;
    float *out;
    int rows, rows_per_piece, patch, keys_per_piece;
} block_job;

/* The normalised tokens of a line of reduced tokens, each one's as one row: they are runs along W of the
 * input's lines, and each token belongs to one reduced token. */
static void gather_patches(const block_job *job, int line, float *patches, float *normed)
{
    const noc_op *sr = job->ops.sr;
    const noc_value *in = noc_cpu_value_of(job->network, job->ops.norm->output),
                    *out = noc_cpu_value_of(job->network, sr->output);
    int width = out->grid[2], d = line / out->grid[1], h = line % out->grid[1];
    size_t run = (size_t)(sr->kernel[2] * in->channels);
    for (int a = 0; a < sr->kernel[0]; a++)
        for (int b = 0; b < sr->kernel[1]; b++, patches += run) {
            int64_t from =
                ((int64_t)(d * sr->kernel[0] + a) * in->grid[1] + h * sr->kernel[1] + b) * in->grid[2];
            job->network->device->kernels->layer_norm(job->in + from * in->channels, normed,
                                                      width * sr->kernel[2], in->channels, NULL, NULL,
                                                      (float)job->ops.norm->eps);
            for (int w = 0; w < width; w++)
                memcpy(patches + (size_t)(w * job->patch), normed + (size_t)w * run, run * sizeof *normed);
        }
}

static void keys_piece(void *argument, int i, int thread)
{
    const block_job *job = argument;
    const noc_cpu_kernels *kernels = job->network->device->kernels;
    const noc_cpu_step *step = job->step;
    const noc_cpu_heads *h = &job->heads;
    size_t channels = (size_t)h->channels;
    int per_piece = job->keys_per_piece, first = i * per_piece,
        rows = noc_cpu_min(per_piece, h->keys - first);
    float *patches = noc_cpu_scratch(job->network, thread),
          *reduced = patches + (size_t)(per_piece * job->patch), *kv = reduced + (size_t)per_piece * channels;
    if (job->ops.sr) {
        int width = noc_cpu_value_of(job->network, job->ops.sr->output)->grid[2];
        float *normed = kv + (size_t)(per_piece * h->kv_columns);
        for (int r = 0; r < rows; r += width)
            gather_patches(job, (first + r) / width, patches + (size_t)(r * job->patch), normed);
        noc_cpu_product sr = noc_cpu_product_of(job->ops.sr, &step->panels[PANELS_SR], patches,
                                                (size_t)job->patch, rows, reduced, channels);
        kernels->product(&sr);
        kernels->layer_norm(reduced, reduced, rows, h->channels, step->weight, step->bias,
                            (float)job->ops.sr_norm->eps);
    } else {
        kernels->layer_norm(job->in + (size_t)first * channels, reduced, rows, h->channels, NULL, NULL,
                            (float)job->ops.norm->eps);
    }
    noc_cpu_product p = noc_cpu_product_of(job->ops.kv, &step->panels[PANELS_KV], reduced, channels, rows, kv,
                                           (size_t)h->kv_columns);
    kernels->product(&p);
    kernels->pack_keys(h, kv, first, rows, (float)job->ops.attention->scale, job->network->shared);
}

/* A single head: what the norm gives are the queries, and what attention gives is the output. */
static void attend_single(const block_job *job, const float *normed, int row, int rows, float *scores)
{
    const size_t at = (size_t)row * (size_t)job->heads.channels;
    const int residual = job->ops.attention->residual;
    attend(job->network, &job->heads, 0, normed, rows, scores,
           residual >= 0 ? noc_cpu_value(job->network, residual) + at : NULL, job->out + at);
}

/* room: queries, what attention makes of them, scores. */
static void attend_projected(const block_job *job, const float *normed, int row, int rows, float *room)
{
    const noc_cpu_kernels *kernels = job->network->device->kernels;
    const noc_cpu_heads *h = &job->heads;
    const size_t channels = (size_t)h->channels, floats = (size_t)job->rows_per_piece * channels;
    float *queries = room, *attended = queries + floats, *scores = attended + floats;
    noc_cpu_product q = noc_cpu_product_of(job->ops.query, &job->step->panels[PANELS_QUERY], normed, channels,
                                           rows, queries, channels);
    kernels->product(&q);
    for (int head = 0; head < h->count; head++)
        attend(job->network, h, head, queries, rows, scores, NULL, attended);
    noc_cpu_product p =
        noc_cpu_product_of(job->ops.projection, &job->step->panels[PANELS_PROJECTION], attended, channels,
                           rows, job->out + (size_t)row * channels, channels);
    if (job->ops.projection->residual >= 0)
        p.residual = noc_cpu_value(job->network, job->ops.projection->residual) + (size_t)row * channels;
    kernels->product(&p);
}

static void queries_piece(void *argument, int i, int thread)
{
    const block_job *job = argument;
    const noc_cpu_kernels *kernels = job->network->device->kernels;
    const int channels = job->heads.channels, row = i * job->rows_per_piece,
              rows = noc_cpu_min(job->rows_per_piece, job->rows - row);
    float *normed = noc_cpu_scratch(job->network, thread),
          *room = normed + (size_t)(job->rows_per_piece * channels);
    kernels->layer_norm(job->in + (size_t)row * (size_t)channels, normed, rows, channels, NULL, NULL,
                        (float)job->ops.norm->eps);
    if (job->ops.query)
        attend_projected(job, normed, row, rows, room);
    else
        attend_single(job, normed, row, rows, room);
}

static void run_block(noc_network *network, const noc_cpu_step *step)
{
    block_job job = {.network = network, .step = step};
    if (locate_block(network, (int)(step->ops - network->plan->ops), &job.ops) == 0)
        return; /* prepare_block has found it */
    job.heads = heads_of(network, job.ops.attention);
    job.in = noc_cpu_value(network, job.ops.norm->input[0]);
    const int out = step->ops[step->op_count - 1].output;
    job.out = noc_cpu_value(network, out);
    job.rows = (int)noc_cpu_tokens(noc_cpu_value_of(network, out));
    job.patch = patch_floats(network, &job.ops);
    job.rows_per_piece = rows_per_piece(network, job.rows, 1);
    job.keys_per_piece = keys_per_piece(network, &job.ops);
    clear_shared(network, &job.heads);
    noc_cpu_run(network->device, noc_cpu_parts(job.heads.keys, job.keys_per_piece), keys_piece, &job);
    noc_cpu_run(network->device, noc_cpu_parts(job.rows, job.rows_per_piece), queries_piece, &job);
}

const noc_cpu_step_kind noc_cpu_attention_block_step = {match_block, prepare_block, run_block};
