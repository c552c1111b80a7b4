/* LINEAR and CONV. */
#include "engine/cuda/cuda.h"

_Static_assert((int)NOC_CUDA_IDENTITY == NOC_ACTIVATION_NONE && (int)NOC_CUDA_GELU == NOC_ACTIVATION_GELU &&
                   (int)NOC_CUDA_RELU == NOC_ACTIVATION_RELU,
               "activations have the plan's numbers");

static int match(const noc_network *network, int first)
{
    noc_op_kind kind = network->plan->ops[first].kind;
    return kind == NOC_OP_LINEAR || kind == NOC_OP_CONV;
}

static noc_status prepare(noc_network *network, noc_cuda_step *step, noc_error *err)
{
    const noc_op *op = step->ops;
    if (op->tail > 0) /* a factor for each row */
        noc_cuda_want(network, (size_t)network->max_batch *
                                   (size_t)noc_cuda_tokens_of(noc_cuda_value_of(network, op->output)));
    return noc_cuda_copy_product(network, op, step->weights, err);
}

/* A convolution of the values' grids; a product of matrices is one of rows. */
static void set_grids(noc_cuda_product *p, const noc_op *op, const noc_value *in, const noc_value *out,
                      int batch)
{
    bool is_conv = op->kind == NOC_OP_CONV;
    p->batch = is_conv ? batch : 1;
    p->depth = in->channels;
    for (int a = 0; a < 3; a++) {
        int rows = a == 2 ? batch * (int)noc_cuda_tokens_of(in) : 1;
        p->in_grid[a] = is_conv ? in->grid[a] : rows;
        p->out_grid[a] = is_conv ? out->grid[a] : rows;
        p->kernel[a] = is_conv ? op->kernel[a] : 1;
        p->stride[a] = is_conv ? op->stride[a] : 1;
        p->padding[a] = is_conv ? op->padding[a] : 0;
        p->depth *= p->kernel[a];
    }
}

static cudaError_t run(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = step->ops;
    const noc_value *in = noc_cuda_value_of(network, op->input[0]),
                    *out = noc_cuda_value_of(network, op->output);
    noc_cuda_product p = {.type = network->device->type,
                          .out_is_f32 = network->logits && op->output == network->plan->logits,
                          .in = noc_cuda_value(network, op->input[0]),
                          .weight = step->weights->weight,
                          .bias = step->weights->bias,
                          .residual = noc_cuda_residual(network, op),
                          .scale = op->tail > 0 ? network->scratch : NULL,
                          .out = noc_cuda_value(network, op->output),
                          .in_channels = in->channels,
                          .columns = out->channels,
                          .tail = op->tail,
                          .tail_constant = (float)op->tail_constant,
                          .activation = (noc_cuda_activation)op->activation};
    set_grids(&p, op, in, out, batch);
    return noc_cuda_product_run(network->device->stream, &p);
}

const noc_cuda_step_kind noc_cuda_product_step = {match, prepare, run, NULL};
