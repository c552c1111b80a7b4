/* LINEAR in half precision, with the LAYER_NORM before it. */
#include "engine/cuda/cuda.h"

noc_cuda_gemm noc_cuda_gemm_of(const noc_network *network, const noc_op *op, const noc_op *norm)
{
    const noc_value *in = noc_cuda_value_of(network, op->input[0]),
                    *out = noc_cuda_value_of(network, op->output);
    return (noc_cuda_gemm){.rows = (int)noc_cuda_tokens_of(out),
                           .columns = out->channels,
                           .depth = in->channels,
                           .tail = op->tail,
                           .tail_constant = (float)op->tail_constant,
                           .is_normed = norm != NULL,
                           .eps = norm ? (float)norm->eps : 0,
                           .activation = (noc_cuda_activation)op->activation};
}

cudaError_t noc_cuda_gemm_run(const noc_network *network, noc_cuda_gemm *gemm, const noc_op *op,
                              const noc_cuda_step *step, int batch)
{
    gemm->in = noc_cuda_input(network, op, step->norm);
    gemm->weight = step->weights->weight;
    gemm->bias = step->weights->bias;
    gemm->residual = noc_cuda_residual(network, op);
    gemm->rows *= batch;
    return noc_cuda_gemm_launch(gemm, network->device->type, network->device->stream);
}

/* Logits are f32. */
static bool takes_norm(const noc_network *network, const noc_op *op, const noc_op *norm)
{
    noc_cuda_gemm gemm = noc_cuda_gemm_of(network, op, norm);
    return op->kind == NOC_OP_LINEAR && op->output != network->plan->logits && noc_cuda_gemm_fits(&gemm);
}

static int match(const noc_network *network, int first)
{
    const int at = noc_cuda_skip_norm(network, first);
    const noc_op *op = &network->plan->ops[at];
    return noc_cuda_is_fusible(network, at, NOC_OP_LINEAR) &&
                   takes_norm(network, op, noc_cuda_norm_before(network, op))
               ? at - first + 1
               : 0;
}

static noc_status prepare(noc_network *network, noc_cuda_step *step, noc_error *err)
{
    const noc_op *op = &step->ops[step->op_count - 1];
    step->norm = noc_cuda_norm_before(network, op);
    return noc_cuda_copy_product(network, op, step->weights, err);
}

static cudaError_t run(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = noc_cuda_own_ops(step);
    noc_cuda_gemm gemm = noc_cuda_gemm_of(network, op, step->norm);
    gemm.out = noc_cuda_value(network, op->output);
    return noc_cuda_gemm_run(network, &gemm, op, step, batch);
}

const noc_cuda_step_kind noc_cuda_gemm_step = {match, prepare, run, takes_norm};
