/* Every op of the CPU device at awkward shapes against plain loops over doubles, and gathering against a
 * naive loop; with every instruction set that opens here, and with the same bits for 1, 2, 3 and 19 threads.
 */
#include "engine/base/clock.h"
#include "engine/device.h"
#include "tests/gather_sample.h"
#include "tests/graph_sample.h"
#include "tests/reference_plan.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 3 };

/* Threads that cut the work differently; more than there are lines of most shapes. */
static const int cuts[] = {1, 2, 3, 19};
enum { CUTS = sizeof cuts / sizeof cuts[0] };

/* amx computes in bf16. */
static const char *const sets[] = {"amx", "avx512", "avx2", "portable"};
enum { SETS = sizeof sets / sizeof sets[0] };

/* NULL when this machine lacks the instruction set. */
static noc_device *open_device(const char *isa, int threads)
{
    noc_device *device = NULL;
    noc_error err;
    noc_precision precision = strcmp(isa, "amx") == 0 ? NOC_PRECISION_BF16 : NOC_PRECISION_F32;
    noc_status status = noc_cpu_ops.open(
        &(noc_device_options){.threads = threads, .isa = isa, .precision = precision}, &device, &err);
    if (status == NOC_EUNAVAILABLE && strcmp(isa, "portable") != 0)
        return NULL;
    ck_assert_int_eq(status, NOC_OK);
    return device;
}

/* An op that was computed on the way of a later one took no time of its own. */
static void check_steps(noc_device *device, const graph *g, const double *seconds)
{
    noc_device_info info;
    noc_cpu_ops.describe(device, &info);
    bool has_steps = g->has_steps && (!g->f16_steps || strcmp(info.isa, "amx") == 0);
    for (int i = 0; i < g->plan.op_count; i++)
        ck_assert_msg((seconds[i] > 0) == (g->last_of_step[i] || !has_steps), "%s: op %d: %g s", info.isa, i,
                      seconds[i]);
}

/* The same input as [channels][tokens] gives the same bits, whatever the window before it has left behind;
 * its steps take a part of its time. */
static void check_planar(noc_network *network, const graph *g, const float *input, noc_buffer *buffer,
                         const float *expected)
{
    size_t floats = value_count(&g->values[0]), channels = (size_t)g->values[0].channels,
           tokens = floats / channels, count = value_count(&g->values[g->plan.logits]), offset = 0;
    float *planar = malloc(floats * sizeof *planar), *out = malloc(count * sizeof *out);
    const noc_window_input inputs = {.host = planar};
    for (size_t i = 0; i < floats; i++)
        planar[i] = NAN;
    ck_assert_int_eq(noc_cpu_ops.network_run(network, 1, &inputs, true, &buffer, &offset, NULL), NOC_OK);
    for (size_t i = 0; i < floats; i++)
        planar[i % channels * tokens + i / channels] = input[i];
    double begin = noc_clock_monotonic();
    ck_assert_int_eq(noc_cpu_ops.network_run(network, 1, &inputs, true, &buffer, &offset, NULL), NOC_OK);
    double whole = noc_clock_monotonic() - begin, steps = noc_cpu_ops.batch_seconds(network);
    ck_assert_msg(steps > 0 && steps <= whole, "%g s of %g", steps, whole);
    ck_assert_int_eq(noc_cpu_ops.network_read(network, g->plan.logits, out, NULL), NOC_OK);
    ck_assert(memcmp(out, expected, count * sizeof *out) == 0);
    free(planar);
    free(out);
}

/* Logits of one device, planar, newly allocated. */
static float *run_on(noc_device *device, const graph *g, const float *input)
{
    noc_network *network = NULL;
    noc_buffer *buffer = NULL;
    noc_error err;
    size_t count = value_count(&g->values[g->plan.logits]), offset = 5;
    float *out = malloc(count * sizeof *out);
    ck_assert_int_eq(noc_cpu_ops.network_create(device, &g->plan, 1, NULL, &network, &err), NOC_OK);
    ck_assert_int_eq(noc_cpu_ops.buffer_create(device, (count + offset) * sizeof(float), &buffer, &err),
                     NOC_OK);
    ck_assert_int_eq(noc_cpu_ops.network_run(network, 1, &(noc_window_input){.host = input}, false, &buffer,
                                             &offset, &err),
                     NOC_OK);
    ck_assert_int_eq(noc_cpu_ops.network_read(network, g->plan.logits, out, &err), NOC_OK);
    check_planar(network, g, input, buffer, out);
    check_steps(device, g, noc_cpu_ops.network_seconds(network));
    noc_network_memory memory;
    noc_cpu_ops.network_memory(network, &memory);
    ck_assert_uint_ge(memory.arena, count * sizeof(float));
    noc_cpu_ops.buffer_free(buffer);
    noc_cpu_ops.network_free(network);
    return out;
}

/* Of the largest value. Products and their rounding to 8 bits: less than 1 % after a few of them. */
static double bf16_tolerance = 0.01;

/* Runs the graph everywhere; frees its weights. */
static void check_graph(graph *g, double tolerance)
{
    size_t count = value_count(&g->values[0]), out_count = value_count(&g->values[g->plan.logits]);
    float *input = malloc(count * sizeof *input);
    double *exact = malloc(count * sizeof *exact), **expected = NULL;
    for (size_t i = 0; i < count; i++)
        exact[i] = input[i] = (float)uniform();
    ck_assert_int_eq(reference_plan_run(&g->plan, exact, &expected, NULL), NOC_OK);
    for (int s = 0; s < SETS; s++) {
        float *first = NULL;
        for (int i = 0; i < CUTS; i++) {
            const int threads = cuts[i];
            noc_device *device = open_device(sets[s], threads);
            if (!device)
                break;
            float *out = run_on(device, g, input);
            if (!first) {
                double error = error_of(g, out, expected[g->plan.logits]);
                ck_assert_msg(error <= (strcmp(sets[s], "amx") == 0 ? bf16_tolerance : tolerance),
                              "%s: error %g of a %s, %d values", sets[s], error,
                              noc_op_name(g->ops[g->plan.op_count - 1].kind), (int)out_count);
                first = out;
            } else {
                ck_assert_msg(memcmp(first, out, out_count * sizeof *out) == 0,
                              "%s: other bits with %d threads", sets[s], threads);
                free(out);
            }
            noc_cpu_ops.close(device);
        }
        free(first);
    }
    reference_plan_free(&g->plan, expected);
    free_weights(g);
    free(exact);
    free(input);
}

START_TEST(linear)
{
    static const int shapes[][4] = {{1, 1, 1, 0},     {3, 5, 31, 0},     {13, 32, 32, 0},   {14, 33, 33, 0},
                                    {15, 8, 64, 0},   {127, 40, 3, 0},   {300, 130, 70, 0}, {29, 600, 100, 0},
                                    {17, 16, 24, 16}, {130, 40, 96, 41}, {5, 3, 1, 1},      {64, 64, 288, 64},
                                    {113, 7, 33, 0}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int variant = 0; variant < 4; variant++) {
            graph g;
            start_graph(&g, 1, 1, shapes[i][0], shapes[i][1]);
            int first = add_linear(&g, 0, shapes[i][2], 0);
            add_linear(&g, 0, shapes[i][2], shapes[i][3]);
            noc_op *op = &g.ops[1];
            if (variant & 1)
                op->residual = first;
            op->activation = variant == 2   ? NOC_ACTIVATION_GELU
                             : variant == 3 ? NOC_ACTIVATION_RELU
                                            : NOC_ACTIVATION_NONE;
            if (variant == 2) {
                free(op->bias.data);
                op->bias = (noc_weights){0};
            }
            check_graph(&g, 3e-6);
        }
}
END_TEST

START_TEST(conv)
{
    static const int shapes[][8] = {/* D, H, W, in, out, kernel, stride, padding */
                                    {13, 9, 21, 3, 5, 7, 4, 3},  {8, 8, 8, 4, 32, 7, 4, 3},
                                    {1, 1, 1, 2, 3, 7, 4, 3},    {5, 6, 7, 17, 70, 3, 2, 1},
                                    {4, 5, 9, 8, 16, 2, 2, 0},   {9, 4, 11, 5, 33, 4, 4, 0},
                                    {3, 3, 3, 160, 40, 3, 2, 1}, {2, 3, 17, 6, 10, 1, 1, 0},
                                    {6, 7, 19, 1, 1, 3, 1, 1},   {3, 2, 2, 9, 4, 5, 3, 2}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int *s = shapes[i];
        graph g;
        start_graph(&g, s[0], s[1], s[2], s[3]);
        add_conv(&g, 0, s[4], s[5], s[6], s[7]);
        check_graph(&g, 3e-6);
    }
}
END_TEST

START_TEST(layer_norm)
{
    static const int channels[] = {2, 7, 8, 16, 33, 40, 64, 160, 257};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++)
        for (int affine = 0; affine < 2; affine++) {
            graph g;
            start_graph(&g, 3, 5, 11 * (1 + affine * 20), channels[i]);
            add_like(&g, NOC_OP_LAYER_NORM, 0);
            g.ops[0].eps = 1e-5;
            if (affine) {
                g.ops[0].weight = weights_of((size_t)channels[i], 2);
                g.ops[0].bias = weights_of((size_t)channels[i], 2);
            }
            check_graph(&g, 3e-6);
        }
}
END_TEST

START_TEST(pointwise)
{
    static const int channels[] = {1, 5, 16, 37, 128};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++)
        for (int kind = 0; kind < 3; kind++) {
            graph g;
            start_graph(&g, 3, 7, 25, channels[i]);
            int wide = add_like(&g, NOC_OP_AFFINE, 0);
            g.ops[0].weight = weights_of((size_t)channels[i], 12);
            g.ops[0].bias = weights_of((size_t)channels[i], 2);
            if (kind > 0) {
                add_like(&g, NOC_OP_ACTIVATION, wide);
                g.ops[1].activation = kind == 1 ? NOC_ACTIVATION_GELU : NOC_ACTIVATION_RELU;
            }
            check_graph(&g, 1e-6);
        }
}
END_TEST

START_TEST(attention)
{
    /* STEEP: scores of hundreds; FAR: all of a row near +-250, which cancels; OWN: one head whose keys have
     * scores of their own, and a residual */
    enum { PLAIN, STEEP, FAR, OWN, KINDS };
    static const int shapes[][7] = {/* D, H, W, in, heads, dim, stride of the keys' grid */
                                    {2, 3, 5, 4, 1, 4, 1},   {3, 3, 7, 3, 2, 5, 2},   {1, 1, 1, 2, 3, 7, 1},
                                    {4, 4, 32, 3, 1, 32, 1}, {6, 8, 15, 3, 2, 32, 1}, {5, 7, 9, 4, 3, 20, 2},
                                    {1, 1, 33, 3, 1, 64, 1}, {2, 5, 13, 3, 2, 40, 1}, {3, 4, 5, 3, 5, 8, 2}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int kind = 0; kind < KINDS; kind++) {
            const int *s = shapes[i];
            graph g;
            start_graph(&g, s[0], s[1], s[2], s[3]);
            if (kind == OWN && s[4] > 1)
                continue;
            int q = add_linear(&g, 0, s[4] * s[5], 0),
                kv = add_conv(&g, 0, 2 * s[4] * s[5] + (kind == OWN), 1, s[6], 0);
            int out = add_value(&g, s[0], s[1], s[2], s[4] * s[5]);
            noc_op *op = add_op(&g, NOC_OP_ATTENTION, q, out);
            op->input[1] = kv;
            op->input_count = 2;
            op->heads = s[4];
            op->scale = kind == STEEP ? 3.0 : kind == FAR ? 1 : 1 / sqrt(s[5]);
            if (kind == OWN)
                op->residual = q;
            if (kind == FAR) {
                make_constant(&g.ops[0], s[4], s[5], 16, -1);
                make_constant(&g.ops[1], s[4], s[5], 16, 1);
            }
            /* steep: their rounding, times e^score, is the error */
            bf16_tolerance = kind == STEEP ? 2 : kind == FAR ? 0.1 : 0.02;
            check_graph(&g, kind == PLAIN ? 5e-6 : 1e-4);
            bf16_tolerance = 0.01;
        }
}
END_TEST

START_TEST(depthwise)
{
    static const int channels[] = {1, 5, 16, 33, 48};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++)
        for (int w = 1; w <= 19; w++) {
            graph g;
            start_graph(&g, 1 + w % 4, 1 + w % 7, w, channels[i]);
            add_like(&g, NOC_OP_DWCONV, 0);
            g.ops[0].weight = weights_of((size_t)channels[i] * 27, 1);
            g.ops[0].bias = weights_of((size_t)channels[i], 1);
            g.ops[0].activation = w % 2 ? NOC_ACTIVATION_GELU : NOC_ACTIVATION_NONE;
            for (int a = 0; a < 3; a++) {
                g.ops[0].kernel[a] = 3;
                g.ops[0].stride[a] = g.ops[0].padding[a] = 1;
            }
            check_graph(&g, 3e-6);
        }
}
END_TEST

START_TEST(joined)
{
    static const int shapes[][4] = {
        {8, 8, 8, 16}, {5, 7, 9, 3}, {2, 3, 17, 40}, {1, 1, 1, 5}, {13, 4, 10, 33}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int is_sum = 0; is_sum < 2; is_sum++) {
            const int *s = shapes[i];
            graph g;
            start_graph(&g, s[0], s[1], s[2], 2);
            int inputs[4] = {add_conv(&g, 0, s[3], 3, 4, 1), add_conv(&g, 0, is_sum ? s[3] : 7, 3, 2, 1),
                             add_linear(&g, 0, is_sum ? s[3] : 1, 0),
                             add_conv(&g, 0, is_sum ? s[3] : 16, 1, 1, 1)};
            int channels = 0;
            for (int t = 0; t < 4; t++)
                channels += g.values[inputs[t]].channels;
            int out = add_value(&g, s[0], s[1], s[2], is_sum ? s[3] : channels);
            noc_op *op = add_op(&g, is_sum ? NOC_OP_SUM : NOC_OP_CONCAT, 0, out);
            memcpy(op->input, inputs, sizeof inputs);
            op->input_count = 4;
            if (is_sum) {
                op->bias = weights_of((size_t)s[3], 1);
                op->activation = i % 2 ? NOC_ACTIVATION_RELU : NOC_ACTIVATION_NONE;
            }
            check_graph(&g, 3e-6);
        }
}
END_TEST

/* ---- steps of several ops ---- */

static int add_norm(graph *g, int input)
{
    int out = add_like(g, NOC_OP_LAYER_NORM, input);
    g->ops[g->plan.op_count - 1].eps = 1e-5;
    return out;
}

static void end_step(graph *g)
{
    g->has_steps = true;
    g->last_of_step[g->plan.op_count - 1] = true;
}

START_TEST(convolution_with_norm)
{
    static const int shapes[][8] = {/* D, H, W, in, out, kernel, stride, padding */
                                    {13, 9, 21, 3, 5, 7, 4, 3},   {16, 70, 37, 4, 32, 7, 4, 3},
                                    {25, 27, 9, 17, 70, 3, 2, 1}, {1, 1, 1, 2, 16, 7, 4, 3},
                                    {3, 3, 3, 160, 40, 3, 2, 1},  {24, 32, 24, 1, 16, 3, 2, 1},
                                    {9, 7, 66, 33, 24, 3, 2, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int *s = shapes[i];
        graph g;
        start_graph(&g, s[0], s[1], s[2], s[3]);
        add_norm(&g, add_conv(&g, 0, s[4], s[5], s[6], s[7]));
        g.ops[1].weight = weights_of((size_t)s[4], 2);
        g.ops[1].bias = weights_of((size_t)s[4], 2);
        end_step(&g);
        bf16_tolerance = 0.02;
        check_graph(&g, 1e-5);
        bf16_tolerance = 0.01;
    }
}
END_TEST

/* From the norm to the output, of the block whose input is x. is_single: as rewrite d leaves one head. */
static void add_attention(graph *g, int x, const int *s, bool is_single)
{
    const int channels = s[3] * s[4];
    int normed = add_norm(g, x), q = is_single ? normed : add_linear(g, normed, channels, 0),
        reduced = normed;
    if (s[5] > 1)
        reduced = add_norm(g, add_conv(g, normed, channels, s[5], s[5], 0));
    int kv = add_linear(g, reduced, 2 * channels + is_single, 0),
        out = add_value(g, s[0], s[1], s[2], channels);
    noc_op *op = add_op(g, NOC_OP_ATTENTION, q, out);
    op->input[1] = kv;
    op->input_count = 2;
    op->heads = s[3];
    op->scale = 0.3 / s[4];
    if (!is_single)
        add_linear(g, out, channels, 0);
    g->ops[g->plan.op_count - 1].residual = x;
    end_step(g);
}

START_TEST(attention_block)
{
    static const int shapes[][6] = {/* D, H, W, heads, dim, reduction */
                                    {9, 8, 13, 1, 32, 4}, {4, 5, 7, 2, 16, 2},    {8, 8, 8, 5, 32, 1},
                                    {5, 4, 11, 3, 20, 1}, {2, 2, 2, 1, 8, 2},     {6, 9, 17, 2, 40, 2},
                                    {1, 1, 1, 1, 16, 1},  {12, 12, 12, 1, 16, 4}, {3, 5, 6, 1, 48, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int *s = shapes[i];
        graph g;
        if (_i == 1 && s[3] > 1)
            continue;
        start_graph(&g, s[0], s[1], s[2], 3);
        int x = add_linear(&g, 0, s[3] * s[4], 0);
        end_step(&g);
        add_attention(&g, x, s, _i == 1);
        bf16_tolerance = 0.03;
        check_graph(&g, 1e-5);
        bf16_tolerance = 0.01;
    }
}
END_TEST

/* The block of value x; `scale` is that of fc1's weights. */
static void add_mixffn(graph *g, int x, int hidden_channels, double scale)
{
    int channels = g->values[x].channels, hidden = add_linear(g, add_norm(g, x), hidden_channels, 0);
    noc_weights *fc1 = &g->ops[g->plan.op_count - 1].weight;
    for (size_t i = 0; i < fc1->count; i++)
        fc1->data[i] *= scale;
    int mixed = add_like(g, NOC_OP_DWCONV, hidden);
    noc_op *op = &g->ops[g->plan.op_count - 1];
    op->weight = weights_of((size_t)hidden_channels * 27, 0.3);
    op->bias = weights_of((size_t)hidden_channels, 1);
    op->activation = NOC_ACTIVATION_GELU;
    for (int a = 0; a < 3; a++) {
        op->kernel[a] = 3;
        op->stride[a] = op->padding[a] = 1;
    }
    add_linear(g, mixed, channels, 0);
    g->ops[g->plan.op_count - 1].residual = x;
    end_step(g);
    g->f16_steps = g->plan.values[hidden].grid[0] * g->plan.values[hidden].grid[1] *
                       g->plan.values[hidden].grid[2] * hidden_channels <
                   1 << 19;
}

START_TEST(mixffn_block)
{
    static const int shapes[][5] = {
        /* D, H, W, channels, hidden: 2^19 values and more of it are one step in f32 */
        {16, 16, 16, 32, 128}, {17, 13, 19, 40, 130}, {3, 61, 33, 16, 96},
        {5, 2, 7, 24, 96},     {2, 130, 65, 8, 40},   {41, 37, 9, 33, 68},
        {4, 4, 4, 96, 384},    {3, 2, 9, 40, 70},     {1, 3, 1, 7, 5}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int *s = shapes[i];
        graph g;
        start_graph(&g, s[0], s[1], s[2], 3);
        int x = add_linear(&g, 0, s[3], 0);
        end_step(&g);
        add_mixffn(&g, x, s[4], 1);
        bf16_tolerance = 0.02;
        check_graph(&g, 1e-5);
        bf16_tolerance = 0.01;
    }
}
END_TEST

/* Hidden values far beyond the end of f16 give numbers; a token that is none reaches its neighbours, no
 * others. */
START_TEST(mixffn_range)
{
    enum { D = 5, H = 6, W = 19, CHANNELS = 32, TOKENS = D * H * W, AT = (2 * H + 3) * W + 9 };
    for (int s = 0; s < SETS; s++) {
        noc_device *device = open_device(sets[s], 1);
        if (!device)
            continue;
        graph g;
        start_graph(&g, D, H, W, CHANNELS);
        add_mixffn(&g, 0, 4 * CHANNELS, 1e6);
        float *input = malloc((size_t)TOKENS * CHANNELS * sizeof *input);
        for (int i = 0; i < TOKENS * CHANNELS; i++)
            input[i] = (float)uniform();
        for (int has_nan = 0; has_nan < 2; has_nan++) {
            if (has_nan)
                input[AT * CHANNELS + 5] = NAN;
            float *out = run_on(device, &g, input);
            for (int i = 0; i < TOKENS * CHANNELS; i++) {
                int token = i % TOKENS;
                bool is_near =
                    abs(token / (H * W) - 2) <= 1 && abs(token / W % H - 3) <= 1 && abs(token % W - 9) <= 1;
                ck_assert_msg(has_nan && is_near ? isnan(out[i]) : isfinite(out[i]), "%s: %g at token %d",
                              sets[s], (double)out[i], token);
            }
            free(out);
        }
        free(input);
        free_weights(&g);
        noc_cpu_ops.close(device);
    }
}
END_TEST

START_TEST(decoder_end)
{
    static const int shapes[][6] = {/* D, H, W, channels of the fine map, width, classes */
                                    {8, 8, 8, 16, 64, 3},   {9, 7, 33, 8, 40, 14}, {5, 3, 29, 32, 256, 2},
                                    {12, 4, 14, 24, 33, 1}, {2, 2, 2, 3, 5, 4},    {3, 19, 75, 7, 48, 17},
                                    {1, 6, 40, 40, 96, 33}, {5, 1, 9, 64, 17, 40}, {4, 11, 1, 33, 100, 3},
                                    {2, 1, 130, 5, 31, 16}, {6, 17, 6, 12, 32, 32}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int tail = 0; tail < 2; tail++) {
            const int *s = shapes[i], terms = 2 + (int)i % 3, fine_at = (int)(i + 2) % terms;
            graph g;
            start_graph(&g, s[0], s[1], s[2], s[3]);
            int inputs[4];
            for (int t = 0; t < terms; t++) {
                if (t == fine_at)
                    continue;
                inputs[t] = add_conv(&g, 0, s[4], 3, 2 << (t < fine_at ? t : t - 1), 1);
                end_step(&g);
            }
            /* leaves something where the decoder works */
            add_op(&g, NOC_OP_SUM, inputs[fine_at == 0], add_value(&g, s[0], s[1], s[2], s[4]));
            end_step(&g);
            inputs[fine_at] = add_linear(&g, 0, s[4], tail ? s[3] : 0);
            int sum = add_value(&g, s[0], s[1], s[2], s[4]);
            noc_op *op = add_op(&g, NOC_OP_SUM, 0, sum);
            memcpy(op->input, inputs, sizeof inputs);
            op->input_count = terms;
            if (i % 4 != 2)
                op->bias = weights_of((size_t)s[4], 1);
            op->activation = i % 4 == 3   ? NOC_ACTIVATION_GELU
                             : i % 4 == 2 ? NOC_ACTIVATION_NONE
                                          : NOC_ACTIVATION_RELU;
            add_linear(&g, sum, s[5], 0);
            end_step(&g);
            bf16_tolerance = 0.02;
            check_graph(&g, 1e-5);
            bf16_tolerance = 0.01;
        }
}
END_TEST

static void check_scene(scene *s, const int order[3], int flips)
{
    noc_gather *g = &s->gather;
    for (int set = 0; set < SETS; set++) {
        void *first = NULL;
        for (int threads = 1; threads <= THREADS; threads++) {
            noc_device *device = open_device(sets[set], threads);
            if (!device)
                break;
            noc_buffer *buffer = fill_buffer(&noc_cpu_ops, device, s);
            for (int i = 0; i < g->window_count; i++) {
                s->windows[i].logits = buffer;
                s->windows[i].offset = (size_t)i * s->floats;
            }
            int64_t origin, at[3];
            size_t bytes;
            void *out = gather_into(&noc_cpu_ops, device, s, order, flips, &origin, &bytes);
            for (at[0] = g->from[0]; !first && at[0] < g->to[0]; at[0]++)
                for (at[1] = g->from[1]; at[1] < g->to[1]; at[1]++)
                    for (at[2] = g->from[2]; at[2] < g->to[2]; at[2]++) {
                        int64_t place = origin;
                        for (int a = 0; a < 3; a++)
                            place += (at[a] - g->from[a]) * g->out_step[a];
                        check_voxel(s, at, element(out, g->element_bytes, place), (float *)out + place);
                    }
            if (first)
                ck_assert_mem_eq(first, out, bytes);
            noc_cpu_ops.buffer_free(buffer);
            noc_cpu_ops.close(device);
            if (first)
                free(out);
            else
                first = out;
        }
        free(first);
    }
}

static void check_kinds(scene *s)
{
    static const int orders[][3] = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}};
    static const noc_gather_kind kinds[] = {NOC_GATHER_LABELS, NOC_GATHER_REGIONS, NOC_GATHER_LOGITS};
    for (int i = 0; i < 3; i++)
        for (int shrink = 0; shrink < 2; shrink++) {
            noc_gather *g = &s->gather;
            g->kind = kinds[i];
            g->threshold = 0.3f;
            g->element_bytes = kinds[i] == NOC_GATHER_LOGITS ? 4 : g->classes > 8 ? 2 << shrink : 1 << shrink;
            set_box(s, shrink);
            check_scene(s, orders[(i + shrink) % 3], (i * 3 + shrink * 5) & 7);
        }
    free(s->importance);
    free(s->logits);
}

START_TEST(gather)
{
    static const int grids[][3] = {{4, 3, 5}, {2, 3, 9}, {3, 2, 4}, {2, 2, 17}};
    static const int upsamples[][3] = {{4, 4, 4}, {1, 2, 3}, {2, 1, 1}, {4, 3, 2}};
    static const int64_t windows[][3] = {{14, 12, 17}, {2, 5, 27}, {6, 2, 4}, {8, 6, 33}};
    static const int64_t volumes[][3] = {{14, 20, 41}, {5, 9, 40}, {9, 6, 6}, {8, 9, 60}};
    static const int classes[] = {3, 14, 1, 2};
    for (int i = 0; i < 4; i++)
        for (int is_weighted = 0; is_weighted < 2; is_weighted++) {
            scene s;
            start_scene(&s, grids[i], upsamples[i], windows[i], volumes[i], classes[i], is_weighted);
            check_kinds(&s);
        }
}
END_TEST

#if defined(__x86_64__)
/* MXCSR of this thread without the flags that any operation may raise. */
static unsigned mode_here(void)
{
    return __builtin_ia32_stmxcsr() & ~0x3fU;
}

/* Ops whose every product or input is denormal: flushed to zero, nothing is left. */
static void add_tiny_op(graph *g, int kind)
{
    static const noc_op_kind kinds[] = {NOC_OP_LINEAR, NOC_OP_CONV, NOC_OP_DWCONV, NOC_OP_AFFINE,
                                        NOC_OP_ACTIVATION};
    if (kinds[kind] == NOC_OP_LINEAR)
        add_linear(g, 0, 19, 0);
    else if (kinds[kind] == NOC_OP_CONV)
        add_conv(g, 0, 19, 3, 2, 1);
    else
        add_like(g, kinds[kind], 0);
    noc_op *op = &g->ops[0];
    if (kinds[kind] == NOC_OP_DWCONV || kinds[kind] == NOC_OP_AFFINE) {
        op->weight = weights_of((size_t)g->values[0].channels * (kinds[kind] == NOC_OP_AFFINE ? 1 : 27), 1);
        op->bias = weights_of((size_t)g->values[0].channels, 1);
    }
    for (int a = 0; kinds[kind] == NOC_OP_DWCONV && a < 3; a++) {
        op->kernel[a] = 3;
        op->stride[a] = op->padding[a] = 1;
    }
    op->activation = kinds[kind] == NOC_OP_ACTIVATION ? NOC_ACTIVATION_GELU : NOC_ACTIVATION_NONE;
}
enum { TINY_OPS = 5 };

/* 1e-39 is denormal itself: times 1e9 it would be seen. 1e-30 becomes so times 1e-10. */
static const struct {
    float input;
    double weight;
} tiny_values[] = {{1e-39F, 1e9}, {1e-30F, 1e-10}};

START_TEST(denormals_are_zeros)
{
    const unsigned own = mode_here();
    for (int kind = 0; kind < TINY_OPS; kind++)
        for (int v = 0; v < 2; v++) {
            graph g;
            start_graph(&g, 3, 5, 7, 6);
            add_tiny_op(&g, kind);
            size_t count = value_count(&g.values[0]), out_count = value_count(&g.values[1]);
            float *input = malloc(count * sizeof *input);
            for (size_t i = 0; i < count; i++)
                input[i] = g.ops[0].kind == NOC_OP_ACTIVATION && v == 1 ? 1.3e-38F : tiny_values[v].input;
            for (size_t i = 0; i < g.ops[0].weight.count; i++)
                g.ops[0].weight.data[i] = tiny_values[v].weight;
            for (size_t i = 0; i < g.ops[0].bias.count; i++)
                g.ops[0].bias.data[i] = 0;
            for (int s = 0; s < SETS; s++) {
                noc_device *device = open_device(sets[s], 2);
                if (!device)
                    continue;
                float *out = run_on(device, &g, input);
                for (size_t i = 0; i < out_count; i++)
                    ck_assert_msg(out[i] == 0, "%s, %s: [%zu] is %g", sets[s], noc_op_name(g.ops[0].kind), i,
                                  (double)out[i]);
                free(out);
                noc_cpu_ops.close(device);
            }
            free(input);
            free(g.ops[0].weight.data);
            free(g.ops[0].bias.data);
        }
    ck_assert_uint_eq(mode_here(), own);
}
END_TEST

/* The mode of each thread of a pool: every thread waits in its one piece for the others. */
typedef struct modes {
    pthread_barrier_t all_are_here;
    unsigned of_thread[THREADS];
} modes;

static void note_mode(void *argument, int i, int thread)
{
    modes *m = argument;
    (void)i;
    m->of_thread[thread] = mode_here();
    pthread_barrier_wait(&m->all_are_here);
}

static void check_modes(noc_device *device, unsigned wanted)
{
    modes m = {.of_thread = {0}};
    pthread_barrier_init(&m.all_are_here, NULL, THREADS);
    noc_cpu_ops.host_loop(device, THREADS, note_mode, &m);
    pthread_barrier_destroy(&m.all_are_here);
    for (int t = 0; t < THREADS; t++)
        ck_assert_uint_eq(m.of_thread[t], wanted);
}

typedef struct rounded {
    graph graph;
    float input[40 * 50 * 4];
    noc_network *network;
    noc_buffer *buffer;
} rounded;

/* Logits by a caller in a mode of its own. */
static void run_in_mode(rounded *r, unsigned mode, float *out)
{
    const unsigned own = mode_here();
    const noc_window_input input = {.host = r->input};
    const size_t offset = 0;
    __builtin_ia32_ldmxcsr(mode);
    noc_status status = noc_cpu_ops.network_run(r->network, 1, &input, false, &r->buffer, &offset, NULL);
    if (status == NOC_OK)
        status = noc_cpu_ops.network_read(r->network, r->graph.plan.logits, out, NULL);
    const unsigned after = mode_here();
    __builtin_ia32_ldmxcsr(own);
    ck_assert_int_eq(status, NOC_OK);
    ck_assert_uint_eq(after, mode);
}

/* A caller that rounds upwards and flushes nothing: no bit of it reaches the results, no thread's mode
 * changes. */
START_TEST(modes_are_their_threads_own)
{
    const unsigned own = mode_here(), upwards = (own | 0x4000U) & ~0x8040U;
    rounded r;
    start_graph(&r.graph, 1, 40, 50, 4);
    add_linear(&r.graph, 0, 70, 0);
    for (size_t i = 0; i < value_count(&r.graph.values[0]); i++)
        r.input[i] = (float)uniform();
    size_t bytes = value_count(&r.graph.values[1]) * sizeof(float);
    float *wanted = malloc(bytes), *out = malloc(bytes);
    for (int s = 0; s < SETS; s++) {
        noc_device *device = open_device(sets[s], THREADS);
        if (!device)
            continue;
        ck_assert_int_eq(noc_cpu_ops.network_create(device, &r.graph.plan, 1, NULL, &r.network, NULL),
                         NOC_OK);
        ck_assert_int_eq(noc_cpu_ops.buffer_create(device, bytes, &r.buffer, NULL), NOC_OK);
        run_in_mode(&r, own, wanted);
        run_in_mode(&r, upwards, out);
        ck_assert_msg(memcmp(out, wanted, bytes) == 0, "%s: other bits", sets[s]);
        check_modes(device, own);
        noc_cpu_ops.buffer_free(r.buffer);
        noc_cpu_ops.network_free(r.network);
        noc_cpu_ops.close(device);
    }
    free(wanted);
    free(out);
    free(r.graph.ops[0].weight.data);
    free(r.graph.ops[0].bias.data);
}
END_TEST
#endif

START_TEST(gather_ties)
{
    noc_device *device = open_device("portable", 1);
    scene s;
    static const int grid[3] = {2, 2, 2}, upsample[3] = {2, 2, 2}, order[3] = {0, 1, 2};
    static const int64_t size[3] = {4, 4, 4};
    start_scene(&s, grid, upsample, size, size, 4, false);
    for (size_t i = 0; i < s.floats; i++)
        s.logits[i] = i < 8 ? -1 : 1; /* classes 1, 2 and 3 are equal everywhere */
    noc_buffer *buffer = fill_buffer(&noc_cpu_ops, device, &s);
    s.windows[0].logits = buffer;
    s.gather.kind = NOC_GATHER_LABELS;
    s.gather.element_bytes = 1;
    set_box(&s, 0);
    int64_t origin;
    size_t bytes;
    uint8_t *out = gather_into(&noc_cpu_ops, device, &s, order, 0, &origin, &bytes);
    for (size_t i = 0; i < bytes; i++)
        ck_assert_uint_eq(out[i], 1);
    s.gather.kind = NOC_GATHER_REGIONS;
    s.gather.classes = 9;
    ck_assert_int_eq(noc_cpu_ops.gather(device, &s.gather, NULL), NOC_EINTERNAL);
    free(out);
    free(s.importance);
    free(s.logits);
    noc_cpu_ops.buffer_free(buffer);
    noc_cpu_ops.close(device);
}
END_TEST

/* Measured for every set: numbers that a share can be taken of. */
START_TEST(limits)
{
    for (int s = 0; s < SETS; s++) {
        noc_device *device = open_device(sets[s], 2);
        noc_device_limits l;
        if (!device)
            continue;
        ck_assert_int_eq(noc_cpu_ops.limits(device, &l, NULL), NOC_OK);
        ck_assert(isfinite(l.product_flops) && isfinite(l.vector_flops) && isfinite(l.bytes_per_second));
        ck_assert(l.vector_flops > 0 && l.bytes_per_second > 0);
        ck_assert(s == 0 ? l.product_flops > 0 : l.product_flops == l.vector_flops);
        noc_cpu_ops.close(device);
    }
}
END_TEST

START_TEST(find)
{
    const noc_device_ops *ops = NULL;
    int index = -1;
    noc_error err;
    ck_assert_int_eq(noc_device_find("cpu", &ops, &index, &err), NOC_OK);
    ck_assert(ops == &noc_cpu_ops && index == 0);
    ck_assert_int_eq(noc_device_find("cuda:3", &ops, &index, &err), NOC_OK);
    ck_assert(ops == &noc_cuda_ops && index == 3);
    ck_assert_int_eq(noc_device_find("auto", &ops, &index, &err), NOC_OK);
    ck_assert(noc_cuda_ops.count() > 0 ? ops == &noc_cuda_ops : ops == &noc_cpu_ops);
    ck_assert_int_eq(noc_device_find("cuda", &ops, &index, &err), NOC_OK);
    ck_assert(ops == &noc_cuda_ops && index < 0);
    static const char *const wrong[] = {"",        "gpu",     "cuda:", "cuda:x",
                                        "cuda:-1", "cuda:1x", "cpu:0", "cuda:99999"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_int_eq(noc_device_find(wrong[i], &ops, &index, &err), NOC_EUSAGE);
}
END_TEST

START_TEST(choice)
{
    noc_device *device = NULL;
    noc_error err;
    noc_device_info info;
    noc_device_options options = {.isa = "sse9"};
    ck_assert_int_eq(noc_cpu_ops.open(&options, &device, &err), NOC_EUSAGE);
    ck_assert_ptr_nonnull(strstr(err.text, "sse9"));
    options = (noc_device_options){.index = 1};
    ck_assert_int_eq(noc_cpu_ops.open(&options, &device, &err), NOC_EUNAVAILABLE);
    setenv("NOC_CPU_ISA", "portable", 1);
    options = (noc_device_options){.precision = NOC_PRECISION_BF16};
    ck_assert_int_eq(noc_cpu_ops.open(&options, &device, &err), NOC_OK);
    noc_cpu_ops.describe(device, &info);
    ck_assert_str_eq(info.kind, "cpu");
    ck_assert_str_eq(info.isa, "portable");
    ck_assert_str_eq(info.precision, "f32");
    ck_assert_int_ge(info.threads, 1);
    ck_assert_int_gt((int)strlen(info.name), 0);
    noc_cpu_ops.close(device);
    unsetenv("NOC_CPU_ISA");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device");
    TCase *ops = tcase_create("ops");
    tcase_set_timeout(ops, 300);
    tcase_add_test(ops, linear);
    tcase_add_test(ops, conv);
    tcase_add_test(ops, layer_norm);
    tcase_add_test(ops, pointwise);
    tcase_add_test(ops, attention);
    tcase_add_test(ops, depthwise);
    tcase_add_test(ops, joined);
    tcase_add_test(ops, convolution_with_norm);
    tcase_add_loop_test(ops, attention_block, 0, 2); /* several heads, and a single one after rewrite d */
    tcase_add_test(ops, mixffn_block);
    tcase_add_test(ops, mixffn_range);
    tcase_add_test(ops, decoder_end);
    suite_add_tcase(suite, ops);
    TCase *rest = tcase_create("device");
    tcase_set_timeout(rest, 300);
    tcase_add_test(rest, gather);
    tcase_add_test(rest, gather_ties);
    tcase_add_test(rest, limits);
#if defined(__x86_64__)
    tcase_add_test(rest, denormals_are_zeros);
    tcase_add_test(rest, modes_are_their_threads_own);
#endif
    tcase_add_test(rest, find);
    tcase_add_test(rest, choice);
    suite_add_tcase(suite, rest);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
