/* ATTENTION; in half precision, where keys have scores of their own (rewrite d), with the LINEAR that makes
 * keys, values and scores. */
#include "engine/cuda/cuda.h"
#include "engine/cuda/fused_attention.h"

static int match(const noc_network *network, int first)
{
    return network->plan->ops[first].kind == NOC_OP_ATTENTION;
}

static int dim_of(const noc_network *network, const noc_op *op)
{
    return noc_cuda_value_of(network, op->output)->channels / op->heads;
}

static noc_status prepare(noc_network *network, noc_cuda_step *step, noc_error *err)
{
    int dim = dim_of(network, step->ops);
    return dim <= NOC_CUDA_HEAD_DIM_MOST
               ? NOC_OK
               : noc_fail(err, NOC_EUNSUPPORTED, "attention heads of %d channels: CUDA takes up to %d", dim,
                          NOC_CUDA_HEAD_DIM_MOST);
}

static cudaError_t run(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = step->ops;
    const noc_value *out = noc_cuda_value_of(network, op->output),
                    *kv = noc_cuda_value_of(network, op->input[1]);
    noc_cuda_attention a = {.type = network->device->type,
                            .q = noc_cuda_value(network, op->input[0]),
                            .kv = noc_cuda_value(network, op->input[1]),
                            .residual = noc_cuda_residual(network, op),
                            .out = noc_cuda_value(network, op->output),
                            .batch = batch,
                            .queries = (int)noc_cuda_tokens_of(out),
                            .keys = (int)noc_cuda_tokens_of(kv),
                            .heads = op->heads,
                            .dim = dim_of(network, op),
                            .has_scores = kv->channels > 2 * out->channels,
                            .scale = (float)op->scale};
    return noc_cuda_attention_run(network->device->stream, &a);
}

const noc_cuda_step_kind noc_cuda_attention_step = {match, prepare, run, NULL};

/* ---- in half precision ---- */

static noc_cuda_fused_attention attention_of(const noc_network *network, const noc_op *op, const noc_op *norm)
{
    return (noc_cuda_fused_attention){.batch = 1,
                                      .heads = op->heads,
                                      .dim = dim_of(network, op),
                                      .rows = (int)noc_cuda_tokens_of(noc_cuda_value_of(network, op->output)),
                                      .keys =
                                          (int)noc_cuda_tokens_of(noc_cuda_value_of(network, op->input[1])),
                                      .scale = (float)op->scale,
                                      .is_normed = norm != NULL,
                                      .eps = norm ? (float)norm->eps : 0};
}

static bool has_scores(const noc_network *network, const noc_op *op)
{
    return noc_cuda_value_of(network, op->input[1])->channels !=
           2 * noc_cuda_value_of(network, op->output)->channels;
}

static noc_cuda_gemm key_values_of(const noc_network *network, const noc_op *op, const noc_op *norm)
{
    noc_cuda_gemm gemm = noc_cuda_gemm_of(network, op, norm);
    gemm.columns--; /* the last one is the score */
    return gemm;
}

/* That the LINEAR before it makes what nobody else reads; it may be normed, whether it is or not. */
static bool has_key_values_before(const noc_network *network, const noc_op *op)
{
    const noc_op *linear = noc_plan_own_linear(network->plan, op->input[1]);
    if (!linear || linear + 1 != op)
        return false;
    noc_cuda_gemm gemm = key_values_of(network, linear, op);
    return noc_cuda_gemm_fits(&gemm);
}

static bool fits(const noc_network *network, const noc_op *op, const noc_op *norm)
{
    noc_cuda_fused_attention a = attention_of(network, op, norm);
    return op->scale > 0 && op->residual != op->input[1] && op->input[0] != op->input[1] &&
           noc_cuda_fused_attention_fits(&a) &&
           (!has_scores(network, op) || has_key_values_before(network, op));
}

/* A norm over a token is one over a head where there is one. An ATTENTION takes it itself, and for the LINEAR
 * that belongs to its step. */
static bool takes_norm(const noc_network *network, const noc_op *op, const noc_op *norm)
{
    if (op->kind == NOC_OP_ATTENTION)
        return op->heads == 1 && fits(network, op, norm);
    const int at = (int)(op - network->plan->ops);
    return op->kind == NOC_OP_LINEAR && noc_cuda_is_fusible(network, at + 1, NOC_OP_ATTENTION) &&
           has_scores(network, &op[1]) && has_key_values_before(network, &op[1]) &&
           fits(network, &op[1], NULL);
}

static int match_fused(const noc_network *network, int first)
{
    int at = noc_cuda_skip_norm(network, first);
    const noc_op *op = &network->plan->ops[at];
    bool has_linear = noc_cuda_is_fusible(network, at, NOC_OP_LINEAR);
    if (!noc_cuda_is_fusible(network, at + has_linear, NOC_OP_ATTENTION))
        return 0;
    op += has_linear;
    return has_scores(network, op) == has_linear && fits(network, op, noc_cuda_norm_before(network, op))
               ? at - first + 1 + has_linear
               : 0;
}

static noc_status prepare_fused(noc_network *network, noc_cuda_step *step, noc_error *err)
{
    const noc_op *op = &step->ops[step->op_count - 1], *linear = &op[-1];
    if (!has_scores(network, op)) {
        step->norm = noc_cuda_norm_before(network, op);
        return NOC_OK;
    }
    step->norm = noc_cuda_norm_before(network, linear);
    noc_cuda_fused_attention a = attention_of(network, op, NULL);
    noc_cuda_want(network, (size_t)network->max_batch * (size_t)a.keys * (size_t)(a.heads * a.dim + 1));
    return noc_cuda_copy_product(network, linear, step->weights, err);
}

/* Keys, values and scores into the scratch, the scores, floats, behind. */
static cudaError_t make_key_values(const noc_network *network, const noc_cuda_step *step, int batch,
                                   noc_cuda_fused_attention *a)
{
    const noc_op *linear = noc_cuda_own_ops(step);
    noc_cuda_gemm gemm = key_values_of(network, linear, step->norm);
    gemm.out = network->scratch;
    gemm.score = network->scratch + (size_t)batch * (size_t)a->keys * (size_t)(gemm.columns / 2);
    a->kv = gemm.out;
    a->score = gemm.score;
    noc_cuda_gemm_fill(network, &gemm, linear, step->norm, step->weights, batch);
    return noc_cuda_gemm_launch(&gemm, network->device->type, network->device->stream);
}

static cudaError_t run_fused(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = &step->ops[step->op_count - 1], *norm = noc_cuda_norm_before(network, op);
    noc_cuda_fused_attention a = attention_of(network, op, norm);
    cudaError_t error = cudaSuccess;
    a.batch = batch;
    a.queries = noc_cuda_input(network, op, norm);
    a.residual = noc_cuda_residual(network, op);
    a.out = noc_cuda_value(network, op->output);
    if (has_scores(network, op))
        error = make_key_values(network, step, batch, &a);
    else
        a.kv = noc_cuda_value(network, op->input[1]);
    return error != cudaSuccess
               ? error
               : noc_cuda_fused_attention_launch(&a, network->device->type, network->device->stream);
}

const noc_cuda_step_kind noc_cuda_fused_attention_step = {match_fused, prepare_fused, run_fused, takes_norm};
