/* Whole networks on the CPU device against golden tensors: logits and c1 to c4, every instruction set,
 * rewrites on and off, batches and threads. The small network lies in tests/data; with NOC_REFERENCE_DIR all
 * golden files are compared. */
#include "engine/device.h"
#include "engine/safetensors.h"
#include "engine/segformer3d.h"
#include "tests/reference_weights.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* amx computes in bf16. */
static const char *const sets[] = {"amx", "avx512", "avx2", "portable"};
enum { SETS = sizeof sets / sizeof sets[0] };

typedef struct golden {
    const char *name, *weights;
    int channels, classes;
    bool is_tiny;
    noc_attention_scale scale;
    int64_t window[3];
} golden;

/* The first two are in tests/data. */
static const golden files[] = {
    {"tiny_32x32x32", "tiny", 2, 3, true, NOC_SCALE_HEAD_DIM, {32, 32, 32}},
    {"tiny_37x45x29", "tiny", 2, 3, true, NOC_SCALE_HEAD_DIM, {37, 45, 29}},
    {"tiny_48x40x56", "tiny", 2, 3, true, NOC_SCALE_HEAD_DIM, {48, 40, 56}},
    {"tiny_legacy_48x40x56", "tiny", 2, 3, true, NOC_SCALE_NUM_HEADS, {48, 40, 56}},
    {"brats_64x64x64", "brats", 4, 3, false, NOC_SCALE_HEAD_DIM, {64, 64, 64}},
    {"brats_legacy_64x64x64", "brats", 4, 3, false, NOC_SCALE_NUM_HEADS, {64, 64, 64}},
    {"brats_96x128x160", "brats", 4, 3, false, NOC_SCALE_HEAD_DIM, {96, 128, 160}},
    {"brats_128x128x128", "brats", 4, 3, false, NOC_SCALE_HEAD_DIM, {128, 128, 128}},
    {"brats_legacy_128x128x128", "brats", 4, 3, false, NOC_SCALE_NUM_HEADS, {128, 128, 128}},
    {"synapse_64x128x128", "synapse", 1, 14, false, NOC_SCALE_HEAD_DIM, {64, 128, 128}},
    {"acdc_14x160x160", "acdc", 1, 4, false, NOC_SCALE_HEAD_DIM, {14, 160, 160}},
};
enum { FILES = sizeof files / sizeof files[0], COMMITTED = 2 };

static noc_safetensors *open_golden(const char *name, const char *suffix)
{
    const char *reference = getenv("NOC_REFERENCE_DIR");
    char path[512];
    noc_safetensors *file = NULL;
    noc_error err;
    snprintf(path, sizeof path, "%s/golden/%s%s.safetensors", reference ? reference : "tests/data", name,
             suffix);
    ck_assert_msg(noc_safetensors_open(path, &file, &err) == NOC_OK, "%s", path);
    return file;
}

static noc_network_config config_of(const golden *file)
{
    noc_network_config config = {.in_channels = file->channels,
                                 .num_classes = file->classes,
                                 .decoder_dim = file->is_tiny ? 32 : 256,
                                 .attention_scale = file->scale,
                                 .num_heads = {1, 2, 5, 8},
                                 .sr_ratios = {4, 2, 1, 1}};
    static const int tiny[] = {8, 16, 40, 64}, full[] = {32, 64, 160, 256};
    for (int s = 0; s < NOC_STAGES; s++) {
        config.embed_dims[s] = file->is_tiny ? tiny[s] : full[s];
        config.depths[s] = 2;
        config.mlp_ratios[s] = 4;
        for (int a = 0; a < 3; a++) {
            config.patch_kernel[s][a] = s == 0 ? 7 : 3;
            config.patch_stride[s][a] = s == 0 ? 4 : 2;
            config.patch_padding[s][a] = s == 0 ? 3 : 1;
        }
    }
    return config;
}

static noc_plan *plan_of(const golden *file, unsigned rewrites, bool keep_stages)
{
    noc_safetensors *weights = open_golden(file->weights, "_weights");
    noc_network_config config = config_of(file);
    noc_plan *plan = NULL;
    ck_assert_int_eq(noc_segformer3d_build(&config, weights, file->window, &plan, NULL), NOC_OK);
    ck_assert_int_eq(noc_plan_rewrite(plan, rewrites, NULL), NOC_OK);
    ck_assert_int_eq(noc_plan_arrange(plan, keep_stages, NULL), NOC_OK);
    noc_safetensors_close(weights);
    return plan;
}

/* The formula of the golden files, as tokens [D*H*W][channels]. */
static float *formula_input(const golden *file, uint32_t seed)
{
    size_t voxels = (size_t)(file->window[0] * file->window[1] * file->window[2]),
           channels = (size_t)file->channels;
    float *input = malloc(voxels * channels * sizeof *input);
    for (size_t i = 0; i < voxels * channels; i++) {
        uint32_t u = ((uint32_t)i + 1000003u * seed) * 2654435761u;
        u ^= u >> 15;
        u *= 2246822519u;
        u ^= u >> 13;
        input[i % voxels * channels + i / voxels] = (float)(u >> 8) / 8388608.0f - 1;
    }
    return input;
}

static bool is_bf16(const char *isa)
{
    return isa && strcmp(isa, "amx") == 0;
}

/* Of the largest logit. bf16 keeps 8 bits of every factor; the old attention scale makes scores, and so
 * errors, larger. */
static double bound_of(const char *isa, double f32)
{
    return is_bf16(isa) ? 4e-2 : f32;
}

/* A device with one network and room for the logits of a few windows. */
typedef struct rig {
    noc_device *device;
    noc_network *network;
    noc_buffer *buffer;
    size_t floats; /* of one window's logits */
} rig;

enum { ROOM = 3 };

/* False when this machine lacks the instruction set. */
static bool open_rig(rig *r, const char *isa, int threads, const noc_plan *plan)
{
    noc_error err;
    noc_precision precision = is_bf16(isa) ? NOC_PRECISION_BF16 : NOC_PRECISION_F32;
    noc_status status = noc_cpu_ops.open(
        &(noc_device_options){.threads = threads, .isa = isa, .precision = precision}, &r->device, &err);
    if (status == NOC_EUNAVAILABLE)
        return false;
    ck_assert_int_eq(status, NOC_OK);
    const noc_value *v = &plan->values[plan->logits];
    r->floats = (size_t)v->grid[0] * (size_t)v->grid[1] * (size_t)v->grid[2] * (size_t)v->channels;
    ck_assert_int_eq(noc_cpu_ops.network_create(r->device, plan, ROOM, NULL, &r->network, &err), NOC_OK);
    ck_assert_int_eq(noc_cpu_ops.buffer_create(r->device, ROOM * r->floats * sizeof(float), &r->buffer, &err),
                     NOC_OK);
    return true;
}

static void close_rig(rig *r)
{
    noc_cpu_ops.buffer_free(r->buffer);
    noc_cpu_ops.network_free(r->network);
    noc_cpu_ops.close(r->device);
}

/* Logits of one window at full size, [classes][grid * upsample]. */
static float *full_logits(const rig *r, const noc_plan *plan, size_t offset)
{
    const noc_value *v = &plan->values[plan->logits];
    noc_gather_window window = {.logits = r->buffer, .offset = offset};
    noc_gather g = {.kind = NOC_GATHER_LOGITS,
                    .classes = v->channels,
                    .windows = &window,
                    .window_count = 1,
                    .element_bytes = 4};
    for (int a = 0; a < 3; a++) {
        g.grid[a] = v->grid[a];
        g.upsample[a] = plan->upsample[a];
        g.window[a] = g.to[a] = (int64_t)v->grid[a] * plan->upsample[a];
    }
    g.out_step[2] = 1;
    g.out_step[1] = g.to[2];
    g.out_step[0] = g.to[1] * g.to[2];
    g.out_class_step = g.to[0] * g.out_step[0];
    float *out = malloc((size_t)(g.out_class_step * v->channels) * sizeof *out);
    g.out = out;
    ck_assert_int_eq(noc_cpu_ops.gather(r->device, &g, NULL), NOC_OK);
    return out;
}

/* Largest difference of out [channels][grid] to a golden tensor sampled at a stride, over the tensor's
 * largest value. */
static double error_of(const noc_tensor *tensor, const float *out, const int64_t grid[3])
{
    size_t count = noc_tensor_count(tensor), at = 0;
    int64_t stride = (grid[2] + tensor->shape[3] - 1) / tensor->shape[3];
    float *expected = malloc(count * sizeof *expected);
    double worst = 0, largest = 0;
    ck_assert_int_eq(noc_tensor_floats(tensor, 0, count, expected, NULL), NOC_OK);
    for (int a = 0; a < 3; a++)
        ck_assert_int_eq((grid[a] + stride - 1) / stride, tensor->shape[a + 1]);
    for (int64_t c = 0; c < tensor->shape[0]; c++)
        for (int64_t d = 0; d < grid[0]; d += stride)
            for (int64_t h = 0; h < grid[1]; h += stride)
                for (int64_t w = 0; w < grid[2]; w += stride, at++) {
                    double x = (double)out[((c * grid[0] + d) * grid[1] + h) * grid[2] + w];
                    largest = fmax(largest, fabs((double)expected[at]));
                    double difference = fabs(x - (double)expected[at]);
                    worst = difference > worst || isnan(difference) ? difference : worst;
                }
    free(expected);
    return worst / largest;
}

static void check_stages(const rig *r, const noc_plan *plan, const noc_safetensors *file, const char *what)
{
    static const char *const names[] = {"c1", "c2", "c3", "c4"};
    for (int s = 0; s < NOC_STAGES; s++) {
        const noc_tensor *tensor = noc_safetensors_find(file, names[s]);
        if (!tensor)
            continue;
        const noc_value *v = &plan->values[plan->stages[s]];
        int64_t grid[3] = {v->grid[0], v->grid[1], v->grid[2]};
        float *out = malloc((size_t)(grid[0] * grid[1] * grid[2] * v->channels) * sizeof *out);
        ck_assert_int_eq(tensor->shape[0], v->channels);
        ck_assert_int_eq(noc_cpu_ops.network_read(r->network, plan->stages[s], out, NULL), NOC_OK);
        double error = error_of(tensor, out, grid);
        ck_assert_msg(error <= 2e-5, "%s %s: error %g", what, names[s], error);
        free(out);
    }
}

static void check_golden(const golden *file, unsigned rewrites, bool keep_stages)
{
    noc_safetensors *expected = open_golden(file->name, "");
    noc_plan *plan = plan_of(file, rewrites, keep_stages);
    float *input = formula_input(file, 0);
    const noc_value *v = &plan->values[plan->logits];
    const noc_tensor *tensor = noc_safetensors_find(expected, "logits");
    if (!tensor)
        tensor = noc_safetensors_find(expected, "logits_strided");
    ck_assert_ptr_nonnull(tensor);
    int64_t size[3];
    for (int a = 0; a < 3; a++)
        size[a] = (int64_t)v->grid[a] * plan->upsample[a];
    for (int s = 0; s < SETS; s++) {
        rig r;
        size_t offset = 3;
        if (!open_rig(&r, sets[s], 2, plan))
            continue;
        const noc_window_input inputs = {.host = input};
        ck_assert_int_eq(noc_cpu_ops.network_run(r.network, 1, &inputs, false, &r.buffer, &offset, NULL),
                         NOC_OK);
        float *logits = full_logits(&r, plan, offset);
        double error = error_of(tensor, logits, size);
        ck_assert_msg(error <= bound_of(sets[s], 2e-5), "%s with %s: error %g", file->name, sets[s], error);
        if (keep_stages && !is_bf16(sets[s]))
            check_stages(&r, plan, expected, file->name);
        free(logits);
        close_rig(&r);
    }
    free(input);
    noc_plan_free(plan);
    noc_safetensors_close(expected);
}

START_TEST(golden_logits)
{
    check_golden(&files[_i], NOC_REWRITE_ALL, true);
    if (files[_i].is_tiny) {
        check_golden(&files[_i], NOC_REWRITE_ALL, false);
        check_golden(&files[_i], 0, true);
    }
}
END_TEST

/* Logits on the decoder's grid with those rewrites; NULL when this machine lacks the instruction set. */
static float *logits_with(const golden *file, unsigned rewrites, const char *isa, size_t *count)
{
    noc_plan *plan = plan_of(file, rewrites, false);
    float *input = formula_input(file, 4), *out = NULL;
    const noc_window_input inputs = {.host = input};
    size_t offset = 0;
    rig r;
    if (open_rig(&r, isa, 2, plan)) {
        *count = r.floats;
        out = malloc(r.floats * sizeof *out);
        ck_assert_int_eq(noc_cpu_ops.network_run(r.network, 1, &inputs, false, &r.buffer, &offset, NULL),
                         NOC_OK);
        ck_assert_int_eq(noc_cpu_ops.network_read(r.network, plan->logits, out, NULL), NOC_OK);
        close_rig(&r);
    }
    free(input);
    noc_plan_free(plan);
    return out;
}

/* Each set of rewrites against none: for the small networks on every instruction set, for the large ones,
 * with all rewrites, on the best. */
START_TEST(rewrites)
{
    static const unsigned some[] = {NOC_REWRITE_ALL, 1, 2, 4, 8, 16, 1 | 4};
    const golden *file = &files[_i];
    for (int s = 0; s < (file->is_tiny ? SETS : 1); s++) {
        const char *isa = file->is_tiny ? sets[s] : NULL;
        size_t count = 0;
        float *plain = logits_with(file, 0, isa, &count);
        for (size_t i = 0; plain && i < (file->is_tiny ? sizeof some / sizeof some[0] : 1); i++) {
            float *out = logits_with(file, some[i], isa, &count);
            double worst = 0, largest = 0;
            for (size_t k = 0; k < count; k++) {
                double difference = fabs((double)out[k] - (double)plain[k]);
                worst = difference > worst || isnan(difference) ? difference : worst;
                largest = fmax(largest, fabs((double)plain[k]));
            }
            ck_assert_msg(worst <= bound_of(isa, 5e-6) * largest, "%s, rewrites %u, %s: %g of %g", file->name,
                          some[i], isa ? isa : "the best", worst, largest);
            free(out);
        }
        free(plain);
    }
}
END_TEST

/* Three windows in one batch, alone, and with other numbers of threads: the same bits. */
START_TEST(batch_and_threads)
{
    noc_plan *plan = plan_of(&files[1], NOC_REWRITE_ALL, false);
    float *windows[ROOM];
    noc_window_input inputs[ROOM] = {0};
    for (int b = 0; b < ROOM; b++)
        inputs[b].host = windows[b] = formula_input(&files[1], (uint32_t)b);
    for (int s = 0; s < SETS; s++) {
        float *first[ROOM] = {NULL};
        for (int threads = 1; threads <= 4; threads++) {
            rig r;
            if (!open_rig(&r, sets[s], threads, plan))
                break;
            noc_buffer *const output[ROOM] = {r.buffer, r.buffer, r.buffer};
            const size_t offset[ROOM] = {r.floats, 0, 2 * r.floats};
            int step = threads % 2 ? ROOM : 1;
            for (int b = 0; b < ROOM; b += step)
                ck_assert_int_eq(
                    noc_cpu_ops.network_run(r.network, step, inputs + b, false, output + b, offset + b, NULL),
                    NOC_OK);
            for (int b = 0; b < ROOM; b++) {
                float *out = full_logits(&r, plan, offset[b]);
                size_t bytes = r.floats * 64 * sizeof(float);
                if (first[b]) {
                    ck_assert_mem_eq(first[b], out, bytes);
                    free(out);
                } else {
                    first[b] = out;
                }
            }
            close_rig(&r);
        }
        ck_assert(!first[0] || memcmp(first[0], first[1], 64) != 0);
        for (int b = 0; b < ROOM; b++)
            free(first[b]);
    }
    for (int b = 0; b < ROOM; b++)
        free(windows[b]);
    noc_plan_free(plan);
}
END_TEST

START_TEST(buffer_too_small)
{
    noc_plan *plan = plan_of(&files[0], NOC_REWRITE_ALL, false);
    float *input = formula_input(&files[0], 0);
    const noc_window_input inputs = {.host = input};
    rig r;
    ck_assert(open_rig(&r, "portable", 1, plan));
    size_t offset = 2 * r.floats + 1;
    ck_assert_int_eq(noc_cpu_ops.network_run(r.network, 1, &inputs, false, &r.buffer, &offset, NULL),
                     NOC_EINTERNAL);
    close_rig(&r);
    free(input);
    noc_plan_free(plan);
}
END_TEST

/* The published network with random weights and its window of 4 x 128^3, as the program plans it. */
static noc_plan *published_plan(void)
{
    const golden *file = &files[7];
    const noc_network_config config = config_of(file);
    noc_plan *plan = NULL;
    noc_error err;
    ck_assert_msg(reference_network_plan(&config, file->window, false, 7, &plan, &err) == NOC_OK, "%s",
                  err.text);
    return plan;
}

/* What a window needs beside the weights. False when this machine lacks the instruction set. */
static bool memory_of(const noc_plan *plan, const char *isa, int threads, noc_network_memory *memory)
{
    rig r;
    if (!open_rig(&r, isa, threads, plan))
        return false;
    noc_cpu_ops.network_memory(r.network, memory);
    close_rig(&r);
    return true;
}

/* In f32, at one and two threads; and what each of many threads adds. */
START_TEST(memory_of_the_published_network)
{
    enum { MANY = 64 };
    noc_plan *plan = published_plan();
    for (int s = 1; s < SETS; s++) {
        noc_network_memory one, two, many;
        if (!memory_of(plan, sets[s], 1, &one) || !memory_of(plan, sets[s], 2, &two) ||
            !memory_of(plan, sets[s], MANY, &many))
            continue;
        ck_assert_uint_gt(one.scratch, 0);
        ck_assert_uint_gt(two.scratch, one.scratch);
        ck_assert_msg(two.arena + two.scratch <= 120000000, "%s: %zu + %zu bytes", sets[s], two.arena,
                      two.scratch);
        ck_assert_uint_lt(two.arena, plan->arena_floats * sizeof(float));
        ck_assert_uint_eq(many.arena, one.arena);
        ck_assert_uint_eq(many.weights, one.weights);
        ck_assert_msg((many.scratch - one.scratch) / (MANY - 1) <= 4 << 20, "%s: %zu bytes for %d threads",
                      sets[s], many.scratch, MANY);
    }
    noc_plan_free(plan);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("network");
    TCase *tests = tcase_create("network");
    tcase_set_timeout(tests, 600);
    tcase_add_loop_test(tests, golden_logits, 0, getenv("NOC_REFERENCE_DIR") ? FILES : COMMITTED);
    tcase_add_loop_test(tests, rewrites, 0, getenv("NOC_REFERENCE_DIR") ? FILES : COMMITTED);
    tcase_add_test(tests, batch_and_threads);
    tcase_add_test(tests, buffer_too_small);
    tcase_add_test(tests, memory_of_the_published_network);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
