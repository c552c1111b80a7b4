/* CONV in half precision, with the LAYER_NORM behind it, and before it where each token is read once. */
#include "engine/cuda/cuda.h"
#include "engine/cuda/fused_conv.h"

#include <string.h>

static noc_cuda_conv conv_of(const noc_network *network, const noc_op *op, const noc_op *before,
                             const noc_op *behind)
{
    const noc_value *in = noc_cuda_value_of(network, op->input[0]),
                    *out = noc_cuda_value_of(network, op->output);
    noc_cuda_conv c = {.batch = 1,
                       .channels = in->channels,
                       .columns = out->channels,
                       .is_normed = behind != NULL,
                       .eps = behind ? (float)behind->eps : 0,
                       .is_in_normed = before != NULL,
                       .in_eps = before ? (float)before->eps : 0};
    memcpy(c.grid, in->grid, sizeof c.grid);
    memcpy(c.out_grid, out->grid, sizeof c.out_grid);
    memcpy(c.kernel, op->kernel, sizeof c.kernel);
    memcpy(c.stride, op->stride, sizeof c.stride);
    memcpy(c.padding, op->padding, sizeof c.padding);
    return c;
}

static bool fits(const noc_network *network, const noc_op *op, const noc_op *before, const noc_op *behind)
{
    noc_cuda_conv c = conv_of(network, op, before, behind);
    return noc_cuda_conv_fits(&c) || noc_cuda_stem_fits(&c);
}

bool noc_cuda_conv_takes_next(const noc_network *network, const noc_op *op)
{
    const int at = (int)(op - network->plan->ops);
    return noc_cuda_is_fusible(network, at, NOC_OP_CONV) &&
           noc_cuda_is_fusible(network, at + 1, NOC_OP_LAYER_NORM) && noc_cuda_is_followed(network, op) &&
           !op[1].weight.data == !op[1].bias.data && fits(network, op, NULL, &op[1]);
}

static bool takes_norm(const noc_network *network, const noc_op *op, const noc_op *norm)
{
    if (op->kind != NOC_OP_CONV || op->output == network->plan->logits)
        return false;
    for (int a = 0; a < 3; a++)
        if (op->kernel[a] != op->stride[a])
            return false;
    return fits(network, op, norm, NULL);
}

static int match(const noc_network *network, int first)
{
    const int at = noc_cuda_skip_norm(network, first);
    const noc_op *op = &network->plan->ops[at];
    if (!noc_cuda_is_fusible(network, at, NOC_OP_CONV))
        return 0;
    if (noc_cuda_conv_takes_next(network, op))
        return at - first + 2;
    bool is_alone =
        op->output != network->plan->logits && fits(network, op, noc_cuda_norm_before(network, op), NULL);
    return is_alone ? at - first + 1 : 0;
}

/* Each run of weights along W between zeros; see noc_cuda_stem_fits. */
static noc_status copy_stem(noc_network *network, const noc_op *op, const noc_cuda_conv *conv, void **copy,
                            noc_error *err)
{
    enum { RUN = 32 };
    const size_t run = (size_t)(conv->kernel[2] * conv->channels), runs = op->weight.count / run,
                 lead = (size_t)(noc_cuda_stem_lead(conv) * conv->channels);
    noc_weights filled = {0};
    noc_status status = noc_weights_create(runs * RUN, &filled, err);
    for (size_t i = 0; status == NOC_OK && i < runs; i++)
        memcpy(filled.data + i * RUN + lead, op->weight.data + i * run, run * sizeof *filled.data);
    if (status == NOC_OK)
        status = noc_cuda_copy_elements(network, &filled, copy, err);
    noc_weights_free(&filled);
    return status;
}

static const noc_op *norm_behind(const noc_cuda_step *step)
{
    const noc_op *last = &step->ops[step->op_count - 1];
    return last->kind == NOC_OP_LAYER_NORM ? last : NULL;
}

static noc_status prepare(noc_network *network, noc_cuda_step *step, noc_error *err)
{
    const noc_op *behind = norm_behind(step), *op = &step->ops[step->op_count - (behind ? 2 : 1)];
    step->norm = noc_cuda_norm_before(network, op);
    noc_cuda_conv c = conv_of(network, op, step->norm, behind);
    bool is_stem = !noc_cuda_conv_fits(&c);
    noc_status status = is_stem ? copy_stem(network, op, &c, &step->weights[0].weight, err)
                                : noc_cuda_copy_elements(network, &op->weight, &step->weights[0].weight, err);
    c.batch = network->max_batch;
    if (!is_stem)
        noc_cuda_want(network, noc_cuda_conv_sums(&c));
    if (status == NOC_OK)
        status = noc_cuda_copy_floats(network, &op->bias, &step->weights[0].bias, err);
    return status == NOC_OK && behind ? noc_cuda_copy_op(network, behind, &step->weights[1], err) : status;
}

static cudaError_t run(noc_network *network, const noc_cuda_step *step, int batch)
{
    const noc_op *op = noc_cuda_own_ops(step), *behind = norm_behind(step);
    noc_cuda_conv c = conv_of(network, op, step->norm, behind);
    c.in = noc_cuda_input(network, op, step->norm);
    c.weight = step->weights[0].weight;
    c.bias = step->weights[0].bias;
    c.scale = step->weights[1].weight;
    c.shift = step->weights[1].bias;
    c.out = noc_cuda_value(network, step->ops[step->op_count - 1].output);
    c.sums = network->scratch;
    bool is_stem = !noc_cuda_conv_fits(&c);
    c.batch = batch;
    return is_stem ? noc_cuda_stem_launch(&c, network->device->type, network->device->stream)
                   : noc_cuda_conv_launch(&c, network->device->type, network->device->stream);
}

const noc_cuda_step_kind noc_cuda_conv_step = {match, prepare, run, takes_norm};
