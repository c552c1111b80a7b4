/* Plans made by hand; see graph_sample.h. */
#include "tests/graph_sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local uint64_t random_state; /* tests draw in several threads */

void seed_uniform(uint64_t seed)
{
    random_state = seed;
}

double uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 40) / 8388608.0 - 1;
}

int add_value(graph *g, int d, int h, int w, int channels)
{
    noc_value *v = &g->values[g->plan.value_count];
    *v = (noc_value){.grid = {d, h, w}, .channels = channels};
    if (g->plan.value_count > 0) {
        v->offset = g->plan.arena_floats;
        g->plan.arena_floats += ((size_t)(d * h * w) * (size_t)channels + 15) / 16 * 16;
    }
    g->plan.logits = g->plan.value_count;
    return g->plan.value_count++;
}

void start_graph(graph *g, int d, int h, int w, int channels)
{
    memset(g, 0, sizeof *g);
    random_state = (uint64_t)(d * 31 + h * 37 + w * 41 + channels);
    g->plan.values = g->values;
    g->plan.ops = g->ops;
    add_value(g, d, h, w, channels);
}

noc_weights weights_of(size_t count, double scale)
{
    noc_weights w = {malloc(count * sizeof(double) + 1), count};
    for (size_t i = 0; i < count; i++)
        w.data[i] = uniform() * scale;
    return w;
}

noc_op *add_op(graph *g, noc_op_kind kind, int input, int output)
{
    noc_op *op = &g->ops[g->plan.op_count++];
    *op = (noc_op){.kind = kind, .input = {input}, .input_count = 1, .residual = -1, .output = output};
    return op;
}

int add_linear(graph *g, int input, int columns, int tail)
{
    const noc_value *in = &g->values[input];
    int out = add_value(g, in->grid[0], in->grid[1], in->grid[2], columns);
    noc_op *op = add_op(g, NOC_OP_LINEAR, input, out);
    op->weight = weights_of((size_t)(columns + tail) * (size_t)in->channels, 1);
    op->bias = weights_of((size_t)(columns + tail), 1);
    op->tail = tail;
    op->tail_constant = tail ? 0.01 : 0;
    return out;
}

int add_conv(graph *g, int input, int columns, int kernel, int stride, int padding)
{
    const noc_value *in = &g->values[input];
    int grid[3];
    for (int a = 0; a < 3; a++)
        grid[a] = (in->grid[a] + 2 * padding - kernel) / stride + 1;
    int out = add_value(g, grid[0], grid[1], grid[2], columns);
    noc_op *op = add_op(g, NOC_OP_CONV, input, out);
    op->weight = weights_of((size_t)(columns * kernel * kernel * kernel * g->values[input].channels), 1);
    op->bias = weights_of((size_t)columns, 1);
    for (int a = 0; a < 3; a++) {
        op->kernel[a] = kernel;
        op->stride[a] = stride;
        op->padding[a] = padding;
    }
    return out;
}

int add_like(graph *g, noc_op_kind kind, int input)
{
    const noc_value *in = &g->values[input];
    int out = add_value(g, in->grid[0], in->grid[1], in->grid[2], in->channels);
    add_op(g, kind, input, out);
    return out;
}

size_t value_count(const noc_value *v)
{
    return (size_t)v->grid[0] * (size_t)v->grid[1] * (size_t)v->grid[2] * (size_t)v->channels;
}

double error_of(const graph *g, const float *out, const double *expected)
{
    const noc_value *v = &g->values[g->plan.logits];
    size_t count = value_count(v), channels = (size_t)v->channels, tokens = count / channels;
    double worst = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs(expected[i] - out[i % channels * tokens + i / channels]);
        largest = fmax(largest, fabs(expected[i]));
        worst = difference > worst || isnan(difference) ? difference : worst;
    }
    return largest > 0 ? worst / largest : worst;
}

void free_weights(graph *g)
{
    for (int i = 0; i < g->plan.op_count; i++) {
        free(g->ops[i].weight.data);
        free(g->ops[i].bias.data);
    }
}

void make_constant(noc_op *op, int heads, int dim, double value, double sign)
{
    size_t depth = op->weight.count / op->bias.count;
    for (int h = 0; h < heads; h++, value *= sign) {
        op->bias.data[h * dim] = value;
        for (size_t k = 0; k < depth; k++)
            op->weight.data[(size_t)(h * dim) * depth + k] = 0;
    }
}
