/* The end of the decoder in half precision: LINEAR of the finest map, SUM with the other maps resized to its
 * grid and its activation, LINEAR to the logits. */
#include "engine/cuda/cuda.h"
#include "engine/cuda/fused_decoder.h"

#include <string.h>

/* The step, but where its values and weights lie. */
static noc_cuda_decoder decoder_of(const noc_network *network, const noc_op *op)
{
    const noc_op *sum = &op[1];
    const noc_value *in = noc_cuda_value_of(network, op->input[0]);
    noc_cuda_decoder d = {.batch = 1,
                          .depth = in->channels,
                          .columns = noc_cuda_value_of(network, op->output)->channels,
                          .tail = op->tail,
                          .tail_constant = (float)op->tail_constant,
                          .classes = noc_cuda_value_of(network, op[2].output)->channels,
                          .activation = (noc_cuda_activation)sum->activation};
    memcpy(d.grid, in->grid, sizeof d.grid);
    for (int i = 0; i < sum->input_count; i++)
        if (sum->input[i] != op->output && d.term_count < NOC_CUDA_DECODER_TERMS)
            memcpy(d.term_grids[d.term_count++], noc_cuda_value_of(network, sum->input[i])->grid,
                   sizeof d.term_grids[0]);
    return d;
}

/* That the sum is of the LINEAR before it, once, on its grid, and of the others. */
static bool is_sum_of(const noc_network *network, const noc_op *op, const noc_op *sum)
{
    int times = 0;
    for (int i = 0; i < sum->input_count; i++)
        times += sum->input[i] == op->output;
    return times == 1 && sum->input_count <= NOC_CUDA_DECODER_TERMS + 1 &&
           noc_plan_only_reader(network->plan, op->output) == sum - network->plan->ops &&
           memcmp(noc_cuda_value_of(network, op->output)->grid, noc_cuda_value_of(network, sum->output)->grid,
                  sizeof(int[3])) == 0;
}

/* Logits that nobody reads are f32. */
static int match(const noc_network *network, int first)
{
    const noc_op *op = &network->plan->ops[first];
    if (!noc_cuda_is_fusible(network, first, NOC_OP_LINEAR) ||
        !noc_cuda_is_fusible(network, first + 1, NOC_OP_SUM) ||
        !noc_cuda_is_fusible(network, first + 2, NOC_OP_LINEAR) || op->residual >= 0 ||
        op->activation != NOC_ACTIVATION_NONE || noc_cuda_norm_before(network, op) ||
        !is_sum_of(network, op, &op[1]) || !noc_cuda_is_followed(network, &op[1]) ||
        !noc_op_is_product(&op[2]) || op[2].output != network->plan->logits ||
        first + 3 != network->plan->op_count)
        return 0;
    noc_cuda_decoder d = decoder_of(network, op);
    return noc_cuda_decoder_fits(&d) ? 3 : 0;
}

static noc_status prepare(noc_network *network, noc_cuda_step *step, noc_error *err)
{
    noc_status status = noc_cuda_copy_product(network, &step->ops[0], &step->weights[0], err);
    for (int i = 1; status == NOC_OK && i < step->op_count; i++)
        status = noc_cuda_copy_op(network, &step->ops[i], &step->weights[i], err);
    return status;
}

static cudaError_t run(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = step->ops;
    noc_cuda_decoder d = decoder_of(network, op);
    d.in = noc_cuda_value(network, op->input[0]);
    d.weight = step->weights[0].weight;
    d.bias = step->weights[0].bias;
    d.sum_bias = step->weights[1].bias;
    d.class_weight = step->weights[2].weight;
    d.class_bias = step->weights[2].bias;
    d.out = noc_cuda_value(network, op[2].output);
    d.batch = batch;
    for (int i = 0, t = 0; i < op[1].input_count; i++)
        if (op[1].input[i] != op->output)
            d.terms[t++] = noc_cuda_value(network, op[1].input[i]);
    return noc_cuda_decoder_launch(&d, network->device->type, network->device->stream);
}

const noc_cuda_step_kind noc_cuda_decoder_step = {match, prepare, run, NULL};
