/* Whole networks on the CUDA device against the CPU device in f32: logits and stages in half precision, for
 * the published widths and for uneven ones, and which kernels run where. The device is emulated. */
#include "engine/device.h"
#include "tests/launches.h"
#include "tests/reference_weights.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

/* Structs of the kernels' parameters. */
enum { GEMM, ATTENTION, MIXFFN, CONV, END, DECODER, FUSED };
enum { GENERAL_ATTENTION = FUSED, PRODUCT, TOKENS, DEPTHWISE, ALL, KINDS };
static const char *const parameters[KINDS] = {
    "noc_cuda_gemm",
    "noc_cuda_fused_attention",
    "noc_cuda_mixffn",
    "noc_cuda_conv",
    "noc_cuda_end",
    "noc_cuda_decoder",
    "noc_cuda_attention",
    "noc_cuda_product",
    "noc_cuda_tokens",
    "noc_cuda_depthwise",
    "",
};

typedef struct sample {
    const char *name;
    noc_network_config network;
    int64_t window[3];
    int launches[KINDS]; /* of a batch in half precision */
} sample;

#define CUBES(a, b, c, d)                                                                                    \
    {                                                                                                        \
        {a, a, a}, {b, b, b}, {c, c, c},                                                                     \
        {                                                                                                    \
            d, d, d                                                                                          \
        }                                                                                                    \
    }
#define PUBLISHED                                                                                            \
    {                                                                                                        \
        .in_channels = 4, .num_classes = 3, .embed_dims = {32, 64, 160, 256}, .num_heads = {1, 2, 5, 8},     \
        .depths = {2, 2, 2, 2}, .sr_ratios = {4, 2, 1, 1}, .mlp_ratios = {4, 4, 4, 4}, .decoder_dim = 256,   \
        .patch_kernel = CUBES(7, 3, 3, 3), .patch_stride = CUBES(4, 2, 2, 2),                                \
        .patch_padding = CUBES(3, 1, 1, 1)                                                                   \
    }

static const sample samples[] = {
    {"published", PUBLISHED, {32, 32, 32}, {26, 8, 8, 8, 11, 1, 0, 0, 0, 0}},
    {"published, uneven window", PUBLISHED, {37, 45, 29}, {26, 8, 8, 7, 11, 1, 0, 1, 1, 0}},
    /* 720 keys of a head of 8 with scores of their own; heads of 64, 40 and 24; a stem that differs by axis
     */
    {"many keys",
     {.in_channels = 2,
      .num_classes = 2,
      .embed_dims = {8, 64, 80, 24},
      .num_heads = {1, 1, 2, 1},
      .depths = {1, 1, 1, 1},
      .sr_ratios = {1, 1, 1, 1},
      .mlp_ratios = {2, 2, 1, 4},
      .decoder_dim = 48,
      .patch_kernel = {{3, 7, 7}, {3, 3, 3}, {1, 3, 3}, {3, 2, 3}},
      .patch_stride = {{2, 4, 4}, {2, 1, 2}, {1, 2, 2}, {2, 2, 1}},
      .patch_padding = {{1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}}},
     {17, 35, 40},
     {13, 4, 4, 4, 2, 1, 0, 0, 0, 0}},
    /* heads of 16, 48, 56 and 32; reductions of normed tokens of 16 channels and, by themselves, of 48; a
     * stem that only the general kernel takes */
    {"other heads",
     {.in_channels = 1,
      .num_classes = 5,
      .embed_dims = {16, 48, 112, 32},
      .num_heads = {1, 1, 2, 1},
      .depths = {2, 1, 1, 1},
      .sr_ratios = {3, 2, 1, 1},
      .mlp_ratios = {3, 1, 2, 2},
      .decoder_dim = 40,
      .patch_kernel = CUBES(3, 3, 2, 3),
      .patch_stride = CUBES(2, 2, 2, 2),
      .patch_padding = CUBES(1, 1, 0, 1)},
     {15, 21, 26},
     {15, 5, 5, 6, 3, 1, 0, 1, 2, 0}},
    /* widths that no half precision kernel takes, beside ones that they do */
    {"narrow and wide",
     {.in_channels = 3,
      .num_classes = 4,
      .embed_dims = {12, 24, 36, 72},
      .num_heads = {1, 3, 3, 1},
      .depths = {1, 1, 1, 1},
      .sr_ratios = {2, 2, 1, 1},
      .mlp_ratios = {2, 2, 2, 2},
      .decoder_dim = 20,
      .patch_kernel = CUBES(5, 3, 3, 3),
      .patch_stride = CUBES(3, 2, 2, 2),
      .patch_padding = CUBES(2, 1, 1, 1)},
     {14, 27, 22},
     {5, 1, 2, 1, 0, 0, 3, 23, 16, 2}},
    {"odd",
     {.in_channels = 2,
      .num_classes = 3,
      .embed_dims = {6, 10, 12, 9},
      .num_heads = {1, 2, 3, 3},
      .depths = {1, 2, 1, 1},
      .sr_ratios = {2, 3, 1, 1},
      .mlp_ratios = {2, 3, 1, 4},
      .decoder_dim = 9,
      .patch_kernel = {{3, 7, 7}, {3, 3, 3}, {1, 3, 3}, {3, 2, 3}},
      .patch_stride = {{2, 4, 4}, {2, 1, 2}, {1, 2, 2}, {2, 2, 1}},
      .patch_padding = {{1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}}},
     {15, 21, 25},
     {0, 0, 0, 0, 0, 0, 5, 39, 23, 5}},
};
enum { SAMPLES = sizeof samples / sizeof samples[0] };

static size_t floats_of(const noc_plan *plan, int value)
{
    const noc_value *v = &plan->values[value];
    return (size_t)v->grid[0] * (size_t)v->grid[1] * (size_t)v->grid[2] * (size_t)v->channels;
}

static noc_plan *plan_of(const sample *s, noc_attention_scale scale, bool keep_stages)
{
    noc_network_config config = s->network;
    noc_plan *plan = NULL;
    noc_error err = {0};
    config.attention_scale = scale;
    ck_assert_msg(reference_network_plan(&config, s->window, keep_stages, 3, &plan, &err) == NOC_OK, "%s: %s",
                  s->name, err.text);
    return plan;
}

static float *random_input(const noc_plan *plan)
{
    size_t count = floats_of(plan, 0);
    float *input = malloc(count * sizeof *input);
    uint64_t state = 5;
    for (size_t i = 0; i < count; i++)
        input[i] = (float)reference_random(&state);
    return input;
}

static void count_launches(int launches[KINDS])
{
    for (int k = 0; emu_launches && k < KINDS; k++)
        launches[k] = emu_launches(parameters[k]) - launches[k];
}

/* Runs one window; values[0] the logits, then the stages that the plan keeps, newly allocated. */
static void run(const noc_device_ops *ops, noc_precision precision, const noc_plan *plan, const float *input,
                float *values[1 + NOC_STAGES], int launches[KINDS])
{
    noc_device *device = NULL;
    noc_network *network = NULL;
    noc_buffer *buffer = NULL;
    noc_error err = {0};
    size_t offset = 0;
    ck_assert_msg(ops->open(&(noc_device_options){.threads = 2, .precision = precision}, &device, &err) ==
                      NOC_OK,
                  "%s", err.text);
    ck_assert_msg(ops->network_create(device, plan, 1, NULL, &network, &err) == NOC_OK, "%s", err.text);
    ck_assert_int_eq(ops->buffer_create(device, floats_of(plan, plan->logits) * sizeof(float), &buffer, &err),
                     NOC_OK);
    count_launches(launches);
    ck_assert_msg(ops->network_run(network, 1, &(noc_window_input){.host = input}, true, &buffer, &offset,
                                   &err) == NOC_OK,
                  "%s", err.text);
    count_launches(launches);
    for (int i = 0; i <= NOC_STAGES; i++) {
        int value = i == 0 ? plan->logits : plan->stages[i - 1];
        values[i] = value < 0 ? NULL : malloc(floats_of(plan, value) * sizeof(float));
        if (values[i])
            ck_assert_msg(ops->network_read(network, value, values[i], &err) == NOC_OK, "%s", err.text);
    }
    ops->buffer_free(buffer);
    ops->network_free(network);
    ops->close(device);
}

/* Largest difference over the largest expected value. */
static double error_of(const float *out, const float *expected, size_t count)
{
    double worst = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)out[i] - (double)expected[i]);
        worst = difference > worst || isnan(difference) ? difference : worst;
        largest = fmax(largest, fabs((double)expected[i]));
    }
    return worst / largest;
}

static void check_sample(const sample *s, noc_attention_scale scale, bool keep_stages)
{
    static const noc_precision precisions[] = {NOC_PRECISION_F32, NOC_PRECISION_F16, NOC_PRECISION_BF16};
    static const double bounds[] = {2e-5, 5e-3, 4e-2};
    noc_plan *plan = plan_of(s, scale, keep_stages);
    float *input = random_input(plan), *expected[1 + NOC_STAGES], *out[1 + NOC_STAGES];
    int none[KINDS] = {0};
    run(&noc_cpu_ops, NOC_PRECISION_F32, plan, input, expected, none);
    for (int p = 0; p < 3; p++) {
        int launches[KINDS] = {0};
        run(&noc_cuda_ops, precisions[p], plan, input, out, launches);
        for (int i = 0; i <= NOC_STAGES; i++) {
            int value = i == 0 ? plan->logits : plan->stages[i - 1];
            if (value < 0)
                continue;
            double error = error_of(out[i], expected[i], floats_of(plan, value));
            ck_assert_msg(error <= bounds[p], "%s, %s, scale %d: error %g of %s", s->name,
                          noc_precision_name(precisions[p]), (int)scale, error, plan->values[value].name);
            free(out[i]);
        }
        for (int k = 0; emu_launches && k < ALL; k++)
            if (precisions[p] != NOC_PRECISION_F32 && !keep_stages)
                ck_assert_msg(launches[k] == s->launches[k], "%s: %d launches of %s", s->name, launches[k],
                              parameters[k]);
            else if (precisions[p] == NOC_PRECISION_F32)
                ck_assert_msg(k >= FUSED || launches[k] == 0, "f32: %d launches of %s", launches[k],
                              parameters[k]);
    }
    for (int i = 0; i <= NOC_STAGES; i++)
        free(expected[i]);
    free(input);
    noc_plan_free(plan);
}

START_TEST(networks)
{
    check_sample(&samples[_i], NOC_SCALE_HEAD_DIM, false);
}
END_TEST

/* The old attention scale; and values that are read afterwards are there. */
START_TEST(networks_of_the_old_scale)
{
    check_sample(&samples[_i], NOC_SCALE_NUM_HEADS, true);
}
END_TEST

/* At its own window, the launches of a batch, the two that take windows and give logits among them; the
 * kernels are not run. */
START_TEST(launches_of_the_published_network)
{
    static const sample own = {"published", PUBLISHED, {128, 128, 128}, {26, 8, 8, 8, 8, 1, 0, 0, 0, 0, 61}};
    if (!emu_launches)
        return;
    setenv("EMU_RUN", "0", 1);
    noc_plan *plan = plan_of(&own, NOC_SCALE_HEAD_DIM, false);
    float *input = random_input(plan), *out[1 + NOC_STAGES];
    int launches[KINDS] = {0};
    run(&noc_cuda_ops, NOC_PRECISION_F16, plan, input, out, launches);
    for (int k = 0; k < ALL; k++)
        ck_assert_msg(launches[k] == own.launches[k], "%d launches of %s", launches[k], parameters[k]);
    ck_assert_int_le(launches[ALL], own.launches[ALL]);
    free(out[0]);
    free(input);
    noc_plan_free(plan);
    unsetenv("EMU_RUN");
}
END_TEST

/* The tensor cores are not what else computes: measured for themselves. */
START_TEST(limits_of_half_precision)
{
    static const noc_precision precisions[] = {NOC_PRECISION_F16, NOC_PRECISION_BF16};
    for (int p = 0; p < 2; p++) {
        noc_device *device = NULL;
        noc_device_limits l;
        noc_device_options options = {.threads = 1, .precision = precisions[p]};
        ck_assert_int_eq(noc_cuda_ops.open(&options, &device, NULL), NOC_OK);
        ck_assert_int_eq(noc_cuda_ops.limits(device, &l, NULL), NOC_OK);
        ck_assert(isfinite(l.product_flops) && isfinite(l.vector_flops) && isfinite(l.bytes_per_second));
        ck_assert(l.product_flops > 0 && l.vector_flops > 0 && l.bytes_per_second > 0);
        ck_assert(l.product_flops != l.vector_flops);
        noc_cuda_ops.close(device);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_network");
    TCase *tests = tcase_create("cuda_network");
    tcase_set_timeout(tests, 600);
    tcase_add_test(tests, limits_of_half_precision);
    tcase_add_test(tests, launches_of_the_published_network);
    tcase_add_loop_test(tests, networks, 0, SAMPLES);
    suite_add_tcase(suite, tests);
    TCase *again = tcase_create("cuda_network_again");
    tcase_set_tags(again, "again");
    tcase_set_timeout(again, 600);
    tcase_add_loop_test(again, networks_of_the_old_scale, 0, SAMPLES);
    suite_add_tcase(suite, again);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
