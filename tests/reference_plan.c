/* The ops of a plan as plain loops over doubles; see reference_plan.h. */
#include "tests/reference_plan.h"

#include "engine/base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t reference_tokens(const noc_plan *plan, int value)
{
    const int *grid = plan->values[value].grid;
    return (size_t)grid[0] * (size_t)grid[1] * (size_t)grid[2];
}

static double activate(noc_activation activation, double x)
{
    switch (activation) {
    case NOC_ACTIVATION_GELU:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case NOC_ACTIVATION_RELU:
        return x > 0 ? x : 0;
    default:
        return x;
    }
}

static double bias_of(const noc_op *op, int channel)
{
    return op->bias.data ? op->bias.data[channel] : 0;
}

/* One output channel of one place of a convolution. place: first input index along each axis, may be
 * negative. */
static double conv_at(const noc_op *op, const double *in, const int grid[3], int channels, const int place[3],
                      int o)
{
    const int *k = op->kernel;
    double sum = bias_of(op, o);
    for (int kd = 0; kd < k[0]; kd++)
        for (int kh = 0; kh < k[1]; kh++)
            for (int kw = 0; kw < k[2]; kw++) {
                int d = place[0] + kd, h = place[1] + kh, w = place[2] + kw;
                if (d < 0 || h < 0 || w < 0 || d >= grid[0] || h >= grid[1] || w >= grid[2])
                    continue;
                const double *x =
                    in + (((size_t)d * (size_t)grid[1] + (size_t)h) * (size_t)grid[2] + (size_t)w) *
                             (size_t)channels;
                const double *weight =
                    op->weight.data + (size_t)(((o * k[0] + kd) * k[1] + kh) * k[2] + kw) * (size_t)channels;
                for (int c = 0; c < channels; c++)
                    sum += weight[c] * x[c];
            }
    return sum;
}

static void run_conv(const noc_plan *plan, const noc_op *op, double *const *values)
{
    const noc_value *from = &plan->values[op->input[0]], *to = &plan->values[op->output];
    double *out = values[op->output];
    for (int d = 0; d < to->grid[0]; d++)
        for (int h = 0; h < to->grid[1]; h++)
            for (int w = 0; w < to->grid[2]; w++) {
                int place[3] = {d * op->stride[0] - op->padding[0], h * op->stride[1] - op->padding[1],
                                w * op->stride[2] - op->padding[2]};
                for (int o = 0; o < to->channels; o++)
                    *out++ = conv_at(op, values[op->input[0]], from->grid, from->channels, place, o);
            }
}

static double linear_row(const noc_op *op, const double *x, int channels, int row)
{
    double sum = bias_of(op, row);
    for (int c = 0; c < channels; c++)
        sum += op->weight.data[(size_t)row * (size_t)channels + (size_t)c] * x[c];
    return sum;
}

static void run_linear(const noc_plan *plan, const noc_op *op, double *const *values)
{
    size_t tokens = reference_tokens(plan, op->output);
    int in = plan->values[op->input[0]].channels, out = plan->values[op->output].channels;
    for (size_t t = 0; t < tokens; t++) {
        const double *x = values[op->input[0]] + t * (size_t)in;
        double *y = values[op->output] + t * (size_t)out;
        double square = op->tail_constant;
        for (int r = out; r < out + op->tail; r++)
            square += pow(linear_row(op, x, in, r), 2);
        for (int r = 0; r < out; r++) {
            double sum = linear_row(op, x, in, r);
            if (op->tail > 0)
                sum /= sqrt(square);
            if (op->residual >= 0)
                sum += values[op->residual][t * (size_t)out + (size_t)r];
            y[r] = activate(op->activation, sum);
        }
    }
}

static void run_layer_norm(const noc_plan *plan, const noc_op *op, double *const *values)
{
    size_t tokens = reference_tokens(plan, op->output);
    int channels = plan->values[op->output].channels;
    for (size_t t = 0; t < tokens; t++) {
        const double *x = values[op->input[0]] + t * (size_t)channels;
        double *y = values[op->output] + t * (size_t)channels;
        double mean = 0, variance = 0;
        for (int c = 0; c < channels; c++)
            mean += x[c] / channels;
        for (int c = 0; c < channels; c++)
            variance += (x[c] - mean) * (x[c] - mean) / channels;
        for (int c = 0; c < channels; c++) {
            double scale = op->weight.data ? op->weight.data[c] : 1;
            y[c] = (x[c] - mean) / sqrt(variance + op->eps) * scale + bias_of(op, c);
        }
    }
}

static void run_pointwise(const noc_plan *plan, const noc_op *op, double *const *values)
{
    int channels = plan->values[op->output].channels;
    size_t count = reference_tokens(plan, op->output) * (size_t)channels;
    for (size_t i = 0; i < count; i++) {
        double x = values[op->input[0]][i];
        int c = (int)(i % (size_t)channels);
        values[op->output][i] =
            op->kind == NOC_OP_AFFINE ? x * op->weight.data[c] + bias_of(op, c) : activate(op->activation, x);
    }
}

/* One head of one query: q and out point at the head's first column, k and v likewise in the first key, of
 * `row` columns. */
static void attend(const double *q, const double *kv, size_t row, size_t keys, int channels, int head_dim,
                   double scale, double *scores, double *out)
{
    double largest = -INFINITY, sum = 0;
    for (size_t m = 0; m < keys; m++) {
        scores[m] = row > 2 * (size_t)channels ? kv[m * row + row - 1] : 0;
        for (int i = 0; i < head_dim; i++)
            scores[m] += scale * q[i] * kv[m * row + (size_t)i];
        largest = fmax(largest, scores[m]);
    }
    for (size_t m = 0; m < keys; m++)
        sum += scores[m] = exp(scores[m] - largest);
    for (int i = 0; i < head_dim; i++) {
        out[i] = 0;
        for (size_t m = 0; m < keys; m++)
            out[i] += scores[m] / sum * kv[m * row + (size_t)(channels + i)];
    }
}

static void run_attention(const noc_plan *plan, const noc_op *op, double *const *values)
{
    size_t tokens = reference_tokens(plan, op->output), keys = reference_tokens(plan, op->input[1]);
    int channels = plan->values[op->output].channels, head_dim = channels / op->heads;
    double *scores = malloc(keys * sizeof(*scores));
    if (!scores)
        abort();
    for (size_t t = 0; t < tokens; t++)
        for (int h = 0; h < op->heads; h++) {
            size_t at = t * (size_t)channels + (size_t)(h * head_dim);
            attend(values[op->input[0]] + at, values[op->input[1]] + h * head_dim,
                   (size_t)plan->values[op->input[1]].channels, keys, channels, head_dim, op->scale, scores,
                   values[op->output] + at);
        }
    for (size_t i = 0; op->residual >= 0 && i < tokens * (size_t)channels; i++)
        values[op->output][i] += values[op->residual][i];
    free(scores);
}

static double dwconv_at(const noc_op *op, const double *in, const int grid[3], int channels, const int at[3],
                        int c)
{
    double sum = bias_of(op, c);
    for (int k = 0; k < 27; k++) {
        int d = at[0] + k / 9 - 1, h = at[1] + k / 3 % 3 - 1, w = at[2] + k % 3 - 1;
        if (d < 0 || h < 0 || w < 0 || d >= grid[0] || h >= grid[1] || w >= grid[2])
            continue;
        size_t token = ((size_t)d * (size_t)grid[1] + (size_t)h) * (size_t)grid[2] + (size_t)w;
        sum += op->weight.data[k * channels + c] * in[token * (size_t)channels + (size_t)c];
    }
    return activate(op->activation, sum);
}

static void run_dwconv(const noc_plan *plan, const noc_op *op, double *const *values)
{
    const noc_value *value = &plan->values[op->output];
    double *out = values[op->output];
    int at[3];
    for (at[0] = 0; at[0] < value->grid[0]; at[0]++)
        for (at[1] = 0; at[1] < value->grid[1]; at[1]++)
            for (at[2] = 0; at[2] < value->grid[2]; at[2]++)
                for (int c = 0; c < value->channels; c++)
                    *out++ = dwconv_at(op, values[op->input[0]], value->grid, value->channels, at, c);
}

/* Source of place `at` of `to` along an axis of `from`: two neighbours and the share of the second. */
static void source_of(int at, int from, int to, int *low, int *high, double *share)
{
    double x = (at + 0.5) * from / to - 0.5;
    x = x < 0 ? 0 : x;
    *low = (int)x;
    *low = *low < from - 1 ? *low : from - 1;
    *high = *low + 1 < from ? *low + 1 : from - 1;
    *share = x - *low;
}

static double resized_at(const double *in, const int grid[3], const int to[3], const int at[3], int channels,
                         int c)
{
    int places[3][2];
    double share[3], sum = 0;
    for (int axis = 0; axis < 3; axis++)
        source_of(at[axis], grid[axis], to[axis], &places[axis][0], &places[axis][1], &share[axis]);
    for (int corner = 0; corner < 8; corner++) {
        double weight = 1;
        size_t token = 0;
        for (int axis = 0; axis < 3; axis++) {
            int bit = corner >> axis & 1;
            weight *= bit ? share[axis] : 1 - share[axis];
            token = token * (size_t)grid[axis] + (size_t)places[axis][bit];
        }
        sum += weight * in[token * (size_t)channels + (size_t)c];
    }
    return sum;
}

void reference_resize(const double *in, const int grid[3], double *out, const int to[3], int channels)
{
    int at[3];
    for (at[0] = 0; at[0] < to[0]; at[0]++)
        for (at[1] = 0; at[1] < to[1]; at[1]++)
            for (at[2] = 0; at[2] < to[2]; at[2]++)
                for (int c = 0; c < channels; c++)
                    *out++ = resized_at(in, grid, to, at, channels, c);
}

/* SUM and CONCAT: each input resized to the output's grid, then added or put side by side. */
static void run_joined(const noc_plan *plan, const noc_op *op, double *const *values)
{
    const noc_value *to = &plan->values[op->output];
    size_t tokens = reference_tokens(plan, op->output), width = (size_t)to->channels, column = 0;
    double *out = values[op->output], *resized = calloc(tokens * width, sizeof(*resized));
    if (!resized)
        abort();
    for (size_t i = 0; i < tokens * width; i++)
        out[i] = op->kind == NOC_OP_SUM ? bias_of(op, (int)(i % width)) : 0;
    for (int k = 0; k < op->input_count; k++) {
        const noc_value *from = &plan->values[op->input[k]];
        size_t channels = (size_t)from->channels;
        reference_resize(values[op->input[k]], from->grid, resized, to->grid, from->channels);
        for (size_t i = 0; i < tokens * channels; i++)
            out[i / channels * width + column + i % channels] += resized[i];
        column += op->kind == NOC_OP_CONCAT ? channels : 0;
    }
    for (size_t i = 0; i < tokens * width; i++)
        out[i] = activate(op->activation, out[i]);
    free(resized);
}

void reference_op_run(const noc_plan *plan, const noc_op *op, double *const *values)
{
    switch (op->kind) {
    case NOC_OP_CONV:
        run_conv(plan, op, values);
        break;
    case NOC_OP_LINEAR:
        run_linear(plan, op, values);
        break;
    case NOC_OP_LAYER_NORM:
        run_layer_norm(plan, op, values);
        break;
    case NOC_OP_AFFINE:
    case NOC_OP_ACTIVATION:
        run_pointwise(plan, op, values);
        break;
    case NOC_OP_ATTENTION:
        run_attention(plan, op, values);
        break;
    case NOC_OP_DWCONV:
        run_dwconv(plan, op, values);
        break;
    case NOC_OP_SUM:
    case NOC_OP_CONCAT:
        run_joined(plan, op, values);
        break;
    }
}

void reference_plan_free(const noc_plan *plan, double **values)
{
    for (int v = 0; values && v < plan->value_count; v++)
        free(values[v]);
    free(values);
}

noc_status reference_plan_run(const noc_plan *plan, const double *input, double ***values, noc_error *err)
{
    double **made = noc_alloc_zeroed((size_t)plan->value_count, sizeof(*made), err);
    if (!made)
        return NOC_ENOMEMORY;
    for (int v = 0; v < plan->value_count; v++) {
        size_t count = reference_tokens(plan, v) * (size_t)plan->values[v].channels;
        made[v] = noc_alloc(count, sizeof(double), err);
        if (!made[v]) {
            reference_plan_free(plan, made);
            return NOC_ENOMEMORY;
        }
        if (v == 0)
            memcpy(made[v], input, count * sizeof(double));
    }
    for (int i = 0; i < plan->op_count; i++)
        reference_op_run(plan, &plan->ops[i], made);
    *values = made;
    return NOC_OK;
}

void reference_input(const int64_t size[3], int channels, unsigned seed, double *out)
{
    uint32_t voxels = (uint32_t)(size[0] * size[1] * size[2]);
    for (uint32_t i = 0; i < voxels * (uint32_t)channels; i++) {
        uint32_t u = (i + 1000003u * seed) * 2654435761u;
        u ^= u >> 15;
        u *= 2246822519u;
        u ^= u >> 13;
        /* u>>8 has 24 bits: exact in float, as the files have it. */
        out[(size_t)(i % voxels) * (size_t)channels + i / voxels] = (u >> 8) / 8388608.0 - 1;
    }
}
