/* DWCONV. */
#include "engine/cuda/cuda.h"

#include <string.h>

static int match(const noc_network *network, int first)
{
    return network->plan->ops[first].kind == NOC_OP_DWCONV;
}

static cudaError_t run(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = step->ops;
    const noc_value *out = noc_cuda_value_of(network, op->output);
    noc_cuda_depthwise d = {.type = network->device->type,
                            .in = noc_cuda_value(network, op->input[0]),
                            .weight = step->weights->weight,
                            .bias = step->weights->bias,
                            .out = noc_cuda_value(network, op->output),
                            .batch = batch,
                            .channels = out->channels,
                            .activation = (noc_cuda_activation)op->activation};
    memcpy(d.grid, out->grid, sizeof d.grid);
    return noc_cuda_depthwise_run(network->device->stream, &d);
}

const noc_cuda_step_kind noc_cuda_depthwise_step = {match, noc_cuda_copy_weights, run, NULL};
