/* LAYER_NORM, AFFINE and ACTIVATION. */
#include "engine/cuda/cuda.h"

static int match(const noc_network *network, int first)
{
    noc_op_kind kind = network->plan->ops[first].kind;
    return kind == NOC_OP_LAYER_NORM || kind == NOC_OP_AFFINE || kind == NOC_OP_ACTIVATION;
}

static cudaError_t run(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = step->ops;
    const noc_value *out = noc_cuda_value_of(network, op->output);
    noc_cuda_tokens t = {.type = network->device->type,
                         .in = noc_cuda_value(network, op->input[0]),
                         .weight = step->weights->weight,
                         .bias = step->weights->bias,
                         .out = noc_cuda_value(network, op->output),
                         .rows = batch * noc_cuda_tokens_of(out),
                         .channels = out->channels,
                         .eps = (float)op->eps,
                         .activation = (noc_cuda_activation)op->activation};
    return op->kind == NOC_OP_LAYER_NORM ? noc_cuda_layer_norm_run(network->device->stream, &t)
                                         : noc_cuda_pointwise_run(network->device->stream, &t);
}

const noc_cuda_step_kind noc_cuda_tokens_step = {match, noc_cuda_copy_weights, run, NULL};
