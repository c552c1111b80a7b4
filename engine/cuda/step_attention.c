/* ATTENTION. */
#include "engine/cuda/cuda.h"

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
                            .residual = op->residual >= 0 ? noc_cuda_value(network, op->residual) : NULL,
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

const noc_cuda_step_kind noc_cuda_attention_step = {match, prepare, run};
