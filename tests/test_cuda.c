/* Every op of the CUDA device at awkward shapes against plain loops over doubles, in each precision;
 * gathering against a naive loop; a whole network; what opens. The device is emulated
 * (tests/emulation), so the kernels' own sources run here. A window has the same bits alone and in a batch
 * whose other windows are no numbers. */
#include "engine/engine.h"
#include "tests/gather_sample.h"
#include "tests/graph_sample.h"
#include "tests/launches.h"
#include "tests/reference_plan.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 3 };

static const noc_device_ops *const ops = &noc_cuda_ops;
static const noc_precision precisions[] = {NOC_PRECISION_F32, NOC_PRECISION_F16, NOC_PRECISION_BF16};
enum { PRECISIONS = sizeof precisions / sizeof precisions[0] };

static noc_device *open_device(noc_precision precision)
{
    noc_device *device = NULL;
    noc_error err = {0};
    noc_status status = ops->open(&(noc_device_options){.threads = 2, .precision = precision}, &device, &err);
    ck_assert_msg(status == NOC_OK, "%s", err.text);
    return device;
}

/* ---- ops ---- */

/* Logits of one window out of a buffer, planar. */
static void read_buffer(noc_device *device, const noc_value *v, const noc_buffer *buffer, size_t offset,
                        float *out)
{
    noc_gather_window window = {.logits = buffer, .offset = offset};
    noc_gather g = {.kind = NOC_GATHER_LOGITS,
                    .classes = v->channels,
                    .upsample = {1, 1, 1},
                    .windows = &window,
                    .window_count = 1,
                    .element_bytes = 4,
                    .out = out,
                    .out_step = {v->grid[1] * v->grid[2], v->grid[2], 1},
                    .out_class_step = (int64_t)v->grid[0] * v->grid[1] * v->grid[2]};
    for (int a = 0; a < 3; a++)
        g.grid[a] = (int)(g.window[a] = g.to[a] = v->grid[a]);
    ck_assert_int_eq(ops->gather(device, &g, NULL), NOC_OK);
}

/* The input as [channels][tokens], and as the last of a batch: the same bits. */
static void check_same_bits(noc_device *device, noc_network *network, const graph *g, const float *input,
                            noc_buffer *buffer, const float *expected)
{
    const noc_value *in = &g->values[0], *logits = &g->values[g->plan.logits];
    size_t floats = value_count(in), channels = (size_t)in->channels, tokens = floats / channels;
    size_t count = value_count(logits), offsets[BATCH] = {0, count, 2 * count + 1};
    float *planar = malloc(floats * sizeof *planar), *none = malloc(floats * sizeof *none),
          *out = malloc(count * sizeof *out);
    for (size_t i = 0; i < floats; i++) {
        planar[i % channels * tokens + i / channels] = input[i];
        none[i] = NAN;
    }
    const noc_window_input inputs[BATCH] = {{.host = none}, {.host = none}, {.host = planar}};
    noc_buffer *const buffers[BATCH] = {buffer, buffer, buffer};
    ck_assert_int_eq(ops->network_run(network, BATCH, inputs, true, buffers, offsets, NULL), NOC_OK);
    read_buffer(device, logits, buffer, offsets[BATCH - 1], out);
    ck_assert_msg(memcmp(out, expected, count * sizeof *out) == 0, "%s: other bits in a batch",
                  noc_op_name(g->ops[g->plan.op_count - 1].kind));
    free(planar);
    free(none);
    free(out);
}

/* The same bits whether steps are launched one by one, as a graph, or with their time taken. */
static void check_graphs(noc_device *device, noc_network *network, const graph *g, const float *input,
                         noc_buffer *buffer, const float *expected)
{
    enum { RUNS = 4, TIMED = 3 };
    const noc_value *logits = &g->values[g->plan.logits];
    size_t count = value_count(logits);
    float *out = malloc(count * sizeof *out);
    noc_device_info info;
    ops->describe(device, &info);
    bool is_f32 = strcmp(info.precision, "f32") == 0;
    for (int i = 0; i < RUNS; i++) {
        const size_t offset = (size_t)i; /* a graph must not remember where logits went */
        const double *seconds = i < TIMED ? NULL : ops->network_seconds(network);
        ck_assert_int_eq(
            ops->network_run(network, 1, &(noc_window_input){.host = input}, false, &buffer, &offset, NULL),
            NOC_OK);
        read_buffer(device, logits, buffer, offset, out);
        ck_assert(memcmp(out, expected, count * sizeof *out) == 0);
        for (int op = 0; seconds && op < g->plan.op_count; op++) /* a fused step's time is its last op's */
            ck_assert(seconds[op] > 0 || (!is_f32 && op + 1 < g->plan.op_count));
    }
    free(out);
}

/* Logits, planar, newly allocated. */
static float *run_on(noc_device *device, const graph *g, const float *input)
{
    noc_network *network = NULL;
    noc_buffer *buffer = NULL;
    noc_error err = {0};
    noc_network_memory memory;
    size_t count = value_count(&g->values[g->plan.logits]), offset = 5;
    float *out = malloc(count * sizeof *out), *read = malloc(count * sizeof *read);
    ck_assert_msg(ops->network_create(device, &g->plan, BATCH, NULL, &network, &err) == NOC_OK, "%s",
                  err.text);
    ck_assert_int_eq(ops->buffer_create(device, (BATCH * count + offset) * sizeof(float), &buffer, &err),
                     NOC_OK);
    ck_assert_msg(ops->network_run(network, 1, &(noc_window_input){.host = input}, false, &buffer, &offset,
                                   &err) == NOC_OK,
                  "%s", err.text);
    ck_assert_int_eq(ops->network_read(network, g->plan.logits, read, &err), NOC_OK);
    read_buffer(device, &g->values[g->plan.logits], buffer, offset, out);
    for (size_t i = 0; i < count; i++) /* not by bits: a gathered -0 is 0 */
        ck_assert(out[i] == read[i] || (isnan(out[i]) && isnan(read[i])));
    check_same_bits(device, network, g, input, buffer, out);
    check_graphs(device, network, g, input, buffer, out);
    ops->network_memory(network, &memory);
    ck_assert_uint_ge(memory.arena, count * 2);
    ck_assert_uint_gt(memory.scratch, 0);
    ops->buffer_free(buffer);
    ops->network_free(network);
    free(read);
    return out;
}

/* Of the largest value: for f16 and bf16 a few roundings to 11 and 8 bits. */
static const double rounding[PRECISIONS] = {0, 3e-3, 2.5e-2};

/* Runs the graph in every precision; frees its weights. `steep`: times what rounding may cost. */
static void check_graph_steep(graph *g, double tolerance, double steep)
{
    size_t count = value_count(&g->values[0]);
    float *input = malloc(count * sizeof *input);
    double *exact = malloc(count * sizeof *exact), **expected = NULL;
    for (size_t i = 0; i < count; i++)
        exact[i] = input[i] = (float)uniform();
    ck_assert_int_eq(reference_plan_run(&g->plan, exact, &expected, NULL), NOC_OK);
    for (int p = 0; p < PRECISIONS; p++) {
        noc_device *device = open_device(precisions[p]);
        float *out = run_on(device, g, input);
        double error = error_of(g, out, expected[g->plan.logits]);
        ck_assert_msg(error <= tolerance + steep * rounding[p], "%s: error %g of a %s, %d values",
                      noc_precision_name(precisions[p]), error,
                      noc_op_name(g->ops[g->plan.op_count - 1].kind),
                      (int)value_count(&g->values[g->plan.logits]));
        free(out);
        ops->close(device);
    }
    reference_plan_free(&g->plan, expected);
    free_weights(g);
    free(exact);
    free(input);
}

static void check_graph(graph *g, double tolerance)
{
    check_graph_steep(g, tolerance, 1);
}

START_TEST(linear)
{
    static const int shapes[][4] = {/* rows, depth, columns, tail */
                                    {1, 1, 1, 0},    {3, 5, 31, 0},   {64, 16, 64, 0}, {65, 17, 65, 0},
                                    {17, 16, 24, 1}, {66, 9, 96, 65}, {5, 130, 3, 16}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int variant = 0; variant < 3; variant++) {
            graph g;
            start_graph(&g, 1, 1, shapes[i][0], shapes[i][1]);
            int first = add_linear(&g, 0, shapes[i][2], 0);
            add_linear(&g, 0, shapes[i][2], shapes[i][3]);
            noc_op *op = &g.ops[1];
            if (variant == 1)
                op->residual = first;
            op->activation = variant == 1 ? NOC_ACTIVATION_GELU : variant == 2 ? NOC_ACTIVATION_RELU : 0;
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
                                    {9, 6, 13, 3, 5, 7, 4, 3},  {1, 1, 1, 2, 3, 7, 4, 3},
                                    {5, 6, 7, 17, 70, 3, 2, 1}, {4, 5, 9, 8, 16, 2, 2, 0},
                                    {9, 4, 8, 5, 33, 4, 4, 0},  {2, 3, 17, 6, 10, 1, 1, 0},
                                    {3, 2, 2, 9, 4, 5, 3, 2}};
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
    static const int channels[] = {2, 7, 31, 32, 33, 160, 257};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++)
        for (int affine = 0; affine < 2; affine++) {
            graph g;
            start_graph(&g, 1, 3, 7, channels[i]);
            add_like(&g, NOC_OP_LAYER_NORM, 0);
            g.ops[0].eps = 1e-5;
            if (affine) {
                g.ops[0].weight = weights_of((size_t)channels[i], 2);
                g.ops[0].bias = weights_of((size_t)channels[i], 2);
            }
            /* two channels that are nearly equal: their difference is what rounding left of it */
            check_graph_steep(&g, channels[i] == 2 ? 1e-4 : 3e-6, channels[i] == 2 ? 20 : 1);
        }
}
END_TEST

START_TEST(pointwise)
{
    static const int channels[] = {1, 5, 64};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++)
        for (int kind = 0; kind < 3; kind++) {
            graph g;
            start_graph(&g, 3, 3, 9, channels[i]);
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
                                    {3, 3, 7, 3, 2, 5, 2},   {1, 1, 1, 2, 3, 1, 1},  {1, 4, 8, 3, 1, 32, 1},
                                    {1, 1, 33, 3, 1, 64, 1}, {2, 5, 7, 3, 2, 33, 1}, {1, 3, 6, 2, 1, 130, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int kind = 0; kind < KINDS; kind++) {
            const int *s = shapes[i];
            graph g;
            if (kind == OWN && s[4] > 1)
                continue;
            start_graph(&g, s[0], s[1], s[2], s[3]);
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
            check_graph_steep(&g, kind == PLAIN ? 5e-6 : 1e-4, kind == STEEP ? 100 : kind == FAR ? 8 : 2);
        }
}
END_TEST

START_TEST(head_dims)
{
    static const int dims[] = {127, 129, 512, 513};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        graph g;
        start_graph(&g, 1, 1, 3, 2);
        int q = add_linear(&g, 0, dims[i], 0), kv = add_linear(&g, 0, 2 * dims[i], 0);
        noc_op *op = add_op(&g, NOC_OP_ATTENTION, q, add_value(&g, 1, 1, 3, dims[i]));
        op->input[1] = kv;
        op->input_count = 2;
        op->heads = 1;
        op->scale = 0.05;
        if (dims[i] <= 512) {
            check_graph(&g, 5e-6);
            continue;
        }
        noc_device *device = open_device(NOC_PRECISION_F16);
        noc_network *network = NULL;
        noc_error err = {0};
        ck_assert_int_eq(ops->network_create(device, &g.plan, 1, NULL, &network, &err), NOC_EUNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(err.text, "513"));
        ops->close(device);
        free_weights(&g);
    }
}
END_TEST

START_TEST(depthwise)
{
    static const int channels[] = {1, 5, 33};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++)
        for (int w = 1; w <= 9; w += 2) {
            graph g;
            start_graph(&g, 1 + w % 4, 1 + w % 3, w, channels[i]);
            add_like(&g, NOC_OP_DWCONV, 0);
            g.ops[0].weight = weights_of((size_t)channels[i] * 27, 1);
            g.ops[0].bias = weights_of((size_t)channels[i], 1);
            g.ops[0].activation = w % 4 == 1 ? NOC_ACTIVATION_GELU : NOC_ACTIVATION_NONE;
            check_graph(&g, 3e-6);
        }
}
END_TEST

START_TEST(joined)
{
    static const int shapes[][4] = {{5, 7, 6, 3}, {2, 3, 11, 17}, {1, 1, 1, 5}, {9, 4, 5, 8}};
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

/* A norm that is read again when its own input is gone. */
START_TEST(norm_read_later)
{
    graph g;
    start_graph(&g, 1, 4, 9, 8);
    int norm = add_like(&g, NOC_OP_LAYER_NORM, add_linear(&g, 0, 8, 0));
    g.ops[1].eps = 1e-5;
    int other = add_linear(&g, add_linear(&g, add_linear(&g, norm, 8, 0), 8, 0), 8, 0),
        later = add_linear(&g, norm, 8, 0);
    g.ops[g.plan.op_count - 1].residual = other;
    add_linear(&g, later, 8, 0);
    check_graph(&g, 3e-6);
}
END_TEST

/* Far beyond the end of f16: numbers stay numbers. */
START_TEST(range)
{
    for (int p = 0; p < PRECISIONS; p++) {
        noc_device *device = open_device(precisions[p]);
        graph g;
        start_graph(&g, 1, 1, 5, 3);
        add_linear(&g, add_linear(&g, 0, 7, 0), 2, 0);
        for (size_t i = 0; i < g.ops[0].weight.count; i++)
            g.ops[0].weight.data[i] *= 60000;
        float input[15];
        for (int i = 0; i < 15; i++)
            input[i] = (float)uniform() * 1000;
        float *out = run_on(device, &g, input);
        for (int i = 0; i < 10; i++)
            ck_assert_msg(isfinite(out[i]), "%s: %g", noc_precision_name(precisions[p]), (double)out[i]);
        free(out);
        free_weights(&g);
        ops->close(device);
    }
}
END_TEST

START_TEST(limits)
{
    noc_device *device = open_device(NOC_PRECISION_F32);
    noc_device_limits l;
    ck_assert_int_eq(ops->limits(device, &l, NULL), NOC_OK);
    ck_assert(isfinite(l.product_flops) && l.product_flops > 0 && l.product_flops == l.vector_flops);
    ck_assert(isfinite(l.bytes_per_second) && l.bytes_per_second > 0);
    ops->close(device);
}
END_TEST

/* ---- gathering ---- */

static void check_scene(scene *s, noc_device *device, const noc_buffer *buffer, const int order[3], int flips)
{
    noc_gather *g = &s->gather;
    for (int i = 0; i < g->window_count; i++) {
        s->windows[i].logits = buffer;
        s->windows[i].offset = (size_t)i * s->floats;
    }
    int64_t origin, at[3];
    size_t bytes;
    void *out = gather_into(ops, device, s, order, flips, &origin, &bytes);
    for (at[0] = g->from[0]; at[0] < g->to[0]; at[0]++)
        for (at[1] = g->from[1]; at[1] < g->to[1]; at[1]++)
            for (at[2] = g->from[2]; at[2] < g->to[2]; at[2]++) {
                int64_t place = origin;
                for (int a = 0; a < 3; a++)
                    place += (at[a] - g->from[a]) * g->out_step[a];
                check_voxel(s, at, element(out, g->element_bytes, place), (float *)out + place);
            }
    free(out);
}

START_TEST(gather)
{
    static const int orders[][3] = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}};
    static const noc_gather_kind kinds[] = {NOC_GATHER_LABELS, NOC_GATHER_REGIONS, NOC_GATHER_LOGITS};
    static const int grids[][3] = {{4, 3, 5}, {2, 3, 9}, {3, 2, 4}};
    static const int upsamples[][3] = {{4, 4, 4}, {1, 2, 3}, {2, 1, 1}};
    static const int64_t windows[][3] = {{14, 12, 17}, {2, 5, 27}, {6, 2, 4}};
    static const int64_t volumes[][3] = {{14, 20, 25}, {5, 9, 40}, {9, 6, 6}};
    static const int classes[] = {3, 14, 1};
    for (int i = 0; i < 3; i++)
        for (int is_weighted = 0; is_weighted < 2; is_weighted++) {
            scene s;
            noc_device *device = open_device(NOC_PRECISION_F16);
            start_scene(&s, grids[i], upsamples[i], windows[i], volumes[i], classes[i], is_weighted);
            noc_buffer *buffer = fill_buffer(ops, device, &s);
            if (is_weighted)
                ck_assert_int_eq(ops->gather_reserve(device, &s.gather, NULL), NOC_OK);
            for (int k = 0; k < 3; k++) {
                s.gather.kind = kinds[k];
                s.gather.threshold = 0.3f;
                s.gather.element_bytes = kinds[k] == NOC_GATHER_LOGITS ? 4 : classes[i] > 8 ? 2 << k : 1 << k;
                set_box(&s, k % 2);
                check_scene(&s, device, buffer, orders[(i + k) % 3], (k * 3 + i * 5) & 7);
            }
            ops->buffer_free(buffer);
            ops->close(device);
            free(s.importance);
            free(s.logits);
        }
}
END_TEST

START_TEST(gather_ties)
{
    enum { CLASSES = 6 };
    static const int grid[3] = {2, 2, 2}, order[3] = {0, 1, 2};
    static const int64_t size[3] = {4, 4, 4};
    noc_device *device = open_device(NOC_PRECISION_F32);
    scene s;
    start_scene(&s, grid, grid, size, size, CLASSES, false);
    for (size_t i = 0; i < s.floats; i++)
        s.logits[i] = i < 8 ? -1 : 1; /* all classes but 0 are equal everywhere */
    noc_buffer *buffer = fill_buffer(ops, device, &s);
    s.windows[0].logits = buffer;
    s.gather.kind = NOC_GATHER_LABELS;
    s.gather.element_bytes = 1;
    set_box(&s, 0);
    int64_t origin;
    size_t bytes;
    uint8_t *out = gather_into(ops, device, &s, order, 0, &origin, &bytes);
    for (size_t i = 0; i < bytes; i++)
        ck_assert_uint_eq(out[i], 1);
    free(out);
    free(s.importance);
    free(s.logits);
    ops->buffer_free(buffer);
    ops->close(device);
}
END_TEST

START_TEST(gather_refuses)
{
    noc_device *device = open_device(NOC_PRECISION_F32);
    noc_gather g = {.kind = NOC_GATHER_REGIONS, .classes = 9, .element_bytes = 1};
    ck_assert_int_eq(ops->gather(device, &g, NULL), NOC_EINTERNAL);
    ops->close(device);
}
END_TEST

/* ---- whole networks ---- */

/* Logits of the small model of tests/data for one window, newly allocated. */
static float *forward(const char *device, noc_precision precision, const float *input, size_t *count)
{
    noc_engine_options options = NOC_ENGINE_DEFAULTS;
    noc_model *model = NULL;
    noc_engine *engine = NULL;
    noc_error err = {0};
    options.device = device;
    options.host = (noc_device_options){.threads = 2, .precision = precision};
    for (int a = 0; a < 3; a++)
        options.window[a] = 32;
    ck_assert_msg(noc_model_load("tests/data/models/tiny", &model, &err) == NOC_OK, "%s", err.text);
    ck_assert_msg(noc_engine_open(&options, model, &engine, &err) == NOC_OK, "%s", err.text);
    const noc_value *v = &noc_engine_plan(engine)->values[noc_engine_plan(engine)->logits];
    *count = value_count(v) * 64;
    float *out = malloc(*count * sizeof *out);
    ck_assert_msg(noc_engine_forward(engine, 1, input, out, &err) == NOC_OK, "%s", err.text);
    noc_engine_close(engine);
    noc_model_free(model);
    return out;
}

START_TEST(whole_network)
{
    static const double bounds[PRECISIONS] = {2e-5, 5e-3, 4e-2};
    enum { FLOATS = 2 * 32 * 32 * 32 };
    float *input = malloc(FLOATS * sizeof *input);
    size_t count;
    seed_uniform(1);
    for (int i = 0; i < FLOATS; i++)
        input[i] = (float)uniform();
    float *expected = forward("cpu", NOC_PRECISION_F32, input, &count);
    for (int p = 0; p < PRECISIONS; p++) {
        float *out = forward("cuda", precisions[p], input, &count);
        double worst = 0, largest = 0;
        for (size_t i = 0; i < count; i++) {
            double difference = fabs((double)out[i] - (double)expected[i]);
            worst = difference > worst || isnan(difference) ? difference : worst;
            largest = fmax(largest, fabs((double)expected[i]));
        }
        ck_assert_msg(worst <= bounds[p] * largest, "%s: %g of %g", noc_precision_name(precisions[p]), worst,
                      largest);
        free(out);
    }
    free(expected);
    free(input);
}
END_TEST

/* ---- opening ---- */

static void check_refusal(noc_device_options options, noc_status status, const char *text)
{
    noc_device *device = NULL;
    noc_error err = {0};
    ck_assert_int_eq(ops->open(&options, &device, &err), status);
    ck_assert_msg(strstr(err.text, text) != NULL, "\"%s\" has no \"%s\"", err.text, text);
    ck_assert_ptr_null(device);
}

/* Machines without a driver, with an old one, with two GPUs: only the emulated one can be each. */
START_TEST(opening)
{
    noc_device_info info;
    if (!emu_launches)
        return;
    setenv("EMU_DRIVER", "0", 1);
    check_refusal((noc_device_options){0}, NOC_EUNAVAILABLE, "no NVIDIA driver");
    setenv("EMU_DRIVER", "9020", 1);
    check_refusal((noc_device_options){0}, NOC_EUNAVAILABLE, "too old: it knows CUDA 9.2");
    unsetenv("EMU_DRIVER");
    setenv("EMU_DEVICES", "0", 1);
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    check_refusal((noc_device_options){0}, NOC_EUNAVAILABLE, "CUDA_VISIBLE_DEVICES is empty");
    unsetenv("CUDA_VISIBLE_DEVICES");
    check_refusal((noc_device_options){0}, NOC_EUNAVAILABLE, "no CUDA device");
    setenv("EMU_DEVICES", "2", 1);
    check_refusal((noc_device_options){.index = 2}, NOC_EUNAVAILABLE, "no CUDA device 2: 2 can be seen");
    check_refusal((noc_device_options){.threads = -1}, NOC_EUSAGE, "threads");
    noc_device *second = NULL;
    ck_assert_int_eq(
        ops->open(&(noc_device_options){.index = 1, .precision = NOC_PRECISION_AUTO}, &second, NULL), NOC_OK);
    ops->describe(second, &info);
    ck_assert_str_eq(info.kind, "cuda");
    ck_assert_str_eq(info.isa, "sm_90");
    ck_assert_str_eq(info.precision, "f16");
    ck_assert_str_eq(info.uuid, "GPU-00000000-0000-0000-0000-000000000001");
    ck_assert_ptr_nonnull(strstr(info.library, "CUDA"));
    ck_assert_int_ge(info.threads, 1);
    ops->close(second);
    unsetenv("EMU_DEVICES");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda");
    TCase *tests = tcase_create("cuda");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, opening);
    tcase_add_test(tests, linear);
    tcase_add_test(tests, conv);
    tcase_add_test(tests, layer_norm);
    tcase_add_test(tests, pointwise);
    tcase_add_test(tests, attention);
    tcase_add_test(tests, head_dims);
    tcase_add_test(tests, depthwise);
    tcase_add_test(tests, joined);
    tcase_add_test(tests, norm_read_later);
    tcase_add_test(tests, range);
    tcase_add_test(tests, gather);
    tcase_add_test(tests, gather_ties);
    tcase_add_test(tests, gather_refuses);
    tcase_add_test(tests, limits);
    tcase_add_test(tests, whole_network);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
