/* SUM and CONCAT. */
#include "engine/cuda/cuda.h"

#include <string.h>

_Static_assert((int)NOC_CUDA_INPUTS == NOC_OP_INPUTS, "an op has as many inputs");

static int match(const noc_network *network, int first)
{
    noc_op_kind kind = network->plan->ops[first].kind;
    return kind == NOC_OP_SUM || kind == NOC_OP_CONCAT;
}

static cudaError_t run(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = step->ops;
    const noc_value *out = noc_cuda_value_of(network, op->output);
    noc_cuda_mix m = {.type = network->device->type,
                      .inputs = op->input_count,
                      .is_concat = op->kind == NOC_OP_CONCAT,
                      .bias = step->weights->bias,
                      .out = noc_cuda_value(network, op->output),
                      .batch = batch,
                      .channels = out->channels,
                      .activation = (noc_cuda_activation)op->activation};
    memcpy(m.grid, out->grid, sizeof m.grid);
    for (int k = 0; k < op->input_count; k++) {
        const noc_value *in = noc_cuda_value_of(network, op->input[k]);
        m.in[k] = noc_cuda_value(network, op->input[k]);
        m.in_channels[k] = in->channels;
        memcpy(m.in_grid[k], in->grid, sizeof m.in_grid[k]);
    }
    return noc_cuda_mix_run(network->device->stream, &m);
}

const noc_cuda_step_kind noc_cuda_mix_step = {match, noc_cuda_copy_weights, run, NULL};
