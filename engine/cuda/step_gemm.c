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

void noc_cuda_gemm_fill(const noc_network *network, noc_cuda_gemm *gemm, const noc_op *op, const noc_op *norm,
                        const noc_cuda_weights *weights, int batch)
{
    gemm->in = noc_cuda_input(network, op, norm);
    gemm->weight = weights->weight;
    gemm->bias = weights->bias;
    gemm->residual = noc_cuda_residual(network, op);
    gemm->rows *= batch;
}

/* Logits are f32. */
static bool takes_norm(const noc_network *network, const noc_op *op, const noc_op *norm)
{
    noc_cuda_gemm gemm = noc_cuda_gemm_of(network, op, norm);
    return op->kind == NOC_OP_LINEAR && op->output != network->plan->logits && noc_cuda_gemm_fits(&gemm);
}

/* That a step of its own would compute it. */
static bool is_alone(const noc_network *network, int at)
{
    const noc_op *op = &network->plan->ops[at];
    return noc_cuda_is_fusible(network, at, NOC_OP_LINEAR) &&
           takes_norm(network, op, noc_cuda_norm_before(network, op));
}

/* That the LINEAR behind this one, say queries beside keys and values, runs beside it. */
static bool pairs(const noc_network *network, int at)
{
    const noc_op *op = &network->plan->ops[at];
    int count;
    if (!noc_cuda_is_fusible(network, at + 1, NOC_OP_LINEAR) || noc_op_reads(&op[1], op->output) ||
        noc_cuda_kind_at(network, at + 1, &count) != &noc_cuda_gemm_step)
        return false;
    noc_cuda_gemm a = noc_cuda_gemm_of(network, op, noc_cuda_norm_before(network, op)),
                  b = noc_cuda_gemm_of(network, &op[1], noc_cuda_norm_before(network, &op[1]));
    return noc_cuda_gemm_pairs(&a, &b);
}

static int match(const noc_network *network, int first)
{
    const int at = noc_cuda_skip_norm(network, first);
    return !is_alone(network, at) ? 0 : at - first + 1 + pairs(network, at);
}

static noc_status prepare(noc_network *network, noc_cuda_step *step, noc_error *err)
{
    const noc_plan *plan = network->plan;
    const noc_op *op = &plan->ops[noc_cuda_skip_norm(network, (int)(step->ops - plan->ops))],
                 *end = step->ops + step->op_count;
    noc_status status = NOC_OK;
    step->norm = noc_cuda_norm_before(network, op);
    for (int i = 0; status == NOC_OK && op + i < end; i++)
        status = noc_cuda_copy_product(network, &op[i], &step->weights[i], err);
    return status;
}

static cudaError_t run(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = noc_cuda_own_ops(step), *end = step->ops + step->op_count;
    const noc_cuda_type type = network->device->type;
    noc_cuda_gemm gemm[2];
    for (int i = 0; op + i < end; i++) {
        const noc_op *norm = noc_cuda_norm_before(network, &op[i]);
        gemm[i] = noc_cuda_gemm_of(network, &op[i], norm);
        noc_cuda_gemm_fill(network, &gemm[i], &op[i], norm, &step->weights[i], batch);
        gemm[i].out = noc_cuda_value(network, op[i].output);
    }
    return end - op == 1 ? noc_cuda_gemm_launch(gemm, type, network->device->stream)
                         : noc_cuda_gemm_launch_pair(gemm, gemm + 1, type, network->device->stream);
}

const noc_cuda_step_kind noc_cuda_gemm_step = {match, prepare, run, takes_norm};
