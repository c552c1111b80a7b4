/* The second half of a MixFFN block in half precision: DWCONV, its GELU and the LINEAR behind them,
 * whose wide input never is in memory; and the LAYER_NORM that ends a stage. */
#include "engine/cuda/cuda.h"
#include "engine/cuda/fused_mixffn.h"

#include <string.h>

static noc_cuda_mixffn mixffn_of(const noc_network *network, const noc_op *op, const noc_op *norm)
{
    const noc_value *hidden = noc_cuda_value_of(network, op->output);
    noc_cuda_mixffn m = {.batch = 1,
                         .hidden = hidden->channels,
                         .columns = noc_cuda_value_of(network, op[1].output)->channels,
                         .is_normed = norm != NULL,
                         .eps = norm ? (float)norm->eps : 0};
    memcpy(m.grid, hidden->grid, sizeof m.grid);
    return m;
}

static bool fits(const noc_network *network, int first, const noc_op *norm)
{
    const noc_op *op = &network->plan->ops[first];
    if (!noc_cuda_is_fusible(network, first, NOC_OP_DWCONV) ||
        !noc_cuda_is_fusible(network, first + 1, NOC_OP_LINEAR) || !noc_cuda_is_followed(network, op) ||
        op->activation != NOC_ACTIVATION_GELU || op[1].tail > 0 || op[1].activation != NOC_ACTIVATION_NONE ||
        op[1].output == network->plan->logits)
        return false;
    noc_cuda_mixffn m = mixffn_of(network, op, norm);
    return noc_cuda_mixffn_fits(&m);
}

bool noc_cuda_mixffn_takes_next(const noc_network *network, const noc_op *op)
{
    const int at = (int)(op - network->plan->ops);
    return at > 0 && noc_cuda_is_fusible(network, at + 1, NOC_OP_LAYER_NORM) &&
           noc_cuda_is_followed(network, op) && !op[1].weight.data == !op[1].bias.data &&
           fits(network, at - 1, &op[1]);
}

static int match(const noc_network *network, int first)
{
    return !fits(network, first, NULL)
               ? 0
               : 2 + noc_cuda_mixffn_takes_next(network, &network->plan->ops[first + 1]);
}

static noc_status prepare(noc_network *network, noc_cuda_step *step, noc_error *err)
{
    noc_status status = NOC_OK;
    for (int i = 0; i < 2 && status == NOC_OK; i++)
        status = noc_cuda_copy_product(network, &step->ops[i], &step->weights[i], err);
    if (status == NOC_OK && step->op_count == 3)
        status = noc_cuda_copy_op(network, &step->ops[2], &step->weights[2], err);
    noc_cuda_mixffn m = mixffn_of(network, step->ops, NULL);
    m.batch = network->max_batch;
    noc_cuda_want(network, noc_cuda_mixffn_sums(&m));
    return status;
}

static cudaError_t run(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = step->ops;
    noc_cuda_mixffn m = mixffn_of(network, op, step->op_count == 3 ? &op[2] : NULL);
    m.in = noc_cuda_value(network, op[0].input[0]);
    m.taps = step->weights[0].weight;
    m.taps_bias = step->weights[0].bias;
    m.weight = step->weights[1].weight;
    m.bias = step->weights[1].bias;
    m.residual = noc_cuda_residual(network, &op[1]);
    m.scale = step->weights[2].weight;
    m.shift = step->weights[2].bias;
    m.out = noc_cuda_value(network, op[step->op_count - 1].output);
    m.sums = network->scratch;
    m.batch = batch;
    return noc_cuda_mixffn_launch(&m, network->device->type, network->device->stream);
}

const noc_cuda_step_kind noc_cuda_mixffn_step = {match, prepare, run, NULL};
