/* SegFormer3D as a plan. The builder appends the ops of the published network one after another, encoder
 * stages 1 to 4 and then the decoder, and copies each weight into the layout of plan.h. It keeps going after
 * a failure without doing anything (`status`), so that the network reads as what it is. Parts that the
 * weights lack (see noc_tensor_group) are left out. */
#include "engine/segformer3d.h"

#include "engine/base/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double norm_eps = 1e-5;

typedef struct builder {
    const noc_network_config *network;
    const noc_safetensors *weights;
    const char *prefix; /* of all tensor names: "" or "module." */
    noc_plan *plan;
    noc_status status;
    noc_error *err;
} builder;

enum { TENSOR_NAME = 128 };

static int64_t conv_size(int64_t size, int kernel, int stride, int padding)
{
    int64_t room = size + 2 * padding - kernel;
    return room < 0 ? 0 : room / stride + 1;
}

static bool axis_fits(const noc_network_config *network, int axis, int64_t size)
{
    int64_t grid = size;
    for (int s = 0; s < NOC_STAGES; s++) {
        int stride = network->patch_stride[s][axis];
        grid = conv_size(grid, network->patch_kernel[s][axis], stride, network->patch_padding[s][axis]);
        if (grid < network->sr_ratios[s])
            return false;
        /* The logits must cover the window. */
        if (s == 0 && grid * stride < size)
            return false;
    }
    return true;
}

/* 0: none was found. */
static int64_t smallest_size(const noc_network_config *network, int axis)
{
    for (int64_t size = 1; size <= 65536; size++)
        if (axis_fits(network, axis, size))
            return size;
    return 0;
}

noc_status noc_segformer3d_check_window(const noc_network_config *network, const int64_t window[3],
                                        noc_error *err)
{
    int64_t voxels = 1, smallest[3];
    bool fits = true;
    for (int axis = 0; axis < 3; axis++) {
        if (window[axis] < 1 || window[axis] > INT32_MAX / voxels)
            return noc_fail(err, NOC_ECONFIG,
                            "a window of %" PRId64 " x %" PRId64 " x %" PRId64 " voxels is not possible",
                            window[0], window[1], window[2]);
        voxels *= window[axis];
        fits = fits && axis_fits(network, axis, window[axis]);
    }
    if (fits)
        return NOC_OK;
    for (int axis = 0; axis < 3; axis++)
        smallest[axis] = smallest_size(network, axis);
    return noc_fail(err, NOC_ECONFIG,
                    "the network cannot take a window of %" PRId64 " x %" PRId64 " x %" PRId64
                    ", the smallest it can is %" PRId64 " x %" PRId64 " x %" PRId64,
                    window[0], window[1], window[2], smallest[0], smallest[1], smallest[2]);
}

__attribute__((format(printf, 2, 3))) static const noc_tensor *find(const builder *b, const char *format, ...)
{
    char name[TENSOR_NAME];
    int length = snprintf(name, sizeof(name), "%s", b->prefix);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name + length, sizeof(name) - (size_t)length, format, arguments);
    va_end(arguments);
    return noc_safetensors_find(b->weights, name);
}

/* The tensor's numbers as they stand; nothing when it is absent. */
static noc_weights load(builder *b, const noc_tensor *tensor)
{
    noc_weights weights = {0};
    if (b->status != NOC_OK || !tensor)
        return weights;
    b->status = noc_weights_create(noc_tensor_count(tensor), &weights, b->err);
    if (b->status == NOC_OK)
        b->status = noc_tensor_doubles(tensor, 0, weights.count, weights.data, b->err);
    return weights;
}

/* A kernel [out][in][places] as [out][places][in]. */
static noc_weights load_kernel(builder *b, const noc_tensor *tensor, size_t in, size_t places)
{
    noc_weights from = load(b, tensor), to = {0};
    if (b->status == NOC_OK)
        b->status = noc_weights_create(from.count, &to, b->err);
    for (size_t i = 0; b->status == NOC_OK && i < from.count; i++) {
        size_t out = i / (in * places), channel = i / places % in, place = i % places;
        to.data[(out * places + place) * in + channel] = from.data[i];
    }
    noc_weights_free(&from);
    return to;
}

/* Appends op and gives the value it writes. */
static int append(builder *b, noc_op op, const char *name, const int grid[3], int channels)
{
    int value = 0, to[3] = {grid[0], grid[1], grid[2]};
    if (b->status == NOC_OK) {
        b->status = noc_plan_append(b->plan, &op, name, to, channels, &value, b->err);
    } else {
        noc_weights_free(&op.weight);
        noc_weights_free(&op.bias);
    }
    return value;
}

static const int *grid_of(const builder *b, int value)
{
    return b->plan->values[value].grid;
}

static int channels_of(const builder *b, int value)
{
    return b->plan->values[value].channels;
}

/* residual: a value, or -1. */
static int linear(builder *b, int input, const char *tensors, const char *name, int channels, int residual)
{
    noc_op op = noc_op_make(NOC_OP_LINEAR, input);
    op.weight = load(b, find(b, "%s.weight", tensors));
    op.bias = load(b, find(b, "%s.bias", tensors));
    op.residual = residual;
    return append(b, op, name, grid_of(b, input), channels);
}

static int layer_norm(builder *b, int input, const char *tensors, const char *name)
{
    noc_op op = noc_op_make(NOC_OP_LAYER_NORM, input);
    op.weight = load(b, find(b, "%s.weight", tensors));
    op.bias = load(b, find(b, "%s.bias", tensors));
    op.eps = norm_eps;
    return append(b, op, name, grid_of(b, input), channels_of(b, input));
}

static int conv(builder *b, int input, const char *tensors, const char *name, int channels,
                const int kernel[3], const int stride[3], const int padding[3])
{
    noc_op op = noc_op_make(NOC_OP_CONV, input);
    int grid[3];
    size_t places = 1;
    for (int axis = 0; axis < 3; axis++) {
        op.kernel[axis] = kernel[axis];
        op.stride[axis] = stride[axis];
        op.padding[axis] = padding[axis];
        places *= (size_t)kernel[axis];
        grid[axis] = (int)conv_size(grid_of(b, input)[axis], kernel[axis], stride[axis], padding[axis]);
    }
    op.weight = load_kernel(b, find(b, "%s.weight", tensors), (size_t)channels_of(b, input), places);
    op.bias = load(b, find(b, "%s.bias", tensors));
    return append(b, op, name, grid, channels);
}

/* BatchNorm with its running statistics as scale and shift. */
static int batch_norm(builder *b, int input, const char *tensors, const char *name)
{
    noc_op op = noc_op_make(NOC_OP_AFFINE, input);
    op.weight = load(b, find(b, "%s.weight", tensors));
    op.bias = load(b, find(b, "%s.bias", tensors));
    noc_weights mean = load(b, find(b, "%s.running_mean", tensors));
    noc_weights variance = load(b, find(b, "%s.running_var", tensors));
    for (size_t i = 0; b->status == NOC_OK && i < op.weight.count; i++) {
        op.weight.data[i] /= sqrt(variance.data[i] + norm_eps); /* NOLINT: all four were loaded */
        op.bias.data[i] -= mean.data[i] * op.weight.data[i];    /* NOLINT */
    }
    noc_weights_free(&mean);
    noc_weights_free(&variance);
    return append(b, op, name, grid_of(b, input), channels_of(b, input));
}

static int activation(builder *b, int input, noc_activation kind, const char *name)
{
    noc_op op = noc_op_make(NOC_OP_ACTIVATION, input);
    op.activation = kind;
    return append(b, op, name, grid_of(b, input), channels_of(b, input));
}

/* "PREFIX.NAME" in a buffer that lives until the caller's block ends. */
#define JOINED(prefix, name) (join((char[TENSOR_NAME]){0}, (prefix), (name)))

static const char *join(char text[TENSOR_NAME], const char *prefix, const char *name)
{
    snprintf(text, TENSOR_NAME, "%.90s.%.30s", prefix, name);
    return text;
}

/* What the keys are made from: the tokens, or fewer of them. */
static int reduce(builder *b, int stage, int input, const char *tensors, const char *name)
{
    int ratio = b->network->sr_ratios[stage];
    if (ratio == 1)
        return input;
    const int size[3] = {ratio, ratio, ratio}, none[3] = {0, 0, 0};
    int reduced =
        conv(b, input, JOINED(tensors, "sr"), JOINED(name, "sr"), channels_of(b, input), size, size, none);
    return layer_norm(b, reduced, JOINED(tensors, "sr_norm"), JOINED(name, "sr_norm"));
}

static int attention(builder *b, int stage, int input, int residual, const char *tensors, const char *name)
{
    int channels = channels_of(b, input), heads = b->network->num_heads[stage];
    int query = linear(b, input, JOINED(tensors, "query"), JOINED(name, "query"), channels, -1);
    int reduced = reduce(b, stage, input, tensors, name);
    int keys = linear(b, reduced, JOINED(tensors, "key_value"), JOINED(name, "key_value"), 2 * channels, -1);
    noc_op op = noc_op_make(NOC_OP_ATTENTION, query);
    op.input[op.input_count++] = keys;
    op.heads = heads;
    op.scale = 1 / sqrt(b->network->attention_scale == NOC_SCALE_NUM_HEADS ? heads : channels / heads);
    int attended = append(b, op, JOINED(name, "attention"), grid_of(b, query), channels);
    return linear(b, attended, JOINED(tensors, "proj"), JOINED(name, "proj"), channels, residual);
}

static int mix_ffn(builder *b, int stage, int input, int residual, const char *tensors, const char *name)
{
    int channels = channels_of(b, input), hidden = channels * b->network->mlp_ratios[stage];
    int wide = linear(b, input, JOINED(tensors, "fc1"), JOINED(name, "fc1"), hidden, -1);
    noc_op op = noc_op_make(NOC_OP_DWCONV, wide);
    op.weight = load_kernel(b, find(b, "%s.dwconv.dwconv.weight", tensors), (size_t)hidden, 27);
    op.bias = load(b, find(b, "%s.dwconv.dwconv.bias", tensors));
    int mixed = append(b, op, JOINED(name, "dwconv"), grid_of(b, wide), hidden);
    if (find(b, "%s.dwconv.bn.weight", tensors))
        mixed = batch_norm(b, mixed, JOINED(tensors, "dwconv.bn"), JOINED(name, "bn"));
    mixed = activation(b, mixed, NOC_ACTIVATION_GELU, JOINED(name, "gelu"));
    return linear(b, mixed, JOINED(tensors, "fc2"), JOINED(name, "fc2"), channels, residual);
}

static int block(builder *b, int stage, int i, int tokens)
{
    char tensors[64], name[32];
    snprintf(tensors, sizeof(tensors), "segformer_encoder.tf_block%d.%d", stage + 1, i);
    snprintf(name, sizeof(name), "stage%d.%d", stage + 1, i);
    int normed = layer_norm(b, tokens, JOINED(tensors, "norm1"), JOINED(name, "norm1"));
    tokens = attention(b, stage, normed, tokens, JOINED(tensors, "attention"), name);
    normed = layer_norm(b, tokens, JOINED(tensors, "norm2"), JOINED(name, "norm2"));
    return mix_ffn(b, stage, normed, tokens, JOINED(tensors, "mlp"), name);
}

static int encoder_stage(builder *b, int stage, int input)
{
    const noc_network_config *network = b->network;
    char tensors[64], name[32];
    snprintf(tensors, sizeof(tensors), "segformer_encoder.embed_%d", stage + 1);
    snprintf(name, sizeof(name), "embed%d", stage + 1);
    int tokens =
        conv(b, input, JOINED(tensors, "patch_embeddings"), JOINED(name, "conv"), network->embed_dims[stage],
             network->patch_kernel[stage], network->patch_stride[stage], network->patch_padding[stage]);
    tokens = layer_norm(b, tokens, JOINED(tensors, "norm"), JOINED(name, "norm"));
    for (int i = 0; i < network->depths[stage]; i++)
        tokens = block(b, stage, i, tokens);
    snprintf(tensors, sizeof(tensors), "segformer_encoder.norm%d", stage + 1);
    snprintf(name, sizeof(name), "c%d", stage + 1);
    return layer_norm(b, tokens, tensors, name);
}

static int decoder_scale(builder *b, int stage)
{
    char tensors[64], name[32];
    snprintf(tensors, sizeof(tensors), "segformer_decoder.linear_c%d", stage + 1);
    snprintf(name, sizeof(name), "decoder.c%d", stage + 1);
    int value = linear(b, b->plan->stages[stage], JOINED(tensors, "proj"), name, b->network->decoder_dim, -1);
    if (!find(b, "%s.bn.weight", tensors))
        return value;
    return layer_norm(b, value, JOINED(tensors, "bn"), JOINED(name, "norm"));
}

static int decoder(builder *b)
{
    int width = b->network->decoder_dim;
    noc_op concat = noc_op_make(NOC_OP_CONCAT, 0);
    concat.input_count = NOC_STAGES;
    for (int i = 0; i < NOC_STAGES; i++)
        concat.input[i] = decoder_scale(b, NOC_STAGES - 1 - i);
    const int *grid = grid_of(b, b->plan->stages[0]);
    int value = append(b, concat, "decoder.concat", grid, NOC_STAGES * width);
    value = linear(b, value, "segformer_decoder.linear_fuse.0", "decoder.fuse", width, -1);
    value = batch_norm(b, value, "segformer_decoder.linear_fuse.1", "decoder.bn");
    value = activation(b, value, NOC_ACTIVATION_RELU, "decoder.relu");
    return linear(b, value, "segformer_decoder.linear_pred", "logits", b->network->num_classes, -1);
}

noc_status noc_segformer3d_build(const noc_network_config *network, const noc_safetensors *weights,
                                 const int64_t window[3], noc_plan **plan, noc_error *err)
{
    builder b = {.network = network, .weights = weights, .err = err};
    b.prefix = noc_segformer3d_prefix(weights);
    noc_status status = noc_plan_create("segformer3d", window, network->in_channels, &b.plan, err);
    if (status != NOC_OK)
        return status;
    int value = 0;
    for (int s = 0; s < NOC_STAGES; s++)
        b.plan->stages[s] = value = encoder_stage(&b, s, value);
    b.plan->logits = decoder(&b);
    memcpy(b.plan->upsample, network->patch_stride[0], sizeof(b.plan->upsample));
    if (b.status == NOC_OK)
        *plan = b.plan;
    else
        noc_plan_free(b.plan);
    return b.status;
}
