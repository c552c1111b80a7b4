/* The second half of a MixFFN block in half precision: DWCONV, its GELU and the LINEAR behind them,
 * whose wide input never is in memory. */
#include "engine/cuda/cuda.h"
#include "engine/cuda/fused_mixffn.h"

#include <string.h>

static noc_cuda_mixffn mixffn_of(const noc_network *network, const noc_op *op)
{
    const noc_value *hidden = noc_cuda_value_of(network, op->output);
    noc_cuda_mixffn m = {.batch = 1,
                         .hidden = hidden->channels,
                         .columns = noc_cuda_value_of(network, op[1].output)->channels};
    memcpy(m.grid, hidden->grid, sizeof m.grid);
    return m;
}

static int match(const noc_network *network, int first)
{
    const noc_op *op = &network->plan->ops[first];
    if (!noc_cuda_is_fusible(network, first, NOC_OP_DWCONV) ||
        !noc_cuda_is_fusible(network, first + 1, NOC_OP_LINEAR) || !noc_cuda_is_followed(network, op) ||
        op->activation != NOC_ACTIVATION_GELU || op[1].tail > 0 || op[1].activation != NOC_ACTIVATION_NONE ||
        op[1].output == network->plan->logits)
        return 0;
    noc_cuda_mixffn m = mixffn_of(network, op);
    return noc_cuda_mixffn_fits(&m) ? 2 : 0;
}

static noc_status prepare(noc_network *network, noc_cuda_step *step, noc_error *err)
{
    noc_status status = NOC_OK;
    for (int i = 0; i < 2 && status == NOC_OK; i++)
        status = noc_cuda_copy_product(network, &step->ops[i], &step->weights[i], err);
    noc_cuda_mixffn m = mixffn_of(network, step->ops);
    m.batch = network->max_batch;
    noc_cuda_want(network, noc_cuda_mixffn_sums(&m));
    return status;
}

static cudaError_t run(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = step->ops;
    noc_cuda_mixffn m = mixffn_of(network, op);
    m.in = noc_cuda_value(network, op[0].input[0]);
    m.taps = step->weights[0].weight;
    m.taps_bias = step->weights[0].bias;
    m.weight = step->weights[1].weight;
    m.bias = step->weights[1].bias;
    m.residual = noc_cuda_residual(network, &op[1]);
    m.out = noc_cuda_value(network, op[1].output);
    m.sums = network->scratch;
    m.batch = batch;
    return noc_cuda_mixffn_launch(&m, network->device->type, network->device->stream);
}

const noc_cuda_step_kind noc_cuda_mixffn_step = {match, prepare, run, NULL};
